//! The way in: received bytes are scanned where they lie or in the connection's carry, and what a scan stops at is done.
//!
//! **Order.** A connection's frames are scanned in order. Those of this core wait in the ready list, those of other cores
//! go to the mesh at once; a key always goes the same way, so its requests stay in order. What can't go on (no credit, too
//! much unsent) stays in the connection's carry, with everything behind it.
//! **Barriers.** A large set's value, a request that spans cores and a frame that is passed over must not overtake what is
//! in the ready list: the scan stops, the list is executed, the scan goes on.

use quoit_wire::{RequestHead, Status};

use super::connection::{CloseCause, Connection, Intake, Phase};
use super::core::{Core, Source};
use super::held::Asker;
use super::limits::OVERLOADED_RETRY_MS;
use super::ring::Completion;
use super::scan::{Stop, scan};
use super::waiting::Kept;
use crate::shard::Outcome;

impl Core {
    /// A receive has completed.
    pub(super) fn on_receive(&mut self, completion: Completion) {
        let slot = completion.slot;
        self.held_buffers.extend(completion.buffer);
        let Some(mut connection) = self.take(slot) else { return };
        connection.is_receiving = completion.more;
        let direct = connection.direct.take();
        connection.heard = self.now;
        if !completion.more {
            connection.is_cancelling = false;
        }
        match (connection.phase, completion.result) {
            (Phase::Closing, _) => {}
            (Phase::Lingering, 1..) => self.touch_taken(slot, &mut connection),
            (Phase::Lingering, 0) => self.close(slot, &mut connection, CloseCause::Ended),
            (Phase::Hello, 1..) => {
                self.on_hello_bytes(slot, connection, completion);
                return;
            }
            (Phase::Open | Phase::Draining, 1..) => {
                self.put(slot, connection);
                if let Some(buffer) = completion.buffer {
                    self.take_in(slot, buffer, self.received_bytes(&completion));
                } else if let Some(vector) = direct {
                    self.spare_vectors.give(vector);
                    self.on_direct(slot, completion.result as usize);
                }
                self.touch(slot);
                return;
            }
            (Phase::Peer, 1..) => {
                self.put(slot, connection);
                match completion.buffer {
                    Some(buffer) => self.on_peer_bytes(slot, buffer, self.received_bytes(&completion)),
                    None => self.touch(slot),
                }
                return;
            }
            (Phase::Hello | Phase::Peer, 0) => self.close(slot, &mut connection, CloseCause::Ended),
            (Phase::Open | Phase::Draining, 0) => {
                let is_cut_off =
                    connection.carry.len() > connection.scanned || matches!(connection.intake, Intake::Large(_));
                self.counters.truncated += u64::from(is_cut_off && connection.stall.is_none());
                connection.phase = Phase::Draining;
                connection.is_at_end = true;
                self.mark_dirty(slot, &mut connection);
            }
            (_, error) => match -error {
                libc::ENOBUFS | libc::ECANCELED | libc::EINTR | libc::EAGAIN => {
                    self.counters.receive_restarts += 1;
                    self.put(slot, connection);
                    self.touch(slot);
                    return;
                }
                _ => self.close(slot, &mut connection, CloseCause::Failed),
            },
        }
        self.put_or_free(slot, connection);
    }

    /// Takes in `bytes` bytes of a provided buffer.
    fn take_in(&mut self, slot: u32, buffer: u16, bytes: usize) {
        let mut offset = 0;
        while offset < bytes {
            let Some(mut connection) = self.take(slot) else { return };
            let received = &self.ring.buffers.received(buffer, bytes)[offset..];
            if let Intake::Large(set) = &mut connection.intake {
                offset += self.shard.fill_large_set(set, received);
                let is_complete = set.missing_bytes() == 0;
                self.put(slot, connection);
                if is_complete {
                    self.execute_ready();
                    self.publish_large(slot);
                }
                continue;
            }
            if connection.stall.is_some() || connection.carry.len() > connection.scanned {
                // What came before is unfinished or waits: this joins it.
                connection.keep(received);
                self.put(slot, connection);
                self.scan_carry(slot);
                return;
            }
            let (scanned, stop) = scan(self, slot, &mut connection, Source::Buffer(buffer), offset, bytes);
            offset += scanned;
            let is_over = self.after_scan(slot, connection, stop, |core, connection| {
                let rest = &core.ring.buffers.received(buffer, bytes)[offset..];
                if connection.carry.capacity() == 0 && !rest.is_empty() && !core.budget.is_short() {
                    connection.carry = core.spare.take();
                }
                connection.keep(rest);
            });
            match is_over {
                After::Over => return,
                After::GoOn => {}
                After::Front(front_bytes) => offset += front_bytes,
            }
        }
    }

    /// Scans what lies in a connection's carry.
    pub(super) fn scan_carry(&mut self, slot: u32) {
        loop {
            let Some(mut connection) = self.take(slot) else { return };
            let is_over = matches!(connection.phase, Phase::Hello | Phase::Peer | Phase::Lingering | Phase::Closing);
            if is_over || connection.scanned >= connection.carry.len() || connection.stall.is_some() {
                self.put(slot, connection);
                return;
            }
            if let Intake::Large(set) = &mut connection.intake {
                let scanned = connection.scanned;
                connection.scanned += self.shard.fill_large_set(set, &connection.carry[scanned..]);
                let is_complete = set.missing_bytes() == 0;
                self.put(slot, connection);
                if is_complete {
                    self.execute_ready();
                    self.publish_large(slot);
                    continue;
                }
                return;
            }
            let (offset, end) = (connection.scanned, connection.carry.len());
            let (scanned, stop) = scan(self, slot, &mut connection, Source::Carry, offset, end);
            connection.scanned += scanned;
            match self.after_scan(slot, connection, stop, |_, _| {}) {
                After::Over => return,
                After::GoOn => {}
                After::Front(front_bytes) => {
                    if let Some(connection) = self.connections[slot as usize].as_mut() {
                        connection.scanned += front_bytes;
                    }
                }
            }
        }
    }

    /// Does what a scan's stop asks for. `keep_rest` moves what is not scanned to the carry.
    fn after_scan(
        &mut self,
        slot: u32,
        mut connection: Box<Connection>,
        stop: Stop,
        keep_rest: impl FnOnce(&mut Self, &mut Connection),
    ) -> After {
        match stop {
            Stop::End | Stop::Stalled => {
                keep_rest(self, &mut connection);
                self.put(slot, connection);
                After::Over
            }
            Stop::Barrier => {
                self.put(slot, connection);
                self.execute_ready();
                self.after_barrier(slot, keep_rest)
            }
            Stop::Large(head, hash) => {
                self.put(slot, connection);
                self.execute_ready();
                match self.after_barrier(slot, |_, _| {}) {
                    After::GoOn => self.open_large(slot, head, hash),
                    _ => {
                        if let Some(mut connection) = self.take(slot) {
                            keep_rest(self, &mut connection);
                            self.put(slot, connection);
                        }
                        After::Over
                    }
                }
            }
            Stop::Broken => {
                // Replies to what came before may still leave; nothing more is read.
                connection.phase = Phase::Draining;
                connection.close_cause = CloseCause::Malformed;
                connection.intake = Intake::Skip(usize::MAX);
                connection.carry.truncate(connection.scanned);
                self.counters.malformed += 1;
                self.complain(slot, "bytes that are no frame of this protocol");
                self.mark_dirty(slot, &mut connection);
                self.put(slot, connection);
                After::Over
            }
        }
    }

    /// After a barrier: scanning goes on unless the connection was stalled by what was executed.
    fn after_barrier(&mut self, slot: u32, keep_rest: impl FnOnce(&mut Self, &mut Connection)) -> After {
        let Some(mut connection) = self.take(slot) else { return After::Over };
        if connection.stall.is_some() {
            keep_rest(self, &mut connection);
            self.put(slot, connection);
            return After::Over;
        }
        self.put(slot, connection);
        After::GoOn
    }

    /// Reserves arena space for a large set; its value's bytes come next.
    fn open_large(&mut self, slot: u32, head: RequestHead, hash: u64) -> After {
        let Some(mut connection) = self.take(slot) else { return After::Over };
        let front_bytes = head.payload_offset();
        // The front is in the carry or in a buffer; either way the scan copied it to `scratch`.
        let front = std::mem::take(&mut self.scratch);
        match self.shard.open_large_set(self.now.instant(), head, &front, hash) {
            Ok(set) => {
                connection.intake = Intake::Large(Box::new(set));
                connection.was_direct = false;
            }
            Err(status) => {
                if status == Status::Overloaded {
                    connection.output.overloaded(head.id, OVERLOADED_RETRY_MS);
                } else {
                    connection.output.status(head.id, status);
                }
                self.shard.count(head.operation, status);
                self.counters.answered += 1;
                connection.intake = Intake::Skip(head.frame_bytes - front_bytes);
                self.mark_dirty(slot, &mut connection);
            }
        }
        self.scratch = front;
        self.put(slot, connection);
        After::Front(front_bytes)
    }

    pub(super) fn publish_large(&mut self, slot: u32) {
        let Some(mut connection) = self.take(slot) else { return };
        if let Intake::Large(set) = std::mem::replace(&mut connection.intake, Intake::Frames) {
            let (limits, now) = (self.reply_limits(), self.now.instant());
            let head = set.head();
            let start = connection.output.bytes.len();
            let asker = Asker::Connection { slot, generation: connection.generation };
            self.counters.answered += 1;
            match self.shard.publish_large_set(now, set, limits, &mut connection.output) {
                Ok(Outcome::Done | Outcome::Later) => {}
                Ok(Outcome::Pending(ticket)) => {
                    self.hold(ticket, asker, &head, &mut connection.output.bytes, start);
                    connection.inflight += 1;
                }
                Err(set) => {
                    let hash = self.shard.hash(set.key());
                    self.waiting.keep(&mut self.shard, now, asker, hash, Kept::LargeSet(set));
                    connection.inflight += 1;
                }
            }
            self.mark_dirty(slot, &mut connection);
        }
        self.put(slot, connection);
    }
}

/// How scanning goes on.
enum After {
    /// It does not.
    Over,
    /// It does.
    GoOn,
    /// It does, past so many bytes of a large set's front.
    Front(usize),
}
