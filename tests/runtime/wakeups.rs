//! No wake-up is lost: cores that park after every message still hear the next one, and the next command.
//!
//! Each round trip needs four wake-ups (a socket's, the other core's, the own one's, the client's). One that is lost is
//! found by a client that waits out its patience; the background timer would hide it, which wakes a core ten times a
//! second, so what is held is that rounds are faster than that on the whole: a count, not a time.

use std::time::{Duration, Instant};

use quoit_wire::{RequestBody, Status};

use crate::running::{Running, set};
use crate::wire_client::WireClient;

/// The period of the timer that would wake a core whose wake-up was lost.
const BACKGROUND_INTERVAL: Duration = Duration::from_millis(100);

/// Rounds of commands, one to each core.
const COMMANDS: usize = 5000;

fn ping_pong(cores: usize, clients: usize, rounds: usize) {
    let node = Running::new(cores);
    let slow: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..clients)
            .map(|number| {
                let node = &node;
                scope.spawn(move || {
                    let home = (number % cores) as u16;
                    let away = ((number + 1) % cores) as u16;
                    let key = node.key(away, number);
                    let mut client = WireClient::connect(node.address(), home);
                    assert_eq!(client.call(&set(&key, b"value")).status, Status::Ok);
                    let mut slow = 0;
                    for _ in 0..rounds {
                        let start = Instant::now();
                        assert_eq!(client.call(&RequestBody::Get { key: &key }).value, b"value");
                        slow += usize::from(start.elapsed() > BACKGROUND_INTERVAL / 2);
                    }
                    slow
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    });
    let all = clients * rounds;
    println!("{cores} cores, {clients} clients: {slow} of {all} rounds were slow, {} parks", node.sum("parks_total"));
    assert!(node.sum("parks_total") as usize > rounds / 4, "the cores did not park: this proves nothing");
    // The machine may hold a thread up now and then. Lost wake-ups come by the hundred.
    assert!(slow * 100 < all, "{slow} of {all} rounds took as long as a lost wake-up");
}

#[test]
fn one_client_between_two_cores() {
    ping_pong(2, 1, 20_000);
}

#[test]
fn many_clients_between_four_cores() {
    ping_pong(4, 8, 4000);
}

/// Another thread asks the sleeping cores for commands: each costs a wake-up of each core, whatever it was about to do.
#[test]
fn commands_between_sleeps() {
    let node = Running::new(3);
    let mut slow = 0;
    for _ in 0..COMMANDS {
        let start = Instant::now();
        assert_eq!(node.snapshots().len(), 3);
        slow += usize::from(start.elapsed() > BACKGROUND_INTERVAL / 2);
    }
    println!("{slow} of {COMMANDS} rounds were slow, {} parks", node.sum("parks_total"));
    assert!(node.sum("parks_total") as usize > COMMANDS, "the cores did not park: this proves nothing");
    assert!(slow * 100 < COMMANDS, "{slow} of {COMMANDS} rounds took as long as a lost wake-up");
}
