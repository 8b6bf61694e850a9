//! Every limit and time of replication, in one place.

use quoit_wire::limits::PROMISE_MS;

use crate::time::Duration;

/// For so long after it has received a stamp, a copy that acknowledges it answers no seal (C5's D).
pub const PROMISE_TIME: Duration = Duration::from_millis(PROMISE_MS);
/// For so long after it has sent a stamp, a primary relies on the promise that came back with it (0.9 D): clocks' rates
/// may differ by a twentieth, and a promise is counted from later than the stamp.
pub const RELY_TIME: Duration = Duration::from_millis(PROMISE_MS / 10 * 9);
/// Time after which there is more to do where time is what it waits for: a promise that ends, bandwidth for slices.
pub const WORK_INTERVAL: Duration = Duration::from_millis(2);
/// Between two heartbeats of a vnode. Several fit into [`RELY_TIME`], so that one that is lost stops nobody.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(100);
/// Steps in which a core goes through its vnodes in that time, each with a heartbeat for its share of them. Fewer: requests
/// wait longer behind a step, or behind the acknowledgements that it brings. More: an idle core wakes more often.
pub const HEARTBEAT_STEPS: usize = 10;
/// Between two of these steps.
pub const HEARTBEAT_STEP: Duration = Duration::from_millis(HEARTBEAT_INTERVAL.as_millis() / HEARTBEAT_STEPS as u64);
/// Vnodes whose role has just changed that are announced in one turn.
pub const ANNOUNCEMENTS_PER_TURN_MAX: usize = 512;
/// An in-sync copy that has said nothing for so long is proposed for removal (C8).
pub const SILENCE_MAX: Duration = Duration::from_millis(500);
/// What was not acknowledged for so long is sent again. Several times the slowest round trip in one data centre.
pub const RESEND_AFTER: Duration = Duration::from_millis(200);
/// A move that has sealed a vnode for so long has failed: the leader is told, and decides who goes on.
pub const MOVE_TIME_MAX: Duration = Duration::from_secs(3);
/// A copy without memory is let alone for so long before it is streamed anew.
pub const SHORT_PAUSE: Duration = Duration::from_secs(10);
/// A reply waits for its commit for so long at most. Longer than a failover, shorter than clients wait.
pub const WAIT_MAX: Duration = Duration::from_secs(5);
/// Replies of one core that wait. Each holds some hundred bytes; past it writes that would wait are refused.
pub const WAITS_MAX: usize = 16 << 10;
/// Bytes of records that wait to be taken, for each other core. Past it they stay in the backlog.
pub const OUTPUT_BYTES_MAX: usize = 1 << 20;
/// What waits for all of them together takes at most one part in this many of the bytes that the backlog may have: in a large
/// cluster there are thousands.
pub const OUTPUT_SHARE: usize = 4;
/// So much may wait for each of them in any case: one frame of appends.
pub const OUTPUT_BYTES_MIN: usize = APPEND_BYTES;
/// The largest buffer that is kept for reuse.
pub const SPARE_BYTES_MAX: usize = 256 << 10;
/// Bytes of one frame of appends, as long as its records are small. Larger: a copy waits longer until it can begin with the
/// first of them.
pub const APPEND_BYTES: usize = 64 << 10;
/// Bytes of items in one slice. Larger: appends of the vnode wait longer behind it.
pub const SLICE_BYTES: usize = 64 << 10;
/// Bytes of slices that a core sends and takes in a second, unless it is told otherwise: about what one connection of
/// 1 Gbit/s carries in half of its time, so that catching up leaves room for the requests. 500 GB to and from a node of 16
/// cores take 8 minutes.
pub const MOVE_BANDWIDTH_DEFAULT: u64 = 64 << 20;
/// Slices that may be sent at once after a pause, in milliseconds' worth of them.
pub const SLICE_BURST_MS: u64 = 10;
/// Bytes of slices that a core sends in one turn: of full slices some 20 µs of work each, which requests wait for.
pub const SLICE_BYTES_PER_TURN_MAX: usize = 4 * SLICE_BYTES;
/// What the smallest slice counts for in that: looking for the items of an empty vnode takes time, too.
pub const SLICE_BYTES_MIN: usize = 4 << 10;
/// Vnodes that a core sends slices of at a time. Fewer: those that wait for an acknowledgement hold up the others, and a
/// thousand small vnodes take long to be copied after a node was lost. More: all of them are ready later, and what has been
/// sent in vain when a node is lost in between is more.
pub const STREAMS_MAX: usize = 32;
/// Writes that a copy may lack when it is proposed to count. It has to catch up with them before `all` goes on.
pub const LAG_MAX: u64 = 1000;
/// Writes of a vnode that are sent and not acknowledged.
pub const WINDOW_WRITES: u64 = 16 << 10;

const _: () = assert!(RELY_TIME.as_millis() * 105 / 100 < PROMISE_MS);
