//! Whether a connection is read: its receive is armed, cancelled, and armed again; its stall ends, its carry is tidied.
//!
//! A connection that is stalled and holds enough is not read. Whose receive has ended gets another one at the turn's end,
//! when the turn's buffers have gone back to the kernel.

use quoit_wire::request_head;

use super::budget::Waiter;
use super::buffers::ReceiveBuffers;
use super::clock::Reading;
use super::connection::{Connection, Intake, Phase, Stall};
use super::core::Core;
use super::limits::{
    CARRY_SURPLUS_BYTES_MAX, CONNECTION_STALLED_BYTES_MAX, RECEIVE_BUFFER_BYTES, TURN_REQUESTS_MAX, TURN_TIME_MAX,
};
use super::ring::Purpose;

/// Connections that are scanned between two looks at the clock.
const RESUMED_PER_LOOK: usize = 16;

impl Core {
    /// Scans the carries of connections whose stall has ended.
    pub(super) fn resume_stalled(&mut self) {
        let mut resume = std::mem::take(&mut self.resume);
        let mut resumed = 0;
        // A time of its own: what has just arrived must not starve what has waited, nor the other way round.
        let start = Reading::now();
        while self.ready.len() < TURN_REQUESTS_MAX as usize
            && !(resumed % RESUMED_PER_LOOK == 0 && Reading::now().is_past(start, TURN_TIME_MAX))
            && let Some(&slot) = resume.get(resumed)
        {
            resumed += 1;
            if let Some(Some(connection)) = self.connections.get_mut(slot as usize) {
                connection.is_resuming = false;
                self.touch(slot);
                self.scan_carry(slot);
            }
        }
        resume.drain(..resumed);
        // Whatever is left, or was stalled and released meanwhile, is looked at next turn.
        resume.append(&mut self.resume);
        self.resume = resume;
    }

    /// Ends a connection's stall: its carry is scanned in the next turn.
    pub(super) fn resume(&mut self, slot: u32, connection: &mut Connection) {
        connection.stall = None;
        // What it has not sent while it was not read is not its fault.
        connection.heard = self.now;
        if !connection.is_resuming {
            connection.is_resuming = true;
            self.resume.push(slot);
        }
    }

    /// Puts a connection on the list that `tidy_touched` works through.
    pub(super) fn touch(&mut self, slot: u32) {
        if let Some(Some(connection)) = self.connections.get_mut(slot as usize)
            && !connection.is_touched
        {
            connection.is_touched = true;
            self.touched.push(slot);
        }
    }

    pub(super) fn touch_taken(&mut self, slot: u32, connection: &mut Connection) {
        if !connection.is_touched {
            connection.is_touched = true;
            self.touched.push(slot);
        }
    }

    /// After execution: drops executed bytes from carries, puts deferred frames before them, keeps the receives going.
    pub(super) fn tidy_touched(&mut self) {
        let mut touched = std::mem::take(&mut self.touched);
        for slot in touched.drain(..) {
            let Some(mut connection) = self.take(slot) else { continue };
            connection.is_touched = false;
            connection.has_turn &= connection.is_resuming;
            if !connection.carry.is_empty() || !connection.deferred.is_empty() {
                let mut carry = std::mem::take(&mut connection.deferred);
                if carry.is_empty() {
                    carry = std::mem::take(&mut connection.carry);
                    carry.drain(..connection.scanned);
                } else {
                    carry.extend_from_slice(&connection.carry[connection.scanned..]);
                    self.spare.give(std::mem::take(&mut connection.carry));
                }
                connection.scanned = 0;
                if carry.is_empty() {
                    self.spare.give(carry);
                } else {
                    // The room of a large frame goes with it. Who kept it might wait for room behind who waits for this.
                    if !connection.is_promised && carry.capacity() - carry.len() > CARRY_SURPLUS_BYTES_MAX {
                        carry.shrink_to_fit();
                    }
                    connection.carry = carry;
                }
            }
            self.recharge(&mut connection);
            if connection.phase == Phase::Draining {
                // It may have been the last that was asked: sending looks whether it was.
                self.mark_dirty(slot, &mut connection);
            }
            self.keep_receiving(slot, &mut connection);
            self.put_or_free(slot, connection);
        }
        self.touched = touched;
    }

    /// Lets those go on who have waited for room that is there now.
    pub(super) fn resume_waiting(&mut self) {
        let mut given_bytes = 0;
        let is_stuck = self.is_stuck() && self.resume.is_empty();
        while let Some(Waiter { slot, generation }) = self.budget.next_waiter(&mut given_bytes, is_stuck) {
            let Some(mut connection) = self.take(slot) else { continue };
            if connection.generation == generation && connection.stall == Some(Stall::Budget) {
                connection.has_turn = true;
                self.resume(slot, &mut connection);
            }
            self.put(slot, connection);
        }
    }

    fn keep_receiving(&mut self, slot: u32, connection: &mut Connection) {
        match connection.phase {
            Phase::Open | Phase::Peer | Phase::Draining | Phase::Lingering if !connection.is_at_end => {}
            Phase::Hello if !connection.is_receiving => {
                // Its receive found no buffer. This turn's go back before the next one is submitted.
                connection.is_receiving = true;
                self.ring.receive_once(connection.descriptor(), slot, RECEIVE_BUFFER_BYTES);
                return;
            }
            Phase::Hello | Phase::Open | Phase::Peer | Phase::Draining | Phase::Lingering | Phase::Closing => return,
        }
        if connection.is_receiving && self.is_full(connection) && !connection.is_cancelling {
            connection.is_cancelling = true;
            self.counters.receive_cancels += 1;
            self.ring.cancel(Purpose::Receive, slot);
        } else if !connection.is_receiving && !connection.is_starved && !self.is_full(connection) {
            connection.is_receiving = true;
            self.rearm.push(slot);
        } else {
            self.turn_direct(slot, connection);
        }
    }

    /// Whether a connection is not read for now: it is stalled, and holds enough, or others need what it would hold.
    fn is_full(&self, connection: &Connection) -> bool {
        let is_much = connection.carry.len() > CONNECTION_STALLED_BYTES_MAX;
        connection.stall.is_some_and(|stall| is_much || stall == Stall::Budget || self.budget.is_short())
    }

    /// Gives the turn's receive buffers back to the kernel: as many as there is room for what it may put into them.
    pub(super) fn return_buffers(&mut self) {
        let room = self.budget.receivable_bytes() / RECEIVE_BUFFER_BYTES;
        let buffers = &mut self.ring.buffers;
        self.held_buffers.retain(|&id| {
            let is_returned = ReceiveBuffers::is_reserved(id) || buffers.with_kernel() < room;
            if is_returned {
                buffers.put_back(id);
            }
            !is_returned
        });
    }

    /// Whether somebody waits for a receive buffer while there are some.
    pub(super) fn feeds_starved(&self) -> bool {
        !self.starved.is_empty() && self.ring.buffers.with_kernel() > 0
    }

    /// Arms receives that have ended; after the turn's buffers went back, so that they don't end again at once. While the
    /// kernel has no buffers, only who holds something that its next bytes finish is read, by as much as it takes.
    pub(super) fn rearm_receives(&mut self) {
        let mut rearm = std::mem::take(&mut self.rearm);
        for slot in rearm.drain(..) {
            let Some(mut connection) = self.take(slot) else { continue };
            if connection.phase == Phase::Closing {
                connection.is_receiving = false;
            } else if Self::goes_direct(&connection) && self.receive_direct(slot, &mut connection) {
                // Into the arena: no buffer is needed.
            } else if self.ring.buffers.with_kernel() > 0 {
                self.ring.receive(connection.ring_socket(slot), slot);
            } else if let Some(bytes) = finishing_bytes(&connection) {
                self.ring.receive_once(connection.descriptor(), slot, bytes);
            } else {
                connection.is_receiving = false;
                connection.is_starved = true;
                self.starved.push_back(Waiter { slot, generation: connection.generation });
            }
            self.put_or_free(slot, connection);
        }
        self.rearm = rearm;
        for _ in 0..self.ring.buffers.with_kernel().min(self.starved.len()) {
            let Some(Waiter { slot, generation }) = self.starved.pop_front() else { break };
            let Some(mut connection) = self.take(slot) else { continue };
            if connection.generation == generation {
                connection.is_starved = false;
                if connection.phase != Phase::Closing && !connection.is_at_end && !self.is_full(&connection) {
                    connection.is_receiving = true;
                    self.ring.receive(connection.ring_socket(slot), slot);
                }
            }
            self.put(slot, connection);
        }
    }
}

/// Bytes that finish what a connection holds room for, of which one receive brings at most a buffer.
fn finishing_bytes(connection: &Connection) -> Option<usize> {
    // What a peer says lets replies go: it is heard whatever room there is.
    if matches!(connection.phase, Phase::Lingering | Phase::Peer) {
        return Some(RECEIVE_BUFFER_BYTES);
    }
    let missing_bytes = match &connection.intake {
        Intake::Skip(bytes) => *bytes,
        Intake::Large(set) => set.missing_bytes(),
        Intake::Frames => {
            let carry = &connection.carry[connection.scanned..];
            // Its limits were looked at when it was promised its room.
            let head = request_head(carry, usize::MAX).ok().flatten()?;
            head.frame_bytes.checked_sub(carry.len())?
        }
    };
    (missing_bytes > 0).then_some(missing_bytes.min(RECEIVE_BUFFER_BYTES))
}
