//! The body of a stats reply: plain counters per core, as the node keeps them.
//!
//! ```text
//! Stats      0                8      16          24      32      CoreStats  0      2        10
//!            ┌────────────────┬──────┬───────────┬───────┐                  ┌──────┬────────┐
//!            │ server_version │ node │ uptime_ms │ cores │                  │ core │ values │
//!            │ string         │ u64  │ u64       │ array │                  │ u16  │ array  │
//!            └────────────────┴──────┴───────────┴───────┘                  └──────┴────────┘
//! value      0        8       16
//!            ┌────────┬───────┐
//!            │ name   │ value │    strings and arrays are rkyv's relative pointers of 8 bytes each,
//!            │ string │ u64   │    drawn in `protocol/README.md`; the root (`Stats`) ends the body
//!            └────────┴───────┘
//! ```

use rkyv::{Archive, Deserialize, Serialize, rancor};

/// A node's counters at one moment.
#[derive(Clone, Debug, Default, PartialEq, Archive, Serialize, Deserialize)]
pub struct Stats {
    /// The server's version, as in `quoit --version`.
    pub server_version: String,
    /// The node's id.
    pub node: u64,
    /// Milliseconds since the node started.
    pub uptime_ms: u64,
    /// One entry per core.
    pub cores: Vec<CoreStats>,
}

/// One core's counters. Monotonic unless the name says otherwise; sizes are in bytes.
#[derive(Clone, Debug, Default, PartialEq, Archive, Serialize, Deserialize)]
pub struct CoreStats {
    /// The core's index within the node.
    pub core: u16,
    /// Named counters and gauges, in a fixed order per server version; names are those of `/metrics` without prefix.
    pub values: Vec<(String, u64)>,
}

const _: () = assert!(size_of::<ArchivedStats>() == 32 && align_of::<ArchivedStats>() == 1);
const _: () = assert!(size_of::<ArchivedCoreStats>() == 10 && align_of::<ArchivedCoreStats>() == 1);

impl Stats {
    /// The stats as a reply's body.
    pub fn to_bytes(&self) -> Vec<u8> {
        rkyv::to_bytes::<rancor::Error>(self).map(|bytes| bytes.to_vec()).unwrap_or_default()
    }

    /// Reads stats that came from outside; `None` when the bytes don't hold together.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        rkyv::from_bytes::<Self, rancor::Failure>(bytes).ok()
    }

    /// The sum of the named value over the cores.
    pub fn sum(&self, name: &str) -> u64 {
        let values = self.cores.iter().flat_map(|core| &core.values);
        values.filter(|(known, _)| known == name).map(|(_, value)| value).sum()
    }
}
