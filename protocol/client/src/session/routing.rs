//! Where requests go: the topology, the links to its cores, and what happens when either changes.

use std::collections::VecDeque;
use std::sync::Arc;

use quoit_wire::changes::TopologyChanges;
use quoit_wire::topology::{Seat, Topology};
use quoit_wire::{HelloParameters, HelloReply, Operation, RequestBody, RequestFlags, Status};
use rand::RngExt;

use super::budget::{backoff, jitter};
use super::connection::Connection;
use super::gather::{Gather, PartWork, Spread, cut};
use super::link::{Link, LinkState, Place};
use super::slab::Key;
use super::{Action, Entry, Fetch, LinkId, Origin, Session, Work};
use crate::error::{Error, Fault, ProtocolError};
use crate::options::{BACKOFF_MAX, TOPOLOGY_JITTER_MAX, TOPOLOGY_RETRY};
use crate::request::Frame;
use crate::time::Instant;

/// Failures of a link, with no other link standing, after which the topology is given up and any server is looked for:
/// the node may have been replaced by another one.
const FAILURES_BEFORE_SCOUT: u32 = 2;
/// Nodes that a client stays connected to, where there are as many and it is connected to one.
const NODES_KEPT: usize = 2;
/// Addresses of nodes that are remembered when a topology is given up.
const OTHERS_MAX: usize = 64;
/// Times a topology that was announced is asked for before the announcement is taken for a mistake.
const FETCH_TRIES_MAX: u32 = 8;
/// Room a frame needs beside its entries: head, parameters.
const FRAME_OVERHEAD_BYTES: usize = 64;

impl<T> Session<T> {
    /// Queues the entry on the link of the core it concerns, cut into parts where it concerns several.
    pub(super) fn route(&mut self, key: Key, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.waits_for_topology = false;
        if self.hold_back(key) {
            return;
        }
        let turn = self.turn_of(key);
        let (Some(topology), Some(entry)) = (&self.map.topology, self.entries.get(key)) else {
            self.unrouted.push_back(key);
            self.wake_scout(now);
            return;
        };
        let link = match &entry.work {
            Work::Owner(frame) if frame.takes_any_copy() => {
                let seat = self.seat_of_any_copy(topology, topology.vnode(frame.key()), entry.setbacks, turn);
                Some(self.link_of(seat, now))
            }
            Work::Owner(frame) => {
                let seat = topology.owner(frame.key());
                Some(self.link_of(seat, now))
            }
            Work::Anyone(_) => Some(self.any_link(None, now)),
            Work::Node { node, .. } => {
                let node = *node;
                let index = topology.nodes.iter().position(|known| known.id == node);
                // What a node had that has left is another node's now.
                index.map(|index| self.any_link(Some(index as u16), now))
            }
            Work::EachNode(_) => return self.spread(key, now),
            Work::Entries(_) => return self.split(key, now),
        };
        match link {
            Some(link) => self.enqueue(link, key, now),
            None => self.conclude(key, Err(Error::from_status(Status::Moved, 0, &[])), now),
        }
    }

    fn enqueue(&mut self, link_key: Key, key: Key, now: Instant) {
        if let Some(link) = self.links.get_mut(link_key) {
            link.queue.push_back(key);
            self.connect_if_due(link_key, now);
        }
    }

    /// Cuts a multi operation by the owners of its keys.
    fn split(&mut self, key: Key, now: Instant) {
        let turn = self.turn_of(key);
        let (Some(topology), Some(entry)) = (&self.map.topology, self.entries.get(key)) else { return };
        let (Work::Entries(entries), Origin::Part { gather, indexes }) = (&entry.work, &entry.origin) else { return };
        let gather = *gather;
        let body_bytes_max = self.map.frame_bytes_max.saturating_sub(FRAME_OVERHEAD_BYTES);
        let seat_of = |key: &[u8]| match entries.flags.has(RequestFlags::ANY_COPY) {
            true => self.seat_of_any_copy(topology, topology.vnode(key), entry.setbacks, turn),
            false => topology.owner(key),
        };
        let parts = cut(entries, indexes, seat_of, body_bytes_max);
        let Some(whole) = self.release(key) else { return };
        for part in parts {
            let work = match part.what {
                PartWork::Entries(entries) => Work::Entries(entries),
                PartWork::Alone(frame) => Work::Owner(frame),
            };
            let origin = Origin::Part { gather, indexes: part.indexes };
            let mut part_entry = Entry::new(work, origin, whole.deadline, whole.sequence);
            (part_entry.setbacks, part_entry.uncertain) = (whole.setbacks, whole.uncertain);
            let part_key = self.hold(part_entry);
            let link = self.link_of(part.seat, now);
            self.enqueue(link, part_key, now);
        }
    }

    /// Turns a request to each node into one for every node there is.
    fn spread(&mut self, key: Key, now: Instant) {
        let Some(topology) = &self.map.topology else { return };
        let nodes: Vec<u64> = topology.nodes.iter().map(|node| node.id).collect();
        let epoch = topology.epoch;
        let Some(whole) = self.release(key) else { return };
        let (Work::EachNode(frame), Origin::Caller(tag)) = (whole.work, whole.origin) else { return };
        let Entry { deadline, sequence, setbacks, .. } = whole;
        let spread = Spread { frame: frame.clone(), deadline, sequence, setbacks };
        let gather = self.gathers.insert(Gather::of_nodes(tag, nodes.len(), spread));
        for (index, node) in nodes.into_iter().enumerate() {
            let origin = Origin::Part { gather, indexes: vec![index as u32] };
            let work = Work::Node { frame: frame.clone(), node, epoch };
            let part = Entry::new(work, origin, deadline, sequence);
            let part = self.hold(part);
            self.route(part, now);
        }
    }

    /// A random number for who asks any copy: with it a request's keys go to as few cores as their copies allow.
    fn turn_of(&mut self, key: Key) -> usize {
        match self.entries.get(key).is_some_and(|entry| entry.work.takes_any_copy()) {
            true => self.rng.random_range(0..usize::MAX),
            false => 0,
        }
    }

    /// Whom to ask that any copy of `vnode` may answer: each as often as the others, but none that can't be reached. After a
    /// copy has refused, the primary; and if that does, any again. `turn` is of [`Self::turn_of`].
    fn seat_of_any_copy(&self, topology: &Topology, vnode: usize, setbacks: u8, turn: usize) -> Seat {
        let placement = &topology.vnodes[vnode];
        let is_reachable = |seat: &Seat| {
            let link = self.map.seats[usize::from(seat.node)][usize::from(seat.core)];
            link.and_then(|link| self.links.get(link)).is_none_or(|link| link.failures() == 0)
        };
        let copies = || placement.seats().filter(is_reachable);
        match copies().count() {
            0 => placement.primary,
            _ if setbacks % 2 == 1 => placement.primary,
            count => copies().nth(turn % count).unwrap_or(placement.primary),
        }
    }

    /// The link to a core of the topology.
    fn link_of(&mut self, seat: Seat, now: Instant) -> Key {
        let (node, core) = (usize::from(seat.node), usize::from(seat.core));
        if let Some(link) = self.map.seats[node][core] {
            return link;
        }
        let node_of = |topology: &Arc<Topology>| (topology.nodes[node].id, topology.nodes[node].address.clone());
        let (id, address) = self.map.topology.as_ref().map(node_of).expect("seats are those of a topology");
        let address = self.map.met_at.get(&id).cloned().unwrap_or(address);
        let link = self.links.insert(Link::new(address, Some(Place { node: id, core: seat.core }), now));
        self.map.seats[node][core] = Some(link);
        link
    }

    /// A link to any core, of the node at this index of the topology or of any: one that stands if there is one.
    fn any_link(&mut self, node: Option<u16>, now: Instant) -> Key {
        let seats = match node {
            Some(node) => &self.map.seats[usize::from(node)..=usize::from(node)],
            None => &self.map.seats[..],
        };
        let known = || seats.iter().flatten().flatten().copied();
        let stands = |key: &Key| self.links.get(*key).is_some_and(|link| link.ready().is_some());
        let link = known().find(stands).or_else(|| known().next());
        link.unwrap_or_else(|| self.link_of(Seat { node: node.unwrap_or(0), core: 0 }, now))
    }

    /// A connection's hello was answered.
    pub(super) fn on_ready(&mut self, key: Key, hello: &HelloReply, now: Instant) {
        let Some(link) = self.links.get_mut(key) else { return };
        link.last_fault = None;
        self.map.met_at.insert(hello.node, link.address.clone());
        self.map.frame_bytes_max = hello.frame_bytes_max as usize;
        match link.place {
            None => link.place = Some(Place { node: hello.node, core: hello.core }),
            // The server may not have been able to hand the connection over. It serves us all the same, by one hop.
            Some(place) if place.node == hello.node => {}
            Some(_) => {
                self.drop_link(key, Fault::Replaced, now);
                if self.links.values().any(|link| link.ready().is_some()) {
                    self.fetch_at(now);
                    self.fetch_if_due(now);
                } else {
                    self.forget_topology(now);
                }
                return;
            }
        }
        let known_epoch = self.map.topology.as_ref().map_or(0, |topology| topology.epoch);
        if known_epoch == 0 {
            self.map.fetch = Fetch::At(now);
        } else if hello.epoch > known_epoch {
            self.want_epoch(Some(key), hello.epoch.into(), now);
        }
        self.fetch_if_due(now);
        self.keep_two_nodes(now);
    }

    /// The server has a topology that is newer than the one it told before.
    pub(super) fn on_news(&mut self, link: Key, epoch: u64, now: Instant) {
        // All its clients hear this at once.
        let wait = jitter(TOPOLOGY_JITTER_MAX, &mut self.rng);
        self.want_epoch(Some(link), epoch, now + wait);
    }

    /// Sees to it that a topology of `epoch` or later, of which this link told, is asked for at `at`, unless it is here.
    pub(super) fn want_epoch(&mut self, told_by: Option<Key>, epoch: u64, at: Instant) {
        // An epoch that is none is a server's mistake, and asking would not mend it.
        let Ok(epoch) = u32::try_from(epoch) else { return };
        let known_epoch = self.map.topology.as_ref().map_or(0, |topology| topology.epoch);
        if epoch <= known_epoch {
            return;
        }
        if epoch > self.map.epoch_wanted {
            (self.map.epoch_wanted, self.map.told_by) = (epoch, told_by);
        }
        self.fetch_at(at);
    }

    /// Sees to it that the topology is asked for at `at`, or before.
    pub(super) fn fetch_at(&mut self, at: Instant) {
        self.map.fetch = match self.map.fetch {
            Fetch::Idle => Fetch::At(at),
            Fetch::At(planned) => Fetch::At(planned.min(at)),
            Fetch::Asked => Fetch::Asked,
        };
    }

    /// Asks for the topology if it is time and a connection stands.
    pub(super) fn fetch_if_due(&mut self, now: Instant) {
        if !matches!(self.map.fetch, Fetch::At(at) if at <= now) {
            return;
        }
        let Some(link_key) = self.fetch_link() else { return };
        let known_epoch = self.map.topology.as_ref().map_or(0, |topology| topology.epoch);
        let connection = self.links.get(link_key).and_then(Link::ready);
        let tells_changes = |it: &Connection| it.has_feature(HelloParameters::FEATURE_TOPOLOGY_CHANGES);
        let body = match self.map.takes_changes && known_epoch != 0 && connection.is_some_and(tells_changes) {
            true => RequestBody::TopologyChanges { known_epoch },
            false => RequestBody::Topology { known_epoch },
        };
        let work = Work::Anyone(Frame::new(&body));
        let key = self.hold(Entry::new(work, Origin::Topology, now + self.options.deadline, 0));
        if let Some(link) = self.links.get_mut(link_key) {
            link.queue.push_front(key);
            self.map.asked = link.place.map(|place| place.node);
            self.map.told_by = None;
        }
        self.map.fetch = Fetch::Asked;
    }

    /// A link that can be asked for the topology now: that which told of the newest, or of another node than the last one
    /// asked, where there is one. A node that is cut off from the others must not be the only one believed.
    pub(super) fn fetch_link(&self) -> Option<Key> {
        let stands = |key: &Key| self.links.get(*key).is_some_and(|link| link.ready().is_some() && !link.retiring);
        let node = |key: Key| self.links.get(key).and_then(|link| link.place).map(|place| place.node);
        if let Some(told_by) = self.map.told_by.filter(stands) {
            return Some(told_by);
        }
        let another = self.links.keys().filter(stands).find(|key| node(*key) != self.map.asked);
        another.or_else(|| self.links.keys().find(stands))
    }

    /// Keeps connections to two nodes, so that news of the topology arrives although one of them is gone or cut off.
    fn keep_two_nodes(&mut self, now: Instant) {
        let Some(topology) = &self.map.topology else { return };
        let is_up = |id: u64| {
            let of_node = |link: &&Link| link.place.is_some_and(|place| place.node == id) && !link.retiring;
            self.links
                .values()
                .filter(of_node)
                .any(|link| !matches!(link.state, LinkState::Down { .. }) || link.is_kept)
        };
        let away: Vec<u16> =
            (0..topology.nodes.len() as u16).filter(|node| !is_up(topology.nodes[usize::from(*node)].id)).collect();
        if topology.nodes.len() - away.len() >= NODES_KEPT || away.is_empty() {
            return;
        }
        let node = away[self.rng.random_range(0..away.len())];
        let core = self.rng.random_range(0..topology.nodes[usize::from(node)].cores);
        let key = self.link_of(Seat { node, core }, now);
        if let Some(link) = self.links.get_mut(key) {
            link.is_kept = true;
        }
        self.connect_if_due(key, now);
    }

    /// The answer to [`Self::fetch_if_due`]; an empty body says that the topology known is the newest.
    pub(super) fn on_topology(&mut self, link_key: Key, body: &[u8], now: Instant) {
        self.map.fetch = Fetch::Idle;
        if !body.is_empty() {
            match Topology::from_bytes(body) {
                Ok(topology) => {
                    let known_epoch = self.map.topology.as_ref().map_or(0, |topology| topology.epoch);
                    if topology.epoch > known_epoch {
                        self.install(topology, now);
                    }
                }
                Err(_) => {
                    let operation = Operation::Topology.name();
                    return self.on_topology_failed(link_key, ProtocolError::Body { operation }.into(), now);
                }
            }
        }
        self.fetch_again_if_wanted(now);
    }

    /// The answer to a request for what has changed; an empty body says that nothing has.
    pub(super) fn on_topology_changes(&mut self, link_key: Key, body: &[u8], now: Instant) {
        self.map.fetch = Fetch::Idle;
        if !body.is_empty() {
            let changes = TopologyChanges::from_bytes(body).ok();
            let known = self.map.topology.as_deref();
            match known.zip(changes).and_then(|(known, changes)| changes.apply(known).ok()) {
                Some(topology) => {
                    self.counters.topology_changes += 1;
                    self.install(topology, now);
                }
                // The topology that it was for may have come another way meanwhile: the whole is right in any case.
                None => return self.on_changes_unknown(link_key, now),
            }
        }
        self.fetch_again_if_wanted(now);
    }

    /// The server can't tell what has changed, or what it told does not fit: it is asked for the whole.
    pub(super) fn on_changes_unknown(&mut self, link_key: Key, now: Instant) {
        self.map.takes_changes = false;
        self.map.told_by = Some(link_key);
        self.map.fetch = Fetch::At(now);
        self.fetch_if_due(now);
    }

    /// The server did not answer the request for the topology with one: a link that has none to offer is of no use.
    pub(super) fn on_topology_failed(&mut self, link_key: Key, fault: Fault, now: Instant) {
        self.map.fetch = Fetch::Idle;
        self.drop_link(link_key, fault, now);
        self.fetch_again_if_wanted(now);
    }

    /// The request for the topology was not answered.
    pub(super) fn on_topology_missed(&mut self, now: Instant) {
        self.map.fetch = Fetch::Idle;
        self.fetch_again_if_wanted(now);
    }

    fn fetch_again_if_wanted(&mut self, now: Instant) {
        let known_epoch = self.map.topology.as_ref().map_or(0, |topology| topology.epoch);
        if known_epoch != 0 && known_epoch >= self.map.epoch_wanted {
            self.map.fetch_tries = 0;
            return;
        }
        self.map.fetch_tries += 1;
        if known_epoch != 0 && self.map.fetch_tries > FETCH_TRIES_MAX {
            self.map.fetch_tries = 0;
            self.map.epoch_wanted = known_epoch;
            return;
        }
        let wait = backoff(TOPOLOGY_RETRY, BACKOFF_MAX, self.map.fetch_tries, &mut self.rng);
        self.map.fetch = Fetch::At(now + wait);
    }

    /// Routes by `topology` from here on: everything that is not in flight anew, in the order of submission.
    fn install(&mut self, topology: Topology, now: Instant) {
        self.map.scout = None;
        self.map.scout_failures = 0;
        self.map.startup_error = None;
        self.map.takes_changes = true;
        self.map.seats = topology.nodes.iter().map(|node| vec![None; usize::from(node.cores)]).collect();
        let keys: Vec<Key> = self.links.keys().collect();
        let mut waiting = std::mem::take(&mut self.unrouted);
        waiting.extend(self.take_held());
        for key in keys {
            let Some(link) = self.links.get_mut(key) else { continue };
            waiting.extend(std::mem::take(&mut link.queue));
            let node = link.place.and_then(|place| {
                let node = topology.nodes.iter().position(|node| node.id == place.node)?;
                (place.core < topology.nodes[node].cores).then_some((node, usize::from(place.core)))
            });
            match node.map(|(node, core)| (node, &mut self.map.seats[node][core])) {
                // Two connections may have landed on one core while it could not hand them over.
                Some((node, seat @ None)) if !link.retiring => {
                    *seat = Some(key);
                    let address = self.map.met_at.get(&topology.nodes[node].id);
                    link.address.clone_from(address.unwrap_or(&topology.nodes[node].address));
                }
                _ => self.retire(key, now),
            }
        }
        let nodes = &topology.nodes;
        self.map.met_at.retain(|id, _| nodes.iter().any(|node| node.id == *id));
        let entries = &self.entries;
        let waits_for_this = |key: &Key| entries.get(*key).is_some_and(|entry| entry.waits_for_topology);
        waiting.extend(self.delayed.iter().map(|(_, key)| *key).filter(waits_for_this));
        self.delayed.retain(|(_, key)| !waits_for_this(key));
        self.map.topology = Some(Arc::new(topology));
        self.counters.topologies += 1;
        self.map.others.clear();
        self.route_all(waiting, now);
        self.keep_two_nodes(now);
    }

    /// Gives the topology up and looks for any server.
    fn forget_topology(&mut self, now: Instant) {
        if let Some(topology) = self.map.topology.take() {
            // Starting anywhere: the first nodes of a large cluster are not everybody's.
            let start = self.rng.random_range(0..topology.nodes.len());
            let nodes = topology.nodes.iter().cycle().skip(start).take(topology.nodes.len().min(OTHERS_MAX));
            self.map.others = nodes.map(|node| node.address.clone()).collect();
        }
        self.map.seats.clear();
        self.map.met_at.clear();
        (self.map.epoch_wanted, self.map.told_by) = (0, None);
        self.map.fetch = Fetch::Idle;
        let mut waiting: VecDeque<Key> = self.take_held().collect();
        let keys: Vec<Key> = self.links.keys().collect();
        for key in keys {
            if let Some(link) = self.links.get_mut(key) {
                waiting.extend(std::mem::take(&mut link.queue));
            }
            self.retire(key, now);
        }
        self.send_scout(now);
        self.route_all(waiting, now);
    }

    pub(super) fn route_all(&mut self, keys: VecDeque<Key>, now: Instant) {
        let sequence = |key: Key| self.entries.get(key).map(|entry| (entry.sequence, key));
        let mut keys: Vec<_> = keys.into_iter().filter_map(sequence).collect();
        keys.sort_by_key(|(sequence, _)| *sequence);
        for (_, key) in keys {
            if matches!(self.entries.get(key), Some(Entry { origin: Origin::Topology, .. })) {
                self.conclude(key, Err(Error::Closed), now);
            } else {
                self.route(key, now);
            }
        }
    }

    /// Sends nothing more over the link, and lets go of it once its unanswered are answered.
    fn retire(&mut self, key: Key, now: Instant) {
        let Some(link) = self.links.get_mut(key) else { return };
        link.retiring = true;
        match link.state {
            LinkState::Up(_) => self.retire_if_done(key),
            LinkState::Connecting { .. } => self.drop_link(key, Fault::Replaced, now),
            LinkState::Down { .. } => drop(self.links.remove(key)),
        }
    }

    /// Closes a retiring link that nobody waits for any more.
    pub(super) fn retire_if_done(&mut self, key: Key) {
        let Some(link) = self.links.get_mut(key).filter(|link| link.retiring) else { return };
        if link.connection().is_some_and(|connection| connection.unanswered() == 0) {
            self.links.remove(key);
            self.actions.push_back(Action::Close { link: LinkId(key) });
        }
    }

    /// Makes the link that looks for any server.
    pub(super) fn send_scout(&mut self, now: Instant) {
        let address = self.next_server();
        let key = self.links.insert(Link::new(address, None, now));
        self.map.scout = Some(key);
        self.connect_if_due(key, now);
    }

    fn next_server(&mut self) -> String {
        let places = self.map.servers.len() + self.map.others.len();
        let place = self.map.next_server % places;
        self.map.next_server = (place + 1) % places;
        self.map.servers.iter().chain(&self.map.others).nth(place).cloned().unwrap_or_default()
    }

    fn wake_scout(&mut self, now: Instant) {
        match self.map.scout {
            Some(scout) => self.connect_if_due(scout, now),
            None => self.send_scout(now),
        }
    }

    /// Asks the front to connect if something waits for the link and its time has come.
    fn connect_if_due(&mut self, key: Key, now: Instant) {
        let is_wanted = self.is_wanted(key);
        let Some(link) = self.links.get_mut(key) else { return };
        if let LinkState::Down { retry_at } = link.state
            && retry_at <= now
            && is_wanted
        {
            link.state = LinkState::Connecting { since: now };
            self.actions.push_back(Action::Connect { link: LinkId(key), address: link.address.clone() });
        }
    }

    /// Whether something waits for the link to connect.
    fn is_wanted(&self, key: Key) -> bool {
        let is_scout = self.map.scout == Some(key);
        // Before the first topology somebody waits for it in any case: the caller who connects.
        let scout_is_wanted = !self.unrouted.is_empty() || self.submitted == 0;
        let is_wanted = |link: &Link| !link.queue.is_empty() || link.is_kept && self.stands_elsewhere(key);
        self.links.get(key).is_some_and(is_wanted) || is_scout && scout_is_wanted
    }

    /// Whether a connection stands beside that of this link. A client without any leaves the cluster alone until it is
    /// asked something.
    fn stands_elsewhere(&self, key: Key) -> bool {
        self.links.keys().any(|other| other != key && self.links.get(other).is_some_and(|link| link.ready().is_some()))
    }

    /// What is due on a link: an attempt to connect, the end of one, or of a connection that stalls.
    pub(super) fn check_link(&mut self, key: Key, now: Instant) {
        let fault = match self.links.get(key).map(|link| &link.state) {
            Some(LinkState::Connecting { since }) if *since + self.options.connect_limit <= now => {
                Fault::ConnectTimeout(self.options.connect_limit)
            }
            Some(LinkState::Up(connection)) if stalls_by(connection, self.options.stall_limit, now) => {
                Fault::Stalled(self.options.stall_limit)
            }
            Some(LinkState::Down { .. }) => return self.connect_if_due(key, now),
            _ => return,
        };
        self.drop_link(key, fault, now);
    }

    /// When [`Self::check_link`] has something to do.
    pub(super) fn link_timeout(&self, key: Key) -> Option<Instant> {
        match &self.links.get(key)?.state {
            LinkState::Down { retry_at } => self.is_wanted(key).then_some(*retry_at),
            LinkState::Connecting { since } => Some(*since + self.options.connect_limit),
            LinkState::Up(connection) => connection.stalls_at(self.options.stall_limit),
        }
    }

    /// Gives a connection up: the front lets go of it, and all is as if it had been lost.
    pub(super) fn drop_link(&mut self, key: Key, fault: Fault, now: Instant) {
        self.actions.push_back(Action::Close { link: LinkId(key) });
        self.on_lost(key, fault, now);
    }

    /// A connection is gone. Its unanswered requests go first when there is another.
    pub(super) fn on_lost(&mut self, key: Key, fault: Fault, now: Instant) {
        let Some(link) = self.links.get_mut(key) else { return };
        let address = link.address.clone();
        let retiring = link.retiring;
        self.counters.losses += 1;
        let unanswered = link.fail(fault.clone(), now, &mut self.rng);
        let again = self.settle_unanswered(unanswered, &address, &fault, now);
        if retiring {
            self.links.remove(key);
            self.route_all(again.into(), now);
        } else if self.map.topology.is_none() {
            self.on_scout_failed(key, address, fault, now);
        } else if let Some(link) = self.links.get_mut(key) {
            again.into_iter().rev().for_each(|entry| link.queue.push_front(entry));
            let failures = link.failures();
            link.is_kept = false;
            self.turn_address(key);
            let another_stands = self.links.values().any(|link| link.ready().is_some());
            if failures >= FAILURES_BEFORE_SCOUT && !another_stands {
                self.forget_topology(now);
            } else if another_stands {
                self.keep_two_nodes(now);
            }
        }
    }

    /// A node is tried where it was met first, because that works from here, and then where the topology says, because it
    /// may have moved; and so on in turn.
    fn turn_address(&mut self, key: Key) {
        let (Some(topology), Some(link)) = (&self.map.topology, self.links.get_mut(key)) else { return };
        let Some(node) = link.place.and_then(|place| topology.nodes.iter().find(|node| node.id == place.node)) else {
            return;
        };
        let met_at = self.map.met_at.get(&node.id).filter(|_| !link.failures().is_multiple_of(2));
        link.address.clone_from(met_at.unwrap_or(&node.address));
    }

    /// The scout tries the next server: at once while there are untried ones, else after a wait.
    fn on_scout_failed(&mut self, key: Key, address: String, fault: Fault, now: Instant) {
        self.map.fetch = Fetch::Idle;
        self.map.scout_failures = self.map.scout_failures.saturating_add(1);
        let servers = (self.map.servers.len() + self.map.others.len()) as u32;
        let round_is_over = self.map.scout_failures.is_multiple_of(servers);
        if round_is_over && self.submitted == 0 {
            self.map.startup_error = Some(Error::Connect { address, source: fault });
        }
        let next = self.next_server();
        let Some(link) = self.links.get_mut(key) else { return };
        link.address = next;
        link.place = None;
        if !round_is_over {
            link.state = LinkState::Down { retry_at: now };
        }
        self.connect_if_due(key, now);
    }
}

fn stalls_by(connection: &Connection, stall_limit: std::time::Duration, now: Instant) -> bool {
    connection.stalls_at(stall_limit).is_some_and(|at| at <= now)
}
