//! The way in: received bytes are cut into frames where they lie, routed, and executed in batches.
//!
//! **Order.** A connection's frames are scanned in order. Those of this core wait in the ready list, those of other cores
//! go to the mesh at once; a key always goes the same way, so its requests stay in order. What can't go on (no credit, too
//! much unsent) stays in the connection's carry, with everything behind it.
//! **Barriers.** A large set's value, a request that spans cores and a frame that is passed over must not overtake what is
//! in the ready list: the scan stops, the list is executed, the scan goes on.

use quoit_wire::{Operation, Refusal, Request, RequestBody, RequestHead, Status, request_head};

use super::connection::{CloseCause, Connection, Intake, Phase, Stall, Token};
use super::core::{Core, Ready, Source};
use super::limits::{
    CONNECTION_INFLIGHT_MAX, CONNECTION_STALLED_BYTES_MAX, OVERLOADED_RETRY_MS, PREFETCH_WINDOW, RECEIVE_BUFFER_BYTES,
    RESERVE_BYTES_MIN, TURN_REQUESTS_MAX,
};
use super::ring::{Completion, Purpose};
use crate::shard::Route;

/// Why a scan stopped.
#[derive(Clone, Copy, Debug)]
enum Stop {
    /// Everything is scanned, or what is left is an unfinished frame.
    End,
    /// What is left must wait.
    Stalled,
    /// What is left goes on after the ready list has been executed.
    Barrier,
    /// What is left begins with a large set whose front is here.
    Large(RequestHead, u64),
    /// The stream is not this protocol.
    Broken,
}

impl Core {
    /// A receive has completed.
    pub(super) fn on_receive(&mut self, completion: Completion) {
        let slot = completion.slot;
        self.held_buffers.extend(completion.buffer);
        let Some(mut connection) = self.take(slot) else { return };
        connection.is_receiving = completion.more;
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
                }
                self.touch(slot);
                return;
            }
            (Phase::Hello, 0) => self.close(slot, &mut connection, CloseCause::Ended),
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
                if connection.carry.capacity() == 0 {
                    connection.carry = self.spare_bytes.pop().unwrap_or_default();
                }
                connection.carry.extend_from_slice(received);
                self.put(slot, connection);
                self.scan_carry(slot);
                return;
            }
            let (scanned, stop) = scan(self, slot, &mut connection, Source::Buffer(buffer), offset, bytes);
            offset += scanned;
            let is_over = self.after_scan(slot, connection, stop, |core, connection| {
                let rest = &core.ring.buffers.received(buffer, bytes)[offset..];
                if connection.carry.capacity() == 0 && !rest.is_empty() {
                    connection.carry = core.spare_bytes.pop().unwrap_or_default();
                }
                connection.carry.extend_from_slice(rest);
            });
            match is_over {
                After::Over => return,
                After::GoOn => {}
                After::Front(front_bytes) => offset += front_bytes,
            }
        }
    }

    /// Scans what lies in a connection's carry.
    fn scan_carry(&mut self, slot: u32) {
        loop {
            let Some(mut connection) = self.take(slot) else { return };
            let is_over = matches!(connection.phase, Phase::Hello | Phase::Lingering | Phase::Closing);
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
            Ok(set) => connection.intake = Intake::Large(Box::new(set)),
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

    fn publish_large(&mut self, slot: u32) {
        let Some(mut connection) = self.take(slot) else { return };
        if let Intake::Large(set) = std::mem::replace(&mut connection.intake, Intake::Frames) {
            let limits = self.reply_limits();
            self.shard.publish_large_set(self.now.instant(), *set, limits, &mut connection.output);
            self.counters.answered += 1;
            self.mark_dirty(slot, &mut connection);
        }
        self.put(slot, connection);
    }

    /// Executes everything in the ready list, in order, memory latency hidden by two stages of prefetching.
    pub(super) fn execute_ready(&mut self) {
        let mut ready = std::mem::take(&mut self.ready);
        for window in ready.chunks(PREFETCH_WINDOW) {
            window
                .iter()
                .filter(|request| request.hash != 0)
                .for_each(|request| self.shard.prefetch_item(request.hash));
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
        for ready in run {
            let bytes = match ready.source {
                Source::Buffer(id) => &self.ring.buffers.received(id, RECEIVE_BUFFER_BYTES)[ready.offset..],
                Source::Carry => &connection.carry[ready.offset..],
            };
            let frame = &bytes[..ready.head.frame_bytes];
            if !connection.deferred.is_empty() || output.len() + sending_bytes > output_bytes_high {
                connection.deferred.extend_from_slice(frame);
                connection.stall = Some(Stall::Output);
                self.counters.stalls_output += 1;
                continue;
            }
            match Request::decode(ready.head, frame) {
                Ok(request) => self.shard.execute(now, &request, ready.hash, limits, &mut output),
                Err(refusal) => {
                    output.status(ready.head.id, refusal.status);
                    self.shard.count(ready.head.operation, refusal.status);
                }
            }
            self.counters.answered += 1;
        }
        connection.output = output;
        self.mark_dirty(slot, &mut connection);
        self.touch_taken(slot, &mut connection);
        self.put_or_free(slot, connection);
    }

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
            Phase::Open | Phase::Draining | Phase::Lingering if !connection.is_at_end => {}
            Phase::Hello if !connection.is_receiving => {
                // Its receive found no buffer. This turn's go back before the next one is submitted.
                connection.is_receiving = true;
                self.ring.receive_once(connection.descriptor(), slot);
                return;
            }
            Phase::Hello | Phase::Open | Phase::Draining | Phase::Lingering | Phase::Closing => return,
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
                    self.ring.receive(connection.descriptor(), slot);
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

/// How scanning goes on.
enum After {
    /// It does not.
    Over,
    /// It does.
    GoOn,
    /// It does, past so many bytes of a large set's front.
    Front(usize),
}

/// Scans frames from `offset` to `end` of `source`; returns how many bytes are done with, and why it stopped.
fn scan(
    core: &mut Core,
    slot: u32,
    connection: &mut Connection,
    source: Source,
    start: usize,
    end: usize,
) -> (usize, Stop) {
    let mut offset = start;
    loop {
        if offset == end {
            return (offset - start, Stop::End);
        }
        if let Intake::Skip(left) = &mut connection.intake {
            let skipped = (*left).min(end - offset);
            *left -= skipped;
            offset += skipped;
            if *left == 0 {
                connection.intake = Intake::Frames;
            }
            continue;
        }
        if connection.unsent_bytes() > core.output_bytes_high() {
            stall_on(core, slot, connection, Stall::Output);
            return (offset - start, Stop::Stalled);
        }
        let rest = match source {
            Source::Buffer(id) => &core.ring.buffers.received(id, end)[offset..],
            Source::Carry => &connection.carry[offset..end],
        };
        let head = match request_head(rest, core.options.value_bytes_max) {
            Ok(Some(head)) => head,
            Ok(None) => return (offset - start, Stop::End),
            // What is passed over is counted from here on: nothing that might have to wait may stand before it.
            Err(_) if connection.ready > 0 => return (offset - start, Stop::Barrier),
            Err(Refusal { id: Some(id), status, frame_bytes: Some(frame_bytes) }) => {
                connection.output.status(id, status);
                connection.intake = Intake::Skip(frame_bytes);
                core.counters.refused += 1;
                core.counters.answered += 1;
                core.mark_dirty(slot, connection);
                continue;
            }
            Err(_) => return (offset - start, Stop::Broken),
        };
        if rest.len() < head.frame_bytes {
            return (offset - start, unfinished(core, slot, connection, source, offset, end, head));
        }
        if core.is_refusing() {
            if connection.ready > 0 {
                return (offset - start, Stop::Barrier);
            }
            connection.output.status(head.id, Status::ShuttingDown);
            connection.intake = Intake::Skip(usize::MAX);
            core.shard.count(head.operation, Status::ShuttingDown);
            core.counters.answered += 1;
            core.mark_dirty(slot, connection);
            continue;
        }
        let hash = if head.operation.has_key() { core.shard.hash(head.key(rest)) } else { 0 };
        if head.operation == Operation::Hello {
            if connection.ready > 0 {
                return (offset - start, Stop::Barrier);
            }
            core.refuse_hello(slot, connection, head.id, Status::Malformed);
            continue;
        }
        let route = if head.operation.has_key() { core.shard.route(hash) } else { Route::Here };
        match route {
            Route::Here => match head.operation {
                Operation::Stats | Operation::MultiGet | Operation::MultiSet | Operation::Flush => {
                    if connection.ready > 0 {
                        return (offset - start, Stop::Barrier);
                    }
                    let mut frame = std::mem::take(&mut core.scratch);
                    frame.clear();
                    let rest = match source {
                        Source::Buffer(id) => &core.ring.buffers.received(id, end)[offset..],
                        Source::Carry => &connection.carry[offset..end],
                    };
                    frame.extend_from_slice(&rest[..head.frame_bytes]);
                    let stall = core.span(slot, connection, head, &frame);
                    core.scratch = frame;
                    if let Some(stall) = stall {
                        stall_on(core, slot, connection, stall);
                        return (offset - start, Stop::Stalled);
                    }
                }
                _ => {
                    core.shard.prefetch_bucket(hash);
                    connection.ready += 1;
                    core.ready.push(Ready { slot, source, offset, head, hash });
                }
            },
            Route::Core(owner) => {
                let owner = usize::from(owner);
                if connection.inflight >= CONNECTION_INFLIGHT_MAX {
                    stall_on(core, slot, connection, Stall::Inflight);
                    return (offset - start, Stop::Stalled);
                }
                if !core.mesh.has_credit(owner, head.frame_bytes) {
                    stall_on(core, slot, connection, Stall::Credit(owner));
                    return (offset - start, Stop::Stalled);
                }
                let token = Token::Connection { slot, generation: connection.generation }.to_u64();
                let frame = match source {
                    Source::Buffer(id) => &core.ring.buffers.received(id, end)[offset..offset + head.frame_bytes],
                    Source::Carry => &connection.carry[offset..offset + head.frame_bytes],
                };
                core.mesh.request(owner, token, frame, core.now);
                core.counters.forwarded += 1;
                connection.inflight += 1;
            }
            Route::Moved { epoch } => {
                let version = quoit_wire::Version::from_u64(u64::from(epoch));
                connection.output.written(head.id, Status::Moved, version);
                core.shard.count(head.operation, Status::Moved);
                core.counters.answered += 1;
                core.mark_dirty(slot, connection);
            }
        }
        offset += head.frame_bytes;
    }
}

/// What to do with a frame whose end has not arrived.
fn unfinished(
    core: &mut Core,
    slot: u32,
    connection: &mut Connection,
    source: Source,
    offset: usize,
    end: usize,
    head: RequestHead,
) -> Stop {
    if head.operation == Operation::Set && head.payload_bytes() >= RESERVE_BYTES_MIN {
        let rest = match source {
            Source::Buffer(id) => &core.ring.buffers.received(id, end)[offset..],
            Source::Carry => &connection.carry[offset..end],
        };
        if rest.len() < head.payload_offset() {
            return Stop::End;
        }
        let hash = core.shard.hash(head.key(rest));
        if core.shard.route(hash) == Route::Here {
            core.scratch.clear();
            core.scratch.extend_from_slice(&rest[..head.payload_offset()]);
            return Stop::Large(head, hash);
        }
    }
    if head.frame_bytes <= RECEIVE_BUFFER_BYTES {
        return Stop::End;
    }
    // The carry takes the rest of the frame: it gets its whole room now, on account, or nothing.
    let held = match source {
        Source::Buffer(_) => 0,
        Source::Carry => end - offset,
    };
    let room = connection.carry.capacity() - connection.carry.len();
    let missing_bytes = (head.frame_bytes - held).saturating_sub(room);
    if missing_bytes <= core.unfinished_bytes_max().saturating_sub(core.buffer_bytes) {
        connection.carry.reserve_exact(head.frame_bytes - held);
        core.recharge(connection);
        return Stop::End;
    }
    if connection.ready == 0 {
        connection.output.overloaded(head.id, OVERLOADED_RETRY_MS);
        connection.intake = Intake::Skip(head.frame_bytes);
        core.shard.count(head.operation, Status::Overloaded);
        core.counters.answered += 1;
        core.mark_dirty(slot, connection);
    }
    Stop::Barrier
}

fn stall_on(core: &mut Core, slot: u32, connection: &mut Connection, stall: Stall) {
    connection.stall = Some(stall);
    match stall {
        Stall::Output => core.counters.stalls_output += 1,
        Stall::Inflight => core.counters.stalls_inflight += 1,
        Stall::Credit(peer) => {
            core.counters.stalls_credit += 1;
            core.mesh.wait(peer, slot);
        }
    }
}

/// The body of a multi operation's request, for cutting it into parts.
pub(super) fn multi_body<'a>(head: RequestHead, frame: &'a [u8]) -> Result<RequestBody<'a>, Status> {
    Request::decode(head, frame).map(|request| request.body).map_err(|refusal| refusal.status)
}
