//! One core's copies: every vnode that has a seat here, as its primary or as a copy that follows.
//!
//! A primary turns each write into a record, keeps it in the backlog, sends it to the copies, and knows from their
//! acknowledgements what is committed (C3, C4) and whether it may still answer (C5). A copy applies records in order and
//! says how far it is. The ring gives roles; seals take them away (C6, C7, C10). Terms fence: a message of a lower term
//! than this core knows is refused, and its sender told.
//!
//! The owner calls the `handle_*` as things happen, [`Copies::turn`] after them and at least every few milliseconds, and
//! takes what there is from the `poll_*`. Links lose, double and reorder at will; only garbage is a reason to close one.

mod ahead;
mod backlog;
mod follow;
mod lead;
pub mod limits;
mod pace;
mod report;
mod requests;
mod roles;
mod stream;
mod waits;
#[cfg(test)]
mod world_test;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use quoit_wire::peer::{AckEntry, AppendsFrame, HeartbeatEntry, PeerMessage};

use self::backlog::Backlog;
use self::lead::Lead;
use self::limits::{OUTPUT_BYTES_MAX, OUTPUT_BYTES_MIN, OUTPUT_SHARE, SPARE_BYTES_MAX, WORK_INTERVAL};
use self::pace::Pace;
use self::report::Counters;
pub use self::report::{CopyStatus, VnodeStatus};
pub use self::requests::{Admission, Need, OnEtcdLoss, Written};
use self::waits::Tickets;
pub use self::waits::{Commit, Release, Ticket};
use super::retries::RetryTable;
use super::{Election, NodeRef, Report, Ring};
use crate::store::{Applied, Store, prefetch};
use crate::time::Instant;

/// One core of one life of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    /// Which life of which node.
    pub node: NodeRef,
    /// Which of its cores.
    pub core: u16,
}

/// What copies hold: the core's items, and the results that repeats of writes get.
pub struct State<'a> {
    /// The items.
    pub store: &'a mut Store,
    /// The results.
    pub retries: &'a mut RetryTable,
}

/// A peer sent what no correct peer sends: close the link to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Breach {
    /// A record or item lies outside its vnode.
    #[error("a record for vnode {0} whose key is of another vnode: do both nodes belong to the same cluster?")]
    ForeignKey(u16),
    /// A hello in the middle of a link.
    #[error("a second hello on one link")]
    Hello,
}

/// One core's copies.
pub struct Copies {
    own: Peer,
    vnode_bits: u8,
    on_etcd_loss: OnEtcdLoss,
    ring: Option<Arc<Ring>>,
    copies: Vec<Option<Box<Copy>>>,
    links: BTreeMap<Peer, Link>,
    backlog: Backlog,
    tickets: Tickets,
    /// Emptied buffers of links, kept for their memory.
    spare: Vec<Vec<u8>>,
    /// Bytes of the links' buffers and the spare ones.
    buffer_bytes: usize,
    /// Led vnodes that have something to send.
    dirty: VecDeque<u16>,
    /// Vnodes that are given away, whose new primary is to be told that it has everything now.
    handovers: BTreeSet<u16>,
    /// Sealed vnodes whose report is due as soon as no promise stands against it.
    sealed: BTreeSet<u16>,
    reports: VecDeque<Report>,
    election: Election,
    /// The node's lease stands until then, by its own reckoning.
    lease_until: Instant,
    /// When the next step of heartbeats is due, and which one it is.
    heartbeat_at: Instant,
    heartbeat_step: usize,
    /// Vnodes that do not wait for their step: the copies learn at once whom to follow, or who is to go on.
    announced: VecDeque<u16>,
    pace: Pace,
    /// Copies here whose primaries are to be told to go on streaming, when there is room for more.
    paced: BTreeSet<(Peer, u16)>,
    counters: Counters,
}

/// One vnode's copy.
struct Copy {
    /// Under which it has its role.
    term: u32,
    /// The highest term it knows of. Above `term` the role is over, or about to be.
    fence: u32,
    /// The term it was sealed for, by the leader or for a move: a ring that makes it the primary under exactly this term
    /// relies on what it holds. Under any other term it would start empty (C9).
    sealed: Option<u32>,
    /// From then on the leader is told of the seal, until a ring ends it: at once if it has asked for it, after a while if
    /// a move has, because then something has gone wrong.
    report_from: Instant,
    /// It answers no seal before.
    promised_until: Instant,
    is_dirty: bool,
    /// It may hold items with idle expiry, whose hits copies have to be told of.
    has_idle: bool,
    role: Role,
}

enum Role {
    Leading(Box<Lead>),
    Following(Follow),
}

/// A copy that follows.
struct Follow {
    leader: Option<Peer>,
    /// The leader has said from where on.
    has_begun: bool,
    /// How far the stream of items has come, if it was wiped; behind the end nothing is missing.
    cursor: u32,
    /// How far of that the leader was told: it sends the next slice then.
    told: u32,
    /// A record has found no memory. Told once: what is to be had by then shows when the primary tries again.
    is_short: bool,
    /// The ring says that it counts.
    is_in_sync: bool,
    /// There are other copies, which this one may have to bring up to date when it leads.
    has_siblings: bool,
}

/// What waits for one other core.
#[derive(Default)]
struct Link {
    /// The newest stamp that came from there.
    stamp: u64,
    /// Vnodes whose acknowledgement is due; one may stand here several times.
    acks: Vec<u16>,
    heartbeat: Vec<HeartbeatEntry>,
    out: Vec<u8>,
    /// The frame at the end of `out` that takes more appends; whatever else is to follow ends it.
    appends: Option<AppendsFrame>,
}

impl Copies {
    /// A core without copies; `backlog_bytes_max` bounds the records kept for copies that lag.
    pub fn new(own: Peer, vnode_bits: u8, backlog_bytes_max: usize, on_etcd_loss: OnEtcdLoss) -> Self {
        let vnodes = 1 << vnode_bits;
        Self {
            own,
            vnode_bits,
            on_etcd_loss,
            ring: None,
            copies: (0..vnodes).map(|_| None).collect(),
            links: BTreeMap::new(),
            backlog: Backlog::new(vnodes, backlog_bytes_max),
            tickets: Tickets::default(),
            spare: Vec::new(),
            buffer_bytes: 0,
            dirty: VecDeque::new(),
            handovers: BTreeSet::new(),
            sealed: BTreeSet::new(),
            reports: VecDeque::new(),
            election: 0,
            lease_until: Instant::ORIGIN,
            heartbeat_at: Instant::ORIGIN,
            heartbeat_step: 0,
            announced: VecDeque::new(),
            pace: Pace::new(),
            paced: BTreeSet::new(),
            counters: Counters::default(),
        }
    }

    /// Bytes of vnodes that this core may send and take in a second, for copies that are made anew.
    pub fn set_move_bandwidth(&mut self, bytes_per_sec: u64) {
        self.pace.set_bandwidth(bytes_per_sec);
    }

    /// The node's lease in etcd stands until `until`: nine tenths of it, counted from sending the keep-alive (C5).
    pub fn handle_lease(&mut self, until: Instant) {
        self.lease_until = self.lease_until.max(until);
    }

    /// Somebody else leads the cluster: reports are for that leader from now on, also before it has ordered anything.
    pub fn handle_election(&mut self, election: Election) {
        self.election = self.election.max(election);
    }

    /// A message has come from `from`. An error is a reason to close the link; nothing of the rest was carried out.
    pub fn handle_message(
        &mut self,
        now: Instant,
        state: &mut State<'_>,
        from: Peer,
        message: &PeerMessage<'_>,
    ) -> Result<(), Breach> {
        match *message {
            PeerMessage::Heartbeat { stamp, entries } => {
                self.on_heartbeat(state, from, stamp, entries.iter());
                Ok(())
            }
            PeerMessage::Acks { head, entries } => {
                self.on_acks(now, state, from, head, entries.iter());
                Ok(())
            }
            PeerMessage::Begin { head, terms, results } => self.on_begin(now, state, from, head, terms, results),
            PeerMessage::Appends { stamp, appends } => self.on_appends(now, state, from, stamp, appends),
            PeerMessage::Slice { head, items } => self.on_slice(now, state, from, head, items),
            PeerMessage::Handover(handover) => {
                self.on_handover(now, state, from, handover);
                Ok(())
            }
            PeerMessage::Hello(_) => Err(Breach::Hello),
            // The agents' affair: the owner has taken it out already.
            PeerMessage::Control(_) => Ok(()),
        }
    }

    /// The link to `peer` was lost, with whatever was on its way.
    pub fn handle_link_lost(&mut self, now: Instant, peer: Peer) {
        self.links.remove(&peer);
        for vnode in 0..self.copies.len() {
            if let Some(Copy { role: Role::Leading(lead), .. }) = self.copies[vnode].as_deref_mut()
                && let Some(member) = lead.member(peer)
            {
                member.rewind(now);
                self.mark_dirty(vnode as u16);
            }
        }
    }

    /// Prepares what there is to send, and decides what time decides.
    pub fn turn(&mut self, now: Instant, state: &mut State<'_>) {
        self.report_seals(now, state);
        self.beat(now, state);
        self.stream(now, state);
        self.hand_over(state.store);
        self.acknowledge(now, state);
        let buffers = self.links.values().map(|link| &link.out).chain(&self.spare);
        self.buffer_bytes = buffers.map(Vec::capacity).sum();
    }

    /// When to call [`Self::turn`] again though nothing happens.
    pub fn poll_timeout(&self, now: Instant) -> Instant {
        let waits = !self.sealed.is_empty() || !self.handovers.is_empty() || !self.paced.is_empty();
        let has_more = waits || !self.dirty.is_empty() || !self.announced.is_empty();
        if has_more { self.heartbeat_at.min(now + WORK_INTERVAL) } else { self.heartbeat_at }
    }

    /// Bytes for the link to another core that `is_open`, if there are any: whole frames, in order.
    pub fn poll_send(&mut self, mut is_open: impl FnMut(Peer) -> bool) -> Option<(Peer, Vec<u8>)> {
        let (peer, link) = self.links.iter_mut().find(|(peer, link)| !link.out.is_empty() && is_open(**peer))?;
        let bytes = std::mem::replace(&mut link.out, self.spare.pop().unwrap_or_default());
        self.buffer_bytes = self.buffer_bytes.saturating_sub(bytes.capacity());
        Some((*peer, bytes))
    }

    /// Takes the buffer of what [`Self::poll_send`] gave and was sent back, to use it again.
    pub fn recycle(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() < self.links.len() && buffer.capacity() <= SPARE_BYTES_MAX {
            buffer.clear();
            self.buffer_bytes += buffer.capacity();
            self.spare.push(buffer);
        }
    }

    /// Bytes of the buffers of what is to be sent, and of those that are kept for reuse.
    pub fn buffer_bytes(&self) -> usize {
        self.buffer_bytes
    }

    /// Frees the buffers that are kept for reuse.
    pub fn drop_spares(&mut self) {
        self.buffer_bytes =
            self.buffer_bytes.saturating_sub(self.spare.drain(..).map(|buffer| buffer.capacity()).sum());
    }

    /// Bytes that may wait for each other core.
    fn output_bytes_max(&self) -> usize {
        let share = self.backlog.bytes_max() / OUTPUT_SHARE / self.links.len().max(1);
        share.clamp(OUTPUT_BYTES_MIN, OUTPUT_BYTES_MAX)
    }

    /// What the leader is to learn, with the election that this core knows.
    pub fn poll_report(&mut self) -> Option<(Election, Report)> {
        self.reports.pop_front().map(|report| (self.election, report))
    }

    /// A waiting reply whose fate is known.
    pub fn poll_release(&mut self) -> Option<(Ticket, Release)> {
        self.tickets.poll()
    }

    /// Fetches what is known of these vnodes, if they are led here: step by step, each for all of them.
    pub fn prefetch(&self, vnodes: impl Iterator<Item = usize> + Clone) {
        let copies = vnodes.filter_map(|vnode| self.copies.get(vnode)?.as_deref());
        copies.clone().for_each(|copy| prefetch(copy));
        let leads = copies.filter_map(|copy| if let Role::Leading(lead) = &copy.role { Some(&**lead) } else { None });
        leads.clone().for_each(Lead::prefetch);
        leads.for_each(|lead| prefetch(lead.members.as_ptr()));
    }

    fn copy(&mut self, vnode: u16) -> Option<&mut Copy> {
        self.copies.get_mut(usize::from(vnode))?.as_deref_mut()
    }

    fn link(&mut self, peer: Peer) -> &mut Link {
        self.links.entry(peer).or_default()
    }

    /// This vnode has something to send.
    fn mark_dirty(&mut self, vnode: u16) {
        if let Some(copy) = self.copies[usize::from(vnode)].as_deref_mut()
            && !copy.is_dirty
        {
            copy.is_dirty = true;
            self.dirty.push_back(vnode);
        }
    }
}

impl Follow {
    /// Whether it has everything up to some moment, and counts.
    fn may_be_read(&self) -> bool {
        self.is_in_sync && self.has_begun && self.cursor >= AckEntry::CURSOR_END
    }
}

impl Copy {
    /// Whether nothing has ended its role.
    fn is_current(&self) -> bool {
        self.fence == self.term
    }
}

/// Checks what became of a record that a peer sent: `Ok(false)` when there was no memory for it.
fn applied(vnode: u16, applied: Applied) -> Result<bool, Breach> {
    match applied {
        Applied::Yes => Ok(true),
        Applied::NoSpace => Ok(false),
        Applied::Foreign => Err(Breach::ForeignKey(vnode)),
    }
}
