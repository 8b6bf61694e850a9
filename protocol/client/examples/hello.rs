//! The first five lines: connect, set, get.
//!
//! Start a node with `quoit serve`, then `cargo run -p quoit-client --example hello [host:port]`.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::Duration;

use quoit_client::{Error, Options, SetOptions, blocking::Client};

fn main() -> Result<(), Error> {
    let server = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7400".to_owned());
    let mut client = Client::connect([server], Options::default())?;

    let half_a_minute = SetOptions { ttl: Some(Duration::from_secs(30)), ..SetOptions::default() };
    client.set("greeting", "hello", half_a_minute)?;
    match client.get("greeting")? {
        Some(hit) => println!("{} (version {})", String::from_utf8_lossy(&hit.value), hit.version),
        None => println!("gone already: thirty seconds have passed, or memory was needed"),
    }
    Ok(())
}
