//! Requests out, replies in: everything between a workload and the bytes of its connections, without a kernel.

use super::connection::{Connection, Passing};
use super::in_flight::Waiting;
use super::pace::Pace;
use super::recorder::Recorder;
use crate::protocol::{Answered, Outcome, Protocol, ProtocolError};
use crate::work::{Op, Work};

/// The connections of one thread with their workload.
#[derive(Debug)]
pub(super) struct Traffic<W> {
    pub(super) connections: Vec<Connection>,
    pub(super) work: W,
    pub(super) recorder: Recorder,
    pub(super) pace: Pace,
    /// Requests that may still be asked.
    pub(super) requests_left: u64,
    /// Whether requests are asked at all; false while the last replies are waited for.
    pub(super) is_asking: bool,
    /// Requests without a reply, over all connections.
    pub(super) in_flight: usize,
    /// Requests of closed connections.
    pub(super) lost: u64,
    /// Requests that were due at the end and never asked.
    pub(super) behind: u64,
    /// Connections that have bytes to send.
    pub(super) unsent: Vec<u32>,
    protocol: Protocol,
    /// Connections with room, and the list that takes its place while it is walked.
    ready: Vec<u32>,
    walked: Vec<u32>,
}

impl<W: Work> Traffic<W> {
    pub(super) fn new(count: usize, depth: usize, protocol: Protocol, work: W) -> Self {
        let ordered = protocol.is_ordered();
        let mut connections: Vec<_> = (0..count).map(|_| Connection::new(depth, ordered)).collect();
        connections.iter_mut().for_each(|connection| connection.is_ready = true);
        Self {
            connections,
            work,
            recorder: Recorder::new(),
            pace: Pace::Closed,
            requests_left: u64::MAX,
            is_asking: true,
            in_flight: 0,
            lost: 0,
            behind: 0,
            unsent: Vec::with_capacity(count),
            protocol,
            ready: (0..count as u32).collect(),
            walked: Vec::with_capacity(count),
        }
    }

    /// Whether nothing more will be asked.
    pub(super) fn has_finished(&self) -> bool {
        self.requests_left == 0 || self.work.is_exhausted() || self.connections.iter().all(|one| one.is_closed)
    }

    /// Hands out requests to connections with room, as far as they are due.
    #[inline]
    pub(super) fn ask(&mut self, now_ns: u64) {
        if self.ready.is_empty() || !self.is_asking {
            return;
        }
        // One request per connection and round with a rate, so that all are used alike; else as many as there is room for.
        let one_each = self.pace.is_open();
        loop {
            std::mem::swap(&mut self.ready, &mut self.walked);
            let mut asked = false;
            for position in 0..self.walked.len() {
                let index = self.walked[position];
                self.connections[index as usize].is_ready = false;
                let mut has_room = true;
                while has_room && self.ask_one(index as usize, now_ns) {
                    asked = true;
                    has_room = self.connections[index as usize].in_flight.has_room();
                    if one_each {
                        break;
                    }
                }
                if has_room && !self.connections[index as usize].is_closed {
                    self.mark_ready(index);
                }
            }
            self.walked.clear();
            if !asked || self.ready.is_empty() {
                return;
            }
        }
    }

    /// Encodes one request for the connection, which has room; false when there is none to ask.
    #[inline]
    fn ask_one(&mut self, index: usize, now_ns: u64) -> bool {
        if self.requests_left == 0 {
            return false;
        }
        let Some(intended_ns) = self.pace.due(now_ns) else { return false };
        let Some(ask) = self.work.next(index, now_ns) else { return false };
        let connection = &mut self.connections[index];
        let Some(slot) = connection.in_flight.enter(Waiting { ask, intended_ns }) else { return false };
        self.pace.sent();
        self.requests_left -= 1;
        self.in_flight += 1;
        if connection.filling.is_empty() {
            self.unsent.push(index as u32);
        }
        if ask.is_aside && ask.op == Op::Set {
            debug_assert!(connection.filling.is_empty() && connection.sending.is_empty(), "one at a time");
            if connection.kept.is_empty() {
                self.protocol.encode(slot, self.work.request(index, &ask), &mut connection.kept);
            }
            std::mem::swap(&mut connection.filling, &mut connection.kept);
            connection.is_kept = true;
            return true;
        }
        self.protocol.encode(slot, self.work.request(index, &ask), &mut connection.filling);
        true
    }

    /// Takes bytes that a connection has received.
    #[inline]
    pub(super) fn absorb(&mut self, index: usize, bytes: &[u8], now_ns: u64) -> Result<(), ProtocolError> {
        let mut bytes = bytes;
        if let Some(mut passing) = self.connections[index].passing.take() {
            let taken = passing.remaining.min(bytes.len());
            bytes = &bytes[taken..];
            passing.remaining -= taken;
            if passing.remaining > 0 {
                self.connections[index].passing = Some(passing);
                return Ok(());
            }
            self.finish(index, passing.slot, passing.outcome, &[], passing.value_bytes, now_ns);
        }
        if self.connections[index].carry.is_empty() {
            let consumed = self.decode_all(index, bytes, now_ns)?;
            self.connections[index].carry.extend_from_slice(&bytes[consumed..]);
            return Ok(());
        }
        let mut carry = std::mem::take(&mut self.connections[index].carry);
        carry.extend_from_slice(bytes);
        if carry.len() >= self.connections[index].carry_needed {
            let consumed = self.decode_all(index, &carry, now_ns)?;
            carry.drain(..consumed);
        }
        self.connections[index].carry = carry;
        Ok(())
    }

    /// Decodes replies from the front of `bytes` and returns how many bytes they took.
    #[inline]
    fn decode_all(&mut self, index: usize, bytes: &[u8], now_ns: u64) -> Result<usize, ProtocolError> {
        let reads_values = self.work.reads_values();
        let mut offset = 0;
        self.connections[index].carry_needed = 0;
        while offset < bytes.len() {
            let rest = &bytes[offset..];
            let Some(reply) = self.protocol.decode(rest, &self.connections[index].in_flight)? else { break };
            let value_bytes = reply.value.len();
            let is_refusal = matches!(reply.outcome, Outcome::Refused(_));
            if reply.frame_bytes <= rest.len() {
                let value = if reads_values || is_refusal { &rest[reply.value] } else { &[] };
                offset += reply.frame_bytes;
                self.finish(index, reply.slot, reply.outcome, value, value_bytes, now_ns);
            } else if reads_values || is_refusal {
                self.connections[index].carry_needed = reply.frame_bytes;
                break;
            } else {
                let remaining = reply.frame_bytes - rest.len();
                let passing = Passing { slot: reply.slot, outcome: reply.outcome, value_bytes, remaining };
                self.connections[index].passing = Some(passing);
                return Ok(bytes.len());
            }
        }
        Ok(offset)
    }

    #[inline]
    fn finish(&mut self, index: usize, slot: u32, outcome: Outcome, value: &[u8], value_bytes: usize, now_ns: u64) {
        let Some(waiting) = self.connections[index].in_flight.leave(slot) else { return };
        self.in_flight -= 1;
        let latency_ns = now_ns.saturating_sub(waiting.intended_ns);
        self.recorder.answered(&waiting.ask, latency_ns, outcome, value_bytes);
        self.work.done(index, &waiting, Answered { outcome, version: 0, value }, now_ns);
        self.mark_ready(index as u32);
    }

    /// Gives up a connection; what it had not answered is lost.
    pub(super) fn close(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        connection.is_closed = true;
        let lost = connection.in_flight.len();
        self.in_flight -= lost;
        self.lost += lost as u64;
    }

    #[inline]
    fn mark_ready(&mut self, index: u32) {
        let connection = &mut self.connections[index as usize];
        if !connection.is_ready {
            connection.is_ready = true;
            self.ready.push(index);
        }
    }
}
