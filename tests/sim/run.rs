//! One run: a cluster is founded, clients begin, faults come and go, and in the end everything is looked at.

use rand::RngExt;

use super::checker;
use super::faults::{AMBIENT, Fault, HARD, PHASES};
use super::history::Subject;
use super::table::Table;
use super::world::World;

const SECOND_US: u64 = 1_000_000;
/// Rounds of a run: in each, three faults that make everything harder and one that takes something away.
const ROUNDS: usize = 5;
/// A cluster that is whole again after so long has healed: etcd's leases, C9's ten seconds, and copies that are streamed.
const RESTORED_US_MAX: u64 = 60 * SECOND_US;

/// What a run came to.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) seed: u64,
    pub(super) violations: Vec<(Subject, String)>,
    pub(super) table: Table,
    pub(super) trace_hash: u64,
    pub(super) trace: Vec<String>,
    pub(super) operations: usize,
    pub(super) answered: usize,
    pub(super) faults: usize,
    pub(super) vnodes_lost: u64,
    pub(super) virtual_us: u64,
}

/// Runs one seed; the story of `traced` is told.
pub(super) fn run(seed: u64, traced: Option<Subject>) -> Report {
    let mut world = World::new(seed, traced);
    let nodes = 3 + seed % 3;
    let mut table = Table::default();
    let mut faults = 0;
    (1..=nodes).for_each(|id| world.start(id));
    if !world.run_until(30 * SECOND_US, World::is_restored) {
        world.violate(Subject::Vnode(0), "the cluster was not founded within 30 s".to_owned());
    }
    world.history.restored_us.push(world.now_us);
    world.is_quiet = false;
    world.run(SECOND_US / 2);
    for round in 0..ROUNDS {
        if !world.violations.is_empty() {
            break;
        }
        let draw = seed as usize * ROUNDS + round;
        world.enter(PHASES[draw % PHASES.len()]);
        let ambient = (0..3).map(|step| AMBIENT[(draw * 3 + step) % AMBIENT.len()]);
        let hard = HARD[(draw + draw / HARD.len()) % HARD.len()];
        for fault in ambient.chain([hard]).collect::<Vec<Fault>>() {
            table.count(fault, world.phase());
            faults += 1;
            world.inject(fault);
        }
        let lasting_us = world.random.random_range(SECOND_US / 2..4 * SECOND_US);
        world.run(lasting_us);
        heal(&mut world, nodes);
    }
    if world.violations.is_empty() {
        end(&mut world);
    }
    let mut violations = std::mem::take(&mut world.violations);
    violations.extend(checker::check(&world.history));
    Report {
        seed,
        violations,
        table,
        trace_hash: world.trace_hash,
        operations: world.history.operations.len(),
        answered: world.history.operations.iter().filter(|it| it.told().is_some()).count(),
        trace: std::mem::take(&mut world.trace),
        faults,
        vnodes_lost: world.vnodes_lost,
        virtual_us: world.now_us,
    }
}

/// Everything is well again, and the cluster becomes whole.
fn heal(world: &mut World, nodes: u64) {
    world.heal(nodes);
    world.is_quiet = false;
    if !world.run_until(RESTORED_US_MAX, World::is_restored) {
        world.violate_unrestored(RESTORED_US_MAX / SECOND_US);
        return;
    }
    world.history.restored_us.push(world.now_us);
    world.run(SECOND_US / 5);
}

/// Clients end, time passes, and all copies are the same.
fn end(world: &mut World) {
    world.only_reads = true;
    world.run(2 * SECOND_US);
    world.is_quiet = true;
    world.run(6 * SECOND_US);
    world.check_convergence();
}
