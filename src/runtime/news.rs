//! Topology news: a new topology takes effect, and every connection that wants to know is told its epoch.
//!
//! Telling is spread over turns, a bounded number of connections in each, so that a core with many of them goes on serving.
//! A topology that comes while the last one is still being told begins a new round; who was told hears of both.

use std::sync::Arc;

use quoit_wire::{Reply, Status, Version};

use super::connection::Phase;
use super::core::Core;
use super::limits::NEWS_PER_TURN;
use crate::cluster::Ring;
use crate::shard::TopologyOutcome;
use crate::time::Instant;

/// Connections that are still to be told of the newest topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct News {
    /// The first slot that was not looked at.
    pub cursor: usize,
}

impl Core {
    /// Goes by `ring` from now on, and begins to tell who wants to know.
    pub(super) fn take_ring(&mut self, now: Instant, ring: &Arc<Ring>) {
        match self.shard.handle_ring(now, ring) {
            TopologyOutcome::Taken => self.news = Some(News { cursor: 0 }),
            // Rings may overtake each other on their way here.
            TopologyOutcome::Stale => {}
            TopologyOutcome::Foreign => {
                tracing::error!(core = self.options.core, ring.epoch, "a ring of another cluster: it is not taken");
            }
        }
    }

    /// Tells some connections of the newest topology; whether there are more to be told.
    pub(super) fn tell_news(&mut self) -> bool {
        let Some(News { cursor }) = self.news else { return false };
        let slots = self.connections.capacity();
        let end = slots.min(cursor + NEWS_PER_TURN);
        let version = Version::from_u64(u64::from(self.shard.topology().epoch));
        for slot in cursor as u32..end as u32 {
            let Some(mut connection) = self.take(slot) else { continue };
            if connection.wants_news && connection.phase == Phase::Open {
                connection.output.reply(&Reply { version, ..Reply::status(0, Status::TopologyChanged) });
                self.counters.news += 1;
                self.recharge(&mut connection);
                self.mark_dirty(slot, &mut connection);
            }
            self.put(slot, connection);
        }
        self.news = (end < slots).then_some(News { cursor: end });
        self.news.is_some()
    }
}
