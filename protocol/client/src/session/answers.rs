//! What becomes of replies: answers for callers, parts for gathers, and the refusals that are tried again.
//!
//! `Moved` and refusals say that nothing was changed. A write that was only ever refused gives its token
//! back and gets a fresh one; one that an earlier attempt may have carried out keeps it until it ends.

use quoit_wire::{Operation, RequestBody, Status};

use super::budget::backoff;
use super::connection::Replied;
use super::gather::{PartResults, Spread, pick, read_results};
use super::holds::Refusal;
use super::link::LinkState;
use super::slab::Key;
use super::{Entry, Origin, Session, Work};
use crate::answer::{Answer, Outcome};
use crate::error::{Error, Fault, ProtocolError, message_text};
use crate::options::{REDIRECT_WAIT_FIRST, REDIRECT_WAIT_MAX};
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
        let may_be_applied = entry.maybe_applied();
        if matches!(entry.origin, Origin::Topology) {
            self.release(key);
            return match replied.status {
                Status::Ok if operation == Operation::TopologyChanges => {
                    self.on_topology_changes(link, &replied.value, now);
                }
                Status::Miss if operation == Operation::TopologyChanges => self.on_changes_unknown(link, now),
                Status::Ok => self.on_topology(link, &replied.value, now),
                // Where there is a topology the next try may do; where there is none another server must help.
                _ if self.map.topology.is_some() => self.on_topology_missed(now),
                status => {
                    let fault = Fault::Refused { status, message: message_text(&replied.value) };
                    self.on_topology_failed(link, fault, now);
                }
            };
        }
        let refusal = Refusal { status: replied.status, retry_after_ms: replied.retry_after_ms };
        match replied.status {
            Status::Moved => return self.on_moved(Some(link), key, replied.version.as_u64(), now),
            Status::Overloaded | Status::ShuttingDown | Status::NotEnoughCopies if self.may_pass(replied.status) => {
                return self.refuse(key, refusal, now);
            }
            Status::OutcomeUnknown if self.may_pass(replied.status) && self.asks_again_how_it_ended(key) => {
                return self.refuse(key, refusal, now);
            }
            _ => {}
        }
        self.end_hold(key, now);
        let result = match replied.status {
            Status::Ok | Status::Miss | Status::ConditionFailed => {
                let Replied { status, version, client_flags, is_stale, value, .. } = replied;
                Ok(Answer { operation, status, version, client_flags, is_stale, value })
            }
            Status::TopologyChanged => {
                Err(ProtocolError::Status { operation: operation.name(), status: replied.status }.into())
            }
            // This attempt has changed nothing; an earlier one, which was not answered, may have.
            _ if may_be_applied => Err(Error::OutcomeUnknown),
            status => Err(Error::from_status(status, 0, &replied.value)),
        };
        self.conclude(key, result, now);
    }

    /// The primary has lost its role before the write was safe. Where a repeat does no harm, or is recognised by its token,
    /// whoever leads now can tell how it ends; but who has forgotten a token will not remember it the second time.
    fn asks_again_how_it_ended(&mut self, key: Key) -> bool {
        let Some(entry) = self.entries.get_mut(key) else { return false };
        entry.uncertain = true;
        !std::mem::replace(&mut entry.was_unknown, true) || !entry.work.wants_token()
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
                self.counters.repeats += 1;
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
        self.pass_probe_on(key, now);
        let Some(entry) = self.release(key) else { return };
        let may_be_applied = entry.maybe_applied();
        match entry.origin {
            Origin::Caller(tag) => self.completions.push_back((tag, Outcome::One(result))),
            Origin::Part { gather, indexes } => match (&entry.work, result) {
                (Work::Entries(entries), Ok(answer)) => {
                    let results = read_results(entries.operation, &indexes, &answer.value);
                    match results.filter(|_| answer.status == Status::Ok) {
                        Some(results) => {
                            let Entry { deadline, sequence, setbacks, .. } = entry;
                            let indexes = &indexes;
                            let part = Part { entries, gather, indexes, deadline, sequence, setbacks, may_be_applied };
                            self.take_results(&part, results, now);
                        }
                        None => {
                            let error = ProtocolError::Body { operation: entries.operation.name() };
                            indexes.iter().for_each(|index| self.put(gather, *index, Err(error.clone().into()), now));
                        }
                    }
                }
                (_, result) => indexes.iter().for_each(|index| self.put(gather, *index, result.clone(), now)),
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
        if let Some(refusal) = entry.refusal {
            return refusal.to_error();
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

    /// The core does not own the key. While a cluster changes nobody may own a key for a while, so this goes on until the
    /// request's time is up.
    fn on_moved(&mut self, told_by: Option<Key>, key: Key, epoch: u64, now: Instant) {
        self.counters.redirects += 1;
        if self.entries.get(key).is_some_and(|entry| matches!(entry.work, Work::Node { .. })) {
            // It answers by another topology than it was asked by: then all nodes are asked again.
            self.want_epoch(told_by, epoch, now);
            self.conclude(key, Err(Error::from_status(Status::Moved, 0, &[])), now);
            return self.fetch_if_due(now);
        }
        if self.map.topology.as_ref().is_some_and(|topology| u64::from(topology.epoch) < epoch) {
            self.move_hold(told_by, key, epoch, now);
            return self.redirect(told_by, key, epoch, now);
        }
        // The node knows of nothing newer, and yet the key is not its own: it may be in its next life, or behind the others.
        // Somebody else may know.
        self.fetch_at(now);
        self.refuse(key, Refusal { status: Status::Moved, retry_after_ms: 0 }, now);
        self.fetch_if_due(now);
    }

    /// Asks the owner, as soon as the topology of this epoch says who that is.
    pub(super) fn redirect(&mut self, told_by: Option<Key>, key: Key, epoch: u64, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.refused();
        entry.refusal = Some(Refusal { status: Status::Moved, retry_after_ms: 0 });
        let wait = backoff(REDIRECT_WAIT_FIRST, REDIRECT_WAIT_MAX, entry.setbacks.into(), &mut self.rng);
        self.try_later(key, wait, now);
        self.want_epoch(told_by, epoch, now);
        self.fetch_if_due(now);
    }

    /// Whether waiting may help against a refusal: a copy that is missing is restored, and a new primary knows how a write
    /// ended, only where there are other nodes.
    fn may_pass(&self, refusal: Status) -> bool {
        matches!(refusal, Status::Overloaded | Status::ShuttingDown)
            || self.map.topology.as_ref().is_some_and(|topology| topology.nodes.len() > 1)
    }

    /// Gives the results of a part to its gather; those that are no answers yet are asked for again.
    fn take_results(&mut self, part: &Part<'_>, mut results: PartResults, now: Instant) {
        for (index, result) in results.ended.drain(..) {
            let result = result.map_err(|error| if part.may_be_applied { Error::OutcomeUnknown } else { error });
            self.put(part.gather, index, result, now);
        }
        let again = |positions: &[usize], is_unknown: bool| {
            let (entries, indexes) = pick(part.entries, part.indexes, positions);
            let origin = Origin::Part { gather: part.gather, indexes };
            let mut entry = Entry::new(Work::Entries(entries), origin, part.deadline, part.sequence);
            (entry.setbacks, entry.uncertain) = (part.setbacks, part.may_be_applied || is_unknown);
            entry
        };
        if !results.moved.is_empty() {
            let key = self.hold(again(&results.moved, false));
            self.on_moved(None, key, results.moved_epoch, now);
        }
        if let Some(refusal) = results.refusal {
            let key = self.hold(again(&results.refused, results.is_unknown));
            if self.may_pass(refusal.status) {
                self.refuse(key, refusal, now);
            } else {
                let may_be_applied = part.may_be_applied || results.is_unknown;
                let error = if may_be_applied { Error::OutcomeUnknown } else { refusal.to_error() };
                self.conclude(key, Err(error), now);
            }
        }
        for position in results.too_large {
            let Some(key) = part.entries.keys().iter().nth(position) else { continue };
            let work = Work::Owner(Frame::new(&RequestBody::Get { key }).with_flags(part.entries.flags));
            let origin = Origin::Part { gather: part.gather, indexes: vec![part.indexes[position]] };
            let entry = self.hold(Entry::new(work, origin, part.deadline, part.sequence));
            self.route(entry, now);
        }
    }

    fn put(&mut self, gather: Key, index: u32, result: Result<Answer, Error>, now: Instant) {
        let is_whole = self.gathers.get_mut(gather).is_some_and(|gather| gather.put(index, result));
        if is_whole && let Some(whole) = self.gathers.remove(gather) {
            match whole.into_parts() {
                (tag, Ok(answers)) => self.completions.push_back((tag, Outcome::Many(answers))),
                (tag, Err(spread)) => self.spread_anew(tag, spread, now),
            }
        }
    }

    /// Asks each node again, soon or by the next topology.
    fn spread_anew(&mut self, tag: T, spread: Spread, now: Instant) {
        let Spread { frame, deadline, sequence, setbacks } = spread;
        let mut entry = Entry::new(Work::EachNode(frame), Origin::Caller(tag), deadline, sequence);
        entry.setbacks = setbacks.saturating_add(1);
        // Some nodes have done their part.
        entry.uncertain = true;
        entry.refusal = Some(Refusal { status: Status::Moved, retry_after_ms: 0 });
        let wait = backoff(REDIRECT_WAIT_FIRST, REDIRECT_WAIT_MAX, entry.setbacks.into(), &mut self.rng);
        let key = self.hold(entry);
        self.try_later(key, wait, now);
    }
}

/// A part of a multi operation that was answered.
struct Part<'a> {
    entries: &'a Entries,
    gather: Key,
    indexes: &'a [u32],
    deadline: Instant,
    sequence: u64,
    setbacks: u8,
    /// An attempt that was not answered may have carried out its writes.
    may_be_applied: bool,
}

impl<T> Entry<T> {
    /// Notes a refusal: nothing was changed by this attempt.
    pub(super) const fn refused(&mut self) {
        self.setbacks = self.setbacks.saturating_add(1);
        if !self.uncertain {
            self.token = None;
        }
    }
}
