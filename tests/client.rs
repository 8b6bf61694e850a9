//! The native client against a real node in this process: every operation, over every core.

mod watchdog;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use quoit::runtime::{Command, CoreHandle, Idle, Node, RuntimeOptions};
use quoit::store::PolicyKind;
use quoit_client::blocking::Client;
use quoit_client::{
    Condition, Error, IncrementOptions, Item, Options, Outcome, Request, SetOptions, SetOutcome, Status, Version,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const CORES: usize = 3;

/// A node of [`CORES`] cores on this machine's first CPU; it ends with the test.
struct Running(Option<Node>);

impl Running {
    fn new() -> Self {
        Self(Some(start_node("127.0.0.1:0")))
    }

    fn node(&self) -> &Node {
        self.0.as_ref().expect("it runs until the test ends")
    }

    /// Requests that a core has handed to another, as `/metrics` tells them.
    fn forwarded(&self) -> u64 {
        let of_core = |handle: &CoreHandle| {
            let (answer, answers) = flume::bounded(1);
            handle.commands.send(Command::Snapshot(answer)).expect("the core runs");
            let snapshot = watchdog::within("a core answers", || answers.recv()).expect("the core answers");
            let sample = snapshot.samples.iter().find(|sample| sample.name == "requests_forwarded_total");
            sample.expect("every core tells it").value
        };
        self.node().handles().iter().map(of_core).sum()
    }

    fn client(&self) -> Client {
        Client::connect([self.node().address().to_string()], patient()).expect("the node answers")
    }

    /// Ends the node and starts another at its address, with another id and another seed of the key hash.
    fn replace(&mut self) {
        let address = self.node().address().to_string();
        self.end();
        self.0 = Some(start_node(&address));
    }

    fn end(&mut self) {
        if let Some(node) = self.0.take() {
            node.begin_shutdown();
            let ended = watchdog::within("the node ends", || node.join());
            assert!(ended.is_ok() || thread::panicking(), "the cores end well: {ended:?}");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// The machine of the test may be busy with others: what is tested is not how fast it is.
fn patient() -> Options {
    Options { deadline: Duration::from_secs(30), stall_limit: Duration::from_secs(10), ..Options::default() }
}

fn nobodys_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").to_string()
}

fn start_node(listen: &str) -> Node {
    let options = RuntimeOptions {
        listen: listen.parse().expect("an address"),
        advertise: None,
        cpus: vec![0; CORES],
        memory_bytes: CORES * (64 << 20),
        prefault: false,
        policy: PolicyKind::None,
        idle: Idle::Park,
        value_bytes_max: None,
        connections_max: 4096,
        vnode_bits: 8,
        node_id: None,
        cluster: None,
        state_dir: None,
        time_limits: Default::default(),
    };
    Node::start(&options).expect("the node starts")
}

fn stored(outcome: SetOutcome) -> Version {
    match outcome {
        SetOutcome::Stored(version) => version,
        SetOutcome::ConditionFailed(_) => panic!("the set was to be carried out"),
    }
}

#[test]
fn every_operation_means_what_it_says() {
    let running = Running::new();
    let mut client = running.client();
    assert_eq!(client.get("k").unwrap(), None);
    assert_eq!(client.delete("k").unwrap(), None);
    assert_eq!(client.touch("k", None).unwrap(), None);
    assert_eq!(client.append("k", "x").unwrap(), None);

    let flagged = SetOptions { client_flags: 42, ..SetOptions::default() };
    let version = stored(client.set("k", "middle", flagged).unwrap());
    let hit = client.get("k").unwrap().unwrap();
    assert_eq!((hit.value.as_slice(), hit.client_flags, hit.version), (&b"middle"[..], 42, version));

    let appended = client.append("k", ">").unwrap().unwrap();
    let prepended = client.prepend("k", "<").unwrap().unwrap();
    assert!(version < appended && appended < prepended);
    assert_eq!(client.get("k").unwrap().unwrap().value, b"<middle>");

    let hour = Some(Duration::from_secs(3600));
    assert!(client.touch("k", hour).unwrap().unwrap() > prepended);
    assert_eq!(client.get_and_touch("k", None).unwrap().unwrap().value, b"<middle>");
    assert!(client.delete("k").unwrap().is_some());
    assert_eq!(client.get("k").unwrap(), None);
    client.ping().unwrap();
}

/// Every operation that is about keys, over keys of every core and values of every kind of frame.
fn requests_about_keys() -> Vec<Request> {
    let keys: Vec<String> = (0..200).map(|number| format!("key-{number}")).collect();
    let large = vec![b'v'; 300_000];
    let item = |key| Item { key, value: b"v", ttl_ms: 0, client_flags: 0 };
    let from_zero = IncrementOptions { initial: Some(0), ttl: None };
    let of_key = |key: &String| {
        let value = if key.ends_with('7') { large.as_slice() } else { b"value" };
        [
            Request::set(key, value, SetOptions::default()),
            Request::append(key, "more"),
            Request::prepend(key, "before"),
            Request::get(key),
            Request::get(key).from_any_copy(),
            Request::touch(key, Some(Duration::from_secs(3600))),
            Request::get_and_touch(key, None),
            Request::increment(format!("{key}-counter"), 1, from_zero),
            Request::delete(key),
        ]
    };
    let of_many = [Request::multi_set(keys.iter().map(|key| item(key.as_bytes()))), Request::multi_get(&keys)];
    keys.iter().flat_map(of_key).chain(of_many).collect()
}

fn assert_all_answered(outcomes: Vec<Outcome>) {
    for outcome in outcomes {
        assert!(
            outcome.into_many().is_ok_and(|answers| answers.iter().all(Result::is_ok)),
            "every request is answered"
        );
    }
}

#[test]
fn no_request_of_the_client_is_handed_on_from_core_to_core() {
    let running = Running::new();
    let mut client = running.client();
    assert_all_answered(client.run(requests_about_keys()));
    assert_eq!(running.forwarded(), 0, "every request went to the core that owns its key");
    // What concerns every core is handed on, and counted.
    client.flush().unwrap();
    assert!(running.forwarded() > 0, "the counter stands still: this proves nothing");
}

#[test]
fn a_set_keeps_its_condition() {
    let running = Running::new();
    let mut client = running.client();
    let on = |condition| SetOptions { condition, ..SetOptions::default() };
    assert_eq!(client.set("k", "1", on(Condition::IfPresent)).unwrap(), SetOutcome::ConditionFailed(None));
    let first = stored(client.set("k", "2", on(Condition::IfAbsent)).unwrap());
    assert_eq!(client.set("k", "3", on(Condition::IfAbsent)).unwrap(), SetOutcome::ConditionFailed(Some(first)));
    let second = stored(client.set("k", "4", on(Condition::IfVersion(first))).unwrap());
    assert_eq!(
        client.set("k", "5", on(Condition::IfVersion(first))).unwrap(),
        SetOutcome::ConditionFailed(Some(second))
    );
    assert_eq!(client.get("k").unwrap().unwrap().value, b"4");
}

#[test]
fn counters_count_and_say_what_they_are_not() {
    let running = Running::new();
    let mut client = running.client();
    assert_eq!(client.increment("n", 1, IncrementOptions::default()).unwrap(), None);
    let from_ten = IncrementOptions { initial: Some(10), ttl: None };
    assert_eq!(client.increment("n", 5, from_ten).unwrap().unwrap().value, 10);
    assert_eq!(client.increment("n", 5, from_ten).unwrap().unwrap().value, 15);
    assert_eq!(client.decrement("n", 20, from_ten).unwrap().unwrap().value, -5);
    assert_eq!(client.get("n").unwrap().unwrap().value, b"-5");
    client.set("text", "five", SetOptions::default()).unwrap();
    let error = client.increment("text", 1, from_ten).unwrap_err();
    assert!(matches!(error, Error::Server { status: Status::NotANumber, .. }), "{error}");
}

#[test]
fn multi_operations_span_the_cores_and_keep_the_order_asked() {
    let running = Running::new();
    let mut client = running.client();
    let keys: Vec<String> = (0..5_000).map(|number| format!("key-{number}")).collect();
    let items = keys.iter().map(|key| Item { key: key.as_bytes(), value: key.as_bytes(), ttl_ms: 0, client_flags: 7 });
    let outcomes = client.multi_set(items).unwrap();
    assert_eq!(outcomes.len(), keys.len());
    outcomes.into_iter().map(Result::unwrap).for_each(|outcome| {
        stored(outcome);
    });

    let asked: Vec<String> = keys.iter().rev().flat_map(|key| [key.clone(), format!("no-{key}")]).collect();
    let hits = client.multi_get(&asked).unwrap();
    for (key, hit) in asked.iter().zip(hits) {
        let value = hit.unwrap().map(|hit| hit.value);
        assert_eq!(value.as_deref(), (!key.starts_with("no-")).then_some(key.as_bytes()), "{key}");
    }
    client.flush().unwrap();
    let hits: Result<Vec<_>, _> = client.multi_get(&keys).unwrap().into_iter().collect();
    assert!(hits.unwrap().iter().all(Option::is_none));
}

#[test]
fn values_too_large_for_one_reply_of_many_come_all_the_same() {
    let running = Running::new();
    let mut client = running.client();
    let values: Vec<Vec<u8>> = (0..12u8).map(|number| vec![number; 300 << 10]).collect();
    let keys: Vec<String> = (0..12).map(|number| format!("large-{number}")).collect();
    let items = keys.iter().zip(&values);
    let items = items.map(|(key, value)| Item { key: key.as_bytes(), value, ttl_ms: 0, client_flags: 0 });
    client.multi_set(items).unwrap().into_iter().map(Result::unwrap).for_each(|outcome| {
        stored(outcome);
    });
    let hits = client.multi_get(&keys).unwrap();
    for (hit, value) in hits.into_iter().zip(&values) {
        assert!(hit.unwrap().unwrap().value == *value);
    }
}

#[test]
fn a_pipeline_is_answered_in_the_order_asked_and_writes_of_a_key_in_the_order_given() {
    let running = Running::new();
    let mut client = running.client();
    let requests = (0..20_000).flat_map(|number| {
        let key = format!("key-{}", number % 100);
        [Request::set(&key, format!("{number}"), SetOptions::default()), Request::get(&key)]
    });
    let outcomes = client.run(requests);
    assert_eq!(outcomes.len(), 40_000);
    for (number, pair) in outcomes.chunks_exact(2).enumerate() {
        let [Outcome::One(set), Outcome::One(get)] = pair else { panic!("one answer each") };
        stored(set.clone().unwrap().into_set_outcome().unwrap());
        let hit = get.clone().unwrap().into_hit().unwrap().unwrap();
        assert_eq!(hit.value, number.to_string().as_bytes());
    }
}

#[test]
fn a_value_the_node_does_not_take_is_refused_and_the_connection_goes_on() {
    let running = Running::new();
    let mut client = running.client();
    client.set("k", "old", SetOptions::default()).unwrap();
    let error = client.set("k", vec![0; 16 << 20], SetOptions::default()).unwrap_err();
    let refused = matches!(error, Error::Server { status: Status::TooLarge, .. } | Error::TooLarge { .. });
    assert!(refused && !error.maybe_applied(), "{error}");
    assert_eq!(client.get("k").unwrap().unwrap().value, b"old");
}

#[test]
fn stats_and_topology_tell_of_every_core() {
    let running = Running::new();
    let mut client = running.client();
    let topology = client.topology().unwrap();
    assert_eq!(usize::from(topology.nodes[0].cores), CORES);
    let stats = client.stats().unwrap();
    assert_eq!(stats.len(), 1);
    assert_eq!(stats[0].cores.len(), CORES);
}

#[test]
fn a_node_that_was_replaced_at_the_same_address_is_found_again() {
    let mut running = Running::new();
    let mut client = running.client();
    client.set("k", "v", SetOptions::default()).unwrap();
    running.replace();
    for number in 0..100 {
        let key = format!("key-{number}");
        stored(client.set(&key, "v", SetOptions::default()).unwrap());
        assert!(client.get(&key).unwrap().is_some());
    }
    assert_eq!(client.get("k").unwrap(), None);
}

#[test]
fn nobody_at_the_address_is_said_at_once() {
    let address = nobodys_address();
    let error = Client::connect([address.as_str()], Options::default()).unwrap_err();
    assert!(matches!(&error, Error::Connect { address: at, .. } if *at == address), "{error}");
    assert!(error.to_string().contains("quoit serve"), "{error}");
}

#[test]
fn counters_are_exact_over_connections_that_break_all_the_time() {
    const SEED: u64 = 7;
    let running = Running::new();
    let proxy = CuttingProxy::new(running.node().address(), SEED);
    // Few at a time: each cut is paid for from the retry budget by all that were unanswered.
    let options = Options { requests_max: 8, ..patient() };
    let mut client = Client::connect([proxy.address.to_string()], options).expect("the node answers");
    let from_zero = IncrementOptions { initial: Some(0), ttl: None };
    for number in 0..500 {
        let counter = client.increment("one by one", 1, from_zero).unwrap().unwrap();
        assert_eq!(counter.value, number, "seed {SEED}");
    }
    let pipelined = client.run((0..500).map(|_| Request::increment("pipelined", 1, from_zero)));
    let mut counts: Vec<i64> = Vec::new();
    for outcome in pipelined {
        counts.push(outcome.into_one().unwrap().into_counter().unwrap().unwrap().value);
    }
    assert!(counts.iter().copied().eq(0..500), "in the order of sending; seed {SEED}");
    assert!(proxy.connections() > 10, "connections were cut");
}

/// Stands between a client and a node and cuts each connection after a random number of bytes, in the middle of whatever
/// is on its way. Ends with the test.
struct CuttingProxy {
    address: SocketAddr,
    shared: Arc<ProxyState>,
    acceptor: Option<JoinHandle<()>>,
}

struct ProxyState {
    connections: AtomicUsize,
    is_stopping: AtomicBool,
}

impl CuttingProxy {
    fn new(node: SocketAddr, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(ProxyState { connections: AtomicUsize::new(0), is_stopping: AtomicBool::new(false) });
        let state = Arc::clone(&shared);
        let acceptor = thread::spawn(move || {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut pumps = Vec::new();
            for client in listener.incoming() {
                if state.is_stopping.load(Ordering::Acquire) {
                    break;
                }
                state.connections.fetch_add(1, Ordering::Relaxed);
                let client = client.expect("a connection");
                let server = TcpStream::connect(node).expect("the node listens");
                let (client_again, server_again) =
                    (client.try_clone().expect("files"), server.try_clone().expect("files"));
                // A hello and the topology of 256 vnodes take 5.5 KiB of answers.
                let (asked_max, answered_max) = (rng.random_range(200..4_000), rng.random_range(6_000..9_000));
                pumps.push(thread::spawn(move || pump(client, server, asked_max)));
                pumps.push(thread::spawn(move || pump(server_again, client_again, answered_max)));
            }
            pumps.into_iter().for_each(|pump| pump.join().expect("the pump ends well"));
        });
        Self { address, shared, acceptor: Some(acceptor) }
    }

    fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

impl Drop for CuttingProxy {
    fn drop(&mut self) {
        self.shared.is_stopping.store(true, Ordering::Release);
        // Wakes the acceptor, which looks at the flag then; its pumps end with the connections, which end with the client.
        drop(TcpStream::connect(self.address));
        drop(self.acceptor.take());
    }
}

/// Carries bytes one way until `bytes_max` have passed, then cuts both ways.
fn pump(mut source: TcpStream, mut target: TcpStream, bytes_max: usize) {
    let mut left = bytes_max;
    let mut buffer = [0; 512];
    while left > 0 {
        let wanted = left.min(buffer.len());
        let Ok(bytes @ 1..) = source.read(&mut buffer[..wanted]) else { break };
        if target.write_all(&buffer[..bytes]).is_err() {
            break;
        }
        left -= bytes;
    }
    // Either may be closed already.
    let _ = source.shutdown(Shutdown::Both);
    let _ = target.shutdown(Shutdown::Both);
}

mod with_tokio {
    use quoit_client::tokio::Client;

    use super::*;

    async fn connect(node: &Node) -> Client {
        Client::connect([node.address().to_string()], patient()).await.expect("the node answers")
    }

    #[tokio::test]
    async fn tasks_share_a_client_and_count_together() {
        let running = Running::new();
        let client = connect(running.node()).await;
        let tasks: Vec<_> = (0..64).map(|task| tokio::spawn(count(client.clone(), task))).collect();
        for task in tasks {
            task.await.expect("the task ends well");
        }
        for counter in 0..8 {
            let hit = client.get(format!("counter-{counter}")).await.unwrap().unwrap();
            assert_eq!(hit.value, b"799", "eight tasks add to each counter, a hundred times each");
        }
    }

    async fn count(client: Client, task: u32) {
        let from_zero = IncrementOptions { initial: Some(0), ttl: None };
        for _ in 0..100 {
            let counter = client.increment(format!("counter-{}", task % 8), 1, from_zero).await;
            assert!(matches!(counter, Ok(Some(_))), "{counter:?}");
        }
    }

    #[tokio::test]
    async fn every_operation_means_what_it_says() {
        let running = Running::new();
        let client = connect(running.node()).await;
        client.ping().await.unwrap();
        let flagged = SetOptions { client_flags: 42, ..SetOptions::default() };
        stored(client.set("k", "middle", flagged).await.unwrap());
        client.append("k", ">").await.unwrap().unwrap();
        client.prepend("k", "<").await.unwrap().unwrap();
        client.touch("k", Some(Duration::from_secs(3600))).await.unwrap().unwrap();
        let hit = client.get_and_touch("k", None).await.unwrap().unwrap();
        assert_eq!((hit.value.as_slice(), hit.client_flags), (&b"<middle>"[..], 42));
        client.delete("k").await.unwrap().unwrap();
        assert_eq!(client.get("k").await.unwrap(), None);
        assert_eq!(client.decrement("n", 1, IncrementOptions::default()).await.unwrap(), None);

        let keys: Vec<String> = (0..3_000).map(|number| format!("key-{number}")).collect();
        let items = keys.iter().map(|key| Item { key: key.as_bytes(), value: b"v", ttl_ms: 0, client_flags: 0 });
        let outcomes = client.multi_set(items).await.unwrap();
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(SetOutcome::Stored(_)))));
        let hits = client.multi_get(&keys).await.unwrap();
        assert!(hits.iter().all(|hit| matches!(hit, Ok(Some(_)))) && hits.len() == keys.len());
        assert_eq!(client.stats().await.unwrap()[0].cores.len(), CORES);
        assert_eq!(usize::from(client.topology().await.unwrap().nodes[0].cores), CORES);
        client.flush().await.unwrap();
        assert_eq!(client.get("key-1").await.unwrap(), None);
    }

    #[tokio::test]
    async fn no_request_of_the_client_is_handed_on_from_core_to_core() {
        let running = Running::new();
        let client = connect(running.node()).await;
        assert_all_answered(client.run(requests_about_keys()).await);
        assert_eq!(running.forwarded(), 0, "every request went to the core that owns its key");
        client.flush().await.unwrap();
        assert!(running.forwarded() > 0, "the counter stands still: this proves nothing");
    }

    #[tokio::test]
    async fn a_pipeline_larger_than_the_client_waits_for_room() {
        let running = Running::new();
        let options = Options { requests_max: 100, ..patient() };
        let address = running.node().address().to_string();
        let client = Client::connect([address], options).await.expect("the node answers");
        let requests = (0..5_000).flat_map(|number| {
            let key = format!("key-{}", number % 100);
            [Request::set(&key, format!("{number}"), SetOptions::default()), Request::get(&key)]
        });
        let outcomes = client.run(requests).await;
        for (number, pair) in outcomes.chunks_exact(2).enumerate() {
            let hit = pair[1].clone().into_one().unwrap().into_hit().unwrap().unwrap();
            assert_eq!(hit.value, number.to_string().as_bytes());
        }
        assert_eq!(outcomes.len(), 10_000);
    }

    #[tokio::test]
    async fn a_value_the_node_does_not_take_is_refused_and_the_connection_goes_on() {
        let running = Running::new();
        let client = connect(running.node()).await;
        let error = client.set("k", vec![0; 16 << 20], SetOptions::default()).await.unwrap_err();
        assert!(!error.maybe_applied(), "{error}");
        client.ping().await.unwrap();
    }

    #[tokio::test]
    async fn a_node_that_was_replaced_at_the_same_address_is_found_again() {
        let mut running = Running::new();
        let client = connect(running.node()).await;
        client.set("k", "v", SetOptions::default()).await.unwrap();
        running.replace();
        for number in 0..100 {
            stored(client.set(format!("key-{number}"), "v", SetOptions::default()).await.unwrap());
        }
        assert_eq!(client.get("k").await.unwrap(), None);
    }

    #[tokio::test]
    async fn nobody_at_the_address_is_said_at_once() {
        let address = nobodys_address();
        let error = Client::connect([address.as_str()], Options::default()).await.unwrap_err();
        assert!(matches!(&error, Error::Connect { address: at, .. } if *at == address), "{error}");
    }
}
