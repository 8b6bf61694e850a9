//! What has changed since a topology that a client has: for each vnode the epoch of its last change.
//!
//! So a difference can be told from any epoch since this shard has followed the cluster, in a memory that does not grow:
//! four bytes for each vnode. Which node is where changes seldom, and is then told whole.

use std::cell::{Ref, RefCell};

use quoit_wire::changes::TopologyChanges;
use quoit_wire::topology::Topology;

/// Where more than one in so many vnodes has changed, the whole topology is hardly larger, and is what is told.
const CHANGED_SHARE_MAX: usize = 2;

/// Since when everything is as it is.
#[derive(Debug)]
pub(super) struct Ages {
    /// The oldest epoch from which differences are known.
    oldest: u32,
    /// The epoch that brought the nodes.
    nodes: u32,
    /// The epochs that brought the placements.
    vnodes: Box<[u32]>,
    /// What was told last, and to whom: all clients ask the same at the same time.
    told: RefCell<Option<(u32, Vec<u8>)>>,
}

impl Ages {
    /// Of a topology of which nothing older is known.
    pub(super) fn new(topology: &Topology) -> Self {
        Self {
            oldest: topology.epoch,
            nodes: topology.epoch,
            vnodes: vec![topology.epoch; topology.vnodes.len()].into_boxed_slice(),
            told: RefCell::new(None),
        }
    }

    /// `after` comes after `before`.
    pub(super) fn follow(&mut self, before: &Topology, after: &Topology) {
        if before.epoch == 0 {
            // Nobody else has ever had that one.
            *self = Self::new(after);
            return;
        }
        if before.nodes != after.nodes {
            self.nodes = after.epoch;
        }
        for (age, (old, new)) in self.vnodes.iter_mut().zip(before.vnodes.iter().zip(&after.vnodes)) {
            if old != new {
                *age = after.epoch;
            }
        }
        self.told.take();
    }

    /// The changes from the topology of `known_epoch` to `topology`, as a reply's body; none where they are not known, or are
    /// too many.
    pub(super) fn changes(&self, topology: &Topology, known_epoch: u32) -> Option<Ref<'_, [u8]>> {
        if known_epoch < self.oldest || topology.epoch == 0 {
            return None;
        }
        let is_told = |told: &(u32, Vec<u8>)| told.0 == known_epoch;
        if !self.told.borrow().as_ref().is_some_and(is_told) {
            let changed = || (0u16..=u16::MAX).zip(self.vnodes.iter()).filter(|(_, age)| **age > known_epoch);
            if changed().count() > self.vnodes.len() / CHANGED_SHARE_MAX {
                return None;
            }
            let vnodes = changed().map(|(vnode, _)| vnode);
            let has_new_nodes = self.nodes > known_epoch;
            let changes = TopologyChanges::new(known_epoch, topology, topology.checksum(), has_new_nodes, vnodes);
            self.told.replace(Some((known_epoch, changes.to_bytes())));
        }
        Ref::filter_map(self.told.borrow(), |told| told.as_ref().map(|(_, body)| body.as_slice())).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use quoit_wire::topology::{Node, Placement, Seat};
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn node(id: u64) -> Node {
        let (name, address, zone) = (format!("node-{id}"), String::new(), String::new());
        Node { id, incarnation: 1, name, address, zone, cores: 1, weight: 1 }
    }

    fn told(ages: &Ages, topology: &Topology, known_epoch: u32) -> Option<Vec<u8>> {
        ages.changes(topology, known_epoch).map(|body| body.to_vec())
    }

    #[test]
    #[expect(clippy::print_stdout, reason = "the seed must be seen")]
    fn whoever_has_an_older_topology_gets_from_it_to_the_newest() {
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let unassigned = Topology::unassigned(node(0), 6, seed, "test".to_owned());
        let mut ages = Ages::new(&unassigned);
        let mut all = BTreeMap::new();
        let mut before = unassigned;
        for step in 0..200 {
            let mut after = before.clone();
            // Epochs may be left out: a node hears of the newest.
            after.epoch += rng.random_range(1..4);
            if step == 0 {
                after.vnodes.fill(Placement { primary: Seat { node: 0, core: 0 }, term: 1, ..Placement::NOWHERE });
            } else if rng.random_bool(0.1) {
                after.nodes.push(node(step));
            }
            for _ in 0..rng.random_range(0..3) {
                let vnode = rng.random_range(0..after.vnodes.len());
                let node = rng.random_range(0..after.nodes.len()) as u16;
                let Placement { primary, term, .. } = &mut after.vnodes[vnode];
                (*primary, *term) = (Seat { node, core: 0 }, *term + 1);
            }
            ages.follow(&before, &after);
            all.insert(after.epoch, after.clone());
            before = after;
        }
        let mut made = 0;
        for (epoch, known) in all.iter().filter(|(epoch, _)| **epoch != before.epoch) {
            let Some(body) = told(&ages, &before, *epoch) else { continue };
            let changes = TopologyChanges::from_bytes(&body).expect("its own bytes");
            assert_eq!(changes.apply(known).as_ref(), Ok(&before), "from epoch {epoch}");
            assert!(body.len() < before.to_bytes().len(), "less than the whole");
            made += 1;
        }
        assert!((5..all.len() - 1).contains(&made), "{made}: the older ones lack too much");
    }

    #[test]
    fn nothing_is_told_from_before_this_shard_has_followed_the_cluster() {
        let before = Topology { epoch: 5, ..Topology::standalone(node(0), 4, 1, 1) };
        let mut ages = Ages::new(&before);
        let mut after = Topology { epoch: 6, ..before.clone() };
        after.vnodes[3].term = 9;
        ages.follow(&before, &after);
        assert!(told(&ages, &after, 5).is_some());
        assert_eq!((told(&ages, &after, 4), told(&ages, &after, 0)), (None, None));
    }
}
