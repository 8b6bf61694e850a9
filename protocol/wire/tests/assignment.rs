//! What an assignment promises, held against clusters of 1 to 200 nodes through random lives: nodes come, go, drain, change
//! weight, cores and zone, and now and then everything is anywhere.
//!
//! Bounds are computed here from their definitions, not by the code under test.

#![expect(clippy::unwrap_used, reason = "what can't be made fails its test")]

mod seeded;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestCaseResult;
use quoit_wire::assignment::{AssignmentError, assign};
use quoit_wire::topology::{NODES_MAX, Node, Placement, REPLICAS_MAX, Seat, Topology, VNODE_BITS_MAX};

/// Lives of each property: some seconds in all.
const CASES: u32 = 60;
/// New copies, against the fewest that the nodes' numbers of copies ask for: zones cost a few more.
const COPIES_RATIO_MAX: f64 = 1.05;

/// A change in a cluster's life; indices choose among its nodes.
#[derive(Clone, Debug)]
enum Change {
    Join(Spec),
    Lose(Index),
    Drain(Index),
    Weight(Index, u16),
    Cores(Index, u16),
    Zone(Index, u8),
    Replicas(usize),
    /// Everything is anywhere: the state after failovers and moves that were cut short.
    Scramble(u64),
    Nothing,
}

#[derive(Clone, Debug)]
struct Spec {
    cores: u16,
    weight: u16,
    zone: u8,
}

fn weight() -> impl Strategy<Value = u16> {
    prop_oneof![4 => Just(1u16), 2 => 1..4u16, 2 => 1..100u16, 1 => Just(u16::MAX), 1 => Just(0u16)]
}

fn spec() -> impl Strategy<Value = Spec> {
    (1..17u16, weight(), 0..6u8).prop_map(|(cores, weight, zone)| Spec { cores, weight, zone })
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => spec().prop_map(Change::Join),
        4 => any::<Index>().prop_map(Change::Lose),
        1 => any::<Index>().prop_map(Change::Drain),
        3 => (any::<Index>(), weight()).prop_map(|(node, weight)| Change::Weight(node, weight)),
        1 => (any::<Index>(), 1..17u16).prop_map(|(node, cores)| Change::Cores(node, cores)),
        1 => (any::<Index>(), 0..6u8).prop_map(|(node, zone)| Change::Zone(node, zone)),
        1 => (0..=REPLICAS_MAX).prop_map(Change::Replicas),
        1 => any::<u64>().prop_map(Change::Scramble),
        1 => Just(Change::Nothing),
    ]
}

/// A cluster to begin with, and what happens to it.
#[derive(Clone, Debug)]
struct Life {
    nodes: Vec<Spec>,
    /// How many of the six zones of the specs are different ones.
    zones: u8,
    vnode_bits: u8,
    replicas: usize,
    changes: Vec<Change>,
}

fn life() -> impl Strategy<Value = Life> {
    let sizes = prop_oneof![5 => 1..8usize, 3 => 8..40usize, 1 => 40..=200usize];
    let nodes = sizes.prop_flat_map(|nodes| vec(spec(), nodes));
    let bits = prop_oneof![2 => 0..6u8, 3 => 6..10u8, 1 => 10..=12u8];
    (nodes, 1..=6u8, bits, 0..=REPLICAS_MAX, vec(change(), 1..8))
        .prop_map(|(nodes, zones, vnode_bits, replicas, changes)| Life { nodes, zones, vnode_bits, replicas, changes })
}

/// A cluster at one moment.
#[derive(Clone, Debug)]
struct World {
    nodes: Vec<Node>,
    zones: u8,
    next_id: u64,
    replicas: usize,
    placements: Vec<Placement>,
}

impl World {
    fn new(life: &Life) -> Self {
        let mut world = world(Vec::new(), life.vnode_bits, life.replicas);
        world.zones = life.zones;
        life.nodes.iter().for_each(|spec| world.join(spec));
        world
    }

    fn join(&mut self, spec: &Spec) {
        let id = self.next_id;
        self.next_id += 1;
        // Not in the order of coming.
        let id = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.nodes.push(node(id, &self.zone(spec.zone), spec.cores, spec.weight));
    }

    fn zone(&self, zone: u8) -> String {
        // One of the zones has no name.
        if zone.is_multiple_of(self.zones) { String::new() } else { format!("zone-{}", zone % self.zones) }
    }

    fn apply(&mut self, change: &Change) {
        let count = self.nodes.len();
        let node = |index: &Index| index.index(count.max(1));
        match change {
            Change::Join(spec) => self.join(spec),
            Change::Scramble(seed) => self.scramble(*seed),
            Change::Replicas(replicas) => self.replicas = *replicas,
            Change::Nothing => {}
            _ if count == 0 => {}
            Change::Lose(index) => self.lose(node(index)),
            Change::Drain(index) => self.nodes[node(index)].weight = 0,
            Change::Weight(index, weight) => self.nodes[node(index)].weight = *weight,
            Change::Cores(index, cores) => self.shrink(node(index), *cores),
            Change::Zone(index, zone) => self.nodes[node(index)].zone = self.zone(*zone),
        }
    }

    fn lose(&mut self, lost: usize) {
        self.nodes.remove(lost);
        self.reseat(|seat| match usize::from(seat.node) {
            node if node == lost => Seat::NOWHERE,
            node => Seat { node: (node - usize::from(node > lost)) as u16, ..seat },
        });
    }

    /// Another number of cores: what lay on a core that is no more is lost.
    fn shrink(&mut self, node: usize, cores: u16) {
        self.nodes[node].cores = cores;
        let gone = |seat: &Seat| usize::from(seat.node) == node && seat.core >= cores;
        self.reseat(|seat| if gone(&seat) { Seat::NOWHERE } else { seat });
    }

    fn reseat(&mut self, change: impl Fn(Seat) -> Seat) {
        let change = |seat: Seat| if seat == Seat::NOWHERE { seat } else { change(seat) };
        for placement in &mut self.placements {
            placement.primary = change(placement.primary);
            placement.replicas = placement.replicas.map(change);
        }
    }

    /// Puts every copy anywhere, also two on one node.
    fn scramble(&mut self, mut seed: u64) {
        if self.nodes.is_empty() {
            return;
        }
        let mut draw = |below: usize| {
            seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (seed >> 33) as usize % below
        };
        for placement in &mut self.placements {
            let mut seat = || match draw(self.nodes.len() + 1).checked_sub(1) {
                None => Seat::NOWHERE,
                Some(node) => Seat { node: node as u16, core: draw(usize::from(self.nodes[node].cores)) as u16 },
            };
            *placement = Placement { primary: seat(), replicas: [seat(), seat(), seat()], term: placement.term };
        }
    }

    fn assign(&self) -> Result<Vec<Placement>, AssignmentError> {
        assign(&self.nodes, &self.placements, self.replicas)
    }

    fn takers(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|&node| self.nodes[node].weight > 0).collect()
    }

    /// Copies of each vnode that there have to be.
    fn copies(&self) -> usize {
        (self.replicas + 1).min(self.takers().len())
    }

    /// The copies of one vnode that a zone may hold: the least with which all find a node.
    fn zone_copies_max(&self) -> usize {
        let mut zones: HashMap<&str, usize> = HashMap::new();
        self.takers().iter().for_each(|&node| *zones.entry(&self.nodes[node].zone).or_default() += 1);
        (1..).find(|&max| zones.values().map(|&nodes| nodes.min(max)).sum::<usize>() >= self.copies()).unwrap()
    }

    fn weight(&self, node: usize) -> u64 {
        u64::from(self.nodes[node].weight)
    }

    fn zone_of(&self, node: usize) -> &str {
        &self.nodes[node].zone
    }
}

fn node(id: u64, zone: &str, cores: u16, weight: u16) -> Node {
    Node { id, incarnation: 1, name: String::new(), address: String::new(), zone: zone.to_owned(), cores, weight }
}

fn world(nodes: Vec<Node>, vnode_bits: u8, replicas: usize) -> World {
    World { nodes, zones: 1, next_id: 1, replicas, placements: vec![Placement::NOWHERE; 1 << vnode_bits] }
}

/// The nodes that hold a vnode, its primary first.
fn copies(placement: &Placement) -> impl Iterator<Item = usize> + '_ {
    placement.seats().map(|seat| usize::from(seat.node))
}

fn primary(placement: &Placement) -> Option<usize> {
    Some(usize::from(placement.primary.node)).filter(|_| placement.primary != Seat::NOWHERE)
}

fn count(nodes: usize, of: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut counts = vec![0; nodes];
    of.for_each(|node| counts[node] += 1);
    counts
}

/// Whether `x/w - x'/w' <= 1/2 (1/w + 1/w')`.
fn is_balanced((more, weight): (usize, u64), (less, other): (usize, u64)) -> bool {
    2 * more as u64 * other <= 2 * less as u64 * weight + weight + other
}

/// Follows a life; `property` sees the cluster before each change, the change, the cluster that is assigned, and the outcome.
fn live(
    life: &Life,
    mut property: impl FnMut(&World, &Change, &World, &[Placement]) -> TestCaseResult,
) -> TestCaseResult {
    let mut world = World::new(life);
    for change in std::iter::once(&Change::Nothing).chain(&life.changes) {
        let before = world.clone();
        world.apply(change);
        match world.assign() {
            Ok(placements) => {
                property(&before, change, &world, &placements)?;
                world.placements = placements;
            }
            Err(error) => {
                prop_assert_eq!(error, AssignmentError::NoTaker);
                prop_assert!(world.takers().is_empty());
            }
        }
    }
    Ok(())
}

#[test]
fn primaries_differ_by_at_most_one_per_unit_of_weight() {
    seeded::check(CASES, life(), |life| {
        live(&life, |_, _, world, placements| {
            let primaries = count(world.nodes.len(), placements.iter().filter_map(primary));
            for &more in &world.takers() {
                for &less in &world.takers() {
                    let [more, less] = [more, less].map(|node| (primaries[node], world.weight(node)));
                    prop_assert!(is_balanced(more, less), "{more:?} and {less:?}");
                    // Which is at most one vnode per unit of weight.
                    let [rich, poor] = [more, less].map(|(vnodes, weight)| vnodes as f64 / weight as f64);
                    prop_assert!(rich - poor <= 1.0 + 1e-9);
                }
            }
            Ok(())
        })
    });
}

#[test]
fn no_replica_could_move_and_make_the_copies_more_even() {
    seeded::check(CASES, life(), |life| {
        live(&life, |_, _, world, placements| {
            let have = count(world.nodes.len(), placements.iter().flat_map(copies));
            let zone_max = world.zone_copies_max();
            for placement in placements {
                for from in copies(placement).skip(1) {
                    for &to in &world.takers() {
                        let [more, less] = [from, to].map(|node| (have[node], world.weight(node)));
                        let zone =
                            copies(placement).filter(|&copy| copy != from && world.zone_of(copy) == world.zone_of(to));
                        let may = !copies(placement).any(|copy| copy == to) && zone.count() < zone_max;
                        prop_assert!(!may || is_balanced(more, less), "{more:?} and {less:?}");
                    }
                }
            }
            Ok(())
        })
    });
}

#[test]
fn without_zones_copies_keep_the_bound_except_towards_a_node_that_holds_everything() {
    let without = life().prop_map(|life| Life { zones: 1, ..life });
    seeded::check(CASES, without, |life| {
        live(&life, |_, _, world, placements| {
            let have = count(world.nodes.len(), placements.iter().flat_map(copies));
            let lead = count(world.nodes.len(), placements.iter().filter_map(primary));
            for &more in &world.takers() {
                // A node that has replicas can give one; what it has as a primary is balanced elsewhere.
                for &less in world.takers().iter().filter(|_| have[more] > lead[more]) {
                    let [many, few] = [more, less].map(|node| (have[node], world.weight(node)));
                    prop_assert!(few.0 == placements.len() || is_balanced(many, few), "{many:?} and {few:?}");
                }
            }
            Ok(())
        })
    });
}

#[test]
fn the_cores_of_a_node_differ_by_at_most_one_primary_and_one_copy() {
    seeded::check(CASES, life(), |life| {
        live(&life, |_, _, world, placements| {
            let even = |seats: &mut dyn Iterator<Item = Seat>| {
                let mut cores: Vec<Vec<usize>> =
                    world.nodes.iter().map(|node| vec![0; usize::from(node.cores)]).collect();
                seats.for_each(|seat| cores[usize::from(seat.node)][usize::from(seat.core)] += 1);
                cores.iter().all(|cores| cores.iter().max().unwrap() - cores.iter().min().unwrap() <= 1)
            };
            prop_assert!(even(&mut placements.iter().map(|placement| placement.primary)), "primaries");
            prop_assert!(even(&mut placements.iter().flat_map(Placement::seats)), "copies");
            Ok(())
        })
    });
}

#[test]
fn copies_share_no_node_and_as_few_zones_as_possible() {
    seeded::check(CASES, life(), |life| {
        live(&life, |_, _, world, placements| {
            for placement in placements {
                let nodes: Vec<usize> = copies(placement).collect();
                prop_assert_eq!(nodes.len(), world.copies());
                prop_assert!(nodes.iter().all(|&node| world.weight(node) > 0), "a drained node holds a copy");
                prop_assert_eq!(nodes.iter().collect::<BTreeSet<_>>().len(), nodes.len());
                let mut zones: BTreeMap<&str, usize> = BTreeMap::new();
                nodes.iter().for_each(|&node| *zones.entry(world.zone_of(node)).or_default() += 1);
                prop_assert!(zones.values().all(|&copies| copies <= world.zone_copies_max()));
                // Used places come first.
                let used = placement.replicas.iter().take_while(|seat| **seat != Seat::NOWHERE).count();
                prop_assert_eq!(used, world.copies() - 1);
            }
            Ok(())
        })
    });
}

/// The fewest primaries that have to change: over all outcomes that keep the bound of balance, which are Webster's.
///
/// Offers below the one for the last vnode are granted in all of them; of those that equal it, any.
fn fewest_changes(world: &World) -> usize {
    let vnodes = world.placements.len();
    let held = count(world.nodes.len(), world.placements.iter().filter_map(primary));
    let takers = world.takers();
    let weights: u64 = takers.iter().map(|&node| world.weight(node)).sum();
    let mut offers = Vec::new();
    for &node in &takers {
        // More than any outcome can give: x is at most λ·w + 1/2, and λ at most (vnodes + nodes / 2) / weights.
        let most = (vnodes + takers.len()) as u64 * world.weight(node) / weights + 2;
        offers.extend((0..most).map(|x| ((2 * x + 1), world.weight(node), node)));
    }
    let by_price = |a: &(u64, u64, usize), b: &(u64, u64, usize)| (a.0 * b.1).cmp(&(b.0 * a.1));
    offers.sort_by(by_price);
    let last = offers[vnodes - 1];
    let sure =
        count(world.nodes.len(), offers.iter().filter(|offer| by_price(offer, &last).is_lt()).map(|offer| offer.2));
    let open = vnodes - sure.iter().sum::<usize>();
    let tied = offers.iter().filter(|offer| by_price(offer, &last).is_eq());
    let wanting = tied.filter(|offer| held[offer.2] > sure[offer.2]).count();
    let lost = vnodes - held.iter().sum::<usize>();
    let surplus: usize = held.iter().zip(&sure).map(|(held, sure)| held.saturating_sub(*sure)).sum();
    lost + surplus - open.min(wanting)
}

#[test]
fn as_few_primaries_change_as_balance_allows() {
    seeded::check(CASES, life(), |life| {
        live(&life, |_, _, world, placements| {
            let both = world.placements.iter().zip(placements);
            let changed = both.filter(|(before, after)| primary(before) != primary(after)).count();
            prop_assert_eq!(changed, fewest_changes(world));
            Ok(())
        })
    });
}

#[test]
fn only_the_node_that_changes_takes_or_gives_primaries() {
    seeded::check(CASES, life(), |life| {
        live(&life, |before, change, world, placements| {
            if before.takers().is_empty() || before.placements[0] == Placement::NOWHERE {
                return Ok(());
            }
            let both = world.placements.iter().zip(placements);
            let moves: Vec<_> = both
                .filter(|(old, new)| old.primary != new.primary)
                .map(|(old, new)| (primary(old), primary(new)))
                .collect();
            let node = |index: &Index| Some(index.index(before.nodes.len()));
            let gives = |node: Option<usize>| moves.iter().all(|(from, to)| *from == node && *to != node);
            let takes = |node: Option<usize>| moves.iter().all(|(from, to)| *to == node && *from != node);
            match change {
                Change::Join(_) => prop_assert!(takes(Some(world.nodes.len() - 1))),
                Change::Lose(_) => prop_assert!(moves.iter().all(|(from, _)| from.is_none())),
                Change::Drain(index) => prop_assert!(gives(node(index))),
                Change::Weight(index, weight) if *weight < before.nodes[node(index).unwrap()].weight => {
                    prop_assert!(gives(node(index)));
                }
                Change::Weight(index, _) => prop_assert!(takes(node(index))),
                Change::Nothing => prop_assert_eq!(&world.placements, placements),
                Change::Zone(..) | Change::Replicas(_) => prop_assert!(moves.is_empty()),
                Change::Cores(..) | Change::Scramble(_) => {}
            }
            Ok(())
        })
    });
}

#[test]
fn an_assignment_stays_as_it_is_and_does_not_depend_on_the_order_of_nodes() {
    seeded::check(CASES, life(), |life| {
        live(&life, |_, _, world, placements| {
            let again = assign(&world.nodes, placements, world.replicas).unwrap();
            let changed = again.iter().zip(placements).filter(|(again, before)| again != before).count();
            prop_assert_eq!(changed, 0);

            let mut other = world.clone();
            other.nodes.reverse();
            let last = other.nodes.len() - 1;
            let mirror = |seat: Seat| Seat { node: last as u16 - seat.node, ..seat };
            other.reseat(mirror);
            let mut reversed = World { placements: other.assign().unwrap(), ..other };
            reversed.reseat(mirror);
            prop_assert_eq!(&reversed.placements, placements);
            Ok(())
        })
    });
}

/// Copies on nodes that hold nothing of the vnode, and the fewest that the nodes' numbers of copies ask for.
fn new_copies(world: &World, placements: &[Placement]) -> (usize, usize) {
    let held = count(world.nodes.len(), world.placements.iter().flat_map(copies));
    let have = count(world.nodes.len(), placements.iter().flat_map(copies));
    let fewest = have.iter().zip(&held).map(|(have, held)| have.saturating_sub(*held)).sum();
    let both = world.placements.iter().zip(placements);
    let new = both.map(|(old, new)| copies(new).filter(|copy| !copies(old).any(|holder| holder == *copy)).count());
    (new.sum(), fewest)
}

#[test]
fn a_node_that_comes_or_goes_costs_hardly_more_copies_than_its_share() {
    let mut total = (0, 0);
    for (nodes, zones, replicas, weight_max) in
        [(100, 1, 1, 1), (100, 3, 1, 1), (100, 3, 2, 1), (200, 3, 1, 8), (200, 2, 2, 5), (30, 5, 3, 3)]
    {
        let name = |node: u64| ["a", "b", "c", "d", "e"][node as usize % zones];
        let spec = |id: u64| node(id, name(id), 8, 1 + (id * 31 % weight_max) as u16);
        let mut settled = world((0..nodes).map(spec).collect(), 12, replicas);
        settled.placements = settled.assign().unwrap();
        let (mut joined, mut lost, mut drained) = (settled.clone(), settled.clone(), settled);
        joined.nodes.push(spec(nodes));
        lost.lose(1);
        drained.nodes[1].weight = 0;
        #[expect(clippy::print_stdout, reason = "the figures behind the ratio")]
        for (what, changed) in [("joined", joined), ("lost", lost), ("drained", drained)] {
            let (new, fewest) = new_copies(&changed, &changed.assign().unwrap());
            assert!(new <= fewest + fewest / 8 + 4, "{nodes} nodes in {zones} zones, one {what}: {new}, not {fewest}");
            println!(
                "{nodes} nodes in {zones} zones, {replicas} replicas, one {what}: {new} new copies, at least {fewest}"
            );
            total = (total.0 + new, total.1 + fewest);
        }
    }
    assert!(total.0 as f64 <= COPIES_RATIO_MAX * total.1 as f64, "{} copies, not {}", total.0, total.1);
}

/// Node 0 has seven copies and node 2 five, but whatever node 0 could give, node 2 has: one replica can't even that out.
#[test]
fn a_chain_of_replicas_moves_where_a_single_one_can_not() {
    let mut cluster = world((0..8).map(|id| node(id, "", 1, 1)).collect(), 4, 2);
    let seat = |node: usize| Seat { node: node as u16, core: 0 };
    let mut have = [2; 8];
    for (vnode, placement) in cluster.placements.iter_mut().enumerate() {
        let primary = vnode / 2;
        let mut replicas: Vec<usize> = match vnode {
            2 | 6 | 8 => vec![0, 2],
            4 | 5 => vec![0],
            _ => Vec::new(),
        };
        while replicas.len() < 2 {
            let others = [1, 3, 4, 5, 6, 7].into_iter().filter(|it| *it != primary && !replicas.contains(it));
            replicas.push(others.min_by_key(|&it| have[it]).unwrap());
        }
        replicas.iter().for_each(|&replica| have[replica] += 1);
        placement.primary = seat(primary);
        placement.replicas = [seat(replicas[0]), seat(replicas[1]), Seat::NOWHERE];
    }
    assert_eq!((have[0], have[2]), (7, 5));
    let placements = cluster.assign().unwrap();
    assert_eq!(count(8, placements.iter().flat_map(copies)), [6; 8]);
    assert!(new_copies(&cluster, &placements).0 <= 3);
}

#[test]
fn a_lost_primary_is_followed_by_a_holder_that_has_room() {
    let nodes = (0..10).map(|id| node(id, "", 2, 1)).collect();
    let mut cluster = world(nodes, 10, 2);
    cluster.placements = cluster.assign().unwrap();
    cluster.lose(4);
    let placements = cluster.assign().unwrap();
    let strangers =
        cluster.placements.iter().zip(&placements).filter(|(old, new)| {
            old.primary == Seat::NOWHERE && !old.seats().any(|seat| seat.node == new.primary.node)
        });
    // Two holders of each of a hundred vnodes, nine nodes with room for eleven: nearly all find one.
    assert!(strangers.count() <= 3);
}

/// Whatever changes these digests moves vnodes in every cluster that is upgraded.
#[test]
fn every_host_computes_this() {
    let nodes = (0..10).map(|id| node(id, ["a", "b", "c"][id as usize % 3], 4, 1 + id as u16 / 8)).collect();
    let mut cluster = world(nodes, 8, 2);
    let digest = |world: &World| {
        let seats = world.placements.iter().flat_map(Placement::seats);
        let bytes: Vec<u8> =
            seats.flat_map(|seat| [seat.node.to_le_bytes(), seat.core.to_le_bytes()].concat()).collect();
        quoit_wire::topology::key_hash(0, &bytes)
    };
    cluster.placements = cluster.assign().unwrap();
    let first = digest(&cluster);
    cluster.lose(3);
    cluster.placements = cluster.assign().unwrap();
    assert_eq!([first, digest(&cluster)], [0xc6c7_fe96_7b52_8317, 0x7480_bf3c_7132_272f]);
}

#[test]
fn a_standalone_node_is_a_cluster_of_one() {
    for cores in [1, 3, 8, 300] {
        let standalone = Topology::standalone(node(7, "", cores, 1), 8, 1, 99);
        let empty = vec![Placement { term: 99, ..Placement::NOWHERE }; 256];
        assert_eq!(assign(&standalone.nodes, &empty, 0).unwrap(), standalone.vnodes, "{cores} cores");
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_its_reason() {
    let fine = || vec![node(1, "", 2, 1), node(2, "", 2, 1)];
    let refused = |nodes: &[Node], vnodes: usize, replicas: usize| {
        assign(nodes, &vec![Placement::NOWHERE; vnodes], replicas).unwrap_err()
    };
    assert_eq!(refused(&[], 8, 1), AssignmentError::NoTaker);
    assert_eq!(refused(&[node(1, "", 2, 0)], 8, 1), AssignmentError::NoTaker);
    assert_eq!(refused(&[fine(), fine()].concat(), 8, 1), AssignmentError::DuplicateNode(1));
    assert_eq!(refused(&[node(1, "", 0, 1)], 8, 1), AssignmentError::Cores { node: 1, cores: 0 });
    assert_eq!(refused(&[node(1, "", 1025, 1)], 8, 1), AssignmentError::Cores { node: 1, cores: 1025 });
    assert_eq!(refused(&fine(), 7, 1), AssignmentError::Vnodes(7));
    assert_eq!(refused(&fine(), 2 << VNODE_BITS_MAX, 1), AssignmentError::Vnodes(2 << VNODE_BITS_MAX));
    assert_eq!(refused(&fine(), 8, REPLICAS_MAX + 1), AssignmentError::TooManyReplicas(REPLICAS_MAX + 1));
    let many: Vec<Node> = (0..=NODES_MAX as u64).map(|id| node(id, "", 1, 1)).collect();
    assert_eq!(refused(&many, 8, 1), AssignmentError::TooManyNodes(NODES_MAX + 1));

    let mut placements = vec![Placement::NOWHERE; 8];
    placements[3].primary = Seat { node: 1, core: 2 };
    assert_eq!(assign(&fine(), &placements, 1), Err(AssignmentError::NoSuchSeat(3)));
}

#[test]
fn extremes_are_assigned() {
    // As many nodes as a cluster may have, most of which find no vnode; heavy ones beside light ones.
    let many: Vec<Node> =
        (0..NODES_MAX as u64).map(|id| node(id, "", 3, if id % 2 == 0 { u16::MAX } else { 1 })).collect();
    let placements = world(many.clone(), 6, 3).assign().unwrap();
    assert!(placements.iter().all(|placement| copies(placement).count() == 4));
    // One vnode, more replicas than nodes.
    let placements = world(many[..2].to_vec(), 0, 3).assign().unwrap();
    assert_eq!(copies(&placements[0]).collect::<BTreeSet<_>>(), BTreeSet::from([0, 1]));
    // A zone of one small node holds a copy of everything, for the others share a fate.
    let uneven = vec![node(1, "a", 2, 50), node(2, "a", 2, 50), node(3, "b", 2, 1)];
    let placements = world(uneven, 10, 1).assign().unwrap();
    assert_eq!(placements.iter().flat_map(copies).filter(|&node| node == 2).count(), 1 << 10);
}
