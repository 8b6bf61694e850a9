//! Millions of turns that find nothing, and tens of thousands of sleeps, leave memory as it was.

use std::sync::atomic::{AtomicBool, Ordering};

use quoit::runtime::Idle;
use quoit_wire::{RequestBody, Status};

use crate::running::{Over, Running, set};
use crate::wire_client::WireClient;
use crate::{alone, resident_bytes};

/// What may come and go besides: pages of stacks and allocator that were not touched before.
const SLACK_BYTES: usize = 2 << 20;

#[test]
fn ten_million_empty_turns_take_no_memory() {
    let _alone = alone();
    let node = Running::with(2, |options| options.idle = Idle::Spin);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Others want the CPUs too, so that a core is held up at any place of its turn.
        for _ in 0..3 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let _over = Over(&is_over);
        take_ten_million(&node);
    });
}

fn take_ten_million(node: &Running) {
    node.until("the cores have settled", |node| node.sum("turns_total") > 200_000);
    let before = resident_bytes();
    node.until("ten million turns", |node| {
        // Each look is a command and an answer: few of them, so that the turns are empty ones.
        std::thread::park_timeout(std::time::Duration::from_millis(50));
        node.sum("turns_total") > 10_000_000
    });
    let grown = resident_bytes().saturating_sub(before);
    println!("{grown} bytes grown");
    assert!(grown < SLACK_BYTES, "{grown} bytes grown in ten million turns");
}

#[test]
fn tens_of_thousands_of_sleeps_take_no_memory() {
    let _alone = alone();
    let node = Running::new(2);
    let key = node.key(1, 0);
    let mut client = WireClient::connect(node.address(), 0);
    assert_eq!(client.call(&set(&key, b"value")).status, Status::Ok);
    let mut rounds = |count| {
        for _ in 0..count {
            assert_eq!(client.call(&RequestBody::Get { key: &key }).value, b"value");
        }
    };
    rounds(2000);
    let (before, parks) = (resident_bytes(), node.sum("parks_total"));
    rounds(20_000);
    let grown = resident_bytes().saturating_sub(before);
    let parks = node.sum("parks_total") - parks;
    println!("{grown} bytes grown in {parks} sleeps");
    assert!(parks > 5000, "{parks} sleeps prove little");
    assert!(grown < SLACK_BYTES, "{grown} bytes grown in {parks} sleeps");
}
