//! A load of requests for several keys, and of large values, beside that of the generator: what is between two primaries
//! refuses part of such a request, and its client asks again for that part.
//!
//! One thread writes a round's number into every key and reads all of them back, another does so with large values. Each is
//! the only one that writes its keys, one request at a time: so a key never goes back behind what was acknowledged or read
//! before, and is never missing. What a write that ended in doubt explains is excused, and counted.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use quoit_client::blocking::Client;
use quoit_client::{Error, Hit, Item, Options, SetOptions};

use crate::world::await_true;

/// Keys of one request: more than there are vnodes, so that each request has part in whatever moves.
const KEYS: usize = 256;
/// Large values, each some hundred times as large as what a core receives at once.
const LARGE_KEYS: usize = 8;
const LARGE_VALUE_BYTES: usize = 1 << 20;
/// Failures that are told in words where they are no mistake.
const FAILED_TOLD_MAX: usize = 5;
/// Time for a request, as the generator's.
const DEADLINE: Duration = Duration::from_secs(5);

/// The load while it runs.
pub(crate) struct Several {
    is_over: Arc<AtomicBool>,
    rounds: Arc<[AtomicU64; 2]>,
    threads: Vec<JoinHandle<Found>>,
}

/// What the load has met with.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Rounds of requests for several keys, and of large values.
    pub(crate) rounds: [u64; 2],
    /// What was refused, or not answered in time, in words.
    pub(crate) failed: Vec<String>,
    /// Promises that were broken, in words.
    pub(crate) wrong: Vec<String>,
    /// Old values that a write in doubt explains.
    pub(crate) excused: u64,
}

/// What is known of one key.
#[derive(Debug, Default)]
struct Key {
    name: String,
    /// The round that was acknowledged or read last; 0 before the first.
    floor: u64,
    /// Rounds whose write has ended without an answer.
    in_doubt: BTreeSet<u64>,
}

/// One thread's keys, and the way to them.
struct Writer {
    client: Client,
    keys: Vec<Key>,
    found: Found,
}

/// Writes and reads the keys of one round.
type Round = fn(&mut Writer, u64);

impl Several {
    /// Begins, by way of these servers.
    pub(crate) fn begin(servers: &[String]) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let rounds = Arc::new([const { AtomicU64::new(0) }; 2]);
        let kinds: [(&str, usize, Round); 2] =
            [("several", KEYS, Writer::several_keys), ("large", LARGE_KEYS, Writer::large_value)];
        let start = |(kind, (name, keys, round)): (usize, (&'static str, usize, Round))| {
            let (servers, is_over, rounds) = (servers.to_vec(), Arc::clone(&is_over), Arc::clone(&rounds));
            thread::spawn(move || {
                let mut writer = Writer::new(servers, name, keys);
                while !is_over.load(Ordering::Relaxed) {
                    round(&mut writer, rounds[kind].load(Ordering::Relaxed) + 1);
                    rounds[kind].fetch_add(1, Ordering::Relaxed);
                }
                // What was acknowledged and never read again may be lost as well.
                (0..keys).for_each(|key| writer.read(key, keys == LARGE_KEYS));
                writer.found
            })
        };
        let threads = kinds.into_iter().enumerate().map(start).collect();
        Self { is_over, rounds, threads }
    }

    /// Waits until there were so many rounds more, of each kind.
    pub(crate) fn await_rounds(&self, more: u64) {
        let rounds = || self.rounds.each_ref().map(|rounds| rounds.load(Ordering::Relaxed));
        let before = rounds();
        let is_enough = || rounds().iter().zip(before).all(|(now, before)| *now >= before + more);
        await_true(is_enough, || format!("{more} rounds more than {before:?}, now {:?}", rounds()));
    }

    /// Ends: every key is read once more. Nothing was wrong, or the test fails.
    pub(crate) fn end(self) -> Found {
        self.is_over.store(true, Ordering::Relaxed);
        let mut all = Found { rounds: self.rounds.each_ref().map(|it| it.load(Ordering::Relaxed)), ..Found::default() };
        for thread in self.threads {
            let found = thread.join().expect("it panics nowhere");
            all.failed.extend(found.failed);
            all.wrong.extend(found.wrong);
            all.excused += found.excused;
        }
        println!(
            "{} rounds of {KEYS} sets and gets each, {} of a value of 1 MiB; {} keys' answers failed, {} old values excused: {:?}",
            all.rounds[0],
            all.rounds[1],
            all.failed.len(),
            all.excused,
            all.failed.iter().take(FAILED_TOLD_MAX).collect::<Vec<_>>(),
        );
        assert!(all.wrong.is_empty(), "{:#?}\nfailed: {:#?}", all.wrong, all.failed);
        all
    }
}

impl Writer {
    fn new(servers: Vec<String>, name: &str, keys: usize) -> Self {
        let options = Options { deadline: DEADLINE, stall_limit: DEADLINE / 4, ..Options::default() };
        let key = |number| Key { name: format!("{name}-{number}"), ..Key::default() };
        Self {
            client: Client::connect(servers, options).expect("a node answers"),
            keys: (0..keys).map(key).collect(),
            found: Found::default(),
        }
    }

    /// Writes the round into every key by one request, and reads all of them by another.
    fn several_keys(&mut self, round: u64) {
        let values: Vec<[u8; 8]> = (0..self.keys.len()).map(|key| stamp(key, round)).collect();
        let items = self.keys.iter().zip(&values).map(|(key, value)| Item {
            key: key.name.as_bytes(),
            value,
            client_flags: 0,
            ttl_ms: 0,
        });
        match self.client.multi_set(items) {
            Ok(results) => {
                results.into_iter().enumerate().for_each(|(key, result)| self.written(key, round, result.map(drop)));
            }
            Err(error) => self.failed("the sets", round, &error),
        }
        match self.client.multi_get(self.keys.iter().map(|key| &key.name)) {
            Ok(results) => results.into_iter().enumerate().for_each(|(key, result)| self.judge(key, false, result)),
            Err(error) => self.failed("the gets", round, &error),
        }
    }

    /// The same with one large value.
    fn large_value(&mut self, round: u64) {
        let key = (round % LARGE_KEYS as u64) as usize;
        let value = stamp(key, round).repeat(LARGE_VALUE_BYTES / size_of::<u64>());
        let written = self.client.set(&self.keys[key].name, &value, SetOptions::default());
        self.written(key, round, written.map(drop));
        self.read(key, true);
    }

    fn read(&mut self, key: usize, is_large: bool) {
        let read = self.client.get(&self.keys[key].name);
        self.judge(key, is_large, read);
    }

    fn written(&mut self, key: usize, round: u64, result: Result<(), Error>) {
        match result {
            Ok(()) => self.keys[key].floor = round,
            Err(error) => {
                if error.maybe_applied() {
                    self.keys[key].in_doubt.insert(round);
                }
                self.failed(&format!("the set of {}", self.keys[key].name), round, &error);
            }
        }
    }

    fn judge(&mut self, key: usize, is_large: bool, read: Result<Option<Hit>, Error>) {
        let hit = match read {
            Ok(hit) => hit,
            Err(error) => return self.failed(&format!("a get of {}", self.keys[key].name), 0, &error),
        };
        let Key { name, floor, in_doubt } = &mut self.keys[key];
        match hit {
            None if *floor == 0 => {}
            None => self.found.wrong.push(format!("{name} is missing, after round {floor}")),
            Some(hit) => match round_of(key, &hit.value, is_large) {
                Some(round) if round >= *floor => *floor = round,
                Some(round) if in_doubt.contains(&round) => self.found.excused += 1,
                Some(round) => self.found.wrong.push(format!("{name} is of round {round}, after round {floor}")),
                None => self.found.wrong.push(format!("{name} has {} bytes that nobody wrote", hit.value.len())),
            },
        }
    }

    fn failed(&mut self, what: &str, round: u64, error: &dyn Display) {
        self.found.failed.push(format!("round {round}, {what}: {error}"));
    }
}

/// What a value consists of: whose it is, and of which round.
fn stamp(key: usize, round: u64) -> [u8; 8] {
    (round << 16 | key as u64).to_le_bytes()
}

/// The round in which a value of the key was written; `None` for what is no whole value of it.
fn round_of(key: usize, value: &[u8], is_large: bool) -> Option<u64> {
    let (first, _) = value.split_first_chunk::<8>()?;
    let bytes = if is_large { LARGE_VALUE_BYTES } else { size_of::<u64>() };
    let round = u64::from_le_bytes(*first) >> 16;
    let is_whole = value.len() == bytes && value.chunks(8).all(|chunk| chunk == stamp(key, round));
    is_whole.then_some(round)
}
