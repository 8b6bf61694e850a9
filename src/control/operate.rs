//! What operators ask of the cluster by way of this node: how it stands, and what they want of a node.
//!
//! A change is a record in etcd that the leader obeys, whoever leads by then. It is checked against what this node knows of
//! the cluster, and answered when etcd has it.

use std::collections::BTreeMap;

use crate::cluster::NodeRef;
use crate::cluster::agent::{Agent, Wish};
use crate::cluster::leader::Known;
use crate::cluster::overview::{self, Refusal};
use crate::time::Instant;

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
}

/// Why nothing was changed, or may not have been.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Declined {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("etcd has not answered ({0}): look at the status before you ask again, it may yet happen")]
    Unanswered(String),
}

/// Where operators are served.
#[derive(Debug, Default)]
pub(super) struct Desk {
    waiting: BTreeMap<u64, flume::Sender<Answer>>,
    next: u64,
}

impl Desk {
    /// Answers a question, or has the agent ask etcd; then [`Self::settle`] follows.
    pub(super) fn take(&mut self, now: Instant, agent: &mut Agent, question: Question) {
        let known = agent.known();
        let asked = match &question.ask {
            Ask::Status => {
                // Whoever asked may have gone.
                return drop(question.answer.try_send(Ok(standing(agent))));
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

    /// What became of the change with this number.
    pub(super) fn settle(&mut self, agent: &Agent, number: u64, is_kept: bool) {
        let Some(answer) = self.waiting.remove(&number) else { return };
        let trouble =
            || agent.trouble().map_or_else(|| "too slow, or too much was asked".to_owned(), ToString::to_string);
        drop(answer.try_send(if is_kept { Ok(standing(agent)) } else { Err(Declined::Unanswered(trouble())) }));
    }
}

fn standing(agent: &Agent) -> Standing {
    Standing { known: agent.known(), leader: agent.leader(), trouble: agent.trouble().map(ToString::to_string) }
}
