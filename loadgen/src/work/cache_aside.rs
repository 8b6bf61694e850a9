//! Cache-aside over keys whose popularity shifts: get, and on a miss set; what hit ratios are measured with.
//!
//! Popularity is Zipf's. After a get, with the probability `churn`, its key changes places with one drawn evenly from all:
//! every key is popular for 1 / `churn` gets on the average, whatever its rank, and then another takes its rank. A value's
//! length follows from its key, so that a key which comes back has the length it had.
//!
//! Two connections may ask for one key at once, and both then set it: as clients do.

use std::collections::VecDeque;

use super::keys::{KeySpace, write_digits};
use super::random::Random;
use super::values::{SizeRange, Values};
use super::zipf::Zipf;
use super::{Ask, Op, Work, set_of};
use crate::engine::Waiting;
use crate::protocol::{Answered, Outcome, Request};

/// What is asked for.
#[derive(Clone, Debug)]
pub(crate) struct CacheAsideOptions {
    /// The keys; fewer than 2^32.
    pub(crate) keys: KeySpace,
    /// Zipf's exponent.
    pub(crate) zipf: f64,
    /// The share of gets after which the key loses its rank.
    pub(crate) churn: f64,
    /// Lengths of values.
    pub(crate) value_bytes: SizeRange,
    /// Everything random follows from it.
    pub(crate) seed: u64,
}

/// The workload of one generator thread; it goes on from run to run.
#[derive(Debug)]
pub(crate) struct CacheAside {
    options: CacheAsideOptions,
    zipf: Zipf,
    random: Random,
    values: Values,
    /// The key of each rank.
    key_of_rank: Vec<u32>,
    /// Keys that a connection has missed, to be set by it.
    missed: Vec<VecDeque<u32>>,
    key: Box<[u8]>,
    /// Of 2^32 draws, those below take a key's rank away.
    below_churn: u64,
    gets_left: u64,
    /// Sets that have not been asked for yet, over all connections.
    sets_left: u64,
}

impl CacheAside {
    /// The workload, for so many connections with at most `depth` unanswered requests each.
    pub(crate) fn new(options: CacheAsideOptions, connections: usize, depth: usize) -> Self {
        assert!(u32::try_from(options.keys.len()).is_ok(), "keys are numbered with 32 bits");
        let mut random = Random::new(options.seed, 0);
        Self {
            zipf: Zipf::new(options.keys.len(), options.zipf),
            values: Values::new(options.value_bytes.most, &mut random),
            key_of_rank: (0..options.keys.len()).map(|rank| options.keys.at_rank(rank) as u32).collect(),
            missed: (0..connections).map(|_| VecDeque::with_capacity(depth)).collect(),
            key: options.keys.blank(),
            below_churn: (options.churn * (1u64 << 32) as f64) as u64,
            gets_left: 0,
            sets_left: 0,
            random,
            options,
        }
    }

    /// Lets so many more gets be asked.
    pub(crate) const fn allow(&mut self, gets: u64) {
        self.gets_left = gets;
    }

    /// The key of the next get; its rank may be another's afterwards.
    fn draw(&mut self) -> u32 {
        let rank = self.zipf.draw(&mut self.random) as usize;
        let key = self.key_of_rank[rank];
        if self.random.next_u64() >> 32 < self.below_churn {
            let other = self.random.below(self.key_of_rank.len() as u64) as usize;
            self.key_of_rank.swap(rank, other);
        }
        key
    }

    fn value_bytes(&self, key: u32) -> u32 {
        self.options.value_bytes.draw(&mut Random::new(self.options.seed, u64::from(key)))
    }
}

impl Work for CacheAside {
    fn next(&mut self, connection: usize, _now_ns: u64) -> Option<Ask> {
        if let Some(key) = self.missed[connection].pop_front() {
            self.sets_left -= 1;
            write_digits(u64::from(key), &mut self.key);
            return Some(Ask { value_bytes: self.value_bytes(key), ..Ask::of(Op::Set, u64::from(key)) });
        }
        self.gets_left = self.gets_left.checked_sub(1)?;
        let key = self.draw();
        write_digits(u64::from(key), &mut self.key);
        Some(Ask::of(Op::Get, u64::from(key)))
    }

    fn request(&mut self, _connection: usize, ask: &Ask) -> Request<'_> {
        // `next` has left the key's bytes behind.
        match ask.op {
            Op::Set => set_of(&self.key, &self.values, ask),
            _ => Request::Get { key: &self.key },
        }
    }

    fn done(&mut self, connection: usize, waiting: &Waiting, answered: Answered<'_>, _now_ns: u64) {
        if waiting.ask.op == Op::Get && answered.outcome == Outcome::Miss {
            self.sets_left += 1;
            self.missed[connection].push_back(waiting.ask.key as u32);
        }
    }

    fn reads_values(&self) -> bool {
        false
    }

    fn is_exhausted(&self) -> bool {
        self.gets_left == 0 && self.sets_left == 0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    fn workload(churn: f64) -> CacheAside {
        let keys = KeySpace::new(1000, 16).expect("valid");
        let value_bytes = SizeRange { least: 50, most: 300 };
        CacheAside::new(CacheAsideOptions { keys, zipf: 0.9, churn, value_bytes, seed: 5 }, 1, 4)
    }

    /// Asks until the workload is exhausted, against a cache that forgets nothing; returns the gets of each key, and the
    /// lengths that each was set with.
    fn play(work: &mut CacheAside) -> (HashMap<u64, u32>, HashMap<u64, Vec<u32>>) {
        let (mut gets, mut sets) = (HashMap::new(), HashMap::<u64, Vec<u32>>::new());
        while !work.is_exhausted() {
            let ask = work.next(0, 0).expect("not exhausted");
            let outcome = match ask.op {
                Op::Set => {
                    sets.entry(ask.key).or_default().push(ask.value_bytes);
                    Outcome::Stored
                }
                _ => {
                    *gets.entry(ask.key).or_default() += 1;
                    if sets.contains_key(&ask.key) { Outcome::Hit } else { Outcome::Miss }
                }
            };
            work.done(0, &Waiting { ask, intended_ns: 0 }, Answered { outcome, version: 0, value: &[] }, 0);
        }
        (gets, sets)
    }

    #[test]
    fn every_missed_key_is_set_once_with_a_length_of_its_own() {
        let mut work = workload(0.0);
        work.allow(5000);
        let (gets, sets) = play(&mut work);
        assert_eq!(gets.values().sum::<u32>(), 5000);
        assert_eq!(gets.keys().collect::<HashSet<_>>(), sets.keys().collect::<HashSet<_>>());
        assert!(sets.values().all(|lengths| lengths.len() == 1 && (50..=300).contains(&lengths[0])));
        let mut again = workload(0.0);
        again.allow(5000);
        assert_eq!(play(&mut again), (gets, sets), "one seed is one workload");
    }

    #[test]
    fn a_key_is_popular_for_a_while_and_ranks_stay_a_permutation() {
        let mut work = workload(0.01);
        work.allow(200_000);
        let (gets, _) = play(&mut work);
        let most = gets.values().max().expect("some");
        // Without churn the first of a thousand keys gets a tenth of them all.
        assert!(*most < 5000, "{most}");
        assert_eq!(gets.len(), 1000);
        assert_eq!(work.key_of_rank.iter().collect::<HashSet<_>>().len(), 1000);
    }
}
