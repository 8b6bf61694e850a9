//! The ready list: the whole requests of this core's own keys, executed in the order they were scanned.
//!
//! Memory latency is hidden by prefetching: all that a window of requests will look at is fetched before it is executed.
//! What finds too much unsent is put aside, in order.

use quoit_wire::request_head;

use super::connection::Stall;
use super::core::{Core, Ready, Source};
use super::limits::{PREFETCH_WINDOW, RECEIVE_BUFFER_BYTES};

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
            output.bytes = self.spare_bytes.pop().unwrap_or_default();
        }
        let sending_bytes = connection.sending.output.len() - connection.sending.sent;
        let output_bytes_high = self.output_bytes_high();
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
            if !connection.deferred.is_empty() || output.len() + sending_bytes > output_bytes_high {
                connection.deferred.extend_from_slice(frame);
                connection.stall = Some(Stall::Output);
                self.counters.stalls_output += 1;
                continue;
            }
            self.shard.execute_frame(now, head, frame, ready.hash, limits, &mut output);
            self.counters.answered += 1;
        }
        connection.output = output;
        self.mark_dirty(slot, &mut connection);
        self.touch_taken(slot, &mut connection);
        self.put_or_free(slot, connection);
    }
}
