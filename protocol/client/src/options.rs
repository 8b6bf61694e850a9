//! What a client may be told, and every limit of the client.

use std::time::Duration;

/// How a client behaves. `Options::default()` suits a cache in the same data centre.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Time a request may take in all, retries included. Default 5 s: a node of a cluster that is killed is replaced within
    /// its lease (`quoit serve --lease`, 2 s) and 1.5 s, and a request that waits as long does not fail. Shorter: a failing
    /// node costs callers less time, and errors. Longer than [`Options::stall_limit`], or there is no second attempt; at
    /// most 60 s, which is how long servers promise to recognise a repeated write.
    pub deadline: Duration,
    /// Time an attempt may wait, from when its request has left and while nothing comes over its connection; then the
    /// connection is given up, and its unanswered requests are sent again over a new one. Where answers to other requests
    /// come meanwhile it may wait four times as long: then the node is there, and holds this one back. Default 500 ms: a node
    /// that is gone without a word is noticed, and a second attempt has its time. A slow transfer that moves is not a stall.
    pub stall_limit: Duration,
    /// Time a connection may take to be made. Default 500 ms.
    pub connect_limit: Duration,
    /// Keys with an unanswered request, of all connections together; past it requests end with [`crate::Error::Busy`]
    /// or wait, as the front says. Default 16,384.
    pub requests_max: usize,
    /// Bytes those requests may hold. Default 64 MiB.
    pub bytes_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(5),
            stall_limit: Duration::from_millis(500),
            connect_limit: Duration::from_millis(500),
            requests_max: 16_384,
            bytes_max: 64 << 20,
        }
    }
}

/// Longest time a write may be repeated for (protocol, "Retries").
pub(crate) const DEADLINE_MAX: Duration = Duration::from_secs(60);
/// First wait before a broken connection is made again; doubles with every failure, half of it random. A restarting
/// node is found within this time.
pub(crate) const BACKOFF_FIRST: Duration = Duration::from_millis(10);
/// Longest such wait. Longer: a node that is back waits for its clients. Shorter: a thousand clients knock on a dead door.
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// First wait after `Moved` where no newer topology says where to go; doubles with every redirect of the request.
pub(crate) const REDIRECT_WAIT_FIRST: Duration = Duration::from_millis(5);
/// Longest such wait. Longer: a key that has found its owner waits for its clients. Shorter: two nodes that quarrel about a
/// key are asked more often.
pub(crate) const REDIRECT_WAIT_MAX: Duration = Duration::from_millis(100);
/// News of a topology reaches every client at once: each waits a random time up to this before it asks.
pub(crate) const TOPOLOGY_JITTER_MAX: Duration = Duration::from_millis(50);
/// Wait before a topology is asked for again that did not come, or was not yet the one announced.
pub(crate) const TOPOLOGY_RETRY: Duration = Duration::from_millis(50);
/// First wait before a vnode that refuses is asked again; doubles with every refusal in a row, half of it random. What the
/// server asks for counts where it is longer.
pub(crate) const REFUSAL_WAIT_FIRST: Duration = Duration::from_millis(10);
/// Longest such wait. Longer: a vnode that serves again waits for its clients. Shorter: a node in trouble is asked more often,
/// by one request of each vnode.
pub(crate) const REFUSAL_WAIT_MAX: Duration = Duration::from_millis(100);
/// Repeats that may be made at once, or [`Options::requests_max`] where that is more: all that a client has under way survives
/// the loss of its connections, and a server that dies of what it is sent gets no more than that again.
pub(crate) const RETRY_BURST_MIN: usize = 1024;
/// Requests that earn one repeat after a lost connection: in the long run at most a tenth of the load is repeats.
pub(crate) const REQUESTS_PER_RETRY: u32 = 10;
/// Repeats that time alone earns, so that a quiet client may repeat too.
pub(crate) const RETRIES_PER_SEC: u32 = 10;
/// Bytes that are put together for one write. Fewer: more system calls. More: the first request of a batch waits while the
/// last is copied, and out of cache.
pub(crate) const OUTPUT_BYTES_TARGET: usize = 256 << 10;
/// Entries of one frame of a multi operation that the client makes hold at most these bytes, so that a core is not kept
/// from its other connections; a larger item travels alone.
pub(crate) const MULTI_BODY_BYTES_TARGET: usize = 1 << 20;
/// Bytes a front reads at once.
#[cfg(any(feature = "blocking", feature = "tokio"))]
pub(crate) const READ_BYTES: usize = 64 << 10;
