//! One run: a cluster is founded, clients begin, faults come and go, and in the end everything is looked at.

use rand::RngExt;

use super::checker;
use super::client::{HOT_KEYS, KEYS};
use super::faults::{AIMED, AMBIENT, Fault, HARD, PHASES};
use super::history::Subject;
use super::table::Table;
use super::world::{CLIENTS, World};
#[cfg(debug_assertions)]
use crate::cluster::planted;
use crate::cluster::planted::Fault as Planted;

const SECOND_US: u64 = 1_000_000;
/// Rounds of a run: in each, three faults that make everything harder and one that takes something away. The last one's is
/// aimed: it waits for the moment at which a mistake would do harm.
const ROUNDS: usize = 6;
/// A cluster that is whole again after so long has healed: etcd's leases, C9's ten seconds, and copies that are streamed.
const RESTORED_US_MAX: u64 = 60 * SECOND_US;

/// After so long every vnode takes writes that wait for a copy, unless all its members are lost: that takes longer (C9).
const WRITABLE_SECS_MAX: u64 = 10;

/// What a run came to.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) seed: u64,
    pub(super) violations: Vec<(Subject, String)>,
    /// Those of them that the checker of histories has found.
    pub(super) found_in_history: Vec<String>,
    pub(super) table: Table,
    pub(super) trace_hash: u64,
    pub(super) trace: Vec<String>,
    pub(super) operations: usize,
    pub(super) answered: usize,
    pub(super) faults: usize,
    pub(super) vnodes_lost: u64,
    pub(super) virtual_us: u64,
}

/// A mistake that is made on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(debug_assertions), expect(dead_code, reason = "only builds with debug assertions plant any"))]
pub(super) enum Mistake {
    /// In the production code.
    Core(Planted),
    /// A node that restarts passes itself off as its last life.
    RoleKept,
}

/// Runs one seed; the story of `traced` is told.
pub(super) fn run(seed: u64, traced: Option<Subject>, mistake: Option<Mistake>) -> Report {
    #[cfg(debug_assertions)]
    planted::plant(match mistake {
        Some(Mistake::Core(fault)) => Some(fault),
        _ => None,
    });
    let nodes = 3 + seed % 3;
    let mut world = World::new(seed, nodes, traced);
    world.is_role_kept = mistake == Some(Mistake::RoleKept);
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
        let phase = PHASES[draw % PHASES.len()];
        world.readers = [0, CLIENTS / 2, CLIENTS - 1][world.random.random_range(0..3)];
        let hot = world.random.random_range(0..2 * (KEYS - HOT_KEYS));
        (world.hot, world.is_plain) = (Some(hot).filter(|hot| *hot <= KEYS - HOT_KEYS), false);
        // Half of what makes it harder is there before, half comes upon it.
        let is_before = world.chance(50);
        let ambient = (0..3).map(|step| AMBIENT[(draw * 3 + step) % AMBIENT.len()]);
        let hard = match round + 1 {
            ROUNDS => AIMED[seed as usize % AIMED.len()],
            _ => HARD[(draw + draw / HARD.len()) % HARD.len()],
        };
        let mut inject = |world: &mut World, fault: Fault| {
            table.count(fault, world.phase());
            faults += 1;
            world.inject(fault);
        };
        if is_before {
            ambient.clone().for_each(|fault| inject(&mut world, fault));
        }
        world.enter(phase);
        let wait_us = world.random.random_range(0..SECOND_US / 5);
        world.run(wait_us);
        if !is_before {
            ambient.for_each(|fault| inject(&mut world, fault));
        }
        inject(&mut world, hard);
        // What only shows once a lease has ended lasts longer than that.
        let is_long = matches!(
            hard,
            Fault::EtcdCut
                | Fault::Partition
                | Fault::SealedWhileServing
                | Fault::OnlyCatchingUpReached
                | Fault::LateSlices
        );
        let least_us = if is_long { 3 * SECOND_US } else { SECOND_US / 2 };
        let lasting_us = world.random.random_range(least_us..5 * SECOND_US);
        world.run(lasting_us);
        heal(&mut world, nodes);
    }
    if world.violations.is_empty() {
        end(&mut world);
    }
    let mut violations = std::mem::take(&mut world.violations);
    let found = checker::check(&world.history);
    let found_in_history = found.iter().map(|(_, text)| text.clone()).collect();
    violations.extend(found);
    Report {
        found_in_history,
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
    // What was decided in the last moment shows.
    world.run(SECOND_US);
    for _ in 1..WRITABLE_SECS_MAX {
        if world.unwritable().is_empty() {
            break;
        }
        world.run(SECOND_US);
    }
    for vnode in world.unwritable() {
        world.violate(
            Subject::Vnode(vnode),
            format!("vnode {vnode} takes no `one` {WRITABLE_SECS_MAX} s after healing"),
        );
    }
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
    (world.readers, world.hot, world.is_plain) = (CLIENTS, None, false);
    world.run(2 * SECOND_US);
    world.is_quiet = true;
    world.run(6 * SECOND_US);
    world.check_convergence();
}
