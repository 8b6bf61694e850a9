//! One generator thread: a ring, its connections, and the loop that keeps them busy.
//!
//! A turn: hand out requests to connections with room, queue one send for each that got any, enter the kernel once, take
//! what has arrived. In between the loop spins in user space on the ring's flags. Clocks are read twice per turn, not
//! per request: requests sent by one enter have one start, replies reaped after one have one end.
//!
//! `traffic` is the part without a kernel: requests out, replies in, for a connection's bytes. `client` is another engine,
//! which asks through the native client.

mod client;
mod connection;
#[cfg(test)]
mod engine_tests;
mod gaps;
mod in_flight;
mod pace;
mod phases;
mod recorder;
mod traffic;
#[cfg(test)]
mod traffic_tests;

use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use io_uring::{opcode, types};

use crate::clock::now_ns;
use crate::protocol::{Protocol, ProtocolError};
use crate::socket::{BUFFER_GROUP, BufferPool, Completion, Ring, Token, TokenKind};
use crate::work::Work;
use phases::{Phase, Phases};
use traffic::Traffic;

pub(crate) use client::{ClientEngine, ClientFacts, ClientOptions, connect as connect_client};
pub(crate) use in_flight::{InFlight, Waiting};
pub(crate) use pace::Pace;
pub(crate) use recorder::{Recorder, Tally};

/// How long a server may answer nothing.
pub(crate) const STALL_NS: u64 = 10_000_000_000;
/// Empty passes between two looks at the clock (closed loop) and at signals: some microseconds.
const SPINS_PER_CLOCK: u32 = 256;
/// Longest sleep, so that a signal and the end are noticed though nothing arrives.
const SLEEP_MAX: Duration = Duration::from_millis(10);
/// Receive buffers of a thread: twice its connections, within these.
const BUFFERS_MIN: usize = 128;
const BUFFERS_MAX: usize = 4096;
/// Bytes of a receive buffer.
const BUFFER_BYTES_MIN: usize = 4 << 10;
const BUFFER_BYTES_MAX: usize = 256 << 10;
/// Bytes of one send. Larger, and one connection's value keeps the others waiting while the kernel copies it; smaller, and
/// large values cost more enters.
const SEND_BYTES_MAX: usize = 128 << 10;
/// Memory of all receive buffers of a thread; fewer when they are large.
const POOL_BYTES_MAX: usize = 64 << 20;

/// What ends a thread's run, and how replies are received.
#[derive(Clone, Debug)]
pub(crate) struct EngineOptions {
    /// Requests a connection may have unanswered.
    pub(crate) depth: usize,
    /// Requests per second of this thread; `None` is a closed loop.
    pub(crate) rate: Option<f64>,
    /// Nanoseconds before measuring begins.
    pub(crate) warmup_ns: u64,
    /// Nanoseconds of measuring; `None` without end.
    pub(crate) duration_ns: Option<u64>,
    /// Requests of this thread; `None` without end.
    pub(crate) requests: Option<u64>,
    /// Sleep in the kernel while nothing arrives, instead of spinning; for a closed loop.
    pub(crate) sleeps: bool,
    /// Bytes of a typical reply, for the size of receive buffers.
    pub(crate) reply_bytes: usize,
    /// A server that has answered nothing for so long is taken for dead; [`STALL_NS`] outside of tests.
    pub(crate) stall_ns: u64,
}

/// What threads and their starter share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// Set to end early: another thread has failed, or a signal has come.
    pub(crate) stop: AtomicBool,
    /// Requests answered so far, for progress.
    pub(crate) answered: AtomicU64,
}

/// A thread's results.
#[derive(Debug)]
pub(crate) struct Finished<W> {
    /// The workload, with what it has learnt.
    pub(crate) work: W,
    /// Measurements between warm-up and end.
    pub(crate) recorder: Recorder,
    /// From the end of the warm-up to the end, or to the last reply.
    pub(crate) measured_ns: u64,
    /// Replies that came after the end: in the latencies, not in the rate.
    pub(crate) answered_late: u64,
    /// Open loop: requests that were due and never sent.
    pub(crate) behind: u64,
    /// What went wrong with the connections; the first few.
    pub(crate) failure: Option<Failure>,
    /// Requests whose reply never came.
    pub(crate) unanswered: u64,
    /// Of a thread that asks through the native client.
    pub(crate) client: Option<ClientFacts>,
}

/// Why a run ended before its time.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The server has closed a connection.
    #[error("the server closed connection {connection} with {unanswered} requests unanswered")]
    Closed {
        /// Which one.
        connection: usize,
        /// Requests lost.
        unanswered: usize,
    },
    /// A connection broke.
    #[error("connection {connection} failed: {error}")]
    Broken {
        /// Which one.
        connection: usize,
        /// The system's reason.
        error: io::Error,
    },
    /// The server sent what the protocol doesn't allow.
    #[error("connection {connection}: {error}")]
    Protocol {
        /// Which one.
        connection: usize,
        /// What was wrong.
        error: ProtocolError,
    },
    /// Nothing came for too long.
    #[error("no reply for {seconds} s with {unanswered} requests unanswered: the server hangs, or lost them")]
    Stalled {
        /// The limit.
        seconds: f64,
        /// Requests that wait.
        unanswered: usize,
    },
}

/// A generator thread, ready to start.
pub(crate) struct Engine<W> {
    ring: Ring,
    pool: BufferPool,
    traffic: Traffic<W>,
    /// Kept open; the ring sends and receives on them.
    _streams: Vec<TcpStream>,
    options: EngineOptions,
    failure: Option<Failure>,
}

impl<W: Work> Engine<W> {
    /// An engine on the calling thread.
    pub(crate) fn new(
        streams: Vec<TcpStream>,
        protocol: Protocol,
        work: W,
        options: EngineOptions,
    ) -> io::Result<Self> {
        let ring = Ring::new()?;
        let sockets: Vec<_> = streams.iter().map(AsRawFd::as_raw_fd).collect();
        ring.register_files(&sockets)?;
        let buffer_bytes =
            (options.reply_bytes * options.depth).next_power_of_two().clamp(BUFFER_BYTES_MIN, BUFFER_BYTES_MAX);
        let buffers = (streams.len() * 2).next_power_of_two().clamp(BUFFERS_MIN, BUFFERS_MAX);
        let buffers = buffers.min((POOL_BYTES_MAX / buffer_bytes).next_power_of_two());
        let pool = BufferPool::new(&ring, buffers as u16, buffer_bytes)?;
        let traffic = Traffic::new(streams.len(), options.depth, protocol, work);
        Ok(Self { ring, pool, traffic, _streams: streams, options, failure: None })
    }

    /// Runs to the end; never longer than that and the stall limit.
    pub(crate) fn run(mut self, shared: &Arc<Shared>) -> io::Result<Finished<W>> {
        for connection in 0..self.traffic.connections.len() {
            self.arm_receive(connection as u32)?;
        }
        let start_ns = now_ns();
        let mut phases = Phases::new(start_ns, &self.options);
        self.traffic.pace = self.options.rate.map_or(Pace::Closed, |rate| Pace::open(start_ns, rate));
        self.traffic.requests_left = self.options.requests.unwrap_or(u64::MAX);
        let mut completions = Vec::with_capacity(1024);
        let mut last_reply_ns = start_ns;
        let mut measured_ns = 0;
        let mut in_window = 0;
        let mut spins = 0;
        let mut idle_since: Option<u64> = None;
        let mut now = start_ns;
        loop {
            let is_to_stop = self.failure.is_some() || shared.stop.load(Ordering::Relaxed);
            match phases.advance(now, is_to_stop) {
                Some(Phase::Measuring) => {
                    self.traffic.recorder.reset();
                    idle_since = None;
                }
                Some(Phase::Draining) => {
                    shared.stop.store(true, Ordering::Relaxed);
                    measured_ns = now.saturating_sub(phases.measure_ns);
                    in_window = self.traffic.recorder.tally.answered;
                    self.traffic.is_asking = false;
                    self.traffic.behind = self.traffic.pace.behind(now);
                }
                _ => {}
            }
            if self.traffic.in_flight == 0 && (phases.current == Phase::Draining || self.traffic.has_finished()) {
                break;
            }
            self.traffic.ask(now);
            self.queue_sends()?;
            self.traffic.recorder.turns += 1;
            let is_empty = !self.ring.wants_enter();
            if is_empty {
                self.traffic.recorder.turns_empty += 1;
                spins += 1;
                if self.traffic.pace.is_open() || spins >= SPINS_PER_CLOCK || idle_since.is_none() {
                    spins = 0;
                    now = now_ns();
                    idle_since.get_or_insert(now);
                    if self.traffic.in_flight > 0 && now.saturating_sub(last_reply_ns) > self.options.stall_ns {
                        self.failure.get_or_insert(Failure::Stalled {
                            unanswered: self.traffic.in_flight,
                            seconds: self.options.stall_ns as f64 / 1e9,
                        });
                        break;
                    }
                    if self.traffic.in_flight == 0 {
                        last_reply_ns = now;
                    }
                }
                if !self.options.sleeps {
                    std::hint::spin_loop();
                    continue;
                }
                self.ring.wait(SLEEP_MAX)?;
            }
            if let Some(since) = idle_since.take() {
                now = now_ns();
                self.traffic.recorder.idle_ns += now.saturating_sub(since);
            }
            if !is_empty {
                self.ring.enter(0)?;
            }
            now = now_ns();
            self.ring.take_completions(&mut completions);
            let answered = self.traffic.recorder.tally.answered;
            for completion in completions.drain(..) {
                self.on_completion(completion, now)?;
            }
            self.pool.publish();
            if self.traffic.recorder.tally.answered != answered {
                last_reply_ns = now;
                shared.answered.store(self.traffic.recorder.tally.answered, Ordering::Relaxed);
            }
        }
        self.finish(phases.current, measured_ns, in_window, last_reply_ns.saturating_sub(phases.measure_ns))
    }

    fn finish(
        mut self,
        phase: Phase,
        measured_ns: u64,
        in_window: u64,
        to_last_reply_ns: u64,
    ) -> io::Result<Finished<W>> {
        self.traffic.recorder.flush();
        let answered = self.traffic.recorder.tally.answered;
        let drained = phase == Phase::Draining;
        let unanswered = self.traffic.in_flight as u64 + self.traffic.lost;
        // The kernel may still read what was being sent: that memory is given up, the process is about to end.
        for connection in &mut self.traffic.connections {
            if connection.is_sending {
                std::mem::forget(std::mem::take(&mut connection.sending));
            }
        }
        Ok(Finished {
            measured_ns: if drained { measured_ns } else { to_last_reply_ns },
            answered_late: if drained { answered - in_window } else { 0 },
            behind: self.traffic.behind,
            recorder: self.traffic.recorder,
            work: self.traffic.work,
            failure: self.failure,
            unanswered,
            client: None,
        })
    }

    #[inline]
    fn on_completion(&mut self, completion: Completion, now: u64) -> io::Result<()> {
        let index = completion.token.index;
        match completion.token.kind {
            TokenKind::Receive => self.on_received(completion, now),
            TokenKind::Send => {
                self.on_sent(index as usize, completion.result);
                Ok(())
            }
            TokenKind::Accept | TokenKind::Stop | TokenKind::Close => Ok(()),
        }
    }

    #[inline]
    fn on_received(&mut self, completion: Completion, now: u64) -> io::Result<()> {
        let index = completion.token.index as usize;
        match (completion.result, completion.buffer()) {
            (received @ 1.., Some(buffer)) => {
                let absorbed = self.traffic.absorb(index, self.pool.bytes(buffer, received as usize), now);
                self.pool.put_back(buffer);
                if let Err(error) = absorbed {
                    self.fail(index, Failure::Protocol { connection: index, error });
                }
            }
            // No buffer was free: those of this turn are put back before the next enter.
            (result, _) if result == -libc::ENOBUFS => {}
            (0, _) => {
                let unanswered = self.traffic.connections[index].in_flight.len();
                self.fail(index, Failure::Closed { connection: index, unanswered });
            }
            (result, _) => {
                let error = io::Error::from_raw_os_error(-result);
                self.fail(index, Failure::Broken { connection: index, error });
            }
        }
        if !completion.stays_armed() && !self.traffic.connections[index].is_closed {
            self.arm_receive(index as u32)?;
        }
        Ok(())
    }

    #[inline]
    fn on_sent(&mut self, index: usize, result: i32) {
        let connection = &mut self.traffic.connections[index];
        connection.is_sending = false;
        if result < 0 {
            let error = io::Error::from_raw_os_error(-result);
            return self.fail(index, Failure::Broken { connection: index, error });
        }
        connection.sent_bytes += result as usize;
        if connection.sent_bytes >= connection.sending.len() {
            if std::mem::take(&mut connection.is_kept) {
                std::mem::swap(&mut connection.sending, &mut connection.kept);
            }
            connection.sending.clear();
            connection.sent_bytes = 0;
        }
        if !connection.sending.is_empty() || !connection.filling.is_empty() {
            self.traffic.unsent.push(index as u32);
        }
    }

    /// The first failure ends the run; the requests of the connection are lost, those of others are waited for.
    fn fail(&mut self, index: usize, failure: Failure) {
        if !self.traffic.connections[index].is_closed {
            self.traffic.close(index);
            self.failure.get_or_insert(failure);
        }
    }

    /// One send for each connection that has something to send and is not sending.
    #[inline]
    fn queue_sends(&mut self) -> io::Result<()> {
        while let Some(index) = self.traffic.unsent.pop() {
            let connection = &mut self.traffic.connections[index as usize];
            if connection.is_sending || connection.is_closed {
                continue;
            }
            if connection.sending.is_empty() {
                std::mem::swap(&mut connection.sending, &mut connection.filling);
            }
            let bytes = &connection.sending[connection.sent_bytes..];
            if bytes.is_empty() {
                continue;
            }
            let bytes = &bytes[..bytes.len().min(SEND_BYTES_MAX)];
            connection.is_sending = true;
            let send = opcode::Send::new(types::Fixed(index), bytes.as_ptr(), bytes.len() as u32)
                .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
                .build()
                .user_data(Token { kind: TokenKind::Send, index }.to_u64());
            // SAFETY: `sending` is not touched while `is_sending`, and given up rather than freed by `finish`.
            unsafe { self.ring.push(&send)? };
        }
        Ok(())
    }

    fn arm_receive(&mut self, index: u32) -> io::Result<()> {
        let receive = opcode::RecvMulti::new(types::Fixed(index), BUFFER_GROUP)
            .build()
            .user_data(Token { kind: TokenKind::Receive, index }.to_u64());
        // SAFETY: names only the pool's buffers, which are unmapped after the ring is gone.
        unsafe { self.ring.push(&receive) }
    }
}
