//! What a store is made with, and why making one may fail.

use std::fmt;
use std::str::FromStr;

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
    /// Least recently used first.
    Lru,
    /// Nothing is evicted: writes that find no room are refused.
    None,
}

impl PolicyKind {
    /// Every policy.
    pub const ALL: &[Self] = &[Self::S3Fifo, Self::Lru, Self::None];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::S3Fifo => "s3-fifo",
            Self::Lru => "lru",
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
