//! Every limit of the runtime, in one place, each with what breaks when it is larger or smaller.

use std::time::Duration;

/// Entries of a core's submission queue. A turn that prepares more submits in between.
pub(super) const SUBMISSIONS_MAX: u32 = 1024;
/// Entries of a core's completion queue: a burst over all connections fits; past it the kernel keeps the rest aside.
pub(super) const COMPLETIONS_MAX: u32 = 4096;

/// Files of a core's ring, which the kernel bounds; each costs it eight bytes. Connections past it go by descriptor.
pub(super) const FILES_MAX: u32 = 1 << 20;

/// Bytes of one provided receive buffer. Larger: more memory per waiting message; smaller: more completions per value.
pub(super) const RECEIVE_BUFFER_BYTES: usize = 8 << 10;
/// Receive buffers of a core beside those, for connections that hold something which their next bytes finish (a promised
/// frame, a large set, a hello), and for peer links, whose bytes let replies go that wait. They are read though no other is.
pub(super) const RESERVED_BUFFERS: u16 = 64;
/// Provided receive buffers of a core (4 MiB). All return at the end of a turn; too few end multishot receives early.
pub(super) const RECEIVE_BUFFERS: u16 = 512;

/// Connections per core when `--connections-max` says nothing else.
pub const CONNECTIONS_MAX_DEFAULT: usize = 65_536;
/// Requests a connection may have unanswered at other cores. Past it the connection is not read.
pub(super) const CONNECTION_INFLIGHT_MAX: u16 = 1024;
/// Unsent reply bytes of a connection past which its further requests wait.
pub(super) const CONNECTION_OUTPUT_BYTES_HIGH: usize = 1 << 20;
/// The same when the core's buffers are nearly full. In between: one part in [`OUTPUT_SHARE`] of what is left of them.
pub(super) const CONNECTION_OUTPUT_BYTES_LOW: usize = 64 << 10;
/// A connection may have unsent what is left of the buffers, divided by this: no few of them fill what all need.
pub(super) const OUTPUT_SHARE: usize = 4;
/// Unsent reply bytes of a connection past which replies that other cores send for it become `Overloaded`.
pub(super) const CONNECTION_OUTPUT_BYTES_MAX: usize = 40 << 20;
/// Received bytes that a stalled connection may hold before its receive is cancelled.
pub(super) const CONNECTION_STALLED_BYTES_MAX: usize = 64 << 10;
/// Room in a carry beyond what lies in it and is promised. More is given back when what took it is done with.
pub(super) const CARRY_SURPLUS_BYTES_MAX: usize = 64 << 10;
/// Bytes of one send. A send completes when all of it has left, so this is how little a slow reader must take in its
/// time to be seen making progress (3 KiB/s). Larger: what others ask meanwhile waits longer; smaller: more completions per
/// large value. (Measured against 72 and 128 KiB: the least processor time for values of 1 MiB.)
pub(super) const SEND_BYTES_MAX: usize = 96 << 10;
/// Pieces of one vectored send or receive (the kernel's own limit is 1024).
pub(super) const VECTOR_PIECES_MAX: usize = 64;
/// Large values of which at least so much is still to come are received where they will lie. Less: it is not worth the
/// cancelling of the receive that is under way.
pub(super) const DIRECT_BYTES_MIN: usize = 128 << 10;
/// Bytes that one such receive may bring. Larger: what others ask meanwhile waits longer; smaller: more receives per value.
pub(super) const DIRECT_RECEIVE_BYTES: usize = 128 << 10;

/// Values of at least this many bytes are sent from where they lie; below it copying is as cheap as an extra piece, and holds
/// no segment. (Measured: 4 KiB values cost 15 % less processor so, in or out of cache no more, 1 and 2 KiB the same.)
pub const PIN_BYTES_MIN: usize = 4 << 10;
/// Sets with values of at least this many bytes are received into the arena; below it the carry buffer is cheaper.
pub(super) const RESERVE_BYTES_MIN: usize = 32 << 10;

/// Share of `--memory` (one part in this many) for carry, output and mesh buffers; the rest is the store's.
pub const BUFFER_SHARE: usize = 16;
/// Least bytes of a core's buffer budget.
pub const BUFFER_BYTES_MIN: usize = 8 << 20;
/// Unfinished frames and gathers leave one part in this many of a core's buffers to replies.
pub(super) const UNFINISHED_LEAVE: usize = 8;
/// Bytes are received as long as all that is held leaves one part in this many of a core's buffers to replies ...
pub(super) const RECEIVE_LEAVE: usize = 16;
/// ... and as long as received bytes that wait have less than one part in this many: the rest is for what they wait for.
pub(super) const RECEIVED_SHARE: usize = 2;
/// Room is short when less than one part in this many may be received: then who is stalled is not read any more. Larger: a
/// stall ends with more to go on with; smaller: there is more room for those that are not stalled.
pub(super) const SHORT_SHARE: usize = 8;
/// Room there must be for a request to be executed: a value of so many bytes that can't be pinned is copied. Larger: fewer
/// requests go on when buffers are short; smaller: hits are answered `Overloaded` that need not be.
pub(super) const REPLY_ROOM_BYTES: usize = 64 << 10;
/// Buffers kept for reuse take at most one part in this many of a core's buffers: those of connections, those of the mesh,
/// and those of replies that wait.
pub(super) const SPARE_SHARE: usize = 16;
/// Replies that wait for a commit take at most one part in this many of a core's buffers; past it what would wait is
/// refused. Larger: fewer large values may wait to be read; smaller: less is left to what needs no commit.
pub(super) const HELD_SHARE: usize = 8;
/// Requests that wait for their vnode take at most one part in this many of a core's buffers ...
pub(super) const WAITING_SHARE: usize = 16;
/// ... and are so many. Past it they are answered `Overloaded`. Fewer: clients ask again and again while a vnode moves.
pub(super) const WAITING_MAX: usize = 4096;
/// They wait so long at most: several times what a move takes, and well under what clients take for a stalled connection.
pub(super) const WAITING_TIME_MAX: crate::time::Duration = crate::time::Duration::from_millis(200);
/// The largest buffer of such a reply that is kept for reuse: those of writes, of which many wait.
pub(super) const HELD_BUFFER_BYTES_MAX: usize = 256;
/// Share of a cluster's core's memory (one part in this many) for records that copies lack. Smaller: a copy that was cut off
/// for a moment is streamed its vnodes anew; larger: less for items.
pub const BACKLOG_SHARE: usize = 16;
/// Least bytes of it.
pub const BACKLOG_BYTES_MIN: usize = 2 << 20;
/// Kernel socket buffers of a connection, each direction. The kernel doubles it for its own bookkeeping.
pub(super) const SOCKET_BUFFER_BYTES: usize = 256 << 10;

/// Requests one core may have unanswered at one other core.
pub(super) const MESH_INFLIGHT_MAX: usize = 1024;
/// Bytes of requests one core may have unanswered at one other core; a single larger request may go alone.
pub(super) const MESH_INFLIGHT_BYTES_MAX: usize = 1 << 20;
/// Bytes of one batch past which it is pushed and a new one begun.
pub(super) const MESH_BATCH_BYTES: usize = 64 << 10;
/// Reply bytes that may wait for one core at another; past it that core's requests wait. What a core has waiting for all
/// others is at most one part in [`MESH_REPLY_SHARE`] of its buffers.
pub(super) const MESH_REPLY_BYTES_MAX: usize = 4 << 20;
/// See there. Larger: less is in flight between cores that are busy; smaller: less is left to their own connections.
pub(super) const MESH_REPLY_SHARE: usize = 8;
/// The same where there are many cores: less would make each batch wait for the last one.
pub(super) const MESH_REPLY_BYTES_MIN: usize = 64 << 10;
/// Connections that may be on their way from one core to another.
pub(super) const MESH_ADOPTIONS_MAX: usize = 64;
/// Batches of copies' messages that may be on their way from one core to another; past it they stay with the copies.
pub(super) const MESH_FRAMES_MAX: usize = 16;
/// Multi-core requests (multi-get over cores, flush, stats) of one core at a time.
pub(super) const GATHERS_MAX: usize = 4096;

/// Connections a turn tells of a new topology: 10,000 of them are told within 40 turns, and a turn spends some 20 µs on it.
pub(super) const NEWS_PER_TURN: usize = 256;

/// Requests whose memory is prefetched together, then executed: enough to hide its latency, few enough for the first-level
/// cache.
pub(super) const PREFETCH_WINDOW: usize = 32;
/// Requests that wait in the ready list before they are executed, give or take those of one receive buffer. Fewer: shorter
/// windows of prefetching at the end; more: what was received and prefetched falls out of the first-level cache.
pub(super) const READY_MAX: usize = 128;
/// Requests a turn takes in from its connections, give or take those of one receive buffer: with 0.3 µs each the turn ends
/// within 2 ms, and timers, control commands and other cores get theirs. Fewer: more `io_uring_enter` per request.
pub(super) const TURN_REQUESTS_MAX: u64 = 4096;
/// Time after which a turn takes in nothing more from its connections, and after which it goes on from one neighbour's
/// messages to the next one's: requests that are long (multi operations) count by it.
pub(super) const TURN_TIME_MAX: Duration = Duration::from_millis(1);
/// Mesh batches a core takes from one inlet per turn, so one busy neighbour can't hold its turn.
pub(super) const MESH_BATCHES_PER_TURN: usize = 16;
/// glommio's preempt timer, which is to say never: see `take_turns`.
pub(super) const PREEMPT_NEVER: Duration = Duration::from_secs(24 * 3600);

/// When a node gives up on a client. Options rather than constants, so that a test need not wait for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeLimits {
    /// A connection has so long for its hello.
    pub hello_max: Duration,
    /// A reader may make no progress for so long while replies wait for it.
    pub reader_stall_max: Duration,
    /// The same while buffers are short, for a reader that has more than its share of them waiting.
    pub reader_stall_short: Duration,
    /// A writer may send nothing for so long in the middle of a frame, which holds buffers or arena space.
    pub frame_stall_max: Duration,
}

impl Default for TimeLimits {
    fn default() -> Self {
        Self {
            hello_max: Duration::from_secs(10),
            reader_stall_max: Duration::from_secs(30),
            reader_stall_short: Duration::from_secs(10),
            frame_stall_max: Duration::from_secs(30),
        }
    }
}

/// An idle connection is probed after so long, so that a peer that is gone without a word does not hold its place.
pub(super) const KEEPALIVE_TIME: Duration = Duration::from_secs(60);
/// Bytes a peer link may have unsent; past it what is to be sent is refused, and whoever sends goes by its own backlog.
pub(super) const PEER_OUTPUT_BYTES_MAX: usize = 4 << 20;
/// What copies on other cores are to be told is gathered for so long at most, while the core has other work; one that has not
/// tells at once. Longer: replies that wait for a commit leave later; shorter: more and smaller sends (with 50 µs half as many
/// again, `benches/README.md`).
pub(super) const PEER_GATHER_TIME: Duration = Duration::from_micros(150);
/// Released replies of a connection wait for so long at most for others of its replies that still wait. Longer: they leave
/// later where the others are late; shorter than a core's turns at a few nodes: they leave one by one again.
pub(super) const REPLY_GATHER_TIME: Duration = Duration::from_micros(200);
/// First wait before a broken peer link is made again; doubles up to the longest, half of it random. A node that restarts is
/// found soon, and a dead one is not knocked at by every core of every node.
pub(super) const PEER_BACKOFF_FIRST: Duration = Duration::from_millis(10);
/// The longest such wait.
pub(super) const PEER_BACKOFF_MAX: Duration = Duration::from_secs(1);
/// Time a peer link may take from its connect to the other side's hello.
pub(super) const PEER_CONNECT_TIME_MAX: Duration = Duration::from_secs(1);
/// Messages from peers that may wait for the control thread.
pub(super) const CORE_EVENTS_MAX: usize = 1024;

/// Time between two looks at connections that may be over their time.
pub(super) const SWEEP_INTERVAL: Duration = Duration::from_millis(500);
/// Connections looked at in one sweep step.
pub(super) const SWEEP_CONNECTIONS: usize = 2048;
/// Time a graceful shutdown gives replies to leave.
pub(super) const SHUTDOWN_TIME_MAX: Duration = Duration::from_secs(5);
/// Time within a shutdown in which requests that still arrive are carried out; after it they are refused.
pub(super) const SHUTDOWN_INTAKE_MAX: Duration = Duration::from_millis(500);
/// Messages about bad clients: at most one per this time and core.
pub(super) const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);
/// Milliseconds an `Overloaded` reply asks its client to wait.
pub const OVERLOADED_RETRY_MS: u16 = 5;
/// Control commands that may wait for a core.
pub(super) const COMMANDS_MAX: usize = 64;
