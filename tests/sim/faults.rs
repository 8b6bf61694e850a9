//! What goes wrong, and while what: faults and the phases that they are put into.

use rand::RngExt;
use rand::seq::IndexedRandom;

use super::clock::DRIFT_MAX_PPM;
use super::network::{Noise, Place};
use super::world::{Event, Trap, World};
use crate::cluster::CopyState;
use crate::cluster::etcd::{EtcdRequest, Put};
use crate::cluster::records::{Intent, Keys};
use crate::time::Instant;

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    Loss,
    Delay,
    Duplication,
    Reordering,
    ClockDrift,
    StaleEtcd,
    SlowEtcd,
    SlowDisk,
    EvictionPressure,
    Partition,
    OneWayCut,
    EtcdCut,
    PeerCut,
    Freeze,
    RestartWithinLease,
    Crash,
    LeaderDies,
    FailoverInMove,
    /// A primary loses etcd, and once its copies are sealed hears late that it is one no longer.
    SealedWhileServing,
    /// A primary reaches only a copy that catches up, and dies as it acknowledges a write.
    OnlyCatchingUpReached,
    /// What is streamed comes later than what was written since; the primary dies once the copy counts.
    LateSlices,
}

/// What the cluster is doing when a fault begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Idle,
    Load,
    Failover,
    Move,
    CatchingUp,
}

/// Those that only make everything harder.
pub(super) const AMBIENT: [Fault; 9] = [
    Fault::Loss,
    Fault::Delay,
    Fault::Duplication,
    Fault::Reordering,
    Fault::ClockDrift,
    Fault::StaleEtcd,
    Fault::SlowEtcd,
    Fault::SlowDisk,
    Fault::EvictionPressure,
];
/// Those that take something away.
pub(super) const HARD: [Fault; 12] = [
    Fault::Partition,
    Fault::OneWayCut,
    Fault::EtcdCut,
    Fault::PeerCut,
    Fault::Freeze,
    Fault::RestartWithinLease,
    Fault::Crash,
    Fault::LeaderDies,
    Fault::FailoverInMove,
    Fault::SealedWhileServing,
    Fault::OnlyCatchingUpReached,
    Fault::LateSlices,
];
/// Those among them that wait for a moment in which few mistakes stay without harm.
pub(super) const AIMED: [Fault; 3] = [Fault::SealedWhileServing, Fault::OnlyCatchingUpReached, Fault::LateSlices];
pub(super) const PHASES: [Phase; 5] = [Phase::Idle, Phase::Load, Phase::Failover, Phase::Move, Phase::CatchingUp];

/// How long a phase is waited for, and what a fault lasts.
const PHASE_US_MAX: u64 = 8_000_000;

impl World {
    /// Brings the cluster into a phase; which one it is in then.
    pub(super) fn enter(&mut self, phase: Phase) -> Phase {
        self.is_quiet = phase == Phase::Idle;
        match phase {
            Phase::Idle | Phase::Load => {}
            Phase::Failover => {
                let victim = self.any_node();
                if self.chance(50) {
                    self.crash(victim);
                    let down_us = self.random.random_range(2_500_000..6_000_000);
                    self.at(self.now_us + down_us, Event::Start(victim));
                } else {
                    let time_us = self.random.random_range(2_500_000..5_000_000);
                    self.freeze(victim, time_us);
                }
            }
            Phase::Move => self.unbalance(),
            Phase::CatchingUp => {
                self.restart_any();
            }
        }
        if matches!(phase, Phase::Failover | Phase::Move | Phase::CatchingUp) {
            self.run_until(PHASE_US_MAX, |world| world.phase() == phase);
        }
        self.phase()
    }

    /// What the cluster is doing.
    pub(super) fn phase(&self) -> Phase {
        let keys = Keys::new("simulated");
        let Some(ring) = &self.ring else { return Phase::Idle };
        let is_registered = |slot: u16| {
            let member = ring.member(slot).map(|member| member.node);
            member.is_some_and(|it| {
                let entry = self.etcd.entries.get(&keys.node(it.id));
                let registration = entry.and_then(|it| crate::cluster::Registration::from_bytes(&it.value).ok());
                registration.is_some_and(|registration| registration.node == it)
            })
        };
        if ring.vnodes.iter().any(|roles| !is_registered(roles.primary.node)) {
            return Phase::Failover;
        }
        if self.moved_us + 300_000 > self.now_us && self.moved_us > 0 {
            return Phase::Move;
        }
        if ring.vnodes.iter().any(|roles| roles.copies().any(|copy| copy.state == CopyState::CatchingUp)) {
            return Phase::CatchingUp;
        }
        if self.is_quiet { Phase::Idle } else { Phase::Load }
    }

    /// A fault begins.
    pub(super) fn inject(&mut self, fault: Fault) {
        self.note(|| format!("fault: {fault:?}"));
        let some = self.random.random_range(20..200);
        match fault {
            Fault::Loss => self.network.noise = Noise { lost: some, ..self.network.noise },
            Fault::Delay => self.network.noise = Noise { delayed: some, ..self.network.noise },
            Fault::Duplication => self.network.noise = Noise { doubled: some, ..self.network.noise },
            Fault::Reordering => self.network.noise = Noise { reordered: 2 * some, ..self.network.noise },
            Fault::ClockDrift => {
                let node = self.any_node();
                let drift_ppm = self.random.random_range(-DRIFT_MAX_PPM..=DRIFT_MAX_PPM);
                let now_us = self.now_us;
                self.nodes.get_mut(&node).into_iter().for_each(|node| node.clock.set_drift(now_us, drift_ppm));
            }
            Fault::StaleEtcd => self.network.etcd_stale_us = u64::from(some) * 10_000,
            Fault::SlowEtcd => self.network.etcd_slow_us = u64::from(some) * 3_000,
            Fault::SlowDisk => self.network.disk_slow_us = u64::from(some) * 4_000,
            Fault::EvictionPressure => self.press(),
            Fault::Partition => self.partition(),
            Fault::OneWayCut => {
                let (one, other) = (self.any_node(), self.any_node());
                self.network.cut(Place::Node(one), Place::Node(other));
                if self.chance(30) {
                    self.network.cut(Place::Node(one), Place::Clients);
                }
            }
            Fault::EtcdCut => {
                let all = self.chance(25);
                let node = self.any_node();
                let cut: Vec<u64> = self.nodes.keys().copied().filter(|id| all || *id == node).collect();
                for id in cut {
                    self.network.cut(Place::Node(id), Place::Etcd);
                    self.network.cut(Place::Etcd, Place::Node(id));
                }
                if !all && self.chance(60) {
                    // Its copies' promises are fresh when its lease ends, and then it hears nothing more of them.
                    self.cut_off_when_lost = Some(node);
                }
            }
            Fault::PeerCut => {
                let node = self.any_node();
                self.cut_from_nodes(node);
            }
            Fault::Freeze => {
                let (node, time_us) = (self.any_node(), self.random.random_range(300_000..4_000_000));
                self.freeze(node, time_us);
            }
            Fault::RestartWithinLease => {
                let (node, down_us) = (self.any_node(), self.random.random_range(10_000..1_500_000));
                self.crash(node);
                self.at(self.now_us + down_us, Event::Start(node));
            }
            Fault::Crash => {
                let (node, down_us) = (self.any_node(), self.random.random_range(2_000_000..5_000_000));
                self.crash(node);
                self.at(self.now_us + down_us, Event::Start(node));
            }
            Fault::LeaderDies => {
                let leader = self.leader();
                let others: Vec<u64> = self.nodes.keys().copied().filter(|id| Some(*id) != leader).collect();
                if let Some(node) = others.choose(&mut self.random).copied() {
                    self.freeze(node, 4_000_000);
                }
                self.trap = Some(Trap::LeaderAfterSeal);
            }
            Fault::FailoverInMove => {
                self.trap = Some(Trap::Mover { is_target: self.chance(50) });
                self.unbalance();
            }
            Fault::SealedWhileServing => {
                let node = self.any_node();
                self.network.cut(Place::Node(node), Place::Etcd);
                self.network.cut(Place::Etcd, Place::Node(node));
                self.work_on_keys_of(node);
                if self.chance(75) {
                    self.trap = Some(Trap::CutOffAfterSeal { node });
                    // What was written there last would hold up the reads, and who hears of the next primary asks that one.
                    (self.reached_by_readers, self.are_readers_apart) = (Some(node), true);
                } else {
                    self.trap = Some(Trap::LateRingAfterSeal { node });
                }
            }
            Fault::OnlyCatchingUpReached => {
                self.trap = Some(Trap::OnlyCatchingUp);
                self.network.slices_late_us = 5_000_000;
                self.restart_any();
            }
            Fault::LateSlices => {
                self.network.hurry_etcd();
                self.network.slices_late_us = 100_000 + u64::from(some) * 1_000;
                self.trap = Some(Trap::CaughtUp);
                self.restart_any();
                // What a late slice has spoilt is not written over so soon where keys are many.
                (self.is_quiet, self.readers, self.hot, self.is_plain) = (false, 2, None, true);
            }
        }
    }

    /// All faults end; who is down comes up.
    pub(super) fn heal(&mut self, nodes: u64) {
        let cuts: Vec<_> = self.network.cuts().collect();
        self.network.heal();
        (self.trap, self.cut_off_when_lost, self.reached_by_readers) = (None, None, None);
        self.are_readers_apart = false;
        self.disk_stalled_until_us = 0;
        let now_us = self.now_us;
        let frozen: Vec<u64> =
            self.nodes.values().filter(|it| it.frozen_until_us > now_us).map(|it| it.me.id).collect();
        // What was put off until the end of the freeze happens then.
        let last = frozen.iter().filter_map(|id| self.nodes.get(id)).map(|node| node.frozen_until_us).max();
        if let Some(last_us) = last {
            self.run(last_us - now_us);
        }
        for (from, to) in cuts {
            if let (Place::Node(from), Place::Node(to)) = (from, to)
                && self.chance(50)
            {
                self.lose_links(from, to);
            }
        }
        self.relieve();
        for id in 1..=nodes {
            self.start(id);
        }
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        ids.into_iter().for_each(|id| self.wish(id, Intent::default()));
    }

    /// A node loses what it had, and is back before its lease ends.
    fn restart_any(&mut self) -> u64 {
        let node = self.any_node();
        self.crash(node);
        self.at(self.now_us + 200_000, Event::Start(node));
        node
    }

    fn any_node(&mut self) -> u64 {
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        ids.choose(&mut self.random).copied().unwrap_or(1)
    }

    /// Some nodes no longer reach the others; etcd and the clients are on one side.
    fn partition(&mut self) {
        let node = self.any_node();
        self.cut_from_nodes(node);
        self.network.cut(Place::Node(node), Place::Etcd);
        self.network.cut(Place::Etcd, Place::Node(node));
        // Clients may be on either side, or reach both.
        match self.random.random_range(0..3) {
            0 => {
                self.network.cut(Place::Node(node), Place::Clients);
                self.network.cut(Place::Clients, Place::Node(node));
            }
            1 => self.reached_by_readers = Some(node),
            _ => {}
        }
    }

    pub(super) fn cut_from_nodes(&mut self, node: u64) {
        let others: Vec<u64> = self.nodes.keys().copied().filter(|id| *id != node).collect();
        for other in others {
            self.network.cut(Place::Node(node), Place::Node(other));
            self.network.cut(Place::Node(other), Place::Node(node));
        }
    }

    fn lose_links(&mut self, from: u64, to: u64) {
        let now_us = self.now_us;
        let peers: Vec<_> = self.nodes.get(&from).into_iter().flat_map(|node| &node.cores).map(|it| it.peer).collect();
        let Some(node) = self.nodes.get_mut(&to) else { return };
        let now = node.clock.now(now_us);
        for core in &mut node.cores {
            peers.iter().for_each(|peer| core.copies().0.handle_link_lost(now, *peer));
        }
    }

    /// An operator gives a node another weight, or has it give everything away: vnodes move.
    fn unbalance(&mut self) {
        let node = self.any_node();
        let draining = self.nodes.len() > 3 && self.chance(30);
        let weight = Some([1, 3, 9][self.random.random_range(0..3)]).filter(|_| !draining);
        self.wish(node, Intent { draining, weight });
    }

    fn wish(&mut self, id: u64, intent: Intent) {
        self.note(|| format!("node {id} is to be {intent:?}"));
        let put = Put { key: Keys::new("simulated").intent(id), value: intent.to_bytes(), lease: 0 };
        let now = Instant::from_millis(self.now_us / 1000);
        self.etcd.execute(now, &EtcdRequest::Transaction { compares: Vec::new(), puts: vec![put] });
    }
}
