//! Eviction policies: one file each, behind this seam.
//!
//! A policy decides on single items and keeps nothing of its own but ghosts: what it knows of an item are the four bits
//! in the item's index entry and the queue its segment is in. The store owns the flow (`reclaim.rs`): it asks where a
//! new item goes (`admit`), tells of hits, asks which segment to reclaim (`victim`) and what becomes of each item in it
//! (`judge`), and tells which items went.
//!
//! ```text
//!              old end                                 young end
//! s3-fifo      small  ■──■──□ ◄── new items
//!                     │ two hits: to main; else: ghost
//!              main   ■──■──■──■──■──■──□ ◄── from small, known ghosts, and round again while hit
//! lfu          small  ■──■──■──■──□ ◄── new items
//!                     │ a hit: to main; else: gone
//!              main   ■──■──■──■──□ ◄── from small, and round again while hit; reclaimed when small is short
//! lru          ■──■──■──■──■──■──■──■──□ ◄── new items, and round again while hit
//! sieve        ■──■──■──■──■──■──■──■──□ ◄── new items; hit ones stay in their place
//!                       ▲ hand ──►
//! ttl          the segment that ends first, then the oldest; what is in it goes
//! ```

mod ghosts;
mod lfu;
mod lru;
mod none;
mod s3_fifo;
mod sieve;
mod ttl;

pub(super) use self::ghosts::Ghosts;
use super::options::PolicyKind;
use super::segments::Memory;

/// Number of queues; a policy may use only one.
pub(super) const QUEUES: usize = 2;
/// The main queue: where items live that proved themselves, or all of them.
pub(super) const MAIN: u8 = 0;
/// The probationary queue of policies that have one.
pub(super) const SMALL: u8 = 1;

/// Which segment is reclaimed next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Victim {
    /// The oldest of this queue.
    Oldest(u8),
    /// The one at the hand, which moves on.
    AtHand,
    /// The one whose items end first; without expiries the oldest.
    SoonestExpiry,
}

/// What becomes of an item whose segment is reclaimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes.
    Evict,
    /// It moves to the young end of `queue`, with these policy bits.
    Keep {
        /// The queue it belongs to from now on.
        queue: u8,
        /// Its policy bits from now on.
        bits: u8,
    },
    /// It keeps its place in the queue, with these policy bits.
    Stay {
        /// Its policy bits from now on.
        bits: u8,
    },
}

/// How much memory the queues hold.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Occupancy {
    /// Bytes of live items in each queue, blocks included.
    pub(super) live_bytes: [u64; QUEUES],
    /// Bytes that items can take in all.
    pub(super) capacity_bytes: u64,
    /// Segments that must stay free for others.
    pub(super) segments_kept: usize,
}

/// An item that comes or goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    pub(super) hash: u64,
    /// Its bytes, blocks included.
    pub(super) bytes: usize,
}

/// The policy of one store.
#[expect(clippy::large_enum_variant, reason = "there is one for each store")]
pub(super) enum Policy {
    /// See `s3_fifo.rs`.
    S3Fifo(s3_fifo::S3Fifo),
    /// See `lru.rs`.
    Lru,
    /// See `lfu.rs`.
    Lfu,
    /// See `sieve.rs`.
    Sieve,
    /// See `ttl.rs`.
    Ttl,
    /// See `none.rs`.
    None,
}

impl Policy {
    /// The policy that `kind` names.
    pub(super) fn new(kind: PolicyKind) -> Self {
        match kind {
            PolicyKind::S3Fifo => Self::S3Fifo(s3_fifo::S3Fifo::default()),
            PolicyKind::Lru => Self::Lru,
            PolicyKind::Lfu => Self::Lfu,
            PolicyKind::Sieve => Self::Sieve,
            PolicyKind::Ttl => Self::Ttl,
            PolicyKind::None => Self::None,
        }
    }

    /// Whether live items may be evicted at all.
    pub(super) fn evicts(&self) -> bool {
        !matches!(self, Self::None)
    }

    /// Asks the processor for what [`Self::admit`] and [`Self::evicted`] will look at.
    #[inline]
    pub(super) fn prefetch(&self, memory: &Memory, hash: u64) {
        if let Self::S3Fifo(policy) = self {
            policy.prefetch(memory, hash);
        }
    }

    /// The queue of a new item, and its policy bits.
    pub(super) fn admit(&mut self, memory: &mut Memory, item: Item, occupancy: &Occupancy) -> (u8, u8) {
        match self {
            Self::S3Fifo(policy) => policy.admit(memory, item, occupancy),
            Self::Lfu => (SMALL, 0),
            Self::Lru | Self::Sieve | Self::Ttl | Self::None => (MAIN, 0),
        }
    }

    /// Hits of an item are counted in its policy bits, up to this many.
    pub(super) const fn hits_max(&self) -> u8 {
        match self {
            Self::S3Fifo(_) => s3_fifo::HITS_MAX,
            Self::Lru => lru::HITS_MAX,
            Self::Lfu => lfu::HITS_MAX,
            Self::Sieve => sieve::HITS_MAX,
            Self::Ttl => ttl::HITS_MAX,
            Self::None => none::HITS_MAX,
        }
    }

    /// The segment to reclaim.
    pub(super) fn victim(&self, occupancy: &Occupancy) -> Victim {
        match self {
            Self::S3Fifo(_) => Victim::Oldest(s3_fifo::victim_queue(occupancy)),
            Self::Lfu => Victim::Oldest(lfu::victim_queue(occupancy)),
            Self::Lru => Victim::Oldest(MAIN),
            Self::Sieve => Victim::AtHand,
            Self::Ttl => ttl::victim(),
            Self::None => none::victim(),
        }
    }

    /// What becomes of an item in a segment of `queue` that is reclaimed.
    #[inline]
    pub(super) fn judge(&self, queue: u8, bits: u8) -> Verdict {
        match self {
            Self::S3Fifo(_) => s3_fifo::judge(queue, bits),
            Self::Lru => lru::judge(bits),
            Self::Lfu => lfu::judge(queue, bits),
            Self::Sieve => sieve::judge(bits),
            Self::Ttl => ttl::judge(),
            Self::None => none::judge(bits),
        }
    }

    /// An item in a segment of `queue` was evicted.
    pub(super) fn evicted(&mut self, memory: &mut Memory, queue: u8, item: Item, occupancy: &Occupancy) {
        match self {
            Self::S3Fifo(policy) => policy.evicted(memory, queue, item, occupancy),
            Self::Lru | Self::Lfu | Self::Sieve | Self::Ttl | Self::None => {}
        }
    }
}
