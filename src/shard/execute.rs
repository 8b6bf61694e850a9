//! The one dispatch of operations: a decoded request in, its reply appended, synchronously.
//!
//! Every operation on keys ends here, whether it came from a socket of this core, over the mesh, or (later) by another
//! protocol. What spans cores (a multi operation over several owners, flush, stats) is cut into one part per core above.

use quoit_wire::limits::MULTI_REPLY_BYTES_MAX;
use quoit_wire::peer::Put;
use quoit_wire::topology::vnode_of;
use quoit_wire::{
    IncrementParameters, Item, Items, Keys, MultiResult, Operation, Reply, Request, RequestBody, RequestFlags,
    RequestHead, RetryToken, SetCondition, SetParameters, Status, Version, WriteMode,
};

use super::output::{OpenMulti, Output, ReplyLimits};
use super::{Outcome, Route, Shard};
use crate::cluster::copies::Need;
use crate::cluster::retries::{Recall, WriteResult};
use crate::store::{
    Condition, End, Expiry, ExtendOutcome, Increment, IncrementOutcome, SetOutcome, TouchOutcome, Write,
};
use crate::time::{Duration, Instant};

/// Keys of a multi-get whose memory is fetched together: enough to hide its latency, few enough for the first-level cache.
const MULTI_WINDOW: usize = 32;

impl Shard {
    /// Executes the request in `frame`, which is whole and whose head was read from it, and appends its reply to `output`.
    /// What is malformed behind its head is refused.
    ///
    /// This shard owns the request's keys; `hash` is its key's, zero where it has none. Hello and stats are answered above
    /// and not here. In a cluster the reply may have to wait.
    #[inline(always)]
    pub fn execute_frame(
        &mut self,
        now: Instant,
        head: RequestHead,
        frame: &[u8],
        hash: u64,
        limits: ReplyLimits,
        output: &mut Output,
    ) -> Outcome {
        if self.cluster.is_none() && head.is_plain_get() {
            let status = self.get(now, hash, head.key(frame), head.id, limits, output);
            self.counters.count(Operation::Get, status);
            return Outcome::Done;
        }
        self.execute_other_frame(now, head, frame, hash, limits, output)
    }

    /// What is more than a get, or has a cluster to ask.
    #[inline(never)]
    fn execute_other_frame(
        &mut self,
        now: Instant,
        head: RequestHead,
        frame: &[u8],
        hash: u64,
        limits: ReplyLimits,
        output: &mut Output,
    ) -> Outcome {
        if self.cluster.is_some() {
            return self.execute_frame_in_cluster(now, head, frame, hash, limits, output);
        }
        match Request::decode(head, frame) {
            Ok(request) => self.execute(now, &request, hash, limits, output),
            Err(refusal) => self.refuse_frame(&head, refusal.status, output),
        }
    }

    /// Answers a request whose body can't be read.
    pub(super) fn refuse_frame(&mut self, head: &RequestHead, status: Status, output: &mut Output) -> Outcome {
        output.status(head.id, status);
        self.counters.count(head.operation, status);
        Outcome::Done
    }

    /// Whether the multi-get or multi-set in `frame` is this shard's to answer alone, being well-formed and owning each of
    /// its keys. Another operation is not.
    pub fn owns_all(&self, head: RequestHead, frame: &[u8]) -> bool {
        if !matches!(head.operation, Operation::MultiGet | Operation::MultiSet) {
            return false;
        }
        let takes_any = head.flags.has(RequestFlags::ANY_COPY);
        let is_here = |key| self.can_read(self.hash(key), takes_any);
        match Request::decode(head, frame) {
            Ok(Request { body: RequestBody::MultiGet(keys), .. }) => keys.iter().all(is_here),
            Ok(Request { body: RequestBody::MultiSet(items), .. }) => items.iter().all(|item| is_here(item.key)),
            Ok(_) | Err(_) => false,
        }
    }

    /// Executes a request that is decoded; else as [`Self::execute_frame`].
    pub fn execute(
        &mut self,
        now: Instant,
        request: &Request<'_>,
        hash: u64,
        limits: ReplyLimits,
        output: &mut Output,
    ) -> Outcome {
        if self.cluster.is_some() {
            return self.execute_in_cluster(now, request, hash, limits, output);
        }
        let id = request.head.id;
        let status = match self.refusal(request) {
            Some(status) => {
                output.status(id, status);
                status
            }
            None => self.execute_checked(now, request, hash, limits, output),
        };
        self.counters.count(request.head.operation, status);
        Outcome::Done
    }

    /// Why the request's flags can't be met by this node, if so.
    pub(super) fn refusal(&self, request: &Request<'_>) -> Option<Status> {
        const RESERVED: [RequestFlags; 2] = [RequestFlags::LEASE_ON_MISS, RequestFlags::STALE_IS_FINE];
        let flags = request.head.flags;
        if RESERVED.iter().any(|reserved| flags.has(*reserved)) {
            return Some(Status::Unsupported);
        }
        // A node without a cluster has one copy: a write that asks for another is refused, not weakened.
        let wants_copies = self.cluster.is_none() && matches!(flags.write_mode(), WriteMode::One | WriteMode::All);
        (wants_copies && request.head.operation.is_write()).then_some(Status::NotEnoughCopies)
    }

    pub(super) fn execute_checked(
        &mut self,
        now: Instant,
        request: &Request<'_>,
        hash: u64,
        limits: ReplyLimits,
        output: &mut Output,
    ) -> Status {
        let id = request.head.id;
        match request.body {
            RequestBody::Get { key } => self.get(now, hash, key, id, limits, output),
            RequestBody::GetAndTouch { key, ttl_ms } => {
                match self.store.touch(now, hash, key, Duration::from_millis(ttl_ms)) {
                    TouchOutcome::Touched(_) => self.get(now, hash, key, id, limits, output),
                    TouchOutcome::Missing => answer(id, Status::Miss, Version::NONE, output),
                    TouchOutcome::NoSpace => answer_write(id, Ok(self.full()), limits, output),
                }
            }
            RequestBody::Set { .. }
            | RequestBody::Delete { .. }
            | RequestBody::Touch { .. }
            | RequestBody::Increment { .. }
            | RequestBody::Append { .. }
            | RequestBody::Prepend { .. } => {
                let result = match request.retry {
                    Some(token) => {
                        self.once(now, token, hash, is_repeat(request), |shard| shard.write(now, hash, &request.body))
                    }
                    None => Ok(self.write(now, hash, &request.body)),
                };
                answer_write(id, result, limits, output)
            }
            RequestBody::MultiGet(keys) => {
                let takes_any = request.head.flags.has(RequestFlags::ANY_COPY) && self.cluster.is_some();
                self.multi_get(now, &keys, takes_any, id, limits, output)
            }
            RequestBody::MultiSet(items) => self.multi_set(now, &items, id, output),
            RequestBody::Flush => {
                self.store.flush(now);
                answer(id, Status::Ok, Version::NONE, output)
            }
            RequestBody::Ping { payload } => {
                output.reply(&Reply { value: payload, ..Reply::status(id, Status::Ok) });
                Status::Ok
            }
            RequestBody::Topology { known_epoch } => {
                let epoch = self.topology.epoch;
                let body: &[u8] = if known_epoch >= epoch { &[] } else { self.topology_body() };
                let version = Version::from_u64(u64::from(epoch));
                output.reply(&Reply { version, value: body, ..Reply::status(id, Status::Ok) });
                Status::Ok
            }
            RequestBody::TopologyChanges { known_epoch } => self.tell_changes(id, known_epoch, output),
            RequestBody::Hello { .. } | RequestBody::Stats => answer(id, Status::Malformed, Version::NONE, output),
        }
    }

    /// Not inlined, so that what it calls is: it has several callers, and one call is cheaper than the two of a get whose
    /// parts are shared instead (57 of 810 instructions of a get's execution).
    #[inline(never)]
    pub(super) fn get(
        &mut self,
        now: Instant,
        hash: u64,
        key: &[u8],
        id: u32,
        limits: ReplyLimits,
        output: &mut Output,
    ) -> Status {
        match self.store.get(now, hash, key) {
            Some(hit) => output.hit(id, &hit, limits),
            None => answer(id, Status::Miss, Version::NONE, output),
        }
    }

    /// Applies a write once per token: a repeat gets the first result. `Err` carries a refusal.
    pub(super) fn once(
        &mut self,
        now: Instant,
        token: RetryToken,
        hash: u64,
        is_repeat: bool,
        write: impl FnOnce(&mut Self) -> WriteResult,
    ) -> Result<WriteResult, Status> {
        match self.retries.recall(now, token, is_repeat) {
            Recall::Repeat(result) => Ok(result),
            Recall::Forgotten => Err(Status::OutcomeUnknown),
            Recall::Full => Err(Status::Overloaded),
            Recall::New => {
                let result = write(self);
                // What changed nothing and may go better next time is not a result to repeat.
                if !matches!(result.status, Status::NoSpace | Status::Overloaded) {
                    let vnode = vnode_of(hash, self.topology.vnode_bits) as u32;
                    self.retries.record(token, vnode, result);
                }
                Ok(result)
            }
        }
    }

    fn write(&mut self, now: Instant, hash: u64, body: &RequestBody<'_>) -> WriteResult {
        match *body {
            RequestBody::Set { key, parameters, condition, value } => {
                let write = Write {
                    value,
                    client_flags: parameters.client_flags,
                    expiry: expiry_of(&parameters),
                    condition: condition_of(condition, &parameters),
                };
                let outcome = self.store.set(now, hash, key, write);
                self.set_result(outcome)
            }
            RequestBody::Delete { key } => match self.store.delete(now, hash, key) {
                Some(version) => done(version),
                None => ended(Status::Miss),
            },
            RequestBody::Touch { key, ttl_ms } => {
                match self.store.touch(now, hash, key, Duration::from_millis(ttl_ms)) {
                    TouchOutcome::Touched(version) => done(version),
                    TouchOutcome::Missing => ended(Status::Miss),
                    TouchOutcome::NoSpace => self.full(),
                }
            }
            RequestBody::Increment { key, parameters } => self.increment(now, hash, key, &parameters),
            RequestBody::Append { key, value } => self.extend(now, hash, key, value, End::Back),
            RequestBody::Prepend { key, value } => self.extend(now, hash, key, value, End::Front),
            RequestBody::Hello { .. }
            | RequestBody::Ping { .. }
            | RequestBody::Get { .. }
            | RequestBody::GetAndTouch { .. }
            | RequestBody::MultiGet(_)
            | RequestBody::MultiSet(_)
            | RequestBody::Flush
            | RequestBody::Stats
            | RequestBody::Topology { .. }
            | RequestBody::TopologyChanges { .. } => unreachable!("only writes of one key come here"),
        }
    }

    fn increment(&mut self, now: Instant, hash: u64, key: &[u8], parameters: &IncrementParameters) -> WriteResult {
        let create = (parameters.create == 1).then(|| (parameters.initial, Duration::from_millis(parameters.ttl_ms)));
        match self.store.increment(now, hash, key, Increment { delta: parameters.delta, create }) {
            IncrementOutcome::Stored { version, value } => {
                WriteResult { status: Status::Ok, version, counter: Some(value) }
            }
            IncrementOutcome::Missing => ended(Status::Miss),
            IncrementOutcome::NotANumber => ended(Status::NotANumber),
            IncrementOutcome::Overflow => ended(Status::CounterOverflow),
            IncrementOutcome::NoSpace => self.full(),
        }
    }

    fn extend(&mut self, now: Instant, hash: u64, key: &[u8], bytes: &[u8], end: End) -> WriteResult {
        match self.store.extend(now, hash, key, bytes, end) {
            ExtendOutcome::Stored(version) => done(version),
            ExtendOutcome::Missing => ended(Status::Miss),
            ExtendOutcome::TooLarge => ended(Status::TooLarge),
            ExtendOutcome::NoSpace => self.full(),
        }
    }

    /// A set's outcome as it is answered.
    pub(super) fn set_result(&self, outcome: SetOutcome) -> WriteResult {
        match outcome {
            SetOutcome::Stored(version) => done(version),
            SetOutcome::ConditionFailed(version) => {
                let version = version.unwrap_or(Version::NONE);
                WriteResult { status: Status::ConditionFailed, version, counter: None }
            }
            SetOutcome::TooLarge => ended(Status::TooLarge),
            SetOutcome::NoSpace => self.full(),
        }
    }

    /// How a write ends that has found no memory. Where the policy evicts, that passes: what could go is being sent, or its
    /// memory is promised to values that are arriving.
    fn full(&self) -> WriteResult {
        ended(if self.store.evicts() { Status::Overloaded } else { Status::NoSpace })
    }

    fn multi_get(
        &mut self,
        now: Instant,
        keys: &Keys<'_>,
        takes_any: bool,
        id: u32,
        limits: ReplyLimits,
        output: &mut Output,
    ) -> Status {
        let open = output.open_multi(id);
        let mut keys = keys.iter();
        let mut window: [(&[u8], u64); MULTI_WINDOW] = [(&[], 0); MULTI_WINDOW];
        loop {
            let mut count = 0;
            for (place, key) in window.iter_mut().zip(keys.by_ref()) {
                *place = (key, self.hash(key));
                count += 1;
            }
            let window = &window[..count];
            self.prefetch(window.iter().map(|(_, hash)| *hash));
            for (key, hash) in window {
                let status = match self.can_read(*hash, takes_any) {
                    true if takes_any => self.multi_get_any(now, *hash, key, &open, limits, output),
                    true => self.multi_get_one(now, *hash, key, &open, limits, output),
                    false => multi_ended(Status::Moved, Version::from_u64(u64::from(self.topology.epoch)), output),
                };
                self.counters.count(Operation::Get, status);
            }
            if count < MULTI_WINDOW {
                break;
            }
        }
        output.close_multi(&open);
        Status::Ok
    }

    fn multi_get_one(
        &mut self,
        now: Instant,
        hash: u64,
        key: &[u8],
        open: &OpenMulti,
        limits: ReplyLimits,
        output: &mut Output,
    ) -> Status {
        if let Some(status) = self.held_back(now, hash, Need::Read) {
            return multi_ended(status, self.version_with(status), output);
        }
        let before = self.last_write(hash);
        let start = output.bytes.len();
        let status = match self.store.get(now, hash, key) {
            Some(hit) => output.multi_hit(open, &hit, MULTI_REPLY_BYTES_MAX, limits),
            None => multi_ended(Status::Miss, Version::NONE, output),
        };
        self.settle_key(now, hash, key, before, None, None);
        if self.notes_stale() {
            output.mark_result_stale(start);
        }
        status
    }

    fn multi_get_any(
        &mut self,
        now: Instant,
        hash: u64,
        key: &[u8],
        open: &OpenMulti,
        limits: ReplyLimits,
        output: &mut Output,
    ) -> Status {
        let start = output.bytes.len();
        let read = self.read_any(now, hash, key, |hit| match hit {
            Some(hit) => output.multi_hit(open, &hit, MULTI_REPLY_BYTES_MAX, limits),
            None => multi_ended(Status::Miss, Version::NONE, output),
        });
        match read {
            Ok(status) => {
                if self.notes_stale() {
                    output.mark_result_stale(start);
                }
                status
            }
            Err(status) => multi_ended(status, self.version_with(status), output),
        }
    }

    fn multi_set(&mut self, now: Instant, items: &Items<'_>, id: u32, output: &mut Output) -> Status {
        items.iter().for_each(|item| self.store.prefetch_bucket(self.hash(item.key)));
        let open = output.open_multi(id);
        for item in items.iter() {
            let hash = self.hash(item.key);
            let (status, version) = match self.route(hash) {
                Route::Here => match self.held_back(now, hash, self.write_need()) {
                    Some(status) => (status, self.version_with(status)),
                    None => {
                        let write = Write {
                            value: item.value,
                            client_flags: item.client_flags,
                            expiry: Expiry::after(Duration::from_millis(item.ttl_ms)),
                            condition: Condition::Always,
                        };
                        let before = self.last_write(hash);
                        let outcome = self.store.set(now, hash, item.key, write);
                        let result = self.set_result(outcome);
                        let Item { key, value, client_flags, ttl_ms } = item;
                        let put = Put { key, value, client_flags, ttl_ms, idle_ms: 0 };
                        self.settle_key(now, hash, key, before, None, Some(put));
                        (result.status, result.version)
                    }
                },
                Route::Core(_) | Route::Moved { .. } => {
                    (Status::Moved, Version::from_u64(u64::from(self.topology.epoch)))
                }
            };
            self.counters.count(Operation::Set, multi_ended(status, version, output));
        }
        output.close_multi(&open);
        Status::Ok
    }
}

/// Whether the client says it has sent this request before.
pub(super) const fn is_repeat(request: &Request<'_>) -> bool {
    request.head.flags.has(RequestFlags::REPEAT)
}

/// The store's expiry for a set's parameters.
pub(super) fn expiry_of(parameters: &SetParameters) -> Expiry {
    Expiry { ttl: Duration::from_millis(parameters.ttl_ms), idle: parameters.options & SetParameters::IDLE_EXPIRY != 0 }
}

/// The store's condition for a set's parameters.
pub(super) const fn condition_of(condition: SetCondition, parameters: &SetParameters) -> Condition {
    match condition {
        SetCondition::Always => Condition::Always,
        SetCondition::IfAbsent => Condition::IfAbsent,
        SetCondition::IfPresent => Condition::IfPresent,
        SetCondition::IfVersion => Condition::IfVersion(Version::from_u64(parameters.if_version)),
    }
}

/// Appends the reply to a write of one key and returns its status.
pub(super) fn answer_write(
    id: u32,
    result: Result<WriteResult, Status>,
    limits: ReplyLimits,
    output: &mut Output,
) -> Status {
    match result {
        Ok(WriteResult { status, version, counter: Some(counter) }) => {
            output.reply(&Reply { version, value: &counter.to_le_bytes(), ..Reply::status(id, status) });
            status
        }
        Ok(WriteResult { status: Status::Overloaded, .. }) | Err(Status::Overloaded) => {
            output.overloaded(id, limits.retry_after_ms);
            Status::Overloaded
        }
        Ok(WriteResult { status, version, counter: None }) => answer(id, status, version, output),
        Err(status) => answer(id, status, Version::NONE, output),
    }
}

pub(super) fn answer(id: u32, status: Status, version: Version, output: &mut Output) -> Status {
    output.written(id, status, version);
    status
}

fn multi_ended(status: Status, version: Version, output: &mut Output) -> Status {
    output.multi_result(&MultiResult {
        status,
        version,
        client_flags: 0,
        retry_after_ms: 0,
        is_stale: false,
        value: &[],
    });
    status
}

const fn done(version: Version) -> WriteResult {
    WriteResult { status: Status::Ok, version, counter: None }
}

const fn ended(status: Status) -> WriteResult {
    WriteResult { status, version: Version::NONE, counter: None }
}
