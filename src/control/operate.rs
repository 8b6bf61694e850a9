//! What operators ask of the cluster by way of this node: how it stands, and what they want of a node.
//!
//! A change is a record in etcd that the leader obeys, whoever leads by then. It is checked against what this node knows of
//! the cluster, and answered when etcd has it.

use std::collections::BTreeMap;

use super::loads::{Gathered, Loads};
use crate::cluster::NodeRef;
use crate::cluster::agent::{Agent, Wish};
use crate::cluster::copies::OnEtcdLoss;
use crate::cluster::leader::{Known, Leader, StepsLeft};
use crate::cluster::overview::{self, Refusal};
use crate::time::{Duration, Instant};

/// Between two looks at how far the cluster is: each computes where everything should lie.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Questions that wait to be looked at.
pub(super) const QUESTIONS_MAX: usize = 16;

/// What is asked, and where the answer is awaited.
#[derive(Debug)]
pub(super) struct Question {
    pub ask: Ask,
    pub answer: flume::Sender<Answer>,
}

/// What an operator asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// How the cluster stands.
    Status,
    /// How the cluster stands, if this node can answer requests for it.
    Ready,
    /// How the cluster stands, if it knows a node of this name.
    Find { name: String },
    /// That a node gives everything away.
    Drain { name: String, fewer_copies: bool },
    /// That it takes its share again.
    Undrain { name: String },
    /// That a node has this weight, or again the one it registers with.
    Weigh { name: String, weight: Option<u16> },
}

pub(super) type Answer = Result<Standing, Declined>;

/// How the cluster stands, as this node knows it.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    pub known: Known,
    pub leader: Option<NodeRef>,
    /// What keeps this node from knowing better.
    pub trouble: Option<String>,
    /// What is under way, if anything is.
    pub progress: Option<Progress>,
    /// How the nodes are loaded, as far as they have said so.
    pub gathered: Gathered,
}

/// How far the cluster is on its way to where everything should lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    since: Instant,
    first: StepsLeft,
    /// Copies to be made and vnodes to be handed over.
    pub left: StepsLeft,
}

impl Progress {
    /// What is known after another look, which counted `left` steps.
    pub(super) fn after(before: Option<Self>, now: Instant, left: StepsLeft) -> Option<Self> {
        match before {
            _ if left.total() == 0 => None,
            Some(known) if left.copies() <= known.first.copies() && left.handovers <= known.first.handovers => {
                Some(Self { left, ..known })
            }
            // It has just begun, or there is more to do than before.
            _ => Some(Self { since: now, first: left, left }),
        }
    }

    /// Steps that were done since it was first looked at.
    pub(super) fn done(&self) -> usize {
        self.first.total() - self.left.total()
    }

    /// How long the rest takes at the speed so far: that of the copies or that of the handovers, whichever takes longer, for
    /// they go on beside each other and each has its own pace. None before a first step is done of each that is left.
    pub(super) fn rest(&self, now: Instant) -> Option<Duration> {
        let passed_ms = now.since(self.since).as_millis();
        let rest_ms = |first: usize, left: usize| match left {
            0 => Some(0),
            left => (passed_ms * left as u64).checked_div((first - left) as u64),
        };
        let copies = rest_ms(self.first.copies(), self.left.copies())?;
        let handovers = rest_ms(self.first.handovers, self.left.handovers)?;
        Some(Duration::from_millis(copies.max(handovers)))
    }
}

/// Why nothing was changed, or may not have been.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Declined {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Unready(#[from] Unready),
    #[error("etcd has not answered ({0}): look at the status before you ask again, it may yet happen")]
    Unanswered(String),
}

/// Why a node is of no use to those who ask it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unready {
    #[error("the node has no place in its cluster (any more)")]
    NoPlace,
    #[error(
        "the node has lost etcd for longer than its lease, and refuses everything until it is back (--on-etcd-loss fence)"
    )]
    Fenced,
}

/// Where operators are served.
#[derive(Debug)]
pub(super) struct Desk {
    own: NodeRef,
    on_etcd_loss: OnEtcdLoss,
    /// What the nodes say of themselves when a status is asked for.
    pub loads: Loads,
    /// Who waits for that.
    status_askers: Vec<flume::Sender<Answer>>,
    waiting: BTreeMap<u64, flume::Sender<Answer>>,
    next: u64,
    progress: Option<Progress>,
    looked: Option<Instant>,
}

impl Desk {
    /// Of the node `own`.
    pub(super) fn new(own: NodeRef, on_etcd_loss: OnEtcdLoss) -> Self {
        Self {
            own,
            on_etcd_loss,
            loads: Loads::new(own),
            status_askers: Vec::new(),
            waiting: BTreeMap::new(),
            next: 0,
            progress: None,
            looked: None,
        }
    }

    /// Has the other nodes asked, or etcd by the agent; then [`Self::answer_status`] follows, or [`Self::settle`].
    pub(super) fn take(&mut self, now: Instant, agent: &mut Agent, question: Question) {
        let known = agent.known();
        let asked = match &question.ask {
            Ask::Status => {
                self.loads.ask(now, others(&known));
                // There is a limit to who may wait: whoever is past it is told to ask again.
                if self.status_askers.len() < QUESTIONS_MAX {
                    self.status_askers.push(question.answer);
                }
                return;
            }
            Ask::Ready => {
                let ready = self.check_ready(now, agent).map(|()| self.standing(agent));
                drop(question.answer.try_send(ready.map_err(Declined::from)));
                return;
            }
            Ask::Find { name } => {
                let found = overview::find(&known, name).map(|_| self.standing(agent));
                drop(question.answer.try_send(found.map_err(Declined::from)));
                return;
            }
            Ask::Drain { name, fewer_copies } => {
                overview::check_drain(&known, name, *fewer_copies).map(|id| (id, Wish::Draining(true)))
            }
            Ask::Undrain { name } => overview::find(&known, name).map(|id| (id, Wish::Draining(false))),
            Ask::Weigh { name, weight } => overview::find(&known, name).map(|id| (id, Wish::Weight(*weight))),
        };
        match asked {
            Ok((id, wish)) => {
                tracing::info!(ask = ?question.ask, "an operator asks");
                self.next += 1;
                self.waiting.insert(self.next, question.answer);
                agent.handle_wish(now, self.next, id, wish);
            }
            Err(refusal) => drop(question.answer.try_send(Err(refusal.into()))),
        }
    }

    /// Tells those who wait for it how the cluster stands, if all nodes have said how they are loaded, or have had their time.
    pub(super) fn answer_status(&mut self, now: Instant, agent: &Agent) {
        if self.status_askers.is_empty() || !self.loads.is_gathered(now) {
            return;
        }
        self.look(now, &agent.known());
        for asker in std::mem::take(&mut self.status_askers) {
            // Whoever asked may have gone.
            drop(asker.try_send(Ok(self.standing(agent))));
        }
    }

    /// What became of the change with this number.
    pub(super) fn settle(&mut self, now: Instant, agent: &Agent, number: u64, is_kept: bool) {
        let Some(answer) = self.waiting.remove(&number) else { return };
        self.looked = None;
        self.look(now, &agent.known());
        let trouble =
            || agent.trouble().map_or_else(|| "too slow, or too much was asked".to_owned(), ToString::to_string);
        let told = if is_kept { Ok(self.standing(agent)) } else { Err(Declined::Unanswered(trouble())) };
        drop(answer.try_send(told));
    }

    /// Looks how far the cluster is; not at every change, since it costs an assignment.
    pub(super) fn look(&mut self, now: Instant, known: &Known) {
        if self.looked.is_none_or(|looked| now >= looked + LOOK_EVERY) {
            self.looked = Some(now);
            self.progress = Progress::after(self.progress, now, Leader::steps_left(known));
        }
    }

    /// Whether requests are answered here.
    fn check_ready(&self, now: Instant, agent: &Agent) -> Result<(), Unready> {
        if agent.ring().is_none_or(|ring| ring.slot_of(self.own).is_none()) {
            return Err(Unready::NoPlace);
        }
        let is_fenced = self.on_etcd_loss == OnEtcdLoss::Fence && !agent.has_good_lease(now);
        if is_fenced { Err(Unready::Fenced) } else { Ok(()) }
    }

    fn standing(&self, agent: &Agent) -> Standing {
        let trouble = agent.trouble().map(ToString::to_string);
        let (progress, gathered) = (self.progress, self.loads.last());
        Standing { known: agent.known(), leader: agent.leader(), trouble, progress, gathered }
    }
}

/// The nodes that have a place in the cluster and live. Others can't be reached over the peer links.
fn others(known: &Known) -> impl Iterator<Item = NodeRef> {
    let seated = |node: &NodeRef| known.ring.as_ref().is_some_and(|ring| ring.slot_of(*node).is_some());
    known.registrations.values().map(|registration| registration.node).filter(seated)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_takes_as_long_as_the_steps_so_far_and_more_to_do_begins_anew() {
        let at = |secs: u64| Instant::from_millis(secs * 1000);
        let left = |handovers| StepsLeft { handovers, ..StepsLeft::default() };
        let begun = Progress::after(None, at(10), left(100));
        assert_eq!(begun.and_then(|it| it.rest(at(11))), None);
        let further = Progress::after(begun, at(14), left(60));
        assert_eq!(further.and_then(|it| it.rest(at(14))), Some(Duration::from_secs(6)));
        assert_eq!(Progress::after(further, at(20), left(0)), None);
        let more = Progress::after(further, at(20), left(500)).expect("it goes on");
        assert_eq!((more.done(), more.left.total()), (0, 500));
    }

    #[test]
    fn copies_and_handovers_have_each_their_pace_and_the_slower_one_counts() {
        let at = |secs: u64| Instant::from_millis(secs * 1000);
        let left = |copies_to_begin, handovers| StepsLeft { handovers, copies_begun: 0, copies_to_begin };
        let begun = Progress::after(None, at(0), left(1000, 100));
        let quick = Progress::after(begun, at(2), left(200, 100));
        assert_eq!(quick.and_then(|it| it.rest(at(2))), None, "how long a handover takes is not known yet");
        let later = Progress::after(quick, at(4), left(100, 90));
        assert_eq!(later.and_then(|it| it.rest(at(4))), Some(Duration::from_secs(36)), "ten of 100 in four seconds");
        let last = Progress::after(later, at(20), left(0, 50)).expect("it goes on");
        assert_eq!((last.rest(at(20)), last.done()), (Some(Duration::from_secs(20)), 1050));
        let anew = Progress::after(Some(last), at(30), left(0, 200)).expect("it goes on");
        assert_eq!((anew.done(), anew.rest(at(31))), (0, None), "more to hand over than at first");
    }
}
