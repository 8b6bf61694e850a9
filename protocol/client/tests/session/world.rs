//! The session, a cluster, and the network between them, in one thread.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use quoit_client::session::{Action, LinkId, Session};
use quoit_client::{Answer, Error, Fault, Instant, Options, Outcome, Request, Status};
use quoit_wire::Reply;
use quoit_wire::topology::Seat;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use crate::model::{Cluster, Mood, ServerEnd, address_of, encode, in_turn, topology};

/// How bad the network and the nodes are; per step or per request, in thousandths.
#[derive(Clone, Copy, Default)]
pub(super) struct Weather {
    /// A connection is lost.
    pub(super) loses: u32,
    /// A connection sends bytes that are none of the protocol's.
    pub(super) babbles: u32,
    /// A request is answered `Overloaded` or `ShuttingDown`.
    pub(super) refuses: u32,
    /// Vnodes change their owners.
    pub(super) moves: u32,
    /// Replies leave in another order.
    pub(super) reorders: u32,
    /// A reply is sent twice.
    pub(super) doubles: u32,
    /// A node takes no connection, now and then.
    pub(super) closed_doors: u32,
    /// A connection stands still for a while.
    pub(super) stalls: u32,
}

pub(super) const FAIR: Weather =
    Weather { loses: 0, babbles: 0, refuses: 0, moves: 0, reorders: 500, doubles: 0, closed_doors: 0, stalls: 0 };
pub(super) const LOSSY: Weather = Weather { loses: 30, babbles: 5, closed_doors: 300, stalls: 3, ..FAIR };
pub(super) const STORM: Weather =
    Weather { loses: 12, babbles: 3, refuses: 60, moves: 5, reorders: 500, doubles: 10, closed_doors: 150, stalls: 2 };

/// A socket between the session and a server.
pub(super) struct Wire {
    pub(super) end: ServerEnd,
    pub(super) to_server: VecDeque<u8>,
    pub(super) to_client: VecDeque<Vec<u8>>,
    pub(super) stalled_until: Duration,
    /// It takes bytes, and brings none.
    pub(super) is_deaf: bool,
}

/// The session, the cluster, and everything between them.
pub(super) struct World {
    pub(super) rng: StdRng,
    pub(super) now: Duration,
    pub(super) session: Session<u64>,
    pub(super) cluster: Cluster,
    pub(super) wires: BTreeMap<LinkId, Wire>,
    pub(super) weather: Weather,
    pub(super) submitted: HashMap<u64, Duration>,
    pub(super) next_tag: u64,
    pub(super) ended: VecDeque<(u64, Outcome)>,
    pub(super) hellos: u64,
    /// Nodes that are gone: they take no connection.
    pub(super) dead: Vec<u64>,
    /// So many answers are lost, though nothing else is.
    pub(super) swallows: u32,
    pub(super) options: Options,
}

pub(super) const NODES: [u64; 3] = [11, 22, 33];
pub(super) const OPTIONS: Options = Options {
    deadline: Duration::from_secs(1),
    stall_limit: Duration::from_millis(500),
    connect_limit: Duration::from_millis(500),
    requests_max: 4096,
    bytes_max: 1 << 20,
};

/// Time enough for a cluster to lose a node and to go on.
pub(super) const PATIENT: Options = Options { deadline: Duration::from_secs(5), ..OPTIONS };

impl World {
    pub(super) fn new(seed: u64, weather: Weather) -> Self {
        Self::with(seed, weather, &NODES, OPTIONS)
    }

    /// A world whose client is told of some nodes only.
    pub(super) fn with(seed: u64, weather: Weather, seeds: &[u64], options: Options) -> Self {
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
            swallows: 0,
            options,
        }
    }

    /// The node is gone, and its connections with it.
    pub(super) fn kill(&mut self, node: u64) {
        self.dead.push(node);
        let now = self.instant();
        let lost: Vec<LinkId> =
            self.wires.iter().filter(|(_, wire)| wire.end.node == node).map(|(link, _)| *link).collect();
        for link in lost {
            self.wires.remove(&link);
            self.session.handle_lost(link, Fault::Closed, now);
        }
    }

    pub(super) fn run_until(&mut self, time: Duration) {
        while self.now < time {
            self.step();
        }
    }

    pub(super) fn submit(&mut self, request: Request) -> u64 {
        self.next_tag += 1;
        self.submitted.insert(self.next_tag, self.now);
        let now = self.instant();
        self.session.submit(request, self.next_tag, now);
        self.next_tag
    }

    /// One step: time passes a little, bytes move a little, and something may go wrong.
    pub(super) fn step(&mut self) {
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

    pub(super) fn run_until_all_ended(&mut self) {
        let late = self.now + 2 * self.options.deadline;
        while !self.submitted.is_empty() {
            assert!(self.now < late, "requests that never end: {:?}", self.submitted);
            self.step();
        }
    }

    pub(super) fn call(&mut self, request: Request) -> Result<Answer, Error> {
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

    pub(super) fn obey(&mut self) {
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
                        is_deaf: false,
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
        if wire.is_deaf {
            return;
        }

        let arriving = self.rng.random_range(0..=wire.to_server.len().min(500));
        let bytes: Vec<u8> = wire.to_server.drain(..arriving).collect();
        let (rng, refuses) = (&mut self.rng, self.weather.refuses);
        let was_greeted = wire.end.greeted;
        let mut replies = self.cluster.receive(&mut wire.end, &bytes, || mood(refuses, rng));
        if was_greeted && self.swallows > 0 && replies.pop().is_some() {
            self.swallows -= 1;
        }
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

    pub(super) fn move_vnodes(&mut self) {
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

    pub(super) fn tell_news(&mut self) {
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

    pub(super) fn instant(&self) -> Instant {
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
pub(super) fn for_each_seed(seeds: u64, test: impl Fn(u64)) {
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
