//! What the store counts, and how it tells it.

use super::Store;
use super::segments::{BLOCK_BYTES, Role, SEGMENT_BYTES};
use crate::samples::{Sample, SampleKind};

/// Why an item was evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EvictionCause {
    /// The policy let it go.
    Policy,
    /// The policy would have kept it, and there was no room, or a write could not wait for its copy.
    Pressure,
}

impl EvictionCause {
    const ALL: [Self; 2] = [Self::Policy, Self::Pressure];

    const fn name(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Pressure => "pressure",
        }
    }
}

/// Events of one store since it was made.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) hits: u64,
    pub(super) misses: u64,
    /// By cause.
    pub(super) evictions: [u64; EvictionCause::ALL.len()],
    pub(super) expirations: u64,
    pub(super) copied_bytes: u64,
    /// Hashes of the evicted keys: a test's model must lose what the store loses.
    #[cfg(test)]
    pub(super) evicted_hashes: Vec<u64>,
}

impl Counters {
    /// An item was evicted.
    pub(super) fn count_eviction(&mut self, cause: EvictionCause, _hash: u64) {
        self.evictions[cause as usize] += 1;
        #[cfg(test)]
        self.evicted_hashes.push(_hash);
    }
}

/// Lists the store's counters and gauges.
pub(super) fn list(store: &Store, out: &mut Vec<Sample>) {
    let mut push = |name, help, kind, label, value: u64| out.push(Sample { name, help, kind, label, value });
    let segments = &store.memory.segments;
    let cap_bytes = segments.count() * SEGMENT_BYTES;
    push("items", "Items that are stored.", SampleKind::Gauge, None, store.items as u64);
    let live_bytes = store.live_bytes();
    push("live_bytes", "Bytes of stored items with their headers.", SampleKind::Gauge, None, live_bytes);
    push("memory_cap_bytes", "Bytes of memory there may be.", SampleKind::Gauge, None, cap_bytes as u64);
    for (role, label) in [
        (Role::Items, "items"),
        (Role::Blocks, "large_values"),
        (Role::Pages, "index"),
        (Role::Ghosts, "ghosts"),
        (Role::Free, "free"),
    ] {
        let bytes = segments.role_count(role) * SEGMENT_BYTES;
        push("memory_bytes", "Memory by use.", SampleKind::Gauge, Some(("use", label)), bytes as u64);
    }
    let block_bytes = store.blocks.used() * BLOCK_BYTES;
    push("large_value_bytes", "Bytes of large values in blocks.", SampleKind::Gauge, None, block_bytes as u64);
    let heap_bytes = store.index.heap_bytes() as u64;
    push(
        "index_heap_bytes",
        "The index's lists, beside the memory cap's segments.",
        SampleKind::Gauge,
        None,
        heap_bytes,
    );
    let pinned_bytes = segments.pinned_count() * SEGMENT_BYTES;
    push("pinned_bytes", "Memory kept in place by sends.", SampleKind::Gauge, None, pinned_bytes as u64);
    let arriving_bytes = store.arriving_bytes as u64;
    let help = "Bytes promised to large values that are not stored yet.";
    push("arriving_bytes", help, SampleKind::Gauge, None, arriving_bytes);
    push("hits_total", "Reads that found their item.", SampleKind::Counter, None, store.counters.hits);
    push("misses_total", "Reads that found nothing.", SampleKind::Counter, None, store.counters.misses);
    for cause in EvictionCause::ALL {
        push(
            "evictions_total",
            "Items evicted to make room: the policy let them go, or memory pressure took what it would have kept.",
            SampleKind::Counter,
            Some(("cause", cause.name())),
            store.counters.evictions[cause as usize],
        );
    }
    push(
        "expirations_total",
        "Items that ended by their expiry.",
        SampleKind::Counter,
        None,
        store.counters.expirations,
    );
    push(
        "copied_bytes_total",
        "Bytes moved by reclaiming and compaction.",
        SampleKind::Counter,
        None,
        store.counters.copied_bytes,
    );
}
