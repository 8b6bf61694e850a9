//! A shard of a cluster: what its copies have to be asked before a request, and told after it.
//!
//! The dispatch of operations is the same as without a cluster. Around it: admission (may this core answer, are there
//! enough copies), the record of what a write left behind, and the reply's wait for what it rests on. A reply that waits is
//! appended to the output like any other; the caller keeps its bytes back until the ticket is released.

use std::collections::BTreeSet;
use std::sync::Arc;

use quoit_wire::peer::{KeptResult, Put};
use quoit_wire::topology::{Node, vnode_of};
use quoit_wire::{
    Operation, Request, RequestBody, RequestFlags, RequestHead, RetryToken, SetParameters, Status, Version, WriteMode,
};

use super::execute::{answer, expiry_of};
use super::large_set::LargeSet;
use super::output::{Output, ReplyLimits};
use super::{Route, Shard, TopologyOutcome};
use crate::cluster::Ring;
use crate::cluster::copies::{Admission, Commit, Copies, Need, State, Ticket, VnodeStatus, Written};
use crate::cluster::load::Load;
use crate::cluster::planted::{Fault, is_planted};
use crate::cluster::retries::WriteResult;
use crate::samples::{Sample, SampleKind};
use crate::store::Hit;
use crate::time::Instant;

/// What a client waits before it asks again while a vnode is between two primaries: a failover's last step takes some ms.
const LATER_MS: u16 = 20;

/// Whether a reply may be sent.
#[must_use = "a reply that waits must be kept back"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is complete.
    Done,
    /// It waits for a commit: what the request has appended to its output is kept back until the ticket is released. If it
    /// is abandoned, a write is answered `OutcomeUnknown` and a read `Moved` instead.
    Pending(Ticket),
    /// Nothing was done or appended: the request can be carried out soon, and the caller has said that it can keep it until
    /// then ([`Shard::set_may_defer`]). Only of a request for one key that came as a frame.
    Later,
}

/// What a shard has in a cluster.
pub(super) struct Cluster {
    copies: Copies,
    /// The mode of the write that is being carried out.
    mode: WriteMode,
    /// What the reply under construction waits for.
    waits: Vec<(u16, Commit)>,
    /// Whether there is room to keep another reply back.
    may_wait: bool,
    /// Whether a request that has to wait for its vnode can be kept, and is then not refused.
    may_defer: bool,
    /// The last refusal was of a vnode that will be served soon.
    is_soon: bool,
    /// Vnodes for which requests wait; later ones must not overtake them.
    waited_for: BTreeSet<u16>,
    /// What was last admitted may be answered with something stale, and then waits for nothing.
    is_stale: bool,
    /// Replies that were marked stale.
    stale_replies: u64,
}

impl Shard {
    /// From now on this shard, which owns nothing yet, is a core of a cluster.
    pub fn join_cluster(&mut self, copies: Copies) {
        assert!(
            (0..self.topology.vnodes.len()).all(|vnode| !self.owned.has(vnode)),
            "a shard joins a cluster before it owns anything"
        );
        self.cluster = Some(Box::new(Cluster {
            copies,
            mode: WriteMode::Async,
            waits: Vec::new(),
            may_wait: true,
            may_defer: false,
            is_soon: false,
            waited_for: BTreeSet::new(),
            is_stale: false,
            stale_replies: 0,
        }));
    }

    /// The copies and what they hold, for the messages, orders and news that are theirs; none without a cluster.
    pub fn copies(&mut self) -> Option<(&mut Copies, State<'_>)> {
        let cluster = self.cluster.as_deref_mut()?;
        Some((&mut cluster.copies, State { store: &mut self.store, retries: &mut self.retries }))
    }

    /// Fetches what the copies know of the vnodes of these hashes; nothing without a cluster.
    #[inline]
    pub(super) fn prefetch_copies(&self, hashes: impl Iterator<Item = u64> + Clone) {
        if let Some(cluster) = self.cluster.as_deref() {
            cluster.copies.prefetch(hashes.map(|hash| vnode_of(hash, self.topology.vnode_bits)));
        }
    }

    /// Bytes of buffers with what the copies have for others; none without a cluster.
    pub fn copies_buffer_bytes(&self) -> usize {
        self.cluster.as_deref().map_or(0, |cluster| cluster.copies.buffer_bytes())
    }

    /// Whether there is room to keep back a reply that has to wait. From now on what would have to wait where there is none
    /// is answered `Overloaded` and not carried out.
    pub fn set_may_wait(&mut self, may_wait: bool) {
        self.cluster.as_deref_mut().into_iter().for_each(|cluster| cluster.may_wait = may_wait);
    }

    /// Whether the caller can keep a request for which it is too early now, and hand it in again. Where it can't, and that is
    /// so at first, such a request is answered `Overloaded`.
    pub fn set_may_defer(&mut self, may_defer: bool) {
        self.cluster.as_deref_mut().into_iter().for_each(|cluster| cluster.may_defer = may_defer);
    }

    /// Whether requests for `vnode` wait with the caller: as long as they do, others of this vnode are not carried out.
    pub fn set_waiting(&mut self, vnode: u16, has_waiting: bool) {
        let Some(cluster) = self.cluster.as_deref_mut() else { return };
        match has_waiting {
            true => cluster.waited_for.insert(vnode),
            false => cluster.waited_for.remove(&vnode),
        };
    }

    /// Whether it is still too early for a request for `vnode`.
    pub fn has_to_wait(&self, now: Instant, vnode: u16) -> bool {
        let Some(cluster) = self.cluster.as_deref() else { return false };
        // The first hash of the vnode: it is only asked for its vnode.
        let hash = u64::from(vnode).checked_shl(64 - u32::from(self.topology.vnode_bits)).unwrap_or(0);
        self.route(hash) == Route::Here && cluster.copies.admit(now, hash, Need::Read) == Admission::Soon
    }

    /// Answers a request that has waited in vain.
    pub fn answer_later(&mut self, head: &RequestHead, output: &mut Output) {
        let status = self.refuse(head.id, Status::Overloaded, output);
        self.counters.count(head.operation, status);
    }

    /// A newer ring: the shard routes by it, and its copies take their roles from it.
    pub fn handle_ring(&mut self, now: Instant, ring: &Arc<Ring>) -> TopologyOutcome {
        let topology = ring.to_topology();
        if (topology.seed, topology.vnode_bits) != (self.topology.seed, self.topology.vnode_bits) {
            return TopologyOutcome::Foreign;
        }
        if topology.epoch <= self.topology.epoch {
            return TopologyOutcome::Stale;
        }
        let own = (self.node_id, self.incarnation);
        let node = topology.nodes.iter().position(|node| (node.id, node.incarnation) == own);
        self.node = node.and_then(|node| u16::try_from(node).ok());
        for vnode in 0..topology.vnodes.len() {
            self.owned.set(vnode, self.term(&topology, self.node, vnode).is_some());
        }
        self.replace_topology(Arc::new(topology));
        if let Some((copies, mut state)) = self.copies() {
            copies.handle_ring(now, &mut state, ring);
        }
        TopologyOutcome::Taken
    }

    /// Each vnode of this core as its copies see it; none without a cluster.
    pub fn vnodes(&self) -> Vec<VnodeStatus> {
        self.cluster.as_deref().map(|cluster| cluster.copies.vnodes(&self.store)).unwrap_or_default()
    }

    /// What this core has and has still to do; nothing without a cluster.
    pub fn load(&self) -> Load {
        self.cluster.as_deref().map(|cluster| cluster.copies.load(&self.store)).unwrap_or_default()
    }

    /// Bytes of vnodes that were streamed from here; none without a cluster.
    pub fn streamed_bytes(&self) -> u64 {
        self.cluster.as_deref().map_or(0, |cluster| cluster.copies.streamed_bytes())
    }

    /// Lists the counters and gauges of a core of a cluster.
    pub(super) fn cluster_samples(&self, out: &mut Vec<Sample>) {
        let Some(cluster) = self.cluster.as_deref() else { return };
        cluster.copies.samples(&self.store, out);
        out.push(Sample {
            name: "stale_replies_total",
            help: "Reads answered with what may be stale, and marked so.",
            kind: SampleKind::Counter,
            label: None,
            value: cluster.stale_replies,
        });
    }

    /// After the requests and messages of a turn, or of a few: tells the copies what has been evicted, and prepares what is to be sent.
    pub fn turn_cluster(&mut self, now: Instant) {
        self.record_evictions();
        if let Some((copies, mut state)) = self.copies() {
            copies.turn(now, &mut state);
        }
    }

    /// Tells the copies what has been evicted, before anything else is written.
    fn record_evictions(&mut self) {
        let evictions = self.store.take_evictions();
        if let Some(cluster) = self.cluster.as_deref_mut() {
            cluster.copies.record_evictions(&evictions);
        }
    }

    /// Executes the request in `frame` in a cluster; else as [`Self::execute_frame`].
    #[inline(never)]
    pub(super) fn execute_frame_in_cluster(
        &mut self,
        now: Instant,
        head: RequestHead,
        frame: &[u8],
        hash: u64,
        limits: ReplyLimits,
        output: &mut Output,
    ) -> Outcome {
        if head.is_plain_get() {
            return self.get_in_cluster(now, &head, frame, hash, limits, output);
        }
        match Request::decode(head, frame) {
            Ok(request) => self.execute_in_cluster(now, &request, hash, limits, output),
            Err(refusal) => self.refuse_frame(&head, refusal.status, output),
        }
    }

    /// A get without flags, which needs no decoding.
    fn get_in_cluster(
        &mut self,
        now: Instant,
        head: &RequestHead,
        frame: &[u8],
        hash: u64,
        limits: ReplyLimits,
        output: &mut Output,
    ) -> Outcome {
        if let Some(cluster) = self.cluster.as_deref_mut() {
            cluster.waits.clear();
        }
        let status = match self.held_back(now, hash, Need::Read) {
            Some(_) if self.is_deferred() => return Outcome::Later,
            Some(status) => self.refuse(head.id, status, output),
            None => {
                let before = self.last_write(hash);
                let pin_bytes_min = if self.rests_on_something(hash) { usize::MAX } else { limits.pin_bytes_min };
                let key = head.key(frame);
                let start = output.bytes.len();
                let status = self.get(now, hash, key, head.id, ReplyLimits { pin_bytes_min, ..limits }, output);
                self.settle_key(now, hash, key, before, None, None);
                if self.notes_stale() {
                    output.mark_stale(start);
                }
                status
            }
        };
        self.counters.count(Operation::Get, status);
        self.outcome(now)
    }

    /// Executes a request in a cluster; else as [`Self::execute`].
    pub(super) fn execute_in_cluster(
        &mut self,
        now: Instant,
        request: &Request<'_>,
        hash: u64,
        limits: ReplyLimits,
        output: &mut Output,
    ) -> Outcome {
        let id = request.head.id;
        let need = self.begin(request);
        if let (Need::ReadAny, RequestBody::Get { key }, None) = (need, request.body, self.refusal(request)) {
            let status = self.get_any(now, hash, key, id, limits, output);
            self.counters.count(Operation::Get, status);
            return Outcome::Done;
        }
        let key = request.body.key();
        let held_back = match request.body {
            RequestBody::Flush => self.has_no_room(hash, need).then_some(Status::Overloaded),
            _ => key.and_then(|_| self.held_back(now, hash, need)),
        };
        let refusal = self.refusal(request);
        let status = match refusal.or(held_back) {
            Some(_) if refusal.is_none() && self.is_deferred() => return Outcome::Later,
            Some(status) => self.refuse(id, status, output),
            None if matches!(request.body, RequestBody::Flush) => {
                match self.flush_in_cluster(now, request.head.epoch) {
                    Some(status) => self.refuse(id, status, output),
                    None => answer(id, Status::Ok, Version::NONE, output),
                }
            }
            None => {
                let before = key.map_or(0, |_| self.last_write(hash));
                // A reply that may have to wait is kept as bytes: it must not lie in the arena.
                let may_wait = key.is_none() || need != Need::Read || self.rests_on_something(hash);
                let pin_bytes_min = if may_wait { usize::MAX } else { limits.pin_bytes_min };
                let start = output.bytes.len();
                let status = self.execute_checked(now, request, hash, ReplyLimits { pin_bytes_min, ..limits }, output);
                if let Some(key) = key {
                    self.settle_key(now, hash, key, before, request.retry, resulting_put(&request.body));
                    if self.notes_stale() {
                        output.mark_stale(start);
                    }
                }
                status
            }
        };
        self.counters.count(request.head.operation, status);
        self.outcome(now)
    }

    /// A get that any copy may answer.
    fn get_any(
        &mut self,
        now: Instant,
        hash: u64,
        key: &[u8],
        id: u32,
        limits: ReplyLimits,
        output: &mut Output,
    ) -> Status {
        let start = output.bytes.len();
        let read = self.read_any(now, hash, key, |hit| match hit {
            Some(hit) => output.hit(id, &hit, limits),
            None => answer(id, Status::Miss, Version::NONE, output),
        });
        match read {
            Ok(status) => {
                if self.notes_stale() {
                    output.mark_stale(start);
                }
                status
            }
            Err(status) => self.refuse(id, status, output),
        }
    }

    /// Reads what any copy may answer, with what may be stale or uncommitted: it waits for nothing, and
    /// [says so](Self::notes_stale). `tell` has what was found; refused with the status to answer.
    pub(super) fn read_any(
        &mut self,
        now: Instant,
        hash: u64,
        key: &[u8],
        tell: impl FnOnce(Option<Hit<'_>>) -> Status,
    ) -> Result<Status, Status> {
        if let Some(status) = self.held_back(now, hash, Need::ReadAny) {
            return Err(status);
        }
        let rests_on_something = self.rests_on_something(hash);
        let status = match self.keeps_copy(hash) {
            // The primary alone decides what lives how long.
            true => tell(self.store.read_only(now, hash, key)),
            false => {
                let before = self.last_write(hash);
                let status = tell(self.store.get(now, hash, key));
                self.settle_key(now, hash, key, before, None, None);
                status
            }
        };
        if let Some(cluster) = self.cluster.as_deref_mut() {
            cluster.is_stale |= rests_on_something;
            cluster.waits.clear();
        }
        Ok(status)
    }

    /// Whether what is answered now may be stale; counted, if it is.
    pub(super) fn notes_stale(&mut self) -> bool {
        let Some(cluster) = self.cluster.as_deref_mut() else { return false };
        cluster.stale_replies += u64::from(cluster.is_stale);
        cluster.is_stale
    }

    /// Whether this core has a copy of a vnode that it is not the primary of, for reads that any copy may answer.
    pub fn keeps_copy(&self, hash: u64) -> bool {
        self.cluster.as_deref().is_some_and(|cluster| cluster.copies.keeps_copy(hash))
    }

    /// Whether this core answers a read of the key with this hash, which any copy may answer if it `takes_any`.
    pub fn can_read(&self, hash: u64, takes_any: bool) -> bool {
        self.route(hash) == Route::Here || takes_any && self.keeps_copy(hash)
    }

    /// Carries out a complete large set in a cluster; else as [`Self::publish_large_set`].
    pub(super) fn publish_large_set_in_cluster(
        &mut self,
        now: Instant,
        set: Box<LargeSet>,
        limits: ReplyLimits,
        output: &mut Output,
    ) -> Result<Outcome, Box<LargeSet>> {
        let (key, head, retry, need) = match set.request() {
            Ok(request) => {
                let need = self.begin(&request);
                (request.body.key().unwrap_or_default().to_vec(), request.head, request.retry, need)
            }
            Err(_) => unreachable!("the front was decoded as a set when the reservation was made"),
        };
        let hash = self.hash(&key);
        match self.held_back(now, hash, need) {
            Some(_) if self.is_deferred() => return Err(set),
            Some(status) => {
                self.abandon_large_set(*set);
                self.counters.count(head.operation, status);
                self.refuse(head.id, status, output);
            }
            None => {
                let before = self.last_write(hash);
                self.publish(now, *set, limits, output);
                self.settle_key(now, hash, &key, before, retry, None);
            }
        }
        Ok(self.outcome(now))
    }

    /// Why a request on the key with this hash is not carried out now, if so; never without a cluster.
    pub(super) fn held_back(&mut self, now: Instant, hash: u64, need: Need) -> Option<Status> {
        let vnode_bits = self.topology.vnode_bits;
        let cluster = self.cluster.as_deref_mut()?;
        let is_waited_for = |it: &Cluster| it.waited_for.contains(&(vnode_of(hash, vnode_bits) as u16));
        let admission = match !cluster.waited_for.is_empty() && is_waited_for(cluster) {
            true => Admission::Soon,
            false => cluster.copies.admit(now, hash, need),
        };
        cluster.is_stale = admission == Admission::Stale;
        cluster.is_soon = admission == Admission::Soon;
        match admission {
            Admission::Go if self.has_no_room(hash, need) => Some(Status::Overloaded),
            Admission::Go | Admission::Stale => None,
            Admission::Moved => Some(Status::Moved),
            Admission::Soon | Admission::Later => Some(Status::Overloaded),
            Admission::NotEnoughCopies => Some(Status::NotEnoughCopies),
        }
    }

    /// Whether what [`Self::held_back`] has just refused is to be kept by the caller instead.
    fn is_deferred(&self) -> bool {
        self.cluster.as_deref().is_some_and(|cluster| cluster.is_soon && cluster.may_defer)
    }

    /// What the write that is being carried out needs.
    pub(super) fn write_need(&self) -> Need {
        Need::Write(self.cluster.as_deref().map_or(WriteMode::Async, |cluster| cluster.mode))
    }

    /// The version that goes with a refusal: with `Moved` the epoch.
    pub(super) fn version_with(&self, status: Status) -> Version {
        match status {
            Status::Moved => Version::from_u64(u64::from(self.topology.epoch)),
            _ => Version::NONE,
        }
    }

    /// The number of the last write in the vnode of `hash`; zero without a cluster.
    pub(super) fn last_write(&self, hash: u64) -> u64 {
        match self.cluster {
            Some(_) => self.store.sequence(vnode_of(hash, self.topology.vnode_bits)),
            None => 0,
        }
    }

    /// After something was done with `key`, when number `before` was its vnode's last: tells the copies what changed, and
    /// notes what the reply rests on. If it was a write, `put` may say what it left behind. Does nothing without a cluster.
    pub(super) fn settle_key(
        &mut self,
        now: Instant,
        hash: u64,
        key: &[u8],
        before: u64,
        token: Option<RetryToken>,
        put: Option<Put<'_>>,
    ) {
        let Some(cluster) = self.cluster.as_deref_mut() else { return };
        let vnode = vnode_of(hash, self.topology.vnode_bits);
        let evictions = self.store.take_evictions();
        cluster.copies.record_evictions(&evictions);
        let last = self.store.sequence(vnode);
        let last_evicted = evictions.iter().rev().find(|eviction| eviction.vnode == vnode);
        // Room is made before a write is numbered: if there was one, the last number is its own.
        if last > before && last_evicted.is_none_or(|eviction| eviction.sequence != last) {
            let result = token.and_then(|token| Some(kept_result(token, self.retries.kept(token)?)));
            let written = Written { hash, key, sequence: last, mode: cluster.mode, result, put };
            cluster.copies.record_write(now, &self.store, &written);
        } else if cluster.copies.has_idle(hash) {
            let item = self.store.peek(now, hash, key).filter(|item| item.idle_ms > 0);
            if let Some(ttl_ms) = item.map(|item| item.ttl_ms) {
                cluster.copies.record_refresh(&mut self.store, hash, key, ttl_ms);
            }
        }
        let is_dirty = last == before && is_planted(Fault::DirtyRead);
        if !cluster.is_stale && !is_dirty {
            cluster.waits.extend(cluster.copies.dependency(hash));
        }
    }

    /// Whether the reply to a request would have to wait, and could not be kept back.
    fn has_no_room(&self, hash: u64, need: Need) -> bool {
        let waits = need != Need::ReadAny;
        let Some(cluster) = self.cluster.as_deref().filter(|cluster| waits && !cluster.may_wait) else { return false };
        matches!(need, Need::Write(WriteMode::One | WriteMode::All)) || cluster.copies.dependency(hash).is_some()
    }

    /// Answers a request that is not carried out; the status.
    fn refuse(&self, id: u32, status: Status, output: &mut Output) -> Status {
        if status == Status::Overloaded {
            output.overloaded(id, LATER_MS);
            return status;
        }
        answer(id, status, self.version_with(status), output)
    }

    /// Begins a request: the mode of its writes is known from here on, and it waits for nothing yet.
    fn begin(&mut self, request: &Request<'_>) -> Need {
        let Some(cluster) = self.cluster.as_deref_mut() else { return Need::Read };
        cluster.waits.clear();
        (cluster.is_stale, cluster.is_soon) = (false, false);
        cluster.mode = match request.head.flags.write_mode() {
            WriteMode::ClusterDefault => cluster.copies.default_write_mode(),
            mode => mode,
        };
        match request.head.operation.is_write() {
            true => Need::Write(cluster.mode),
            false if request.head.flags.has(RequestFlags::ANY_COPY) => Need::ReadAny,
            false => Need::Read,
        }
    }

    fn rests_on_something(&self, hash: u64) -> bool {
        self.cluster.as_deref().is_some_and(|cluster| cluster.copies.dependency(hash).is_some())
    }

    /// Flushes what this core leads; or says why nothing is flushed. Every core there is has its part of a flush, all by one
    /// topology: a vnode that goes from one to another meanwhile would be flushed by neither. Nor can this life of the node
    /// answer for an earlier one that the topology still names: what that one leads, a copy of it may go on with.
    fn flush_in_cluster(&mut self, now: Instant, epoch: u32) -> Option<Status> {
        let is_earlier = |node: &Node| node.id == self.node_id && node.incarnation != self.incarnation;
        let is_sure = self.node.is_some() && !self.topology.nodes.iter().any(is_earlier);
        if epoch != self.topology.epoch || !is_sure {
            return Some(Status::Moved);
        }
        self.record_evictions();
        let cluster = self.cluster.as_deref_mut()?;
        let mut state = State { store: &mut self.store, retries: &mut self.retries };
        match cluster.copies.flush(now, &mut state, cluster.mode) {
            Ok(waits) => {
                cluster.waits = waits;
                None
            }
            Err(Admission::NotEnoughCopies) => Some(Status::NotEnoughCopies),
            Err(_) => Some(Status::Overloaded),
        }
    }

    /// What the request that was begun last has come to.
    fn outcome(&mut self, now: Instant) -> Outcome {
        match self.cluster.as_deref_mut() {
            Some(cluster) if !cluster.waits.is_empty() => Outcome::Pending(cluster.copies.hold(now, &cluster.waits)),
            _ => Outcome::Done,
        }
    }
}

/// What a set leaves behind when it is carried out, as it travels. With idle expiry more has to be noted.
fn resulting_put<'a>(body: &RequestBody<'a>) -> Option<Put<'a>> {
    match *body {
        RequestBody::Set { key, parameters, value, .. } if !expiry_of(&parameters).idle => {
            let SetParameters { client_flags, ttl_ms, .. } = parameters;
            Some(Put { key, value, client_flags, ttl_ms, idle_ms: 0 })
        }
        _ => None,
    }
}

fn kept_result(token: RetryToken, result: WriteResult) -> KeptResult {
    let WriteResult { status, version, counter } = result;
    KeptResult { token, status, version, counter }
}
