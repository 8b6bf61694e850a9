//! What a core tells of its copies: sums for metrics, each vnode by itself for a closer look.

use quoit_wire::peer::AckEntry;

use super::lead::{Lead, Member, Phase, Progress};
use super::{Copies, Copy, Peer, Role};
use crate::cluster::load::{Lag, Load};
use crate::samples::{Sample, SampleKind};
use crate::store::Store;

/// Plain integers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    /// Seals that were obeyed.
    pub(super) seals: u64,
    /// Vnodes that were sealed here to be handed over.
    pub(super) handovers: u64,
    /// Times the leader was asked for another in-sync set.
    pub(super) proposals: u64,
    /// Bytes of vnodes that were streamed from here, and to here.
    pub(super) streamed_bytes: [u64; 2],
}

/// One vnode of a core, as its copy here sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VnodeStatus {
    /// Which.
    pub vnode: u16,
    /// Under which this copy has its role.
    pub term: u32,
    /// `leading`, `tailing` (about to lead), `handing over`, `sealed`, `following` or `catching up`.
    pub role: &'static str,
    /// The number of the last write here.
    pub last_write: u64,
    /// Acknowledged writes that no other node is known to have; of a primary.
    pub at_risk_writes: u64,
    /// Replies that wait for a commit; of a primary.
    pub waiting_replies: usize,
    /// Its copies, as the primary sees them.
    pub copies: Vec<CopyStatus>,
}

/// A copy, as its primary sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyStatus {
    /// Where it is.
    pub peer: Peer,
    /// Whether the ring says that it counts.
    pub is_in_sync: bool,
    /// `unknown`, `beginning`, `streaming`, `following` or `lost`.
    pub progress: &'static str,
    /// Writes that it has not acknowledged.
    pub lag_writes: u64,
    /// Bytes of the records of these, as far as they are kept.
    pub lag_bytes: u64,
}

/// Sums over the vnodes that a core leads, and the largest of them.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    led: u64,
    alone: u64,
    followed: u64,
    sealed: u64,
    streaming: u64,
    at_risk_writes: u64,
    lag_writes: u64,
    lag_writes_max: u64,
    lag_bytes: u64,
}

impl Copies {
    /// Each vnode that has a copy here. Cost: a look at every vnode, and at the records that copies lack.
    pub fn vnodes(&self, store: &Store) -> Vec<VnodeStatus> {
        let copies = (0u16..).zip(&self.copies);
        copies.filter_map(|(vnode, copy)| Some(self.vnode(store, vnode, copy.as_deref()?))).collect()
    }

    /// What this core has and has still to do, for operators. Cost: as that of [`Self::vnodes`].
    pub fn load(&self, store: &Store) -> Load {
        let mut load = Load { held_bytes: store.live_bytes(), ..Load::default() };
        // Of the vnodes of copies that are being made.
        let mut unsent_parts = 0;
        for (vnode, copy) in (0u16..).zip(&self.copies).filter_map(|(vnode, copy)| Some((vnode, copy.as_deref()?))) {
            load.held_vnodes += 1;
            let Role::Leading(lead) = &copy.role else { continue };
            let last_write = store.sequence(usize::from(vnode));
            for member in &lead.members {
                if !member.is_in_sync && !member.is_whole() {
                    unsent_parts += u128::from(AckEntry::CURSOR_END.saturating_sub(member.cursor));
                } else if member.applied < last_write {
                    let CopyStatus { lag_writes, lag_bytes, .. } = self.copy_status(vnode, last_write, member);
                    load.lags.entry(member.peer.node).or_default().add(Lag { writes: lag_writes, bytes: lag_bytes });
                }
            }
        }
        let unstreamed_bytes = u128::from(load.vnode_bytes()) * unsent_parts / u128::from(AckEntry::CURSOR_END);
        Load { unstreamed_bytes: u64::try_from(unstreamed_bytes).unwrap_or(u64::MAX), ..load }
    }

    /// Bytes of vnodes that were streamed from here.
    pub fn streamed_bytes(&self) -> u64 {
        self.counters.streamed_bytes[0]
    }

    /// Lists the counters and gauges of this core's copies.
    pub fn samples(&self, store: &Store, out: &mut Vec<Sample>) {
        let mut sums = Sums::default();
        self.vnodes(store).iter().for_each(|vnode| sums.add(vnode));
        let mut push = |kind, name, help, label, value| out.push(Sample { name, help, kind, label, value });
        for (name, help, value) in [
            ("vnodes_led", "Vnodes whose primary this core is.", sums.led),
            ("vnodes_led_alone", "Of these, those without a copy that counts.", sums.alone),
            ("vnodes_followed", "Vnodes that this core keeps a copy of.", sums.followed),
            ("vnodes_sealed", "Vnodes here that are between two primaries.", sums.sealed),
            ("vnodes_streaming", "Copies elsewhere that this core streams vnodes to.", sums.streaming),
            ("at_risk_writes", "Acknowledged writes that no other node is known to have.", sums.at_risk_writes),
            (
                "replication_lag_writes",
                "Writes that in-sync copies have not acknowledged, of all vnodes.",
                sums.lag_writes,
            ),
            ("replication_lag_writes_max", "The same of the vnode with the most.", sums.lag_writes_max),
            ("replication_lag_bytes", "Bytes of the records of these.", sums.lag_bytes),
            ("replication_backlog_bytes", "Records kept for copies that lack them.", self.backlog.bytes() as u64),
            ("replies_waiting", "Replies that wait for a commit.", self.tickets.len() as u64),
        ] {
            push(SampleKind::Gauge, name, help, None, value);
        }
        let counters = &self.counters;
        for (name, help, value) in [
            ("seals_total", "Vnodes here that the leader has sealed.", counters.seals),
            ("handovers_total", "Vnodes that this core has sealed to hand them over.", counters.handovers),
            ("in_sync_proposals_total", "Times another in-sync set was proposed.", counters.proposals),
        ] {
            push(SampleKind::Counter, name, help, None, value);
        }
        for (direction, value) in ["sent", "received"].into_iter().zip(counters.streamed_bytes) {
            let help = "Bytes of vnodes streamed for copies that are made anew.";
            push(SampleKind::Counter, "streamed_bytes_total", help, Some(("direction", direction)), value);
        }
    }

    fn vnode(&self, store: &Store, vnode: u16, copy: &Copy) -> VnodeStatus {
        let last_write = store.position(usize::from(vnode)).sequence();
        let mut status = VnodeStatus {
            vnode,
            term: copy.term,
            role: "following",
            last_write,
            at_risk_writes: 0,
            waiting_replies: 0,
            copies: Vec::new(),
        };
        match &copy.role {
            Role::Following(follow) if follow.is_in_sync => {}
            Role::Following(_) => status.role = "catching up",
            Role::Leading(lead) => {
                status.role = match lead.phase {
                    Phase::Tailing(_) => "tailing",
                    Phase::Serving => "leading",
                    Phase::HandingOver(_) => "handing over",
                };
                status.at_risk_writes = lead.at_risk_writes(last_write);
                status.waiting_replies = lead.waits.len();
                status.copies = lead.members.iter().map(|member| self.copy_status(vnode, last_write, member)).collect();
            }
        }
        if !copy.is_current() && status.role != "handing over" {
            status.role = "sealed";
        }
        status
    }

    fn copy_status(&self, vnode: u16, last_write: u64, member: &Member) -> CopyStatus {
        let lacking = self.backlog.records(usize::from(vnode), member.applied + 1);
        CopyStatus {
            peer: member.peer,
            is_in_sync: member.is_in_sync,
            progress: match member.progress {
                Progress::Unknown => "unknown",
                Progress::Beginning { .. } => "beginning",
                Progress::Following if !member.is_whole() => "streaming",
                Progress::Following => "following",
                Progress::Lost => "lost",
            },
            lag_writes: last_write.saturating_sub(member.applied),
            lag_bytes: lacking.map(|record| record.len() as u64).sum(),
        }
    }
}

impl Lead {
    /// Acknowledged writes that no other node is known to have. Those that wait for a commit are not acknowledged; what was
    /// here when this lead began, its copies have.
    fn at_risk_writes(&self, last_write: u64) -> u64 {
        let safe = self.committed.one.max(self.began_at);
        last_write.saturating_sub(safe).saturating_sub(self.uncommitted.len() as u64)
    }
}

impl Sums {
    fn add(&mut self, vnode: &VnodeStatus) {
        match vnode.role {
            "sealed" => self.sealed += 1,
            "following" | "catching up" => self.followed += 1,
            _ => self.led += 1,
        }
        let in_sync = || vnode.copies.iter().filter(|copy| copy.is_in_sync);
        let is_led = matches!(vnode.role, "leading" | "tailing" | "handing over");
        self.alone += u64::from(is_led && in_sync().next().is_none());
        self.streaming += vnode.copies.iter().filter(|copy| copy.progress == "streaming").count() as u64;
        self.at_risk_writes += vnode.at_risk_writes;
        self.lag_writes += in_sync().map(|copy| copy.lag_writes).sum::<u64>();
        self.lag_bytes += in_sync().map(|copy| copy.lag_bytes).sum::<u64>();
        self.lag_writes_max = in_sync().map(|copy| copy.lag_writes).max().unwrap_or(0).max(self.lag_writes_max);
    }
}
