//! A copy that follows: what its primary tells it, in order, and what it answers.

use quoit_wire::Version;
use quoit_wire::limits::PEER_ENTRIES_MAX;
use quoit_wire::peer::{
    AckEntry, AckHead, Append, AppendHead, Appends, BeginHead, Change, Entries, Handover, HeartbeatEntry, KeptResult,
    PeerMessage, ResultEntry, Run, SliceHead, TermEntry,
};

use super::ahead::{Coming, ahead};
use super::limits::{MOVE_TIME_MAX, PROMISE_TIME, RELY_TIME};
use super::roles::follower_role;
use super::{Breach, Copies, Copy, Follow, Link, Peer, Role, State, applied};
use crate::cluster::planted::{Fault, is_planted};
use crate::store::{Store, TermStart};
use crate::time::Instant;

impl Copies {
    pub(super) fn on_heartbeat(
        &mut self,
        state: &mut State<'_>,
        from: Peer,
        stamp: u64,
        entries: impl Iterator<Item = HeartbeatEntry>,
    ) {
        let mut acks = self.hear(from, stamp);
        for entry in entries {
            acks.push(entry.vnode);
            if self.obey(state.store, from, entry.vnode, entry.term).is_some_and(|follow| follow.has_siblings) {
                self.backlog.settle(usize::from(entry.vnode), entry.settled);
            }
        }
        self.link(from).acks = acks;
    }

    pub(super) fn on_begin(
        &mut self,
        now: Instant,
        state: &mut State<'_>,
        from: Peer,
        head: BeginHead,
        terms: Entries<'_, TermEntry>,
        results: Entries<'_, ResultEntry>,
    ) -> Result<(), Breach> {
        let vnode = usize::from(head.vnode);
        self.link(from).acks.push(head.vnode);
        let Some(follow) = self.obey(state.store, from, head.vnode, head.term) else { return Ok(()) };
        let applied = state.store.sequence(vnode);
        // What came late would undo what has happened since.
        if follow.has_begun && applied >= head.base {
            return Ok(());
        }
        if head.wipes == 0 && applied != head.base {
            return Ok(());
        }
        follow.has_begun = true;
        follow.is_short = false;
        follow.cursor = if head.wipes == 1 { 0 } else { AckEntry::CURSOR_END };
        follow.told = follow.cursor;
        if head.wipes == 1 || head.base == 0 {
            // Results of writes that are dropped: whoever repeats one of them has it carried out.
            state.retries.forget_vnode(head.vnode);
        }
        if head.wipes == 1 {
            state.store.drop_vnode(vnode);
            state.store.add_vnode(vnode, head.term);
            state.store.set_position(vnode, head.base);
            state.store.set_vnode_role(vnode, follower_role());
            self.backlog.restart(vnode, head.base + 1);
        }
        let starts: Vec<TermStart> = terms
            .iter()
            .map(|entry| TermStart { term: entry.term.min(Version::TERM_MAX), first_sequence: entry.first_sequence })
            .collect();
        state.store.adopt_terms(vnode, &starts);
        let mut rest = results.as_bytes();
        while let Some((result, behind)) = KeptResult::take(rest) {
            state.retries.learn(now, head.vnode, &result);
            rest = behind;
        }
        Ok(())
    }

    pub(super) fn on_appends(
        &mut self,
        now: Instant,
        state: &mut State<'_>,
        from: Peer,
        stamp: u64,
        appends: Appends<'_>,
    ) -> Result<(), Breach> {
        let mut acks = self.hear(from, stamp);
        let mut ahead = ahead(&appends);
        let mut first = 0;
        let outcome = appends.iter().try_for_each(|Append { head, records }| {
            acks.push(head.vnode);
            self.on_append(now, state, from, head, |store, number| ahead.record(store, first + number))?;
            first += records.len();
            Ok(())
        });
        self.link(from).acks = acks;
        outcome
    }

    /// The next writes of one vnode, whose records `record_of` tells in their order.
    fn on_append<'a>(
        &mut self,
        now: Instant,
        state: &mut State<'_>,
        from: Peer,
        head: AppendHead,
        mut record_of: impl FnMut(&Store, usize) -> Option<Coming<'a>>,
    ) -> Result<(), Breach> {
        let vnode = usize::from(head.vnode);
        let Some(follow) = self.obey(state.store, from, head.vnode, head.term) else { return Ok(()) };
        let position = state.store.sequence(vnode);
        if !follow.has_begun || head.first_sequence > position + 1 {
            return Ok(());
        }
        let has_siblings = follow.has_siblings;
        let mut is_short = false;
        // Those that it has already are passed over.
        let passed = (position + 1).saturating_sub(head.first_sequence);
        for number in passed..u64::from(head.records) {
            let sequence = head.first_sequence + number;
            let Some(Coming { record, bytes, hash }) = record_of(state.store, number as usize) else { break };
            is_short = !applied(head.vnode, state.store.apply_hashed(now, vnode, hash, sequence, &record.change))?;
            if is_short {
                break;
            }
            self.note_idle(head.vnode, &record.change);
            if has_siblings {
                self.backlog.push(vnode, sequence, bytes.len(), |out| out.extend_from_slice(bytes));
            }
            if let Some(result) = &record.result {
                state.retries.learn(now, head.vnode, result);
            }
        }
        if has_siblings {
            self.backlog.settle(vnode, head.settled);
        }
        self.note_short(head.vnode, is_short);
        Ok(())
    }

    pub(super) fn on_slice(
        &mut self,
        now: Instant,
        state: &mut State<'_>,
        from: Peer,
        head: SliceHead,
        items: Run<'_>,
    ) -> Result<(), Breach> {
        let vnode = usize::from(head.vnode);
        self.link(from).acks.push(head.vnode);
        let Some(follow) = self.obey(state.store, from, head.vnode, head.term) else { return Ok(()) };
        // Read at another moment than this copy stands at, it might bring back what was deleted.
        let fits = follow.has_begun
            && follow.cursor == head.from
            && (state.store.sequence(vnode) == head.at_sequence || is_planted(Fault::LateSlice));
        if !fits {
            return Ok(());
        }
        let mut is_short = false;
        for item in items.items() {
            let change = Change::Put(item.put);
            self.note_idle(head.vnode, &change);
            is_short =
                !applied(head.vnode, state.store.apply(now, vnode, item.sequence.min(head.at_sequence), &change))?;
            if is_short {
                break;
            }
        }
        if !is_short && let Some(Copy { role: Role::Following(follow), .. }) = self.copy(head.vnode) {
            follow.cursor = head.next;
        }
        self.pace.receive(items.as_bytes().len());
        self.counters.streamed_bytes[1] += items.as_bytes().len() as u64;
        self.note_short(head.vnode, is_short);
        Ok(())
    }

    /// The primary has sealed itself: with everything here, so does this copy, for the term in which it will lead (C10).
    pub(super) fn on_handover(&mut self, now: Instant, state: &mut State<'_>, from: Peer, handover: Handover) {
        let Handover { vnode, term, next_term, sequence } = handover;
        self.link(from).acks.push(vnode);
        let Some(follow) = self.obey(state.store, from, vnode, term) else { return };
        let is_whole = follow.has_begun && follow.cursor >= AckEntry::CURSOR_END;
        let has_everything = is_whole && state.store.sequence(usize::from(vnode)) == sequence;
        if has_everything
            && next_term == term + 1
            && let Some(copy) = self.copy(vnode)
        {
            (copy.fence, copy.sealed, copy.report_from) = (next_term, Some(next_term), now + MOVE_TIME_MAX);
        }
    }

    /// Writes the acknowledgements that are due.
    pub(super) fn acknowledge(&mut self, now: Instant, state: &mut State<'_>) {
        // A copy whose own lease is about to end may be taken for lost: it promises nothing any more.
        let may_promise = now + RELY_TIME <= self.lease_until;
        let may_go_on = self.pace.has_room();
        let epoch = self.ring.as_ref().map_or(0, |ring| ring.epoch);
        if may_go_on {
            for (peer, vnode) in std::mem::take(&mut self.paced) {
                self.link(peer).acks.push(vnode);
            }
        }
        for (peer, link) in &mut self.links {
            link.acks.sort_unstable();
            link.acks.dedup();
            let Link { acks, out, stamp, .. } = link;
            let head = AckHead { stamp: *stamp, epoch, entries: 0 };
            for vnodes in acks.chunks(PEER_ENTRIES_MAX) {
                let entries = vnodes.iter().filter_map(|vnode| {
                    let copy = self.copies.get_mut(usize::from(*vnode))?.as_deref_mut()?;
                    if let Role::Following(follow) = &mut copy.role {
                        // The end is told at once: nothing comes after it.
                        if may_go_on || follow.cursor >= AckEntry::CURSOR_END {
                            follow.told = follow.cursor;
                        } else if follow.told < follow.cursor {
                            self.paced.insert((*peer, *vnode));
                        }
                    }
                    Some(acknowledgement(now, state.store, *vnode, copy, *peer, may_promise))
                });
                PeerMessage::push_acks(head, entries, out);
            }
            acks.clear();
        }
    }

    /// Whether `from` leads `vnode` under `term`, as far as this copy knows or learns by it. An acknowledgement is due in either
    /// case.
    fn obey(&mut self, store: &mut Store, from: Peer, vnode: u16, term: u32) -> Option<&mut Follow> {
        let fence = self.copy(vnode)?.fence;
        if term < fence || term > Version::TERM_MAX {
            return None;
        }
        self.obey_term(store, usize::from(vnode), term);
        let Role::Following(follow) = &mut self.copy(vnode)?.role else { return None };
        (*follow.leader.get_or_insert(from) == from).then_some(follow)
    }

    fn note_idle(&mut self, vnode: u16, change: &Change<'_>) {
        if let Change::Put(put) = change
            && put.idle_ms > 0
            && let Some(copy) = self.copy(vnode)
        {
            copy.has_idle = true;
        }
    }

    /// A message with this stamp has come from there; the list of acknowledgements that are due, to be added to.
    fn hear(&mut self, from: Peer, stamp: u64) -> Vec<u16> {
        let link = self.link(from);
        link.stamp = link.stamp.max(stamp);
        std::mem::take(&mut link.acks)
    }

    fn note_short(&mut self, vnode: u16, is_short: bool) {
        if let Some(Copy { role: Role::Following(follow), .. }) = self.copy(vnode) {
            follow.is_short = is_short;
        }
    }
}

/// Where a copy stands. With the promise in it, the copy answers no seal for a while.
fn acknowledgement(now: Instant, store: &Store, vnode: u16, copy: &mut Copy, to: Peer, may_promise: bool) -> AckEntry {
    let position = store.position(usize::from(vnode));
    let mut entry = AckEntry {
        vnode,
        marks: 0,
        term: copy.fence,
        last_term: position.term(),
        applied: position.sequence(),
        cursor: AckEntry::CURSOR_END,
    };
    let is_current = copy.is_current();
    if let Role::Following(follow) = &mut copy.role {
        let mark = |is_set, mark| if is_set { mark } else { 0 };
        let promises = may_promise && follow.leader == Some(to) && is_current;
        entry.cursor = follow.told;
        entry.marks = mark(follow.has_begun, AckEntry::BEGUN)
            | mark(promises, AckEntry::PROMISE)
            | mark(std::mem::take(&mut follow.is_short), AckEntry::SHORT);
        if promises {
            copy.promised_until = copy.promised_until.max(now + PROMISE_TIME);
        }
    }
    entry
}
