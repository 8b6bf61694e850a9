//! Requests: the frame's head as soon as it is there, the whole request when it has arrived, and their encoding.
//!
//! Decoding borrows from the receive buffer and allocates nothing. It trusts nothing: a head that can't be right is
//! refused before its body is waited for, so nobody makes a server buffer bytes for a frame that will fail anyway.

use crate::header::{
    HelloParameters, IncrementParameters, MultiGetParameters, MultiSetParameters, RequestHeader, RetryToken,
    SetCondition, SetParameters, TopologyParameters, TouchParameters, TraceContext,
};
use crate::limits::{
    FRAME_BYTES_PLAUSIBLE, HELLO_FRAME_BYTES_MAX, KEY_BYTES_MAX, MULTI_FRAME_BYTES_MAX, MULTI_KEYS_MAX, PING_BYTES_MAX,
};
use crate::multi::{Items, Keys};
use crate::operation::{Operation, RequestFlags, Status};

/// A frame's head: enough to know its size, its kind and whether it can be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// The client's name for the request.
    pub id: u32,
    /// The epoch the client routed by.
    pub epoch: u32,
    /// What is asked.
    pub operation: Operation,
    /// How it is asked.
    pub flags: RequestFlags,
    /// Bytes of the whole frame, its length field included.
    pub frame_bytes: usize,
    /// Bytes of the key.
    pub key_bytes: usize,
    /// Where the key begins in the frame.
    pub key_offset: usize,
}

/// Why a frame is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The request's id where it is known; without one there is no reply to send.
    pub id: Option<u32>,
    /// What to answer.
    pub status: Status,
    /// Bytes to skip to the next frame; `None` when the stream can't be trusted any more and must be closed.
    pub frame_bytes: Option<usize>,
}

/// A whole request, borrowed from the bytes it arrived in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// The frame's head.
    pub head: RequestHead,
    /// The caller's trace context.
    pub trace: Option<TraceContext>,
    /// What makes a repeat recognisable.
    pub retry: Option<RetryToken>,
    /// What is asked, with its data.
    pub body: RequestBody<'a>,
}

/// What is asked, with its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are named for what the operation's own documentation says")]
pub enum RequestBody<'a> {
    Hello { parameters: HelloParameters, credentials: &'a [u8] },
    Ping { payload: &'a [u8] },
    Get { key: &'a [u8] },
    Set { key: &'a [u8], parameters: SetParameters, condition: SetCondition, value: &'a [u8] },
    Delete { key: &'a [u8] },
    Touch { key: &'a [u8], ttl_ms: u64 },
    GetAndTouch { key: &'a [u8], ttl_ms: u64 },
    Increment { key: &'a [u8], parameters: IncrementParameters },
    Append { key: &'a [u8], value: &'a [u8] },
    Prepend { key: &'a [u8], value: &'a [u8] },
    MultiGet(Keys<'a>),
    MultiSet(Items<'a>),
    Flush,
    Stats,
    Topology { known_epoch: u32 },
    TopologyChanges { known_epoch: u32 },
}

/// Bytes of an operation's fixed-size parameters.
const fn parameter_bytes(operation: Operation) -> usize {
    match operation {
        Operation::Hello => HelloParameters::BYTES,
        Operation::Set => SetParameters::BYTES,
        Operation::Touch | Operation::GetAndTouch => TouchParameters::BYTES,
        Operation::Increment => IncrementParameters::BYTES,
        Operation::MultiGet => MultiGetParameters::BYTES,
        Operation::MultiSet => MultiSetParameters::BYTES,
        Operation::Topology | Operation::TopologyChanges => TopologyParameters::BYTES,
        Operation::Ping
        | Operation::Get
        | Operation::Delete
        | Operation::Append
        | Operation::Prepend
        | Operation::Flush
        | Operation::Stats => 0,
    }
}

/// What stands behind the key, or behind the parameters where there is no key.
enum Payload {
    /// Nothing.
    None,
    /// Bytes kept as they are, up to this many.
    Bytes(usize),
    /// A value for the item, which a server may receive elsewhere than the rest of the frame.
    Value,
    /// Something that bounds the frame as a whole.
    Frame(usize),
}

const fn payload(operation: Operation) -> Payload {
    match operation {
        Operation::Set | Operation::Append | Operation::Prepend => Payload::Value,
        Operation::MultiGet | Operation::MultiSet => Payload::Frame(MULTI_FRAME_BYTES_MAX),
        Operation::Hello => Payload::Frame(HELLO_FRAME_BYTES_MAX),
        Operation::Ping => Payload::Bytes(PING_BYTES_MAX),
        Operation::Get
        | Operation::Delete
        | Operation::Touch
        | Operation::GetAndTouch
        | Operation::Increment
        | Operation::Flush
        | Operation::Stats
        | Operation::Topology
        | Operation::TopologyChanges => Payload::None,
    }
}

/// Reads the head of the frame at the front of `bytes`: `Ok(None)` when fewer than 16 bytes have arrived.
///
/// `value_bytes_max` is the server's configured largest value.
#[inline(always)]
pub fn request_head(bytes: &[u8], value_bytes_max: usize) -> Result<Option<RequestHead>, Refusal> {
    match plain_get_head(bytes) {
        Some(head) => Ok(Some(head)),
        None => any_request_head(bytes, value_bytes_max),
    }
}

/// The head of a get without flags, which nearly all requests are: all that must hold for one is two comparisons. `None`
/// where it is anything else, or nothing that can be right.
#[inline(always)]
fn plain_get_head(bytes: &[u8]) -> Option<RequestHead> {
    let front: &[u8; RequestHeader::FRAME_BYTES] = bytes.first_chunk()?;
    let (length, rest) = front.split_first_chunk::<4>()?;
    let (header, _) = RequestHeader::take(rest)?;
    let is_plain = header.operation == Operation::Get as u8
        && header.flags == 0
        && header.id != 0
        && header.key_bytes > 0
        && u32::from_le_bytes(*length) == RequestHeader::BYTES as u32 + u32::from(header.key_bytes);
    let key_bytes = usize::from(header.key_bytes);
    is_plain.then_some(RequestHead {
        id: header.id,
        epoch: header.epoch,
        operation: Operation::Get,
        flags: RequestFlags::default(),
        frame_bytes: RequestHeader::FRAME_BYTES + key_bytes,
        key_bytes,
        key_offset: RequestHeader::FRAME_BYTES,
    })
}

fn any_request_head(bytes: &[u8], value_bytes_max: usize) -> Result<Option<RequestHead>, Refusal> {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let frame_bytes = u32::from_le_bytes(*length) as usize + 4;
    if !(RequestHeader::FRAME_BYTES..=FRAME_BYTES_PLAUSIBLE).contains(&frame_bytes) {
        return Err(Refusal { id: None, status: Status::Malformed, frame_bytes: None });
    }
    let Some((header, _)) = RequestHeader::take(rest) else { return Ok(None) };
    if header.id == 0 {
        return Err(Refusal { id: None, status: Status::Malformed, frame_bytes: None });
    }
    let refuse = |status| Err(Refusal { id: Some(header.id), status, frame_bytes: Some(frame_bytes) });
    let Some(operation) = Operation::from_code(header.operation) else { return refuse(Status::UnknownOperation) };
    let Some(flags) = RequestFlags::from_bits(header.flags) else { return refuse(Status::Malformed) };
    if !RequestFlags::allowed(operation).has(flags) {
        return refuse(Status::Unsupported);
    }
    let key_bytes = usize::from(header.key_bytes);
    let mut key_offset = RequestHeader::FRAME_BYTES + parameter_bytes(operation);
    if flags.has(RequestFlags::TRACE) {
        key_offset += TraceContext::BYTES;
    }
    if flags.has(RequestFlags::RETRY_TOKEN) {
        key_offset += RetryToken::BYTES;
    }
    if operation.has_key() == (key_bytes == 0) {
        return refuse(Status::Malformed);
    }
    let Some(payload_bytes) = frame_bytes.checked_sub(key_offset + key_bytes) else {
        return refuse(Status::Malformed);
    };
    match payload(operation) {
        Payload::None if payload_bytes > 0 => return refuse(Status::Malformed),
        Payload::Bytes(bytes_max) if payload_bytes > bytes_max => return refuse(Status::TooLarge),
        Payload::Value if payload_bytes > value_bytes_max => return refuse(Status::TooLarge),
        Payload::Frame(frame_bytes_max) if frame_bytes > frame_bytes_max => return refuse(Status::TooLarge),
        _ => {}
    }
    Ok(Some(RequestHead { id: header.id, epoch: header.epoch, operation, flags, frame_bytes, key_bytes, key_offset }))
}

impl RequestHead {
    /// Whether this is a get without flags: its frame is header and key, and there is nothing more to decode.
    #[inline]
    pub fn is_plain_get(&self) -> bool {
        self.operation == Operation::Get && self.flags == RequestFlags::default()
    }

    /// Bytes behind the key: a set's value, a multi operation's entries.
    #[inline]
    pub const fn payload_bytes(&self) -> usize {
        self.frame_bytes - self.key_offset - self.key_bytes
    }

    /// Where the payload begins in the frame.
    #[inline]
    pub const fn payload_offset(&self) -> usize {
        self.key_offset + self.key_bytes
    }

    /// The key, once the frame's first `payload_offset()` bytes are there; empty where the operation has none.
    #[inline]
    pub fn key<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        &frame[self.key_offset..self.key_offset + self.key_bytes]
    }
}

impl<'a> Request<'a> {
    /// Decodes the whole frame whose head was read from the front of `bytes`.
    ///
    /// `bytes` holds the whole frame. Only where a large value (set, append, prepend) is received elsewhere may the
    /// frame be cut, at `head.payload_offset()` or later; the body then has as much of the value as is there, and
    /// `head.payload_bytes()` says how much it will be. Asserts that no more than that is missing.
    #[inline]
    pub fn decode(head: RequestHead, bytes: &'a [u8]) -> Result<Self, Refusal> {
        let frame = &bytes[..head.frame_bytes.min(bytes.len())];
        let enough =
            if matches!(payload(head.operation), Payload::Value) { head.payload_offset() } else { head.frame_bytes };
        assert!(frame.len() >= enough, "a frame is decoded when it is there");
        let refusal = |status| Refusal { id: Some(head.id), status, frame_bytes: Some(head.frame_bytes) };
        let malformed = || refusal(Status::Malformed);
        let mut rest = &frame[RequestHeader::FRAME_BYTES..];
        let trace =
            take_if(head.flags.has(RequestFlags::TRACE), TraceContext::take, &mut rest).ok_or_else(malformed)?;
        let retry =
            take_if(head.flags.has(RequestFlags::RETRY_TOKEN), RetryToken::take, &mut rest).ok_or_else(malformed)?;
        let key = head.key(frame);
        let payload = &frame[head.payload_offset()..];
        let body = match head.operation {
            Operation::Hello => {
                let (parameters, _) = HelloParameters::take(rest).ok_or_else(malformed)?;
                if parameters.magic != HelloParameters::MAGIC || parameters.version_min > parameters.version_max {
                    return Err(Refusal { id: None, status: Status::Malformed, frame_bytes: None });
                }
                RequestBody::Hello { parameters, credentials: payload }
            }
            Operation::Ping => RequestBody::Ping { payload },
            Operation::Get => RequestBody::Get { key },
            Operation::Set => {
                let (parameters, _) = SetParameters::take(rest).ok_or_else(malformed)?;
                let condition =
                    SetCondition::from_code(parameters.condition).ok_or_else(|| refusal(Status::Unsupported))?;
                if parameters.options & !SetParameters::IDLE_EXPIRY != 0 {
                    return Err(refusal(Status::Unsupported));
                }
                if parameters.if_version != 0 && condition != SetCondition::IfVersion {
                    return Err(malformed());
                }
                RequestBody::Set { key, parameters, condition, value: payload }
            }
            Operation::Delete => RequestBody::Delete { key },
            Operation::Touch => {
                let (parameters, _) = TouchParameters::take(rest).ok_or_else(malformed)?;
                RequestBody::Touch { key, ttl_ms: parameters.ttl_ms }
            }
            Operation::GetAndTouch => {
                let (parameters, _) = TouchParameters::take(rest).ok_or_else(malformed)?;
                RequestBody::GetAndTouch { key, ttl_ms: parameters.ttl_ms }
            }
            Operation::Increment => {
                let (parameters, _) = IncrementParameters::take(rest).ok_or_else(malformed)?;
                if parameters.create > 1 {
                    return Err(refusal(Status::Unsupported));
                }
                RequestBody::Increment { key, parameters }
            }
            Operation::Append => RequestBody::Append { key, value: payload },
            Operation::Prepend => RequestBody::Prepend { key, value: payload },
            Operation::MultiGet => {
                let (parameters, _) = MultiGetParameters::take(rest).ok_or_else(malformed)?;
                let keys = usize::from(parameters.keys);
                if keys > MULTI_KEYS_MAX {
                    return Err(refusal(Status::TooLarge));
                }
                RequestBody::MultiGet(Keys::parse(keys, payload).ok_or_else(malformed)?)
            }
            Operation::MultiSet => {
                let (parameters, _) = MultiSetParameters::take(rest).ok_or_else(malformed)?;
                let items = usize::from(parameters.items);
                if items > MULTI_KEYS_MAX {
                    return Err(refusal(Status::TooLarge));
                }
                RequestBody::MultiSet(Items::parse(items, payload).ok_or_else(malformed)?)
            }
            Operation::Flush => RequestBody::Flush,
            Operation::Stats => RequestBody::Stats,
            Operation::Topology => {
                let (parameters, _) = TopologyParameters::take(rest).ok_or_else(malformed)?;
                RequestBody::Topology { known_epoch: parameters.known_epoch }
            }
            Operation::TopologyChanges => {
                let (parameters, _) = TopologyParameters::take(rest).ok_or_else(malformed)?;
                RequestBody::TopologyChanges { known_epoch: parameters.known_epoch }
            }
        };
        Ok(Self { head, trace, retry, body })
    }
}

/// Takes a piece that is only there when flagged: `Some(None)` when it is not, `None` when it is and is cut off.
#[inline]
fn take_if<'a, T>(
    flagged: bool,
    take: impl Fn(&'a [u8]) -> Option<(T, &'a [u8])>,
    rest: &mut &'a [u8],
) -> Option<Option<T>> {
    if !flagged {
        return Some(None);
    }
    let (piece, after) = take(rest)?;
    *rest = after;
    Some(Some(piece))
}

/// What every request carries beside its operation; the encoder's side of the header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestOptions {
    /// The epoch of the topology the client routed by.
    pub epoch: u32,
    /// Flags other than those for the trace context and the retry token, which follow from the fields below.
    pub flags: RequestFlags,
    /// The caller's trace context.
    pub trace: Option<TraceContext>,
    /// What makes a repeat recognisable.
    pub retry: Option<RetryToken>,
}

impl RequestBody<'_> {
    /// The operation asked.
    pub const fn operation(&self) -> Operation {
        match self {
            Self::Hello { .. } => Operation::Hello,
            Self::Ping { .. } => Operation::Ping,
            Self::Get { .. } => Operation::Get,
            Self::Set { .. } => Operation::Set,
            Self::Delete { .. } => Operation::Delete,
            Self::Touch { .. } => Operation::Touch,
            Self::GetAndTouch { .. } => Operation::GetAndTouch,
            Self::Increment { .. } => Operation::Increment,
            Self::Append { .. } => Operation::Append,
            Self::Prepend { .. } => Operation::Prepend,
            Self::MultiGet(_) => Operation::MultiGet,
            Self::MultiSet(_) => Operation::MultiSet,
            Self::Flush => Operation::Flush,
            Self::Stats => Operation::Stats,
            Self::Topology { .. } => Operation::Topology,
            Self::TopologyChanges { .. } => Operation::TopologyChanges,
        }
    }

    /// The key, where the operation names one.
    pub const fn key(&self) -> Option<&[u8]> {
        match self {
            Self::Get { key }
            | Self::Set { key, .. }
            | Self::Delete { key }
            | Self::Touch { key, .. }
            | Self::GetAndTouch { key, .. }
            | Self::Increment { key, .. }
            | Self::Append { key, .. }
            | Self::Prepend { key, .. } => Some(key),
            Self::Hello { .. }
            | Self::Ping { .. }
            | Self::MultiGet(_)
            | Self::MultiSet(_)
            | Self::Flush
            | Self::Stats
            | Self::Topology { .. }
            | Self::TopologyChanges { .. } => None,
        }
    }

    /// Appends the request as one frame to `out`.
    ///
    /// Asserts what no server would take: id 0, a key of no or more than 65,535 bytes, flags that the operation does not
    /// have, a frame too long for its length field.
    pub fn encode(&self, id: u32, options: RequestOptions, out: &mut Vec<u8>) {
        assert!(id != 0, "id 0 is the server's");
        let key = self.key().unwrap_or_default();
        assert!(key.len() <= KEY_BYTES_MAX && (self.key().is_none() || !key.is_empty()), "a key has 1 to 65,535 bytes");
        let mut flags = options.flags;
        if options.trace.is_some() {
            flags = flags.with(RequestFlags::TRACE);
        }
        if options.retry.is_some() {
            flags = flags.with(RequestFlags::RETRY_TOKEN);
        }
        assert!(RequestFlags::allowed(self.operation()).has(flags), "a flag this operation does not have");
        let payload = self.payload();
        let length = RequestHeader::BYTES
            + options.trace.map_or(0, |_| TraceContext::BYTES)
            + options.retry.map_or(0, |_| RetryToken::BYTES)
            + parameter_bytes(self.operation())
            + key.len()
            + payload.len();
        out.reserve(size_of::<u32>() + length);
        out.extend_from_slice(&crate::frame_length(length).to_le_bytes());
        RequestHeader {
            id,
            epoch: options.epoch,
            operation: self.operation().code(),
            flags: flags.bits(),
            key_bytes: key.len() as u16,
        }
        .put(out);
        if let Some(trace) = options.trace {
            trace.put(out);
        }
        if let Some(retry) = options.retry {
            retry.put(out);
        }
        self.encode_parameters(out);
        out.extend_from_slice(key);
        out.extend_from_slice(payload);
    }

    fn encode_parameters(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello { parameters, .. } => parameters.put(out),
            Self::Set { parameters, condition, .. } => {
                let if_version = if *condition == SetCondition::IfVersion { parameters.if_version } else { 0 };
                SetParameters { condition: *condition as u8, if_version, ..*parameters }.put(out);
            }
            Self::Touch { ttl_ms, .. } | Self::GetAndTouch { ttl_ms, .. } => {
                TouchParameters { ttl_ms: *ttl_ms }.put(out);
            }
            Self::Increment { parameters, .. } => parameters.put(out),
            Self::MultiGet(keys) => MultiGetParameters { keys: keys.len() as u16 }.put(out),
            Self::MultiSet(items) => MultiSetParameters { items: items.len() as u16 }.put(out),
            Self::Topology { known_epoch } | Self::TopologyChanges { known_epoch } => {
                TopologyParameters { known_epoch: *known_epoch }.put(out);
            }
            Self::Ping { .. }
            | Self::Get { .. }
            | Self::Delete { .. }
            | Self::Append { .. }
            | Self::Prepend { .. }
            | Self::Flush
            | Self::Stats => {}
        }
    }

    const fn payload(&self) -> &[u8] {
        match self {
            Self::Hello { credentials, .. } => credentials,
            Self::Ping { payload } => payload,
            Self::Set { value, .. } | Self::Append { value, .. } | Self::Prepend { value, .. } => value,
            Self::MultiGet(keys) => keys.as_bytes(),
            Self::MultiSet(items) => items.as_bytes(),
            Self::Get { .. }
            | Self::Delete { .. }
            | Self::Touch { .. }
            | Self::GetAndTouch { .. }
            | Self::Increment { .. }
            | Self::Flush
            | Self::Stats
            | Self::Topology { .. }
            | Self::TopologyChanges { .. } => &[],
        }
    }
}
