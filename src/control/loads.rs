//! How all nodes are loaded, for who asks: this node asks the others and its own cores, waits a little, and puts together what
//! has come.
//!
//! ```text
//!  an operator ──► ask ──► AskLoad ──► every other node ──► its cores
//!              ◄── gathered ◄── Load ◄──┘      (ANSWER_TIME_MAX at the most: who is silent then is named)
//! ```
//! What costs a core something, a look at all its vnodes and at what copies lack, is done at most once in [`FRESH`], however
//! many ask. Nothing of it goes to etcd, so it comes while etcd is away, and nodes that are cut off cost the wait alone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::cluster::load::Load;
use crate::cluster::{ControlMessage, NodeRef};
use crate::time::{Duration, Instant};

/// Other nodes have so long to answer. Longer: a status waits longer for nodes that are cut off; shorter: busy ones are left
/// out.
const ANSWER_TIME_MAX: Duration = Duration::from_millis(300);
/// Who has not answered is asked again: a link may just have been made, and what was sent before is lost.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// What was gathered, or told, so lately is told again.
const FRESH: Duration = Duration::from_millis(250);
/// How fast a node streams is what it has streamed in this time.
const RATE_TIME: Duration = Duration::from_secs(3);
/// Between two looks at how much that was.
const RATE_STEP: Duration = Duration::from_millis(250);

/// What is known of the nodes' loads.
#[derive(Debug)]
pub(super) struct Loads {
    own: NodeRef,
    own_load: Option<(Instant, Load)>,
    /// The cores were asked, and have not answered.
    asked_cores: bool,
    /// Who waits for this node's load, with the number of the question.
    askers: BTreeMap<NodeRef, u64>,
    gathering: Option<Gathering>,
    gathered: Option<(Instant, Gathered)>,
    questions: u64,
    rate: Rate,
    messages: VecDeque<(NodeRef, ControlMessage)>,
}

/// What has come together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Gathered {
    /// Of each node that has answered.
    pub loads: BTreeMap<NodeRef, Load>,
    /// Nodes that have not.
    pub silent: BTreeSet<NodeRef>,
}

impl Gathered {
    /// All loads together.
    pub(super) fn sum(&self) -> Load {
        let mut all = Load::default();
        self.loads.values().for_each(|load| all.add(load));
        all
    }
}

#[derive(Debug)]
struct Gathering {
    number: u64,
    since: Instant,
    asked: Instant,
    gathered: Gathered,
}

/// How fast this node streams.
#[derive(Debug, Default)]
struct Rate {
    /// What each core has streamed since it began.
    cores: BTreeMap<u16, u64>,
    /// All of it, at moments that are a while apart.
    samples: VecDeque<(Instant, u64)>,
}

impl Loads {
    /// Of the cluster as `own` sees it.
    pub(super) fn new(own: NodeRef) -> Self {
        Self {
            own,
            own_load: None,
            asked_cores: false,
            askers: BTreeMap::new(),
            gathering: None,
            gathered: None,
            questions: 0,
            rate: Rate::default(),
            messages: VecDeque::new(),
        }
    }

    /// Somebody asks: the answer is [`Self::last`], when it [is there](Self::is_gathered). `nodes` are those that live, this one perhaps among them.
    pub(super) fn ask(&mut self, now: Instant, nodes: impl Iterator<Item = NodeRef>) {
        let is_fresh = self.gathered.as_ref().is_some_and(|(at, _)| now < *at + FRESH);
        if is_fresh || self.gathering.is_some() {
            return;
        }
        self.questions += 1;
        let gathered = Gathered { loads: BTreeMap::new(), silent: nodes.chain([self.own]).collect() };
        self.gathering = Some(Gathering { number: self.questions, since: now, asked: now, gathered });
        self.ask_silent();
        self.tell_if_fresh(now);
    }

    /// Whether what was asked for is there: all have answered, or have had their time.
    pub(super) fn is_gathered(&mut self, now: Instant) -> bool {
        let is_over = |it: &mut Gathering| it.gathered.silent.is_empty() || now >= it.since + ANSWER_TIME_MAX;
        if let Some(Gathering { gathered, .. }) = self.gathering.take_if(is_over) {
            self.gathered = Some((now, gathered));
        }
        self.gathering.is_none()
    }

    /// What was gathered last.
    pub(super) fn last(&self) -> Gathered {
        self.gathered.as_ref().map(|(_, gathered)| gathered.clone()).unwrap_or_default()
    }

    /// Another node asks how this one is loaded.
    pub(super) fn handle_asked(&mut self, now: Instant, from: NodeRef, number: u64) {
        self.askers.insert(from, number);
        self.tell_if_fresh(now);
    }

    /// Another node says how it is loaded.
    pub(super) fn handle_told(&mut self, from: NodeRef, number: u64, load: Load) {
        let gathering = self.gathering.as_mut().filter(|gathering| gathering.number == number);
        if let Some(Gathering { gathered, .. }) = gathering
            && gathered.silent.remove(&from)
        {
            gathered.loads.insert(from, load);
        }
    }

    /// A core has streamed so many bytes since it began.
    pub(super) fn handle_streamed(&mut self, now: Instant, core: u16, bytes: u64) {
        self.rate.note(now, core, bytes);
    }

    /// This node's cores have said how they are loaded.
    pub(super) fn handle_own(&mut self, now: Instant, load: Load) {
        self.asked_cores = false;
        self.own_load = Some((now, Load { streamed_bytes_per_sec: self.rate.bytes_per_sec(), ..load }));
        self.tell_if_fresh(now);
    }

    /// Whether the cores are to be asked; said once.
    pub(super) fn wants_cores(&mut self) -> bool {
        let own = self.own;
        let is_awaited = |it: &Gathering| it.gathered.silent.contains(&own);
        let wants = !self.askers.is_empty() || self.gathering.as_ref().is_some_and(is_awaited);
        let is_first = wants && !self.asked_cores;
        self.asked_cores |= wants;
        is_first
    }

    /// The next message to another node.
    pub(super) fn poll_message(&mut self, now: Instant) -> Option<(NodeRef, ControlMessage)> {
        if self.gathering.as_ref().is_some_and(|it| now >= it.asked + ASK_AGAIN) {
            self.gathering.iter_mut().for_each(|it| it.asked = now);
            self.ask_silent();
        }
        self.messages.pop_front()
    }

    /// When to look again though nothing has come.
    pub(super) fn timeout(&self) -> Option<Instant> {
        self.gathering.as_ref().map(|it| (it.asked + ASK_AGAIN).min(it.since + ANSWER_TIME_MAX))
    }

    fn ask_silent(&mut self) {
        let Some(Gathering { number, gathered, .. }) = &self.gathering else { return };
        let others = gathered.silent.iter().filter(|node| **node != self.own);
        self.messages.extend(others.map(|node| (*node, ControlMessage::AskLoad { number: *number })));
    }

    /// Tells this node's load to all who wait for it, if it is not too old.
    fn tell_if_fresh(&mut self, now: Instant) {
        let Some((_, load)) = self.own_load.as_ref().filter(|(at, _)| now < *at + FRESH) else { return };
        for (node, number) in std::mem::take(&mut self.askers) {
            self.messages.push_back((node, ControlMessage::Load { number, load: load.clone() }));
        }
        if let Some(Gathering { number, .. }) = self.gathering {
            let (own, load) = (self.own, load.clone());
            self.handle_told(own, number, load);
        }
    }
}

impl Rate {
    fn note(&mut self, now: Instant, core: u16, bytes: u64) {
        self.cores.insert(core, bytes);
        if self.samples.back().is_none_or(|(at, _)| now >= *at + RATE_STEP) {
            self.samples.push_back((now, self.cores.values().sum()));
        }
        // One that is older stays: from there on it is the whole time.
        while self.samples.get(1).is_some_and(|(at, _)| *at + RATE_TIME <= now) {
            self.samples.pop_front();
        }
    }

    fn bytes_per_sec(&self) -> u64 {
        let (Some((since, first)), Some((until, last))) = (self.samples.front(), self.samples.back()) else { return 0 };
        (last.saturating_sub(*first) * 1000).checked_div(until.since(*since).as_millis()).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u64) -> NodeRef {
        NodeRef { id, incarnation: 1 }
    }

    fn at(millis: u64) -> Instant {
        Instant::from_millis(1_000 + millis)
    }

    fn load(held_vnodes: u64) -> Load {
        Load { held_vnodes, ..Load::default() }
    }

    fn asked(loads: &mut Loads, now: Instant) -> Vec<(NodeRef, u64)> {
        let messages = std::iter::from_fn(|| loads.poll_message(now));
        messages
            .map(|(to, message)| match message {
                ControlMessage::AskLoad { number } => (to, number),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn all_are_asked_once_and_gathered_when_the_last_one_has_answered() {
        let mut loads = Loads::new(node(1));
        loads.ask(at(0), [node(2), node(3)].into_iter());
        loads.ask(at(1), [node(2), node(3)].into_iter());
        assert_eq!(asked(&mut loads, at(1)), [(node(2), 1), (node(3), 1)], "the second asker waits with the first");
        assert!(loads.wants_cores() && !loads.wants_cores());
        loads.handle_own(at(2), load(1));
        loads.handle_told(node(3), 1, load(3));
        loads.handle_told(node(2), 7, load(9));
        assert!(!loads.is_gathered(at(3)), "that was the answer to another question");
        loads.handle_told(node(2), 1, load(2));
        assert!(loads.is_gathered(at(4)), "all have answered");
        let gathered = loads.last();
        assert_eq!(gathered.loads.values().map(|load| load.held_vnodes).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(gathered.silent.is_empty());
        loads.ask(at(100), [node(2), node(3)].into_iter());
        assert!(loads.is_gathered(at(100)) && asked(&mut loads, at(100)).is_empty(), "it is fresh");
    }

    #[test]
    fn who_is_silent_is_asked_again_and_then_named() {
        let mut loads = Loads::new(node(1));
        loads.ask(at(0), [node(2), node(3)].into_iter());
        assert_eq!(asked(&mut loads, at(0)).len(), 2);
        loads.handle_own(at(1), load(1));
        loads.handle_told(node(2), 1, load(2));
        assert_eq!(loads.timeout(), Some(at(100)));
        assert_eq!(asked(&mut loads, at(100)), [(node(3), 1)]);
        assert!(!loads.is_gathered(at(299)));
        assert!(loads.is_gathered(at(300)), "nobody waits longer");
        assert_eq!(loads.last().silent.iter().copied().collect::<Vec<_>>(), [node(3)]);
        assert_eq!(loads.timeout(), None);
    }

    #[test]
    fn however_many_ask_the_cores_are_asked_once_in_a_while() {
        let mut loads = Loads::new(node(1));
        (2..40).for_each(|other| loads.handle_asked(at(0), node(other), other));
        assert!(loads.wants_cores() && !loads.wants_cores());
        loads.handle_own(at(5), load(1));
        loads.handle_asked(at(200), node(2), 77);
        assert!(!loads.wants_cores());
        let told: Vec<_> = std::iter::from_fn(|| loads.poll_message(at(200))).collect();
        assert_eq!(told.len(), 39);
        assert_eq!(told[38], (node(2), ControlMessage::Load { number: 77, load: load(1) }));
        loads.handle_asked(at(300), node(2), 78);
        assert!(loads.wants_cores(), "what they said is too old");
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let mut rate = Rate::default();
        assert_eq!(rate.bytes_per_sec(), 0);
        for step in 0..=100 {
            let now = at(step * 100);
            // Nothing for five seconds, then 1 MB a second on two cores together.
            let bytes = step.saturating_sub(50) * 50_000;
            rate.note(now, 0, bytes);
            rate.note(now, 1, bytes);
        }
        let rate = rate.bytes_per_sec();
        assert!((980_000..=1_020_000).contains(&rate), "{rate}");
    }
}
