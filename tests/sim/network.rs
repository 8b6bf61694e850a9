//! What lies between the nodes: delays, losses and cuts, each drawn from the world's random numbers.
//!
//! Left alone, a link keeps order and loses nothing, as TCP does. Faults take that away piece by piece.

use std::collections::{BTreeMap, BTreeSet};

use rand::RngExt;
use rand::rngs::StdRng;

/// A message between two nodes takes so long where nothing is wrong, in microseconds.
const DELAY_US: std::ops::Range<u64> = 50..400;
/// A delayed or reordered message takes up to so much longer.
const EXTRA_DELAY_US_MAX: u64 = 300_000;
const REORDERING_US_MAX: u64 = 200_000;

/// One end of a way: a node by its id, the clients, or etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Node(u64),
    Clients,
    Etcd,
}

/// What goes wrong with messages between nodes, of a thousand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Noise {
    pub(super) lost: u32,
    pub(super) doubled: u32,
    pub(super) delayed: u32,
    pub(super) reordered: u32,
}

/// The ways between all places.
#[derive(Debug, Default)]
pub(super) struct Network {
    pub(super) noise: Noise,
    /// What is asked of etcd takes up to so much longer, and so does its answer.
    pub(super) etcd_slow_us: u64,
    /// What watches tell comes up to so much later.
    pub(super) etcd_stale_us: u64,
    /// What etcd has to put on its disk takes up to so much longer.
    pub(super) disk_slow_us: u64,
    /// Slices of vnodes come up to so much later than what was sent with them.
    pub(super) slices_late_us: u64,
    cuts: BTreeSet<(Place, Place)>,
    /// When the last message of a way arrives: the next one is not before it.
    arrivals: BTreeMap<(Place, Place), u64>,
}

impl Network {
    pub(super) fn cut(&mut self, from: Place, to: Place) {
        self.cuts.insert((from, to));
    }

    pub(super) fn is_cut(&self, from: Place, to: Place) -> bool {
        self.cuts.contains(&(from, to))
    }

    /// The ways that are cut.
    pub(super) fn cuts(&self) -> impl Iterator<Item = (Place, Place)> + '_ {
        self.cuts.iter().copied()
    }

    /// All is well again.
    pub(super) fn heal(&mut self) {
        *self = Self { arrivals: std::mem::take(&mut self.arrivals), ..Self::default() };
    }

    /// etcd is as quick as it can be.
    pub(super) fn hurry_etcd(&mut self) {
        (self.etcd_slow_us, self.etcd_stale_us, self.disk_slow_us) = (0, 0, 0);
    }

    /// When what is sent now arrives: never, once, or twice.
    pub(super) fn arrivals(&mut self, random: &mut StdRng, now_us: u64, from: Place, to: Place) -> [Option<u64>; 2] {
        if self.is_cut(from, to) {
            return [None; 2];
        }
        let is_between_nodes = matches!((from, to), (Place::Node(_), Place::Node(_)));
        let noise = if is_between_nodes { self.noise } else { Noise::default() };
        let mut happens = |per_mille: u32| per_mille > 0 && random.random_range(0..1000) < per_mille;
        let (is_lost, is_doubled) = (happens(noise.lost), happens(noise.doubled));
        let (is_delayed, is_reordered) = (happens(noise.delayed), happens(noise.reordered));
        let mut arrival = || {
            let mut at = now_us + random.random_range(DELAY_US);
            if matches!(to, Place::Etcd) || matches!(from, Place::Etcd) {
                at += random.random_range(0..=self.etcd_slow_us);
            }
            if is_delayed {
                at += random.random_range(0..EXTRA_DELAY_US_MAX);
            }
            if is_reordered {
                return at + random.random_range(0..REORDERING_US_MAX);
            }
            let last = self.arrivals.entry((from, to)).or_default();
            *last = at.max(*last);
            *last
        };
        let first = arrival();
        let second = if is_doubled { Some(arrival()) } else { None };
        [Some(first).filter(|_| !is_lost), second]
    }
}
