//! Memory runs short: somebody fills one core with large values, and what leaves a store is noted with its cause.

use quoit_wire::topology::{key_hash, vnode_of};
use quoit_wire::{RequestBody, RequestFlags, RequestOptions, SetCondition, SetParameters, WriteMode};
use rand::RngExt;

use super::super::client::{KEYS, key_name};
use super::super::history::{Gone, Subject};
use super::{Event, World};
use crate::cluster::copies::Peer;
use crate::store::{DepartureCause, PolicyKind};

/// Bytes of each value that fills memory, and how many of them go over what one core has.
const VALUE_BYTES: usize = 200 << 10;
const VALUES: usize = 60;
/// Where nothing is evicted, memory is filled by a part: a full one refuses all that is to be checked.
const VALUES_WITHOUT_EVICTION: usize = 6;
/// From one to the next.
const PAUSE_US: u64 = 4_000;
const TTL_MS: u64 = 20_000;

/// Keys of values that fill memory, all of one vnode.
#[derive(Debug, Default)]
pub(in super::super) struct Ballast {
    keys: Vec<Vec<u8>>,
    written: usize,
}

impl World {
    /// Somebody begins to fill the memory of the core that leads one of the keys.
    pub(in super::super) fn press(&mut self) {
        let key = self.random.random_range(0..KEYS);
        let vnode = self.vnode_of(key);
        let (seed, bits) = (self.plan.hash_seed, self.plan.vnode_bits);
        let is_there = |key: &Vec<u8>| vnode_of(key_hash(seed, key), bits) == vnode;
        let values = if self.plan.policy == PolicyKind::None { VALUES_WITHOUT_EVICTION } else { VALUES };
        let keys = (0..).map(|number| format!("ballast-{number}").into_bytes()).filter(is_there).take(values).collect();
        self.note(|| format!("memory of vnode {vnode} is being filled"));
        self.ballast = Ballast { keys, written: 0 };
        self.at(self.now_us, Event::Fill);
    }

    pub(super) fn fill(&mut self) {
        let Some(key) = self.ballast.keys.get(self.ballast.written).cloned() else { return };
        self.ballast.written += 1;
        let parameters = SetParameters { ttl_ms: TTL_MS, ..SetParameters::default() };
        let value = vec![7; VALUE_BYTES];
        let set = RequestBody::Set { key: &key, parameters, condition: SetCondition::Always, value: &value };
        self.ask_primary(&key, &set);
        self.at(self.now_us + PAUSE_US, Event::Fill);
    }

    /// Memory is freed.
    pub(in super::super) fn relieve(&mut self) {
        for key in std::mem::take(&mut self.ballast).keys {
            self.ask_primary(&key, &RequestBody::Delete { key: &key });
        }
    }

    /// Notes what has left a core's store by itself.
    pub(super) fn note_departures(&mut self, by: Peer) {
        let Some((_, core)) = self.core(by) else { return };
        let departures = core.departures();
        for (departure, follows) in departures {
            let key = (0..KEYS).find(|key| *key_name(*key) == *departure.key);
            let is_refused = departure.cause == DepartureCause::Evicted && self.plan.policy == PolicyKind::None;
            let Some(key) = key else { continue };
            let gone = Gone { at_us: self.now_us, by, version: departure.version, cause: departure.cause, follows };
            if is_refused {
                self.violate(Subject::Key(key), format!("evicted though the policy is none: {gone:?}"));
            }
            self.mix(departure.version.as_u64());
            self.note_key(key, || format!("{}/{} loses {gone:?}", by.node.id, by.core));
            self.history.gone[key].push(gone);
        }
    }

    /// Asks whoever leads the key's vnode by the ring, at once; nobody waits for the answer.
    fn ask_primary(&mut self, key: &[u8], body: &RequestBody<'_>) {
        let vnode = vnode_of(key_hash(self.plan.hash_seed, key), self.plan.vnode_bits);
        let Some(ring) = self.ring.clone() else { return };
        let seat = ring.vnodes[vnode].primary;
        let Some(node) = ring.member(seat.node).map(|member| member.node) else { return };
        let peer = Peer { node, core: seat.core };
        let flags = RequestFlags::default().with_write_mode(WriteMode::Async);
        let mut frame = Vec::new();
        body.encode(u32::MAX - 1, RequestOptions { epoch: ring.epoch, flags, trace: None, retry: None }, &mut frame);
        if let Some((now, core)) = self.core(peer) {
            let _ = core.serve(now, None, &frame, true);
            self.note_departures(peer);
            self.turn_soon(peer, super::nodes::TURN_US);
        }
    }
}
