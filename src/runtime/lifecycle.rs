//! A connection's beginning and end: accept, hello, hand-over to the core it asks for, time limits, close, shutdown.

use std::net::Shutdown;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::Ordering;

use quoit_wire::{HelloParameters, HelloReply, Operation, Refusal, Reply, Request, RequestBody, Status, request_head};

use super::budget::Charge;
use super::connection::{CloseCause, Connection, GENERATION_MASK, Intake, Phase};
use super::core::Core;
use super::limits::{
    COMPLAINT_INTERVAL, KEEPALIVE_TIME, RECEIVE_BUFFER_BYTES, SHUTDOWN_INTAKE_MAX, SOCKET_BUFFER_BYTES,
    SWEEP_CONNECTIONS,
};
use super::mesh::{Adoption, Greeting};
use super::peers::{Side, is_peer};
use super::ring::{Completion, Purpose};

impl Core {
    /// Starts accepting on the core's listener.
    pub(super) fn start_accepting(&mut self) {
        if let Some(listener) = &self.listener
            && !self.is_accepting
        {
            self.is_accepting = true;
            self.ring.accept(listener.as_raw_fd());
        }
    }

    /// A connection was accepted, or accepting has ended.
    pub(super) fn on_accept(&mut self, completion: Completion) {
        self.is_accepting = completion.more;
        if completion.result < 0 {
            if !matches!(-completion.result, libc::ECANCELED | libc::EINTR | libc::EAGAIN) {
                let error = std::io::Error::from_raw_os_error(-completion.result);
                self.counters.accept_failures += 1;
                self.complain_about(&format!("a connection could not be accepted: {error}"));
            }
            // The sweep starts accepting again: a failure such as a full file table does not end by trying at once.
            return;
        }
        // SAFETY: the completion hands over a descriptor that nobody else owns.
        let socket = unsafe { OwnedFd::from_raw_fd(completion.result) };
        if let Some(slot) = self.open(socket) {
            self.receive_hello(slot);
        }
        if !self.is_accepting && self.draining_since.is_none() {
            self.start_accepting();
        }
    }

    /// Opens a connection, or closes its socket when the core has as many as it may or is shutting down.
    pub(super) fn open(&mut self, socket: OwnedFd) -> Option<u32> {
        if self.connections.len() >= self.options.connections_max || self.draining_since.is_some() {
            self.counters.closed[CloseCause::Limit as usize] += 1;
            return None;
        }
        configure(&socket);
        self.next_generation = (self.next_generation + 1) & GENERATION_MASK;
        self.counters.opened += 1;
        let connection = Box::new(Connection::new(socket, self.next_generation, self.now));
        Some(self.connections.insert(Some(connection)) as u32)
    }

    pub(super) fn receive_hello(&mut self, slot: u32) {
        let Some(mut connection) = self.take(slot) else { return };
        connection.is_receiving = true;
        self.ring.receive_once(connection.descriptor(), slot, RECEIVE_BUFFER_BYTES);
        self.put(slot, connection);
    }

    /// Bytes have arrived on a connection that has not said hello.
    pub(super) fn on_hello_bytes(&mut self, slot: u32, mut connection: Box<Connection>, completion: Completion) {
        if let Some(buffer) = completion.buffer {
            let bytes = self.received_bytes(&completion);
            connection.carry.extend_from_slice(self.ring.buffers.received(buffer, bytes));
        }
        if is_peer(&connection.carry) {
            self.on_peer_hello(slot, connection);
            return;
        }
        match read_hello(&connection.carry) {
            Hello::Unfinished => {
                self.put(slot, connection);
                self.receive_hello(slot);
            }
            Hello::NotOurs => {
                self.counters.malformed += 1;
                self.close(slot, &mut connection, CloseCause::Malformed);
                self.put_or_free(slot, connection);
                self.complain(slot, "no hello: not a client of this protocol");
            }
            Hello::Refused(id, status) => {
                connection.carry = Vec::new();
                self.refuse_hello(slot, &mut connection, id, status);
                self.put(slot, connection);
            }
            Hello::Good(id, parameters) => {
                connection.carry = Vec::new();
                self.on_hello(slot, connection, id, parameters);
            }
        }
    }

    fn on_hello(&mut self, slot: u32, mut connection: Box<Connection>, id: u32, parameters: HelloParameters) {
        let wanted = usize::from(parameters.core);
        let is_elsewhere = wanted != usize::from(self.options.core) && wanted < usize::from(self.options.cores);
        if !is_elsewhere || self.draining_since.is_some() {
            self.answer_hello(slot, &mut connection, id, parameters);
            self.put(slot, connection);
            return;
        }
        // Nothing is under way on the socket: its one receive has completed, and the client waits for the answer.
        self.forget(slot, &connection);
        let Connection { socket, .. } = *connection;
        let adoption = Box::new(Adoption { socket, greeting: Greeting::Client { id, parameters } });
        match self.mesh.adopt(wanted, adoption) {
            Ok(()) => self.counters.handed_over += 1,
            // Dropped, and with it closed: the client connects again after its backoff.
            Err(_) => self.counters.closed[CloseCause::Limit as usize] += 1,
        }
    }

    /// A connection that asked for this core was accepted by another.
    pub(super) fn on_adopt(&mut self, adoption: Adoption) {
        if let Some(slot) = self.open(adoption.socket)
            && let Some(mut connection) = self.take(slot)
        {
            self.counters.adopted += 1;
            match adoption.greeting {
                Greeting::Client { id, parameters } => self.answer_hello(slot, &mut connection, id, parameters),
                Greeting::Peer(hello) => self.welcome_peer(slot, &mut connection, &hello),
            }
            self.put(slot, connection);
        }
    }

    fn answer_hello(&mut self, slot: u32, connection: &mut Connection, id: u32, parameters: HelloParameters) {
        let epoch = self.shard.topology().epoch;
        let body = HelloReply {
            features: parameters.features & HelloParameters::FEATURES,
            node: self.options.node_id,
            version: HelloParameters::VERSION,
            core: self.options.core,
            cores: self.options.cores,
            inflight_max: self.inflight_max(),
            value_bytes_max: self.options.value_bytes_max as u32,
            frame_bytes_max: quoit_wire::limits::MULTI_FRAME_BYTES_MAX
                .max(self.options.value_bytes_max + FRONT_BYTES_MAX) as u32,
            epoch,
        };
        let mut value = Vec::new();
        body.put(&mut value);
        connection.output.reply(&Reply { value: &value, ..Reply::status(id, Status::Ok) });
        self.shard.count(Operation::Hello, Status::Ok);
        self.counters.answered += 1;
        connection.phase = Phase::Open;
        connection.wants_news = body.features & HelloParameters::FEATURE_TOPOLOGY_NEWS != 0;
        connection.is_registered = self.ring.register(slot, connection.descriptor());
        connection.is_receiving = true;
        self.rearm.push(slot);
        self.mark_dirty(slot, connection);
    }

    /// Refuses what came instead of a good hello, or a second hello; the connection ends when the reply has left.
    pub(super) fn refuse_hello(&mut self, slot: u32, connection: &mut Connection, id: u32, status: Status) {
        let mend: &[u8] = match status {
            Status::Unsupported => b"this server speaks protocol version 1, without authentication and TLS",
            _ => b"the first frame must be a hello, and the only one until it is answered",
        };
        connection.output.reply(&Reply { value: mend, ..Reply::status(id, status) });
        self.shard.count(Operation::Hello, status);
        self.counters.answered += 1;
        connection.phase = Phase::Draining;
        connection.close_cause = CloseCause::Malformed;
        connection.intake = Intake::Skip(usize::MAX);
        self.counters.malformed += 1;
        self.mark_dirty(slot, connection);
    }

    /// Ends a connection that is answered. Until the client has ended its side too, or has everything, it lingers.
    pub(super) fn finish(&mut self, slot: u32, connection: &mut Connection) {
        // In a shutdown, what has arrived is asked, too, until requests are refused.
        let takes_more = self.draining_since.is_some() && !matches!(connection.intake, Intake::Skip(usize::MAX));
        if connection.is_at_end {
            self.close(slot, connection, CloseCause::Ended);
        } else if !takes_more || self.is_refusing() || (unread_bytes(connection) == 0 && !self.ring.has_completions()) {
            connection.phase = Phase::Lingering;
            connection.progress = self.now;
            // Fails when the peer is gone already; the receive says so.
            let _ = socket2::SockRef::from(&connection.socket).shutdown(Shutdown::Write);
            self.touch_taken(slot, connection);
        }
    }

    /// Ends a connection: its socket is shut down, so that what is under way completes; then the slot is freed.
    pub(super) fn close(&mut self, slot: u32, connection: &mut Connection, cause: CloseCause) {
        if connection.phase == Phase::Closing {
            return;
        }
        let cause = if cause == CloseCause::Ended { connection.close_cause } else { cause };
        connection.phase = Phase::Closing;
        if let Some(peer) = connection.peer.as_ref().filter(|peer| peer.side == Side::Outgoing) {
            self.peers.on_closed(slot, peer.place, self.now);
            if peer.is_connecting {
                self.ring.cancel(Purpose::Connect, slot);
            }
            self.on_link_lost(peer.place);
        }
        connection.stall = None;
        self.counters.closed[cause as usize] += 1;
        let socket = socket2::SockRef::from(&connection.socket);
        // Fails when the peer is gone already, which is as well.
        let _ = socket.shutdown(Shutdown::Both);
    }

    /// Puts a connection back, or frees its slot when it is closed and the kernel has let go of its memory.
    pub(super) fn put_or_free(&mut self, slot: u32, mut connection: Box<Connection>) {
        let is_over = connection.phase == Phase::Closing
            && !connection.is_receiving
            && !connection.sending.is_active
            && !connection.peer.as_ref().is_some_and(|peer| peer.is_connecting)
            && connection.ready == 0;
        if !is_over {
            self.put(slot, connection);
            return;
        }
        self.shard.unpin(&mut connection.output.pins);
        self.shard.unpin(&mut connection.sending.output.pins);
        if let Intake::Large(set) = std::mem::replace(&mut connection.intake, Intake::Frames) {
            self.shard.abandon_large_set(*set);
        }
        self.forget(slot, &connection);
    }

    pub(super) fn forget(&mut self, slot: u32, connection: &Connection) {
        if connection.is_registered {
            self.ring.unregister(slot);
        }
        self.budget.recharge(connection.charged, Charge::default());
        self.connections.remove(slot as usize);
    }

    /// Looks at a bounded number of connections for those over their time.
    pub(super) fn sweep(&mut self) {
        if self.draining_since.is_none() {
            self.start_accepting();
        }
        self.sweep_peers();
        let capacity = self.connections.capacity();
        for _ in 0..SWEEP_CONNECTIONS.min(capacity) {
            self.sweep_cursor = if self.sweep_cursor + 1 < capacity { self.sweep_cursor + 1 } else { 0 };
            let slot = self.sweep_cursor as u32;
            let Some(mut connection) = self.take(slot) else { continue };
            let times = self.options.time_limits;
            if connection.phase == Phase::Hello && self.now.is_past(connection.progress, times.hello_max) {
                self.close(slot, &mut connection, CloseCause::NoHello);
            } else if self.is_slow_reader(&connection) {
                self.complain(slot, "its reader makes no progress while replies wait");
                self.close(slot, &mut connection, CloseCause::SlowReader);
            } else if connection.is_within_frame() && self.now.is_past(connection.heard, times.frame_stall_max) {
                self.complain(slot, "its writer has stopped in the middle of a frame");
                self.close(slot, &mut connection, CloseCause::SlowWriter);
            } else if connection.phase == Phase::Lingering {
                self.end_lingering(slot, &mut connection);
            }
            self.put_or_free(slot, connection);
        }
    }

    /// Closes a lingering connection whose client has all replies, or takes too long to take them.
    fn end_lingering(&mut self, slot: u32, connection: &mut Connection) {
        if unacknowledged_bytes(connection) == 0
            || self.now.is_past(connection.progress, self.options.time_limits.reader_stall_max)
        {
            self.close(slot, connection, CloseCause::Ended);
        }
    }

    /// Begins a graceful shutdown: nothing new is accepted or read; what was asked is answered.
    pub(super) fn begin_drain(&mut self) {
        if self.draining_since.is_some() {
            return;
        }
        self.draining_since = Some(Reading::now());
        if self.is_accepting {
            self.ring.cancel(Purpose::Accept, 0);
        }
        self.listener = None;
    }

    /// Whether a shutdown has gone on for so long that requests which still arrive are refused.
    pub(super) fn is_refusing(&self) -> bool {
        self.draining_since.is_some_and(|since| self.now.is_past(since, SHUTDOWN_INTAKE_MAX))
    }

    /// One step of a graceful shutdown. What has arrived is answered: a connection ends when nothing is left to read.
    ///
    /// Peer links go last: replies may wait for what comes over them.
    pub(super) fn drain(&mut self) {
        let mut clients = 0;
        for slot in 0..self.connections.capacity() as u32 {
            let Some(mut connection) = self.take(slot) else { continue };
            clients += usize::from(connection.peer.is_none());
            match connection.phase {
                Phase::Hello => self.close(slot, &mut connection, CloseCause::Ended),
                Phase::Peer => {}
                Phase::Open => connection.phase = Phase::Draining,
                Phase::Draining if connection.is_answered() => self.finish(slot, &mut connection),
                Phase::Lingering => self.end_lingering(slot, &mut connection),
                Phase::Draining | Phase::Closing => {}
            }
            self.put_or_free(slot, connection);
        }
        if clients == 0 && self.mesh.inflight() == 0 && self.held.len() == 0 {
            self.close_peers();
        }
        if self.connections.is_empty() && self.mesh.inflight() == 0 {
            self.mesh.own().drained.store(true, Ordering::Release);
        }
    }

    /// Says what is wrong with a client, at most once per interval; all are counted.
    pub(super) fn complain(&mut self, slot: u32, what: &str) {
        let peer = self
            .connections
            .get(slot as usize)
            .and_then(Option::as_ref)
            .and_then(|connection| socket2::SockRef::from(&connection.socket).peer_addr().ok()?.as_socket());
        match peer {
            Some(peer) => self.complain_about(&format!("connection from {peer} closed: {what}")),
            None => self.complain_about(&format!("connection closed: {what}")),
        }
    }

    fn complain_about(&mut self, what: &str) {
        let is_silent = self.counters.last_complaint.is_some_and(|last| !self.now.is_past(last, COMPLAINT_INTERVAL));
        if is_silent {
            self.counters.silent_complaints += 1;
        } else {
            let since_last = std::mem::take(&mut self.counters.silent_complaints);
            tracing::warn!(core = self.options.core, not_shown_before = since_last, "{what}");
            self.counters.last_complaint = Some(self.now);
        }
    }
}

use super::clock::Reading;

/// Bytes a frame may have before its value: header, trace context, retry token, parameters, key.
const FRONT_BYTES_MAX: usize = quoit_wire::limits::KEY_BYTES_MAX + 256;

/// What the first bytes of a connection are.
enum Hello {
    Unfinished,
    NotOurs,
    Refused(u32, Status),
    Good(u32, HelloParameters),
}

fn read_hello(bytes: &[u8]) -> Hello {
    let head = match request_head(bytes, usize::MAX) {
        Ok(Some(head)) if head.operation == Operation::Hello => head,
        Ok(Some(head)) => return Hello::Refused(head.id, Status::Malformed),
        Ok(None) => return Hello::Unfinished,
        Err(Refusal { id: Some(id), status, .. }) => return Hello::Refused(id, status),
        Err(_) => return Hello::NotOurs,
    };
    if bytes.len() < head.frame_bytes {
        return Hello::Unfinished;
    }
    let parameters = match Request::decode(head, bytes) {
        Ok(Request { body: RequestBody::Hello { parameters, .. }, .. }) => parameters,
        Err(Refusal { id: Some(id), status, .. }) => return Hello::Refused(id, status),
        Ok(_) | Err(_) => return Hello::NotOurs,
    };
    let speaks_ours = (parameters.version_min..=parameters.version_max).contains(&HelloParameters::VERSION);
    match (bytes.len() == head.frame_bytes, speaks_ours && parameters.security == 0) {
        (false, _) => Hello::Refused(head.id, Status::Malformed),
        (true, false) => Hello::Refused(head.id, Status::Unsupported),
        (true, true) => Hello::Good(head.id, parameters),
    }
}

/// Bytes that have arrived and were not received.
fn unread_bytes(connection: &Connection) -> usize {
    queued_bytes(connection, libc::FIONREAD)
}

/// Bytes that were sent, the end of the stream among them, and the peer's kernel has not acknowledged.
fn unacknowledged_bytes(connection: &Connection) -> usize {
    queued_bytes(connection, libc::TIOCOUTQ)
}

fn queued_bytes(connection: &Connection, queue: libc::Ioctl) -> usize {
    let mut bytes: libc::c_int = 0;
    // SAFETY: both requests fill one int, which is there; the descriptor is the connection's own.
    let result = unsafe { libc::ioctl(connection.descriptor(), queue, &raw mut bytes) };
    if result == 0 { usize::try_from(bytes).unwrap_or(0) } else { 0 }
}

/// Sets a socket's options. A failure leaves the kernel's defaults, which are slower or larger and not wrong.
fn configure(socket: &OwnedFd) {
    let socket = socket2::SockRef::from(socket);
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = socket.set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(KEEPALIVE_TIME));
}
