//! One core: its ring, its connections, its shard, and the turn that drives them.
//!
//! The turn is the whole data path, in the order of `src/README.md`: reap completions, scan and execute what arrived,
//! serve the mesh, send, enter the kernel once, then a bounded slice of background work. Nothing in a turn waits.
//! The parts of a turn are in files of their own; the picture of them is in `mod.rs`.

use std::collections::VecDeque;
use std::net::TcpListener;
use std::sync::atomic::Ordering;

use slab::Slab;

use super::budget::{Budget, Waiter, Want};
use super::clock::Reading;
use super::connection::{Connection, Stall};
use super::gather::Gather;
use super::held::Held;
use super::limits::{
    CONNECTION_INFLIGHT_MAX, CONNECTION_OUTPUT_BYTES_HIGH, CONNECTION_OUTPUT_BYTES_LOW, OUTPUT_SHARE,
    OVERLOADED_RETRY_MS, PIN_BYTES_MIN, READY_MAX, RECEIVE_BUFFER_BYTES, REPLY_ROOM_BYTES, SHUTDOWN_TIME_MAX,
    SPARE_SHARE, SWEEP_INTERVAL, TURN_REQUESTS_MAX, TURN_TIME_MAX, TimeLimits,
};
use super::mesh::Mesh;
use super::news::News;
use super::peers::Peers;
use super::report::Counters;
use super::ring::{Completion, Purpose, Ring};
use super::scan::stall_on;
use super::spare::Spare;
use super::together::Together;
use super::vectored::SpareVectors;
use super::waiting::Waiting;
use crate::shard::{ReplyLimits, Shard};
use crate::store::Progress;

/// What is fixed for a core's life.
#[derive(Clone, Debug)]
pub(super) struct CoreOptions {
    pub core: u16,
    pub cores: u16,
    pub cpu: usize,
    pub node_id: u64,
    pub value_bytes_max: usize,
    pub connections_max: usize,
    pub buffer_bytes_max: usize,
    pub prefault: bool,
    pub time_limits: TimeLimits,
    pub started: Reading,
}

/// What a turn found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Work: take the next turn at once.
    Busy,
    /// Only background work is left.
    Background,
    /// Nothing.
    Idle,
    /// The core is shut down and every other core is too.
    Over,
}

/// Where a scanned request's bytes lie until it is executed, later in the same turn.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    /// In a provided buffer.
    Buffer(u16),
    /// In its connection's carry.
    Carry,
}

/// A whole request of this core's own, scanned and not executed yet.
///
/// Its head is not kept: reading it again where it lies costs less than to write it down here and find it in the cache.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ready {
    /// Of the key; zero where there is none.
    pub hash: u64,
    pub slot: u32,
    pub offset: u32,
    pub source: Source,
}

const _: () = assert!(size_of::<Ready>() == 24);

/// One core's runtime state.
pub(super) struct Core {
    pub options: CoreOptions,
    pub ring: Ring,
    pub mesh: Mesh,
    pub shard: Shard,
    pub listener: Option<TcpListener>,
    pub is_accepting: bool,
    /// A slot's connection is out of its place while it is worked on (`take`, `put`).
    pub connections: Slab<Option<Box<Connection>>>,
    pub gathers: Slab<Gather>,
    pub peers: Peers,
    /// Replies that wait for a commit; none without a cluster.
    pub held: Held,
    /// Requests that wait for their vnode; none without a cluster.
    pub waiting: Waiting,
    /// Connections whose released replies wait for others of theirs.
    pub together: Together,
    /// Since when it is gathered what copies on other cores are to be told.
    pub gathers_since: Option<Reading>,
    pub next_generation: u32,
    pub now: Reading,
    pub counters: Counters,
    /// The account of all buffers.
    pub budget: Budget,
    /// Connections of which the kernel is sending something.
    pub active_sends: usize,
    pub sweep_cursor: usize,
    pub last_sweep: Reading,
    pub draining_since: Option<Reading>,
    pub news: Option<News>,

    // Lists of one turn, kept for their memory.
    pub ready: Vec<Ready>,
    /// Receive buffers that the turn has reaped, and those that are kept from the kernel while there is no room for what it
    /// would put into them.
    pub held_buffers: Vec<u16>,
    pub touched: Vec<u32>,
    pub dirty: Vec<u32>,
    pub resume: Vec<u32>,
    pub rearm: Vec<u32>,
    pub spare_vectors: SpareVectors,
    /// Connections that wait for a receive buffer, first come first served.
    pub starved: VecDeque<Waiter>,
    pub spare: Spare,
    /// A frame, or the front of one, copied out of its buffer while the core works on it.
    pub scratch: Vec<u8>,
}

/// Completions between two looks at the clock. Each brings at most one receive buffer of requests, so a turn is over its
/// time by a few tens of microseconds at most; a look costs as much as a small request.
const COMPLETIONS_PER_CLOCK: u32 = 8;
/// Steps of background work in a turn that had requests, and in one that had none.
const WORK_STEPS_BUSY: usize = 4;
const WORK_STEPS_IDLE: usize = 32;
/// The largest buffer of a connection that is kept for reuse.
const SPARE_BUFFER_BYTES: usize = 64 << 10;

impl Core {
    /// A core that accepts nothing yet.
    pub(super) fn new(
        options: CoreOptions,
        ring: Ring,
        mesh: Mesh,
        mut shard: Shard,
        peers: Peers,
        listener: TcpListener,
    ) -> Self {
        let now = Reading::now();
        let budget = Budget::new(options.buffer_bytes_max);
        let held = Held::new(options.buffer_bytes_max);
        let waiting = Waiting::new(options.buffer_bytes_max);
        shard.set_may_defer(true);
        let spare = Spare::new(options.buffer_bytes_max / SPARE_SHARE, SPARE_BUFFER_BYTES);
        Self {
            options,
            ring,
            mesh,
            shard,
            listener: Some(listener),
            is_accepting: false,
            connections: Slab::new(),
            gathers: Slab::new(),
            peers,
            held,
            waiting,
            together: Together::default(),
            gathers_since: None,
            next_generation: 0,
            now,
            counters: Counters::new(),
            budget,
            active_sends: 0,
            sweep_cursor: 0,
            last_sweep: now,
            draining_since: None,
            news: None,
            ready: Vec::new(),
            held_buffers: Vec::new(),
            touched: Vec::new(),
            dirty: Vec::new(),
            resume: Vec::new(),
            rearm: Vec::new(),
            spare_vectors: SpareVectors::default(),
            starved: VecDeque::new(),
            spare,
            scratch: Vec::new(),
        }
    }

    /// One turn.
    pub(super) fn turn(&mut self) -> std::io::Result<Turn> {
        let answered_before = self.counters.answered;
        let requests_before = self.requests_taken();
        self.budget.set_elsewhere(self.elsewhere_bytes());
        self.ring.reap();
        // After what is there was taken, never before: a core that is held up in between would carry out requests as of a
        // time before they were sent, and their items would end early.
        self.now = Reading::now();
        let began = self.now;
        let mut is_busy = self.ring.has_completions() || !self.resume.is_empty() || self.feeds_starved();
        let mut completions: u32 = 0;
        while self.requests_taken() - requests_before < TURN_REQUESTS_MAX
            && !((completions + 1).is_multiple_of(COMPLETIONS_PER_CLOCK) && self.is_turn_over())
            && let Some(completion) = self.ring.next_completion()
        {
            completions += 1;
            self.complete(completion);
            if self.ready.len() >= READY_MAX {
                self.execute_ready();
            }
        }
        self.resume_stalled();
        self.execute_ready();
        is_busy |= self.serve_mesh();
        is_busy |= self.turn_cluster(is_busy);
        is_busy |= self.tell_news();
        self.tidy_touched();
        self.mesh.flush();
        self.send_together();
        self.send_dirty();
        self.budget.set_elsewhere(self.elsewhere_bytes());
        self.resume_waiting();
        self.return_buffers();
        self.rearm_receives();
        self.ring.enter()?;
        is_busy |= self.ring.has_completions();

        let steps = if is_busy { WORK_STEPS_BUSY } else { WORK_STEPS_IDLE };
        let progress = self.shard.work(self.now.instant(), steps);
        if self.now.is_past(self.last_sweep, SWEEP_INTERVAL) {
            self.last_sweep = self.now;
            self.sweep();
        }
        self.counters.turn(began, answered_before);
        if let Some(since) = self.draining_since {
            self.drain();
            let shared = self.mesh.shared();
            let is_late = self.now.is_past(since, SHUTDOWN_TIME_MAX);
            if is_late || shared.iter().all(|core| core.drained.load(Ordering::Acquire)) {
                return Ok(Turn::Over);
            }
            return Ok(Turn::Busy);
        }
        Ok(match (is_busy, progress) {
            (true, _) => Turn::Busy,
            (false, Progress::More) => Turn::Background,
            (false, Progress::Idle) => Turn::Idle,
        })
    }

    /// Requests that were taken in: answered, handed on, or ready to be executed.
    fn requests_taken(&self) -> u64 {
        self.counters.answered + self.counters.forwarded + self.ready.len() as u64
    }

    /// Whether the turn has lasted so long that what is left waits for the next one.
    fn is_turn_over(&self) -> bool {
        Reading::now().is_past(self.now, TURN_TIME_MAX)
    }

    fn complete(&mut self, completion: Completion) {
        match completion.purpose {
            Purpose::Accept => self.on_accept(completion),
            Purpose::Receive => self.on_receive(completion),
            Purpose::Send => self.on_sent(completion.slot, completion.result),
            Purpose::Connect => self.on_connected(completion),
            Purpose::Cancel => {}
            Purpose::Bell if completion.more => {}
            Purpose::Bell => self.ring.watch_bell(),
        }
    }

    /// The bytes a completion brought. Its buffer goes back to the kernel at the end of the turn.
    pub(super) fn received_bytes(&self, completion: &Completion) -> usize {
        usize::try_from(completion.result).unwrap_or(0).min(RECEIVE_BUFFER_BYTES)
    }

    /// How replies may be built now. What is executed has been given the room of one reply, which others may have used since.
    pub(super) fn reply_limits(&self) -> ReplyLimits {
        ReplyLimits {
            pin_bytes_min: PIN_BYTES_MIN,
            copy_bytes_max: self.budget.left_bytes().max(REPLY_ROOM_BYTES),
            retry_after_ms: OVERLOADED_RETRY_MS,
        }
    }

    /// Unsent reply bytes of a connection past which its further requests wait: the less buffers are left, the fewer.
    pub(super) fn output_bytes_high(&self) -> usize {
        (self.budget.left_bytes() / OUTPUT_SHARE).clamp(CONNECTION_OUTPUT_BYTES_LOW, CONNECTION_OUTPUT_BYTES_HIGH)
    }

    /// Whether there is room for the reply to one more request of a connection, and nobody before it who waits for that.
    pub(super) fn has_reply_room(&self, connection: &Connection) -> bool {
        if connection.has_turn {
            return true;
        }
        self.budget.has_reply_room(connection.unsent_bytes(), REPLY_ROOM_BYTES) && !self.budget.has_waiting(Want::Reply)
    }

    /// Whether nothing is being sent, so that no room will come of it: then one reply goes on without room, or all might wait
    /// for each other.
    pub(super) fn is_stuck(&self) -> bool {
        self.active_sends == 0 && self.dirty.is_empty() && self.together.is_empty()
    }

    /// Lets a connection wait until there is room for what it wants.
    pub(super) fn wait_for_room(&mut self, slot: u32, connection: &mut Connection, want: Want) {
        connection.has_turn = false;
        stall_on(self, slot, connection, Stall::Budget);
        self.budget.wait(Waiter { slot, generation: connection.generation }, want);
    }

    /// Bytes of buffers that are no connection's: in the mesh, of replies and requests that wait, of copies' messages, and kept
    /// for reuse.
    fn elsewhere_bytes(&self) -> usize {
        let waiting_bytes = self.held.bytes() + self.waiting.bytes();
        self.mesh.bytes() + waiting_bytes + self.shard.copies_buffer_bytes() + self.spare.bytes()
    }

    /// Frees what is kept for reuse, for who needs the room.
    pub(super) fn drop_spares(&mut self) {
        self.spare.clear();
        self.mesh.drop_spares();
        self.held.drop_spares();
        if let Some((copies, _)) = self.shard.copies() {
            copies.drop_spares();
        }
        self.budget.set_elsewhere(self.elsewhere_bytes());
    }

    /// Takes a connection out of its slot to work on it.
    pub(super) fn take(&mut self, slot: u32) -> Option<Box<Connection>> {
        self.connections.get_mut(slot as usize)?.take()
    }

    /// Puts a connection back into its slot.
    pub(super) fn put(&mut self, slot: u32, connection: Box<Connection>) {
        self.connections[slot as usize] = Some(connection);
    }

    /// Brings the account of the buffers up to date with a connection's.
    pub(super) fn recharge(&mut self, connection: &mut Connection) {
        let charge = connection.charge();
        self.budget.recharge(connection.charged, charge);
        connection.charged = charge;
    }

    /// Requests a connection may have unanswered, as the hello says.
    pub(super) const fn inflight_max(&self) -> u16 {
        CONNECTION_INFLIGHT_MAX
    }
}
