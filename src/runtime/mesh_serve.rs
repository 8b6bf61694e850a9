//! The mesh's side of a turn: requests of other cores are executed, replies are delivered, spanning requests are cut.

use quoit_wire::topology::CORES_MAX;
use quoit_wire::{
    Items, Keys, Operation, Reply, ReplyHeader, Request, RequestBody, RequestFlags, RequestHead, RequestOptions,
    Status, request_head,
};

use super::budget::Charge;
use super::clock::Reading;
use super::connection::{Connection, Phase, Stall, Token};
use super::core::Core;
use super::gather::{Gather, Part as GatherPart};
use super::held::Asker;
use super::limits::{
    CONNECTION_INFLIGHT_MAX, CONNECTION_OUTPUT_BYTES_MAX, GATHERS_MAX, MESH_BATCH_BYTES, MESH_BATCHES_PER_TURN,
    MESH_REPLY_BYTES_MAX, OVERLOADED_RETRY_MS, PREFETCH_WINDOW, REPLY_ROOM_BYTES, TURN_TIME_MAX,
};
use super::mesh::{Message, Part};
use super::scan::multi_body;
use super::waiting::Kept;
use crate::shard::{Outcome, Output, ReplyLimits, Route};
use crate::time::Instant;

impl Core {
    /// Serves the other cores, a bounded number of batches each; whether there was anything to do.
    pub(super) fn serve_mesh(&mut self) -> bool {
        let others = self.mesh.others();
        others.map(|other| self.serve_peer(other)).fold(false, |one, next| one | next)
    }

    /// Replies first: they give back what requests need. Replies that find no room, and requests whose replies would be too
    /// many on their way, stay here until there is.
    fn serve_peer(&mut self, other: usize) -> bool {
        let mut had_any = false;
        while let Some(message) = self.mesh.next(other) {
            had_any = true;
            self.counters.mesh_messages += 1;
            match message {
                Message::Adopt(adoption) => self.on_adopt(*adoption),
                Message::Frames(frames) => {
                    // As with what comes from other nodes: the time is not before it was sent.
                    self.now = Reading::now();
                    self.on_own_frames(other, &frames);
                }
                Message::Requests(_) | Message::Replies(_) => self.mesh.keep(other, message),
            }
        }
        // Each neighbour has a time of its own: what the connections took of the turn must not starve the mesh. It begins
        // with the neighbour's first batch, so that looking at an empty inlet costs no clock.
        let mut start = None;
        let mut is_held = false;
        for _ in 0..MESH_BATCHES_PER_TURN {
            if !is_held && let Some(part) = self.mesh.next_replies(other) {
                self.now = Reading::now();
                start.get_or_insert(self.now);
                let offset = part.offset;
                let delivered = self.deliver_batch(other, part);
                is_held = delivered.is_held;
                had_any |= delivered.offset > offset;
            } else if let Some(part) = self.mesh.next_requests(other) {
                // The time of what was asked by another core is not before it was asked.
                self.now = Reading::now();
                start.get_or_insert(self.now);
                had_any = true;
                self.execute_batch(other, part);
            } else {
                break;
            }
            if start.is_some_and(|start| Reading::now().is_past(start, TURN_TIME_MAX)) {
                break;
            }
        }
        had_any
    }

    /// Executes requests of another core until their replies are as many as may be on their way.
    fn execute_batch(&mut self, origin: usize, part: Part) {
        let now = self.now.instant();
        let value_bytes_max = self.options.value_bytes_max;
        let limits = ReplyLimits {
            pin_bytes_min: usize::MAX,
            copy_bytes_max: value_bytes_max.max(MESH_REPLY_BYTES_MAX),
            retry_after_ms: OVERLOADED_RETRY_MS,
        };
        let Part { batch, mut offset } = part;
        let mut replies = self.mesh.spare_batch(batch.sent);
        let mut hashes = [0; PREFETCH_WINDOW];
        while offset < batch.bytes.len() && self.mesh.has_reply_window(origin, &replies) {
            // A window at a time, as with this core's own requests: fetched, then executed. It begins where the last one has
            // ended, which may be before its own end: the asking core takes replies meanwhile, and then there is room again.
            let (mut count, mut scanned) = (0, offset);
            while count < PREFETCH_WINDOW
                && let Some((_, frame, next)) = batch.request_at(scanned)
            {
                let Ok(Some(head)) = request_head(frame, value_bytes_max) else {
                    unreachable!("the asking core has scanned the frame");
                };
                hashes[count] = if head.operation.has_key() { self.shard.hash(head.key(frame)) } else { 0 };
                (count, scanned) = (count + 1, next);
            }
            self.shard.prefetch(hashes[..count].iter().copied());
            for &hash in &hashes[..count] {
                let Some((token, frame, next)) = batch.request_at(offset) else { break };
                if !self.mesh.has_reply_window(origin, &replies) {
                    break;
                }
                offset = next;
                let entry = replies.bytes.len();
                replies.open_reply(token, frame.len());
                let start = replies.bytes.len();
                let mut output = Output { bytes: std::mem::take(&mut replies.bytes), ..Output::default() };
                let (outcome, head) = self.execute_for_peer(now, frame, hash, limits, &mut output);
                replies.bytes = output.bytes;
                if outcome != Outcome::Done {
                    let asker = Asker::Core { core: origin, token, request_bytes: frame.len() };
                    match outcome {
                        Outcome::Pending(ticket) => self.hold(ticket, asker, &head, &mut replies.bytes, start),
                        _ => self.waiting.keep(&mut self.shard, now, asker, hash, Kept::frame(frame)),
                    }
                    replies.withdraw_reply(entry);
                }
                if replies.bytes.len() >= MESH_BATCH_BYTES && offset < batch.bytes.len() {
                    let full = std::mem::replace(&mut replies, self.mesh.spare_batch(batch.sent));
                    self.mesh.reply(origin, full);
                }
            }
        }
        if replies.entries > 0 {
            self.mesh.reply(origin, replies);
        } else {
            self.mesh.recycle(replies);
        }
        if offset < batch.bytes.len() {
            self.mesh.keep_requests(origin, Part { batch, offset });
        } else {
            self.mesh.recycle(batch);
        }
    }

    /// Executes one request that another core was asked, its key's hash being `hash`.
    fn execute_for_peer(
        &mut self,
        now: Instant,
        frame: &[u8],
        hash: u64,
        limits: ReplyLimits,
        output: &mut Output,
    ) -> (Outcome, RequestHead) {
        let Ok(Some(head)) = request_head(frame, self.options.value_bytes_max) else {
            unreachable!("the asking core has scanned the frame");
        };
        self.counters.answered += 1;
        if head.operation == Operation::Stats {
            self.reply_own_stats(head.id, output);
        } else if head.operation.has_key() && self.shard.route(hash) != Route::Here {
            // The asking core and this one have not heard of the same topology.
            self.shard.answer_moved(&head, output);
        } else {
            return (self.shard.execute_frame(now, head, frame, hash, limits, output), head);
        }
        (Outcome::Done, head)
    }

    /// Delivers replies until one finds no room.
    fn deliver_batch(&mut self, origin: usize, part: Part) -> Delivered {
        let Part { batch, mut offset } = part;
        let hop_nanos = self.now.nanos_since(batch.sent);
        let mut entries = 0;
        let mut is_held = false;
        while let Some((token, request_bytes, frame, next)) = batch.reply_at(offset) {
            let token = Token::from_u64(token);
            if !self.may_deliver(token, frame) {
                is_held = true;
                break;
            }
            offset = next;
            entries += 1;
            self.mesh.credit(origin, request_bytes);
            match token {
                Token::Connection { slot, generation } => self.deliver(slot, generation, frame, false),
                Token::Gather(key) => self.deliver_part(key, origin, frame),
            }
        }
        self.counters.hops(hop_nanos, entries);
        if is_held {
            self.mesh.keep_replies(origin, Part { batch, offset });
        } else {
            self.mesh.replies_delivered(origin, batch);
        }
        for slot in self.mesh.take_waiting(origin) {
            if let Some(mut connection) = self.take(slot) {
                if connection.stall == Some(Stall::Credit(origin)) {
                    self.resume(slot, &mut connection);
                }
                self.put(slot, connection);
            }
        }
        Delivered { offset, is_held }
    }

    /// Whether a reply is delivered now, or waits for room with all behind it. Nobody waits for a reader who takes nothing,
    /// for a large value, or for a part that is put together with others: those are refused where there is no room.
    fn may_deliver(&self, token: Token, frame: &[u8]) -> bool {
        let Token::Connection { slot, generation } = token else { return true };
        let connection = self.connections.get(slot as usize).and_then(Option::as_ref);
        let Some(connection) = connection.filter(|connection| connection.generation == generation) else { return true };
        let is_deaf = connection.sending.is_active
            && self.now.is_past(connection.progress, self.options.time_limits.reader_stall_short);
        let waits = (ALWAYS_TOLD_FRAME_BYTES + 1..=REPLY_ROOM_BYTES).contains(&frame.len());
        !waits || is_deaf || self.is_stuck() || self.budget.has_reply_room(connection.unsent_bytes(), frame.len())
    }

    /// Appends a reply that another core made, or that has waited, to its connection's output, if the connection is still
    /// there. One that `may_wait` does so while other replies of the connection are missing (`together.rs`).
    pub(super) fn deliver(&mut self, slot: u32, generation: u32, frame: &[u8], may_wait: bool) {
        let Some(mut connection) = self.take(slot) else { return };
        if connection.generation == generation {
            connection.inflight -= 1;
            self.append_frame(&mut connection, frame);
            self.resume_inflight(slot, &mut connection);
            if !may_wait || connection.inflight == 0 || connection.phase != Phase::Open {
                self.mark_dirty(slot, &mut connection);
            } else if !connection.is_together {
                connection.is_together = true;
                self.together.add(slot, self.now);
            }
        }
        self.put(slot, connection);
    }

    /// Lets those connections send that have waited long enough for more of their replies.
    pub(super) fn send_together(&mut self) {
        if self.together.is_empty() {
            return;
        }
        let connections = &mut self.connections;
        let due = self.together.take_due(self.now, |slot| {
            let Some(connection) = connections.get_mut(*slot as usize).and_then(Option::as_mut) else { return false };
            // What leaves in this turn, or has left, takes all with it.
            connection.is_together &= !connection.is_dirty && !connection.output.is_empty();
            connection.is_together
        });
        for slot in due {
            if let Some(mut connection) = self.take(slot) {
                connection.is_together = false;
                self.mark_dirty(slot, &mut connection);
                self.put(slot, connection);
            }
        }
    }

    fn append_frame(&mut self, connection: &mut Connection, frame: &[u8]) {
        let unsent_bytes = connection.unsent_bytes();
        let has_room = if frame.len() <= REPLY_ROOM_BYTES {
            self.is_stuck() || self.budget.has_reply_room(unsent_bytes, frame.len())
        } else {
            self.budget.has_frame_room(frame.len())
        };
        let fits = has_room && unsent_bytes + frame.len() <= CONNECTION_OUTPUT_BYTES_MAX;
        if connection.output.bytes.capacity() == 0 {
            connection.output.bytes = self.spare.take();
        }
        // Only a read carries a large value: it was not answered, and nothing was changed.
        if !fits
            && let Ok(Some((reply, _))) = Reply::decode(frame)
            && reply.value.len() > OVERLOADED_VALUE_BYTES
        {
            connection.output.overloaded(reply.id, OVERLOADED_RETRY_MS);
        } else {
            connection.output.reserve(frame.len());
            connection.output.bytes.extend_from_slice(frame);
        }
        self.recharge(connection);
    }

    fn resume_inflight(&mut self, slot: u32, connection: &mut Connection) {
        if connection.stall == Some(Stall::Inflight) && connection.inflight < CONNECTION_INFLIGHT_MAX / 2 {
            self.resume(slot, connection);
        }
    }

    /// Serves a request that may span cores: at once where this core can answer alone, else by one part per core.
    ///
    /// Returns why the connection must stall instead, the request then being untouched.
    pub(super) fn span(
        &mut self,
        slot: u32,
        connection: &mut Connection,
        head: RequestHead,
        frame: &[u8],
    ) -> Option<Stall> {
        let parts = match self.cut(head, frame) {
            Ok(parts) => parts,
            Err(status) => {
                connection.output.status(head.id, status);
                self.shard.count(head.operation, status);
                self.counters.answered += 1;
                self.mark_dirty(slot, connection);
                return None;
            }
        };
        let remote = || parts.frames.iter().filter(|(core, _)| *core != self.options.core);
        for (core, frame) in remote() {
            if !self.mesh.has_credit(usize::from(*core), frame.len()) {
                return Some(Stall::Credit(usize::from(*core)));
            }
        }
        if remote().next().is_none() && head.operation != Operation::Stats {
            let mut output = std::mem::take(&mut connection.output);
            let start = output.bytes.len();
            if let Outcome::Pending(ticket) = self.execute_here(&head, frame, &mut output) {
                let asker = Asker::Connection { slot, generation: connection.generation };
                self.hold(ticket, asker, &head, &mut output.bytes, start);
                connection.inflight += 1;
            }
            connection.output = output;
            self.mark_dirty(slot, connection);
            return None;
        }
        if connection.inflight >= CONNECTION_INFLIGHT_MAX || self.gathers.len() >= GATHERS_MAX {
            return if connection.inflight > 0 {
                Some(Stall::Inflight)
            } else {
                connection.output.overloaded(head.id, OVERLOADED_RETRY_MS);
                self.shard.count(head.operation, Status::Overloaded);
                self.counters.answered += 1;
                self.mark_dirty(slot, connection);
                None
            };
        }
        connection.inflight += 1;
        let key = self.gathers.insert(Gather {
            slot,
            generation: connection.generation,
            id: head.id,
            operation: head.operation,
            order: parts.order,
            parts: parts.frames.iter().map(|(core, _)| GatherPart { core: *core, reply: None }).collect(),
            part_bytes: 0,
        }) as u32;
        for (core, frame) in &parts.frames {
            if *core == self.options.core {
                self.execute_part(key, frame);
            } else {
                self.mesh.request(usize::from(*core), Token::Gather(key).to_u64(), frame, self.now);
                self.counters.forwarded += 1;
            }
        }
        if self.gathers[key as usize].is_complete() {
            connection.inflight -= 1;
            self.finish_gather(key, connection);
            self.mark_dirty(slot, connection);
        }
        None
    }

    /// Carries out this core's own part of a gather.
    fn execute_part(&mut self, key: u32, frame: &[u8]) {
        let Ok(Some(head)) = request_head(frame, self.options.value_bytes_max) else {
            unreachable!("the part was encoded here");
        };
        let mut output = Output::default();
        match self.execute_here(&head, frame, &mut output) {
            Outcome::Later => unreachable!("what has several keys or none is answered at once"),
            Outcome::Done => self.answer_gather(key, self.options.core, &output.bytes),
            Outcome::Pending(ticket) => self.hold(ticket, Asker::Gather(key), &head, &mut output.bytes, 0),
        }
    }

    fn execute_here(&mut self, head: &RequestHead, frame: &[u8], output: &mut Output) -> Outcome {
        self.counters.answered += 1;
        match Request::decode(*head, frame) {
            Ok(Request { body: RequestBody::Stats, .. }) => self.reply_own_stats(head.id, output),
            Ok(request) => {
                let limits = ReplyLimits { pin_bytes_min: usize::MAX, ..self.reply_limits() };
                return self.shard.execute(self.now.instant(), &request, 0, limits, output);
            }
            Err(refusal) => output.status(head.id, refusal.status),
        }
        Outcome::Done
    }

    pub(super) fn deliver_part(&mut self, key: u32, origin: usize, frame: &[u8]) {
        self.answer_gather(key, origin as u16, frame);
        let Some(gather) = self.gathers.get(key as usize).filter(|gather| gather.is_complete()) else { return };
        let (slot, generation) = (gather.slot, gather.generation);
        match self.take(slot) {
            Some(mut connection) if connection.generation == generation => {
                connection.inflight -= 1;
                self.finish_gather(key, &mut connection);
                self.recharge(&mut connection);
                self.resume_inflight(slot, &mut connection);
                self.mark_dirty(slot, &mut connection);
                self.put(slot, connection);
            }
            Some(other) => {
                self.put(slot, other);
                drop(self.remove_gather(key));
            }
            None => drop(self.remove_gather(key)),
        }
    }

    /// Keeps one core's part, on account. Where the buffers have no room for what was read, the part's keys are
    /// `Overloaded`; what was written is always told.
    fn answer_gather(&mut self, key: u32, core: u16, frame: &[u8]) {
        let fits = self.budget.has_frame_room(frame.len());
        let Some(gather) = self.gathers.get_mut(key as usize) else { return };
        let before = gather.part_bytes;
        if gather.operation == Operation::MultiGet && !fits {
            let mut refused = Vec::new();
            let refusal = Reply::status(gather.id, Status::Overloaded);
            Reply { retry_after_ms: OVERLOADED_RETRY_MS, ..refusal }.encode(&mut refused);
            gather.answer(core, &refused);
        } else {
            gather.answer(core, frame);
        }
        self.budget.recharge(part_charge(before), part_charge(gather.part_bytes));
    }

    fn remove_gather(&mut self, key: u32) -> Gather {
        let gather = self.gathers.remove(key as usize);
        self.budget.recharge(part_charge(gather.part_bytes), Charge::default());
        gather
    }

    fn finish_gather(&mut self, key: u32, connection: &mut Connection) {
        let gather = self.remove_gather(key);
        let status = gather.finish(|cores| self.node_stats(cores), &mut connection.output);
        self.shard.count(gather.operation, status);
    }

    /// One frame per core that has a part in the request.
    fn cut(&self, head: RequestHead, frame: &[u8]) -> Result<Parts, Status> {
        let options =
            RequestOptions { epoch: head.epoch, flags: head.flags.without_pieces(), trace: None, retry: None };
        let mut bodies: Vec<(u16, usize, Vec<u8>)> = Vec::new();
        let mut order = Vec::new();
        let mut add = |core: u16, push: &mut dyn FnMut(&mut Vec<u8>)| {
            order.push(core);
            let index = bodies.iter().position(|(known, _, _)| *known == core).unwrap_or_else(|| {
                bodies.push((core, 0, Vec::new()));
                bodies.len() - 1
            });
            bodies[index].1 += 1;
            push(&mut bodies[index].2);
        };
        let takes_any = head.flags.has(RequestFlags::ANY_COPY);
        let owner = |key: &[u8]| match self.shard.hash(key) {
            hash if self.shard.can_read(hash, takes_any) => self.options.core,
            hash => match self.shard.route(hash) {
                Route::Core(core) => core,
                // A key of another node is answered `Moved` by this core's part.
                Route::Here | Route::Moved { .. } => self.options.core,
            },
        };
        let body = multi_body(head, frame)?;
        match body {
            RequestBody::MultiGet(keys) => {
                keys.iter().for_each(|key| add(owner(key), &mut |body: &mut Vec<u8>| Keys::push(key, body)));
            }
            RequestBody::MultiSet(items) => {
                items.iter().for_each(|item| add(owner(item.key), &mut |body: &mut Vec<u8>| Items::push(item, body)));
            }
            _ => {
                debug_assert!(usize::from(self.options.cores) <= CORES_MAX);
                let mut part = Vec::new();
                body.encode(head.id, options, &mut part);
                let frames = (0..self.options.cores).map(|core| (core, part.clone())).collect();
                return Ok(Parts { frames, order: Vec::new() });
            }
        }
        if bodies.is_empty() {
            bodies.push((self.options.core, 0, Vec::new()));
        }
        let mut frames = Vec::with_capacity(bodies.len());
        for (core, count, bytes) in &bodies {
            let part = match body {
                RequestBody::MultiGet(_) => RequestBody::MultiGet(Keys::parse(*count, bytes).ok_or(Status::Malformed)?),
                _ => RequestBody::MultiSet(Items::parse(*count, bytes).ok_or(Status::Malformed)?),
            };
            let mut frame = Vec::new();
            part.encode(head.id, options, &mut frame);
            frames.push((*core, frame));
        }
        Ok(Parts { frames, order })
    }
}

/// Replies with at most this many bytes of value are never replaced by `Overloaded`: a write's result must arrive.
const OVERLOADED_VALUE_BYTES: usize = 64;
/// Bytes of such a reply's frame.
const ALWAYS_TOLD_FRAME_BYTES: usize = ReplyHeader::FRAME_BYTES + OVERLOADED_VALUE_BYTES;

/// What the parts of a gather take of the buffers.
const fn part_charge(bytes: usize) -> Charge {
    Charge { bytes, received_bytes: 0 }
}

/// How far the delivery of a batch has come.
struct Delivered {
    offset: usize,
    /// The next reply waits for room.
    is_held: bool,
}

/// A spanning request, cut.
struct Parts {
    frames: Vec<(u16, Vec<u8>)>,
    /// The core of each key, in the order asked.
    order: Vec<u16>,
}
