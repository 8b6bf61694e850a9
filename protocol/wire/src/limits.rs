//! Every limit of the wire, in one place.

/// Longest key. Shortest is one byte.
pub const KEY_BYTES_MAX: usize = 65_535;
/// Largest value any server may be configured to take; the default maximum as well.
pub const VALUE_BYTES_MAX: usize = 16 << 20;
/// Keys in one multi-get or multi-set. More would let one frame hold a core for longer than a turn should last.
pub const MULTI_KEYS_MAX: usize = 1024;
/// Bytes of values in one multi-get's reply; entries past it answer `TooLarge`, to be asked for alone.
pub const MULTI_REPLY_BYTES_MAX: usize = 1 << 20;
/// Bytes of a multi-get's or multi-set's frame.
pub const MULTI_FRAME_BYTES_MAX: usize = 4 << 20;
/// Bytes of a hello's frame, credentials included; a stranger can't make a server buffer more.
pub const HELLO_FRAME_BYTES_MAX: usize = 1024;
/// Bytes a ping may carry and get back.
pub const PING_BYTES_MAX: usize = 1024;
/// Bytes behind a reply's header that a client accepts: a value, the results of a multi operation, topology, stats.
pub const BODY_BYTES_MAX: usize = 16 << 20;
/// The longest frame that is skipped rather than closed upon when it is over a limit: a value four times the largest
/// any server takes is a client's honest mistake. Beyond it a length is noise.
pub const FRAME_BYTES_PLAUSIBLE: usize = VALUE_BYTES_MAX * 4 + KEY_BYTES_MAX + 256;
/// Vnodes in one heartbeat or its answer, records in one append, items in one slice.
pub const PEER_ENTRIES_MAX: usize = 4096;
/// Terms that one vnode remembers.
pub const PEER_TERMS_MAX: usize = 16;
/// Results of one vnode that travel when a copy of it begins.
pub const PEER_RESULTS_MAX: usize = 64 << 10;
/// Bytes of a frame between nodes: one record with the largest key and value, or as many smaller ones as fit.
pub const PEER_FRAME_BYTES_MAX: usize = VALUE_BYTES_MAX + KEY_BYTES_MAX + (64 << 10);
/// For so long after it has received a primary's stamp, a copy that acknowledges it answers no seal (C5's D).
pub const PROMISE_MS: u64 = 1000;

const _: () =
    assert!(VALUE_BYTES_MAX <= BODY_BYTES_MAX && MULTI_REPLY_BYTES_MAX + MULTI_KEYS_MAX * 20 <= BODY_BYTES_MAX);
