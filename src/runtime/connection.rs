//! One client connection: what has arrived and is not executed yet, what is answered and not sent yet.
//!
//! A connection is owned by one core. It holds memory only while something is under way: an idle one keeps no buffer.
//! The limits that stall it are checked where bytes come in (`scan.rs`); where replies leave is `egress.rs`.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::budget::Charge;
use super::clock::Reading;
use super::peers::PeerEnd;
use super::ring::Socket;
use crate::shard::{LargeSet, Output};

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing but a hello is taken. One single-shot receive is under way.
    Hello,
    /// Requests are taken.
    Open,
    /// A peer link: frames of another node's core are taken, or sent there.
    Peer,
    /// The client has said all it will say, or all it may: what was asked is answered, then the connection ends.
    Draining,
    /// Everything is answered and our side of the stream has ended. What still arrives is thrown away: closing a socket
    /// with unread bytes resets the connection, and replies on their way would be lost with it.
    Lingering,
    /// The socket is shut down; the slot is freed when the kernel has let go of its memory.
    Closing,
}

/// What the next bytes are.
#[derive(Debug)]
pub(super) enum Intake {
    /// Frames.
    Frames,
    /// The rest of a frame that was refused: so many bytes to pass over.
    Skip(usize),
    /// The value of a large set, which goes to the arena.
    Large(Box<LargeSet>),
}

/// Why a connection's bytes are left lying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stall {
    /// Too many replies wait for the reader.
    Output,
    /// Too many requests are unanswered at other cores.
    Inflight,
    /// No credit to this core.
    Credit(usize),
    /// No room in the core's buffers.
    Budget,
}

/// Why a connection was closed; each has its counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CloseCause {
    /// The client ended it, or the node is shutting down.
    Ended,
    /// The network or the peer's host failed.
    Failed,
    /// Its bytes were not this protocol.
    Malformed,
    /// No hello in time.
    NoHello,
    /// The reader made no progress for too long.
    SlowReader,
    /// The writer stopped in the middle of a frame for too long.
    SlowWriter,
    /// A limit on connections was reached.
    Limit,
}

impl CloseCause {
    pub(super) const ALL: [Self; 7] =
        [Self::Ended, Self::Failed, Self::Malformed, Self::NoHello, Self::SlowReader, Self::SlowWriter, Self::Limit];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::Failed => "failed",
            Self::Malformed => "malformed",
            Self::NoHello => "no_hello",
            Self::SlowReader => "slow_reader",
            Self::SlowWriter => "slow_writer",
            Self::Limit => "limit",
        }
    }
}

/// Output that the kernel is reading. Nothing in it moves or changes until the send's completion.
#[derive(Debug, Default)]
pub(super) struct Sending {
    pub output: Output,
    /// Bytes of the output that have left.
    pub sent: usize,
    pub is_active: bool,
    pub vector: Option<Box<super::vectored::Vectored>>,
}

/// One client connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub socket: OwnedFd,
    /// Whether the socket is one of the ring's own files, in the slot's place.
    pub is_registered: bool,
    /// Tells this connection from an earlier one in the same slot.
    pub generation: u32,
    pub phase: Phase,
    pub intake: Intake,
    pub stall: Option<Stall>,
    /// Bytes that have arrived and could not be executed where they lay.
    pub carry: Vec<u8>,
    /// How many bytes at the front of `carry` are already scanned in this turn.
    pub scanned: usize,
    /// Frames that were scanned and must wait, to be put before `carry` at the end of the turn.
    pub deferred: Vec<u8>,
    /// Requests of this connection in the turn's ready list.
    pub ready: usize,
    /// A receive is under way in the kernel.
    pub is_receiving: bool,
    /// Where it puts the bytes, if it is one of a large value's.
    pub direct: Option<Box<super::vectored::Vectored>>,
    /// So was the last one of the same value: the rest of it goes the same way.
    pub was_direct: bool,
    /// Its cancellation has been asked for.
    pub is_cancelling: bool,
    /// The client has ended its side of the stream: nothing will ever arrive.
    pub is_at_end: bool,
    /// In the list of connections that wait for a receive buffer.
    pub is_starved: bool,
    /// In the list of connections whose stall has ended.
    pub is_resuming: bool,
    /// It has waited for room, and it is its turn: it stands behind nobody.
    pub has_turn: bool,
    /// In the turn's list of connections to tidy up.
    pub is_touched: bool,
    /// In the list of connections with output to send.
    pub is_dirty: bool,
    /// In the list of connections that wait for more of their replies.
    pub is_together: bool,
    /// It agreed in its hello to be told of new topologies.
    pub wants_news: bool,
    /// Requests unanswered at other cores.
    pub inflight: u16,
    pub output: Output,
    pub sending: Sending,
    /// Whose link it is, if it is a peer's.
    pub peer: Option<Box<PeerEnd>>,
    /// When the hello was due from, or a reader last made progress.
    pub progress: Reading,
    /// When bytes last arrived.
    pub heard: Reading,
    /// The carry has room for all of the frame that it begins with, whose end is to come.
    pub is_promised: bool,
    /// What this connection was charged for.
    pub charged: Charge,
    pub close_cause: CloseCause,
}

impl Connection {
    /// A connection that has said nothing yet.
    pub(super) fn new(socket: OwnedFd, generation: u32, now: Reading) -> Self {
        Self {
            socket,
            is_registered: false,
            generation,
            phase: Phase::Hello,
            intake: Intake::Frames,
            stall: None,
            carry: Vec::new(),
            scanned: 0,
            deferred: Vec::new(),
            ready: 0,
            is_receiving: false,
            direct: None,
            was_direct: false,
            is_cancelling: false,
            is_at_end: false,
            is_starved: false,
            is_resuming: false,
            has_turn: false,
            is_touched: false,
            is_dirty: false,
            is_together: false,
            wants_news: false,
            inflight: 0,
            output: Output::default(),
            sending: Sending::default(),
            peer: None,
            progress: now,
            heard: now,
            is_promised: false,
            charged: Charge::default(),
            close_cause: CloseCause::Ended,
        }
    }

    pub(super) fn descriptor(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// How the ring's submissions name the socket of this connection, which is in `slot`.
    pub(super) fn ring_socket(&self, slot: u32) -> Socket {
        if self.is_registered { Socket::File(slot) } else { Socket::Descriptor(self.descriptor()) }
    }

    /// Reply bytes that have not left.
    pub(super) const fn unsent_bytes(&self) -> usize {
        self.output.len() + self.sending.output.len() - self.sending.sent
    }

    /// Whether everything that was asked is answered and has left.
    pub(super) const fn is_answered(&self) -> bool {
        self.inflight == 0
            && self.ready == 0
            && self.output.is_empty()
            && !self.sending.is_active
            && self.stall.is_none()
            && !self.is_resuming
    }

    /// Whether the rest of a frame is to come, and would be read.
    pub(super) fn is_within_frame(&self) -> bool {
        let is_unfinished = !matches!(self.intake, Intake::Frames) || self.carry.len() > self.scanned;
        matches!(self.phase, Phase::Open | Phase::Draining)
            && self.stall.is_none()
            && !self.is_resuming
            && !self.is_starved
            && is_unfinished
    }

    /// Appends bytes to the carry, which takes the room they need and no more.
    pub(super) fn keep(&mut self, bytes: &[u8]) {
        if self.carry.capacity() - self.carry.len() < bytes.len() {
            self.carry.reserve_exact(bytes.len());
        }
        self.carry.extend_from_slice(bytes);
    }

    /// Heap bytes of its buffers. Pieces lie in the arena and are the store's to count.
    pub(super) const fn charge(&self) -> Charge {
        let received_bytes = self.carry.capacity() + self.deferred.capacity();
        Charge {
            bytes: received_bytes + self.output.bytes.capacity() + self.sending.output.bytes.capacity(),
            received_bytes: if self.is_promised { 0 } else { received_bytes },
        }
    }
}

/// What a request's reply is addressed to when it comes back over the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A connection's slot and generation.
    Connection { slot: u32, generation: u32 },
    /// A gather's key.
    Gather(u32),
}

/// Generations count in 31 bits; the bit above tells the kinds of token apart.
pub(super) const GENERATION_MASK: u32 = u32::MAX >> 1;

impl Token {
    pub(super) const fn to_u64(self) -> u64 {
        match self {
            Self::Connection { slot, generation } => ((generation as u64) << 32) | slot as u64,
            Self::Gather(key) => (1 << 63) | key as u64,
        }
    }

    pub(super) const fn from_u64(raw: u64) -> Self {
        if raw >> 63 == 1 {
            Self::Gather(raw as u32)
        } else {
            Self::Connection { slot: raw as u32, generation: (raw >> 32) as u32 }
        }
    }
}
