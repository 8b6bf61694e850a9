//! The requests of one connection that wait for their replies: a fixed number of slots, none allocated per request.
//!
//! Protocols with request ids name the slot in the reply. Protocols that answer in order take the oldest: their slots are
//! a ring, used one after the other.

use crate::work::Ask;

/// The slots of one connection; as many as its pipeline is deep.
#[derive(Debug)]
pub(crate) struct InFlight {
    slots: Box<[Option<Waiting>]>,
    places: Places,
}

/// Which slots are taken.
#[derive(Debug)]
enum Places {
    /// Those from `oldest` on, `taken` of them, around the end.
    InOrder { oldest: u32, taken: u32 },
    /// All but these.
    Free(Vec<u32>),
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
        let places = if ordered {
            Places::InOrder { oldest: 0, taken: 0 }
        } else {
            Places::Free((0..depth as u32).rev().collect())
        };
        Self { slots: vec![None; depth].into_boxed_slice(), places }
    }

    /// Whether another request may be sent.
    #[inline]
    pub(crate) fn has_room(&self) -> bool {
        self.len() < self.slots.len()
    }

    /// How many requests wait.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        match &self.places {
            Places::InOrder { taken, .. } => *taken as usize,
            Places::Free(free) => self.slots.len() - free.len(),
        }
    }

    /// Takes a slot for a request; `None` when all are taken.
    #[inline]
    pub(crate) fn enter(&mut self, waiting: Waiting) -> Option<u32> {
        let depth = self.slots.len() as u32;
        let slot = match &mut self.places {
            Places::InOrder { taken, .. } if *taken == depth => return None,
            Places::InOrder { oldest, taken } => {
                let slot = *oldest + *taken;
                *taken += 1;
                if slot < depth { slot } else { slot - depth }
            }
            Places::Free(free) => free.pop()?,
        };
        self.slots[slot as usize] = Some(waiting);
        Some(slot)
    }

    /// The slot that has waited longest (ordered protocols only).
    #[inline]
    pub(crate) fn oldest(&self) -> Option<(u32, &Waiting)> {
        let Places::InOrder { oldest, .. } = self.places else { return None };
        Some((oldest, self.at(oldest)?))
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
        match &mut self.places {
            Places::InOrder { oldest, taken } => {
                debug_assert_eq!(*oldest, slot, "an ordered protocol answers the oldest request");
                *taken -= 1;
                *oldest = if slot + 1 == self.slots.len() as u32 { 0 } else { slot + 1 };
            }
            Places::Free(free) => free.push(slot),
        }
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
    fn ordered_slots_go_around_the_end() {
        let mut in_flight = InFlight::new(3, true);
        let enter = |in_flight: &mut InFlight, key| in_flight.enter(waiting(key)).expect("room");
        enter(&mut in_flight, 0);
        for key in 1..100 {
            enter(&mut in_flight, key);
            let (slot, oldest) = in_flight.oldest().expect("two wait");
            assert_eq!(oldest, &waiting(key - 1));
            assert_eq!(in_flight.leave(slot), Some(waiting(key - 1)));
            assert_eq!((in_flight.len(), in_flight.has_room()), (1, true));
        }
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
