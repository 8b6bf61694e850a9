//! Properties checked on random values, under a seed that is printed: each run draws a new one, and `QUOIT_SEED=<seed>`
//! runs it again.

use std::hash::{BuildHasher, Hasher, RandomState};

use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestCaseResult, TestRunner};

/// Checks a property on as many random values as `cases` says.
#[expect(clippy::print_stdout, reason = "the seed of a failing run must be seen")]
pub(crate) fn check<S: Strategy>(cases: u32, strategy: S, property: impl Fn(S::Value) -> TestCaseResult) {
    let seed = match std::env::var("QUOIT_SEED") {
        Ok(text) => text.parse().expect("QUOIT_SEED is a number"),
        Err(_) => RandomState::new().build_hasher().finish(),
    };
    println!("QUOIT_SEED={seed}");
    let config = Config { cases, rng_seed: RngSeed::Fixed(seed), failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&strategy, property);
    outcome.unwrap_or_else(|error| panic!("QUOIT_SEED={seed}: {error}"));
}
