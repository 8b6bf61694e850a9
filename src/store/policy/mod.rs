//! Eviction policies: one file each, behind this seam.
//!
//! A policy decides on single items and keeps nothing of its own but ghosts: what it knows of an item are the four bits
//! in the item's index entry and the queue its segment is in. The store owns the flow (`reclaim.rs`): it asks where a
//! new item goes (`admit`), tells of hits, asks which queue to reclaim from and what becomes of each item in the oldest
//! segment there (`judge`), and tells which items went.

mod ghosts;
mod lru;
mod s3_fifo;

pub(super) use self::ghosts::Ghosts;
use super::options::PolicyKind;
use super::segments::Memory;

/// Number of queues; a policy may use only one.
pub(super) const QUEUES: usize = 2;
/// The main queue: where items live that proved themselves, or all of them.
pub(super) const MAIN: u8 = 0;
/// The probationary queue of policies that have one.
pub(super) const SMALL: u8 = 1;

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
}

/// How much memory the queues hold.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Occupancy {
    /// Bytes of live items in each queue, blocks included.
    pub(super) live_bytes: [u64; QUEUES],
    /// Live items.
    pub(super) items: usize,
    /// Bytes that items can take in all.
    pub(super) capacity_bytes: u64,
    /// Segments that must stay free for others.
    pub(super) segments_kept: usize,
}

/// The policy of one store.
pub(super) enum Policy {
    /// See `s3_fifo.rs`.
    S3Fifo(s3_fifo::S3Fifo),
    /// See `lru.rs`.
    Lru(lru::Lru),
    /// Nothing is evicted.
    None,
}

impl Policy {
    /// The policy that `kind` names.
    pub(super) fn new(kind: PolicyKind) -> Self {
        match kind {
            PolicyKind::S3Fifo => Self::S3Fifo(s3_fifo::S3Fifo::default()),
            PolicyKind::Lru => Self::Lru(lru::Lru),
            PolicyKind::None => Self::None,
        }
    }

    /// Whether live items may be evicted at all.
    pub(super) fn evicts(&self) -> bool {
        !matches!(self, Self::None)
    }

    /// The queue of a new item, and its policy bits.
    pub(super) fn admit(&mut self, memory: &mut Memory, hash: u64, occupancy: &Occupancy) -> (u8, u8) {
        match self {
            Self::S3Fifo(policy) => policy.admit(memory, hash, occupancy),
            Self::Lru(_) | Self::None => (MAIN, 0),
        }
    }

    /// The policy bits after a hit.
    #[inline]
    pub(super) fn hit(&self, bits: u8) -> u8 {
        match self {
            Self::S3Fifo(_) => s3_fifo::hit(bits),
            Self::Lru(_) => lru::hit(bits),
            Self::None => bits,
        }
    }

    /// The queue to reclaim from.
    pub(super) fn victim_queue(&self, occupancy: &Occupancy) -> u8 {
        match self {
            Self::S3Fifo(_) => s3_fifo::victim_queue(occupancy),
            Self::Lru(_) | Self::None => MAIN,
        }
    }

    /// What becomes of an item in the oldest segment of `queue`.
    #[inline]
    pub(super) fn judge(&self, queue: u8, bits: u8) -> Verdict {
        match self {
            Self::S3Fifo(_) => s3_fifo::judge(queue, bits),
            Self::Lru(_) => lru::judge(bits),
            Self::None => Verdict::Keep { queue, bits },
        }
    }

    /// An item of `queue` was evicted.
    pub(super) fn evicted(&mut self, memory: &mut Memory, queue: u8, hash: u64, occupancy: &Occupancy) {
        match self {
            Self::S3Fifo(policy) => policy.evicted(memory, queue, hash, occupancy),
            Self::Lru(_) | Self::None => {}
        }
    }
}
