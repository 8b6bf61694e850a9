//! The way out: each connection with output sends once a turn, from where the bytes lie.
//!
//! An output without pieces is one `send`; with pieces it is one `sendmsg` over a vector of copied frames and pinned arena
//! slices. One send per connection is under way at a time, of at most [`SEND_BYTES_MAX`] bytes.

use super::connection::{CloseCause, Connection, Phase, Stall};
use super::core::Core;
use super::limits::{CONNECTION_OUTPUT_BYTES_LOW, REPLY_ROOM_BYTES, SEND_BYTES_MAX};

impl Core {
    /// Notes that a connection has output, so that the turn's end sends it.
    pub(super) fn mark_dirty(&mut self, slot: u32, connection: &mut Connection) {
        if !connection.is_dirty {
            connection.is_dirty = true;
            self.dirty.push(slot);
        }
    }

    /// Starts a send on every connection with output and none under way.
    pub(super) fn send_dirty(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for slot in dirty.drain(..) {
            if let Some(mut connection) = self.take(slot) {
                connection.is_dirty = false;
                self.start_send(slot, &mut connection);
                self.put_or_free(slot, connection);
            }
        }
        self.dirty = dirty;
    }

    fn start_send(&mut self, slot: u32, connection: &mut Connection) {
        if connection.sending.is_active || connection.phase == Phase::Closing {
            return;
        }
        if connection.output.is_empty() {
            if connection.phase == Phase::Draining && connection.is_answered() {
                self.finish(slot, connection);
            }
            return;
        }
        std::mem::swap(&mut connection.output, &mut connection.sending.output);
        connection.sending.sent = 0;
        connection.sending.is_active = true;
        self.active_sends += 1;
        connection.progress = self.now;
        self.submit_send(slot, connection);
    }

    fn submit_send(&mut self, slot: u32, connection: &mut Connection) {
        let socket = connection.ring_socket(slot);
        let sending = &mut connection.sending;
        if sending.output.pieces.is_empty() {
            let rest = &sending.output.bytes[sending.sent..];
            let length = rest.len().min(SEND_BYTES_MAX) as u32;
            // SAFETY: `sending.output` is not touched while `is_active`, and its heap memory does not move with the
            // connection; the slot is not freed before the completion.
            unsafe { self.ring.send(socket, slot, rest.as_ptr(), length) };
        } else {
            let spare = &mut self.spare_vectors;
            let vectored = sending.vector.get_or_insert_with(|| spare.take());
            vectored.aim_at(&sending.output, sending.sent, SEND_BYTES_MAX);
            // SAFETY: as above for the copied bytes; the pieces are pinned until `sent_all`, and the vector is boxed.
            unsafe { self.ring.send_message(socket, slot, vectored.message()) };
        }
    }

    /// A send has completed with `result`.
    pub(super) fn on_sent(&mut self, slot: u32, result: i32) {
        let Some(mut connection) = self.take(slot) else { return };
        let total = connection.sending.output.len();
        let is_open = connection.phase != Phase::Closing;
        if is_open && result > 0 {
            connection.sending.sent += result as usize;
            connection.progress = self.now;
            if connection.sending.sent < total {
                self.submit_send(slot, &mut connection);
            } else {
                self.sent_all(slot, &mut connection);
            }
        } else if is_open && matches!(-result, libc::EINTR | libc::EAGAIN) {
            self.submit_send(slot, &mut connection);
        } else {
            connection.sending.is_active = false;
            self.active_sends -= 1;
            self.shard.unpin(&mut connection.sending.output.pins);
            self.close(slot, &mut connection, CloseCause::Failed);
        }
        self.put_or_free(slot, connection);
    }

    fn sent_all(&mut self, slot: u32, connection: &mut Connection) {
        let sending = &mut connection.sending;
        sending.is_active = false;
        self.active_sends -= 1;
        sending.sent = 0;
        self.shard.unpin(&mut sending.output.pins);
        sending.output.pieces.clear();
        sending.output.piece_bytes = 0;
        if let Some(vector) = sending.vector.take() {
            self.spare_vectors.give(vector);
        }
        self.spare.give(std::mem::take(&mut sending.output.bytes));
        if !connection.output.is_empty() {
            self.mark_dirty(slot, connection);
        } else if connection.phase == Phase::Draining && connection.is_answered() {
            self.finish(slot, connection);
        }
        if connection.stall == Some(Stall::Output) && connection.unsent_bytes() < self.output_bytes_high() / 2 {
            self.resume(slot, connection);
        }
        self.recharge(connection);
    }

    /// Whether replies have waited too long for a connection's reader: sooner while everybody waits for what it holds.
    pub(super) fn is_slow_reader(&self, connection: &Connection) -> bool {
        let unsent_bytes = connection.unsent_bytes();
        let times = self.options.time_limits;
        let holds_others_up =
            unsent_bytes > CONNECTION_OUTPUT_BYTES_LOW && !self.budget.has_reply_room(unsent_bytes, REPLY_ROOM_BYTES);
        let time_max =
            if holds_others_up { times.reader_stall_short.min(times.reader_stall_max) } else { times.reader_stall_max };
        connection.sending.is_active && self.now.is_past(connection.progress, time_max)
    }
}
