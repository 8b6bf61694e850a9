//! The account of a core's buffers: what is held, what is promised, who waits for room, and what may be begun.
//!
//! ```text
//! all that is held     0 ──────────────────────────────── 7/8 ─────── 15/16 ─────── 1    of the core's buffers
//!                      │ frames that are to arrive are     │ bytes are │ replies for │
//!                      │ promised their room               │ received  │ who reads   │
//! received and waiting 0 ─────────────── 1/2
//! ```
//! Each use has its mark, so that what must happen for another to finish always finds room. Replies leave by themselves or
//! their reader is closed in time; promised frames arrive or their writer is closed in time; received bytes wait for room
//! for a reply or for a promise, and take neither's. So nothing waits for itself. This file decides and does no I/O.

use std::collections::VecDeque;

use super::limits::{RECEIVE_LEAVE, RECEIVED_SHARE, REPLY_ROOM_BYTES, SHORT_SHARE, UNFINISHED_LEAVE};

/// The account of one core's buffers.
#[derive(Debug)]
pub(super) struct Budget {
    /// Bytes there may be.
    bytes_max: usize,
    /// Bytes of connections' buffers, with the room of promised frames, and of gathers' parts.
    held: Charge,
    /// Bytes in the mesh and kept for reuse, as they were told last.
    elsewhere_bytes: usize,
    /// Who waits for room, first come first served: for a frame that is to arrive, and for a reply. Replies do not wait for
    /// frames, which may be long in coming.
    frames: VecDeque<(Waiter, usize)>,
    replies: VecDeque<Waiter>,
}

/// What one holder has of the buffers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Charge {
    /// All of it.
    pub bytes: usize,
    /// Of these, bytes that were received and wait, promised frames not among them.
    pub received_bytes: usize,
}

/// A connection that waits for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiter {
    pub slot: u32,
    /// Tells the connection from a later one in its slot.
    pub generation: u32,
}

/// What a connection wants room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// So many bytes of a frame that is to arrive.
    Frame(usize),
    /// The reply to a request.
    Reply,
}

/// Whether a frame that is to arrive gets its room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Now.
    Admitted,
    /// When others have given some back.
    Wait,
    /// Waiting for so much could last for ever: it is refused.
    Refused,
}

impl Budget {
    /// An account of `bytes_max` bytes, nothing of it held.
    pub(super) const fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            held: Charge { bytes: 0, received_bytes: 0 },
            elsewhere_bytes: 0,
            frames: VecDeque::new(),
            replies: VecDeque::new(),
        }
    }

    /// Bytes there may be.
    pub(super) const fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Bytes held by connections and gathers, with what they are promised.
    pub(super) const fn held_bytes(&self) -> usize {
        self.held.bytes
    }

    /// Bytes that nobody has.
    pub(super) const fn left_bytes(&self) -> usize {
        self.left_within(self.bytes_max)
    }

    /// A holder had `before` and now has `after`.
    pub(super) const fn recharge(&mut self, before: Charge, after: Charge) {
        self.held.bytes = self.held.bytes + after.bytes - before.bytes;
        self.held.received_bytes = self.held.received_bytes + after.received_bytes - before.received_bytes;
    }

    /// Tells how much is held in the mesh and kept for reuse.
    pub(super) const fn set_elsewhere(&mut self, bytes: usize) {
        self.elsewhere_bytes = bytes;
    }

    /// Bytes that may still be received and kept.
    pub(super) fn receivable_bytes(&self) -> usize {
        let left_bytes = self.left_within(self.bytes_max - self.bytes_max / RECEIVE_LEAVE);
        left_bytes.min((self.bytes_max / RECEIVED_SHARE).saturating_sub(self.held.received_bytes))
    }

    /// Whether room is so scarce that who is stalled is not read any more.
    pub(super) fn is_short(&self) -> bool {
        self.receivable_bytes() < self.bytes_max / SHORT_SHARE
    }

    /// Whether `bytes` more may be promised to a frame that is to arrive, or kept of a part that was read.
    pub(super) const fn has_frame_room(&self, bytes: usize) -> bool {
        bytes <= self.left_within(self.promised_bytes_max())
    }

    /// Whether a frame that needs `bytes` more to arrive gets them.
    pub(super) const fn admit_frame(&self, bytes: usize) -> Admission {
        if self.has_frame_room(bytes) {
            Admission::Admitted
        } else if bytes <= self.promised_bytes_max() - self.bytes_max / RECEIVED_SHARE {
            // What waits is received bytes, and those end where promises still have as much.
            Admission::Wait
        } else {
            Admission::Refused
        }
    }

    /// Whether a reply of `bytes` may be added, for who has `unsent` reply bytes waiting already.
    pub(super) const fn has_reply_room(&self, unsent_bytes: usize, bytes: usize) -> bool {
        let last_part = if unsent_bytes == 0 { 0 } else { self.bytes_max / UNFINISHED_LEAVE };
        self.left_bytes() >= last_part + bytes
    }

    /// Whether somebody waits for the same, whom who comes now must not overtake.
    pub(super) fn has_waiting(&self, want: Want) -> bool {
        match want {
            Want::Frame(_) => !self.frames.is_empty(),
            Want::Reply => !self.replies.is_empty(),
        }
    }

    /// Lets a connection wait for room, behind those who wait for the same already.
    pub(super) fn wait(&mut self, waiter: Waiter, want: Want) {
        match want {
            Want::Frame(bytes) => self.frames.push_back((waiter, bytes)),
            Want::Reply => self.replies.push_back(waiter),
        }
    }

    /// The next of those who wait and may go on now. They take their room when they go on: until then `given_bytes` counts
    /// what has been left to them, and is zero at first. When all `is_stuck`, the first goes on in any case.
    pub(super) fn next_waiter(&mut self, given_bytes: &mut usize, is_stuck: bool) -> Option<Waiter> {
        if let Some((waiter, bytes)) = self.frames.front().copied()
            && *given_bytes + bytes <= self.left_within(self.promised_bytes_max())
        {
            *given_bytes += bytes;
            self.frames.pop_front();
            return Some(waiter);
        }
        let is_first = is_stuck && *given_bytes == 0;
        if is_first || *given_bytes + REPLY_ROOM_BYTES <= self.left_bytes() {
            *given_bytes += REPLY_ROOM_BYTES;
            return self.replies.pop_front();
        }
        None
    }

    /// Bytes up to which frames that are to arrive are promised room; the rest is for replies alone.
    const fn promised_bytes_max(&self) -> usize {
        self.bytes_max - self.bytes_max / UNFINISHED_LEAVE
    }

    const fn left_within(&self, mark_bytes: usize) -> usize {
        mark_bytes.saturating_sub(self.held.bytes + self.elsewhere_bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BYTES_MAX: usize = 8 << 20;

    /// One connection of the model.
    #[derive(Clone, Copy, Debug, Default)]
    struct Holder {
        charge: Charge,
        /// Bytes of the frame that it asks room for.
        wanted_bytes: usize,
        waits: bool,
    }

    impl Holder {
        /// Whether it has a frame that was promised its room.
        fn is_arriving(&self) -> bool {
            self.charge.bytes > self.charge.received_bytes
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// Bytes are received and wait, as many as may be.
        Receive { holder: usize, bytes: usize },
        /// A frame's front is here, and its end is to come.
        Ask { holder: usize, bytes: usize },
        /// What a holder has is done with.
        Finish { holder: usize },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let holder = 0..12usize;
        let step = prop_oneof![
            (holder.clone(), 0..1usize << 20).prop_map(|(holder, bytes)| Step::Receive { holder, bytes }),
            (holder.clone(), 1..3usize << 20).prop_map(|(holder, bytes)| Step::Ask { holder, bytes }),
            holder.prop_map(|holder| Step::Finish { holder }),
        ];
        prop::collection::vec(step, 1..200)
    }

    struct Model {
        budget: Budget,
        holders: [Holder; 12],
        /// Who waits for a frame, in the order of asking.
        queue: VecDeque<usize>,
    }

    impl Model {
        fn charge(&mut self, holder: usize, charge: Charge) {
            self.budget.recharge(self.holders[holder].charge, charge);
            self.holders[holder].charge = charge;
        }

        fn promise(&mut self, holder: usize) {
            let received_bytes = self.holders[holder].charge.received_bytes;
            let bytes = received_bytes + std::mem::take(&mut self.holders[holder].wanted_bytes);
            self.holders[holder].waits = false;
            self.charge(holder, Charge { bytes, received_bytes: 0 });
        }

        fn resume(&mut self) {
            let mut given_bytes = 0;
            while let Some(waiter) = self.budget.next_waiter(&mut given_bytes, false) {
                assert_eq!(self.queue.pop_front(), Some(waiter.slot as usize), "first come, first served");
                self.promise(waiter.slot as usize);
                given_bytes = 0;
            }
        }

        fn step(&mut self, step: &Step) {
            match *step {
                Step::Receive { holder, bytes } if self.holders[holder].wanted_bytes == 0 => {
                    let bytes = bytes.min(self.budget.receivable_bytes());
                    let Charge { bytes: before, received_bytes } = self.holders[holder].charge;
                    self.charge(holder, Charge { bytes: before + bytes, received_bytes: received_bytes + bytes });
                }
                // A connection asks for one frame at a time.
                Step::Ask { holder, bytes } if !self.holders[holder].waits && !self.holders[holder].is_arriving() => {
                    self.holders[holder].wanted_bytes = bytes;
                    let want = Want::Frame(bytes);
                    match self.budget.admit_frame(bytes) {
                        Admission::Admitted if !self.budget.has_waiting(want) => self.promise(holder),
                        Admission::Admitted | Admission::Wait => {
                            self.holders[holder].waits = true;
                            self.queue.push_back(holder);
                            self.budget.wait(Waiter { slot: holder as u32, generation: 0 }, want);
                        }
                        Admission::Refused => panic!("{bytes} bytes may always be waited for"),
                    }
                }
                Step::Finish { holder } if !self.holders[holder].waits => self.charge(holder, Charge::default()),
                Step::Receive { .. } | Step::Ask { .. } | Step::Finish { .. } => {}
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_promised_fits_and_everybody_comes_to_his_turn(steps in steps()) {
            let mut model =
                Model { budget: Budget::new(BYTES_MAX), holders: Default::default(), queue: VecDeque::new() };
            for step in &steps {
                model.step(step);
                model.resume();
                let held: usize = model.holders.iter().map(|holder| holder.charge.bytes).sum();
                prop_assert_eq!(model.budget.held_bytes(), held);
                prop_assert!(held <= BYTES_MAX - BYTES_MAX / RECEIVE_LEAVE, "{} bytes", held);
                prop_assert!(model.budget.has_reply_room(0, REPLY_ROOM_BYTES), "no room for a reply");
            }
            // Promised frames arrive, one after the other; those that wait stay where they are. All come to their turn.
            while !model.queue.is_empty() {
                let waiting = model.queue.len();
                if let Some(holder) = model.holders.iter().position(Holder::is_arriving) {
                    model.charge(holder, Charge::default());
                }
                model.resume();
                let is_going_on = model.queue.len() < waiting || model.holders.iter().any(Holder::is_arriving);
                prop_assert!(is_going_on, "{} wait for ever", waiting);
            }
        }
    }
}
