//! The session under a seeded network: bytes arrive late, in pieces, or not at all, and time is a number.
//!
//! Each run is one thread and one seed; a run that fails prints it. What must hold whatever happens:
//! every request ends once and in time; a write that is not idempotent is applied at most once, exactly once if it was
//! acknowledged, and not at all if the client says so; a read after an acknowledged write sees it.

mod model;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use model::{Changes, Cluster, Mood, Seal, ServerEnd, address_of, encode, in_turn, topology};
use quoit_client::session::{Action, LinkId, Session};
use quoit_client::{
    Answer, Error, Fault, IncrementOptions, Instant, Item, Options, Outcome, Request, SetOptions, Status,
};
use quoit_wire::Reply;
use quoit_wire::topology::Seat;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

/// How bad the network and the nodes are; per step or per request, in thousandths.
#[derive(Clone, Copy, Default)]
struct Weather {
    /// A connection is lost.
    loses: u32,
    /// A connection sends bytes that are none of the protocol's.
    babbles: u32,
    /// A request is answered `Overloaded` or `ShuttingDown`.
    refuses: u32,
    /// Vnodes change their owners.
    moves: u32,
    /// Replies leave in another order.
    reorders: u32,
    /// A reply is sent twice.
    doubles: u32,
    /// A node takes no connection, now and then.
    closed_doors: u32,
    /// A connection stands still for a while.
    stalls: u32,
}

const FAIR: Weather =
    Weather { loses: 0, babbles: 0, refuses: 0, moves: 0, reorders: 500, doubles: 0, closed_doors: 0, stalls: 0 };
const LOSSY: Weather = Weather { loses: 30, babbles: 5, closed_doors: 300, stalls: 3, ..FAIR };
const STORM: Weather =
    Weather { loses: 12, babbles: 3, refuses: 60, moves: 5, reorders: 500, doubles: 10, closed_doors: 150, stalls: 2 };

/// A socket between the session and a server.
struct Wire {
    end: ServerEnd,
    to_server: VecDeque<u8>,
    to_client: VecDeque<Vec<u8>>,
    stalled_until: Duration,
}

/// The session, the cluster, and everything between them.
struct World {
    rng: StdRng,
    now: Duration,
    session: Session<u64>,
    cluster: Cluster,
    wires: BTreeMap<LinkId, Wire>,
    weather: Weather,
    submitted: HashMap<u64, Duration>,
    next_tag: u64,
    ended: VecDeque<(u64, Outcome)>,
    hellos: u64,
    /// Nodes that are gone: they take no connection.
    dead: Vec<u64>,
    options: Options,
}

const NODES: [u64; 3] = [11, 22, 33];
const OPTIONS: Options = Options {
    deadline: Duration::from_secs(1),
    stall_limit: Duration::from_millis(500),
    connect_limit: Duration::from_millis(500),
    requests_max: 4096,
    bytes_max: 1 << 20,
};

impl World {
    fn new(seed: u64, weather: Weather) -> Self {
        Self::with(seed, weather, &NODES, OPTIONS)
    }

    /// A world whose client is told of some nodes only.
    fn with(seed: u64, weather: Weather, seeds: &[u64], options: Options) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let servers = seeds.iter().map(|node| address_of(*node)).collect();
        let session =
            Session::new(servers, options.clone(), rng.next_u64(), Instant::ORIGIN).expect("servers are named");
        let cluster = Cluster::new(topology(1, seed, &NODES, in_turn(NODES.len())));
        Self {
            rng,
            now: Duration::ZERO,
            session,
            cluster,
            wires: BTreeMap::new(),
            weather,
            submitted: HashMap::new(),
            next_tag: 0,
            ended: VecDeque::new(),
            hellos: 0,
            dead: Vec::new(),
            options,
        }
    }

    /// The node is gone, and its connections with it.
    fn kill(&mut self, node: u64) {
        self.dead.push(node);
        let now = self.instant();
        let lost: Vec<LinkId> =
            self.wires.iter().filter(|(_, wire)| wire.end.node == node).map(|(link, _)| *link).collect();
        for link in lost {
            self.wires.remove(&link);
            self.session.handle_lost(link, Fault::Closed, now);
        }
    }

    fn run_until(&mut self, time: Duration) {
        while self.now < time {
            self.step();
        }
    }

    fn submit(&mut self, request: Request) -> u64 {
        self.next_tag += 1;
        self.submitted.insert(self.next_tag, self.now);
        let now = self.instant();
        self.session.submit(request, self.next_tag, now);
        self.next_tag
    }

    /// One step: time passes a little, bytes move a little, and something may go wrong.
    fn step(&mut self) {
        let pause = Duration::from_micros(self.rng.random_range(0..2_000));
        self.now += pause;
        self.obey();
        self.move_vnodes();
        let links: Vec<LinkId> = self.wires.keys().copied().collect();
        for link in links {
            self.carry(link);
        }
        let now = self.instant();
        self.session.handle_timeout(now);
        let next = self.session.poll_timeout();
        assert!(next.is_none_or(|next| next > now), "a timeout that is due was handled");
        while let Some((tag, outcome)) = self.session.poll_completion() {
            let submitted = self.submitted.remove(&tag).expect("a request ends once");
            let longest_step = Duration::from_millis(2);
            assert!(self.now - submitted <= self.options.deadline + longest_step, "a request ends in time");
            self.ended.push_back((tag, outcome));
        }
    }

    fn run_until_all_ended(&mut self) {
        let late = self.now + 2 * self.options.deadline;
        while !self.submitted.is_empty() {
            assert!(self.now < late, "requests that never end: {:?}", self.submitted);
            self.step();
        }
    }

    fn call(&mut self, request: Request) -> Result<Answer, Error> {
        let tag = self.submit(request);
        let late = self.now + 2 * self.options.deadline;
        loop {
            assert!(self.now < late, "a request that never ends");
            self.step();
            let place = self.ended.iter().position(|(ended, _)| *ended == tag);
            if let Some((_, outcome)) = place.and_then(|place| self.ended.remove(place)) {
                return outcome.into_one();
            }
        }
    }

    fn obey(&mut self) {
        while let Some(action) = self.session.poll_action() {
            let now = self.instant();
            match action {
                Action::Connect { link, address } => {
                    let node = NODES.into_iter().find(|node| address_of(*node) == address).expect("an address of ours");
                    if self.happens(self.weather.closed_doors) || self.dead.contains(&node) {
                        self.session.handle_lost(link, refused(), now);
                        continue;
                    }
                    self.session.handle_connected(link, now);
                    self.hellos += 1;
                    let wire = Wire {
                        end: ServerEnd::new(node),
                        to_server: VecDeque::new(),
                        to_client: VecDeque::new(),
                        stalled_until: Duration::ZERO,
                    };
                    self.wires.insert(link, wire);
                }
                Action::Close { link } => drop(self.wires.remove(&link)),
            }
        }
    }

    /// Moves some bytes over the link's socket, both ways.
    fn carry(&mut self, link: LinkId) {
        let now = self.instant();
        let (loses, babbles, stalls) = (self.weather.loses, self.weather.babbles, self.weather.stalls);
        if self.happens(stalls) {
            let until = self.now + Duration::from_millis(self.rng.random_range(0..1_500));
            self.wires.get_mut(&link).expect("carried links are there").stalled_until = until;
        }
        let wire = self.wires.get_mut(&link).expect("carried links are there");
        if wire.stalled_until > self.now {
            return;
        }
        let output = self.session.poll_output(link, now);
        let written = self.rng.random_range(0..=output.len().min(600));
        wire.to_server.extend(&output[..written]);
        self.session.handle_written(link, written, now);

        let arriving = self.rng.random_range(0..=wire.to_server.len().min(500));
        let bytes: Vec<u8> = wire.to_server.drain(..arriving).collect();
        let (rng, refuses) = (&mut self.rng, self.weather.refuses);
        let replies = self.cluster.receive(&mut wire.end, &bytes, || mood(refuses, rng));
        wire.to_client.extend(replies);
        if self.rng.random_ratio(self.weather.reorders, 1000) && wire.to_client.len() > 1 {
            // Only whole replies change places, and the hello's stays first.
            let other = self.rng.random_range(1..wire.to_client.len());
            let first = usize::from(wire.to_client.len() > 2);
            wire.to_client.swap(first, other);
        }

        let mut bytes: Vec<u8> = Vec::new();
        for _ in 0..self.rng.random_range(0..4) {
            let Some(frame) = wire.to_client.pop_front() else { break };
            wire.end.replied(&frame);
            if self.rng.random_ratio(self.weather.doubles, 1000) {
                wire.to_client.push_back(frame.clone());
            }
            bytes.extend(frame);
        }
        let is_lost = self.rng.random_ratio(loses, 1000);
        if is_lost {
            // The rest of what was sent may arrive or not; no answer comes back either way.
            let arriving = self.rng.random_range(0..=wire.to_server.len());
            let last: Vec<u8> = wire.to_server.drain(..arriving).collect();
            self.cluster.receive(&mut wire.end, &last, || Mood::CarriesOut);
            bytes.truncate(self.rng.random_range(0..=bytes.len()));
        } else if self.rng.random_ratio(babbles, 1000) {
            let noise: Vec<u8> = (0..self.rng.random_range(1..60)).map(|_| self.rng.random()).collect();
            bytes.extend(noise);
        }
        // In two pieces, cut anywhere.
        let cut = self.rng.random_range(0..=bytes.len());
        self.session.handle_bytes(link, &bytes[..cut], now);
        self.session.handle_bytes(link, &bytes[cut..], now);
        if is_lost {
            self.wires.remove(&link);
            self.session.handle_lost(link, Fault::Closed, now);
        }
    }

    fn move_vnodes(&mut self) {
        if !self.happens(self.weather.moves) {
            return;
        }
        let old = &self.cluster.topology;
        let mut seats: Vec<Seat> = old.vnodes.iter().map(|placement| placement.primary).collect();
        for _ in 0..self.rng.random_range(1..8) {
            let vnode = self.rng.random_range(0..seats.len());
            seats[vnode] = Seat { node: self.rng.random_range(0..3), core: self.rng.random_range(0..2) };
        }
        self.cluster.topology = topology(old.epoch + 1, old.seed, &NODES, |vnode| seats[vnode]);
        self.tell_news();
    }

    fn tell_news(&mut self) {
        let news = Reply {
            version: quoit_wire::Version::from_u64(self.cluster.topology.epoch.into()),
            ..Reply::status(0, Status::TopologyChanged)
        };
        for wire in self.wires.values_mut().filter(|wire| wire.end.greeted) {
            wire.to_client.push_back(encode(&news));
        }
    }

    fn happens(&mut self, thousandths: u32) -> bool {
        self.rng.random_ratio(thousandths, 1000)
    }

    fn instant(&self) -> Instant {
        Instant::from_origin(self.now)
    }
}

fn mood(refuses: u32, rng: &mut StdRng) -> Mood {
    if !rng.random_ratio(refuses, 1000) {
        return Mood::CarriesOut;
    }
    Mood::Refuses(if rng.random_bool(0.7) { Status::Overloaded } else { Status::ShuttingDown })
}

fn refused() -> Fault {
    Fault::Io(std::sync::Arc::new(std::io::Error::from(std::io::ErrorKind::ConnectionRefused)))
}

/// Runs `test` with many seeds; the one that fails is named.
fn for_each_seed(seeds: u64, test: impl Fn(u64)) {
    struct Named(u64);
    impl Drop for Named {
        #[expect(clippy::print_stderr, reason = "a failing run says how to run it again")]
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("failed with seed {}", self.0);
            }
        }
    }
    for seed in 0..seeds {
        let named = Named(seed);
        test(seed);
        drop(named);
    }
}

#[test]
fn writes_that_are_not_idempotent_are_applied_once_in_any_weather() {
    const COUNTERS: usize = 6;
    for_each_seed(80, |seed| {
        let weather = if seed % 2 == 0 { STORM } else { LOSSY };
        let mut world = World::new(seed, weather);
        world.cluster.tokens_rise = weather.refuses + weather.moves == 0;
        let mut asked: HashMap<u64, (usize, bool)> = HashMap::new();
        for _ in 0..1_500 {
            if world.rng.random_bool(0.4) {
                let counter = world.rng.random_range(0..COUNTERS);
                let appends = world.rng.random_bool(0.5);
                let tag = if appends {
                    let mark = format!("<{}>", world.next_tag + 1);
                    world.cluster.items.entry(format!("text-{counter}").into_bytes()).or_insert_with(empty);
                    world.submit(Request::append(format!("text-{counter}"), mark))
                } else {
                    let from_one = IncrementOptions { initial: Some(1), ttl: None };
                    world.submit(Request::increment(format!("counter-{counter}"), 1, from_one))
                };
                asked.insert(tag, (counter, appends));
            }
            world.step();
        }
        world.run_until_all_ended();
        assert!(world.cluster.repeats_recognised > 0, "some answers were lost");
        check_applied_once(&mut world, &asked, COUNTERS);
    });
}

fn empty() -> model::Item {
    model::Item { value: Vec::new(), version: quoit_wire::Version::new(1, 0), client_flags: 0 }
}

fn check_applied_once(world: &mut World, asked: &HashMap<u64, (usize, bool)>, counters: usize) {
    let mut acknowledged = vec![Vec::new(); counters];
    let mut in_doubt = vec![0; counters];
    for (tag, outcome) in world.ended.drain(..) {
        let (counter, appends) = asked[&tag];
        let result = outcome.into_one();
        if appends {
            let text = &world.cluster.items[format!("text-{counter}").as_bytes()].value;
            let text = str::from_utf8(text).expect("marks are text");
            let times = text.matches(&format!("<{tag}>")).count();
            match result {
                Ok(_) => assert_eq!(times, 1, "an acknowledged append stands once"),
                Err(error) if error.maybe_applied() => assert!(times <= 1, "{error}"),
                Err(error) => assert_eq!(times, 0, "{error}"),
            }
        } else {
            match result {
                Ok(answer) => {
                    let count = answer.into_counter().ok().flatten().expect("a counter that is made is there");
                    acknowledged[counter].push(count.value);
                }
                Err(error) => in_doubt[counter] += i64::from(error.maybe_applied()),
            }
        }
    }
    for counter in 0..counters {
        let count = world.cluster.counter(&format!("counter-{counter}"));
        let answers = &mut acknowledged[counter];
        let sum = answers.len() as i64;
        assert!(
            (sum..=sum + in_doubt[counter]).contains(&count),
            "{sum} + {} increments made {count}",
            in_doubt[counter]
        );
        answers.sort_unstable();
        answers.dedup();
        assert_eq!(answers.len() as i64, sum, "no two increments saw the same sum");
    }
}

#[test]
fn a_read_sees_the_last_acknowledged_write_in_any_weather() {
    for_each_seed(40, |seed| {
        let mut world = World::new(seed, STORM);
        // What the key may hold: the last acknowledged value, or one in doubt since.
        let mut possible: Vec<Option<Vec<u8>>> = vec![None];
        for number in 0..200 {
            match world.rng.random_range(0..3) {
                0 => {
                    let value = format!("value-{number}").into_bytes();
                    match world.call(Request::set("key", &value, SetOptions::default())) {
                        Ok(_) => possible = vec![Some(value)],
                        Err(error) if error.maybe_applied() => possible.push(Some(value)),
                        Err(_) => {}
                    }
                }
                1 => match world.call(Request::delete("key")) {
                    Ok(_) => possible = vec![None],
                    Err(error) if error.maybe_applied() => possible.push(None),
                    Err(_) => {}
                },
                _ => {
                    if let Ok(answer) = world.call(Request::get("key")) {
                        let value = answer.into_hit().unwrap().map(|hit| hit.value);
                        assert!(possible.contains(&value), "{value:?} is none of {possible:?}");
                        possible = vec![value];
                    }
                }
            }
        }
    });
}

#[test]
fn multi_operations_answer_every_key_with_its_own_in_any_weather() {
    for_each_seed(40, |seed| {
        let mut world = World::new(seed, STORM);
        let mut stored = 0;
        for round in 0..15 {
            let keys: Vec<String> =
                (0..world.rng.random_range(1..80)).map(|key| format!("key-{round}-{key}")).collect();
            let long = "x".repeat(if round % 3 == 0 { 900 } else { 10 });
            let values: Vec<String> = keys.iter().map(|key| format!("{key}{long}")).collect();
            let items = keys.iter().zip(&values);
            let items = items.map(|(key, value)| Item {
                key: key.as_bytes(),
                value: value.as_bytes(),
                ttl_ms: 0,
                client_flags: 0,
            });
            world.submit(Request::multi_set(items));
            world.run_until_all_ended();
            let (_, outcome) = world.ended.pop_front().unwrap();
            let results = outcome.into_many().unwrap();
            for (key, result) in keys.iter().zip(&results) {
                let is_none = result.as_ref().is_err_and(|error| !error.maybe_applied());
                assert!(!is_none || !world.cluster.items.contains_key(key.as_bytes()), "{key} is there: {result:?}");
            }
            let set: Vec<bool> = results.iter().map(Result::is_ok).collect();
            assert_eq!(set.len(), keys.len());

            world.submit(Request::multi_get(&keys));
            world.run_until_all_ended();
            let (_, outcome) = world.ended.pop_front().unwrap();
            let got = outcome.into_many().unwrap();
            assert_eq!(got.len(), keys.len());
            for ((answer, value), was_set) in got.into_iter().zip(&values).zip(set) {
                let Ok(answer) = answer else { continue };
                let hit = answer.into_hit().unwrap().map(|hit| hit.value);
                assert!(hit.is_none() || hit.as_deref() == Some(value.as_bytes()));
                assert!(hit.is_some() || !was_set, "what was set is there");
                stored += 1;
            }
        }
        assert!(stored > 0, "the weather let something through");
    });
}

#[test]
fn a_flush_covers_what_changes_hands_meanwhile() {
    for_each_seed(40, |seed| {
        // Where a connection is lost, its part is asked again, and not by another topology than the other parts.
        let loses = if seed % 2 == 0 { 0 } else { 10 };
        let mut world = World::new(seed, Weather { moves: 100, loses, ..FAIR });
        let mut done = 0;
        for round in 0..20 {
            for key in 0..16 {
                let set = Request::set(format!("key-{key}"), format!("{round}"), SetOptions::default());
                world.call(set).expect("little is in its way");
            }
            world.submit(Request::flush());
            world.run_until_all_ended();
            let (_, outcome) = world.ended.pop_back().expect("it has ended");
            let is_done = outcome.into_many().is_ok_and(|answers| answers.iter().all(Result::is_ok));
            assert!(
                !is_done || world.cluster.items.is_empty(),
                "round {round}: {:?} is left",
                world.cluster.items.keys()
            );
            done += u32::from(is_done);
        }
        assert!(done > 5, "only {done} flushes of 20 were done in time");
    });
}

#[test]
fn in_fair_weather_nothing_fails_and_the_order_of_sending_holds() {
    for_each_seed(30, |seed| {
        let mut world = World::new(seed, FAIR);
        let mut reads = HashMap::new();
        for number in 0..300u32 {
            let key = format!("key-{}", number % 7);
            world.submit(Request::set(&key, number.to_string(), SetOptions::default()));
            reads.insert(world.submit(Request::get(&key)), number);
            world.step();
        }
        world.run_until_all_ended();
        for (tag, outcome) in world.ended.drain(..) {
            let answer = outcome.into_one().expect("nothing fails");
            if let Some(number) = reads.get(&tag) {
                assert_eq!(answer.value, number.to_string().as_bytes(), "a get sees the set before it");
            }
        }
        assert!(world.hellos <= 7, "one connection per core, and at most one to find them");
    });
}

#[test]
fn a_full_client_says_busy_and_goes_on_when_there_is_room() {
    let mut world = World::new(1, FAIR);
    let tags: Vec<u64> = (0..5_000).map(|key| world.submit(Request::get(format!("key-{key}")))).collect();
    world.run_until_all_ended();
    let busy = world.ended.iter().filter(|(_, outcome)| matches!(outcome, Outcome::One(Err(Error::Busy)))).count();
    assert_eq!(busy, tags.len() - OPTIONS.requests_max);
    world.ended.clear();
    assert!(world.call(Request::ping("again")).is_ok());
}

#[test]
fn a_cluster_that_is_away_is_named_and_found_again() {
    let mut world = World::new(1, Weather { closed_doors: 1000, ..FAIR });
    while world.session.startup_error().is_none() {
        world.step();
    }
    let error = world.call(Request::get("key")).unwrap_err();
    assert!(matches!(error, Error::Connect { .. }) && !error.maybe_applied(), "{error}");
    world.weather = FAIR;
    let outcome = world.call(Request::set("key", "value", SetOptions::default()));
    assert!(outcome.is_ok(), "{outcome:?}");
    assert!(world.session.topology().is_some());
}

#[test]
fn an_idle_client_leaves_a_cluster_that_is_away_alone() {
    let mut world = World::new(1, FAIR);
    assert!(world.call(Request::get("key")).is_ok());
    world.weather = Weather { closed_doors: 1000, ..FAIR };
    let now = world.instant();
    for (link, _) in std::mem::take(&mut world.wires) {
        world.session.handle_lost(link, Fault::Closed, now);
    }
    // While the last ones stood, it tried to stay connected to two nodes. That is over now.
    world.obey();
    assert_eq!((world.session.poll_action(), world.session.poll_timeout()), (None, None));
}

#[test]
fn a_change_of_topology_costs_one_request_for_it() {
    for_each_seed(20, |seed| {
        let mut world = World::new(seed, FAIR);
        for key in 0..50 {
            world.call(Request::get(format!("key-{key}"))).unwrap();
        }
        world.weather.moves = 1000;
        world.move_vnodes();
        world.weather.moves = 0;
        let epoch = world.cluster.topology.epoch;
        for key in 0..300 {
            world.submit(Request::set(format!("key-{key}"), "value", SetOptions::default()));
        }
        world.run_until_all_ended();
        assert!(world.ended.drain(..).all(|(_, outcome)| outcome.into_one().is_ok()));
        assert_eq!(world.session.topology().map(|topology| topology.epoch), Some(epoch));
        assert_eq!((world.cluster.topologies_told, world.cluster.changes_told), (1, 1), "what has changed will do");
    });
}

#[test]
fn changes_that_can_not_be_told_or_do_not_fit_cost_the_whole_topology_and_nothing_else() {
    const CHANGES: [Changes; 6] = [
        Changes::Unknown,
        Changes::Garbage,
        Changes::OfAnotherEpoch,
        Changes::OfAnotherTopology,
        Changes::OfNoVnode,
        Changes::ToNoTopology,
    ];
    for_each_seed(10, |seed| {
        for changes in CHANGES {
            let mut world = World::new(seed, FAIR);
            world.cluster.changes = changes;
            for round in 1..3 {
                for key in 0..50 {
                    world.call(Request::get(format!("key-{key}"))).unwrap();
                }
                world.weather.moves = 1000;
                world.move_vnodes();
                world.weather.moves = 0;
                let epoch = world.cluster.topology.epoch;
                while world.session.topology().is_none_or(|topology| topology.epoch < epoch) {
                    world.step();
                }
                assert_eq!(world.session.topology().unwrap().as_ref(), &world.cluster.topology, "{changes:?}");
                assert_eq!(world.cluster.topologies_told, 1 + round, "{changes:?}");
            }
            assert_eq!((world.session.counters().topology_changes, world.session.counters().losses), (0, 0));
        }
    });
}

#[test]
fn a_node_that_leaves_hands_its_requests_on() {
    for_each_seed(20, |seed| {
        let mut world = World::new(seed, FAIR);
        for key in 0..50 {
            assert!(world.call(Request::get(format!("key-{key}"))).is_ok());
        }
        for key in 0..300 {
            world.submit(Request::set(format!("key-{key}"), "value", SetOptions::default()));
        }
        world.step();
        world.cluster.topology = topology(2, seed, &NODES[..2], in_turn(2));
        world.tell_news();
        world.run_until_all_ended();
        assert!(world.ended.drain(..).all(|(_, outcome)| outcome.into_one().is_ok()));
        while world.wires.values().any(|wire| wire.end.node == NODES[2]) {
            world.step();
        }
    });
}

/// Time enough for a cluster to lose a node and to go on.
const PATIENT: Options = Options { deadline: Duration::from_secs(5), ..OPTIONS };

#[test]
fn a_node_that_dies_costs_no_request_that_has_time_left() {
    for_each_seed(40, |seed| {
        let mut world = World::with(seed, FAIR, &NODES[..1], PATIENT);
        for key in 0..50 {
            assert!(world.call(Request::get(format!("key-{key}"))).is_ok());
        }
        for key in 0..300 {
            world.submit(Request::increment(format!("key-{key}"), 1, IncrementOptions { initial: Some(1), ttl: None }));
        }
        world.step();
        // The seed among them: nobody may be special.
        let dead = NODES[world.rng.random_range(0..3)];
        world.kill(dead);
        let lost_at = world.now;
        let sooner = Duration::from_millis(world.rng.random_range(500..3_500));
        world.run_until(lost_at + sooner);
        let left: Vec<u64> = NODES.into_iter().filter(|node| *node != dead).collect();
        world.cluster.topology = topology(2, seed, &left, in_turn(2));
        world.tell_news();
        world.run_until_all_ended();
        for (_, outcome) in world.ended.drain(..) {
            outcome.into_one().expect("the deadline is not over");
        }
    });
}

#[test]
fn a_key_that_nobody_owns_for_a_while_costs_no_request_that_has_time_left() {
    for_each_seed(20, |seed| {
        let mut world = World::with(seed, FAIR, &NODES[..1], PATIENT);
        assert!(world.call(Request::get("key")).is_ok());
        // The nodes know of a node that the client can't reach, and say `Moved` for three seconds.
        let epoch_before = world.cluster.topology.epoch;
        let all = world.cluster.topology.vnodes.clone();
        let vnode = world.cluster.topology.vnode(b"key");
        let owner = usize::from(all[vnode].primary.node);
        world.cluster.topology.vnodes[vnode].primary.node = ((owner + 1) % 3) as u16;
        let tag = world.submit(Request::set("key", "value", SetOptions::default()));
        world.run_until(world.now + Duration::from_secs(3));
        assert!(world.submitted.contains_key(&tag), "it goes on waiting");
        // Nobody tells the news: the client finds out by itself.
        world.cluster.topology.epoch = epoch_before + 1;
        world.run_until_all_ended();
        world.ended.pop_front().unwrap().1.into_one().expect("the deadline is not over");
    });
}

#[test]
fn the_cluster_is_found_again_though_every_server_that_was_named_is_gone() {
    for_each_seed(20, |seed| {
        let mut world = World::with(seed, FAIR, &NODES[..1], PATIENT);
        assert!(world.call(Request::get("key")).is_ok());
        NODES.into_iter().for_each(|node| world.kill(node));
        world.cluster.topology = topology(2, seed, &NODES[1..], in_turn(2));
        let tag = world.submit(Request::set("key", "value", SetOptions::default()));
        world.run_until(world.now + Duration::from_secs(1));
        assert!(world.submitted.contains_key(&tag));
        // The others are back; the one that was named never is.
        world.dead = vec![NODES[0]];
        world.run_until_all_ended();
        world.ended.pop_front().unwrap().1.into_one().expect("the deadline is not over");
    });
}

#[test]
fn a_client_in_use_stays_connected_to_two_nodes() {
    for_each_seed(20, |seed| {
        let mut world = World::with(seed, FAIR, &NODES[..1], PATIENT);
        let connected = |world: &World| {
            let nodes: std::collections::BTreeSet<u64> =
                world.wires.values().filter(|wire| wire.end.greeted).map(|wire| wire.end.node).collect();
            nodes.len()
        };
        assert!(world.call(Request::get("key")).is_ok());
        while connected(&world) < 2 {
            world.step();
        }
        let one = world.wires.values().next().unwrap().end.node;
        world.kill(one);
        while connected(&world) < 2 {
            world.step();
        }
    });
}

/// A vnode between two primaries.
const SEALED: Seal = Seal { status: Status::Overloaded, spares_reads: false, applies: false };
/// A vnode whose node is in its next life, and knows no newer topology than the client.
const REBORN: Seal = Seal { status: Status::Moved, ..SEALED };
/// A vnode whose copy is lost, in the write mode `one`.
const ALONE: Seal = Seal { status: Status::NotEnoughCopies, spares_reads: true, applies: false };
/// A vnode whose primary has just lost its role: it has applied what it can't acknowledge.
const DEPOSED: Seal = Seal { status: Status::OutcomeUnknown, spares_reads: true, applies: true };

#[test]
fn vnodes_that_refuse_for_seconds_cost_no_request_that_has_time_left_and_are_asked_by_few() {
    for_each_seed(20, |seed| {
        let mut world = World::with(seed, FAIR, &NODES[..1], PATIENT);
        assert!(world.call(Request::get("key")).is_ok());
        let seal = if seed % 2 == 0 { SEALED } else { REBORN };
        for vnode in 0..8 {
            world.cluster.sealed.insert(vnode, seal);
        }
        for key in 0..3_000 {
            let from_one = IncrementOptions { initial: Some(1), ttl: None };
            world.submit(Request::increment(format!("key-{key}"), 1, from_one));
        }
        let three_seconds = world.now + Duration::from_secs(3);
        world.run_until(three_seconds);
        let waiting = world.submitted.len();
        assert!((400..1_200).contains(&waiting), "{waiting} wait: a quarter is refused, the others went through");
        // What was under way when the first refusal came; then each vnode is asked after 50 to 130 ms, by one request.
        let refusals = world.cluster.refusals;
        assert!(refusals < 800 + 8 * 60, "{refusals} refusals in 3 s for {waiting} requests of 8 vnodes");
        world.cluster.sealed.clear();
        world.run_until_all_ended();
        for (_, outcome) in world.ended.drain(..) {
            outcome.into_one().expect("the deadline is not over");
        }
    });
}

#[test]
fn what_a_vnode_refuses_to_its_writes_does_not_hold_up_its_reads() {
    let mut world = World::with(1, FAIR, &NODES[..1], PATIENT);
    assert!(world.call(Request::set("key", "before", SetOptions::default())).is_ok());
    let vnode = world.cluster.topology.vnode(b"key");
    world.cluster.sealed.insert(vnode, ALONE);
    let set = world.submit(Request::set("key", "after", SetOptions::default()));
    for _ in 0..200 {
        assert_eq!(world.call(Request::get("key")).expect("reads are answered").value, b"before");
    }
    assert!(world.submitted.contains_key(&set), "the write waits");
    world.cluster.sealed.clear();
    world.run_until_all_ended();
    assert_eq!(world.call(Request::get("key")).expect("reads are answered").value, b"after");
    assert!(world.ended.drain(..).all(|(_, outcome)| outcome.into_one().is_ok()));
}

#[test]
fn a_topology_ends_the_wait_of_who_was_refused() {
    let mut world = World::with(1, FAIR, &NODES[..1], PATIENT);
    assert!(world.call(Request::get("key")).is_ok());
    let vnode = world.cluster.topology.vnode(b"key");
    world.cluster.sealed.insert(vnode, SEALED);
    for _ in 0..100 {
        world.submit(Request::set("key", "value", SetOptions::default()));
    }
    world.run_until(world.now + Duration::from_secs(1));
    assert_eq!(world.submitted.len(), 100);
    let old = world.cluster.topology.clone();
    let elsewhere = (old.vnodes[vnode].primary.node + 1) % 3;
    world.cluster.sealed.clear();
    world.cluster.topology = topology(2, old.seed, &NODES, |other| {
        let primary = old.vnodes[other].primary;
        if other == vnode { Seat { node: elsewhere, ..primary } } else { primary }
    });
    let refused_before = world.session.counters().redirects;
    world.tell_news();
    world.run_until_all_ended();
    assert!(world.ended.drain(..).all(|(_, outcome)| outcome.into_one().is_ok()));
    assert!(world.session.counters().redirects <= refused_before + 100, "each learns it at most once");
}

#[test]
fn a_write_whose_outcome_a_deposed_primary_does_not_know_is_settled_by_the_next() {
    for_each_seed(20, |seed| {
        let mut world = World::with(seed, FAIR, &NODES[..1], PATIENT);
        let from_one = IncrementOptions { initial: Some(1), ttl: None };
        assert!(world.call(Request::get("counter")).is_ok());
        let vnode = world.cluster.topology.vnode(b"counter");
        world.cluster.sealed.insert(vnode, DEPOSED);
        let tag = world.submit(Request::increment("counter", 1, from_one));
        while world.cluster.refusals == 0 {
            world.step();
        }
        world.cluster.sealed.clear();
        world.run_until_all_ended();
        let (ended, outcome) = world.ended.pop_back().expect("it ended");
        assert_eq!(ended, tag);
        let counter = outcome.into_one().and_then(Answer::into_counter).expect("it is settled");
        assert_eq!((counter.map(|counter| counter.value), world.cluster.counter("counter")), (Some(1), 1));
    });
}

#[test]
fn a_write_whose_outcome_nobody_knows_is_told_so() {
    let mut world = World::with(1, FAIR, &NODES[..1], PATIENT);
    assert!(world.call(Request::get("counter")).is_ok());
    let vnode = world.cluster.topology.vnode(b"counter");
    world.cluster.sealed.insert(vnode, Seal { applies: false, ..DEPOSED });
    let error = world.call(Request::append("counter", "x")).expect_err("nobody knows");
    assert!(matches!(error, Error::OutcomeUnknown) && error.maybe_applied(), "{error}");
    assert_eq!(world.cluster.refusals, 2, "it was asked again once");
}

#[test]
fn all_that_is_under_way_survives_the_loss_of_every_connection() {
    for_each_seed(20, |seed| {
        let mut world = World::with(seed, FAIR, &NODES, PATIENT);
        for key in 0..50 {
            assert!(world.call(Request::get(format!("key-{key}"))).is_ok());
        }
        for round in 0..4 {
            for key in 0..1_000 {
                world.submit(Request::set(format!("key-{key}"), round.to_string(), SetOptions::default()));
            }
            for _ in 0..5 {
                world.step();
            }
            let now = world.instant();
            for (link, _) in std::mem::take(&mut world.wires) {
                world.session.handle_lost(link, Fault::Closed, now);
            }
        }
        world.run_until_all_ended();
        for (_, outcome) in world.ended.drain(..) {
            outcome.into_one().expect("a repeat avoids the error");
        }
        assert!(world.session.counters().repeats > 0, "something was under way");
    });
}

#[test]
fn reads_that_any_copy_may_answer_spread_over_the_copies_and_say_what_may_be_stale() {
    let mut world = World::with(1, FAIR, &NODES[..1], PATIENT);
    let mut replicated = world.cluster.topology.clone();
    for placement in &mut replicated.vnodes {
        let other = |by: u16| Seat { node: (placement.primary.node + by) % 3, core: 1 };
        (placement.replicas[0], placement.replicas[1]) = (other(1), other(2));
    }
    world.cluster.topology = replicated;
    assert!(world.call(Request::set("key", "value", SetOptions::default())).is_ok());
    let mut stale = 0;
    for _ in 0..300 {
        let answer = world.call(Request::get("key").from_any_copy()).expect("somebody answers");
        assert_eq!(answer.value, b"value");
        stale += u32::from(answer.is_stale);
    }
    let by_copies = &world.cluster.answered_by_copies;
    assert!(by_copies.len() == 2 && by_copies.values().all(|count| *count > 60), "{by_copies:?}");
    assert_eq!(stale, by_copies.values().sum::<u32>());
    assert_eq!(world.session.counters().redirects, 0);
    assert!(!world.call(Request::get("key")).expect("the primary answers").is_stale);

    // Copies that are gone, and those that leave the permission unused, cost nothing but time.
    let primary = world.cluster.topology.nodes[usize::from(world.cluster.topology.owner(b"key").node)].id;
    let copy = NODES.into_iter().find(|node| *node != primary).expect("three nodes");
    world.kill(copy);
    world.cluster.copies_answer = false;
    for _ in 0..50 {
        let answer = world.call(Request::get("key").from_any_copy()).expect("the primary answers");
        assert!(!answer.is_stale);
    }
}

#[test]
fn a_multi_get_that_any_copy_may_answer_spreads_over_the_copies_and_says_of_each_key_what_may_be_stale() {
    let mut world = World::with(1, FAIR, &NODES[..1], PATIENT);
    for placement in &mut world.cluster.topology.vnodes {
        placement.replicas[0] = Seat { node: (placement.primary.node + 1) % 3, core: 1 };
    }
    let keys: Vec<String> = (0..40).map(|key| format!("key-{key}")).collect();
    for key in &keys {
        assert!(world.call(Request::set(key, key, SetOptions::default())).is_ok());
    }
    let all = |world: &mut World| {
        let tag = world.submit(Request::multi_get(&keys).from_any_copy());
        world.run_until_all_ended();
        let (ended, Outcome::Many(answers)) = world.ended.pop_front().unwrap() else { panic!("a multi-get has many") };
        assert_eq!(ended, tag);
        let answers: Vec<_> = answers.into_iter().map(|answer| answer.expect("somebody answers")).collect();
        assert!(answers.iter().zip(&keys).all(|(answer, key)| answer.value == key.as_bytes()));
        answers.iter().filter(|answer| answer.is_stale).count()
    };
    let stale: Vec<usize> = (0..30).map(|_| all(&mut world)).collect();
    let by_copies: u32 = world.cluster.answered_by_copies.values().sum();
    assert_eq!(stale.iter().sum::<usize>(), by_copies as usize);
    assert!((300..900).contains(&by_copies), "{by_copies} of 1,200");
    assert_eq!(world.session.counters().redirects, 0);

    // Copies that are gone, and those that leave the permission unused, cost nothing but time.
    world.kill(NODES[2]);
    world.cluster.topology.vnodes.iter_mut().for_each(|placement| {
        if placement.primary.node == 2 {
            std::mem::swap(&mut placement.primary, &mut placement.replicas[0]);
        }
    });
    world.cluster.topology.epoch += 1;
    world.tell_news();
    world.cluster.copies_answer = false;
    assert_eq!(all(&mut world), 0);
}
