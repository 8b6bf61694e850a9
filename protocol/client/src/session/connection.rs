//! One socket's protocol state: the hello, pipelining up to the server's limit, and the decoding of replies.
//!
//! It knows neither keys nor cores: it sends what it is given and says which of it was answered. Nothing is sent after the
//! hello until the hello is answered, because the accepting core may hand the socket to another one.

use std::collections::VecDeque;
use std::time::Duration;

use quoit_wire::{HelloParameters, HelloReply, Reply, RequestBody, RequestOptions, Status};

use super::slab::Key;
use super::unanswered::Unanswered;
use crate::error::{Fault, ProtocolError, message_text};
use crate::time::Instant;

/// One socket's protocol state.
#[derive(Debug)]
pub(super) struct Connection {
    /// What the server said of itself; `None` until the hello is answered.
    hello: Option<HelloReply>,
    unanswered: Unanswered,
    /// The beginning of a reply that is not whole yet.
    input: Vec<u8>,
    output: Vec<u8>,
    output_written: usize,
    /// All bytes that were ever written to the socket.
    written_bytes: u64,
    /// When bytes last were written, or there first was something to write.
    wrote_at: Instant,
    /// When bytes last came.
    heard_at: Instant,
    events: VecDeque<Event>,
}

/// The id of the hello: no request has it.
const HELLO_ID: u32 = 1 << 16;

/// Bytes of room that an empty buffer keeps; one that a large value stretched further gives its memory back.
const BUFFER_KEEP_BYTES: usize = 1 << 20;

/// A request whose connection brings answers to others waits for its own this many times the limit of a stall. Less: what a
/// node holds back while it replaces a copy is taken for lost, and a good connection given up for it. More: where the answer
/// never comes, no time is left for a second attempt.
const HELD_STALLS_MAX: u32 = 4;

/// What a connection tells its session.
#[derive(Debug)]
pub(super) enum Event {
    /// The hello is answered; requests may be sent.
    Ready(HelloReply),
    /// A request is answered.
    Replied(Key, Replied),
    /// The server has a topology of this epoch.
    News(u64),
}

/// A reply, out of the receive buffer.
#[derive(Debug)]
pub(super) struct Replied {
    pub(super) status: Status,
    pub(super) version: quoit_wire::Version,
    pub(super) client_flags: u32,
    pub(super) retry_after_ms: u16,
    pub(super) is_stale: bool,
    pub(super) value: Vec<u8>,
}

impl Connection {
    /// A connection whose first bytes are a hello that asks for `core`.
    pub(super) fn new(core: u16, now: Instant) -> Self {
        let parameters = HelloParameters {
            magic: HelloParameters::MAGIC,
            version_min: HelloParameters::VERSION,
            version_max: HelloParameters::VERSION,
            features: HelloParameters::FEATURES,
            core,
            security: 0,
        };
        let mut output = Vec::new();
        RequestBody::Hello { parameters, credentials: &[] }.encode(HELLO_ID, RequestOptions::default(), &mut output);
        Self {
            hello: None,
            unanswered: Unanswered::new(),
            input: Vec::new(),
            output,
            output_written: 0,
            written_bytes: 0,
            wrote_at: now,
            heard_at: now,
            events: VecDeque::new(),
        }
    }

    /// What the server said of itself, once the hello is answered.
    pub(super) const fn hello(&self) -> Option<&HelloReply> {
        self.hello.as_ref()
    }

    /// Whether the hello agreed on a feature.
    pub(super) fn has_feature(&self, feature: u64) -> bool {
        self.hello.is_some_and(|hello| hello.features & feature != 0)
    }

    /// Whether one more request may be sent now.
    pub(super) fn has_room(&self) -> bool {
        self.hello.is_some_and(|hello| self.unanswered() < usize::from(hello.inflight_max))
    }

    /// Requests sent and not answered.
    pub(super) const fn unanswered(&self) -> usize {
        self.unanswered.len()
    }

    /// Sends what `put` appends to the output under the id it is given; `entry` comes back with the answer.
    pub(super) fn send(&mut self, entry: Key, now: Instant, put: impl FnOnce(u32, &mut Vec<u8>)) {
        assert!(self.has_room(), "the session asks for room before it sends");
        if self.output().is_empty() {
            self.wrote_at = now;
        }
        let id = self.unanswered.add(entry, now);
        put(id, &mut self.output);
        let end = self.written_bytes + self.output().len() as u64;
        self.unanswered.end_newest(end);
    }

    /// Bytes to write to the socket.
    pub(super) fn output(&self) -> &[u8] {
        &self.output[self.output_written..]
    }

    /// The first `bytes` of the output were written.
    pub(super) fn handle_written(&mut self, bytes: usize, now: Instant) {
        self.output_written += bytes;
        debug_assert!(self.output_written <= self.output.len(), "more written than there was");
        if bytes > 0 {
            self.written_bytes += bytes as u64;
            self.wrote_at = now;
            self.unanswered.handle_written(self.written_bytes, now);
        }
        // Once half of it is gone the rest moves to the front: each byte moves once, and what was written takes no room.
        if self.output_written * 2 >= self.output.len() {
            self.output.drain(..self.output_written);
            self.output_written = 0;
            shrink(&mut self.output);
        }
    }

    /// Takes bytes from the socket; what they say comes out of [`Self::poll_event`]. After an error the connection is of
    /// no more use.
    pub(super) fn handle_bytes(&mut self, bytes: &[u8], now: Instant) -> Result<(), Fault> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.heard_at = now;
        if self.input.is_empty() {
            let consumed = self.decode(bytes)?;
            self.input.extend_from_slice(&bytes[consumed..]);
        } else {
            let mut input = std::mem::take(&mut self.input);
            input.extend_from_slice(bytes);
            let consumed = self.decode(&input)?;
            input.drain(..consumed);
            shrink(&mut input);
            self.input = input;
        }
        Ok(())
    }

    /// The next thing the server said.
    pub(super) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When the connection counts as stalled if nothing changes until then.
    ///
    /// It goes by the oldest request without an answer. While that one is written, each byte that leaves is progress; then
    /// only what comes is, for the socket of a node that is gone goes on taking bytes for a while. What comes for other
    /// requests says that the node is there, not that this one's answer is on its way: it is waited for, but not for ever.
    pub(super) fn stalls_at(&self, stall_limit: Duration) -> Option<Instant> {
        if self.hello.is_some() && self.unanswered() == 0 {
            return None;
        }
        let Some(written_at) = self.unanswered.oldest_written_at() else {
            return Some(self.heard_at.max(self.wrote_at) + stall_limit);
        };
        let silent = self.heard_at.max(written_at) + stall_limit;
        // A reply that is half here may be its own.
        let held = self.input.is_empty().then(|| written_at + HELD_STALLS_MAX * stall_limit);
        Some(held.map_or(silent, |held| held.min(silent)))
    }

    /// The unanswered requests, in the order they were sent.
    pub(super) fn into_unanswered(self) -> Vec<Key> {
        self.unanswered.iter().collect()
    }

    /// Decodes every whole reply in `bytes`; returns how many bytes they were.
    fn decode(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let mut consumed = 0;
        while let Some((reply, frame_bytes)) = Reply::decode(&bytes[consumed..]).map_err(ProtocolError::from)? {
            consumed += frame_bytes;
            match self.hello {
                None => self.take_hello(&reply)?,
                Some(_) => self.take_reply(&reply)?,
            }
        }
        Ok(consumed)
    }

    fn take_hello(&mut self, reply: &Reply<'_>) -> Result<(), Fault> {
        if reply.id != HELLO_ID {
            return Err(ProtocolError::Hello.into());
        }
        if reply.status != Status::Ok {
            return Err(Fault::Refused { status: reply.status, message: message_text(reply.value) });
        }
        // A later version of the protocol may say more; what this one says stands first.
        let (hello, _) = HelloReply::take(reply.value).ok_or(ProtocolError::Hello)?;
        if hello.version != HelloParameters::VERSION {
            return Err(ProtocolError::Version(hello.version).into());
        }
        if hello.inflight_max == 0 || hello.core >= hello.cores {
            return Err(ProtocolError::Hello.into());
        }
        self.hello = Some(hello);
        self.events.push_back(Event::Ready(hello));
        Ok(())
    }

    fn take_reply(&mut self, reply: &Reply<'_>) -> Result<(), Fault> {
        if reply.id == 0 {
            // Other news than this may come from a newer server, and is not for us.
            if reply.status == Status::TopologyChanged {
                self.events.push_back(Event::News(reply.version.as_u64()));
            }
            return Ok(());
        }
        let entry = self.unanswered.take(reply.id).ok_or(ProtocolError::UnknownId(reply.id))?;
        let replied = Replied {
            status: reply.status,
            version: reply.version,
            client_flags: reply.client_flags,
            retry_after_ms: reply.retry_after_ms,
            is_stale: reply.is_stale,
            value: reply.value.to_vec(),
        };
        self.events.push_back(Event::Replied(entry, replied));
        Ok(())
    }
}

fn shrink(buffer: &mut Vec<u8>) {
    if buffer.is_empty() {
        buffer.shrink_to(BUFFER_KEEP_BYTES);
    }
}
