//! Versions: each vnode's terms, the sequence of its last write, and what copies it has elsewhere.
//!
//! A flush of the whole store is one write in every vnode; it is counted once here, and each vnode makes up for it at
//! its next write. Sequences go on rising when the term changes, so an item keeps its sequence alone: a short table of
//! where each term began gives its term back.

use quoit_wire::Version;
use quoit_wire::topology::vnode_of;

use super::arena::prefetch;

/// Terms that a vnode remembers. Older ones fold into the oldest that is left: items written under them then carry that
/// term, so a condition on their version fails, as it would for an item written anew.
pub const TERMS_MAX: usize = 16;

/// Where a term of a vnode began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TermStart {
    /// The term.
    pub term: u32,
    /// The first sequence written under it.
    pub first_sequence: u64,
}

/// What this store's items of a vnode are to the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VnodeRole {
    /// The only copy: nobody is told what leaves.
    #[default]
    Alone,
    /// The copy that others follow: evictions are writes, numbered and reported.
    Followed,
    /// A copy that follows: nothing is evicted from it here, its primary decides that.
    Following,
}

/// The vnodes' terms and sequences.
pub(super) struct Versions {
    vnodes: Vec<VnodeVersion>,
    /// Where each term began, oldest first, the present one included; of vnodes marked [`MANY_TERMS`] alone.
    terms: Vec<Vec<TermStart>>,
    vnode_bits: u8,
    flushes: u32,
    /// Whether any vnode ever had another role than [`VnodeRole::Alone`].
    has_roles: bool,
}

#[derive(Clone, Copy)]
struct VnodeVersion {
    /// The present term, with marks above its 24 bits; [`NOT_OWNED`] where this store does not own the vnode.
    marked_term: u32,
    /// Flushes that are part of `sequence`.
    flushes: u32,
    sequence: u64,
}

const NOT_OWNED: u32 = u32::MAX;
/// Mark: some items were written under an earlier term.
const MANY_TERMS: u32 = 1 << 24;
/// Marks of [`VnodeRole`].
const FOLLOWED: u32 = 1 << 25;
const FOLLOWING: u32 = 1 << 26;

impl VnodeVersion {
    const UNOWNED: Self = Self { marked_term: NOT_OWNED, flushes: 0, sequence: 0 };

    #[inline]
    const fn term(self) -> u32 {
        self.marked_term & Version::TERM_MAX
    }
}

impl Versions {
    /// No vnode is owned.
    pub(super) fn new(vnode_bits: u8) -> Self {
        let vnodes = vec![VnodeVersion::UNOWNED; 1 << vnode_bits];
        Self { vnodes, terms: Vec::new(), vnode_bits, flushes: 0, has_roles: false }
    }

    /// Owns `vnode` from now on, with no write yet.
    pub(super) fn own(&mut self, vnode: usize, term: u32) {
        assert!(term <= Version::TERM_MAX, "a term has 24 bits");
        self.vnodes[vnode] = VnodeVersion { marked_term: term, flushes: self.flushes, sequence: 0 };
    }

    /// Owns `vnode` no longer.
    pub(super) fn disown(&mut self, vnode: usize) {
        self.vnodes[vnode] = VnodeVersion::UNOWNED;
    }

    /// An owned vnode's last write was number `sequence`.
    pub(super) fn resume(&mut self, vnode: usize, sequence: u64) {
        assert!(sequence <= Version::SEQUENCE_MAX, "a sequence has 40 bits");
        self.vnodes[vnode].sequence = sequence;
    }

    /// Owned vnodes and the numbers of their last writes, flushes included.
    pub(super) fn sequences(&self) -> impl Iterator<Item = (usize, u64)> {
        let flushes = self.flushes;
        let owned = self.vnodes.iter().enumerate().filter(|(_, vnode)| vnode.marked_term != NOT_OWNED);
        owned.map(move |(number, vnode)| (number, vnode.sequence + u64::from(flushes.wrapping_sub(vnode.flushes))))
    }

    /// Whether the vnode of `hash` is owned.
    #[inline]
    pub(super) fn owns(&self, hash: u64) -> bool {
        self.vnodes[vnode_of(hash, self.vnode_bits)].marked_term != NOT_OWNED
    }

    /// The version that the next write in the vnode of `hash` will have.
    #[inline]
    pub(super) fn next(&self, hash: u64) -> Version {
        let vnode = &self.vnodes[vnode_of(hash, self.vnode_bits)];
        assert!(vnode.marked_term != NOT_OWNED, "the store does not own the vnode of this key");
        Version::new(vnode.term(), vnode.sequence + u64::from(self.flushes.wrapping_sub(vnode.flushes)) + 1)
    }

    /// The write that [`Self::next`] told the version of has happened.
    #[inline]
    pub(super) fn advance(&mut self, hash: u64) -> Version {
        let version = self.next(hash);
        let vnode = &mut self.vnodes[vnode_of(hash, self.vnode_bits)];
        (vnode.sequence, vnode.flushes) = (version.sequence(), self.flushes);
        version
    }

    /// Asks the processor for what the versions of the vnode of `hash` are made from.
    #[inline]
    pub(super) fn prefetch(&self, hash: u64) {
        prefetch(&raw const self.vnodes[vnode_of(hash, self.vnode_bits)]);
    }

    /// The version of an item written as number `sequence` in the vnode of `hash`.
    #[inline]
    pub(super) fn of(&self, hash: u64, sequence: u64) -> Version {
        self.of_vnode(vnode_of(hash, self.vnode_bits), sequence)
    }

    /// The version of an item written as number `sequence` in `vnode`.
    #[inline(always)]
    pub(super) fn of_vnode(&self, vnode: usize, sequence: u64) -> Version {
        let at = self.vnodes[vnode];
        if at.marked_term & MANY_TERMS != 0 {
            return self.of_many_terms(vnode, sequence);
        }
        // An item's sequence never has more bits; that it has not need not be asserted anew for every read.
        Version::new(at.term(), sequence & Version::SEQUENCE_MAX)
    }

    #[cold]
    #[inline(never)]
    fn of_many_terms(&self, vnode: usize, sequence: u64) -> Version {
        Version::new(self.term_of(vnode, sequence), sequence)
    }

    /// Every vnode was flushed.
    pub(super) fn flush(&mut self) {
        self.flushes = self.flushes.wrapping_add(1);
    }

    /// The sequence of the last write in `vnode`.
    #[inline]
    pub(super) fn sequence(&self, vnode: usize) -> u64 {
        let at = self.vnodes[vnode];
        at.sequence + u64::from(self.flushes.wrapping_sub(at.flushes))
    }

    /// The next write in `vnode` has the number after `sequence`.
    pub(super) fn set_sequence(&mut self, vnode: usize, sequence: u64) {
        let flushes = self.flushes;
        let at = &mut self.vnodes[vnode];
        (at.sequence, at.flushes) = (sequence, flushes);
    }

    /// Under which term write number `sequence` of `vnode` was made; zero where that is not known any more.
    pub(super) fn term_of(&self, vnode: usize, sequence: u64) -> u32 {
        let at = self.vnodes[vnode];
        if at.marked_term == NOT_OWNED {
            return 0;
        }
        if at.marked_term & MANY_TERMS == 0 {
            return if sequence == 0 { 0 } else { at.term() };
        }
        let began_before = self.terms[vnode].iter().rev().find(|start| start.first_sequence <= sequence);
        began_before.map_or(0, |start| start.term)
    }

    /// Where each term of `vnode` that is remembered began, oldest first.
    pub(super) fn terms(&self, vnode: usize) -> Vec<TermStart> {
        let at = self.vnodes[vnode];
        match at.marked_term {
            NOT_OWNED => Vec::new(),
            marked if marked & MANY_TERMS != 0 => self.terms[vnode].clone(),
            _ => vec![TermStart { term: at.term(), first_sequence: 1 }],
        }
    }

    /// From now on writes in `vnode` are numbered under the last of `terms`, which say where each began, oldest first.
    pub(super) fn set_terms(&mut self, vnode: usize, terms: &[TermStart]) {
        let oldest = terms.len().saturating_sub(TERMS_MAX);
        let mut kept = terms[oldest..].to_vec();
        let Some(last) = kept.last().copied() else { return };
        assert!(last.term <= Version::TERM_MAX, "a term has 24 bits");
        if oldest > 0 {
            kept[0].first_sequence = terms[0].first_sequence;
        }
        let at = &mut self.vnodes[vnode];
        assert!(at.marked_term != NOT_OWNED, "the store does not own the vnode");
        let roles = at.marked_term & (FOLLOWED | FOLLOWING);
        let is_single = kept.len() == 1 && last.first_sequence <= 1;
        at.marked_term = last.term | roles | if is_single { 0 } else { MANY_TERMS };
        if !is_single {
            self.terms.resize_with(self.vnodes.len(), Vec::new);
            self.terms[vnode] = kept;
        }
    }

    /// What this store's copy of `vnode` is from now on.
    pub(super) fn set_role(&mut self, vnode: usize, role: VnodeRole) {
        let at = &mut self.vnodes[vnode];
        assert!(at.marked_term != NOT_OWNED, "the store does not own the vnode");
        let mark = match role {
            VnodeRole::Alone => 0,
            VnodeRole::Followed => FOLLOWED,
            VnodeRole::Following => FOLLOWING,
        };
        at.marked_term = at.marked_term & !(FOLLOWED | FOLLOWING) | mark;
        self.has_roles |= mark != 0;
    }

    /// What the copy is that the item with this hash belongs to.
    #[inline]
    pub(super) fn role(&self, hash: u64) -> VnodeRole {
        if !self.has_roles {
            return VnodeRole::Alone;
        }
        match self.vnodes[vnode_of(hash, self.vnode_bits)].marked_term {
            NOT_OWNED => VnodeRole::Alone,
            marked if marked & FOLLOWED != 0 => VnodeRole::Followed,
            marked if marked & FOLLOWING != 0 => VnodeRole::Following,
            _ => VnodeRole::Alone,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(term: u32, first_sequence: u64) -> TermStart {
        TermStart { term, first_sequence }
    }

    #[test]
    fn an_item_keeps_the_term_it_was_written_under() {
        let mut versions = Versions::new(0);
        versions.own(0, 5);
        for _ in 0..10 {
            versions.advance(0);
        }
        versions.set_terms(0, &[start(5, 1), start(8, 11)]);
        assert_eq!(versions.advance(0), Version::new(8, 11));
        assert_eq!(versions.of(0, 10), Version::new(5, 10));
        assert_eq!(versions.of(0, 11), Version::new(8, 11));
        assert_eq!(versions.term_of(0, 0), 0);
        versions.disown(0);
        assert_eq!(versions.term_of(0, 7), 0, "of a vnode that is not here nothing is known");
    }

    #[test]
    fn the_oldest_terms_fold_and_no_version_comes_up_twice() {
        let mut versions = Versions::new(0);
        versions.own(0, 1);
        let terms: Vec<_> = (0..40).map(|number| start(1 + number, 1 + 10 * u64::from(number))).collect();
        versions.set_terms(0, &terms);
        assert_eq!(versions.terms(0).len(), TERMS_MAX);
        assert_eq!(versions.of(0, 400), Version::new(40, 400));
        assert_eq!(versions.of(0, 3).term(), 25, "folded into the oldest that is left");
        let seen: std::collections::BTreeSet<_> = (1..=400).map(|sequence| versions.of(0, sequence)).collect();
        assert_eq!(seen.len(), 400);
    }
}
