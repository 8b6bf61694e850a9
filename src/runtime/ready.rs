//! The ready list: the whole requests of this core's own keys, executed in the order they were scanned.
//!
//! Memory latency is hidden by prefetching: all that a window of requests will look at is fetched before it is executed.
//! What finds too much unsent is put aside, in order.

use quoit_wire::request_head;

use super::budget::Want;
use super::connection::Stall;
use super::core::{Core, Ready, Source};
use super::held::Asker;
use super::limits::{PREFETCH_WINDOW, RECEIVE_BUFFER_BYTES, REPLY_ROOM_BYTES};
use super::scan::stall_on;
use super::waiting::Kept;
use crate::shard::Outcome;

impl Core {
    /// Executes everything in the ready list, in order.
    pub(super) fn execute_ready(&mut self) {
        let mut ready = std::mem::take(&mut self.ready);
        for window in ready.chunks(PREFETCH_WINDOW) {
            self.shard.prefetch(window.iter().map(|request| request.hash));
            window.chunk_by(|one, next| one.slot == next.slot).for_each(|run| self.execute_run(run));
        }
        ready.clear();
        self.ready = ready;
    }

    /// Executes neighbouring requests of one connection, which is taken out of its slot once for all of them.
    fn execute_run(&mut self, run: &[Ready]) {
        let Some(slot) = run.first().map(|ready| ready.slot) else { return };
        let Some(mut connection) = self.take(slot) else { return };
        connection.ready -= run.len();
        let mut output = std::mem::take(&mut connection.output);
        if output.bytes.capacity() == 0 {
            output.bytes = self.spare.take();
        }
        let sending_bytes = connection.sending.output.len() - connection.sending.sent;
        let output_bytes_high = self.output_bytes_high();
        // Its output may become so large that there is still room for another reply.
        let room_bytes = (output.bytes.capacity() + self.budget.left_bytes()).saturating_sub(REPLY_ROOM_BYTES);
        let limits = self.reply_limits();
        let now = self.now.instant();
        let value_bytes_max = self.options.value_bytes_max;
        for ready in run {
            let bytes = match ready.source {
                Source::Buffer(id) => self.ring.buffers.received(id, RECEIVE_BUFFER_BYTES),
                Source::Carry => &connection.carry,
            };
            let bytes = &bytes[ready.offset as usize..];
            let Ok(Some(head)) = request_head(bytes, value_bytes_max) else {
                unreachable!("the scan has read this head, and its bytes are as they were");
            };
            let frame = &bytes[..head.frame_bytes];
            let unsent_bytes = output.len() + sending_bytes;
            let is_over = unsent_bytes > output_bytes_high;
            // Whose turn it is gets one reply in any case: it was given room, or nobody has any.
            let has_room = output.bytes.capacity() <= room_bytes || std::mem::take(&mut connection.has_turn);
            if !connection.deferred.is_empty() || is_over || !has_room {
                connection.deferred.extend_from_slice(frame);
                if connection.stall.is_none() && is_over {
                    stall_on(self, slot, &mut connection, Stall::Output);
                } else if connection.stall.is_none() {
                    self.wait_for_room(slot, &mut connection, Want::Reply);
                }
                continue;
            }
            let start = output.bytes.len();
            self.counters.answered += 1;
            let outcome = self.shard.execute_frame(now, head, frame, ready.hash, limits, &mut output);
            if outcome != Outcome::Done {
                let asker = Asker::Connection { slot, generation: connection.generation };
                match outcome {
                    Outcome::Pending(ticket) => self.hold(ticket, asker, &head, &mut output.bytes, start),
                    _ => self.waiting.keep(&mut self.shard, now, asker, ready.hash, Kept::frame(frame)),
                }
                connection.inflight += 1;
            }
        }
        connection.output = output;
        self.recharge(&mut connection);
        self.mark_dirty(slot, &mut connection);
        self.touch_taken(slot, &mut connection);
        self.put_or_free(slot, connection);
    }
}
