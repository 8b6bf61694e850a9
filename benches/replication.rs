//! What replication costs: production shards of two or three nodes in one thread, their messages carried by hand.
//!
//! `cargo bench --bench replication` prints all of it; `-- instructions`, `-- nanos` and `-- beats` a part. There is no I/O:
//! what is counted is the work of floors 0 to 4, the primaries' and the copies' together. Instructions are counted by
//! callgrind, in which each row runs once more as a process of its own: nothing else on the machine changes them.
//!
//! The nodes have one core each and share all vnodes evenly. In each turn a core takes what has come from the others,
//! executes its share of requests, and hands on what its copies say, as the runtime does. Keeping back the bytes of replies that
//! wait is the runtime's and not counted.
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

#[path = "store/clock.rs"]
mod clock;

use std::process::{Command, ExitCode};
use std::sync::Arc;

use quoit::cluster::copies::{Copies, OnEtcdLoss, Peer};
use quoit::cluster::{CopyState, Member, NodeRef, Ring, Roles};
use quoit::shard::{Output, ReplyLimits, Shard};
use quoit::store::{PolicyKind, StoreOptions};
use quoit::time::{Duration, Instant};
use quoit_wire::peer::PeerMessage;
use quoit_wire::topology::{Node, Placement, Seat, Topology, VNODE_BITS_DEFAULT, key_hash, vnode_of};
use quoit_wire::{
    RequestBody, RequestFlags, RequestHead, RequestOptions, SetCondition, SetParameters, WriteMode, request_head,
};

const SEED: u64 = 7;
const TERM: u32 = 7;
const KEYS_PER_NODE: u64 = 10_000;
const VALUE: [u8; 64] = [7; 64];
const VALUE_BYTES_MAX: usize = 1 << 20;
const MEMORY_BYTES: usize = 64 << 20;
const BACKLOG_BYTES_MAX: usize = 16 << 20;
/// Requests whose memory is fetched together, as in the runtime.
const WINDOW: usize = 32;
const REQUESTS: usize = 100_000;
/// Under callgrind everything takes fifty times as long.
const COUNTED_REQUESTS: usize = 20_000;
/// Requests of each case when nothing is measured.
const TESTED_REQUESTS: usize = 500;
const ROUND_MS: usize = 100;
const ROUNDS: usize = 20;

/// One row: how many copies, what writes wait for, how many requests a turn, how many of a hundred are sets.
#[derive(Clone, Copy)]
struct Case {
    replicas: usize,
    mode: WriteMode,
    batch: usize,
    sets_percent: usize,
}

/// A request that is ready to be executed.
struct Ready {
    head: RequestHead,
    frame: Vec<u8>,
    hash: u64,
}

struct NodeUnderLoad {
    shard: Shard,
    sets: Vec<Ready>,
    gets: Vec<Ready>,
    /// What has come from other nodes and is not yet read.
    inbox: Vec<(Peer, Vec<u8>)>,
    output: Output,
}

struct World {
    now: Instant,
    nodes: Vec<NodeUnderLoad>,
    /// State of the sequence that requests are drawn by.
    random: u64,
}

fn main() -> ExitCode {
    // `cargo bench` passes `--bench` along, `cargo test` does not: then it is enough that everything runs.
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.first().map(String::as_str) {
        None if !is_bench => cases().into_iter().for_each(|case| counted(&mut World::new(case), case, TESTED_REQUESTS)),
        None => {
            instructions();
            nanos();
            beats();
        }
        Some("instructions") => instructions(),
        Some("nanos") => nanos(),
        Some("beats") => beats(),
        Some("row") => {
            let row = arguments.get(1).and_then(|row| cases().into_iter().nth(row.parse().ok()?));
            let Some(case) = row else { return ExitCode::FAILURE };
            counted(&mut World::new(case), case, COUNTED_REQUESTS);
        }
        Some("quiet") => counted_rounds(&mut World::new(cases()[1]), ROUNDS),
        Some(_) => {
            println!("parts: instructions, nanos, beats");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for sets_percent in [100, 10, 0] {
        for batch in [1, 16, 256] {
            let mut add = |replicas, mode| cases.push(Case { replicas, mode, batch, sets_percent });
            add(0, WriteMode::Async);
            add(1, WriteMode::Async);
            if sets_percent > 0 {
                add(1, WriteMode::One);
                add(2, WriteMode::Async);
                add(2, WriteMode::One);
                add(2, WriteMode::All);
            }
        }
    }
    cases
}

fn name(case: Case) -> String {
    let Case { replicas, mode, batch, sets_percent } = case;
    format!("{sets_percent:>3} % sets, {batch:>3} a turn, replicas {replicas} {mode:?}")
}

/// Instructions of one request, all nodes together.
fn instructions() {
    let mut alone = 0.0;
    for (row, case) in cases().into_iter().enumerate() {
        let Some(counted) = collected(&["row", &row.to_string()]) else { return };
        let each = counted as f64 / COUNTED_REQUESTS as f64;
        alone = if case.replicas == 0 { each } else { alone };
        println!("{}: {each:>6.0} instructions a request, {:.2} of none", name(case), alone / each);
    }
}

/// Instructions that callgrind counts in the functions of this file that say so; none where it is not installed.
fn collected(arguments: &[&str]) -> Option<u64> {
    let program = std::env::current_exe().ok()?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=*counted*", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args(arguments)
        .output();
    let Ok(output) = output else {
        println!("instructions are counted by valgrind, which is not installed");
        return None;
    };
    let text = String::from_utf8_lossy(&output.stderr);
    let figure = text.lines().find_map(|line| line.split_once("Collected :"))?.1;
    figure.trim().parse().ok()
}

/// Processor time of one request: the least of a few tries, because others only make it longer.
fn nanos() {
    let mut alone = 0.0;
    for case in cases() {
        let mut world = World::new(case);
        world.requests(case, REQUESTS);
        let tries = (0..5).map(|_| {
            let start = clock::busy_secs();
            world.requests(case, REQUESTS);
            (clock::busy_secs() - start) * 1e9 / REQUESTS as f64
        });
        let each = tries.fold(f64::MAX, f64::min);
        alone = if case.replicas == 0 { each } else { alone };
        println!("{}: {each:>6.0} ns a request, {:.2} of none", name(case), alone / each);
    }
}

/// Two nodes without requests: what keeping up with each other costs, and the longest that it holds up a request.
fn beats() {
    let mut world = World::new(cases()[1]);
    let vnodes = 1 << VNODE_BITS_DEFAULT;
    println!("two nodes of one core, {vnodes} vnodes, no requests; messages at once:");
    if let Some(counted) = collected(&["quiet"]) {
        println!("instructions of {ROUND_MS} ms, both nodes: {}", counted / ROUNDS as u64);
    }
    // What happens happens each round anew: the least of several rounds is what the processor needs for it.
    let mut least = vec![(f64::MAX, f64::MAX); ROUND_MS];
    for _ in 0..ROUNDS {
        for slot in &mut least {
            let (mut turn, mut messages) = (0f64, 0f64);
            world.tick();
            for node in 0..world.nodes.len() {
                let start = clock::now();
                world.receive(node);
                let heard = clock::now();
                world.nodes[node].shard.turn_cluster(world.now);
                turn = turn.max(heard.elapsed().as_secs_f64());
                messages = messages.max((heard - start).as_secs_f64());
                world.send(node);
            }
            *slot = (slot.0.min(turn), slot.1.min(messages));
        }
    }
    let longest = |part: fn(&(f64, f64)) -> f64| least.iter().map(part).fold(0.0, f64::max) * 1e6;
    let sum = |part: fn(&(f64, f64)) -> f64| least.iter().map(part).sum::<f64>() * 1e6;
    println!("turn of the copies: longest {:.0} µs, of {ROUND_MS} ms {:.0} µs", longest(|s| s.0), sum(|s| s.0));
    println!("messages of a turn: longest {:.0} µs, of {ROUND_MS} ms {:.0} µs", longest(|s| s.1), sum(|s| s.1));
}

/// As [`World::requests`], and counted.
#[inline(never)]
fn counted(world: &mut World, case: Case, requests: usize) {
    world.requests(case, requests);
}

/// Rounds of heartbeats without requests, counted.
#[inline(never)]
fn counted_rounds(world: &mut World, rounds: usize) {
    (0..rounds * ROUND_MS).for_each(|_| world.pass_ms());
}

fn peer(node: usize) -> Peer {
    Peer { node: NodeRef { id: node as u64 + 1, incarnation: 1 }, core: 0 }
}

fn seat(node: usize) -> Seat {
    Seat { node: node as u16, core: 0 }
}

/// The one of `nodes` that leads `vnode`.
fn leader(vnode: usize, nodes: usize) -> usize {
    vnode % nodes
}

fn ring(nodes: usize, replicas: usize, write_mode: WriteMode) -> Ring {
    let member = |node: usize| Member {
        node: peer(node).node,
        name: String::new(),
        address: String::new(),
        zone: String::new(),
        cores: 1,
        weight: 1,
        draining: false,
    };
    let roles = |vnode: usize| {
        let mut roles = Roles::new(TERM, seat(leader(vnode, nodes)));
        for replica in 1..=replicas {
            assert!(roles.put(seat(leader(vnode + replica, nodes)), CopyState::InSync));
        }
        roles
    };
    Ring {
        epoch: 1,
        cluster: "bench".to_owned(),
        cluster_id: 1,
        seed: SEED,
        vnode_bits: VNODE_BITS_DEFAULT,
        replicas: replicas as u8,
        write_mode,
        slots: (0..nodes).map(|node| Some(member(node))).collect(),
        vnodes: (0..1 << VNODE_BITS_DEFAULT).map(roles).collect(),
    }
}

fn shard(node: usize) -> Shard {
    let id = peer(node).node;
    let own = Node {
        id: id.id,
        incarnation: id.incarnation,
        name: String::new(),
        address: String::new(),
        zone: String::new(),
        cores: 1,
        weight: 1,
    };
    let nowhere = Placement { primary: Seat::NOWHERE, replicas: [Seat::NOWHERE; 3], term: 0 };
    let nobody = Topology {
        epoch: 0,
        vnode_bits: VNODE_BITS_DEFAULT,
        seed: SEED,
        cluster: "bench".to_owned(),
        nodes: vec![own],
        vnodes: vec![nowhere; 1 << VNODE_BITS_DEFAULT],
    };
    let options = StoreOptions {
        memory_bytes: MEMORY_BYTES,
        value_bytes_max: VALUE_BYTES_MAX,
        policy: PolicyKind::S3Fifo,
        vnode_bits: VNODE_BITS_DEFAULT,
        hash_seed: SEED,
    };
    let mut shard = Shard::new(0, 0, Arc::new(nobody), options).expect("options that work");
    shard.join_cluster(Copies::new(peer(node), VNODE_BITS_DEFAULT, BACKLOG_BYTES_MAX, OnEtcdLoss::Fence));
    shard
}

fn ready(body: &RequestBody<'_>, mode: WriteMode, hash: u64) -> Ready {
    let flags = RequestFlags::default();
    let flags = if body.operation().is_write() { flags.with_write_mode(mode) } else { flags };
    let mut frame = Vec::new();
    body.encode(1, RequestOptions { flags, ..RequestOptions::default() }, &mut frame);
    let head = request_head(&frame, VALUE_BYTES_MAX).expect("a good frame").expect("a whole head");
    Ready { head, frame, hash }
}

impl World {
    /// Nodes whose copies are all in sync, with every key set.
    fn new(case: Case) -> Self {
        let nodes = (case.replicas + 1).max(2);
        let node = |number: usize| {
            let (mut sets, mut gets) = (Vec::new(), Vec::new());
            let keys = (0u64..).map(|number| *number.to_le_bytes().repeat(2).first_chunk::<16>().expect("16 bytes"));
            let own = keys
                .map(|key| (key, key_hash(SEED, &key)))
                .filter(|(_, hash)| leader(vnode_of(*hash, VNODE_BITS_DEFAULT), nodes) == number);
            for (key, hash) in own.take(KEYS_PER_NODE as usize) {
                let (parameters, condition) = (SetParameters::default(), SetCondition::Always);
                let set = RequestBody::Set { key: &key, parameters, condition, value: &VALUE };
                sets.push(ready(&set, case.mode, hash));
                gets.push(ready(&RequestBody::Get { key: &key }, case.mode, hash));
            }
            NodeUnderLoad { shard: shard(number), sets, gets, inbox: Vec::new(), output: Output::default() }
        };
        let nodes: Vec<NodeUnderLoad> = (0..nodes).map(node).collect();
        let ring = Arc::new(ring(nodes.len(), case.replicas, case.mode));
        let mut world = Self { now: Instant::from_millis(10_000), nodes, random: SEED };
        for node in &mut world.nodes {
            node.shard.handle_ring(world.now, &ring);
        }
        (0..3 * ROUND_MS).for_each(|_| world.pass_ms());
        for key in 0..KEYS_PER_NODE as usize {
            (0..world.nodes.len()).for_each(|node| world.nodes[node].execute(world.now, &[(key, true)]));
            if key % WINDOW == 0 {
                world.pass_ms();
            }
        }
        (0..3 * ROUND_MS).for_each(|_| world.pass_ms());
        world
    }

    /// So many requests, spread evenly over nodes and keys, in turns. No time passes.
    fn requests(&mut self, case: Case, requests: usize) {
        let mut chosen = Vec::with_capacity(case.batch);
        for turn in 0..requests.div_ceil(case.batch) {
            let node = turn % self.nodes.len();
            chosen.clear();
            for _ in 0..case.batch {
                // Knuth's multiplier; the low bits are the weak ones.
                self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let (key, percent) = ((self.random >> 33) % KEYS_PER_NODE, (self.random >> 16) % 100);
                chosen.push((key as usize, (percent as usize) < case.sets_percent));
            }
            self.receive(node);
            chosen.chunks(WINDOW).for_each(|window| self.nodes[node].execute(self.now, window));
            self.turn(node);
        }
        // What is on its way arrives.
        for node in (0..self.nodes.len()).cycle().take(3 * self.nodes.len()) {
            self.receive(node);
            self.turn(node);
        }
    }

    fn pass_ms(&mut self) {
        self.tick();
        for node in 0..self.nodes.len() {
            self.receive(node);
            self.turn(node);
        }
    }

    fn tick(&mut self) {
        self.now = self.now + Duration::from_millis(1);
        let until = self.now + Duration::from_secs(2);
        for node in &mut self.nodes {
            node.shard.copies().expect("a cluster").0.handle_lease(until);
        }
    }

    fn receive(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        let (copies, mut state) = node.shard.copies().expect("a cluster");
        for (from, bytes) in node.inbox.drain(..) {
            let mut rest = &bytes[..];
            while let Some((message, length)) = PeerMessage::decode(rest).expect("a good message") {
                copies.handle_message(self.now, &mut state, from, &message).expect("a good message");
                rest = &rest[length..];
            }
        }
    }

    fn turn(&mut self, node: usize) {
        self.nodes[node].shard.turn_cluster(self.now);
        self.send(node);
    }

    fn send(&mut self, node: usize) {
        let from = peer(node);
        while let Some((to, bytes)) = self.nodes[node].shard.copies().expect("a cluster").0.poll_send(|_| true) {
            self.nodes[to.node.id as usize - 1].inbox.push((from, bytes));
        }
        let (copies, _) = self.nodes[node].shard.copies().expect("a cluster");
        while copies.poll_release().is_some() {}
    }
}

impl NodeUnderLoad {
    /// Executes requests, each of a key, and a set or a get.
    fn execute(&mut self, now: Instant, window: &[(usize, bool)]) {
        let limits = ReplyLimits { pin_bytes_min: usize::MAX, copy_bytes_max: usize::MAX, retry_after_ms: 9 };
        let Self { shard, sets, gets, output, .. } = self;
        let chosen = window.iter().map(|(key, is_set)| if *is_set { &sets[*key] } else { &gets[*key] });
        shard.prefetch(chosen.clone().map(|request| request.hash));
        output.bytes.clear();
        for Ready { head, frame, hash } in chosen {
            let _ = shard.execute_frame(now, *head, frame, *hash, limits, output);
        }
    }
}
