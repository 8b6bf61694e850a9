//! Counters: a limit of requests per user and window, held for all servers of an application in one place.
//!
//! The counter of a window makes itself (`initial`) and leaves by itself (`ttl`). An increment is applied once even when
//! the connection breaks and the client repeats it, so nobody is counted twice.
//!
//! Start a node with `quoit serve`, then `cargo run -p quoit-client --example rate_limit [host:port]`.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::Duration;

use quoit_client::{Error, IncrementOptions, Options, blocking::Client};

const WINDOW: Duration = Duration::from_secs(10);
const REQUESTS_PER_WINDOW_MAX: i64 = 5;

fn main() -> Result<(), Error> {
    let server = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7400".to_owned());
    let mut client = Client::connect([server], Options::default())?;
    for request in 1..=8 {
        let verdict = if may_pass(&mut client, "user:42")? { "passes" } else { "waits" };
        println!("request {request} {verdict}");
    }
    Ok(())
}

/// Counts a request of `user`; whether it is within the limit of the current window.
fn may_pass(client: &mut Client, user: &str) -> Result<bool, Error> {
    let window = IncrementOptions { initial: Some(1), ttl: Some(WINDOW) };
    let counter = client.increment(format!("rate:{user}"), 1, window)?;
    // A counter with an initial value is never missing.
    Ok(counter.is_some_and(|counter| counter.value <= REQUESTS_PER_WINDOW_MAX))
}
