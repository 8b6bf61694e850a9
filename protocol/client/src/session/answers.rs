//! What becomes of replies: answers for callers, parts for gathers, and the refusals that are tried again.
//!
//! `Moved`, `Overloaded` and `ShuttingDown` say that nothing was changed. A write that was only ever refused gives its token
//! back and gets a fresh one; one that an earlier attempt may have carried out keeps it until it ends.

use std::time::Duration;

use quoit_wire::{RequestBody, Status};

use super::budget::{backoff, jitter};
use super::connection::Replied;
use super::gather::{PartResults, pick, read_results};
use super::link::LinkState;
use super::slab::Key;
use super::{Entry, Origin, Session, Work};
use crate::answer::{Answer, Outcome};
use crate::error::{Error, Fault, ProtocolError, message_text};
use crate::options::{BACKOFF_FIRST, BACKOFF_MAX, REDIRECT_WAIT_FIRST, REDIRECT_WAIT_MAX};
use crate::request::{Entries, Frame};
use crate::time::Instant;

impl<T> Session<T> {
    /// A request was answered over the link.
    pub(super) fn on_replied(&mut self, link: Key, key: Key, replied: Replied, now: Instant) {
        if let Some(link) = self.links.get_mut(link) {
            link.succeeded();
        }
        // A request that was given up is answered to nobody.
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.in_flight = false;
        let operation = entry.work.operation();
        if matches!(entry.origin, Origin::Topology) {
            self.release(key);
            return match replied.status {
                Status::Ok => self.on_topology(link, &replied.value, now),
                // Where there is a topology the next try may do; where there is none another server must help.
                _ if self.map.topology.is_some() => self.on_topology_missed(now),
                status => {
                    let fault = Fault::Refused { status, message: message_text(&replied.value) };
                    self.on_topology_failed(link, fault, now);
                }
            };
        }
        match replied.status {
            Status::Ok | Status::Miss | Status::ConditionFailed => {
                let Replied { status, version, client_flags, value, .. } = replied;
                self.conclude(key, Ok(Answer { operation, status, version, client_flags, value }), now);
            }
            Status::Moved => self.redirect(key, replied.version.as_u64(), now),
            Status::Overloaded => {
                let wait = Duration::from_millis(replied.retry_after_ms.into());
                let error = Error::from_status(Status::Overloaded, replied.retry_after_ms, &[]);
                self.try_later(key, wait, error, now);
            }
            // While a copy is being restored; where there is nobody to hold one, waiting helps nothing.
            Status::NotEnoughCopies if self.has_other_nodes() => {
                let setbacks = self.entries.get(key).map_or(0, |entry| entry.setbacks.into());
                let wait = backoff(BACKOFF_FIRST, BACKOFF_MAX, setbacks, &mut self.rng);
                self.try_later(key, wait, Error::from_status(Status::NotEnoughCopies, 0, &replied.value), now);
            }
            Status::ShuttingDown => {
                let setbacks = self.entries.get(key).map_or(0, |entry| entry.setbacks.into());
                let wait = backoff(BACKOFF_FIRST, BACKOFF_MAX, setbacks, &mut self.rng);
                self.try_later(key, wait, Error::from_status(Status::ShuttingDown, 0, &replied.value), now);
            }
            Status::TopologyChanged => {
                let error = ProtocolError::Status { operation: operation.name(), status: replied.status };
                self.conclude(key, Err(error.into()), now);
            }
            status => self.conclude(key, Err(Error::from_status(status, 0, &replied.value)), now),
        }
    }

    /// Marks what a broken connection left unanswered; returns what shall be sent again, in the same order.
    pub(super) fn settle_unanswered(&mut self, keys: Vec<Key>, address: &str, fault: &Fault, now: Instant) -> Vec<Key> {
        let mut again = Vec::with_capacity(keys.len());
        for key in keys {
            let Some(entry) = self.entries.get_mut(key) else { continue };
            entry.in_flight = false;
            entry.uncertain = true;
            if matches!(entry.origin, Origin::Topology) {
                self.release(key);
                self.on_topology_missed(now);
            } else if self.budget.spend(now) {
                again.push(key);
            } else {
                let maybe_applied = entry.maybe_applied();
                let lost = Error::Lost { address: address.to_owned(), source: fault.clone(), maybe_applied };
                self.conclude(key, Err(lost), now);
            }
        }
        again
    }

    /// Ends a request.
    pub(super) fn conclude(&mut self, key: Key, result: Result<Answer, Error>, now: Instant) {
        let Some(entry) = self.release(key) else { return };
        match entry.origin {
            Origin::Caller(tag) => self.completions.push_back((tag, Outcome::One(result))),
            Origin::Part { gather, indexes } => match (&entry.work, result) {
                (Work::Entries(entries), Ok(answer)) => {
                    let results = read_results(entries.operation, &indexes, &answer.value);
                    match results.filter(|_| answer.status == Status::Ok) {
                        Some(results) => {
                            let part = Part { entries, gather, indexes: &indexes, deadline: entry.deadline };
                            self.take_results(&part, results, entry.sequence, entry.setbacks, now);
                        }
                        None => {
                            let error = ProtocolError::Body { operation: entries.operation.name() };
                            indexes.iter().for_each(|index| self.put(gather, *index, Err(error.clone().into())));
                        }
                    }
                }
                (_, result) => indexes.iter().for_each(|index| self.put(gather, *index, result.clone())),
            },
            Origin::Topology => self.on_topology_missed(now),
        }
    }

    /// What a request ends with whose time is up: where it was never sent, what kept it from being sent.
    pub(super) fn deadline_error(&self, key: Key) -> Error {
        let limit = self.options.deadline;
        let Some(entry) = self.entries.get(key) else { return Error::Deadline { limit, maybe_applied: false } };
        if entry.in_flight || entry.uncertain {
            return Error::Deadline { limit, maybe_applied: entry.maybe_applied() };
        }
        if entry.was_moved {
            return Error::from_status(Status::Moved, 0, &[]);
        }
        let waits_for = match (&self.map.topology, &entry.work) {
            (None, _) => self.map.scout,
            (Some(topology), Work::Owner(frame)) => {
                let seat = topology.owner(frame.key());
                self.map.seats[usize::from(seat.node)][usize::from(seat.core)]
            }
            (Some(_), _) => None,
        };
        let link = waits_for.and_then(|link| self.links.get(link));
        let down = link.filter(|link| !matches!(link.state, LinkState::Up(_)));
        match down.and_then(|link| link.last_fault.clone().map(|fault| (link.address.clone(), fault))) {
            Some((address, source)) => Error::Connect { address, source },
            None => Error::Deadline { limit, maybe_applied: false },
        }
    }

    /// The core does not own the key: asks the owner, as soon as the topology says who that is. While a cluster changes
    /// nobody may own a key for a while, so this goes on until the request's time is up.
    fn redirect(&mut self, key: Key, epoch: u64, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.refused();
        entry.was_moved = true;
        let wait = backoff(REDIRECT_WAIT_FIRST, REDIRECT_WAIT_MAX, entry.setbacks.into(), &mut self.rng);
        entry.waits_for_topology = true;
        // The node knows of nothing newer, and yet the key is not its own: somebody else may know.
        let is_riddle = entry.setbacks > 1;
        self.delayed.insert((now + wait, key));
        self.want_epoch(epoch, now);
        if is_riddle {
            self.fetch_at(now + wait);
        }
        self.fetch_if_due(now);
    }

    fn has_other_nodes(&self) -> bool {
        self.map.topology.as_ref().is_some_and(|topology| topology.nodes.len() > 1)
    }

    /// A limit or a stop refused the request: tries again after `wait` if time and budget allow, else ends it with `error`.
    fn try_later(&mut self, key: Key, wait: Duration, error: Error, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.refused();
        let at = now + wait + jitter(wait / 2 + Duration::from_millis(1), &mut self.rng);
        if at < entry.deadline && self.budget.spend(now) {
            self.delayed.insert((at, key));
        } else {
            // This attempt changed nothing; an earlier one that was not answered may have.
            let error = if entry.maybe_applied() { self.deadline_error(key) } else { error };
            self.conclude(key, Err(error), now);
        }
    }

    /// Gives the results of a part to its gather; those that are no answers yet are asked for again.
    fn take_results(&mut self, part: &Part<'_>, mut results: PartResults, sequence: u64, setbacks: u8, now: Instant) {
        for (index, result) in results.ended.drain(..) {
            self.put(part.gather, index, result);
        }
        let again = |positions: &[usize]| {
            let (entries, indexes) = pick(part.entries, part.indexes, positions);
            let origin = Origin::Part { gather: part.gather, indexes };
            let mut entry = Entry::new(Work::Entries(entries), origin, part.deadline, sequence);
            entry.setbacks = setbacks;
            entry
        };
        if !results.moved.is_empty() {
            let key = self.hold(again(&results.moved));
            self.redirect(key, results.moved_epoch, now);
        }
        if !results.overloaded.is_empty() {
            let key = self.hold(again(&results.overloaded));
            let wait = Duration::from_millis(results.retry_after_ms.into());
            let error = Error::from_status(Status::Overloaded, results.retry_after_ms, &[]);
            self.try_later(key, wait, error, now);
        }
        for position in results.too_large {
            let Some(key) = part.entries.keys().iter().nth(position) else { continue };
            let work = Work::Owner(Frame::new(&RequestBody::Get { key }));
            let origin = Origin::Part { gather: part.gather, indexes: vec![part.indexes[position]] };
            let entry = self.hold(Entry::new(work, origin, part.deadline, sequence));
            self.route(entry, now);
        }
    }

    fn put(&mut self, gather: Key, index: u32, result: Result<Answer, Error>) {
        let is_whole = self.gathers.get_mut(gather).is_some_and(|gather| gather.put(index, result));
        if is_whole && let Some(whole) = self.gathers.remove(gather) {
            let (tag, answers) = whole.into_parts();
            self.completions.push_back((tag, Outcome::Many(answers)));
        }
    }
}

/// A part of a multi operation that was answered.
struct Part<'a> {
    entries: &'a Entries,
    gather: Key,
    indexes: &'a [u32],
    deadline: Instant,
}

impl<T> Entry<T> {
    /// Notes a refusal: nothing was changed by this attempt.
    const fn refused(&mut self) {
        self.setbacks = self.setbacks.saturating_add(1);
        if !self.uncertain {
            self.token = None;
        }
    }
}
