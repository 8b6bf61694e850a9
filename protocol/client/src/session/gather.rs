//! Requests with many answers: cut into parts by owning core or by node, and put together in the order asked.
//!
//! A multi operation is cut again whenever it is routed again, so keys whose owners change between two attempts follow
//! their owners one by one.

use std::collections::HashMap;

use quoit_wire::limits::MULTI_KEYS_MAX;
use quoit_wire::topology::Seat;
use quoit_wire::{Items, Keys, MultiResult, Operation, RequestBody, SetCondition, SetParameters, Status};

use super::holds::Refusal;
use crate::answer::Answer;
use crate::error::{Error, ProtocolError};
use crate::options::MULTI_BODY_BYTES_TARGET;
use crate::request::{Entries, Frame};
use crate::time::Instant;

/// A request whose answers arrive in parts.
#[derive(Debug)]
pub(super) struct Gather<T> {
    tag: T,
    answers: Vec<Option<Result<Answer, Error>>>,
    missing: usize,
    /// What was asked of each node, to be asked anew where one of them goes by another topology.
    spread: Option<Spread>,
}

/// A request to each node.
#[derive(Debug)]
pub(super) struct Spread {
    pub(super) frame: Frame,
    pub(super) deadline: Instant,
    pub(super) sequence: u64,
    pub(super) setbacks: u8,
}

impl<T> Gather<T> {
    pub(super) fn new(tag: T, count: usize) -> Self {
        Self { tag, answers: vec![None; count], missing: count, spread: None }
    }

    /// What is asked of each of `count` nodes.
    pub(super) fn of_nodes(tag: T, count: usize, spread: Spread) -> Self {
        Self { spread: Some(spread), ..Self::new(tag, count) }
    }

    /// Takes the answer at `index`; `true` when it was the last one missing.
    pub(super) fn put(&mut self, index: u32, answer: Result<Answer, Error>) -> bool {
        let place = &mut self.answers[index as usize];
        debug_assert!(place.is_none(), "a part is answered once");
        *place = Some(answer);
        self.missing -= 1;
        self.missing == 0
    }

    /// The tag and the answers in the order asked; all are there. Or what is to be asked of each node anew.
    pub(super) fn into_parts(self) -> (T, Result<Vec<Result<Answer, Error>>, Spread>) {
        let is_moved =
            |answer: &Result<Answer, Error>| matches!(answer, Err(Error::Server { status: Status::Moved, .. }));
        match self.spread.filter(|_| self.answers.iter().flatten().any(is_moved)) {
            Some(spread) => (self.tag, Err(spread)),
            None => (self.tag, Ok(self.answers.into_iter().flatten().collect())),
        }
    }
}

/// One core's share of a multi operation.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) seat: Seat,
    pub(super) what: PartWork,
    /// Where the answers go, in the order of the entries.
    pub(super) indexes: Vec<u32>,
}

#[derive(Debug)]
pub(super) enum PartWork {
    Entries(Entries),
    /// An item too large to share a frame.
    Alone(Frame),
}

/// Cuts `entries`, whose answers go to `indexes`, into one part for each core that `seat_of` names, or more where one frame
/// would be over a limit.
pub(super) fn cut(
    entries: &Entries,
    indexes: &[u32],
    seat_of: impl Fn(&[u8]) -> Seat,
    body_bytes_max: usize,
) -> Vec<Part> {
    let body_bytes_max = body_bytes_max.min(MULTI_BODY_BYTES_TARGET);
    let mut parts = Vec::new();
    let mut open: HashMap<Seat, Part> = HashMap::new();
    let mut add = |seat: Seat, index: u32, bytes: usize, push: &dyn Fn(&mut Vec<u8>), alone: &dyn Fn() -> Frame| {
        if bytes > body_bytes_max {
            // What was asked before it is sent before it: both may name the same key.
            parts.extend(open.remove(&seat));
            parts.push(Part { seat, what: PartWork::Alone(alone()), indexes: vec![index] });
            return;
        }
        let new_part = || Part { seat, what: PartWork::Entries(entries.like()), indexes: Vec::new() };
        let part = open.entry(seat).or_insert_with(new_part);
        let PartWork::Entries(share) = &mut part.what else { return };
        if share.count == MULTI_KEYS_MAX || share.bytes.len() + bytes > body_bytes_max {
            parts.push(std::mem::replace(part, new_part()));
        }
        let PartWork::Entries(share) = &mut part.what else { return };
        push(&mut share.bytes);
        share.count += 1;
        part.indexes.push(index);
    };
    match entries.operation {
        Operation::MultiSet => {
            for (item, index) in entries.items().iter().zip(indexes) {
                let bytes = quoit_wire::ItemEntry::BYTES + item.key.len() + item.value.len();
                let push = |body: &mut Vec<u8>| Items::push(item, body);
                add(seat_of(item.key), *index, bytes, &push, &|| set_alone(item).with_flags(entries.flags));
            }
        }
        _ => {
            for (key, index) in entries.keys().iter().zip(indexes) {
                let bytes = quoit_wire::KeyEntry::BYTES + key.len();
                let push = |body: &mut Vec<u8>| Keys::push(key, body);
                add(seat_of(key), *index, bytes, &push, &|| {
                    Frame::new(&RequestBody::Get { key }).with_flags(entries.flags)
                });
            }
        }
    }
    // The open parts in the order of their first entries, so that what is sent does not depend on a hash.
    let mut rest: Vec<_> = open.into_values().collect();
    rest.sort_unstable_by_key(|part| part.indexes.first().copied());
    parts.extend(rest);
    parts
}

/// How the entries of one part ended.
#[derive(Debug, Default)]
pub(super) struct PartResults {
    /// Answered for good.
    pub(super) ended: Vec<(u32, Result<Answer, Error>)>,
    /// Owned by another core or node now; positions within the part.
    pub(super) moved: Vec<usize>,
    /// The newest epoch a moved entry named.
    pub(super) moved_epoch: u64,
    /// Refused for now; positions within the part.
    pub(super) refused: Vec<usize>,
    /// One of those refusals, with the longest wait that any of them asked for.
    pub(super) refusal: Option<Refusal>,
    /// How one of the refused has ended is not known.
    pub(super) is_unknown: bool,
    /// Values that did not fit the reply; positions within the part, to be asked for alone.
    pub(super) too_large: Vec<usize>,
}

/// Reads the body of a reply to a part; `None` when it does not hold together.
pub(super) fn read_results(operation: Operation, indexes: &[u32], mut body: &[u8]) -> Option<PartResults> {
    let mut results = PartResults::default();
    for (position, index) in indexes.iter().enumerate() {
        let (result, rest) = MultiResult::take(body)?;
        body = rest;
        match result.status {
            Status::Moved => {
                results.moved.push(position);
                results.moved_epoch = results.moved_epoch.max(result.version.as_u64());
            }
            // Entries are idempotent: one whose outcome is unknown is tried again like one that was refused.
            Status::Overloaded | Status::NotEnoughCopies | Status::OutcomeUnknown => {
                results.refused.push(position);
                results.is_unknown |= result.status == Status::OutcomeUnknown;
                let longest_ms = results.refusal.map_or(0, |refusal| refusal.retry_after_ms).max(result.retry_after_ms);
                results.refusal = Some(Refusal { status: result.status, retry_after_ms: longest_ms });
            }
            Status::TooLarge if operation == Operation::MultiGet => results.too_large.push(position),
            status => results.ended.push((*index, single_answer(operation, status, &result))),
        }
    }
    body.is_empty().then_some(results)
}

/// The entries at `positions` alone, with their indexes.
pub(super) fn pick(entries: &Entries, indexes: &[u32], positions: &[usize]) -> (Entries, Vec<u32>) {
    let mut picked = Entries { count: positions.len(), ..entries.like() };
    let is_picked = |position: &usize| positions.binary_search(position).is_ok();
    match entries.operation {
        Operation::MultiSet => {
            let items = entries.items();
            let picked_items = items.iter().enumerate().filter(|(position, _)| is_picked(position));
            picked_items.for_each(|(_, item)| Items::push(item, &mut picked.bytes));
        }
        _ => {
            let keys = entries.keys();
            let picked_keys = keys.iter().enumerate().filter(|(position, _)| is_picked(position));
            picked_keys.for_each(|(_, key)| Keys::push(key, &mut picked.bytes));
        }
    }
    (picked, positions.iter().map(|position| indexes[*position]).collect())
}

fn single_answer(operation: Operation, status: Status, result: &MultiResult<'_>) -> Result<Answer, Error> {
    let operation = if operation == Operation::MultiSet { Operation::Set } else { Operation::Get };
    match status {
        Status::Ok | Status::Miss | Status::ConditionFailed => Ok(Answer {
            operation,
            status,
            version: result.version,
            client_flags: result.client_flags,
            is_stale: result.is_stale,
            value: result.value.to_vec(),
        }),
        Status::TopologyChanged => Err(ProtocolError::Status { operation: operation.name(), status }.into()),
        _ => Err(Error::from_status(status, result.retry_after_ms, result.value)),
    }
}

fn set_alone(item: quoit_wire::Item<'_>) -> Frame {
    let parameters = SetParameters { ttl_ms: item.ttl_ms, client_flags: item.client_flags, ..SetParameters::default() };
    Frame::new(&RequestBody::Set { key: item.key, parameters, condition: SetCondition::Always, value: item.value })
}
