//! A link: the way to one core of one node, whether a connection stands or not.
//!
//! It keeps what outlives a connection: the requests that wait for one, the lineage of retry tokens, and how often it
//! failed. A link connects only when something waits for it, so an idle client leaves a restarting server alone.

use std::collections::VecDeque;

use quoit_wire::{HelloParameters, RetryToken};
use rand::{Rng, RngExt};

use super::budget::backoff;
use super::connection::Connection;
use super::slab::Key;
use crate::error::Fault;
use crate::options::{BACKOFF_FIRST, BACKOFF_MAX};
use crate::time::Instant;

/// The way to one core of one node.
#[derive(Debug)]
pub(super) struct Link {
    /// `host:port` of the node.
    pub(super) address: String,
    /// The core; `None` while any core of any server will do.
    pub(super) place: Option<Place>,
    pub(super) state: LinkState,
    /// Requests that wait to be sent, in order. Some may have ended in the meantime.
    pub(super) queue: VecDeque<Key>,
    /// What broke the connection last; cleared by the next hello's answer.
    pub(super) last_fault: Option<Fault>,
    /// The connection is wanted although nothing waits for it, as long as another one stands.
    pub(super) is_kept: bool,
    /// Its place is gone from the topology: the unanswered are waited for, nothing more is sent.
    pub(super) retiring: bool,
    /// Failures since the last answer.
    failures: u32,
    lineage: Option<RetryToken>,
}

/// One core of one node, over all topologies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) node: u64,
    pub(super) core: u16,
}

#[derive(Debug)]
pub(super) enum LinkState {
    /// No connection; none may be tried before `retry_at`.
    Down { retry_at: Instant },
    /// The front was asked to connect.
    Connecting { since: Instant },
    /// The socket stands.
    Up(Box<Connection>),
}

impl Link {
    pub(super) const fn new(address: String, place: Option<Place>, now: Instant) -> Self {
        Self {
            address,
            place,
            state: LinkState::Down { retry_at: now },
            queue: VecDeque::new(),
            last_fault: None,
            is_kept: false,
            retiring: false,
            failures: 0,
            lineage: None,
        }
    }

    /// The core to ask for in a hello.
    pub(super) fn wanted_core(&self) -> u16 {
        self.place.map_or(HelloParameters::ANY_CORE, |place| place.core)
    }

    /// The connection, once its hello is answered.
    pub(super) fn ready(&self) -> Option<&Connection> {
        match &self.state {
            LinkState::Up(connection) if connection.hello().is_some() => Some(connection),
            _ => None,
        }
    }

    pub(super) fn connection(&mut self) -> Option<&mut Connection> {
        match &mut self.state {
            LinkState::Up(connection) => Some(connection),
            _ => None,
        }
    }

    /// The server answered something: it is well.
    pub(super) const fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Goes down after `fault`; returns the unanswered requests in the order they were sent.
    pub(super) fn fail(&mut self, fault: Fault, now: Instant, rng: &mut impl Rng) -> Vec<Key> {
        self.failures = self.failures.saturating_add(1);
        self.last_fault = Some(fault);
        let retry_at = now + backoff(BACKOFF_FIRST, BACKOFF_MAX, self.failures, rng);
        match std::mem::replace(&mut self.state, LinkState::Down { retry_at }) {
            LinkState::Up(connection) => connection.into_unanswered(),
            LinkState::Down { .. } | LinkState::Connecting { .. } => Vec::new(),
        }
    }

    pub(super) const fn failures(&self) -> u32 {
        self.failures
    }

    /// The token of the next write of this link's lineage that is not idempotent.
    pub(super) fn next_token(&mut self, rng: &mut impl Rng) -> RetryToken {
        let token = match self.lineage {
            Some(RetryToken { session, number }) if number < u32::MAX => RetryToken { session, number: number + 1 },
            _ => RetryToken { session: rng.random(), number: 1 },
        };
        self.lineage = Some(token);
        token
    }
}
