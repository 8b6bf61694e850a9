//! Quoit: a distributed in-memory cache. The architecture page is `src/README.md`.

pub mod cli;
pub mod cluster;
pub mod config;
pub mod control;
pub mod runtime;
pub mod samples;
pub mod shard;
pub mod store;
pub mod time;
pub mod units;

/// The examples of the front page, compiled with the documentation's.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct FrontPage;
