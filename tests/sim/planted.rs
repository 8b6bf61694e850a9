//! It bites: mistakes planted into the production code are found by the checker of histories, and by it alone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant as WallClock;

use super::run::{Mistake, run};
use super::{THREADS, one_at_a_time};
use crate::cluster::planted::Fault;

/// Runs within which each mistake is found, from each of these seeds on: three, so that one that a change of schedules makes
/// rare is seen. The rarest, "no seal", shows in one run of twenty-five.
const SEEDS_MAX: u64 = 200;
const BASES: [u64; 3] = [0, 100_000, 200_000];

const MISTAKES: [(&str, Mistake); 9] = [
    ("no seal", Mistake::Core(Fault::NoSeal)),
    ("no read lease", Mistake::Core(Fault::NoReadLease)),
    ("dirty read", Mistake::Core(Fault::DirtyRead)),
    ("`one` acknowledged alone", Mistake::Core(Fault::OneAlone)),
    ("role kept over a restart", Mistake::RoleKept),
    ("a slice resurrects a delete", Mistake::Core(Fault::LateSlice)),
    ("a retry applied twice", Mistake::Core(Fault::ForgottenResults)),
    ("a copy evicts for itself", Mistake::Core(Fault::CopyEvicts)),
    ("a catching-up copy counted", Mistake::Core(Fault::CatchingUpCounts)),
];

/// The first seed from `base` on in whose history the mistake shows, and how.
fn find(mistake: Mistake, base: u64) -> Option<(u64, String)> {
    let (next, found) = (AtomicU64::new(base), AtomicU64::new(u64::MAX));
    let work = || {
        let mut first = None;
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= base + SEEDS_MAX || seed > found.load(Ordering::Relaxed) {
                return first;
            }
            let report = run(seed, None, Some(mistake));
            if let Some(text) = report.found_in_history.into_iter().next() {
                found.fetch_min(seed, Ordering::Relaxed);
                first.get_or_insert((seed, text));
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().filter_map(|thread| thread.join().expect("a world ends")).min()
    })
}

#[test]
#[expect(clippy::disallowed_methods, reason = "how long it takes is printed, not judged by")]
fn planted_mistakes_are_found_by_the_history() {
    let _alone = one_at_a_time();
    let begin = WallClock::now();
    let mut missed = Vec::new();
    for (name, mistake) in MISTAKES {
        for base in BASES {
            match find(mistake, base) {
                Some((seed, text)) => println!("{name}: seed {base} + {}: {text}", seed - base),
                None => missed.push((name, base)),
            }
        }
    }
    println!("{} mistakes, looked for from {BASES:?} on, in {:.1} s", MISTAKES.len(), begin.elapsed().as_secs_f64());
    assert!(missed.is_empty(), "not found within {SEEDS_MAX} seeds: {missed:?}");
}
