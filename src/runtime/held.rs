//! Replies that wait for a commit: their bytes are kept here until the copies say what became of what they rest on.
//!
//! The request was carried out when it came, so order is kept; only its reply waits. Who asked may be a connection of this
//! core, another core of the node, or a gather; who has gone meanwhile gets nothing. What is kept is bounded in number and
//! bytes and counts as the core's buffers do; at the limit a request that would wait is refused before it is carried out.

use quoit_wire::{Reply, RequestHead, Status, Version};

use super::limits::{HELD_BUFFER_BYTES_MAX, HELD_SHARE, SPARE_SHARE};
use super::spare::Spare;
use crate::cluster::copies::limits::WAITS_MAX;
use crate::cluster::copies::{Release, Ticket};

/// The waiting replies of one core.
#[derive(Debug)]
pub(super) struct Held {
    /// At the places that their tickets name.
    replies: Vec<Option<(Ticket, HeldReply)>>,
    len: usize,
    /// Capacity of the buffers of `replies`.
    bytes: usize,
    bytes_max: usize,
    spare: Spare,
    pub counters: HeldCounters,
}

/// A reply that waits.
#[derive(Debug)]
pub(super) struct HeldReply {
    pub asker: Asker,
    /// The request's id.
    id: u32,
    is_write: bool,
    /// The reply, whole.
    pub frame: Vec<u8>,
}

/// Whom a reply is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    /// A connection of this core, by its slot and generation.
    Connection { slot: u32, generation: u32 },
    /// Another core of the node, by what comes back to it with the reply.
    Core { core: usize, token: u64, request_bytes: usize },
    /// A request that spans cores and has a part here.
    Gather(u32),
}

/// Plain integers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HeldCounters {
    /// Replies that have waited and were sent.
    pub committed: u64,
    /// Replies whose fate was not known in time, or not here.
    pub abandoned: u64,
}

impl Held {
    /// None yet; they may take their share of `buffer_bytes_max`.
    pub(super) fn new(buffer_bytes_max: usize) -> Self {
        Self {
            replies: Vec::new(),
            len: 0,
            bytes: 0,
            bytes_max: buffer_bytes_max / HELD_SHARE,
            spare: Spare::new(buffer_bytes_max / SPARE_SHARE, HELD_BUFFER_BYTES_MAX),
            counters: HeldCounters::default(),
        }
    }

    /// Whether one more may wait.
    pub(super) fn has_room(&self) -> bool {
        self.len < WAITS_MAX && self.bytes < self.bytes_max
    }

    /// Replies that wait.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Bytes of buffers, those kept for reuse among them, and of the list.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes + self.spare.bytes() + self.replies.capacity() * size_of::<Option<(Ticket, HeldReply)>>()
    }

    /// Frees what is kept for reuse.
    pub(super) fn drop_spares(&mut self) {
        self.spare.clear();
    }

    /// Keeps the reply to the request of `head` until `ticket` is released.
    pub(super) fn keep(&mut self, ticket: Ticket, asker: Asker, head: &RequestHead, reply: &[u8]) {
        let mut frame = self.spare.take();
        frame.extend_from_slice(reply);
        self.bytes += frame.capacity();
        let (id, is_write) = (head.id, head.operation.is_write());
        if self.replies.len() <= ticket.place() {
            self.replies.resize_with(ticket.place() + 1, || None);
        }
        let before = self.replies[ticket.place()].replace((ticket, HeldReply { asker, id, is_write, frame }));
        debug_assert!(before.is_none(), "a place is free when a ticket is issued for it");
        self.len += 1;
    }

    /// A reply whose fate is known, as it is to be sent. `epoch` is of the topology by which a read is to be asked again.
    pub(super) fn release(&mut self, ticket: Ticket, release: Release, epoch: u32) -> Option<HeldReply> {
        let place = self.replies.get_mut(ticket.place())?;
        let (_, mut reply) = place.take_if(|(own, _)| *own == ticket)?;
        self.len -= 1;
        self.bytes -= reply.frame.capacity();
        match release {
            Release::Committed => self.counters.committed += 1,
            Release::Abandoned => {
                self.counters.abandoned += 1;
                let (status, version) = match reply.is_write {
                    true => (Status::OutcomeUnknown, Version::NONE),
                    false => (Status::Moved, Version::from_u64(u64::from(epoch))),
                };
                reply.frame.clear();
                Reply { version, ..Reply::status(reply.id, status) }.encode(&mut reply.frame);
            }
        }
        Some(reply)
    }

    /// Keeps a released reply's buffer for reuse.
    pub(super) fn recycle(&mut self, reply: HeldReply) {
        self.spare.give(reply.frame);
    }
}
