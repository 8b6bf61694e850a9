//! Pauses: how long single calls take, from filling an empty store through minutes of churn.

use std::hint::black_box;

use hdrhistogram::Histogram;
use quoit::store::{End, PolicyKind, Progress, Store, Write};
use quoit::time::{Duration, Instant};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::clock;
use crate::speed::figure;
use crate::verdict;
use crate::workload::{self, SEED};

/// Calls between two of the background's.
const CALLS_PER_WORK: u64 = 64;
const STEPS_PER_WORK: usize = 4;
const TOUCH_TTL: Duration = Duration::from_secs(30);
/// What is timed for comparison.
const EMPTY_LOOP: &str = "empty loop";
const EMPTY_LOOP_TIME: std::time::Duration = std::time::Duration::from_nanos(400);
/// The goals: of ten thousand calls all but one end within this ...
const P9999_NANOS_MAX: u64 = 50_000;
/// ... and all within this.
const NANOS_MAX: u64 = 500_000;

/// Nanoseconds of single calls, by kind.
struct Calls {
    histograms: Vec<(&'static str, Histogram<u64>)>,
}

impl Calls {
    fn time<T>(&mut self, kind: &'static str, call: impl FnOnce() -> T) -> T {
        let start = clock::now();
        let result = call();
        let nanos = start.elapsed().as_nanos() as u64;
        let histogram = match self.histograms.iter_mut().position(|(name, _)| *name == kind) {
            Some(place) => &mut self.histograms[place].1,
            None => {
                self.histograms.push((kind, Histogram::new_with_bounds(1, 10_000_000_000, 3).expect("valid bounds")));
                &mut self.histograms.last_mut().expect("just pushed").1
            }
        };
        histogram.saturating_record(nanos);
        result
    }

    fn print(&self) {
        println!("microseconds            calls        p50      p99    p99.9   p99.99  p99.999      max");
        // What the machine does to an empty loop is not the store's.
        let machine = self.histograms.iter().find(|(kind, _)| *kind == EMPTY_LOOP).map(|(_, histogram)| histogram);
        let machine_nanos = |of: fn(&Histogram<u64>) -> u64| machine.map_or(0, of);
        for (kind, histogram) in &self.histograms {
            let micros = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1000.0;
            let nanos_9999 = |histogram: &Histogram<u64>| histogram.value_at_quantile(0.9999);
            let is_kept = nanos_9999(histogram) <= P9999_NANOS_MAX + machine_nanos(nanos_9999)
                && histogram.max() <= NANOS_MAX + machine_nanos(Histogram::max);
            println!(
                "{kind:<18} {:>11} {:>10.2} {:>8.2} {:>8.2} {:>8.2} {:>8.2} {:>8.1}  {}",
                histogram.len(),
                micros(0.5),
                micros(0.99),
                micros(0.999),
                micros(0.9999),
                micros(0.99999),
                histogram.max() as f64 / 1000.0,
                verdict(is_kept)
            );
        }
    }
}

fn key(number: u64) -> [u8; 16] {
    let mut key = *b"key-000000000000";
    key[8..].copy_from_slice(&number.to_le_bytes());
    key
}

/// Fills a store of `memory_bytes` with `items` items, then churns for `secs` seconds, and prints how long calls took. Its
/// memory is touched before, as a node does with `--prefault`, or by the calls themselves.
pub(crate) fn pauses(items: u64, memory_bytes: usize, secs: u64, is_prefaulted: bool) {
    let mut calls = Calls { histograms: vec![] };
    let mut store = workload::store(PolicyKind::S3Fifo, memory_bytes);
    if is_prefaulted {
        let start = clock::now();
        store.prefault().expect("as much memory as was asked for");
        println!("touched {} MiB in {:.1} s", memory_bytes >> 20, start.elapsed().as_secs_f64());
    }
    let mut random = StdRng::seed_from_u64(SEED);
    let began = clock::now();
    let now = || Instant::from_millis(1000 + began.elapsed().as_millis() as u64);
    for number in 0..items {
        let (key, at) = (key(number), now());
        let hash = workload::hash(&key);
        let value = [1; 32];
        calls.time("fill: set", || store.set(at, hash, &key, Write { value: &value, ..Write::default() }));
        work(&mut store, &mut calls, number, at);
        idle(&mut calls);
    }
    println!("filled in {:.1} s: {} items live of {items}", began.elapsed().as_secs_f64(), store.items());
    let churn = clock::now();
    let mut number = 0;
    let mut is_flushed = false;
    while churn.elapsed().as_secs() < secs {
        number += 1;
        let (key, at) = (key(random.random_range(0..items * 2)), now());
        let hash = workload::hash(&key);
        match random.random_range(0..100) {
            0..40 => {
                calls.time("get", || black_box(store.get(at, hash, &key).is_some()));
            }
            40..70 => {
                let length = random.random_range(1..100);
                calls.time("set", || {
                    store.set(at, hash, &key, Write { value: &[2; 100][..length], ..Write::default() })
                });
            }
            70..80 => {
                calls.time("touch", || store.touch(at, hash, &key, TOUCH_TTL));
            }
            80..90 => {
                calls.time("append", || store.extend(at, hash, &key, b"tail", End::Back));
            }
            _ => {
                calls.time("delete", || store.delete(at, hash, &key));
            }
        }
        if !is_flushed && churn.elapsed().as_secs() >= secs / 2 {
            is_flushed = true;
            calls.time("flush", || store.flush(at));
        }
        work(&mut store, &mut calls, number, at);
        idle(&mut calls);
    }
    println!(
        "churned for {secs} s: {} items live, {} evicted, {} MiB copied by compaction",
        store.items(),
        figure(&store, "evictions_total"),
        figure(&store, "copied_bytes_total") >> 20
    );
    calls.print();
}

fn work(store: &mut Store, calls: &mut Calls, number: u64, at: Instant) {
    if number.is_multiple_of(CALLS_PER_WORK) {
        let _: Progress = calls.time("work", || store.work(at, STEPS_PER_WORK));
    }
}

/// What the machine does to a call that does nothing for as long as most calls take: what interrupts calls of the store so
/// many times a second interrupts one in as many of these.
fn idle(calls: &mut Calls) {
    calls.time(EMPTY_LOOP, || {
        let start = clock::now();
        while black_box(start.elapsed()) < EMPTY_LOOP_TIME {}
    });
}
