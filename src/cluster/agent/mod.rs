//! The agent: one node's place in the cluster.
//!
//! ```text
//!  read all keys ─► watch them ─► identity ─► lease ─► registration ─► candidacy ─► member
//!       ▲                         (created     │         │ the id is taken: wait for up to two leases,
//!       │                          if absent)  │         │ for it may be this node's last life
//!       └── watch closed, transaction          └─ lost: a new one, and all that lay under it
//!           unanswered or refused
//! ```
//!
//! It asks for whatever is missing, one thing at a time, keeps the lease alive beside it, and holds the cluster's keys as
//! a mirror. While it is the oldest candidate and its lease is good, it has a [`Leader`]. It carries orders and
//! reports between this node's cores and the leader, wherever that is.
//!
//! The lease is good until nine tenths of its time after the keep-alive was *sent* (C5), and a core that does not turn ends
//! it: keep-alives stop. A transaction that is not answered is not repeated: all keys are read again, and show.

mod mirror;
mod wishes;

use std::collections::VecDeque;
use std::sync::Arc;

use quoit_wire::WriteMode;
use quoit_wire::topology::Seat;

use self::mirror::Mirror;
pub use self::wishes::Wish;
use self::wishes::Wishes;
use super::etcd::{Compare, Entry, EtcdFailure, EtcdRequest, EtcdResponse, Put, WatchEvent};
use super::leader::{Founding, Known, Leader};
use super::messages::{ControlMessage, ENTRIES_MAX, Election, Order, Report};
use super::records::{Identity, Keys, RecordError};
use super::ring::{NodeRef, Registration, Ring, RingError, Roles};
use crate::time::{Duration, Instant};

/// A request that is not answered by then counts as unanswered.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
/// After a failure, the next attempt waits this long: an etcd in trouble is not hammered.
const RETRY_WAIT: Duration = Duration::from_millis(200);
/// The leader has etcd forget old revisions this often; the last ones stay for watches that fall behind.
const COMPACT_EVERY: Duration = Duration::from_secs(300);
/// Messages to other nodes that wait to be taken. Past that the oldest goes: who waits for it repeats.
const MESSAGES_MAX: usize = 4096;

/// What a node brings to its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentOptions {
    /// The cluster's name.
    pub cluster: String,
    /// How the node presents itself.
    pub registration: Registration,
    /// Time to live of its lease, in whole seconds as etcd has it.
    pub lease_secs: i64,
    /// For a cluster that does not exist yet: its identity, as this node would have it.
    pub identity: Identity,
    /// For a cluster that does not exist yet: replicas beside each primary.
    pub replicas: u8,
    /// For a cluster that does not exist yet: what a write waits for that does not say.
    pub write_mode: WriteMode,
}

/// Something that its node has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A new ring.
    Ring(Arc<Ring>),
    /// Who leads, and by which election; cores put the election into their reports.
    Leader(Option<(NodeRef, Election)>),
    /// The lease is good until then (C5).
    Lease(Instant),
    /// An order for one of this node's seats, under this election.
    Order(Election, Seat, Order),
    /// Something stands in the way. Told when it begins.
    Trouble(Trouble),
    /// What became of the wish with this number: etcd has it, or it can't be said whether it ever will.
    Wish(u64, bool),
}

/// What stands in a node's way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// Two nodes with one id.
    #[error("node id {id:#x} is in use by the node at {address}: give this one another --node-id, or stop that one")]
    IdTaken {
        /// The id.
        id: u64,
        /// Where the other one is.
        address: String,
    },
    /// A cluster of this name, but another one than before.
    #[error("etcd now has another cluster of this name (id {0:#x}): check --etcd and --cluster, or restart to join it")]
    OtherCluster(u64),
    /// A record that can't be used.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Another node's registration can't be used. Everybody else goes on without it.
    #[error("the node with the id 0x{id} is left out: {error}")]
    LeftOut {
        /// Its id, as its key has it.
        id: String,
        /// What is wrong with its registration.
        error: RecordError,
    },
    /// The ring that should follow can't be. It is not written, and the last one stays.
    #[error("the next ring can't be, and is not written: {0}")]
    NextRing(RingError),
    /// etcd's data is older than what it had: a backup, or another etcd.
    #[error(
        "etcd's ring has epoch {found} where it had {known} before: was it restored? Restart all nodes to accept that"
    )]
    WentBack {
        /// The epoch that this node has seen.
        known: u32,
        /// The epoch there is now.
        found: u32,
    },
    /// etcd refused something.
    #[error("etcd refused a request: {0}")]
    Refused(String),
    /// etcd does not answer. No role changes meanwhile (C15).
    #[error("etcd does not answer; this node goes on as it is while its lease lasts")]
    Unanswered,
}

/// A lease that etcd gave.
#[derive(Clone, Copy, Debug)]
struct Lease {
    id: i64,
    ttl: Duration,
    good_until: Instant,
    next_keep_alive: Instant,
}

/// A request that has not been answered.
#[derive(Clone, Copy, Debug)]
struct Pending {
    ticket: u64,
    purpose: Purpose,
    sent: Instant,
}

/// A write of the ring, until the keys show it, or have been read again since it failed.
#[derive(Clone, Copy, Debug)]
struct RingWrite {
    epoch: u32,
    sent: Instant,
    has_failed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Read,
    Grant,
    KeepAlive(i64),
    /// A transaction of the node's own: identity, registration, candidacy, an operator's wish.
    Own,
    RingWrite,
    Compact,
}

/// One node's place in the cluster.
#[derive(Debug)]
pub struct Agent {
    options: AgentOptions,
    keys: Keys,
    mirror: Option<Mirror>,
    /// What the last mirror said, while there is none: for who asks. Nothing is decided by it.
    known_before: Known,
    is_watching: bool,
    /// What the cluster was when this node first saw it.
    cluster_id: Option<u64>,
    /// The last good ring, and the revision of its head.
    ring: Option<Arc<Ring>>,
    ring_revision: i64,
    /// The write of the ring that the leader waits for.
    write: Option<RingWrite>,
    lease: Option<Lease>,
    pending: Option<Pending>,
    keep_alive: Option<Pending>,
    next_ticket: u64,
    retry_at: Instant,
    /// Since when somebody else has this node's id.
    id_taken: Option<Instant>,
    leader: Option<Leader>,
    told_leader: Option<(NodeRef, Election)>,
    trouble: Option<Trouble>,
    compacted: (Instant, i64),
    cores_alive: Vec<Instant>,
    wishes: Wishes,
    news: VecDeque<News>,
    messages: VecDeque<(NodeRef, ControlMessage)>,
}

impl Agent {
    /// A node that knows nothing of its cluster yet.
    pub fn new(now: Instant, options: AgentOptions) -> Self {
        Self {
            keys: Keys::new(&options.cluster),
            cores_alive: vec![now; usize::from(options.registration.cores)],
            options,
            mirror: None,
            known_before: Known::default(),
            is_watching: false,
            cluster_id: None,
            ring: None,
            ring_revision: 0,
            write: None,
            lease: None,
            pending: None,
            keep_alive: None,
            next_ticket: 1,
            retry_at: now,
            id_taken: None,
            leader: None,
            told_leader: None,
            trouble: None,
            compacted: (now, 0),
            wishes: Wishes::default(),
            news: VecDeque::new(),
            messages: VecDeque::new(),
        }
    }

    /// The last good ring.
    pub fn ring(&self) -> Option<&Arc<Ring>> {
        self.ring.as_ref()
    }

    /// What the cluster's keys say, as far as they have been seen.
    pub fn known(&self) -> Known {
        match &self.mirror {
            Some(mirror) => mirror.known(&self.keys, self.ring.clone()),
            None => Known { ring: self.ring.clone(), ..self.known_before.clone() },
        }
    }

    /// Who leads, as far as it is known.
    pub fn leader(&self) -> Option<NodeRef> {
        self.told_leader.map(|(node, _)| node)
    }

    /// What stands in the way now.
    pub fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref()
    }

    /// Whether this node leads, as far as it may act on it.
    pub fn leads(&self, now: Instant) -> bool {
        self.leader.is_some() && self.has_good_lease(now)
    }

    /// Whether nobody can think this node gone (C5).
    pub fn has_good_lease(&self, now: Instant) -> bool {
        self.lease.is_some_and(|lease| now < lease.good_until)
    }

    /// A core has turned. With one that does not for a third of the lease, the lease is not kept alive.
    pub fn handle_core_alive(&mut self, now: Instant, core: u16) {
        if let Some(alive) = self.cores_alive.get_mut(usize::from(core)) {
            *alive = now;
        }
    }

    /// An operator wants something of the node with this id. [`News::Wish`] answers, with this number.
    pub fn handle_wish(&mut self, now: Instant, number: u64, id: u64, wish: Wish) {
        if self.wishes.push(now, number, id, wish) {
            self.look_at_wishes();
        } else {
            self.news.push_back(News::Wish(number, false));
        }
    }

    /// The node is about to end: from now on it gives everything away and takes nothing, until [`Self::vnodes_to_give`] says that there are none.
    pub fn leave(&mut self) {
        self.options.registration.leaving = true;
    }

    /// Vnodes that are left to give away.
    pub fn vnodes_to_give(&self) -> usize {
        let own = self.options.registration.node;
        let Some((ring, slot)) = self.ring.as_ref().and_then(|ring| Some((ring, ring.slot_of(own)?))) else {
            return 0;
        };
        let is_seated = |roles: &Roles| roles.primary.node == slot || roles.copies().any(|copy| copy.seat.node == slot);
        ring.vnodes.iter().filter(|roles| is_seated(roles)).count()
    }

    /// Whether there is another node that takes vnodes.
    pub fn has_taker(&self) -> bool {
        let own = self.options.registration.node;
        let mut members = self.ring.iter().flat_map(|ring| ring.slots.iter().flatten());
        members.any(|member| member.node != own && !member.draining)
    }

    /// A core's report, made under `election`.
    pub fn handle_report(&mut self, now: Instant, election: Election, seat: Seat, report: Report) {
        match self.told_leader {
            Some((node, current)) if current == election => {
                let message = ControlMessage::Reports { election, reports: vec![(seat, report)] };
                self.send(now, node, message);
            }
            // Its core hears of the new leader and reports again.
            _ => {}
        }
    }

    /// A message of another node.
    pub fn handle_message(&mut self, now: Instant, from: NodeRef, message: ControlMessage) {
        match message {
            ControlMessage::Orders { election, orders } => {
                let is_current = self.told_leader == Some((from, election));
                let orders = orders.into_iter().filter(|_| is_current);
                self.news.extend(orders.map(|(seat, order)| News::Order(election, seat, order)));
            }
            ControlMessage::Reports { election, reports } => {
                if !self.leads(now) {
                    return;
                }
                let leader = self.leader.as_mut().filter(|leader| leader.election() == election);
                if let Some(leader) = leader {
                    reports.into_iter().for_each(|(seat, report)| leader.handle_report(from, seat, report));
                }
            }
            // Between those who answer operators: nothing that is decided here rests on it.
            ControlMessage::AskLoad { .. } | ControlMessage::Load { .. } => {}
        }
    }

    /// The answer to the request with this ticket.
    pub fn handle_response(&mut self, now: Instant, ticket: u64, response: EtcdResponse) {
        if self.keep_alive.is_some_and(|pending| pending.ticket == ticket) {
            let pending = self.keep_alive.take();
            pending.into_iter().for_each(|pending| self.handle_kept_alive(now, pending, response.clone()));
            return;
        }
        // An answer that comes after its deadline: the keys have been read since, or are being.
        let Some(pending) = self.pending.take_if(|pending| pending.ticket == ticket) else { return };
        if !matches!(response, EtcdResponse::Failed(_)) {
            let is_over = |trouble: &mut Trouble| matches!(trouble, Trouble::Unanswered | Trouble::Refused(_));
            self.trouble.take_if(is_over);
        }
        match response {
            EtcdResponse::Range { revision, entries } if pending.purpose == Purpose::Read => {
                self.mirror = Some(Mirror::new(revision, entries));
                self.look(now);
            }
            EtcdResponse::LeaseGranted { lease, ttl_secs } => {
                let ttl = Duration::from_secs(ttl_secs.unsigned_abs());
                self.lease = Some(Lease { id: lease, ttl, good_until: pending.sent, next_keep_alive: now });
                self.renew(pending.sent);
            }
            // What it did, the watch tells, or has told already; until then there is nothing to do but to wait for it.
            EtcdResponse::Transaction { succeeded: true, revision } => {
                let is_unseen = self.mirror.as_ref().is_some_and(|mirror| mirror.revision < revision);
                self.retry_at = if is_unseen { now + RETRY_WAIT } else { self.retry_at };
            }
            // The mirror is behind.
            EtcdResponse::Transaction { succeeded: false, .. } => self.read_again(),
            EtcdResponse::Failed(failure) => self.handle_failure(now, pending.purpose, failure),
            _ => {}
        }
    }

    /// What the watch tells; events of one revision belong into one call.
    pub fn handle_watch(&mut self, now: Instant, events: Vec<WatchEvent>) {
        for event in events {
            if event == WatchEvent::Closed {
                self.read_again();
            } else if let Some(mirror) = &mut self.mirror {
                mirror.apply(event);
            }
        }
        // etcd is there: no reason to wait any longer.
        self.retry_at = self.retry_at.min(now);
        self.look(now);
    }

    /// The next request to etcd, with its ticket. A watch has no answer but its events.
    pub fn poll_request(&mut self, now: Instant) -> Option<(u64, EtcdRequest)> {
        self.give_up_waiting(now);
        if self.id_taken.is_some() && self.mirror.is_some() {
            self.look_who_has_the_id(now);
        }
        if let Some(request) = self.poll_keep_alive(now) {
            return Some(request);
        }
        if let Some(mirror) = &self.mirror
            && !self.is_watching
        {
            self.is_watching = true;
            let (prefix, from_revision) = (self.keys.prefix().to_owned(), mirror.revision + 1);
            return Some((self.ticket(), EtcdRequest::Watch { prefix, from_revision }));
        }
        if self.pending.is_some() {
            return None;
        }
        let (purpose, request) = self.next_request(now)?;
        let ticket = self.ticket();
        self.pending = Some(Pending { ticket, purpose, sent: now });
        Some((ticket, request))
    }

    /// The next message to another node.
    pub fn poll_message(&mut self, now: Instant) -> Option<(NodeRef, ControlMessage)> {
        if self.messages.is_empty() && self.leads(now) {
            let election = self.leader.as_ref().map_or(0, Leader::election);
            let orders = self.leader.as_mut().map(|leader| leader.poll_orders(now)).unwrap_or_default();
            orders
                .into_iter()
                .for_each(|(node, orders)| self.send(now, node, ControlMessage::Orders { election, orders }));
        }
        self.messages.pop_front()
    }

    /// The next thing that this node has to know.
    pub fn poll_news(&mut self) -> Option<News> {
        self.news.pop_front()
    }

    /// When to poll again though nothing has come.
    pub fn poll_timeout(&self, now: Instant) -> Instant {
        let deadlines = [self.pending, self.keep_alive].into_iter().flatten().map(|it| it.sent + REQUEST_TIMEOUT);
        let keep_alive = self.lease.filter(|_| self.keep_alive.is_none()).map(|lease| lease.next_keep_alive);
        let retry = Some(self.retry_at).filter(|retry| *retry > now);
        let leader = self.leader.as_ref().filter(|_| self.leads(now)).and_then(|leader| leader.poll_timeout(now));
        let waiting = self.id_taken.map(|_| now + RETRY_WAIT);
        let wishes = self.wishes.timeout();
        let all = deadlines.chain([keep_alive, retry, leader, waiting, wishes].into_iter().flatten());
        all.min().unwrap_or(now + REQUEST_TIMEOUT).max(now)
    }

    /// What is missing next, if anything.
    fn next_request(&mut self, now: Instant) -> Option<(Purpose, EtcdRequest)> {
        if now < self.retry_at {
            return None;
        }
        let Some(mirror) = &self.mirror else {
            return Some((Purpose::Read, EtcdRequest::Range { prefix: self.keys.prefix().to_owned() }));
        };
        if let Some(Trouble::OtherCluster(_) | Trouble::Record(_) | Trouble::WentBack { .. }) = self.trouble {
            return None;
        }
        if self.cluster_id.is_none() {
            let put = Put { key: self.keys.identity(), value: self.options.identity.to_bytes(), lease: 0 };
            return Some((Purpose::Own, create(put)));
        }
        if let Some(request) = self.wishes.request(mirror, &self.keys) {
            return Some((Purpose::Own, request));
        }
        let Some(lease) = self.lease else {
            return Some((Purpose::Grant, EtcdRequest::LeaseGrant { ttl_secs: self.options.lease_secs }));
        };
        if now >= lease.good_until {
            // etcd may have ended it and would refuse what is put under it: the keep-alive's answer says.
            return None;
        }
        let own = &self.options.registration;
        let (key, value) = (self.keys.node(own.node.id), own.to_bytes());
        let put = Put { key: key.clone(), value: value.clone(), lease: lease.id };
        let is_own = |entry: &Entry| Registration::from_bytes(&entry.value).is_ok_and(|found| found.node == own.node);
        match mirror.get(&key) {
            None => return Some((Purpose::Own, create(put))),
            // This life's: under a lease that was lost and is not over yet, or not as it should be now.
            Some(entry) if is_own(entry) && (entry.value != value || entry.lease != lease.id) => {
                let compares = vec![Compare::ModRevision { key, revision: entry.mod_revision }];
                return Some((Purpose::Own, EtcdRequest::Transaction { compares, puts: vec![put] }));
            }
            Some(entry) if entry.value != value => return None,
            Some(_) => {}
        }
        let key = self.keys.candidate(lease.id);
        if mirror.get(&key).is_none() {
            let value = self.options.registration.node.to_bytes();
            return Some((Purpose::Own, create(Put { key, value, lease: lease.id })));
        }
        if !self.leads(now) {
            return None;
        }
        self.write_ring(now, lease).or_else(|| self.compact(now))
    }

    /// The leader's next ring, in a transaction that holds only while it leads and nobody has written in between.
    fn write_ring(&mut self, now: Instant, lease: Lease) -> Option<(Purpose, EtcdRequest)> {
        let (leader, mirror) = (self.leader.as_mut()?, self.mirror.as_ref()?);
        let revision = i64::try_from(leader.election()).ok()?;
        let next = leader.poll_write(now)?;
        if let Err(error) = next.check() {
            // Nobody would take it, and nobody could follow it.
            leader.handle_write_done(now);
            self.tell(Trouble::NextRing(error));
            return None;
        }
        self.trouble.take_if(|trouble| matches!(trouble, Trouble::NextRing(_)));
        self.write = Some(RingWrite { epoch: next.epoch, sent: now, has_failed: false });
        let puts = self.keys.ring_changes(self.ring.as_deref(), &next).into_iter();
        let compares = vec![
            Compare::CreateRevision { key: self.keys.candidate(lease.id), revision },
            Compare::ModRevision { key: self.keys.head(), revision: mirror.mod_revision(&self.keys.head()) },
        ];
        let puts = puts.map(|(key, value)| Put { key, value, lease: 0 }).collect();
        Some((Purpose::RingWrite, EtcdRequest::Transaction { compares, puts }))
    }

    fn compact(&mut self, now: Instant) -> Option<(Purpose, EtcdRequest)> {
        let (since, revision) = self.compacted;
        if now < since + COMPACT_EVERY {
            return None;
        }
        self.compacted = (now, self.mirror.as_ref()?.revision);
        // What was new at the last time is old now.
        Some((Purpose::Compact, EtcdRequest::Compact { revision })).filter(|_| revision > 0)
    }

    fn poll_keep_alive(&mut self, now: Instant) -> Option<(u64, EtcdRequest)> {
        let lease = self.lease.filter(|lease| self.keep_alive.is_none() && now >= lease.next_keep_alive)?;
        let third = Duration::from_millis(lease.ttl.as_millis() / 3);
        if self.cores_alive.iter().any(|alive| now.since(*alive) > third) {
            return None;
        }
        let ticket = self.ticket();
        self.keep_alive = Some(Pending { ticket, purpose: Purpose::KeepAlive(lease.id), sent: now });
        Some((ticket, EtcdRequest::LeaseKeepAlive { lease: lease.id }))
    }

    fn handle_kept_alive(&mut self, now: Instant, pending: Pending, response: EtcdResponse) {
        if !self.lease.is_some_and(|lease| pending.purpose == Purpose::KeepAlive(lease.id)) {
            return;
        }
        match response {
            EtcdResponse::LeaseKept { ttl_secs } if ttl_secs > 0 => self.renew(pending.sent),
            // It is over: what lay under it is gone, and the leadership with it.
            EtcdResponse::LeaseKept { .. } => {
                self.lease = None;
                self.leader = None;
            }
            _ => self.lease.iter_mut().for_each(|lease| lease.next_keep_alive = now + RETRY_WAIT),
        }
    }

    /// The lease was good when `sent` was: C5 counts from there.
    fn renew(&mut self, sent: Instant) {
        let Some(lease) = &mut self.lease else { return };
        let ttl_ms = lease.ttl.as_millis();
        lease.good_until = lease.good_until.max(sent + Duration::from_millis(ttl_ms * 9 / 10));
        lease.next_keep_alive = sent + Duration::from_millis(ttl_ms / 3);
        self.news.push_back(News::Lease(lease.good_until));
    }

    fn handle_failure(&mut self, now: Instant, purpose: Purpose, failure: EtcdFailure) {
        self.retry_at = now + RETRY_WAIT;
        if purpose == Purpose::Compact {
            // Somebody else has done it, or will.
            return;
        }
        match failure {
            EtcdFailure::Unanswered => {
                self.tell(Trouble::Unanswered);
                // It may have been carried out: what there is now says so.
                if matches!(purpose, Purpose::Own | Purpose::RingWrite) {
                    self.read_again();
                }
            }
            EtcdFailure::Refused(why) => {
                self.tell(Trouble::Refused(why));
                self.read_again();
            }
        }
    }

    /// Requests past their deadline have not been answered.
    fn give_up_waiting(&mut self, now: Instant) {
        let late = self.wishes.take_late(now);
        self.news.extend(late.into_iter().map(|number| News::Wish(number, false)));
        let is_late = |pending: &mut Pending| now >= pending.sent + REQUEST_TIMEOUT;
        if let Some(pending) = self.keep_alive.take_if(is_late) {
            self.handle_kept_alive(now, pending, EtcdResponse::Failed(EtcdFailure::Unanswered));
        }
        if let Some(pending) = self.pending.take_if(is_late) {
            self.handle_failure(now, pending.purpose, EtcdFailure::Unanswered);
        }
        // Answered, but the watch does not show it.
        if self.pending.is_none() && self.write.is_some_and(|it| !it.has_failed && now >= it.sent + REQUEST_TIMEOUT) {
            self.read_again();
        }
    }

    /// Forgets the keys, so that they are read anew. Until then the leader writes nothing.
    fn read_again(&mut self) {
        if self.mirror.is_some() {
            self.known_before = self.known();
        }
        self.mirror = None;
        self.is_watching = false;
        self.write.iter_mut().for_each(|write| write.has_failed = true);
    }

    /// Looks at what the keys say now, and takes it in.
    fn look(&mut self, now: Instant) {
        let Some(mirror) = &self.mirror else { return };
        match mirror.identity(&self.keys) {
            Ok(Some(identity)) if self.cluster_id.is_none_or(|known| known == identity.cluster_id) => {
                self.cluster_id = Some(identity.cluster_id);
                self.options.identity = identity;
            }
            Ok(Some(identity)) => return self.tell(Trouble::OtherCluster(identity.cluster_id)),
            Ok(None) => return,
            Err(error) => return self.tell(Trouble::Record(error)),
        }
        let revision = mirror.mod_revision(&self.keys.head());
        if revision != self.ring_revision {
            let ring = mirror.ring(&self.keys);
            match ring {
                Ok(ring) => {
                    if let Err(trouble) = self.take_ring(ring) {
                        return self.tell(trouble);
                    }
                    self.ring_revision = revision;
                }
                Err(error) => return self.tell(Trouble::Record(error)),
            }
        }
        self.look_who_has_the_id(now);
        self.look_who_leads(now);
        self.look_at_wishes();
    }

    /// Takes over the ring that etcd has now, unless it can't follow the one that this node knows.
    fn take_ring(&mut self, ring: Option<Ring>) -> Result<(), Trouble> {
        let known = self.ring.as_ref().map_or(0, |ring| ring.epoch);
        let found = ring.as_ref().map_or(0, |ring| ring.epoch);
        if found < known {
            return Err(Trouble::WentBack { known, found });
        }
        let Some(ring) = ring.filter(|ring| ring.epoch > known) else { return Ok(()) };
        if Some(ring.cluster_id) != self.cluster_id {
            return Err(Trouble::OtherCluster(ring.cluster_id));
        }
        let ring = Arc::new(ring);
        self.ring = Some(ring.clone());
        self.news.push_back(News::Ring(ring));
        Ok(())
    }

    fn look_who_has_the_id(&mut self, now: Instant) {
        let own = &self.options.registration;
        let known = self.known();
        let other = known.registrations.get(&own.node.id).filter(|other| other.node != own.node);
        let Some(other) = other else {
            self.id_taken = None;
            let left_out = self.mirror.as_ref().and_then(|mirror| mirror.unreadable(&self.keys));
            return match (&self.trouble, left_out) {
                (Some(Trouble::Unanswered | Trouble::NextRing(_)), _) => {}
                (_, Some((id, error))) => self.tell(Trouble::LeftOut { id, error }),
                (_, None) => self.trouble = None,
            };
        };
        let since = *self.id_taken.get_or_insert(now);
        let address = other.address.clone();
        if now >= since + Duration::from_secs(2 * self.options.lease_secs.unsigned_abs()) {
            self.tell(Trouble::IdTaken { id: own.node.id, address });
        }
    }

    fn look_who_leads(&mut self, now: Instant) {
        let Some(mirror) = &self.mirror else { return };
        let leader = mirror.leader(&self.keys);
        if leader != self.told_leader {
            self.told_leader = leader;
            self.news.push_back(News::Leader(leader));
        }
        let own = self.lease.and_then(|lease| mirror.get(&self.keys.candidate(lease.id)));
        let election = own.and_then(|entry| Election::try_from(entry.create_revision).ok());
        let won = leader.filter(|(node, won)| *node == self.options.registration.node && Some(*won) == election);
        if self.leader.as_ref().map(Leader::election) != won.map(|(_, election)| election) {
            self.leader = won.map(|(_, election)| Leader::new(now, election, self.founding()));
        }
        let known = self.known();
        self.leader.iter_mut().for_each(|leader| leader.handle_known(now, known.clone()));
        let epoch = self.ring.as_ref().map_or(0, |ring| ring.epoch);
        if self.write.take_if(|write| write.has_failed || epoch >= write.epoch).is_some() {
            self.leader.iter_mut().for_each(|leader| leader.handle_write_done(now));
        }
    }

    /// Answers the wishes that the keys show.
    fn look_at_wishes(&mut self) {
        let Some(mirror) = &self.mirror else { return };
        let kept = self.wishes.take_kept(mirror, &self.keys);
        self.news.extend(kept.into_iter().map(|number| News::Wish(number, true)));
    }

    fn founding(&self) -> Founding {
        Founding {
            cluster: self.options.cluster.clone(),
            identity: self.options.identity.clone(),
            replicas: self.options.replicas,
            write_mode: self.options.write_mode,
        }
    }

    /// Sends to another node, or hands over to this one.
    fn send(&mut self, now: Instant, to: NodeRef, message: ControlMessage) {
        if to == self.options.registration.node {
            return self.handle_message(now, to, message);
        }
        if let (
            Some((node, ControlMessage::Reports { election, reports })),
            ControlMessage::Reports { election: other, reports: more },
        ) = (self.messages.back_mut(), &message)
            && *node == to
            && election == other
            && reports.len() + more.len() <= ENTRIES_MAX
        {
            reports.extend_from_slice(more);
            return;
        }
        if self.messages.len() == MESSAGES_MAX {
            self.messages.pop_front();
        }
        self.messages.push_back((to, message));
    }

    fn tell(&mut self, trouble: Trouble) {
        if self.trouble.as_ref() != Some(&trouble) {
            self.news.push_back(News::Trouble(trouble.clone()));
            self.trouble = Some(trouble);
        }
    }

    fn ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket
    }
}

/// Puts a key that must not exist.
fn create(put: Put) -> EtcdRequest {
    let compares = vec![Compare::CreateRevision { key: put.key.clone(), revision: 0 }];
    EtcdRequest::Transaction { compares, puts: vec![put] }
}

#[cfg(test)]
mod tests;
