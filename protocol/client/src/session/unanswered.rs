//! The requests of one connection that are not answered: their ids, and their order of sending.
//!
//! Ids carry a generation, so an answer that comes twice is noticed rather than given to the next request. The places are
//! linked in the order of sending, because answers come in any: the oldest one is known at no cost.

use super::slab::Key;
use crate::time::Instant;

/// The unanswered of one connection.
#[derive(Debug)]
pub(super) struct Unanswered {
    slots: Vec<Slot>,
    free: Vec<u16>,
    oldest: u16,
    newest: u16,
    /// The oldest one that is not wholly written.
    unwritten: u16,
}

/// A place among the unanswered.
///
/// ```text
/// id   31        16 15         0
///     ┌────────────┬────────────┐
///     │ generation │ slot + 1   │
///     └────────────┴────────────┘
/// ```
#[derive(Clone, Copy, Debug)]
struct Slot {
    generation: u16,
    entry: Option<Key>,
    older: u16,
    newer: u16,
    /// Where its last byte lies among all that are ever written.
    end: u64,
    written_at: Instant,
}

/// No slot: a connection has fewer.
const NOWHERE: u16 = u16::MAX;

impl Unanswered {
    pub(super) const fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), oldest: NOWHERE, newest: NOWHERE, unwritten: NOWHERE }
    }

    pub(super) const fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Adds the newest request; returns its id. Where it ends is said next.
    pub(super) fn add(&mut self, entry: Key, now: Instant) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            let slot =
                Slot { generation: 0, entry: None, older: NOWHERE, newer: NOWHERE, end: u64::MAX, written_at: now };
            self.slots.push(slot);
            (self.slots.len() - 1) as u16
        });
        let older = self.newest;
        let slot = self.at(index);
        (slot.entry, slot.older, slot.newer, slot.end) = (Some(entry), older, NOWHERE, u64::MAX);
        let id = u32::from(slot.generation) << 16 | (u32::from(index) + 1);
        match older {
            NOWHERE => self.oldest = index,
            older => self.at(older).newer = index,
        }
        self.newest = index;
        if self.unwritten == NOWHERE {
            self.unwritten = index;
        }
        id
    }

    /// Where the newest request ends among all bytes that are ever written.
    pub(super) fn end_newest(&mut self, end: u64) {
        self.at(self.newest).end = end;
    }

    /// So many bytes have been written in all.
    pub(super) fn handle_written(&mut self, bytes: u64, now: Instant) {
        while self.unwritten != NOWHERE {
            let slot = self.at(self.unwritten);
            if slot.end > bytes {
                return;
            }
            slot.written_at = now;
            self.unwritten = slot.newer;
        }
    }

    /// Takes out the request with this id; none where no such request is unanswered.
    pub(super) fn take(&mut self, id: u32) -> Option<Key> {
        let index = u16::try_from((id & 0xffff).checked_sub(1)?).ok()?;
        let slot = self.slots.get_mut(usize::from(index)).filter(|slot| u32::from(slot.generation) == id >> 16)?;
        let entry = slot.entry.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        let (older, newer) = (slot.older, slot.newer);
        match older {
            NOWHERE => self.oldest = newer,
            older => self.at(older).newer = newer,
        }
        match newer {
            NOWHERE => self.newest = older,
            newer => self.at(newer).older = older,
        }
        if self.unwritten == index {
            self.unwritten = newer;
        }
        self.free.push(index);
        Some(entry)
    }

    /// When the oldest request was wholly written; none while it is not, or there is none.
    pub(super) fn oldest_written_at(&self) -> Option<Instant> {
        let is_written = self.oldest != self.unwritten;
        self.slots.get(usize::from(self.oldest)).filter(|_| is_written).map(|slot| slot.written_at)
    }

    /// All of them, in the order of sending.
    pub(super) fn iter(&self) -> impl Iterator<Item = Key> {
        let slot = |index: u16| self.slots.get(usize::from(index));
        std::iter::successors(slot(self.oldest), move |last| slot(last.newer)).filter_map(|slot| slot.entry)
    }

    fn at(&mut self, index: u16) -> &mut Slot {
        &mut self.slots[usize::from(index)]
    }
}

#[cfg(test)]
mod tests {
    use super::super::slab::Slab;
    use super::*;

    #[test]
    fn answers_in_any_order_leave_the_others_in_theirs() {
        let mut keys = Slab::new();
        let mut unanswered = Unanswered::new();
        let at = Instant::from_origin;
        let (first, later) = (at(std::time::Duration::from_millis(1)), at(std::time::Duration::from_millis(2)));
        let mut add = |unanswered: &mut Unanswered, end| {
            let key = keys.insert(());
            let id = unanswered.add(key, first);
            unanswered.end_newest(end);
            (id, key)
        };
        let sent: Vec<(u32, Key)> = (1..=5).map(|number| add(&mut unanswered, number * 10)).collect();
        let left = |unanswered: &Unanswered| unanswered.iter().collect::<Vec<_>>();
        assert_eq!(unanswered.oldest_written_at(), None);
        unanswered.handle_written(25, first);
        assert_eq!(unanswered.take(sent[1].0), Some(sent[1].1));
        assert_eq!(unanswered.take(sent[1].0), None, "it was answered");
        // One that is refused before it is wholly written.
        assert_eq!(unanswered.take(sent[2].0), Some(sent[2].1));
        assert_eq!(left(&unanswered), [sent[0].1, sent[3].1, sent[4].1]);
        assert_eq!(unanswered.oldest_written_at(), Some(first));
        unanswered.handle_written(45, later);
        assert_eq!(unanswered.take(sent[0].0), Some(sent[0].1));
        assert_eq!(unanswered.oldest_written_at(), Some(later));
        assert_eq!(unanswered.take(sent[3].0), Some(sent[3].1));
        assert_eq!(unanswered.oldest_written_at(), None, "the last byte of the fifth is missing");
        let (id, key) = add(&mut unanswered, 60);
        assert!(sent.iter().all(|(used, _)| *used != id), "a place is used again under another id");
        assert_eq!((left(&unanswered), unanswered.len()), (vec![sent[4].1, key], 2));
        assert_eq!((unanswered.take(0), unanswered.take(77)), (None, None));
    }
}
