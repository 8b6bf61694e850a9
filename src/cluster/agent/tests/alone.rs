//! One agent before an etcd: what it makes of bad news, and when its lease is good.

use quoit_wire::WriteMode;

use super::etcd::Etcd;
use crate::cluster::agent::{Agent, AgentOptions, News, Trouble, Wish};
use crate::cluster::etcd::{Compare, EtcdFailure, EtcdRequest, EtcdResponse, Put, WatchEvent};
use crate::cluster::records::{Identity, Intent, Keys, RecordError};
use crate::cluster::ring::{NodeRef, Registration};
use crate::time::{Duration, Instant};

const STEP: Duration = Duration::from_millis(10);
const CORES: u16 = 2;

/// Whether a trouble is the one that a test expects.
type Expected<'a> = &'a dyn Fn(&Trouble) -> bool;

struct Alone {
    now: Instant,
    agent: Agent,
    etcd: Etcd,
    watch: usize,
    /// The core that turns no more.
    stalled: Option<u16>,
    /// Answers take this long.
    late: Duration,
    answers: Vec<(Instant, u64, EtcdResponse)>,
    news: Vec<News>,
}

fn options(node: NodeRef) -> AgentOptions {
    AgentOptions {
        cluster: "test".to_owned(),
        registration: Registration {
            node,
            name: "alone".to_owned(),
            address: format!("10.0.0.{}:7400", node.incarnation),
            zone: String::new(),
            cores: CORES,
            weight: 1,
            memory_bytes: 0,
            leaving: false,
        },
        lease_secs: 2,
        identity: Identity { cluster_id: 5, seed: 6, vnode_bits: 2 },
        replicas: 1,
        write_mode: WriteMode::One,
    }
}

impl Alone {
    /// A node that has founded its cluster.
    fn founded() -> Self {
        let mut alone = Self::begin(Etcd::default(), NodeRef { id: 1, incarnation: 1 });
        alone.run(Duration::from_secs(4));
        assert!(alone.agent.ring().is_some() && alone.agent.leads(alone.now), "{:?}", alone.agent);
        alone
    }

    fn begin(etcd: Etcd, node: NodeRef) -> Self {
        let now = Instant::from_millis(5_000);
        let agent = Agent::new(now, options(node));
        let (watch, late) = (usize::MAX, Duration::ZERO);
        Self { now, agent, etcd, watch, stalled: None, late, answers: Vec::new(), news: Vec::new() }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = self.now + STEP;
            self.etcd.expire(self.now);
            let cores = (0..CORES).filter(|core| Some(*core) != self.stalled);
            cores.for_each(|core| self.agent.handle_core_alive(self.now, core));
            while let Some((ticket, request)) = self.agent.poll_request(self.now) {
                match request {
                    EtcdRequest::Watch { .. } => self.watch = self.etcd.events.len(),
                    request => {
                        let response = self.etcd.execute(self.now, &request);
                        self.answers.push((self.now + self.late, ticket, response));
                    }
                }
            }
            let (due, later) = std::mem::take(&mut self.answers).into_iter().partition(|(due, ..)| *due <= self.now);
            self.answers = later;
            let due: Vec<_> = due;
            due.into_iter().for_each(|(_, ticket, answer)| self.agent.handle_response(self.now, ticket, answer));
            let events: Vec<WatchEvent> = self.etcd.events.iter().skip(self.watch).cloned().collect();
            if !events.is_empty() {
                self.watch = self.etcd.events.len();
                self.agent.handle_watch(self.now, events);
            }
            self.news.extend(std::iter::from_fn(|| self.agent.poll_news()));
        }
    }

    /// What somebody else puts.
    fn put(&mut self, key: String, value: Vec<u8>) {
        let puts = vec![Put { key, value, lease: 0 }];
        self.etcd.execute(self.now, &EtcdRequest::Transaction { compares: Vec::new(), puts });
    }

    fn registrations(&mut self) -> usize {
        let prefix = Keys::new("test").nodes();
        match self.etcd.execute(self.now, &EtcdRequest::Range { prefix }) {
            EtcdResponse::Range { entries, .. } => entries.len(),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_node_whose_id_is_taken_waits_for_two_leases_and_says_who_has_it() {
    let mut first = Alone::founded();
    let etcd = std::mem::take(&mut first.etcd);
    let mut second = Alone::begin(etcd, NodeRef { id: 1, incarnation: 2 });
    second.now = first.now;
    // The first one's lease is kept by nobody else than this test.
    for _ in 0..8 {
        second.run(Duration::from_millis(500));
        second.etcd.execute(second.now, &EtcdRequest::LeaseKeepAlive { lease: 1 });
        assert_eq!(second.registrations(), 1, "the second one has not registered");
    }
    second.run(Duration::from_millis(500));
    let taken = Trouble::IdTaken { id: 1, address: "10.0.0.1:7400".to_owned() };
    assert_eq!(second.agent.trouble(), Some(&taken));
    assert!(taken.to_string().contains("--node-id"));
    second.run(Duration::from_secs(4));
    assert_eq!(second.agent.trouble(), None, "the first one is gone: it was this node's last life");
    assert!(second.agent.leads(second.now));
}

#[test]
fn a_damaged_ring_and_another_cluster_are_told_and_the_last_good_ring_stays() {
    let keys = Keys::new("test");
    let other = Identity { cluster_id: 6, seed: 6, vnode_bits: 2 };
    let damaged =
        |trouble: &Trouble| matches!(trouble, Trouble::Record(RecordError::Damaged(_) | RecordError::Format(_)));
    let cases: [(String, Vec<u8>, Expected<'_>); 3] = [
        (keys.head(), b"not a head".to_vec(), &damaged),
        (keys.identity(), b"".to_vec(), &damaged),
        (keys.identity(), other.to_bytes(), &|trouble| *trouble == Trouble::OtherCluster(6)),
    ];
    for (key, value, expected) in cases {
        let mut alone = Alone::founded();
        let ring = alone.agent.ring().cloned();
        let transactions = alone.etcd.transactions;
        alone.put(key.clone(), value);
        alone.run(STEP);
        // It would have something to write.
        alone.agent.handle_wish(alone.now, 1, 1, Wish::Weight(Some(3)));
        alone.run(Duration::from_secs(3));
        assert!(alone.agent.trouble().is_some_and(expected), "{key}: {:?}", alone.agent.trouble());
        assert!(alone.news.iter().any(|news| matches!(news, News::Trouble(trouble) if expected(trouble))));
        assert_eq!(alone.agent.ring().cloned(), ring);
        assert_eq!(alone.etcd.transactions, transactions + 1, "nothing is overwritten");
    }
}

#[test]
fn a_registration_that_can_not_be_is_left_out_and_told_and_the_leader_goes_on() {
    let mut alone = Alone::founded();
    let keys = Keys::new("test");
    let other = Registration {
        name: "other".to_owned(),
        address: "10.0.0.9:7400".to_owned(),
        ..options(NodeRef { id: 9, incarnation: 1 }).registration
    };
    for cores in [0, 1_025] {
        alone.put(keys.node(9), Registration { cores, ..other.clone() }.to_bytes());
        alone.run(Duration::from_secs(1));
        let told = alone.agent.trouble().map(ToString::to_string).expect("it is told");
        assert!(
            told.contains("0000000000000009 is left out") && told.contains("no core, or more than 1,024"),
            "{told}"
        );
        assert!(!alone.agent.known().registrations.contains_key(&9));
        alone.put(keys.intent(1), Intent { draining: false, weight: Some(1 + cores) }.to_bytes());
        alone.run(Duration::from_secs(1));
        let member = |alone: &Alone| alone.agent.ring().and_then(|ring| ring.member(0).cloned()).expect("a member");
        assert_eq!(member(&alone).weight, 1 + cores, "the ring is still written");
    }
    let told = alone.news.iter().filter(|news| matches!(news, News::Trouble(_))).count();
    assert_eq!(told, 1, "once, not with every look");
    alone.put(keys.node(9), other.to_bytes());
    alone.run(Duration::from_secs(1));
    assert_eq!(alone.agent.trouble(), None);
    let ring = alone.agent.ring().expect("a ring");
    assert!(ring.slot_of(other.node).is_some(), "it is in");
}

#[test]
fn a_life_keeps_the_cores_that_its_roles_are_on_whatever_its_registration_says_later() {
    let mut alone = Alone::founded();
    let fewer = Registration { cores: 1, ..options(NodeRef { id: 1, incarnation: 1 }).registration };
    alone.put(Keys::new("test").node(1), fewer.to_bytes());
    alone.put(Keys::new("test").intent(1), Intent { draining: false, weight: Some(9) }.to_bytes());
    alone.run(Duration::from_secs(1));
    let ring = alone.agent.ring().expect("a ring");
    assert_eq!(ring.member(0).map(|member| (member.cores, member.weight)), Some((CORES, 9)));
    assert_eq!((ring.check(), alone.agent.trouble()), (Ok(()), None));
}

#[test]
fn while_etcd_is_away_the_cluster_is_known_as_it_was_last_seen() {
    let mut alone = Alone::founded();
    let before = alone.agent.known();
    assert_eq!(before.registrations.len(), 1);
    alone.late = Duration::from_secs(3600);
    alone.agent.handle_watch(alone.now, vec![WatchEvent::Closed]);
    alone.run(Duration::from_secs(10));
    assert_eq!(alone.agent.trouble(), Some(&Trouble::Unanswered));
    let known = alone.agent.known();
    assert_eq!((known.registrations, known.ring), (before.registrations, before.ring), "for who asks");
    assert!(!alone.agent.leads(alone.now), "and nobody goes by it");
}

#[test]
fn a_ring_that_went_back_is_not_followed() {
    let mut alone = Alone::founded();
    let keys = Keys::new("test");
    let first = alone.agent.ring().cloned().expect("a ring");
    alone.put(keys.intent(1), Intent { draining: false, weight: Some(9) }.to_bytes());
    alone.run(Duration::from_secs(1));
    assert_eq!(alone.agent.ring().map(|ring| ring.epoch), Some(2));
    for (key, value) in keys.ring_changes(None, &first) {
        alone.put(key, value);
    }
    alone.run(Duration::from_secs(1));
    assert_eq!(alone.agent.trouble(), Some(&Trouble::WentBack { known: 2, found: 1 }));
    assert_eq!(alone.agent.ring().map(|ring| ring.epoch), Some(2));
}

#[test]
fn a_core_that_does_not_turn_ends_the_lease_and_one_that_turns_again_gets_a_new_one() {
    let mut alone = Alone::founded();
    alone.stalled = Some(1);
    let mut stopped_in_time = false;
    for _ in 0..300 {
        alone.run(STEP);
        let is_registered = alone.registrations() == 1;
        stopped_in_time |= is_registered && !alone.agent.leads(alone.now);
    }
    assert_eq!(alone.registrations(), 0);
    assert!(stopped_in_time, "it leads no more while nobody can think it gone yet");
    assert!(!alone.agent.leads(alone.now));
    alone.stalled = None;
    alone.run(Duration::from_secs(3));
    assert_eq!(alone.registrations(), 1);
    assert!(alone.agent.leads(alone.now));
}

#[test]
fn a_lease_is_good_for_nine_tenths_from_when_the_keep_alive_was_sent() {
    let mut alone = Alone::founded();
    alone.late = Duration::from_millis(400);
    alone.run(Duration::from_secs(3));
    let good: Vec<Instant> =
        alone.news.iter().filter_map(|news| if let News::Lease(until) = news { Some(*until) } else { None }).collect();
    // The last one was sent at least 400 ms ago.
    let last = good.iter().max().expect("leases");
    assert!(*last <= alone.now + Duration::from_millis(1800 - 400));
    assert!(good.windows(2).all(|pair| pair[0] <= pair[1]));
}

#[test]
fn an_answer_that_comes_behind_what_it_is_about_holds_nothing_up() {
    let mut alone = Alone::begin(Etcd::default(), NodeRef { id: 1, incarnation: 1 });
    alone.late = Duration::from_millis(20);
    // Six requests, one after the other, each answered after three steps, and each transaction seen before that.
    alone.run(Duration::from_millis(250));
    assert!(alone.agent.leads(alone.now), "{:?}", alone.agent);
}

#[test]
fn a_transaction_that_was_not_answered_is_read_again_and_not_repeated() {
    let mut alone = Alone::founded();
    let keys = Keys::new("test");
    let mut created = |key: String| match alone.etcd.execute(alone.now, &EtcdRequest::Range { prefix: key }) {
        EtcdResponse::Range { entries, .. } => entries[0].clone(),
        other => panic!("{other:?}"),
    };
    let (election, head) = (created(keys.candidate(1)).create_revision, created(keys.head()).mod_revision);
    // An operator has given it another weight: the leader has a ring to write.
    let intent = Intent { draining: false, weight: Some(9) };
    alone.put(keys.intent(1), intent.to_bytes());
    alone.now = alone.now + STEP;
    let events: Vec<WatchEvent> = alone.etcd.events.iter().skip(alone.watch).cloned().collect();
    alone.watch = alone.etcd.events.len();
    alone.agent.handle_watch(alone.now, events);
    let mut asked = Vec::new();
    for _ in 0..100 {
        alone.now = alone.now + STEP;
        let Some((ticket, request)) = alone.agent.poll_request(alone.now) else { continue };
        let response = alone.etcd.execute(alone.now, &request);
        let is_write = matches!(request, EtcdRequest::Transaction { .. });
        asked.push(request);
        // It was carried out, but who asked does not hear of it.
        let response = if is_write { EtcdResponse::Failed(EtcdFailure::Unanswered) } else { response };
        alone.agent.handle_response(alone.now, ticket, response);
    }
    let writes = asked.iter().filter(|request| matches!(request, EtcdRequest::Transaction { .. })).count();
    let write = asked.iter().position(|request| matches!(request, EtcdRequest::Transaction { .. })).expect("a write");
    assert_eq!(writes, 1, "{asked:?}");
    // It holds only while this node leads, and over the ring that it has seen.
    let EtcdRequest::Transaction { compares, .. } = &asked[write] else { unreachable!("it is one") };
    assert_eq!(
        *compares,
        [
            Compare::CreateRevision { key: keys.candidate(1), revision: election },
            Compare::ModRevision { key: keys.head(), revision: head },
        ]
    );
    assert!(asked[write..].iter().any(|request| matches!(request, EtcdRequest::Range { .. })), "{asked:?}");
    assert_eq!(alone.agent.ring().map(|ring| ring.epoch), Some(2), "the read shows it");
}

/// What became of the wishes.
fn answers(alone: &Alone) -> Vec<(u64, bool)> {
    let answer = |news: &News| if let News::Wish(number, is_kept) = news { Some((*number, *is_kept)) } else { None };
    alone.news.iter().filter_map(answer).collect()
}

#[test]
fn wishes_of_one_node_add_up_and_are_answered_when_the_keys_show_them() {
    let mut alone = Alone::founded();
    let intent = |alone: &Alone| alone.agent.known().intents.get(&9).copied().unwrap_or_default();
    alone.agent.handle_wish(alone.now, 1, 9, Wish::Draining(true));
    alone.agent.handle_wish(alone.now, 2, 9, Wish::Weight(Some(5)));
    assert_eq!(answers(&alone), [], "etcd has not been asked yet");
    // Between this node's look at the keys and its write, somebody else writes.
    alone.put(Keys::new("test").intent(9), Intent { draining: false, weight: Some(3) }.to_bytes());
    alone.run(Duration::from_secs(1));
    assert_eq!(answers(&alone), [(1, true), (2, true)]);
    assert_eq!(intent(&alone), Intent { draining: true, weight: Some(5) });
    alone.agent.handle_wish(alone.now, 3, 9, Wish::Weight(None));
    alone.run(Duration::from_secs(1));
    assert_eq!(intent(&alone), Intent { draining: true, weight: None });
    alone.agent.handle_wish(alone.now, 4, 8, Wish::Draining(false));
    alone.run(STEP);
    assert_eq!(answers(&alone)[2..], [(3, true), (4, true)], "what is so already is not put");
    assert!(!alone.agent.known().intents.contains_key(&8));
}

#[test]
fn a_wish_that_etcd_does_not_answer_is_given_up_and_one_too_many_at_once() {
    let mut alone = Alone::founded();
    (alone.late, alone.watch) = (Duration::from_secs(60), usize::MAX);
    (1..=65).for_each(|number| alone.agent.handle_wish(alone.now, number, 9, Wish::Draining(true)));
    alone.run(Duration::from_secs(4));
    assert_eq!(answers(&alone), [(65, false)]);
    alone.run(Duration::from_secs(2));
    assert_eq!(answers(&alone).len(), 65);
    assert!(answers(&alone).iter().all(|(_, is_kept)| !is_kept));
}
