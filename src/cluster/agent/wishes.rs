//! What operators want of nodes, on its way into etcd.
//!
//! A wish is kept when the keys show it, and only then: who asked is answered by what etcd has, not by what was sent. Until
//! then it is put again after every look at the keys, in a transaction that compares the record it changes, so that two
//! operators who ask for different things of one node both get theirs.

use std::collections::VecDeque;

use super::mirror::Mirror;
use crate::cluster::etcd::{Compare, EtcdRequest, Put};
use crate::cluster::records::{Intent, Keys};
use crate::time::{Duration, Instant};

/// Wishes that wait for etcd; operators are few, and further ones are refused.
const WISHES_MAX: usize = 64;
/// Time for a wish to be kept: longer than an etcd takes that elects another leader.
const WISH_TIME_MAX: Duration = Duration::from_secs(5);

/// One change of what operators want of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Whether it gives everything away and takes nothing.
    Draining(bool),
    /// Its share of the vnodes; `None` for the one it registers with.
    Weight(Option<u16>),
}

/// The wishes of one node's operators.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    waiting: VecDeque<Waiting>,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    number: u64,
    /// Of whom it is asked.
    id: u64,
    wish: Wish,
    until: Instant,
}

impl Wish {
    /// What is wanted of the node with it.
    pub const fn apply(self, intent: Intent) -> Intent {
        match self {
            Self::Draining(draining) => Intent { draining, ..intent },
            Self::Weight(weight) => Intent { weight, ..intent },
        }
    }
}

impl Wishes {
    /// Takes a wish in; false when too many wait.
    pub(super) fn push(&mut self, now: Instant, number: u64, id: u64, wish: Wish) -> bool {
        let has_room = self.waiting.len() < WISHES_MAX;
        if has_room {
            self.waiting.push_back(Waiting { number, id, wish, until: now + WISH_TIME_MAX });
        }
        has_room
    }

    /// Takes out those that the keys show.
    pub(super) fn take_kept(&mut self, mirror: &Mirror, keys: &Keys) -> Vec<u64> {
        self.take(|waiting| {
            let intent = mirror.intent(keys, waiting.id);
            waiting.wish.apply(intent) == intent
        })
    }

    /// Takes out those whose time is over.
    pub(super) fn take_late(&mut self, now: Instant) -> Vec<u64> {
        self.take(|waiting| now >= waiting.until)
    }

    /// The transaction that the first of them asks for.
    pub(super) fn request(&self, mirror: &Mirror, keys: &Keys) -> Option<EtcdRequest> {
        let Waiting { id, wish, .. } = self.waiting.front()?;
        let key = keys.intent(*id);
        let compares = vec![Compare::ModRevision { key: key.clone(), revision: mirror.mod_revision(&key) }];
        let value = wish.apply(mirror.intent(keys, *id)).to_bytes();
        Some(EtcdRequest::Transaction { compares, puts: vec![Put { key, value, lease: 0 }] })
    }

    /// When the first one's time is over.
    pub(super) fn timeout(&self) -> Option<Instant> {
        self.waiting.front().map(|waiting| waiting.until)
    }

    fn take(&mut self, is_over: impl Fn(&Waiting) -> bool) -> Vec<u64> {
        let (over, waiting) = self.waiting.iter().partition::<VecDeque<Waiting>, _>(|waiting| is_over(waiting));
        self.waiting = waiting;
        over.into_iter().map(|waiting| waiting.number).collect()
    }
}
