//! The requests of one connection that wait for their replies: a fixed number of slots, none allocated per request.
//!
//! Protocols with request ids name the slot in the reply; protocols that answer in order take the oldest.

use std::collections::VecDeque;

use crate::work::Ask;

/// The slots of one connection; as many as its pipeline is deep.
#[derive(Debug)]
pub(crate) struct InFlight {
    slots: Box<[Option<Waiting>]>,
    free: Vec<u32>,
    order: VecDeque<u32>,
    ordered: bool,
}

/// A request that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// What was asked.
    pub(crate) ask: Ask,
    /// When it should have been sent; latency counts from here.
    pub(crate) intended_ns: u64,
}

impl InFlight {
    /// `depth` free slots; `ordered` for a protocol without request ids.
    pub(crate) fn new(depth: usize, ordered: bool) -> Self {
        Self {
            slots: vec![None; depth].into_boxed_slice(),
            free: (0..depth as u32).rev().collect(),
            order: VecDeque::with_capacity(depth),
            ordered,
        }
    }

    /// Whether another request may be sent.
    #[inline]
    pub(crate) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// How many requests wait.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Takes a slot for a request; `None` when all are taken.
    #[inline]
    pub(crate) fn enter(&mut self, waiting: Waiting) -> Option<u32> {
        let slot = self.free.pop()?;
        self.slots[slot as usize] = Some(waiting);
        if self.ordered {
            self.order.push_back(slot);
        }
        Some(slot)
    }

    /// The slot that has waited longest (ordered protocols only).
    #[inline]
    pub(crate) fn oldest(&self) -> Option<(u32, &Waiting)> {
        let slot = *self.order.front()?;
        Some((slot, self.slots[slot as usize].as_ref()?))
    }

    /// The request in a slot that a reply named; `None` when nobody waits there.
    #[inline]
    pub(crate) fn at(&self, slot: u32) -> Option<&Waiting> {
        self.slots.get(slot as usize)?.as_ref()
    }

    /// Frees a slot whose reply has come.
    #[inline]
    pub(crate) fn leave(&mut self, slot: u32) -> Option<Waiting> {
        let waiting = self.slots.get_mut(slot as usize)?.take()?;
        if self.ordered {
            let oldest = self.order.pop_front();
            debug_assert_eq!(oldest, Some(slot), "an ordered protocol answers the oldest request");
        }
        self.free.push(slot);
        Some(waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::Op;

    fn waiting(key: u64) -> Waiting {
        Waiting { ask: Ask::of(Op::Get, key), intended_ns: key }
    }

    #[test]
    fn ordered_slots_come_back_oldest_first() {
        let mut in_flight = InFlight::new(2, true);
        let first = in_flight.enter(waiting(1)).expect("room");
        let second = in_flight.enter(waiting(2)).expect("room");
        assert_eq!(in_flight.enter(waiting(3)), None, "the depth is a limit");
        assert_eq!(in_flight.oldest(), Some((first, &waiting(1))));
        assert_eq!(in_flight.leave(first), Some(waiting(1)));
        assert_eq!(in_flight.oldest(), Some((second, &waiting(2))));
        assert_eq!(in_flight.len(), 1);
    }

    #[test]
    fn named_slots_may_come_back_in_any_order_and_only_once() {
        let mut in_flight = InFlight::new(2, false);
        let first = in_flight.enter(waiting(1)).expect("room");
        let second = in_flight.enter(waiting(2)).expect("room");
        assert_eq!(in_flight.leave(second), Some(waiting(2)));
        assert_eq!(in_flight.leave(second), None, "a second reply to the same request is nobody's");
        assert_eq!(in_flight.at(first), Some(&waiting(1)));
        assert_eq!(in_flight.at(99), None);
    }
}
