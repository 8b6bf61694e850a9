//! Sets whose value is still arriving: collected in the arena, visible when complete.
//!
//! The frame's front (header, parameters, key) is kept; the value goes to the store's reserved space piece by piece as the
//! socket gives it. Only the publishing is the write: conditions, version and retry token are looked at then.

use quoit_wire::{Operation, Refusal, Request, RequestBody, RequestFlags, RequestHead, Status};

use super::execute::{answer_write, condition_of, expiry_of};
use super::output::{Output, ReplyLimits};
use super::{Outcome, Route, Shard, WriteResult};
use crate::store::{Reservation, ReserveRefusal};
use crate::time::Instant;

/// A set whose value is still arriving. Ends in [`Shard::publish_large_set`] or [`Shard::abandon_large_set`].
#[derive(Debug)]
pub struct LargeSet {
    head: RequestHead,
    /// The frame up to its value.
    front: Vec<u8>,
    reservation: Reservation,
}

impl LargeSet {
    /// The request, without its value.
    pub(super) fn request(&self) -> Result<Request<'_>, Refusal> {
        Request::decode(self.head, &self.front)
    }

    /// The request's head.
    pub const fn head(&self) -> RequestHead {
        self.head
    }

    /// The request's key.
    pub fn key(&self) -> &[u8] {
        self.head.key(&self.front)
    }

    /// Bytes that it takes beside the arena.
    pub const fn front_bytes(&self) -> usize {
        self.front.len()
    }

    /// Bytes of the value that have not arrived.
    pub fn missing_bytes(&self) -> usize {
        self.reservation.missing_bytes()
    }
}

impl Shard {
    /// Begins a large set from `front`, its frame up to the value; refused with the status to answer.
    pub fn open_large_set(
        &mut self,
        now: Instant,
        head: RequestHead,
        front: &[u8],
        hash: u64,
    ) -> Result<LargeSet, Status> {
        let request = Request::decode(head, front).map_err(|refusal: Refusal| refusal.status)?;
        if let Some(status) = self.refusal(&request) {
            return Err(status);
        }
        match self.store.reserve(now, hash, head.key(front), head.payload_bytes()) {
            Ok(reservation) => Ok(LargeSet { head, front: front.to_vec(), reservation }),
            Err(ReserveRefusal::TooLarge) => Err(Status::TooLarge),
            Err(ReserveRefusal::NoSpace) => Err(Status::NoSpace),
            Err(ReserveRefusal::Busy) => Err(Status::Overloaded),
        }
    }

    /// Space in the arena for the next `bytes` bytes of the value, piece by piece; none where memory has run out, and then
    /// [`Self::fill_large_set`] still takes them. It is the set's until that is published or abandoned.
    pub fn unfilled_pieces(&mut self, set: &mut LargeSet, bytes: usize, take_piece: impl FnMut(&mut [u8])) {
        self.store.unfilled_pieces(&mut set.reservation, bytes, take_piece);
    }

    /// The next `bytes` bytes of the value are in the space that [`Self::unfilled_pieces`] gave.
    pub fn advance_large_set(&mut self, set: &mut LargeSet, bytes: usize) {
        self.store.advance(&mut set.reservation, bytes);
    }

    /// Takes the next bytes of the value; returns how many, fewer than there are only when the value is complete.
    pub fn fill_large_set(&mut self, set: &mut LargeSet, bytes: &[u8]) -> usize {
        self.store.fill(&mut set.reservation, bytes)
    }

    /// Carries out a complete large set and appends its reply, which may have to wait in a cluster. Its vnode may have left
    /// while the value arrived. It is given back, with nothing done, where it is too early and the caller has said that it
    /// can keep it until later ([`Self::set_may_defer`]).
    pub fn publish_large_set(
        &mut self,
        now: Instant,
        set: Box<LargeSet>,
        limits: ReplyLimits,
        output: &mut Output,
    ) -> Result<Outcome, Box<LargeSet>> {
        if self.cluster.is_some() {
            return self.publish_large_set_in_cluster(now, set, limits, output);
        }
        self.publish(now, *set, limits, output);
        Ok(Outcome::Done)
    }

    /// Carries out a complete large set that nothing holds back.
    pub(super) fn publish(&mut self, now: Instant, set: LargeSet, limits: ReplyLimits, output: &mut Output) {
        let LargeSet { head, front, reservation } = set;
        let hash = self.hash(head.key(&front));
        if self.route(hash) != Route::Here {
            self.store.abandon(reservation);
            return self.answer_moved(&head, output);
        }
        let status = match Request::decode(head, &front) {
            Ok(Request { body: RequestBody::Set { parameters, condition, .. }, retry, .. }) => {
                let mut reservation = Some(reservation);
                let mut publish = |shard: &mut Self| -> WriteResult {
                    let reservation = reservation.take().expect("published once");
                    let condition = condition_of(condition, &parameters);
                    let expiry = expiry_of(&parameters);
                    let outcome = shard.store.publish(now, reservation, parameters.client_flags, expiry, condition);
                    shard.set_result(outcome)
                };
                let result = match retry {
                    Some(token) => self.once(now, token, hash, head.flags.has(RequestFlags::REPEAT), &mut publish),
                    None => Ok(publish(self)),
                };
                // A repeat is answered from the table; its bytes are not needed.
                if let Some(unused) = reservation {
                    self.store.abandon(unused);
                }
                answer_write(head.id, result, limits, output)
            }
            Ok(_) | Err(_) => unreachable!("the front was decoded as a set when the reservation was made"),
        };
        self.counters.count(Operation::Set, status);
    }

    /// Gives up a large set whose connection went away.
    pub fn abandon_large_set(&mut self, set: LargeSet) {
        self.store.abandon(set.reservation);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use quoit_wire::topology::{Node, Topology};
    use quoit_wire::{Reply, RequestOptions, SetCondition, SetParameters, request_head};

    use super::*;
    use crate::store::{PolicyKind, StoreOptions};

    const VALUE_BYTES_MAX: usize = 2 << 20;

    fn shard(policy: PolicyKind) -> Shard {
        let (name, address, zone) = (String::new(), String::new(), String::new());
        let node = Node { id: 1, incarnation: 1, name, address, zone, cores: 1, weight: 1 };
        let memory_bytes = 16 << 20;
        let options =
            StoreOptions { memory_bytes, value_bytes_max: VALUE_BYTES_MAX, policy, vnode_bits: 0, hash_seed: 1 };
        Shard::new(0, 0, Arc::new(Topology::standalone(node, 0, 1, 1)), options).unwrap()
    }

    fn frame(key: &[u8], value: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        let parameters = SetParameters::default();
        let body = RequestBody::Set { key, parameters, condition: SetCondition::Always, value };
        body.encode(1, RequestOptions { epoch: 1, ..RequestOptions::default() }, &mut frame);
        frame
    }

    /// How a set ends while as much as may be promised is promised to values that arrive slowly.
    fn set_while_others_arrive(policy: PolicyKind) -> (Status, u16) {
        let mut shard = shard(policy);
        let now = Instant::from_millis(1000);
        let limits = ReplyLimits { pin_bytes_min: usize::MAX, copy_bytes_max: usize::MAX, retry_after_ms: 7 };
        let mut arriving = Vec::new();
        let refusal = (0..).find_map(|number: u64| {
            let frame = frame(&number.to_le_bytes(), &[1; 512 << 10]);
            let head = request_head(&frame, VALUE_BYTES_MAX).unwrap().unwrap();
            let front = &frame[..head.frame_bytes - head.payload_bytes()];
            match shard.open_large_set(now, head, front, shard.hash(head.key(front))) {
                Ok(set) => arriving.push(set),
                Err(status) => return Some(status),
            }
            None
        });
        assert_eq!(refusal, Some(Status::Overloaded));
        let frame = frame(b"key", &[2; 512 << 10]);
        let head = request_head(&frame, VALUE_BYTES_MAX).unwrap().unwrap();
        let mut output = Output::default();
        let outcome = shard.execute_frame(now, head, &frame, shard.hash(b"key"), limits, &mut output);
        assert_eq!(outcome, Outcome::Done);
        let (reply, _) = Reply::decode(&output.bytes).unwrap().unwrap();
        let answer = (reply.status, reply.retry_after_ms);
        arriving.into_iter().for_each(|set| shard.abandon_large_set(set));
        // What was promised is free again.
        output.bytes.clear();
        let outcome = shard.execute_frame(now, head, &frame, shard.hash(b"key"), limits, &mut output);
        assert_eq!(outcome, Outcome::Done);
        assert_eq!(Reply::decode(&output.bytes).unwrap().unwrap().0.status, Status::Ok);
        answer
    }

    #[test]
    fn a_policy_that_evicts_refuses_no_write_for_good() {
        assert_eq!(set_while_others_arrive(PolicyKind::S3Fifo), (Status::Overloaded, 7));
        assert_eq!(set_while_others_arrive(PolicyKind::None).0, Status::NoSpace);
    }
}
