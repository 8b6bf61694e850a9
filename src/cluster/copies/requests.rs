//! What the shard asks: may this request be carried out, what did it leave behind, and what does its reply wait for.

use quoit_wire::WriteMode;
use quoit_wire::peer::{Change, KeptResult, Put, Record};
use quoit_wire::topology::vnode_of;

use super::lead::Phase;
use super::limits::WAITS_MAX;
use super::waits::{Commit, Ticket, Wait};
use super::{Copies, Copy, Role, State};
use crate::store::{Eviction, Store};
use crate::time::Instant;

/// What a request needs of a vnode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// To read what is there.
    Read,
    /// To read what some copy has, stale or uncommitted as it may be (C14).
    ReadAny,
    /// To write, and to be acknowledged when so many copies have it. The cluster's default is resolved.
    Write(WriteMode),
}

/// A write that has changed the item of a key.
#[derive(Clone, Copy, Debug)]
pub struct Written<'a> {
    /// The key's place in the hash space.
    pub hash: u64,
    /// The key.
    pub key: &'a [u8],
    /// The write's number in its vnode.
    pub sequence: u64,
    /// What it waits for.
    pub mode: WriteMode,
    /// It carried a retry token, and whoever repeats it is answered with this (C13).
    pub result: Option<KeptResult>,
    /// What it left behind, where the request itself says so. Else that is looked up.
    pub put: Option<Put<'a>>,
}

/// Whether a request may be carried out now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Carry it out.
    Go,
    /// Carry it out; what it says may be stale (C15).
    Stale,
    /// This core is not the primary: another one is.
    Moved,
    /// Not now, but within some milliseconds: the vnode is between two primaries, or the right to answer is being renewed.
    /// Nothing may be changed.
    Soon,
    /// Not now: etcd is out of reach, or too many replies wait. Nothing may be changed.
    Later,
    /// The write asks for more copies than there are (C3). Nothing may be changed.
    NotEnoughCopies,
}

/// What a node does that can't reach etcd for longer than its lease (C15).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnEtcdLoss {
    /// Reads are answered and marked stale, `async` writes are taken, others refused.
    Serve,
    /// Everything is refused.
    #[default]
    Fence,
}

impl Copies {
    /// Whether this core may carry out a request on the key with this hash.
    pub fn admit(&self, now: Instant, hash: u64, need: Need) -> Admission {
        let Some(Copy { role, term, fence, .. }) = self.copies[vnode_of(hash, self.vnode_bits)].as_deref() else {
            return Admission::Moved;
        };
        let lead = match role {
            Role::Leading(lead) => lead,
            Role::Following(follow) if need == Need::ReadAny && term == fence && follow.may_be_read() => {
                // A copy that can't tell whether it still counts answers like a primary that can't.
                let is_known = now < self.lease_until || self.on_etcd_loss == OnEtcdLoss::Serve;
                return if is_known { Admission::Stale } else { Admission::Later };
            }
            Role::Following(_) => return Admission::Moved,
        };
        if term != fence || lead.phase != Phase::Serving {
            return Admission::Soon;
        }
        if !lead.may_answer(self.own, now, self.lease_until) {
            let is_etcd_lost = now >= self.lease_until;
            return match (self.on_etcd_loss, need) {
                (OnEtcdLoss::Serve, Need::Read | Need::ReadAny) if is_etcd_lost => Admission::Stale,
                (OnEtcdLoss::Serve, Need::Write(WriteMode::Async)) if is_etcd_lost => Admission::Go,
                (OnEtcdLoss::Serve, Need::Write(_)) if is_etcd_lost => Admission::NotEnoughCopies,
                _ if is_etcd_lost => Admission::Later,
                _ => Admission::Soon,
            };
        }
        let has_one = || lead.members.iter().any(|member| lead.counts_for_one(member, self.own));
        match need {
            Need::Write(WriteMode::One) if !has_one() => Admission::NotEnoughCopies,
            Need::Write(WriteMode::All) if lead.may_be_alone(self.own) => Admission::NotEnoughCopies,
            Need::Write(WriteMode::One | WriteMode::All) if self.tickets.len() >= WAITS_MAX => Admission::Later,
            _ => Admission::Go,
        }
    }

    /// Whether this core has a copy of the vnode of `hash` that counts, and is not its primary.
    pub fn keeps_copy(&self, hash: u64) -> bool {
        let copy = self.copies[vnode_of(hash, self.vnode_bits)].as_deref();
        matches!(copy, Some(Copy { role: Role::Following(follow), .. }) if follow.may_be_read())
    }

    /// What a write waits for that does not say.
    pub fn default_write_mode(&self) -> WriteMode {
        self.ring.as_ref().map_or(WriteMode::Async, |ring| ring.write_mode)
    }

    /// Whether hits in the vnode of `hash` have to be told when they move an idle expiry.
    pub fn has_idle(&self, hash: u64) -> bool {
        matches!(
            self.copies[vnode_of(hash, self.vnode_bits)].as_deref(),
            Some(Copy { role: Role::Leading(lead), has_idle: true, .. }) if !lead.members.is_empty()
        )
    }

    /// A write has changed an item: copies get what is there now.
    pub fn record_write(&mut self, now: Instant, store: &Store, written: &Written<'_>) {
        let Written { hash, sequence, mode, result, put, .. } = *written;
        let vnode = vnode_of(hash, self.vnode_bits);
        match put {
            Some(put) => {
                self.record(vnode, sequence, &Record { change: Change::Put(put), result });
            }
            None => self.record_found(now, store, written),
        }
        let commit = commit_of(sequence, mode);
        if commit != Commit::default()
            && let Some((_, lead)) = self.leading(vnode as u16)
        {
            lead.uncommitted.write(hash, commit);
        }
    }

    /// Makes the record of a write from what is found under its key.
    fn record_found(&mut self, now: Instant, store: &Store, written: &Written<'_>) {
        let Written { hash, key, sequence, result, .. } = *written;
        let vnode = vnode_of(hash, self.vnode_bits);
        let item = store.peek(now, hash, key);
        if item.as_ref().is_some_and(|item| item.idle_ms > 0)
            && let Some(copy) = self.copies[vnode].as_deref_mut()
        {
            copy.has_idle = true;
        }
        match item {
            Some(item) => {
                let bytes = Record::bytes_with(key, item.value.len(), result.as_ref());
                self.keep_record(vnode, sequence, bytes, |out| {
                    Record::push_put(&item.put(), item.value.len(), item.value.slices(), result.as_ref(), out);
                });
            }
            None => self.record(vnode, sequence, &Record { change: Change::Delete { key }, result }),
        }
    }

    /// What the store has evicted, in the order of its numbers: each eviction is a write of its vnode (C11).
    pub fn record_evictions(&mut self, evictions: &[Eviction]) {
        for eviction in evictions {
            let record = Record { change: Change::Evict { key: &eviction.key }, result: None };
            self.record(eviction.vnode, eviction.sequence, &record);
        }
    }

    /// A hit has given an item with idle expiry `ttl_ms` more.
    pub fn record_refresh(&mut self, store: &mut Store, hash: u64, key: &[u8], ttl_ms: u64) {
        let vnode = vnode_of(hash, self.vnode_bits);
        let record = Record { change: Change::Refresh { key, ttl_ms }, result: None };
        let sequence = store.take_sequence(vnode);
        self.record(vnode, sequence, &record);
    }

    /// Flushes every vnode that this core leads; what the flush waits for. Where one of them may not be written now, nothing
    /// is flushed: a flush covers all or is asked again.
    pub fn flush(
        &mut self,
        now: Instant,
        state: &mut State<'_>,
        mode: WriteMode,
    ) -> Result<Vec<(u16, Commit)>, Admission> {
        let bits = self.vnode_bits;
        let admit = |vnode: usize| {
            // The first hash of the vnode: it is only asked for its vnode.
            let hash = (vnode as u64).checked_shl(64 - u32::from(bits)).unwrap_or(0);
            self.admit(now, hash, Need::Write(mode))
        };
        let own = self.seat_of(self.own);
        let leads_by_ring = |vnode: usize| {
            let primary = self.ring.as_ref().and_then(|ring| ring.vnodes.get(vnode)).map(|roles| roles.primary);
            own.is_some() && primary == own
        };
        // Who is to lead a vnode, and has heard that another core does, can't say whether that one is asked, too.
        let answers: Vec<Admission> = (0..self.copies.len())
            .map(|vnode| match admit(vnode) {
                Admission::Moved if leads_by_ring(vnode) => Admission::Soon,
                answer => answer,
            })
            .collect();
        let is_refusal = |answer: &&Admission| !matches!(answer, Admission::Go | Admission::Moved);
        if let Some(refusal) = answers.iter().find(is_refusal) {
            return Err(*refusal);
        }
        let mut waits = Vec::new();
        for vnode in (0..answers.len()).filter(|vnode| answers[*vnode] == Admission::Go) {
            state.store.clear_vnode(vnode);
            let sequence = state.store.take_sequence(vnode);
            self.record(vnode, sequence, &Record { change: Change::Clear, result: None });
            let commit = commit_of(sequence, mode);
            if let Some((_, lead)) = self.leading(vnode as u16).filter(|_| commit != Commit::default()) {
                lead.uncommitted.clear(commit);
                waits.push((vnode as u16, commit));
            }
        }
        Ok(waits)
    }

    /// What a reply on the key with this hash waits for, if it has to (C4).
    pub fn dependency(&self, hash: u64) -> Option<(u16, Commit)> {
        let vnode = vnode_of(hash, self.vnode_bits);
        match self.copies[vnode].as_deref() {
            Some(Copy { role: Role::Leading(lead), .. }) => lead.dependency(hash).map(|commit| (vnode as u16, commit)),
            _ => None,
        }
    }

    /// A reply waits until all of `waits` are committed; [`Self::poll_release`] tells when.
    pub fn hold(&mut self, now: Instant, waits: &[(u16, Commit)]) -> Ticket {
        let ticket = self.tickets.issue(waits.len());
        for (vnode, commit) in waits {
            if let Some((_, lead)) = self.leading(*vnode) {
                lead.waits.push(Wait { ticket, commit: *commit, since: now });
            }
        }
        ticket
    }

    /// Keeps the record of write `sequence`, if there are copies to be told of it.
    fn record(&mut self, vnode: usize, sequence: u64, record: &Record<'_>) {
        self.keep_record(vnode, sequence, record.encoded_bytes(), |out| record.push(out));
    }

    /// The same of a record of so many `bytes` that `put` makes.
    fn keep_record(&mut self, vnode: usize, sequence: u64, bytes: usize, put: impl FnOnce(&mut Vec<u8>)) {
        let has_copies = matches!(
            self.copies[vnode].as_deref(),
            Some(Copy { role: Role::Leading(lead), .. }) if !lead.members.is_empty()
        );
        if has_copies {
            self.backlog.push(vnode, sequence, bytes, put);
            self.mark_dirty(vnode as u16);
        }
    }
}

/// What has to be committed for a write of this mode.
const fn commit_of(sequence: u64, mode: WriteMode) -> Commit {
    match mode {
        WriteMode::ClusterDefault | WriteMode::Async => Commit { one: 0, all: 0 },
        WriteMode::One => Commit { one: sequence, all: 0 },
        WriteMode::All => Commit { one: 0, all: sequence },
    }
}
