//! Whether a connection is read: its receive is armed, cancelled, and armed again; its stall ends, its carry is tidied.
//!
//! A connection that is stalled and holds enough is not read. Whose receive has ended gets another one at the turn's end,
//! when the turn's buffers have gone back to the kernel.

use super::connection::{CloseCause, Connection, Phase};
use super::core::Core;
use super::limits::{CONNECTION_STALLED_BYTES_MAX, TURN_REQUESTS_MAX};
use super::ring::Purpose;

impl Core {
    /// Scans the carries of connections whose stall has ended.
    pub(super) fn resume_stalled(&mut self) {
        let mut resume = std::mem::take(&mut self.resume);
        let mut resumed = 0;
        while self.ready.len() < TURN_REQUESTS_MAX as usize
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
            if !connection.carry.is_empty() || !connection.deferred.is_empty() {
                let mut carry = std::mem::take(&mut connection.deferred);
                if carry.is_empty() {
                    carry = std::mem::take(&mut connection.carry);
                    carry.drain(..connection.scanned);
                } else {
                    carry.extend_from_slice(&connection.carry[connection.scanned..]);
                    self.recycle_bytes(std::mem::take(&mut connection.carry));
                }
                connection.scanned = 0;
                if carry.is_empty() {
                    self.recycle_bytes(carry);
                } else {
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
        if self.buffer_bytes > self.options.buffer_bytes_max {
            self.relieve_buffers();
        }
    }

    /// Over the budget: closes the connection that holds most of it, one a turn, so that nobody else suffers.
    fn relieve_buffers(&mut self) {
        let open = self.connections.iter().filter_map(|(slot, connection)| {
            let connection = connection.as_ref().filter(|connection| connection.phase != Phase::Closing)?;
            Some((connection.charged_bytes, slot as u32))
        });
        if let Some((charged_bytes, slot)) = open.max()
            && charged_bytes > CONNECTION_STALLED_BYTES_MAX
        {
            self.complain(slot, "it held most of its core's buffers, and they were full");
            if let Some(mut connection) = self.take(slot) {
                self.close(slot, &mut connection, CloseCause::Limit);
                self.put_or_free(slot, connection);
            }
        }
    }

    fn keep_receiving(&mut self, slot: u32, connection: &mut Connection) {
        match connection.phase {
            Phase::Open | Phase::Peer | Phase::Draining | Phase::Lingering if !connection.is_at_end => {}
            Phase::Hello if !connection.is_receiving => {
                // Its receive found no buffer. This turn's go back before the next one is submitted.
                connection.is_receiving = true;
                self.ring.receive_once(connection.descriptor(), slot);
                return;
            }
            Phase::Hello | Phase::Open | Phase::Peer | Phase::Draining | Phase::Lingering | Phase::Closing => return,
        }
        let is_full = connection.stall.is_some() && connection.carry.len() > CONNECTION_STALLED_BYTES_MAX;
        if connection.is_receiving && is_full && !connection.is_cancelling {
            connection.is_cancelling = true;
            self.counters.receive_cancels += 1;
            self.ring.cancel(Purpose::Receive, slot);
        } else if !connection.is_receiving && !is_full {
            connection.is_receiving = true;
            self.rearm.push(slot);
        }
    }

    /// Arms receives that have ended; after the turn's buffers went back, so that they don't end again at once.
    pub(super) fn rearm_receives(&mut self) {
        let mut rearm = std::mem::take(&mut self.rearm);
        for slot in rearm.drain(..) {
            match self.connections.get(slot as usize) {
                Some(Some(connection)) if connection.phase != Phase::Closing => {
                    self.ring.receive(connection.ring_socket(slot), slot);
                }
                Some(Some(_)) => {
                    if let Some(mut connection) = self.take(slot) {
                        connection.is_receiving = false;
                        self.put_or_free(slot, connection);
                    }
                }
                Some(None) | None => {}
            }
        }
        self.rearm = rearm;
    }
}
