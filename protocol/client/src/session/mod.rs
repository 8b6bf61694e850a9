//! The session: everything the client decides, without I/O and without a clock.
//!
//! A front owns the sockets and the clock and drives the session with two kinds of verbs: `handle_*` says what happened,
//! `poll_*` asks what to do. The session routes each request to the core that owns its key, keeps the order of sending on
//! each connection, repeats what a broken connection left unanswered, and ends every request within its deadline.
//!
//! ```text
//!  submit ──► unrouted ──► link.queue ──► connection ──► poll_output
//!               ▲  (no topology yet)         │ replies ◄── handle_bytes
//!               ├── delayed ◄── Moved ──────┤
//!               └── holds ◄──── Overloaded ─┤
//!                                           └──► completions ──► poll_completion
//! ```
//! Invariants: a request is in exactly one of those places until it ends, and it ends once. A token of a write that may
//! have been applied stays with the write until it ends, whichever connection it travels on. After `handle_timeout(now)`,
//! `poll_timeout` lies after `now`.

mod answers;
mod budget;
mod connection;
mod gather;
mod holds;
mod link;
mod routing;
mod slab;
mod unanswered;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use quoit_wire::topology::Topology;
use quoit_wire::{HelloParameters, RequestFlags, RetryToken, Status};
use rand::SeedableRng;
use rand::rngs::StdRng;

use self::budget::RetryBudget;
use self::connection::{Connection, Event};
use self::gather::Gather;
use self::holds::{Hold, HoldKey, Refusal};
use self::link::{Link, LinkState};
use self::slab::{Key, Slab};
use crate::answer::Outcome;
use crate::error::{Error, Fault};
use crate::options::{DEADLINE_MAX, OUTPUT_BYTES_TARGET, Options, RETRY_BURST_MIN};
use crate::request::{Ask, Entries, Frame, Head, Request};
use crate::time::Instant;

/// The client's state over all its connections. `T` is the caller's own and comes back with the outcome.
#[derive(Debug)]
pub struct Session<T> {
    options: Options,
    rng: StdRng,
    budget: RetryBudget,
    entries: Slab<Entry<T>>,
    gathers: Slab<Gather<T>>,
    /// Every entry's deadline, soonest first; keys of entries that have ended are dropped late.
    deadlines: VecDeque<(Instant, Key)>,
    /// Entries that wait for a moment to be routed again.
    delayed: BTreeSet<(Instant, Key)>,
    /// Entries whose vnode refuses for now.
    holds: BTreeMap<HoldKey, Hold>,
    /// Entries that wait for a topology.
    unrouted: VecDeque<Key>,
    links: Slab<Link>,
    map: Map,
    actions: VecDeque<Action>,
    completions: VecDeque<(T, Outcome)>,
    /// Keys and bytes of the entries, and of those the limits are about.
    keys_held: usize,
    bytes_held: usize,
    submitted: u64,
    counters: Counters,
}

/// What a session has met with since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests sent again because their connection ended before they were answered.
    pub repeats: u64,
    /// Answers `Moved`: the request was sent to the owner of an older topology.
    pub redirects: u64,
    /// Refusals after which a request is tried again: `Overloaded`, `NotEnoughCopies`, `ShuttingDown`, `OutcomeUnknown`.
    pub refusals: u64,
    /// Connections that ended, or could not be made.
    pub losses: u64,
    /// Topologies taken, the first among them.
    pub topologies: u64,
    /// Those of them that were made of the one before and what had changed.
    pub topology_changes: u64,
}

/// Places of ended entries that [`Session::deadlines`] may hold beside as many as are alive.
const DEADLINES_SLACK: usize = 1024;

/// Names a link to its front.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(Key);

impl LinkId {
    /// A small number, for a table of sockets; used again by another link after [`Action::Close`].
    pub const fn index(self) -> usize {
        self.0.index as usize
    }
}

/// What a front shall do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Open a TCP connection to `address` (`host:port`), then call [`Session::handle_connected`] or
    /// [`Session::handle_lost`].
    Connect {
        /// The link that shall have it.
        link: LinkId,
        /// Where to.
        address: String,
    },
    /// Close the link's socket, or stop connecting. Nothing needs to be called.
    Close {
        /// The link.
        link: LinkId,
    },
}

/// What the session knows of the cluster, and how it learns it.
#[derive(Debug)]
struct Map {
    servers: Vec<String>,
    next_server: usize,
    topology: Option<Arc<Topology>>,
    /// The link of each seat of the topology, where one was needed so far.
    seats: Vec<Vec<Option<Key>>>,
    /// Addresses at which nodes were met: they work from here, whatever the topology says.
    met_at: HashMap<u64, String>,
    /// The link that looks for any server, while there is no topology.
    scout: Option<Key>,
    /// Servers tried in vain since the last topology.
    scout_failures: u32,
    startup_error: Option<Error>,
    /// Addresses of nodes of the last topology that was given up, to be tried beside `servers`.
    others: Vec<String>,
    fetch: Fetch,
    fetch_tries: u32,
    /// What has changed will do, where a server can tell it; not after changes that were not known, or did not fit.
    takes_changes: bool,
    /// The node that was asked for the topology last: the next time another one is asked, if one can be.
    asked: Option<u64>,
    /// The newest epoch heard of.
    epoch_wanted: u32,
    /// Over which link, unless it was asked since: who is there has that topology, and others may not have it yet.
    told_by: Option<Key>,
    /// The smallest frame limit of the servers met.
    frame_bytes_max: usize,
}

/// The state of asking for a topology: at most one request at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fetch {
    Idle,
    /// To be asked for then, or as soon as a connection stands.
    At(Instant),
    Asked,
}

/// A request on its way.
#[derive(Debug)]
struct Entry<T> {
    work: Work,
    origin: Origin<T>,
    deadline: Instant,
    /// Its place in the order of submission.
    sequence: u64,
    token: Option<RetryToken>,
    /// Sent over a connection that stands, and not answered.
    in_flight: bool,
    /// An attempt that was not answered may have been carried out.
    uncertain: bool,
    /// Waits for a newer topology; one that arrives ends the wait early.
    waits_for_topology: bool,
    /// Its last answer, if that was `Moved` or a refusal and it was not sent since; or that of the request it waits for.
    refusal: Option<Refusal>,
    /// The server has said once that it does not know how this write ended.
    was_unknown: bool,
    /// `Moved` and refusals so far.
    setbacks: u8,
}

/// What is sent, and to whom.
#[derive(Clone, Debug)]
enum Work {
    Owner(Frame),
    Anyone(Frame),
    EachNode(Frame),
    /// One node's part of what is asked of each, which are the nodes of this epoch.
    Node {
        frame: Frame,
        node: u64,
        epoch: u32,
    },
    Entries(Entries),
}

/// Whom the answer is for.
#[derive(Debug)]
enum Origin<T> {
    Caller(T),
    /// The places of a gather.
    Part {
        gather: Key,
        indexes: Vec<u32>,
    },
    /// The session itself wants the topology.
    Topology,
}

impl<T> Session<T> {
    /// A session that will look for a cluster at `servers` (`host:port`). `seed` feeds jitter and the identities under which
    /// writes are repeated: it must be unpredictable outside of tests.
    pub fn new(servers: Vec<String>, mut options: Options, seed: u64, now: Instant) -> Result<Self, Error> {
        if servers.is_empty() {
            return Err(Error::NoServers);
        }
        options.deadline = options.deadline.min(DEADLINE_MAX);
        let map = Map {
            servers,
            next_server: 0,
            topology: None,
            seats: Vec::new(),
            met_at: HashMap::new(),
            scout: None,
            scout_failures: 0,
            startup_error: None,
            others: Vec::new(),
            fetch: Fetch::Idle,
            fetch_tries: 0,
            takes_changes: true,
            asked: None,
            told_by: None,
            epoch_wanted: 0,
            frame_bytes_max: usize::MAX,
        };
        let mut session = Self {
            rng: StdRng::seed_from_u64(seed),
            budget: RetryBudget::new(options.requests_max.max(RETRY_BURST_MIN), now),
            options,
            entries: Slab::new(),
            gathers: Slab::new(),
            deadlines: VecDeque::new(),
            delayed: BTreeSet::new(),
            holds: BTreeMap::new(),
            unrouted: VecDeque::new(),
            links: Slab::new(),
            map,
            actions: VecDeque::new(),
            completions: VecDeque::new(),
            keys_held: 0,
            bytes_held: 0,
            submitted: 0,
            counters: Counters::default(),
        };
        session.send_scout(now);
        Ok(session)
    }

    /// The topology requests are routed by; `None` until a server was found.
    pub const fn topology(&self) -> Option<&Arc<Topology>> {
        self.map.topology.as_ref()
    }

    /// Why no server was found, once each was tried in vain and none was found ever.
    pub const fn startup_error(&self) -> Option<&Error> {
        self.map.startup_error.as_ref()
    }

    /// What the session has met with.
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// Whether `request` would be taken now rather than end with [`Error::Busy`].
    pub fn has_room_for(&self, request: &Request) -> bool {
        let (keys, bytes) = weight(&request.0);
        let fits =
            self.keys_held + keys <= self.options.requests_max && self.bytes_held + bytes <= self.options.bytes_max;
        // A request larger than the limits is taken when it is alone, or nobody could ever send it.
        fits || self.keys_held == 0
    }

    /// Takes a request; `tag` comes back with its outcome from [`Self::poll_completion`].
    pub fn submit(&mut self, request: Request, tag: T, now: Instant) {
        if !self.has_room_for(&request) {
            self.completions.push_back((tag, Outcome::One(Err(Error::Busy))));
            return;
        }
        let (work, origin) = match request.0 {
            Ask::Refused(error) => {
                self.completions.push_back((tag, Outcome::One(Err(error))));
                return;
            }
            Ask::Owner(frame) => (Work::Owner(frame), Origin::Caller(tag)),
            Ask::Anyone(frame) => (Work::Anyone(frame), Origin::Caller(tag)),
            Ask::EachNode(frame) => (Work::EachNode(frame), Origin::Caller(tag)),
            Ask::Entries(all) => return self.submit_entries(all, tag, now),
        };
        self.start(work, origin, now);
    }

    /// The next request that ended.
    pub fn poll_completion(&mut self) -> Option<(T, Outcome)> {
        self.completions.pop_front()
    }

    /// The next thing to do to a socket.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Whether [`Self::poll_completion`] or [`Self::poll_action`] has something: a front must not wait then.
    pub fn is_awaited(&self) -> bool {
        !self.completions.is_empty() || !self.actions.is_empty()
    }

    /// The bytes to write to the link's socket now: everything that waits, up to a sensible batch. Say what was written with
    /// [`Self::handle_written`] and ask again; empty when there is nothing.
    pub fn poll_output(&mut self, link: LinkId, now: Instant) -> &[u8] {
        self.pump(link.0, now);
        self.links.get_mut(link.0).and_then(Link::connection).map_or(&[], |connection| connection.output())
    }

    /// The first `bytes` of the link's output were written to its socket.
    pub fn handle_written(&mut self, link: LinkId, bytes: usize, now: Instant) {
        if let Some(connection) = self.links.get_mut(link.0).and_then(Link::connection) {
            connection.handle_written(bytes, now);
        }
    }

    /// The link's socket is connected.
    pub fn handle_connected(&mut self, link: LinkId, now: Instant) {
        if let Some(link) = self.links.get_mut(link.0).filter(|link| matches!(link.state, LinkState::Connecting { .. }))
        {
            link.state = LinkState::Up(Box::new(Connection::new(link.wanted_core(), now)));
        }
    }

    /// `bytes` were read from the link's socket.
    pub fn handle_bytes(&mut self, link: LinkId, bytes: &[u8], now: Instant) {
        let key = link.0;
        let Some(connection) = self.links.get_mut(key).and_then(Link::connection) else { return };
        let result = connection.handle_bytes(bytes, now);
        // What was said before the fault was said.
        while let Some(event) = self.links.get_mut(key).and_then(Link::connection).and_then(Connection::poll_event) {
            match event {
                Event::Ready(hello) => self.on_ready(key, &hello, now),
                Event::Replied(entry, replied) => self.on_replied(key, entry, replied, now),
                Event::News(epoch) => self.on_news(key, epoch, now),
            }
        }
        match result {
            // What was said may have cost the link its connection already.
            Err(fault) if self.links.get_mut(key).is_some_and(|link| link.connection().is_some()) => {
                self.drop_link(key, fault, now);
            }
            _ => self.retire_if_done(key),
        }
    }

    /// The link's socket is closed or could not be connected; the front has already let go of it.
    pub fn handle_lost(&mut self, link: LinkId, fault: Fault, now: Instant) {
        let is_down = |link: &Link| matches!(link.state, LinkState::Down { .. });
        if self.links.get(link.0).is_some_and(|link| !is_down(link)) {
            self.on_lost(link.0, fault, now);
        }
    }

    /// Does what is due at `now`: deadlines, waits that end, connections that stall. Hand in what was read before this, or a
    /// front that was busy elsewhere takes a slow reader for a slow server.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.expire(now);
        while let Some((_, key)) = self.delayed.first().copied().filter(|(at, _)| *at <= now) {
            self.delayed.pop_first();
            self.route(key, now);
        }
        let keys: Vec<Key> = self.links.keys().collect();
        for key in keys {
            self.check_link(key, now);
        }
        self.fetch_if_due(now);
    }

    /// When to call [`Self::handle_timeout`] next, if nothing happens before. Cost: O(links).
    pub fn poll_timeout(&self) -> Option<Instant> {
        let deadline = self.deadlines.front().map(|(at, _)| *at);
        let delayed = self.delayed.first().map(|(at, _)| *at);
        let fetch = match self.map.fetch {
            Fetch::At(at) if self.fetch_link().is_some() => Some(at),
            _ => None,
        };
        let links = self.links.keys().filter_map(|key| self.link_timeout(key));
        [deadline, delayed, fetch].into_iter().flatten().chain(links).min()
    }

    fn submit_entries(&mut self, all: Vec<Entries>, tag: T, now: Instant) {
        let count = all.iter().map(|entries| entries.count).sum();
        if count == 0 {
            self.completions.push_back((tag, Outcome::Many(Vec::new())));
            return;
        }
        let gather = self.gathers.insert(Gather::new(tag, count));
        let mut first = 0;
        for entries in all {
            let indexes = (first..first + entries.count as u32).collect();
            first += entries.count as u32;
            self.start(Work::Entries(entries), Origin::Part { gather, indexes }, now);
        }
    }

    /// Sets a new request on its way.
    fn start(&mut self, work: Work, origin: Origin<T>, now: Instant) {
        self.budget.earn(work.keys());
        self.submitted += 1;
        let key = self.hold(Entry::new(work, origin, now + self.options.deadline, self.submitted));
        self.route(key, now);
    }

    /// Puts an entry under the limits and its deadline in order.
    fn hold(&mut self, entry: Entry<T>) -> Key {
        self.keys_held += entry.work.keys();
        self.bytes_held += entry.work.bytes();
        let deadline = entry.deadline;
        let key = self.entries.insert(entry);
        // One slow request at the front must not keep the places of all that ended behind it.
        if self.deadlines.len() > 2 * self.entries.len() + DEADLINES_SLACK {
            let entries = &self.entries;
            self.deadlines.retain(|(_, key)| entries.get(*key).is_some());
        }
        // Deadlines come in order, but for the parts of a request that is older.
        let place = self.deadlines.iter().rposition(|(at, _)| *at <= deadline).map_or(0, |before| before + 1);
        self.deadlines.insert(place, (deadline, key));
        key
    }

    /// Takes an entry out of everything that counts it.
    fn release(&mut self, key: Key) -> Option<Entry<T>> {
        let entry = self.entries.remove(key)?;
        self.keys_held -= entry.work.keys();
        self.bytes_held -= entry.work.bytes();
        while self.deadlines.front().is_some_and(|(_, key)| self.entries.get(*key).is_none()) {
            self.deadlines.pop_front();
        }
        Some(entry)
    }

    /// Ends the entries whose time is up, and drops what queues still hold of them.
    fn expire(&mut self, now: Instant) {
        let mut expired = false;
        while let Some((_, key)) = self.deadlines.front().copied().filter(|(at, _)| *at <= now) {
            self.deadlines.pop_front();
            if self.entries.get(key).is_some() {
                let error = self.deadline_error(key);
                self.conclude(key, Err(error), now);
                expired = true;
            }
        }
        if !expired {
            return;
        }
        let entries = &self.entries;
        self.unrouted.retain(|key| entries.get(*key).is_some());
        self.delayed.retain(|(_, key)| entries.get(*key).is_some());
        let keys: Vec<Key> = self.links.keys().collect();
        for key in keys {
            if let Some(link) = self.links.get_mut(key) {
                link.queue.retain(|key| entries.get(*key).is_some());
            }
        }
        self.forget_ended_in_holds();
    }

    /// Moves what waits on the link to its connection, as far as both have room.
    fn pump(&mut self, link_key: Key, now: Instant) {
        loop {
            let Some(link) = self.links.get_mut(link_key) else { return };
            let LinkState::Up(connection) = &link.state else { return };
            if link.retiring || !connection.has_room() || connection.output().len() >= OUTPUT_BYTES_TARGET {
                return;
            }
            let bytes_max = connection.hello().map_or(usize::MAX, |hello| hello.frame_bytes_max as usize);
            let Some(key) = link.queue.pop_front() else { return };
            let Some(entry) = self.entries.get_mut(key) else { continue };
            let epoch = self.map.topology.as_ref().map_or(0, |topology| topology.epoch);
            if entry.work.is_overtaken(epoch) {
                self.conclude(key, Err(Error::from_status(Status::Moved, 0, &[])), now);
                continue;
            }
            let bytes = entry.work.bytes();
            if bytes > bytes_max {
                self.conclude(key, Err(Error::TooLarge { bytes, bytes_max }), now);
                continue;
            }
            if entry.work.wants_token() && entry.token.is_none() {
                entry.token = Some(link.next_token(&mut self.rng));
            }
            entry.in_flight = true;
            entry.refusal = None;
            if let Some(connection) = link.connection() {
                let takes_trace = connection.has_feature(HelloParameters::FEATURE_TRACE);
                connection.send(key, now, |id, out| {
                    entry
                        .work
                        .put(Head { id, epoch, token: entry.token, is_repeat: entry.uncertain, takes_trace }, out);
                });
            }
        }
    }
}

impl<T> Entry<T> {
    const fn new(work: Work, origin: Origin<T>, deadline: Instant, sequence: u64) -> Self {
        Self {
            work,
            origin,
            deadline,
            sequence,
            token: None,
            in_flight: false,
            uncertain: false,
            waits_for_topology: false,
            refusal: None,
            was_unknown: false,
            setbacks: 0,
        }
    }

    /// Whether this is a write that may have been carried out although no answer came.
    fn maybe_applied(&self) -> bool {
        self.work.operation().is_write() && (self.in_flight || self.uncertain)
    }
}

impl Work {
    fn operation(&self) -> quoit_wire::Operation {
        match self {
            Self::Owner(frame) | Self::Anyone(frame) | Self::EachNode(frame) | Self::Node { frame, .. } => {
                frame.operation
            }
            Self::Entries(entries) => entries.operation,
        }
    }

    /// Whether any copy may answer it.
    const fn takes_any_copy(&self) -> bool {
        match self {
            Self::Owner(frame) => frame.takes_any_copy(),
            Self::Entries(entries) => entries.flags.has(RequestFlags::ANY_COPY),
            Self::Anyone(_) | Self::EachNode(_) | Self::Node { .. } => false,
        }
    }

    /// Whether it must not be sent any more now that the topology is of `epoch`: a part of a flush, when another part may have
    /// been carried out by an older one, and a vnode may have gone from this node to that one since.
    fn is_overtaken(&self, epoch: u32) -> bool {
        matches!(self, Self::Node { frame, epoch: asked, .. } if frame.operation.is_write() && *asked != epoch)
    }

    const fn wants_token(&self) -> bool {
        match self {
            Self::Owner(frame) => frame.wants_token,
            Self::Anyone(_) | Self::EachNode(_) | Self::Node { .. } | Self::Entries(_) => false,
        }
    }

    const fn keys(&self) -> usize {
        match self {
            Self::Owner(_) | Self::Anyone(_) | Self::EachNode(_) | Self::Node { .. } => 1,
            Self::Entries(entries) => entries.count,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Owner(frame) | Self::Anyone(frame) | Self::EachNode(frame) | Self::Node { frame, .. } => {
                frame.bytes()
            }
            Self::Entries(entries) => entries.bytes.len(),
        }
    }

    fn put(&self, head: Head, out: &mut Vec<u8>) {
        match self {
            Self::Owner(frame) | Self::Anyone(frame) | Self::EachNode(frame) | Self::Node { frame, .. } => {
                frame.put(head, out);
            }
            Self::Entries(entries) => entries.put(head, out),
        }
    }
}

/// Keys and bytes of a request.
fn weight(ask: &Ask) -> (usize, usize) {
    match ask {
        Ask::Owner(frame) | Ask::Anyone(frame) | Ask::EachNode(frame) => (1, frame.bytes()),
        Ask::Entries(all) => {
            all.iter().fold((0, 0), |(keys, bytes), entries| (keys + entries.count, bytes + entries.bytes.len()))
        }
        Ask::Refused(_) => (0, 0),
    }
}
