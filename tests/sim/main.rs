//! The whole cluster in one thread, seeded: real agents, leaders, copies, shards and stores; a simulated network, etcd and
//! clocks; faults; and a checker of all that clients were told. `README.md` beside this file is its door plate.

#![expect(clippy::print_stdout, reason = "seeds and figures must be seen")]

mod checker;
mod client;
mod clock;
mod etcd;
mod faults;
mod history;
mod network;
mod node;
#[cfg(debug_assertions)]
mod planted;
mod run;
mod table;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant as WallClock;

use quoit::{cluster, shard, store, time};

use self::run::{Report, run};
use self::table::Table;

/// Worlds at a time: each is one thread.
const THREADS: usize = 2;

/// What every run has at least.
const OPERATIONS_MIN: usize = 2000;
const FAULTS_MIN: usize = 20;

/// After so many runs every fault has been put into every phase.
const SEEDS_FOR_ALL_CELLS: usize = 100;

/// One test at a time: each uses all the threads there may be, and what it prints of its time is its own.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static RUNNING: Mutex<()> = Mutex::new(());
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs seeds, in order of their numbers, until one fails.
fn run_seeds(seeds: std::ops::Range<u64>) -> Vec<Report> {
    let next = AtomicU64::new(seeds.start);
    let failed = AtomicU64::new(u64::MAX);
    let work = || {
        let mut reports = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || seed > failed.load(Ordering::Relaxed) {
                return reports;
            }
            let report = run(seed, None, None);
            if !report.violations.is_empty() {
                failed.fetch_min(seed, Ordering::Relaxed);
            }
            reports.push(report);
        }
    };
    let mut reports: Vec<Report> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("a world ends")).collect()
    });
    reports.sort_by_key(|report| report.seed);
    reports
}

/// Says what a failed run did, from its beginning, as far as it concerns the key or vnode that shows it.
fn tell(report: &Report) {
    let subject = report.violations[0].0;
    let again = run(report.seed, Some(subject), None);
    again.trace.iter().for_each(|line| println!("{line}"));
    report.violations.iter().take(10).for_each(|(subject, text)| println!("VIOLATION: {subject:?}: {text}"));
    println!("seed {} fails; to see it again: make simulate SEEDS={}", report.seed, report.seed);
}

/// `QUOIT_SIM_SEEDS`: one seed, or `from..to`.
fn seeds(default: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("QUOIT_SIM_SEEDS") else { return default };
    let number = |text: &str| text.trim().parse::<u64>().expect("QUOIT_SIM_SEEDS is a number, or two with .. between");
    match text.split_once("..") {
        Some((from, to)) => number(from)..number(to),
        None => number(&text)..number(&text) + 1,
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "how long the runs take is printed, not judged by")]
fn histories_are_linearizable_through_faults() {
    let _alone = one_at_a_time();
    let begin = WallClock::now();
    let seeds = seeds(0..1000);
    println!("seeds {seeds:?}");
    let reports = run_seeds(seeds);
    let mut table = Table::default();
    reports.iter().for_each(|report| table.add(&report.table));
    let sum = |of: fn(&Report) -> u64| reports.iter().map(of).sum::<u64>();
    println!(
        "{} runs in {:.1} s: {} operations, {} answered, {} faults, {} vnodes lost, {} s of virtual time",
        reports.len(),
        begin.elapsed().as_secs_f64(),
        sum(|it| it.operations as u64),
        sum(|it| it.answered as u64),
        sum(|it| it.faults as u64),
        sum(|it| it.vnodes_lost),
        sum(|it| it.virtual_us) / 1_000_000,
    );
    print!("{table}");
    let least = reports.iter().filter(|report| report.violations.is_empty()).min_by_key(|report| report.operations);
    if let Some(least) = least {
        println!("the fewest operations of a run are the {} of seed {}", least.operations, least.seed);
        assert!(least.operations >= OPERATIONS_MIN, "too few: make runs longer, or clients quicker");
    }
    let is_spared = |report: &&Report| report.violations.is_empty() && report.faults < FAULTS_MIN;
    assert_eq!(reports.iter().find(is_spared).map(|report| (report.seed, report.faults)), None, "too few faults");
    let empty = table.empty();
    assert!(reports.len() < SEEDS_FOR_ALL_CELLS || empty.is_empty(), "no fault in {empty:?}");
    if let Some(failed) = reports.iter().find(|report| !report.violations.is_empty()) {
        tell(failed);
        panic!("seed {} fails", failed.seed);
    }
}

#[test]
fn a_seed_is_a_run() {
    let _alone = one_at_a_time();
    for seed in [1, 5] {
        let (one, other) = (run(seed, None, None), run(seed, None, None));
        assert_eq!(one.trace_hash, other.trace_hash, "seed {seed}");
        assert_eq!(one.operations, other.operations, "seed {seed}");
    }
}
