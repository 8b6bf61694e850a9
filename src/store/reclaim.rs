//! Reclaiming: how segments come back.
//!
//! A *walk* goes through one segment, a batch of items at a time, and does one of three things with each that lives:
//! lets the policy judge it (evict), moves it together with others (compact), or drops it if it has ended (expire).
//! When the last live item has gone, the segment is free. Walks run ahead of need: each write pays for as much of one
//! as it makes necessary, and the background work for more, so a write finds a free segment and never waits for a scan.
//! Dead bytes are compacted before anything alive is evicted.

use quoit_wire::topology::key_hash;

use super::Store;
use super::append::{KEPT_FOR_INDEX, KEPT_FROM_WRITES, OpenKind};
use super::blocks::block_start;
use super::counters::EvictionCause;
use super::departures::DepartureCause;
use super::expiry::Scan;
use super::operation::Progress;
use super::policy::{Item, MAIN, Occupancy, SMALL, Verdict, Victim};
use super::segments::{
    BLOCK_BYTES, BLOCKS_PER_SEGMENT, NEVER_MS, NO_SEGMENT, Role, SEGMENT_BYTES, SegmentId, segment_start,
};
use super::versions::VnodeRole;
use crate::time::Instant;

/// Items of one batch: their index buckets are fetched together. About 2 µs when all of them go; half as many wait twice as
/// often.
const BATCH_ITEMS: usize = 32;
/// Bytes of one batch, where items are long.
const BATCH_BYTES: usize = 32 << 10;
/// How far ahead of a walk its items are fetched: a batch of small ones.
const AHEAD_BYTES: usize = 3 << 10;
/// Batches that one write pays for at most: 15 to 30 µs.
const BATCHES_PER_WRITE_MAX: usize = 8;
/// Segments kept free ahead of need beyond those that writes can't take: one in this many of the arena's ...
const AHEAD_PART: usize = 256;
/// ... and at least and at most this many.
const AHEAD_MIN: usize = 2;
const AHEAD_MAX: usize = 16;
/// Dead bytes may be this part (in hundredths) of the segments of items; above, they are compacted and nothing alive is
/// evicted. Lower keeps more items and copies more: at 10 each freed byte costs about five copied ones.
const DEAD_PERCENT_MAX: u64 = 10;
/// ... and while there are large values, of which one may free a sixteenth of the memory before it is needed. With sets of 100
/// to 300 bytes after values to 16 MiB, at 7 as little as 83 % of the arena was alive at that moment, at 4 it is 86 %, for a
/// fifth more time and a byte more copied for each that is written.
const DEAD_PERCENT_MAX_LARGE: u64 = 4;
/// Bytes of survivors for which a write in need waits before the policy's second chances are ignored.
const SECOND_CHANCE_BYTES_MAX: usize = 4 * SEGMENT_BYTES;
/// Free blocks among those in segments (one in so many) from which on they are compacted before anything is evicted.
/// Smaller keeps blocks empty: at 12 a real trace was found 0.4 points less often. Larger copies more: at 32 that trace has
/// one byte in 150 that is written copied.
const VACANT_BLOCKS_PART: usize = 32;
/// A segment is worth compacting when at least one in so many of its bytes are dead; while there are large values, so that
/// what is dead evenly does not hide from their limit; and when memory is wanted now.
const DEAD_PART_AHEAD: usize = 8;
const DEAD_PART_AHEAD_LARGE: usize = 16;
const DEAD_PART_NOW: usize = 64;
/// Pinned or open segments that are passed over at the old end of a chain.
const PASS_OVER_MAX: usize = 32;
/// Flushed index pages that one step of work gives back.
const SWEEP_PAGES: usize = 4;
/// Flushed segments that one step of work, or a write in need, gives back.
const RELEASE_SEGMENTS: usize = 16;
/// Attempts of one write in need, in batches: a few segments' worth. Past that everything must be pinned.
const ATTEMPTS_MAX: usize = 20_000;

/// What a walk is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The policy judges each item.
    Evict,
    /// Each item moves.
    Compact,
    /// Items that have ended go.
    Expire,
}

/// A walk through one segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk {
    segment: SegmentId,
    /// The next item, as an offset in the segment.
    at: usize,
    purpose: Purpose,
    /// Bounds on the expiries of what stays, for the next time.
    expires_min: u64,
    expires_max: u64,
}

/// An item that a batch looks at.
#[derive(Clone, Copy, Default)]
struct Candidate {
    location: usize,
    hash: u64,
}

impl Store {
    /// Before a write of up to `bytes` bytes: reclaims about as much as it takes while few segments are free, so that it
    /// finds room, and makes sure of it if that is possible at all. What the caller finds afterwards stays where it is.
    #[inline]
    pub(super) fn make_room(&mut self, now: Instant, bytes: usize) {
        let wanted = KEPT_FROM_WRITES + self.segments_ahead();
        if self.memory.segments.free_count() >= wanted {
            self.debt_bytes = 0;
            return;
        }
        self.reclaim_ahead(now, bytes, wanted);
        if self.memory.segments.free_count() > KEPT_FROM_WRITES || self.has_open_room(bytes) {
            return;
        }
        self.second_chance_bytes = 0;
        for _ in 0..ATTEMPTS_MAX {
            if self.memory.segments.free_count() > KEPT_FROM_WRITES || !self.reclaim_batch(now, true) {
                return;
            }
        }
    }

    /// Pays for a write of `bytes` bytes.
    pub(super) fn reclaim_ahead(&mut self, now: Instant, bytes: usize, wanted: usize) {
        // The scarcer, the more each write pays: the reserve is not used up before the walk is through its segment.
        let missing = wanted.saturating_sub(self.memory.segments.free_count());
        let pressure = 1 + 4 * missing / (wanted - KEPT_FROM_WRITES).max(1);
        self.debt_bytes = (self.debt_bytes + bytes * pressure * self.walk_bytes_per_freed()).min(2 * SEGMENT_BYTES);
        for _ in 0..BATCHES_PER_WRITE_MAX {
            let before = self.walked_bytes;
            if self.debt_bytes == 0 || !self.reclaim_batch(now, false) {
                return;
            }
            self.debt_bytes = self.debt_bytes.saturating_sub((self.walked_bytes - before).max(1) as usize);
        }
    }

    /// See [`Store::work`].
    pub(super) fn work_steps(&mut self, now: Instant, steps: usize) -> Progress {
        for _ in 0..steps {
            if self.expire_step(now) || self.flush_step() {
                continue;
            }
            let wanted = KEPT_FROM_WRITES + self.segments_ahead();
            if self.memory.segments.free_count() < wanted && self.reclaim_batch(now, false) {
                continue;
            }
            return Progress::Idle;
        }
        Progress::More
    }

    /// What the policy needs to know of the queues.
    pub(super) fn occupancy(&self) -> Occupancy {
        let segments = &self.memory.segments;
        let others = segments.role_count(Role::Pages) + segments.role_count(Role::Ghosts) + KEPT_FROM_WRITES;
        Occupancy {
            live_bytes: self.live_bytes,
            capacity_bytes: (segments.count().saturating_sub(others) * SEGMENT_BYTES) as u64,
            segments_kept: KEPT_FROM_WRITES,
        }
    }

    /// Whether the bounds on a segment's expiries are just being found anew.
    #[cfg(test)]
    pub(super) fn is_in_expiry_walk(&self, id: SegmentId) -> bool {
        self.expiry_walk.is_some_and(|walk| walk.segment == id)
    }

    /// A segment is no longer what a walk thought it was.
    pub(super) fn forget_walks_in(&mut self, id: SegmentId) {
        for walk in [&mut self.reclaim_walk, &mut self.expiry_walk] {
            if walk.is_some_and(|walk| walk.segment == id) {
                *walk = None;
            }
        }
    }

    /// One batch of reclaiming; whether there was anything to do. When it `is_urgent`, second chances are
    /// few and sparse segments need not be worth their copies.
    pub(super) fn reclaim_batch(&mut self, now: Instant, is_urgent: bool) -> bool {
        if self.flushed.length > 0 && self.release_flushed(RELEASE_SEGMENTS) {
            return true;
        }
        let walk = match self.reclaim_walk {
            Some(walk) => walk,
            None => {
                if self.has_vacant_blocks() && self.move_block() {
                    return true;
                }
                match self.choose_victim(is_urgent) {
                    Some(walk) => walk,
                    None => return false,
                }
            }
        };
        self.reclaim_walk = Some(walk);
        match self.walk_batch(now, walk, is_urgent) {
            // A walk whose segment came free on the way is forgotten already.
            Step::Going(next) if self.reclaim_walk.is_some() => self.reclaim_walk = Some(next),
            Step::Going(_) => {}
            Step::Through(_) => {
                self.reclaim_walk = None;
                self.free_if_dead(walk.segment);
            }
            Step::Stuck => {
                self.reclaim_walk = None;
                return false;
            }
        }
        true
    }

    fn segments_ahead(&self) -> usize {
        (self.memory.segments.count() / AHEAD_PART).clamp(AHEAD_MIN, AHEAD_MAX)
    }

    /// Bytes that must be walked through for each byte that comes free.
    fn walk_bytes_per_freed(&self) -> usize {
        match self.reclaim_walk {
            Some(walk) if walk.purpose == Purpose::Compact => {
                let live = self.memory.segments.get(walk.segment).live as usize;
                // What was walked through has died by now: this falls as the walk goes on, and errs to the safe side.
                (SEGMENT_BYTES / (SEGMENT_BYTES - live.min(SEGMENT_BYTES - 1)).max(SEGMENT_BYTES / 16)).max(1)
            }
            _ => 2,
        }
    }

    /// Whether blocks of large values should move together before anything else is done.
    fn has_vacant_blocks(&self) -> bool {
        let vacant = self.blocks.vacant(&self.memory);
        let all = self.memory.segments.role_count(Role::Blocks) * BLOCKS_PER_SEGMENT;
        vacant >= BLOCKS_PER_SEGMENT && (!self.policy.evicts() || vacant * VACANT_BLOCKS_PART > all)
    }

    fn choose_victim(&mut self, is_urgent: bool) -> Option<Walk> {
        let item_bytes = (self.memory.segments.role_count(Role::Items) * SEGMENT_BYTES) as u64;
        let evicts = self.policy.evicts();
        let (dead_percent_max, dead_part_ahead) = match self.blocks.used() {
            0 => (DEAD_PERCENT_MAX, DEAD_PART_AHEAD),
            _ => (DEAD_PERCENT_MAX_LARGE, DEAD_PART_AHEAD_LARGE),
        };
        if !evicts || self.dead_bytes * 100 > item_bytes * dead_percent_max {
            let dead_part = if is_urgent { DEAD_PART_NOW } else { dead_part_ahead };
            if let Some(walk) = self.sparsest_segment(SEGMENT_BYTES / dead_part) {
                return Some(walk);
            }
        }
        if !evicts {
            return None;
        }
        if self.fruitless_bytes as u64 > item_bytes {
            // A whole round has found only what may not be evicted here. Now and then a segment is tried again.
            self.fruitless_bytes -= SEGMENT_BYTES;
            return None;
        }
        let (chosen, fallback) = match self.policy.victim(&self.occupancy()) {
            Victim::Oldest(queue) => (self.oldest_segment(queue), if queue == MAIN { SMALL } else { MAIN }),
            Victim::AtHand => (self.segment_at_hand(), MAIN),
            // What ends first would be found again and again where it may not be evicted here.
            Victim::SoonestExpiry if self.fruitless_bytes > SECOND_CHANCE_BYTES_MAX => (None, MAIN),
            Victim::SoonestExpiry => (self.segment_ending_first(), MAIN),
        };
        let id = chosen.or_else(|| self.oldest_segment(fallback))?;
        Some(Walk::new(id, Purpose::Evict))
    }

    /// The segment at the hand, which moves on towards the young end and starts over there.
    fn segment_at_hand(&mut self) -> Option<SegmentId> {
        for _ in 0..PASS_OVER_MAX {
            let id = if self.hand == NO_SEGMENT { self.chains[usize::from(MAIN)].head } else { self.hand };
            if id == NO_SEGMENT {
                return None;
            }
            self.hand = self.memory.segments.get(id).next;
            if self.can_be_victim(id) {
                return Some(id);
            }
        }
        None
    }

    fn segment_ending_first(&mut self) -> Option<SegmentId> {
        for _ in 0..PASS_OVER_MAX {
            let id = self.expiry.soonest()?;
            let segment = self.memory.segments.get(id);
            let is_current = segment.role == Role::Items && segment.flush_epoch == self.flush_epoch;
            if is_current && self.can_be_victim(id) {
                return Some(id);
            }
            if is_current && self.memory.segments.is_pinned(id) {
                return None;
            }
            self.expiry.cancel(id);
        }
        None
    }

    /// Whether a segment can be reclaimed; it is closed if it is still open.
    fn can_be_victim(&mut self, id: SegmentId) -> bool {
        if self.memory.segments.is_pinned(id) {
            return false;
        }
        self.close_if_open(id);
        // Closing one in which nothing lives has freed it.
        self.memory.segments.get(id).role == Role::Items
    }

    /// A segment with at least `dead_bytes_min` dead bytes to compact, of all that there are about the one with most.
    fn sparsest_segment(&mut self, dead_bytes_min: usize) -> Option<Walk> {
        loop {
            let id = self.memory.segments.sparsest(dead_bytes_min)?;
            if self.memory.segments.get(id).flush_epoch == self.flush_epoch {
                return Some(Walk::new(id, Purpose::Compact));
            }
            self.memory.segments.forget_candidate(id);
        }
    }

    /// The oldest segment of a queue that can be reclaimed; it is closed if it is still open. Pinned ones go to the
    /// young end.
    fn oldest_segment(&mut self, queue: u8) -> Option<SegmentId> {
        for _ in 0..PASS_OVER_MAX {
            let id = self.chains[usize::from(queue)].head;
            if id == NO_SEGMENT {
                return None;
            }
            if self.memory.segments.is_pinned(id) {
                let chain = &mut self.chains[usize::from(queue)];
                self.memory.segments.unlink(chain, id);
                self.memory.segments.push_back(chain, id);
                continue;
            }
            if self.can_be_victim(id) {
                return Some(id);
            }
        }
        None
    }

    /// Looks at the next items of a walk.
    fn walk_batch(&mut self, now: Instant, mut walk: Walk, is_urgent: bool) -> Step {
        let now_ms = now.as_millis();
        let start = segment_start(walk.segment);
        let written = self.memory.segments.get(walk.segment).written as usize;
        let batch_start = walk.at;
        let mut batch = [Candidate::default(); BATCH_ITEMS];
        let mut candidates = 0;
        while walk.at < written && candidates < BATCH_ITEMS && walk.at - batch_start < BATCH_BYTES {
            let location = start + walk.at;
            self.memory.arena.prefetch((location + AHEAD_BYTES).min(start + SEGMENT_BYTES - 1));
            let header = self.header_at(location);
            walk.at += header.record_bytes();
            if walk.purpose == Purpose::Expire && !header.is_expired(now_ms) {
                if let Some(expires_ms) = header.expires_ms {
                    walk.expires_min = walk.expires_min.min(expires_ms);
                    walk.expires_max = walk.expires_max.max(expires_ms);
                }
                continue;
            }
            let key = self.memory.arena.bytes(location + header.bytes(), header.key_bytes);
            batch[candidates] = Candidate { location, hash: key_hash(self.options.hash_seed, key) };
            candidates += 1;
        }
        // Apart from the loop above, which is long: so the look-ups' misses overlap.
        for candidate in &batch[..candidates] {
            self.prefetch_bucket(candidate.hash);
            if walk.purpose == Purpose::Evict {
                self.policy.prefetch(&self.memory, candidate.hash);
            }
        }
        let blocks_before = self.blocks.used();
        for (number, candidate) in batch[..candidates].iter().enumerate() {
            if !self.decide(now_ms, walk, *candidate, is_urgent) {
                return Step::Stuck;
            }
            // A large value or two free more than was asked for: the rest of the batch may live on for now.
            let freed_bytes = blocks_before.saturating_sub(self.blocks.used()) * BLOCK_BYTES;
            if freed_bytes >= BATCH_BYTES && number + 1 < candidates {
                walk.at = batch[number + 1].location - start;
                break;
            }
        }
        let freed_bytes = blocks_before.saturating_sub(self.blocks.used()) * BLOCK_BYTES;
        self.walked_bytes += (walk.at - batch_start + freed_bytes) as u64;
        if walk.at < written { Step::Going(walk) } else { Step::Through(walk) }
    }

    /// Does with one item what the walk is for; `false` when the walk can't go on for want of memory.
    fn decide(&mut self, now_ms: u64, walk: Walk, candidate: Candidate, is_urgent: bool) -> bool {
        let Candidate { location, hash } = candidate;
        let Some((slot, entry)) = self.index.find_location(&self.memory, hash, location) else {
            return true;
        };
        let header = self.header_at(location);
        if header.is_expired(now_ms) {
            self.drop_expired(hash, slot, location, &header);
            return true;
        }
        let queue = self.memory.segments.get(walk.segment).queue;
        let mut cause = EvictionCause::Policy;
        let mut verdict = match walk.purpose {
            Purpose::Evict => self.policy.judge(queue, entry.policy_bits()),
            Purpose::Compact => Verdict::Stay { bits: entry.policy_bits() },
            Purpose::Expire => return true,
        };
        if walk.purpose == Purpose::Evict && verdict != Verdict::Evict {
            self.second_chance_bytes += header.record_bytes();
            if is_urgent && self.second_chance_bytes > SECOND_CHANCE_BYTES_MAX {
                cause = EvictionCause::Pressure;
                verdict = Verdict::Evict;
            }
        }
        let role = self.versions.role(hash);
        if role == VnodeRole::Following && walk.purpose == Purpose::Evict {
            // Its primary decides what goes. It moves to the main queue's young end, so that what stands behind it has its
            // turn, and the small queue does not count what can't leave it.
            verdict = Verdict::Keep { queue: MAIN, bits: entry.policy_bits() };
            self.fruitless_bytes += header.record_bytes();
        }
        let survival = match verdict {
            Verdict::Evict => None,
            Verdict::Keep { queue, bits } => Some((OpenKind::new(queue, now_ms, header.expires_ms), bits)),
            Verdict::Stay { bits } => {
                Some((OpenKind { is_compacted: true, ..OpenKind::new(queue, now_ms, header.expires_ms) }, bits))
            }
        };
        if let Some((kind, bits)) = survival {
            if self.relocate(hash, (slot, entry), &header, bits, kind, KEPT_FOR_INDEX) {
                return true;
            }
            let may_evict = walk.purpose == Purpose::Evict || (is_urgent && self.policy.evicts());
            if !may_evict || role == VnodeRole::Following {
                return false;
            }
            cause = EvictionCause::Pressure;
        }
        if role == VnodeRole::Followed {
            self.report_eviction(hash, location, &header);
        }
        self.fruitless_bytes = 0;
        self.note_departure(hash, location, &header, DepartureCause::Evicted);
        self.index.remove(&mut self.memory, hash, slot);
        self.retire(location, &header);
        self.counters.count_eviction(cause, hash);
        let occupancy = self.occupancy();
        self.policy.evicted(&mut self.memory, queue, Item { hash, bytes: header.total_bytes() }, &occupancy);
        true
    }

    /// Moves one block from the emptiest segment of blocks to another; whether it did.
    fn move_block(&mut self) -> bool {
        let Some((segment, source, hash)) = self.blocks.emptiest(&self.memory) else {
            return false;
        };
        let Some(target) = self.blocks.take(&mut self.memory, segment) else {
            return false;
        };
        let owner = self.owner_of_block(hash, source);
        let Some((location, header, number)) = owner else {
            debug_assert!(false, "block {source} has no owner");
            self.blocks.give(&mut self.memory, target);
            return false;
        };
        self.memory.arena.copy(block_start(source), block_start(target), BLOCK_BYTES);
        let at = location + header.bytes() + header.key_bytes + header.inline_bytes() + 4 * number;
        self.memory.arena.bytes_mut(at, 4).copy_from_slice(&target.to_le_bytes());
        self.blocks.publish(&mut self.memory, target, hash);
        self.blocks.give(&mut self.memory, source);
        self.counters.copied_bytes += BLOCK_BYTES as u64;
        self.walked_bytes += BLOCK_BYTES as u64;
        true
    }

    /// One step of expiry; whether there was something to do.
    fn expire_step(&mut self, now: Instant) -> bool {
        let walk = match self.expiry_walk {
            Some(walk) => walk,
            None => match self.expiry.scan(now.as_millis(), self.memory.segments.fresh()) {
                Scan::Complete => return false,
                Scan::More => return true,
                Scan::Due(id) => {
                    self.expiry.cancel(id);
                    let segment = self.memory.segments.get(id);
                    if segment.role != Role::Items || segment.flush_epoch != self.flush_epoch {
                        return true;
                    }
                    self.close_if_open(id);
                    if self.memory.segments.get(id).role != Role::Items {
                        // Nothing in it lived, so closing it has freed it.
                        return true;
                    }
                    // The bounds are found anew; expiries that hits move behind the walk's back are noted here meanwhile.
                    let segment = self.memory.segments.get_mut(id);
                    (segment.expires_min, segment.expires_max) = (NEVER_MS, 0);
                    Walk::new(id, Purpose::Expire)
                }
            },
        };
        self.expiry_walk = Some(walk);
        match self.walk_batch(now, walk, false) {
            Step::Going(next) if self.expiry_walk.is_some() => self.expiry_walk = Some(next),
            Step::Through(last) if self.expiry_walk.take().is_some() => {
                let segment = self.memory.segments.get_mut(last.segment);
                segment.expires_min = segment.expires_min.min(last.expires_min);
                segment.expires_max = segment.expires_max.max(last.expires_max);
                let (earliest, latest) = (segment.expires_min, segment.expires_max);
                if earliest != NEVER_MS {
                    self.expiry.schedule(last.segment, earliest, latest);
                }
            }
            // A walk whose segment came free on the way is forgotten already.
            Step::Going(_) | Step::Through(_) | Step::Stuck => {}
        }
        true
    }

    /// One step of giving back what a flush left; whether there was something to do.
    fn flush_step(&mut self) -> bool {
        let released = self.release_flushed(RELEASE_SEGMENTS);
        let blocks = self.blocks.release_flushed(&mut self.memory, RELEASE_SEGMENTS);
        let swept = self.index.sweep_flushed(&mut self.memory, SWEEP_PAGES);
        released || blocks || swept
    }

    /// Frees flushed segments; whether any came free.
    fn release_flushed(&mut self, segments_max: usize) -> bool {
        let mut released = false;
        for _ in 0..segments_max.min(self.flushed.length) {
            let id = self.flushed.head;
            self.memory.segments.unlink(&mut self.flushed, id);
            if self.memory.segments.is_pinned(id) {
                self.memory.segments.push_back(&mut self.flushed, id);
            } else {
                self.memory.segments.give(id);
                self.expiry.cancel(id);
                released = true;
            }
        }
        released
    }
}

/// How a batch left its walk.
enum Step {
    Going(Walk),
    Through(Walk),
    /// Survivors found no room.
    Stuck,
}

impl Walk {
    fn new(segment: SegmentId, purpose: Purpose) -> Self {
        Self { segment, at: 0, purpose, expires_min: NEVER_MS, expires_max: 0 }
    }
}
