//! Blocks: the 8 KiB pieces in which large values lie.
//!
//! A segment of blocks holds sixteen. Any free block serves any large value, so overwriting and evicting large values
//! leaves no holes that only some sizes fit; when segments run short, the blocks of the emptiest segment move to others
//! (`reclaim.rs`). Each block knows the hash of its owner's key, by which the item that lists it is found.
//! A block is reserved while its value is still arriving: then it stays where it is, because a socket writes to it.

use super::segments::{BLOCK_BYTES, BLOCKS_PER_SEGMENT, Chain, Memory, NO_SEGMENT, Role, SegmentId};

/// Number of a block: its offset in the arena in blocks.
pub(super) type BlockId = u32;

/// Segments looked at for one that is not pinned.
const UNPINNED_SEARCH_MAX: usize = 4;

/// Where a block begins in the arena.
#[inline]
pub(super) const fn block_start(block: BlockId) -> usize {
    block as usize * BLOCK_BYTES
}

/// The segment a block is in.
#[inline]
pub(super) const fn segment_of_block(block: BlockId) -> SegmentId {
    block / BLOCKS_PER_SEGMENT as u32
}

/// All blocks of one store.
pub(super) struct Blocks {
    /// Segments by the number of their blocks in use.
    by_used: [Chain; BLOCKS_PER_SEGMENT + 1],
    /// Segments of before the last flush that were not looked at since.
    flushed: Chain,
    /// Hash of the key whose value is in the block; zeros come from the kernel untouched, so unused ones cost nothing.
    owners: Vec<u64>,
    used: usize,
    reserved: usize,
    flush_epoch: u32,
}

impl Blocks {
    /// No blocks yet, in an arena of `segments` segments.
    pub(super) fn new(segments: usize) -> Self {
        Self {
            by_used: [Chain::default(); BLOCKS_PER_SEGMENT + 1],
            flushed: Chain::default(),
            owners: vec![0; (segments + 1) * BLOCKS_PER_SEGMENT],
            used: 0,
            reserved: 0,
            flush_epoch: 0,
        }
    }

    /// Blocks in use, reserved ones included.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// Blocks that could be taken without another segment, pinned ones included.
    pub(super) fn vacant(&self, memory: &Memory) -> usize {
        memory.segments.role_count(Role::Blocks) * BLOCKS_PER_SEGMENT - self.used
    }

    /// Takes a block of a segment that already holds others (the fullest, not `except`), reserved.
    pub(super) fn take(&mut self, memory: &mut Memory, except: SegmentId) -> Option<BlockId> {
        self.release_flushed(memory, 1);
        for used in (1..BLOCKS_PER_SEGMENT).rev() {
            let mut id = self.by_used[used].head;
            for _ in 0..UNPINNED_SEARCH_MAX {
                if id == NO_SEGMENT {
                    break;
                }
                if id != except && !memory.segments.is_pinned(id) {
                    return Some(self.take_in(memory, id));
                }
                id = memory.segments.get(id).next;
            }
        }
        None
    }

    /// Takes the first block of a new segment, reserved.
    pub(super) fn take_segment(&mut self, memory: &mut Memory) -> Option<BlockId> {
        let id = memory.segments.take(Role::Blocks, self.flush_epoch)?;
        memory.segments.push_back(&mut self.by_used[0], id);
        Some(self.take_in(memory, id))
    }

    /// A reserved block now belongs to the item with this `hash`.
    pub(super) fn publish(&mut self, memory: &mut Memory, block: BlockId, hash: u64) {
        self.bring_up_to_date(memory, segment_of_block(block));
        let segment = memory.segments.get_mut(segment_of_block(block));
        segment.blocks_reserved &= !bit(block);
        self.owners[block as usize] = hash;
        self.reserved -= 1;
    }

    /// Gives a block back, reserved or not.
    pub(super) fn give(&mut self, memory: &mut Memory, block: BlockId) {
        let id = segment_of_block(block);
        self.bring_up_to_date(memory, id);
        let segment = memory.segments.get_mut(id);
        assert!(segment.blocks_used & bit(block) != 0, "a block is given back once");
        let used = segment.blocks_used.count_ones() as usize;
        self.reserved -= usize::from(segment.blocks_reserved & bit(block) != 0);
        segment.blocks_used &= !bit(block);
        segment.blocks_reserved &= !bit(block);
        self.used -= 1;
        memory.segments.unlink(&mut self.by_used[used], id);
        memory.segments.push_back(&mut self.by_used[used - 1], id);
        self.free_if_empty(memory, id);
    }

    /// Frees a segment without blocks in use; not while it is pinned.
    pub(super) fn free_if_empty(&mut self, memory: &mut Memory, id: SegmentId) {
        self.bring_up_to_date(memory, id);
        let segment = memory.segments.get(id);
        if segment.role == Role::Blocks && segment.blocks_used == 0 && !memory.segments.is_pinned(id) {
            memory.segments.unlink(&mut self.by_used[0], id);
            memory.segments.give(id);
        }
    }

    /// The segment with the fewest blocks in use that can move, and one of them with its owner's hash.
    pub(super) fn emptiest(&self, memory: &Memory) -> Option<(SegmentId, BlockId, u64)> {
        for used in 1..BLOCKS_PER_SEGMENT {
            let mut id = self.by_used[used].head;
            for _ in 0..UNPINNED_SEARCH_MAX {
                if id == NO_SEGMENT {
                    break;
                }
                let segment = memory.segments.get(id);
                if segment.blocks_reserved == 0 && !memory.segments.is_pinned(id) {
                    let block = id * BLOCKS_PER_SEGMENT as u32 + segment.blocks_used.trailing_zeros();
                    return Some((id, block, self.owners[block as usize]));
                }
                id = segment.next;
            }
        }
        None
    }

    /// Every published block is empty from now on.
    pub(super) fn flush(&mut self, memory: &mut Memory) {
        self.flush_epoch = self.flush_epoch.wrapping_add(1);
        for chain in &mut self.by_used {
            memory.segments.splice(&mut self.flushed, chain);
        }
        self.used = self.reserved;
    }

    /// Looks at up to `segments_max` segments of before the last flush; whether there are more.
    pub(super) fn release_flushed(&mut self, memory: &mut Memory, segments_max: usize) -> bool {
        for _ in 0..segments_max {
            match self.flushed.head {
                NO_SEGMENT => return false,
                id => self.free_if_empty(memory, id),
            }
        }
        self.flushed.head != NO_SEGMENT
    }

    fn take_in(&mut self, memory: &mut Memory, id: SegmentId) -> BlockId {
        let segment = memory.segments.get_mut(id);
        let used = segment.blocks_used.count_ones() as usize;
        let block = id * BLOCKS_PER_SEGMENT as u32 + segment.blocks_used.trailing_ones();
        segment.blocks_used |= bit(block);
        segment.blocks_reserved |= bit(block);
        memory.segments.unlink(&mut self.by_used[used], id);
        memory.segments.push_back(&mut self.by_used[used + 1], id);
        self.used += 1;
        self.reserved += 1;
        block
    }

    /// Applies a flush to a segment that was not looked at since: only reserved blocks survive it.
    fn bring_up_to_date(&mut self, memory: &mut Memory, id: SegmentId) {
        let segment = memory.segments.get_mut(id);
        if segment.role != Role::Blocks || segment.flush_epoch == self.flush_epoch {
            return;
        }
        segment.flush_epoch = self.flush_epoch;
        segment.blocks_used = segment.blocks_reserved;
        let used = segment.blocks_used.count_ones() as usize;
        memory.segments.unlink(&mut self.flushed, id);
        memory.segments.push_back(&mut self.by_used[used], id);
    }
}

fn bit(block: BlockId) -> u16 {
    1 << (block % BLOCKS_PER_SEGMENT as u32)
}

const _: () = assert!(BLOCKS_PER_SEGMENT == u16::BITS as usize);
