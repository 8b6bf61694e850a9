//! Versions: each vnode's term and the sequence of its last write.
//!
//! A flush is one write in every vnode; it is counted once here, and each vnode makes up for it at its next write.

use quoit_wire::Version;
use quoit_wire::topology::vnode_of;

/// The vnodes' terms and sequences.
pub(super) struct Versions {
    vnodes: Vec<VnodeVersion>,
    vnode_bits: u8,
    flushes: u32,
}

#[derive(Clone, Copy)]
struct VnodeVersion {
    /// Under which this store owns the vnode; [`NOT_OWNED`] otherwise.
    term: u32,
    /// Flushes that are part of `sequence`.
    flushes: u32,
    sequence: u64,
}

const NOT_OWNED: u32 = u32::MAX;

impl Versions {
    /// No vnode is owned.
    pub(super) fn new(vnode_bits: u8) -> Self {
        let unowned = VnodeVersion { term: NOT_OWNED, flushes: 0, sequence: 0 };
        Self { vnodes: vec![unowned; 1 << vnode_bits], vnode_bits, flushes: 0 }
    }

    /// Owns `vnode` from now on, with no write yet.
    pub(super) fn own(&mut self, vnode: usize, term: u32) {
        assert!(term <= Version::TERM_MAX, "a term has 24 bits");
        self.vnodes[vnode] = VnodeVersion { term, flushes: self.flushes, sequence: 0 };
    }

    /// Owns `vnode` no longer.
    pub(super) fn disown(&mut self, vnode: usize) {
        self.vnodes[vnode].term = NOT_OWNED;
    }

    /// An owned vnode's last write was number `sequence`.
    pub(super) fn resume(&mut self, vnode: usize, sequence: u64) {
        assert!(sequence <= Version::SEQUENCE_MAX, "a sequence has 40 bits");
        self.vnodes[vnode].sequence = sequence;
    }

    /// Owned vnodes and the numbers of their last writes, flushes included.
    pub(super) fn sequences(&self) -> impl Iterator<Item = (usize, u64)> {
        let flushes = self.flushes;
        let owned = self.vnodes.iter().enumerate().filter(|(_, vnode)| vnode.term != NOT_OWNED);
        owned.map(move |(number, vnode)| (number, vnode.sequence + u64::from(flushes.wrapping_sub(vnode.flushes))))
    }

    /// Whether the vnode of `hash` is owned.
    #[inline]
    pub(super) fn owns(&self, hash: u64) -> bool {
        self.vnodes[vnode_of(hash, self.vnode_bits)].term != NOT_OWNED
    }

    /// The version that the next write in the vnode of `hash` will have.
    #[inline]
    pub(super) fn next(&self, hash: u64) -> Version {
        let vnode = &self.vnodes[vnode_of(hash, self.vnode_bits)];
        assert!(vnode.term != NOT_OWNED, "the store does not own the vnode of this key");
        Version::new(vnode.term, vnode.sequence + u64::from(self.flushes.wrapping_sub(vnode.flushes)) + 1)
    }

    /// The write that [`Self::next`] told the version of has happened.
    #[inline]
    pub(super) fn advance(&mut self, hash: u64) -> Version {
        let version = self.next(hash);
        let vnode = &mut self.vnodes[vnode_of(hash, self.vnode_bits)];
        (vnode.sequence, vnode.flushes) = (version.sequence(), self.flushes);
        version
    }

    /// The version of an item written as number `sequence` in the vnode of `hash`.
    #[inline]
    pub(super) fn of(&self, hash: u64, sequence: u64) -> Version {
        Version::new(self.vnodes[vnode_of(hash, self.vnode_bits)].term, sequence)
    }

    /// Every vnode was flushed.
    pub(super) fn flush(&mut self) {
        self.flushes = self.flushes.wrapping_add(1);
    }
}
