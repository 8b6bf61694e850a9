//! A primary and its copies: heartbeats, records, slices, and what their acknowledgements mean.

use std::collections::BTreeSet;

use quoit_wire::limits::{PEER_ENTRIES_MAX, PEER_RESULTS_MAX};
use quoit_wire::peer::{
    AckEntry, AckHead, AppendHead, AppendsFrame, BeginHead, Handover, HeartbeatEntry, PeerMessage, SliceHead,
    SliceItem, TermEntry,
};
use quoit_wire::topology::Seat;

use super::backlog::Backlog;
use super::lead::{Lead, Member, Phase, Progress, Proposal};
use super::limits::{
    ANNOUNCEMENTS_PER_TURN_MAX, APPEND_BYTES, HEARTBEAT_INTERVAL, HEARTBEAT_STEP, HEARTBEAT_STEPS, RESEND_AFTER,
    SLICE_BYTES, WINDOW_WRITES,
};
use super::pace::Pace;
use super::{Copies, Link, Peer, Role, State};
use crate::cluster::{COPIES_MAX, Report};
use crate::store::Store;
use crate::time::Instant;

/// Vnodes of which what is known is fetched together, before their acknowledgements are looked at.
const WINDOW: usize = 32;

impl Copies {
    /// Acknowledgements have come.
    pub(super) fn on_acks(
        &mut self,
        now: Instant,
        state: &mut State<'_>,
        from: Peer,
        head: AckHead,
        mut entries: impl Iterator<Item = AckEntry> + Clone,
    ) {
        for _ in 0..usize::from(head.entries).div_ceil(WINDOW) {
            self.prefetch(entries.clone().take(WINDOW).map(|entry| usize::from(entry.vnode)));
            entries.by_ref().take(WINDOW).for_each(|entry| self.on_ack(now, state, from, head, entry));
        }
    }

    /// An acknowledgement of one vnode has come.
    fn on_ack(&mut self, now: Instant, state: &mut State<'_>, from: Peer, head: AckHead, entry: AckEntry) {
        let AckHead { stamp, epoch, .. } = head;
        let vnode = entry.vnode;
        let Some(copy) = self.copies.get_mut(usize::from(vnode)).and_then(|copy| copy.as_deref_mut()) else { return };
        let Role::Leading(lead) = &mut copy.role else { return };
        let phase = lead.phase;
        let Some(member) = lead.member(from) else { return };
        if entry.term > copy.term {
            // Somebody else leads now, or is about to: by a seal, or by this core's own handover.
            (member.term, member.heard) = (entry.term, now);
            if entry.term > copy.fence {
                // The leader that had the copy sealed may be gone before it came here, and only a leader can end a seal:
                // this core counts as sealed as well, and says so.
                (copy.fence, copy.sealed, copy.report_from) = (entry.term, Some(entry.term), now);
            }
            if phase == Phase::HandingOver(from) && entry.term == copy.term + 1 {
                member.applied = member.applied.max(entry.applied);
                self.report_ready(state.store, vnode);
            }
            return;
        }
        if entry.term < copy.term {
            return;
        }
        if epoch < member.since_epoch {
            // Of before it was taken as a copy, or perhaps of before it was let go and taken again.
            return;
        }
        (member.heard, member.heard_epoch) = (now, epoch);
        if entry.marks & AckEntry::PROMISE != 0 {
            member.stamp = member.stamp.max(Some(Instant::from_millis(stamp)));
        }
        let has_begun = entry.marks & AckEntry::BEGUN != 0;
        if member.is_following() && !has_begun && stamp > member.began_ms {
            // Its ring took the copy away and gave it back, and this core heard of neither.
            member.progress = Progress::Unknown;
        }
        match member.progress {
            Progress::Unknown => self.introduce(state.store, vnode, from, &entry),
            // It was told to go on from where it stood once, and stands elsewhere: that was an answer of before it was dropped.
            Progress::Beginning { wipes: false, base } if !has_begun && entry.applied != base => {
                self.introduce(state.store, vnode, from, &entry);
            }
            _ if has_begun => member.note_position(now, &entry),
            _ => {}
        }
        if entry.marks & AckEntry::SHORT != 0
            && let Some((_, lead)) = self.leading(vnode)
        {
            lead.note_short(from, now);
        }
        self.settle(now, state.store, vnode);
        let last = state.store.sequence(usize::from(vnode));
        let Some((_, lead)) = self.leading(vnode) else { return };
        let may_propose = lead.proposal.is_none();
        let Some(member) = lead.member(from) else { return };
        let has_caught_up = member.is_whole() && !member.is_in_sync;
        if member.is_owed(now, last) {
            self.mark_dirty(vnode);
        }
        if has_caught_up && may_propose {
            // Writes may be waiting for a copy that counts.
            self.propose(now, vnode, last);
        }
    }

    /// Finds anew what is committed in `vnode`, and releases what waited for it.
    pub(super) fn settle(&mut self, now: Instant, store: &Store, vnode: u16) {
        let (own, lease_until) = (self.own, self.lease_until);
        let Some(copy) = self.copies[usize::from(vnode)].as_deref_mut() else { return };
        let Role::Leading(lead) = &mut copy.role else { return };
        let last = store.sequence(usize::from(vnode));
        let settled = lead.update_committed(own, last);
        lead.release(own, now, lease_until, &mut self.tickets);
        // What a copy may still need stays, also for one that catches up.
        let needed = lead.members.iter().filter_map(|member| match member.progress {
            Progress::Following => Some(member.applied),
            Progress::Beginning { base, .. } => Some(base),
            Progress::Unknown | Progress::Lost => None,
        });
        self.backlog.settle(usize::from(vnode), needed.min().unwrap_or(last).min(settled));
    }

    /// Heartbeats where they are due, and with them all that time decides: each vnode once in [`HEARTBEAT_INTERVAL`], in
    /// steps that are spread over it.
    pub(super) fn beat(&mut self, now: Instant, state: &mut State<'_>) {
        let is_due = now >= self.heartbeat_at;
        if !is_due && self.announced.is_empty() {
            return;
        }
        for _ in 0..self.announced.len().min(ANNOUNCEMENTS_PER_TURN_MAX) {
            let Some(vnode) = self.announced.pop_front() else { break };
            self.tend(now, state, vnode);
        }
        if is_due {
            let (vnodes, step) = (self.copies.len(), self.heartbeat_step);
            for vnode in vnodes * step / HEARTBEAT_STEPS..vnodes * (step + 1) / HEARTBEAT_STEPS {
                self.tend(now, state, vnode as u16);
            }
            self.heartbeat_step = (step + 1) % HEARTBEAT_STEPS;
            // A core that was held up makes up for at most one round.
            let latest = Instant::from_millis(now.as_millis().saturating_sub(HEARTBEAT_INTERVAL.as_millis()));
            self.heartbeat_at = self.heartbeat_at.max(latest) + HEARTBEAT_STEP;
        }
        let output_bytes_max = self.output_bytes_max();
        for link in self.links.values_mut() {
            if link.out.len() >= output_bytes_max {
                // Nobody has taken the last ones.
                link.heartbeat.clear();
            }
            for entries in link.heartbeat.chunks(PEER_ENTRIES_MAX) {
                PeerMessage::push_heartbeat(now.as_millis(), entries, &mut link.out);
            }
            link.heartbeat.clear();
        }
    }

    /// Sends what the copies of dirty vnodes lack, as far as links and windows allow; the rest stays dirty.
    pub(super) fn stream(&mut self, now: Instant, state: &mut State<'_>) {
        self.pace.begin_turn(now);
        let copies = &self.copies;
        self.pace.retain(|vnode| {
            let copy = copies[usize::from(*vnode)].as_deref();
            copy.is_some_and(|copy| matches!(&copy.role, Role::Leading(lead) if lead.is_streaming(now)))
        });
        let output_bytes_max = self.output_bytes_max();
        for _ in 0..self.dirty.len() {
            let Some(vnode) = self.dirty.pop_front() else { break };
            let Some(copy) = self.copies[usize::from(vnode)].as_deref_mut() else { continue };
            copy.is_dirty = false;
            let term = copy.term;
            let is_current = copy.is_current();
            let Role::Leading(lead) = &mut copy.role else { continue };
            if !is_current && !matches!(lead.phase, Phase::HandingOver(_)) {
                continue;
            }
            let settled = lead.settled(state.store.sequence(usize::from(vnode)));
            let mut has_more = false;
            let Lead { members, proposal, .. } = &mut **lead;
            for member in members {
                let counts = Lead::is_in_union(proposal.as_ref(), member);
                let link = self.links.entry(member.peer).or_default();
                let mut sending = Sending {
                    now,
                    vnode,
                    term,
                    settled,
                    counts,
                    member,
                    link,
                    output_bytes_max,
                    backlog: &self.backlog,
                    pace: &mut self.pace,
                    streamed_bytes: &mut self.counters.streamed_bytes[0],
                };
                has_more |= sending.send(state);
            }
            if has_more {
                self.mark_dirty(vnode);
            }
        }
        self.links.values_mut().for_each(Link::end_appends);
    }

    /// Tells the targets of moves that they have everything, behind the last record that they have to have (C10).
    pub(super) fn hand_over(&mut self, store: &Store) {
        let mut unsent = BTreeSet::new();
        for vnode in std::mem::take(&mut self.handovers) {
            let sequence = store.sequence(usize::from(vnode));
            let Some((term, lead)) = self.leading(vnode) else { continue };
            let Phase::HandingOver(target) = lead.phase else { continue };
            let Some(member) = lead.member(target) else { continue };
            if member.sent == sequence {
                let handover = Handover { vnode, term, next_term: term + 1, sequence };
                PeerMessage::push_handover(handover, &mut self.link(target).out);
            } else {
                unsent.insert(vnode);
            }
        }
        self.handovers = unsent;
    }

    /// What time decides for one vnode.
    fn tend(&mut self, now: Instant, state: &mut State<'_>, vnode: u16) {
        let Some(copy) = self.copies[usize::from(vnode)].as_deref_mut() else { return };
        if copy.sealed.is_some() && now >= copy.report_from {
            self.sealed.insert(vnode);
        }
        let (term, is_current) = (copy.term, copy.is_current());
        let Role::Leading(lead) = &mut copy.role else { return };
        let handing_over = matches!(lead.phase, Phase::HandingOver(_));
        let sequence = state.store.sequence(usize::from(vnode));
        if is_current || handing_over {
            let settled = lead.settled(sequence);
            let mut is_owed = false;
            for member in &mut lead.members {
                member.rewind_if_overdue(now);
                is_owed |= member.is_owed(now, sequence);
                let link = self.links.entry(member.peer).or_default();
                link.heartbeat.push(HeartbeatEntry { vnode, term, sequence, settled });
            }
            if handing_over {
                self.handovers.insert(vnode);
            }
            if is_owed {
                self.mark_dirty(vnode);
            }
        }
        if handing_over {
            self.report_ready(state.store, vnode);
        }
        self.settle(now, state.store, vnode);
        if is_current {
            self.propose(now, vnode, sequence);
        }
    }

    /// Asks the leader for the in-sync set that should be, or asks again (C8).
    fn propose(&mut self, now: Instant, vnode: u16, sequence: u64) {
        let epoch = self.ring.as_ref().map_or(0, |ring| ring.epoch);
        let Some((term, lead)) = self.leading(vnode) else { return };
        if let Some(in_sync) = lead.wanted_in_sync(now, sequence) {
            lead.proposals += 1;
            // Sent at once, as if it were overdue.
            let (number, sent) = (lead.proposals, Instant::ORIGIN);
            lead.proposal = Some(Proposal { number, epoch, in_sync, settled_by: None, sent });
        }
        let Some(proposal) = lead.proposal.as_mut().filter(|proposal| now.since(proposal.sent) >= RESEND_AFTER) else {
            return;
        };
        proposal.sent = now;
        let (number, epoch, peers) = (proposal.number, proposal.epoch, proposal.in_sync.clone());
        let mut in_sync = [Seat::NOWHERE; COPIES_MAX];
        let seats = peers.into_iter().filter_map(|peer| self.seat_of(peer));
        in_sync.iter_mut().zip(seats).for_each(|(place, seat)| *place = seat);
        self.counters.proposals += 1;
        self.reports.push_back(Report::InSync { vnode: u32::from(vnode), term, number, epoch, in_sync });
    }

    /// A copy has said where it stands under an earlier term: decides whether it goes on from there.
    fn introduce(&mut self, store: &Store, vnode: u16, from: Peer, entry: &AckEntry) {
        let covers = self.backlog.covers(usize::from(vnode), entry.applied + 1);
        let last = store.sequence(usize::from(vnode));
        let is_on_history = entry.applied == 0
            || (entry.cursor >= AckEntry::CURSOR_END
                && entry.last_term != 0
                && entry.last_term == store.term_of(usize::from(vnode), entry.applied));
        let Some((_, lead)) = self.leading(vnode) else { return };
        let counts = lead.members.iter().any(|member| member.peer == from && lead.counts_for_all(member));
        let Some(member) = lead.member(from) else { return };
        member.progress = if covers && is_on_history && entry.applied <= last {
            Progress::Beginning { wipes: false, base: entry.applied }
        } else if counts {
            Progress::Lost
        } else {
            Progress::Beginning { wipes: true, base: last }
        };
        member.sent_since = Instant::ORIGIN;
    }
}

impl Member {
    /// It has begun, and stands where `entry` says.
    fn note_position(&mut self, now: Instant, entry: &AckEntry) {
        match self.progress {
            Progress::Beginning { wipes, base } if entry.applied >= base => {
                self.progress = Progress::Following;
                self.cursor = if wipes { 0 } else { AckEntry::CURSOR_END };
                (self.applied, self.sent) = (entry.applied, entry.applied);
                (self.slice_sent, self.began_ms) = (None, now.as_millis());
            }
            Progress::Following => {}
            // Late: from before it was told to begin anew.
            _ => return,
        }
        if entry.applied > self.applied {
            (self.applied, self.sent_since) = (entry.applied, now);
            self.sent = self.sent.max(entry.applied);
        }
        // Under one beginning the cursor only rises; an ack of before it was wiped has too low a position.
        if entry.cursor > self.cursor {
            (self.cursor, self.slice_sent) = (entry.cursor, None);
        }
    }
}

/// What is sent to one copy of one vnode.
struct Sending<'a> {
    now: Instant,
    vnode: u16,
    term: u32,
    settled: u64,
    /// The copy is in the ring's or the proposed in-sync set.
    counts: bool,
    member: &'a mut Member,
    link: &'a mut Link,
    /// Bytes that may wait on it.
    output_bytes_max: usize,
    backlog: &'a Backlog,
    pace: &'a mut Pace,
    streamed_bytes: &'a mut u64,
}

impl Link {
    /// From here on something else than appends may follow.
    fn end_appends(&mut self) {
        if let Some(frame) = self.appends.take() {
            frame.end(&mut self.out);
        }
    }

    /// Adds the first of `records` to the frame of appends, or to a new one when that has no room; how many.
    fn append<'v>(&mut self, now: Instant, head: AppendHead, records: impl Iterator<Item = &'v [u8]> + Clone) -> u64 {
        let Self { out, appends, .. } = self;
        if let Some(frame) = appends {
            let count = frame.push(head, records.clone(), APPEND_BYTES, out);
            if count > 0 {
                return count as u64;
            }
        }
        self.end_appends();
        let frame = self.appends.insert(AppendsFrame::begin(now.as_millis(), &mut self.out));
        frame.push(head, records, APPEND_BYTES, &mut self.out) as u64
    }
}

impl Sending<'_> {
    /// Sends what the copy lacks; whether something is left that waits for nobody but the link.
    fn send(&mut self, state: &mut State<'_>) -> bool {
        match self.member.progress {
            Progress::Lost if !self.counts => {
                let base = state.store.sequence(usize::from(self.vnode));
                self.member.progress = Progress::Beginning { wipes: true, base };
                self.member.sent_since = Instant::ORIGIN;
                true
            }
            Progress::Unknown | Progress::Lost => false,
            Progress::Beginning { wipes, base } => {
                self.begin(state, wipes, base);
                false
            }
            Progress::Following => self.append(state) || self.slice(state),
        }
    }

    fn begin(&mut self, state: &mut State<'_>, wipes: bool, base: u64) {
        let is_due = self.now.since(self.member.sent_since) >= RESEND_AFTER;
        if !is_due || self.now < self.member.short_until {
            return;
        }
        let vnode = usize::from(self.vnode);
        // The records behind it may be gone by now: a copy that is wiped anyway can begin later.
        let base = match wipes && !self.backlog.covers(vnode, base + 1) {
            true => state.store.sequence(vnode),
            false => base,
        };
        self.member.progress = Progress::Beginning { wipes, base };
        self.member.sent_since = self.now;
        let terms: Vec<TermEntry> = state
            .store
            .terms(vnode)
            .into_iter()
            .map(|start| TermEntry { term: start.term, first_sequence: start.first_sequence })
            .collect();
        let mut results = if wipes { state.retries.of_vnode(self.vnode) } else { Vec::new() };
        results.truncate(PEER_RESULTS_MAX);
        let head = BeginHead { vnode: self.vnode, wipes: u8::from(wipes), term: self.term, base, terms: 0, results: 0 };
        self.link.end_appends();
        PeerMessage::push_begin(head, &terms, &results, &mut self.link.out);
    }

    fn append(&mut self, state: &State<'_>) -> bool {
        let vnode = usize::from(self.vnode);
        let last = state.store.sequence(vnode);
        if self.member.sent < last && !self.backlog.covers(vnode, self.member.sent + 1) {
            // It has fallen behind what is kept: streamed anew, once it does not count any more.
            self.member.progress = match self.counts {
                true => Progress::Lost,
                false => Progress::Beginning { wipes: true, base: last },
            };
            self.member.sent_since = Instant::ORIGIN;
            return !self.counts;
        }
        while self.member.sent < last {
            let has_window = self.member.sent - self.member.applied < WINDOW_WRITES;
            if !has_window || self.link.out.len() >= self.output_bytes_max {
                return has_window;
            }
            if self.member.sent == self.member.applied {
                self.member.sent_since = self.now;
            }
            let head = AppendHead {
                vnode: self.vnode,
                term: self.term,
                first_sequence: self.member.sent + 1,
                settled: self.settled,
                ..AppendHead::default()
            };
            let records = self.backlog.records(vnode, head.first_sequence);
            let sent = self.link.append(self.now, head, records);
            debug_assert!(sent > 0, "the backlog covers what was not sent");
            if sent == 0 {
                return false;
            }
            self.member.sent += sent;
        }
        false
    }

    fn slice(&mut self, state: &State<'_>) -> bool {
        let vnode = usize::from(self.vnode);
        let at_sequence = state.store.sequence(vnode);
        if !self.member.is_streamed(self.now) || self.member.slice_sent.is_some() || self.member.sent < at_sequence {
            return false;
        }
        let has_turn = self.pace.admit(self.vnode) && self.pace.may_send();
        if !has_turn || self.link.out.len() >= self.output_bytes_max {
            return true;
        }
        let (mut bytes, mut items) = (Vec::new(), 0u16);
        let next = state.store.walk_vnode(self.now, vnode, self.member.cursor, SLICE_BYTES, |item| {
            SliceItem::push(item.sequence, &item.put(), item.value.len(), item.value.slices(), &mut bytes);
            items += 1;
        });
        self.pace.send(bytes.len());
        *self.streamed_bytes += bytes.len() as u64;
        let head = SliceHead { vnode: self.vnode, term: self.term, at_sequence, from: self.member.cursor, next, items };
        self.link.end_appends();
        PeerMessage::push_slice(head, &bytes, &mut self.link.out);
        self.member.slice_sent = Some(self.now);
        false
    }
}
