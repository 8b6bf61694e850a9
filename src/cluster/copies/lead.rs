//! A vnode's primary: who follows it, how far they are, what is committed, and whether it may still answer.

use quoit_wire::peer::AckEntry;

use super::Peer;
use super::limits::{LAG_MAX, RELY_TIME, RESEND_AFTER, SHORT_PAUSE, SILENCE_MAX, WAIT_MAX};
use super::waits::{Commit, Release, Tickets, Uncommitted, Wait};
use crate::cluster::planted::{Fault, is_planted};
use crate::store::{LINE_BYTES, prefetch};
use crate::time::Instant;

/// How far the relation with a copy has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It has not said yet where it stands.
    Unknown,
    /// It was told where to begin.
    Beginning {
        /// What it holds is to be dropped.
        wipes: bool,
        /// Where it stands then.
        base: u64,
    },
    /// It follows.
    Following,
    /// It can't go on from where it stands, and counts as in-sync: it may not be wiped before it counts no longer.
    Lost,
}

/// A copy, as its primary sees it.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) peer: Peer,
    /// The ring says that it counts.
    pub(super) is_in_sync: bool,
    pub(super) progress: Progress,
    /// The last write it has applied, as far as it has said so.
    pub(super) applied: u64,
    /// The last write that was sent to it.
    pub(super) sent: u64,
    /// How far the stream of items has come.
    pub(super) cursor: u32,
    /// A slice is on its way since then.
    pub(super) slice_sent: Option<Instant>,
    /// The clock in milliseconds when it was known to have begun: an ack of a later stamp knows so too.
    pub(super) began_ms: u64,
    /// The newest stamp it gave back with a promise.
    pub(super) stamp: Option<Instant>,
    pub(super) heard: Instant,
    /// When it was last sent something, and had nothing unacknowledged.
    pub(super) sent_since: Instant,
    /// Until then it has no memory for this vnode.
    pub(super) short_until: Instant,
    /// The term it was last heard to obey; above the primary's after a handover.
    pub(super) term: u32,
    /// What it says counts if it goes by this ring or a later one: it may have been let go, and dropped everything, before.
    pub(super) since_epoch: u32,
    /// The ring that it went by when it was last heard.
    pub(super) heard_epoch: u32,
}

/// A change of the in-sync set that the leader was asked for (C8).
#[derive(Clone, Debug)]
pub(super) struct Proposal {
    pub(super) number: u64,
    /// The ring it was made under.
    pub(super) epoch: u32,
    pub(super) in_sync: Vec<Peer>,
    /// The ring that tells the outcome.
    pub(super) settled_by: Option<u32>,
    pub(super) sent: Instant,
}

/// What a primary is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Bringing every in-sync copy up to this write before it serves (C7).
    Tailing(u64),
    /// Answering requests.
    Serving,
    /// Sealed by its own hand, for the copy that goes on (C10).
    HandingOver(Peer),
}

/// One vnode, led.
pub(super) struct Lead {
    /// The last write that was here when it began.
    pub(super) began_at: u64,
    pub(super) phase: Phase,
    pub(super) members: Vec<Member>,
    pub(super) proposal: Option<Proposal>,
    pub(super) proposals: u64,
    /// Copies that are not wanted any more.
    pub(super) retiring: Vec<Peer>,
    pub(super) committed: Commit,
    pub(super) uncommitted: Uncommitted,
    pub(super) waits: Vec<Wait>,
}

impl Member {
    pub(super) fn new(peer: Peer, is_in_sync: bool, now: Instant) -> Self {
        Self {
            peer,
            is_in_sync,
            progress: Progress::Unknown,
            applied: 0,
            sent: 0,
            cursor: 0,
            slice_sent: None,
            began_ms: 0,
            stamp: None,
            heard: now,
            sent_since: now,
            short_until: Instant::ORIGIN,
            term: 0,
            since_epoch: 0,
            heard_epoch: 0,
        }
    }

    pub(super) fn is_following(&self) -> bool {
        self.progress == Progress::Following
    }

    /// Whether nothing is missing from it but the writes after `applied`.
    pub(super) fn is_whole(&self) -> bool {
        self.is_following() && self.cursor >= AckEntry::CURSOR_END
    }

    /// The last of the writes that are all applied there, as far as that is known. Who has said under this term that it stands
    /// on this primary's history has them though it was not told yet to go on from there.
    fn settled(&self) -> u64 {
        match self.progress {
            Progress::Beginning { wipes: false, base } => base,
            _ if self.is_whole() => self.applied,
            _ => 0,
        }
    }

    /// Whether there are slices to send to it: it was told to begin, and has not everything yet.
    pub(super) fn is_streamed(&self, now: Instant) -> bool {
        self.is_following() && self.cursor < AckEntry::CURSOR_END && now >= self.short_until
    }

    /// Whether there is something that it has to be sent; `last` is the number of the last write.
    pub(super) fn is_owed(&self, now: Instant, last: u64) -> bool {
        match self.progress {
            Progress::Unknown => false,
            Progress::Beginning { .. } | Progress::Lost => true,
            Progress::Following => self.sent < last || self.is_streamed(now),
        }
    }

    /// What was sent and not acknowledged counts as lost.
    pub(super) fn rewind(&mut self, now: Instant) {
        (self.sent, self.slice_sent, self.sent_since) = (self.applied, None, now);
    }

    /// Rewinds when an answer is overdue. That of a slice has a time of its own: writes are acknowledged all along.
    pub(super) fn rewind_if_overdue(&mut self, now: Instant) {
        self.slice_sent.take_if(|sent| now.since(*sent) >= RESEND_AFTER);
        if self.sent > self.applied && now.since(self.sent_since) >= RESEND_AFTER {
            self.rewind(now);
        }
    }
}

impl Lead {
    /// A primary whose last write is number `tail`.
    pub(super) fn new(tail: u64) -> Self {
        Self {
            began_at: tail,
            phase: Phase::Tailing(tail),
            members: Vec::new(),
            proposal: None,
            proposals: 0,
            retiring: Vec::new(),
            committed: Commit::default(),
            uncommitted: Uncommitted::default(),
            waits: Vec::new(),
        }
    }

    /// Asks the processor for its bytes.
    pub(super) fn prefetch(&self) {
        let start = (&raw const *self).cast::<u8>();
        (0..size_of::<Self>()).step_by(LINE_BYTES).for_each(|at| prefetch(start.wrapping_add(at)));
    }

    pub(super) fn member(&mut self, peer: Peer) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.peer == peer)
    }

    /// The copies that `all` and reading rest on: the ring's and the proposed ones (C8).
    pub(super) fn union(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| self.counts_for_all(member))
    }

    /// Whether there are slices to send.
    pub(super) fn is_streaming(&self, now: Instant) -> bool {
        self.members.iter().any(|member| member.is_streamed(now))
    }

    /// Whether no other copy counts.
    pub(super) fn is_alone(&self) -> bool {
        self.union().next().is_none()
    }

    /// Whether no copy on another node counts in the ring's set, or in the proposed one: then, whichever the leader goes
    /// by, the vnode may be lost with this node, and what a copy has beside it proves nothing yet (C3, C9).
    pub(super) fn may_be_alone(&self, own: Peer) -> bool {
        let is_elsewhere = |peer: &Peer| peer.node != own.node;
        let is_proposed = self.proposal.as_ref().is_some_and(|it| !it.in_sync.iter().any(is_elsewhere));
        is_proposed || !self.members.iter().any(|member| member.is_in_sync && is_elsewhere(&member.peer))
    }

    /// Whether `member` is in the ring's or the proposed set.
    pub(super) fn counts_for_all(&self, member: &Member) -> bool {
        Self::is_in_union(self.proposal.as_ref(), member)
    }

    /// See there.
    pub(super) fn is_in_union(proposal: Option<&Proposal>, member: &Member) -> bool {
        member.is_in_sync || proposal.is_some_and(|proposal| proposal.in_sync.contains(&member.peer))
    }

    /// Whether `member` is in the ring's and the proposed set, and on another node than `own` (it shares no fate).
    pub(super) fn counts_for_one(&self, member: &Member, own: Peer) -> bool {
        let is_kept = self.proposal.as_ref().is_none_or(|proposal| proposal.in_sync.contains(&member.peer));
        let is_in_sync = member.is_in_sync || is_planted(Fault::CatchingUpCounts);
        is_in_sync && is_kept && member.peer.node != own.node
    }

    /// Whether what is answered now can't be stale (C5): every copy that counts has promised not to be sealed yet; alone,
    /// the node's own lease stands.
    pub(super) fn may_answer(&self, own: Peer, now: Instant, lease_until: Instant) -> bool {
        if is_planted(Fault::NoReadLease) {
            return true;
        }
        if self.may_be_alone(own) && now >= lease_until {
            return false;
        }
        self.union().all(|member| member.stamp.is_some_and(|stamp| now < stamp + RELY_TIME))
    }

    /// Every copy that counts has applied the writes up to here; `last` is the number of the last one.
    pub(super) fn settled(&self, last: u64) -> u64 {
        self.union().map(Member::settled).min().unwrap_or(last)
    }

    /// Finds anew what is committed; `last` is the number of the last write. What every copy that counts has.
    pub(super) fn update_committed(&mut self, own: Peer, last: u64) -> u64 {
        let is_whole =
            |member: &Member| member.is_whole() || member.is_following() && is_planted(Fault::CatchingUpCounts);
        let ones = self.members.iter().filter(|member| self.counts_for_one(member, own) && is_whole(member));
        let one = ones.map(|member| member.applied).max().unwrap_or(0);
        let settled = self.settled(last);
        let all = if self.may_be_alone(own) { 0 } else { settled };
        self.committed.one = self.committed.one.max(if is_planted(Fault::OneAlone) { last } else { one });
        self.committed.all = self.committed.all.max(all);
        // What every copy has, one has: the copy may be on this node alone, where `one` does not count, but then a write
        // that asks for `one` was refused.
        self.uncommitted.settle(self.committed);
        if let Phase::Tailing(tail) = self.phase
            && (self.is_alone() || settled >= tail)
        {
            self.phase = Phase::Serving;
        }
        settled
    }

    /// What a reply on the key with this hash waits for, if it has to.
    pub(super) fn dependency(&self, hash: u64) -> Option<Commit> {
        let wanted = self.uncommitted.dependency(hash);
        (!self.is_sole() && !self.committed.covers(wanted)).then_some(wanted)
    }

    /// Whether this is the only copy that counts, for the leader too: then nothing it has can be lost but with it, and
    /// reads need not wait for a copy that is gone.
    fn is_sole(&self) -> bool {
        self.is_alone() && self.proposal.is_none()
    }

    /// Releases the replies whose wait is over.
    pub(super) fn release(&mut self, own: Peer, now: Instant, lease_until: Instant, tickets: &mut Tickets) {
        if self.waits.is_empty() {
            return;
        }
        let (may_answer, committed) = (self.may_answer(own, now, lease_until), self.committed);
        self.waits.retain(|wait| {
            let is_over = may_answer && committed.covers(wait.commit);
            let is_too_long = now.since(wait.since) >= WAIT_MAX;
            if is_over {
                tickets.release(wait.ticket, Release::Committed);
            } else if is_too_long {
                tickets.release(wait.ticket, Release::Abandoned);
            }
            !is_over && !is_too_long
        });
    }

    /// Gives up every reply that waits.
    pub(super) fn abandon(&mut self, tickets: &mut Tickets) {
        self.waits.drain(..).for_each(|wait| tickets.release(wait.ticket, Release::Abandoned));
    }

    /// The in-sync set that the leader is to be asked for, if it is another than the ring's: without those that are
    /// silent, lost, short of memory or not wanted, with those that have caught up. Empty handed while one is open.
    pub(super) fn wanted_in_sync(&self, now: Instant, last: u64) -> Option<Vec<Peer>> {
        if self.proposal.is_some() || self.phase != Phase::Serving && self.is_tailing_well(now) {
            return None;
        }
        let wanted = |member: &&Member| {
            let is_fit = now.since(member.heard) < SILENCE_MAX
                && now >= member.short_until
                && member.progress != Progress::Lost
                && !self.retiring.contains(&member.peer);
            let is_known = member.heard_epoch >= member.since_epoch && member.is_whole();
            let is_ready = member.is_in_sync || (is_known && member.applied + LAG_MAX >= last);
            is_fit && is_ready
        };
        let in_sync: Vec<Peer> = self.members.iter().filter(wanted).map(|member| member.peer).collect();
        let present = self.members.iter().filter(|member| member.is_in_sync).map(|member| member.peer);
        (!present.eq(in_sync.iter().copied())).then_some(in_sync)
    }

    /// Whether the copies that have to be brought up to date are all there.
    fn is_tailing_well(&self, now: Instant) -> bool {
        let is_well = |member: &Member| member.progress != Progress::Lost && now.since(member.heard) < SILENCE_MAX;
        self.union().all(is_well)
    }

    /// A copy has said that it has no memory for this vnode.
    pub(super) fn note_short(&mut self, peer: Peer, now: Instant) {
        if let Some(member) = self.member(peer) {
            member.short_until = now + SHORT_PAUSE;
        }
    }
}
