//! What a store is made with, and why making one may fail.

use std::fmt;
use std::str::FromStr;

use quoit_wire::limits::VALUE_BYTES_MAX;
use quoit_wire::topology::VNODE_BITS_MAX;

use super::segments::{ARENA_BYTES_MAX, SEGMENT_BYTES};

/// Fewest segments that work: those kept free, the open ones, and enough others that policies have a choice.
const SEGMENTS_MIN: usize = 64;
/// Heap beside the arena for each vnode: its table, its version.
const BOOK_BYTES_PER_VNODE: usize = 64;
/// Heap beside the arena: one byte in so many, for segments' books (72 bytes in 128 KiB) and the index's lists of pages
/// (20 bytes for a page of 4 KiB).
const BOOKS_PART: usize = 128;
/// The largest value is at most one in so many bytes of the memory.
const VALUE_PART: usize = 8;

/// How one core's store is set up. Everything is fixed for the store's life.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The hard cap of this core's store in bytes: items, index and the policy's bookkeeping together.
    pub memory_bytes: usize,
    /// Largest value that is taken; at most an eighth of `memory_bytes`.
    pub value_bytes_max: usize,
    /// Who has to go when memory is full.
    pub policy: PolicyKind,
    /// The hash space is cut into `2^vnode_bits` vnodes.
    pub vnode_bits: u8,
    /// The topology's seed, with which callers hash their keys. The store hashes keys anew when it walks a segment.
    pub hash_seed: u64,
}

/// The eviction policies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PolicyKind {
    /// S3-FIFO (Yang et al., SOSP 2023): a small probationary queue, a main queue, and ghosts.
    #[default]
    S3Fifo,
    /// Least recently used first, approximately.
    Lru,
    /// Least frequently used first, with ageing.
    Lfu,
    /// SIEVE (Zhang et al., NSDI 2024): a queue and a hand.
    Sieve,
    /// Soonest expiry first.
    Ttl,
    /// Nothing is evicted: writes that find no room are refused.
    None,
}

impl PolicyKind {
    /// Every policy.
    pub const ALL: &[Self] = &[Self::S3Fifo, Self::Lru, Self::Lfu, Self::Sieve, Self::Ttl, Self::None];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::S3Fifo => "s3-fifo",
            Self::Lru => "lru",
            Self::Lfu => "lfu",
            Self::Sieve => "sieve",
            Self::Ttl => "ttl",
            Self::None => "none",
        }
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is none of [`PolicyKind::ALL`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no eviction policy is called {0:?}; there are {names}", names = PolicyKind::ALL.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", "))]
pub struct UnknownPolicy(pub String);

impl FromStr for PolicyKind {
    type Err = UnknownPolicy;

    fn from_str(name: &str) -> Result<Self, UnknownPolicy> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name).ok_or_else(|| UnknownPolicy(name.to_owned()))
    }
}

impl StoreOptions {
    /// Segments of the arena that these options give, after what lies beside it: the books of segments and vnodes.
    pub(super) fn segments(&self) -> Result<usize, StoreError> {
        if self.vnode_bits > VNODE_BITS_MAX {
            return Err(StoreError::VnodeBits { given: self.vnode_bits, limit: VNODE_BITS_MAX });
        }
        let given_bytes = self.memory_bytes;
        let beside_bytes = (BOOK_BYTES_PER_VNODE << self.vnode_bits) + given_bytes / BOOKS_PART;
        let needed_bytes = (SEGMENTS_MIN * SEGMENT_BYTES + (BOOK_BYTES_PER_VNODE << self.vnode_bits)) / 100 * 101;
        let segments = given_bytes.saturating_sub(beside_bytes) / SEGMENT_BYTES;
        if segments < SEGMENTS_MIN {
            return Err(StoreError::MemoryTooSmall { given_bytes, needed_bytes });
        }
        if (segments + 1) * SEGMENT_BYTES > ARENA_BYTES_MAX {
            return Err(StoreError::MemoryTooLarge { given_bytes, limit_bytes: ARENA_BYTES_MAX });
        }
        let limit_bytes = (given_bytes / VALUE_PART).min(VALUE_BYTES_MAX);
        if self.value_bytes_max > limit_bytes {
            return Err(StoreError::ValuesTooLarge { given_bytes: self.value_bytes_max, limit_bytes });
        }
        Ok(segments)
    }
}

/// Why a store can't be made.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Less memory than the structures need.
    #[error("{given_bytes} bytes of memory per core are too few: give at least {needed_bytes}")]
    MemoryTooSmall {
        /// What the options say.
        given_bytes: usize,
        /// The least that works with these options.
        needed_bytes: usize,
    },
    /// More memory than an index entry can address.
    #[error(
        "{given_bytes} bytes of memory per core are too many: one core addresses at most {limit_bytes}; use more cores"
    )]
    MemoryTooLarge {
        /// What the options say.
        given_bytes: usize,
        /// The most that works.
        limit_bytes: usize,
    },
    /// A value could be larger than an eighth of the memory.
    #[error(
        "values of {given_bytes} bytes don't fit: with this memory per core the largest value is {limit_bytes} bytes"
    )]
    ValuesTooLarge {
        /// What the options say.
        given_bytes: usize,
        /// The most that works.
        limit_bytes: usize,
    },
    /// More vnodes than the topology allows.
    #[error("{given} vnode bits are more than the {limit} there may be")]
    VnodeBits {
        /// What the options say.
        given: u8,
        /// The most there may be.
        limit: u8,
    },
    /// The kernel did not find the memory.
    #[error("the kernel found no memory for {bytes} bytes: {source}; give less --memory, or leave --prefault out")]
    Prefault {
        /// Bytes asked for.
        bytes: usize,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The kernel refused the mapping.
    #[error(
        "the kernel refused to map {bytes} bytes: {source}; check the memory limits (ulimit -v, cgroup) and overcommit"
    )]
    Map {
        /// Length of the mapping.
        bytes: usize,
        /// What the kernel said.
        source: std::io::Error,
    },
}
