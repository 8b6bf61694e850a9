//! Requests as a caller makes them, kept as the bytes they will travel as.
//!
//! A request is encoded once, when it is made. What only the moment of sending knows (id, epoch, retry token) is put
//! before those bytes each time they are sent, so a retry encodes nothing again. Whatever is wrong with a key or a value is
//! found here and becomes the request's answer: making one never fails.

use std::ops::Range;
use std::time::Duration;

use quoit_wire::limits::{KEY_BYTES_MAX, MULTI_KEYS_MAX, PING_BYTES_MAX, VALUE_BYTES_MAX};
use quoit_wire::{
    IncrementParameters, Item, Items, Keys, Operation, RequestBody, RequestFlags, RequestHeader, RequestOptions,
    RetryToken, SetCondition, SetParameters, Status, TraceContext, Version, WriteMode,
};

use crate::error::Error;

/// One request, ready to be handed to a client or a session.
///
/// ```
/// use quoit_client::{Request, SetOptions};
///
/// let batch = vec![
///     Request::set("greeting", "hello", SetOptions::default()),
///     Request::get("greeting"),
/// ];
/// # assert_eq!(batch.len(), 2);
/// ```
#[derive(Clone, Debug)]
pub struct Request(pub(crate) Ask);

/// How a set is carried out. The default keeps the item for ever, or until it is evicted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetOptions {
    /// Time to live; `None` is for ever. Rounded up to whole milliseconds, at least one: what is left of a time that has
    /// run out, zero, never comes to mean for ever.
    pub ttl: Option<Duration>,
    /// Kept with the item and given back with every hit.
    pub client_flags: u32,
    /// When the set is carried out.
    pub condition: Condition,
    /// Whether the time to live starts anew with every hit.
    pub idle: bool,
}

/// When a set is carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Always.
    #[default]
    Always,
    /// Only when there is no such item.
    IfAbsent,
    /// Only when there is one.
    IfPresent,
    /// Only when there is one of exactly this version: compare and swap.
    IfVersion(Version),
}

/// What an increment does where there is no counter yet. The default leaves it missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IncrementOptions {
    /// The value a missing counter starts with (nothing is added to it); `None`: a missing counter is a miss.
    pub initial: Option<i64>,
    /// Time to live of a counter that is made; `None` is for ever. An existing one keeps its own.
    pub ttl: Option<Duration>,
}

/// Whom a request concerns, and its bytes.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    /// The core that owns the frame's key.
    Owner(Frame),
    /// Any core.
    Anyone(Frame),
    /// One core of each node.
    EachNode(Frame),
    /// The cores that own the entries' keys.
    Entries(Vec<Entries>),
    /// Nobody: the request was wrong from the start.
    Refused(Error),
}

/// A frame but for its id, its epoch and its retry token.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) operation: Operation,
    /// Whether a repeat must be recognised: the write is not idempotent.
    pub(crate) wants_token: bool,
    /// Flags other than those for the trace and the token.
    flags: RequestFlags,
    trace: Option<TraceContext>,
    key: Range<usize>,
    /// The frame as [`RequestBody::encode`] made it; its head is replaced when it is sent.
    bytes: Vec<u8>,
}

/// Entries of a multi-get or multi-set, as many as one frame may have at most; they travel as one frame per core.
#[derive(Clone, Debug)]
pub(crate) struct Entries {
    pub(crate) operation: Operation,
    pub(crate) flags: RequestFlags,
    pub(crate) count: usize,
    pub(crate) bytes: Vec<u8>,
}

/// What only the moment of sending knows of a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub(crate) id: u32,
    pub(crate) epoch: u32,
    pub(crate) token: Option<RetryToken>,
    /// Sent before under the same token, and not answered.
    pub(crate) is_repeat: bool,
    /// The server understands trace contexts.
    pub(crate) takes_trace: bool,
}

impl Request {
    /// Reads the item of `key`. Answer: [`crate::Answer::into_hit`].
    pub fn get(key: impl AsRef<[u8]>) -> Self {
        Self::owner(&RequestBody::Get { key: key.as_ref() })
    }

    /// Writes an item. Answer: [`crate::Answer::into_set_outcome`].
    pub fn set(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>, options: SetOptions) -> Self {
        let (condition, if_version) = match options.condition {
            Condition::Always => (SetCondition::Always, 0),
            Condition::IfAbsent => (SetCondition::IfAbsent, 0),
            Condition::IfPresent => (SetCondition::IfPresent, 0),
            Condition::IfVersion(version) => (SetCondition::IfVersion, version.as_u64()),
        };
        let parameters = SetParameters {
            ttl_ms: ttl_ms(options.ttl),
            if_version,
            client_flags: options.client_flags,
            condition: condition as u8,
            options: if options.idle { SetParameters::IDLE_EXPIRY } else { 0 },
        };
        Self::owner(&RequestBody::Set { key: key.as_ref(), parameters, condition, value: value.as_ref() })
    }

    /// Removes the item of `key`. Answer: [`crate::Answer::into_version`].
    pub fn delete(key: impl AsRef<[u8]>) -> Self {
        Self::owner(&RequestBody::Delete { key: key.as_ref() })
    }

    /// Gives the item a new time to live from now; `None` is for ever. Answer: [`crate::Answer::into_version`].
    pub fn touch(key: impl AsRef<[u8]>, ttl: Option<Duration>) -> Self {
        Self::owner(&RequestBody::Touch { key: key.as_ref(), ttl_ms: ttl_ms(ttl) })
    }

    /// Reads the item and gives it a new time to live. Answer: [`crate::Answer::into_hit`].
    pub fn get_and_touch(key: impl AsRef<[u8]>, ttl: Option<Duration>) -> Self {
        Self::owner(&RequestBody::GetAndTouch { key: key.as_ref(), ttl_ms: ttl_ms(ttl) })
    }

    /// Adds `delta` to the decimal counter of `key`. Answer: [`crate::Answer::into_counter`].
    pub fn increment(key: impl AsRef<[u8]>, delta: i64, options: IncrementOptions) -> Self {
        let parameters = IncrementParameters {
            delta,
            initial: options.initial.unwrap_or_default(),
            ttl_ms: ttl_ms(options.ttl),
            create: u8::from(options.initial.is_some()),
        };
        Self::owner(&RequestBody::Increment { key: key.as_ref(), parameters })
    }

    /// Subtracts `by` from the decimal counter of `key`. Answer: [`crate::Answer::into_counter`].
    pub fn decrement(key: impl AsRef<[u8]>, by: u64, options: IncrementOptions) -> Self {
        match 0i64.checked_sub_unsigned(by) {
            Some(delta) => Self::increment(key, delta, options),
            None => Self(Ask::Refused(Error::from_status(Status::CounterOverflow, 0, &[]))),
        }
    }

    /// Adds bytes behind the item's value. Answer: [`crate::Answer::into_version`].
    pub fn append(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        Self::owner(&RequestBody::Append { key: key.as_ref(), value: value.as_ref() })
    }

    /// Adds bytes before the item's value. Answer: [`crate::Answer::into_version`].
    pub fn prepend(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        Self::owner(&RequestBody::Prepend { key: key.as_ref(), value: value.as_ref() })
    }

    /// Reads many items, one frame per core. Answers: one per key, in the order given.
    pub fn multi_get(keys: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Self {
        let mut all = Vec::new();
        for key in keys {
            if let Some(error) = wrong_key(key.as_ref()) {
                return Self(Ask::Refused(error));
            }
            let entries = Entries::with_room(&mut all, Operation::MultiGet);
            Keys::push(key.as_ref(), &mut entries.bytes);
            entries.count += 1;
        }
        Self(Ask::Entries(all))
    }

    /// Writes many items, one frame per core. Answers: one per item, in the order given.
    pub fn multi_set<'a>(items: impl IntoIterator<Item = Item<'a>>) -> Self {
        let mut all = Vec::new();
        for item in items {
            if let Some(error) = wrong_key(item.key).or_else(|| wrong_value(item.value)) {
                return Self(Ask::Refused(error));
            }
            let entries = Entries::with_room(&mut all, Operation::MultiSet);
            Items::push(item, &mut entries.bytes);
            entries.count += 1;
        }
        Self(Ask::Entries(all))
    }

    /// Removes every item of the cluster that was acknowledged before. Answers: one per node.
    pub fn flush() -> Self {
        Self(Ask::EachNode(Frame::new(&RequestBody::Flush)))
    }

    /// Reads every node's counters. Answers: one per node, [`crate::Answer::into_stats`].
    pub fn stats() -> Self {
        Self(Ask::EachNode(Frame::new(&RequestBody::Stats)))
    }

    /// Asks one server for a sign of life; the answer's value is `payload`.
    pub fn ping(payload: impl AsRef<[u8]>) -> Self {
        let payload = payload.as_ref();
        if payload.len() > PING_BYTES_MAX {
            return Self(Ask::Refused(Error::TooLarge { bytes: payload.len(), bytes_max: PING_BYTES_MAX }));
        }
        Self(Ask::Anyone(Frame::new(&RequestBody::Ping { payload })))
    }

    /// Reads the topology from one server. Answer: [`crate::Answer::into_topology`].
    pub fn topology() -> Self {
        Self(Ask::Anyone(Frame::new(&RequestBody::Topology { known_epoch: 0 })))
    }

    /// The same request as part of a trace. Multi operations are not traced.
    #[must_use]
    pub fn with_trace(mut self, trace: TraceContext) -> Self {
        if let Ask::Owner(frame) | Ask::Anyone(frame) | Ask::EachNode(frame) = &mut self.0 {
            frame.trace = Some(trace);
        }
        self
    }

    /// The same write with this many copies to wait for; it does nothing to a read.
    #[must_use]
    pub fn with_write_mode(mut self, mode: WriteMode) -> Self {
        let change = |operation: Operation, flags: &mut RequestFlags| {
            if operation.is_write() {
                *flags = flags.with_write_mode(mode);
            }
        };
        match &mut self.0 {
            Ask::Owner(frame) | Ask::Anyone(frame) | Ask::EachNode(frame) => change(frame.operation, &mut frame.flags),
            Ask::Entries(all) => all.iter_mut().for_each(|entries| change(entries.operation, &mut entries.flags)),
            Ask::Refused(_) => {}
        }
        self
    }

    /// The same get or multi-get, which any in-sync copy may answer: with something stale or uncommitted, perhaps, and then
    /// it says so. Reads spread over all copies of an item by it, and go on while its primary is being replaced. It does
    /// nothing to other requests.
    #[must_use]
    pub fn from_any_copy(mut self) -> Self {
        let change = |operation: Operation, flags: &mut RequestFlags| {
            if matches!(operation, Operation::Get | Operation::MultiGet) {
                *flags = flags.with(RequestFlags::ANY_COPY);
            }
        };
        match &mut self.0 {
            Ask::Owner(frame) => change(frame.operation, &mut frame.flags),
            Ask::Entries(all) => all.iter_mut().for_each(|entries| change(entries.operation, &mut entries.flags)),
            Ask::Anyone(_) | Ask::EachNode(_) | Ask::Refused(_) => {}
        }
        self
    }

    fn owner(body: &RequestBody<'_>) -> Self {
        let key = body.key().unwrap_or_default();
        let value = match body {
            RequestBody::Set { value, .. } | RequestBody::Append { value, .. } | RequestBody::Prepend { value, .. } => {
                value
            }
            _ => &[][..],
        };
        match wrong_key(key).or_else(|| wrong_value(value)) {
            Some(error) => Self(Ask::Refused(error)),
            None => Self(Ask::Owner(Frame::new(body))),
        }
    }
}

impl Frame {
    /// Stands in for the id until the frame is sent; zero is the server's.
    const ID_UNSENT: u32 = 1;

    /// Encodes `body`, whose key and value have been checked.
    pub(crate) fn new(body: &RequestBody<'_>) -> Self {
        let mut bytes = Vec::new();
        body.encode(Self::ID_UNSENT, RequestOptions::default(), &mut bytes);
        // Key and payload end the frame, and only these operations have both; where the key lies follows from them.
        let key_bytes = body.key().map_or(0, <[u8]>::len);
        let payload_bytes = match body {
            RequestBody::Set { value, .. } | RequestBody::Append { value, .. } | RequestBody::Prepend { value, .. } => {
                value.len()
            }
            _ => 0,
        };
        let key_end = bytes.len() - payload_bytes;
        let wants_token = match body {
            RequestBody::Increment { .. } | RequestBody::Append { .. } | RequestBody::Prepend { .. } => true,
            RequestBody::Set { condition, .. } => *condition != SetCondition::Always,
            _ => false,
        };
        Self {
            operation: body.operation(),
            wants_token,
            flags: RequestFlags::default(),
            trace: None,
            key: key_end - key_bytes..key_end,
            bytes,
        }
    }

    /// The key; empty where the operation has none.
    pub(crate) fn key(&self) -> &[u8] {
        &self.bytes[self.key.clone()]
    }

    /// Bytes the frame holds in memory and, but for a token, on the wire.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len() + if self.trace.is_some() { TraceContext::BYTES } else { 0 }
    }

    /// Whether any in-sync copy may answer.
    pub(crate) const fn takes_any_copy(&self) -> bool {
        self.flags.has(RequestFlags::ANY_COPY)
    }

    /// The same frame with these flags.
    #[must_use]
    pub(crate) const fn with_flags(mut self, flags: RequestFlags) -> Self {
        self.flags = flags;
        self
    }

    /// Appends the frame with its head as it is sent now.
    pub(crate) fn put(&self, head: Head, out: &mut Vec<u8>) {
        let tail = &self.bytes[RequestHeader::FRAME_BYTES..];
        let trace = self.trace.filter(|_| head.takes_trace);
        let mut flags = self.flags;
        let mut length = RequestHeader::BYTES + tail.len();
        if trace.is_some() {
            flags = flags.with(RequestFlags::TRACE);
            length += TraceContext::BYTES;
        }
        if head.token.is_some() {
            flags = flags.with(RequestFlags::RETRY_TOKEN);
            length += RetryToken::BYTES;
            if head.is_repeat {
                flags = flags.with(RequestFlags::REPEAT);
            }
        }
        out.extend_from_slice(&(length as u32).to_le_bytes());
        let key_bytes = self.key.len() as u16;
        let (operation, flags) = (self.operation.code(), flags.bits());
        RequestHeader { id: head.id, epoch: head.epoch, operation, flags, key_bytes }.put(out);
        if let Some(trace) = trace {
            trace.put(out);
        }
        if let Some(token) = head.token {
            token.put(out);
        }
        out.extend_from_slice(tail);
    }
}

impl Entries {
    /// No entries yet.
    pub(crate) fn new(operation: Operation) -> Self {
        Self { operation, flags: RequestFlags::default(), count: 0, bytes: Vec::new() }
    }

    /// No entries yet, of the same operation and flags as these.
    pub(crate) const fn like(&self) -> Self {
        Self { operation: self.operation, flags: self.flags, count: 0, bytes: Vec::new() }
    }

    /// The last of `all`, or a new one behind it where that is full.
    fn with_room(all: &mut Vec<Self>, operation: Operation) -> &mut Self {
        if all.last().is_none_or(|entries| entries.count == MULTI_KEYS_MAX) {
            all.push(Self::new(operation));
        }
        all.last_mut().expect("one was pushed if there was none")
    }

    /// Appends the entries as one frame.
    pub(crate) fn put(&self, head: Head, out: &mut Vec<u8>) {
        let options = RequestOptions { epoch: head.epoch, flags: self.flags, ..RequestOptions::default() };
        match self.operation {
            Operation::MultiSet => RequestBody::MultiSet(self.items()).encode(head.id, options, out),
            _ => RequestBody::MultiGet(self.keys()).encode(head.id, options, out),
        }
    }

    /// The keys of a multi-get.
    pub(crate) fn keys(&self) -> Keys<'_> {
        Keys::parse(self.count, &self.bytes).expect("entries hold what was pushed")
    }

    /// The items of a multi-set.
    pub(crate) fn items(&self) -> Items<'_> {
        Items::parse(self.count, &self.bytes).expect("entries hold what was pushed")
    }
}

/// The wire's time to live: zero is for ever, so a shorter one than a millisecond becomes one.
fn ttl_ms(ttl: Option<Duration>) -> u64 {
    let Some(ttl) = ttl else { return 0 };
    u64::try_from(ttl.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX).max(1)
}

fn wrong_key(key: &[u8]) -> Option<Error> {
    (key.is_empty() || key.len() > KEY_BYTES_MAX).then_some(Error::Key { bytes: key.len() })
}

fn wrong_value(value: &[u8]) -> Option<Error> {
    (value.len() > VALUE_BYTES_MAX).then_some(Error::TooLarge { bytes: value.len(), bytes_max: VALUE_BYTES_MAX })
}

#[cfg(test)]
mod tests {
    use quoit_wire::request_head;

    use super::*;

    fn decoded(bytes: &[u8]) -> quoit_wire::Request<'_> {
        let head = request_head(bytes, VALUE_BYTES_MAX).unwrap().unwrap();
        assert_eq!(head.frame_bytes, bytes.len());
        quoit_wire::Request::decode(head, bytes).unwrap()
    }

    #[test]
    fn a_frame_is_sent_with_the_head_of_the_moment() {
        let trace = TraceContext { trace_id: [7; 16], span_id: [8; 8], trace_flags: 1 };
        let Request(Ask::Owner(frame)) = Request::append("key", "value").with_trace(trace) else { panic!() };
        assert_eq!(frame.key(), b"key");
        for (token, is_repeat, takes_trace) in [
            (None, false, false),
            (None, true, true),
            (Some(RetryToken { session: 5, number: 6 }), false, true),
            (Some(RetryToken { session: 5, number: 7 }), true, false),
        ] {
            let mut bytes = Vec::new();
            frame.put(Head { id: 77, epoch: 9, token, is_repeat, takes_trace }, &mut bytes);
            let request = decoded(&bytes);
            assert_eq!((request.head.id, request.head.epoch, request.retry), (77, 9, token));
            assert_eq!(request.head.flags.has(RequestFlags::REPEAT), is_repeat && token.is_some());
            assert_eq!(request.trace, takes_trace.then_some(trace));
            assert_eq!(request.body, RequestBody::Append { key: b"key", value: b"value" });
        }
    }

    #[test]
    fn a_write_says_its_mode_and_a_read_does_not() {
        let head = Head { id: 1, epoch: 2, token: None, is_repeat: false, takes_trace: false };
        let mode = |request: Request| {
            let mut bytes = Vec::new();
            match request.with_write_mode(WriteMode::All).0 {
                Ask::Owner(frame) => frame.put(head, &mut bytes),
                Ask::Entries(all) => all[0].put(head, &mut bytes),
                _ => panic!("one of the two"),
            }
            decoded(&bytes).head.flags.write_mode()
        };
        assert_eq!(mode(Request::set("k", "v", SetOptions::default())), WriteMode::All);
        assert_eq!(mode(Request::increment("k", 1, IncrementOptions::default())), WriteMode::All);
        let item = Item { key: b"k", value: b"v", ttl_ms: 0, client_flags: 0 };
        assert_eq!(mode(Request::multi_set([item])), WriteMode::All);
        assert_eq!(mode(Request::get("k")), WriteMode::ClusterDefault);
        assert_eq!(mode(Request::multi_get(["k"])), WriteMode::ClusterDefault);
    }

    #[test]
    fn only_writes_that_are_not_idempotent_want_a_token() {
        let wants = |request: Request| match request.0 {
            Ask::Owner(frame) => frame.wants_token,
            _ => false,
        };
        assert!(wants(Request::increment("k", 1, IncrementOptions::default())));
        assert!(wants(Request::append("k", "v")) && wants(Request::prepend("k", "v")));
        let if_absent = SetOptions { condition: Condition::IfAbsent, ..SetOptions::default() };
        assert!(wants(Request::set("k", "v", if_absent)));
        assert!(!wants(Request::set("k", "v", SetOptions::default())));
        assert!(!wants(Request::get("k")) && !wants(Request::delete("k")) && !wants(Request::touch("k", None)));
    }

    #[test]
    fn a_time_to_live_never_rounds_to_for_ever() {
        assert_eq!(ttl_ms(None), 0);
        assert_eq!(ttl_ms(Some(Duration::ZERO)), 1);
        assert_eq!(ttl_ms(Some(Duration::from_micros(1_001))), 2);
        assert_eq!(ttl_ms(Some(Duration::MAX)), u64::MAX);
    }

    #[test]
    fn keys_and_values_no_server_takes_are_refused_before_they_are_sent() {
        assert!(matches!(Request::get("").0, Ask::Refused(Error::Key { bytes: 0 })));
        assert!(matches!(Request::get(vec![0; 65_536]).0, Ask::Refused(Error::Key { bytes: 65_536 })));
        let value = vec![0; VALUE_BYTES_MAX + 1];
        assert!(matches!(Request::append("k", value).0, Ask::Refused(Error::TooLarge { .. })));
        assert!(matches!(Request::multi_get(["a", ""]).0, Ask::Refused(Error::Key { bytes: 0 })));
        assert!(matches!(
            Request::decrement("k", u64::MAX, IncrementOptions::default()).0,
            Ask::Refused(Error::Server { status: Status::CounterOverflow, .. })
        ));
    }
}
