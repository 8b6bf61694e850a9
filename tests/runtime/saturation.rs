//! A saturated core still serves its control commands: it looks for them before each turn, and turns are short.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use quoit::runtime::{Command, Idle};
use quoit_wire::RequestBody;

use crate::running::{Over, PATIENCE, Running, set};
use crate::wire_client::WireClient;

/// Requests that a busy core may answer in one turn on the average: one that goes on for 5 ms answers more, and one that the
/// machine holds up meanwhile does not.
const REQUESTS_PER_TURN_MAX: u64 = 20_000;

fn saturate(idle: Idle) {
    let node = Running::with(2, |options| options.idle = idle);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for number in 0..4u16 {
            let (node, is_over) = (&node, &is_over);
            scope.spawn(move || {
                let mut client = WireClient::connect(node.address(), number % 2);
                let mut frames = Vec::new();
                for key in 0..1000 {
                    let key = format!("key-{key}");
                    client.push(&set(key.as_bytes(), &[1; 64]), &mut frames);
                    client.push(&RequestBody::Get { key: key.as_bytes() }, &mut frames);
                }
                while !is_over.load(Ordering::Relaxed) {
                    client.pipeline(&frames, 2000, |_| {});
                }
            });
        }
        let _over = Over(&is_over);
        node.until("the load is on", |node| node.sum("turns_total") > 200);
        let answered = |node: &Running| -> u64 {
            node.snapshots().iter().flat_map(|snapshot| &snapshot.requests).map(|(_, _, count)| count).sum()
        };
        let turns = |node: &Running| node.sum("turns_total");
        let (before, turns_before) = (answered(&node), turns(&node));
        let mut times = Vec::new();
        for _ in 0..200 {
            for handle in node.node().handles() {
                let (answer, answers) = flume::bounded(1);
                let start = Instant::now();
                handle.commands.send(Command::Snapshot(answer)).expect("the core runs");
                answers.recv_timeout(PATIENCE).expect("the core answers");
                times.push(start.elapsed());
            }
        }
        let (requests, turns) = (answered(&node) - before, turns(&node) - turns_before);
        times.sort_unstable();
        let (median, most) = (times[times.len() / 2], times[times.len() - 1]);
        println!(
            "{idle:?}: 400 snapshots amid {requests} requests and {turns} turns: median {median:?}, at most {most:?}"
        );
        for snapshot in node.snapshots() {
            let turns = snapshot.histograms.iter().find(|histogram| histogram.name == "turn_duration_seconds");
            let turns = &turns.expect("turns are timed").histogram;
            let [median, high, most] = [0.5, 0.99, 1.0].map(|part| Duration::from_nanos(turns.value_at_quantile(part)));
            println!("core {}: turns of {median:?}, 99 % within {high:?}, at most {most:?}", snapshot.core);
        }
        assert!(requests > 400, "the node was not busy: this proves nothing");
        assert!(requests < turns * REQUESTS_PER_TURN_MAX, "{requests} requests in {turns} turns");
    });
}

#[test]
fn commands_are_served_while_a_parking_core_is_saturated() {
    saturate(Idle::Park);
}

#[test]
fn commands_are_served_while_a_spinning_core_is_saturated() {
    saturate(Idle::Spin);
}
