//! The mesh: how cores of one node talk. One lock-free queue from every core to every other, polled every turn.
//!
//! ```text
//!  core 0                                  core 1
//!  outlet ──► Requests(batch) ──────────►  inlet     a batch: entry, entry, …
//!  inlet  ◄────────── Replies(batch) ◄──── outlet    a request's entry: token u64 │ frame
//!         ──► Adopt(connection) ────────►            a reply's entry:   token u64 │ request_bytes u32 │ frame
//!         ──► Frames(bytes) ────────────►            what copies on one core say to those on another
//! ```
//! Nothing can block: a core sends a request only with a credit, and a queue has room for every credit's request, for the
//! reply to every request that may come the other way, for [`MESH_ADOPTIONS_MAX`] connections and for [`MESH_FRAMES_MAX`]
//! batches of copies' messages. So replies always fit.
//! Requests of one core for one key go through one queue in order, and so do their replies.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

use glommio::channels::spsc_queue::{self, Consumer, Producer};
use quoit_wire::HelloParameters;
use quoit_wire::peer::PeerHello;

use super::clock::Reading;
use super::limits::{
    MESH_ADOPTIONS_MAX, MESH_BATCH_BYTES, MESH_FRAMES_MAX, MESH_INFLIGHT_BYTES_MAX, MESH_INFLIGHT_MAX,
    MESH_REPLY_BYTES_MAX, MESH_REPLY_BYTES_MIN, MESH_REPLY_SHARE, SPARE_SHARE,
};
use super::spare::Spare;

const QUEUE_MESSAGES: usize = 2 * MESH_INFLIGHT_MAX + MESH_ADOPTIONS_MAX + MESH_FRAMES_MAX;
/// Bytes before the frame of a request's entry: the token.
const REQUEST_ENTRY_BYTES: usize = 8;
/// Bytes before the frame of a reply's entry: the token and the request's size, whose credit comes back with it.
const REPLY_ENTRY_BYTES: usize = 12;

/// What one core puts into another's inlet.
pub(super) enum Message {
    Requests(Batch),
    Replies(Batch),
    Adopt(Box<Adoption>),
    Frames(Vec<u8>),
}

/// Entries on their way between two cores.
#[derive(Default)]
pub(super) struct Batch {
    pub bytes: Vec<u8>,
    /// Entries in `bytes`.
    pub entries: usize,
    /// When the requests were sent, by the asking core's clock; comes back with the replies.
    pub sent: Reading,
}

/// What is left of a batch: its entries from `offset` on.
pub(super) struct Part {
    pub batch: Batch,
    pub offset: usize,
}

/// A connection on its way to the core it asked for. Its hello is not answered yet, so nothing else is under way on it.
pub(super) struct Adoption {
    pub socket: OwnedFd,
    pub greeting: Greeting,
}

/// The hello of a connection that is handed over.
pub(super) enum Greeting {
    Client { id: u32, parameters: HelloParameters },
    Peer(PeerHello),
}

/// What cores know of each other, shared.
pub(super) struct CoreShared {
    /// Set by a core that is about to park; who clears it owes it a wake-up.
    sleeping: AtomicBool,
    /// Rung to wake the core.
    eventfd: OwnedFd,
    /// Set when the core has answered all it will answer.
    pub drained: AtomicBool,
}

impl CoreShared {
    /// The state of a core that is awake.
    pub(super) fn new(eventfd: OwnedFd) -> Self {
        Self { sleeping: AtomicBool::new(false), eventfd, drained: AtomicBool::new(false) }
    }

    pub(super) fn eventfd(&self) -> RawFd {
        self.eventfd.as_raw_fd()
    }

    /// Announces that the core is going to park. It must look at its ring and inlets once more after this.
    pub(super) fn announce_sleep(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        // Pairs with the fence in `wake_if_sleeping`: either the sender sees the flag, or this core sees the message.
        fence(Ordering::SeqCst);
    }

    /// The core is awake again.
    pub(super) fn announce_awake(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// Wakes the core if it has announced its sleep. Call it after a push.
    pub(super) fn wake_if_sleeping(&self) {
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::Relaxed) {
            self.wake();
        }
    }

    /// Rings the core's eventfd.
    fn wake(&self) {
        let one = 1u64.to_le_bytes();
        // SAFETY: writes eight bytes of a local array to a descriptor that lives as long as `self`. (All hosts of io_uring
        // that glommio runs on are little-endian; any non-zero number rings.)
        let written = unsafe { libc::write(self.eventfd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        // EAGAIN would mean the counter is full: the core is being woken by 2^64 others.
        debug_assert!(written == 8 || written == -1);
    }
}

/// One end of the two queues between a core and one other.
pub(super) struct Peer {
    outlet: Producer<Message>,
    inlet: Consumer<Message>,
    requests: Batch,
    inflight: usize,
    inflight_bytes: usize,
    /// Reply bytes this core has sent to the peer and the peer has not taken yet.
    replies_out: Arc<AtomicUsize>,
    /// The same the other way.
    replies_in: Arc<AtomicUsize>,
    /// Connections on their way to the peer, and from it.
    adoptions_out: Arc<AtomicUsize>,
    adoptions_in: Arc<AtomicUsize>,
    /// Batches of copies' messages on their way to the peer, and from it.
    frames_out: Arc<AtomicUsize>,
    frames_in: Arc<AtomicUsize>,
    /// Requests of the peer that wait here to be executed. Its credits bound them.
    requests_in: VecDeque<Part>,
    /// Replies of the peer that wait here to be delivered. What it may have waiting bounds them.
    replies_kept: VecDeque<Part>,
    /// Connections that wait for a credit to this peer.
    pub waiting: Vec<u32>,
}

/// One core's view of the mesh.
pub(super) struct Mesh {
    core: usize,
    peers: Vec<Option<Peer>>,
    shared: Arc<[CoreShared]>,
    spare: Spare,
    /// Reply bytes that may wait for one core before its further requests wait.
    reply_bytes_max: usize,
}

impl Mesh {
    /// Makes the mesh of a node: one view per core of `shared`, whose buffers may have `buffer_bytes` each.
    pub(super) fn connect(shared: &Arc<[CoreShared]>, buffer_bytes: usize) -> Vec<Self> {
        let cores = shared.len();
        let mut views: Vec<Vec<Option<Peer>>> = (0..cores).map(|_| (0..cores).map(|_| None).collect()).collect();
        for (low, high) in (0..cores).flat_map(|low| (low + 1..cores).map(move |high| (low, high))) {
            let (to_high, from_low) = spsc_queue::make(QUEUE_MESSAGES);
            let (to_low, from_high) = spsc_queue::make(QUEUE_MESSAGES);
            let low_to_high = Counts::default();
            let high_to_low = Counts::default();
            views[low][high] = Some(Peer::new(to_high, from_high, low_to_high.clone(), high_to_low.clone()));
            views[high][low] = Some(Peer::new(to_low, from_low, high_to_low, low_to_high));
        }
        let reply_bytes = buffer_bytes / MESH_REPLY_SHARE / cores.saturating_sub(1).max(1);
        let view = |(core, peers)| Self {
            core,
            peers,
            shared: shared.clone(),
            spare: Spare::new(buffer_bytes / SPARE_SHARE, 2 * MESH_BATCH_BYTES),
            reply_bytes_max: reply_bytes.clamp(MESH_REPLY_BYTES_MIN, MESH_REPLY_BYTES_MAX),
        };
        views.into_iter().enumerate().map(view).collect()
    }

    /// What this core shows the others.
    pub(super) fn own(&self) -> &CoreShared {
        &self.shared[self.core]
    }

    /// What all cores show each other.
    pub(super) fn shared(&self) -> &Arc<[CoreShared]> {
        &self.shared
    }

    /// The other cores.
    pub(super) fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let core = self.core;
        (0..self.peers.len()).filter(move |&other| other != core)
    }

    /// Whether a request of `frame_bytes` may be sent to `core` now.
    pub(super) fn has_credit(&self, core: usize, frame_bytes: usize) -> bool {
        let peer = self.peer(core);
        peer.inflight < MESH_INFLIGHT_MAX
            && (peer.inflight == 0 || peer.inflight_bytes + frame_bytes <= MESH_INFLIGHT_BYTES_MAX)
    }

    /// Appends a request to the batch for `core`, spending a credit that [`Self::has_credit`] showed.
    pub(super) fn request(&mut self, core: usize, token: u64, frame: &[u8], now: Reading) {
        let spare = &mut self.spare;
        let peer = Self::peer_mut(&mut self.peers, core);
        if peer.requests.bytes.capacity() == 0 {
            peer.requests.bytes = spare.take();
        }
        peer.inflight += 1;
        peer.inflight_bytes += frame.len();
        peer.requests.entries += 1;
        peer.requests.sent = now;
        peer.requests.bytes.extend_from_slice(&token.to_le_bytes());
        peer.requests.bytes.extend_from_slice(frame);
        if peer.requests.bytes.len() >= MESH_BATCH_BYTES {
            self.push_requests(core);
        }
    }

    /// Pushes every batch under construction.
    pub(super) fn flush(&mut self) {
        for core in self.others() {
            if self.peer(core).requests.entries > 0 {
                self.push_requests(core);
            }
        }
    }

    fn push_requests(&mut self, core: usize) {
        let batch = std::mem::take(&mut Self::peer_mut(&mut self.peers, core).requests);
        self.push(core, Message::Requests(batch));
    }

    /// Sends the replies to a batch; they always fit.
    pub(super) fn reply(&mut self, core: usize, batch: Batch) {
        self.peer(core).replies_out.fetch_add(batch.bytes.len(), Ordering::Relaxed);
        self.push(core, Message::Replies(batch));
    }

    /// Whether another request of `core` may be executed: what is on its way to that core, and in `batch`, is not too much.
    pub(super) fn has_reply_window(&self, core: usize, batch: &Batch) -> bool {
        self.peer(core).replies_out.load(Ordering::Relaxed) + batch.bytes.len() < self.reply_bytes_max
    }

    /// Bytes of this core's buffers that are in the mesh: its requests until they are answered, its replies until they are
    /// taken, and what is kept for reuse.
    pub(super) fn bytes(&self) -> usize {
        let of_peer = |peer: &Peer| peer.inflight_bytes + peer.replies_out.load(Ordering::Relaxed);
        self.peers.iter().flatten().map(of_peer).sum::<usize>() + self.spare.bytes()
    }

    /// Frees what is kept for reuse.
    pub(super) fn drop_spares(&mut self) {
        self.spare.clear();
    }

    /// Reply bytes this core has sent that other cores have not taken.
    #[cfg(test)]
    pub(super) fn reply_bytes_waiting(&self) -> usize {
        self.peers.iter().flatten().map(|peer| peer.replies_out.load(Ordering::Relaxed)).sum()
    }

    /// Hands a connection over; gives it back when too many are on their way already.
    pub(super) fn adopt(&mut self, core: usize, adoption: Box<Adoption>) -> Result<(), Box<Adoption>> {
        let adoptions = &self.peer(core).adoptions_out;
        if adoptions.load(Ordering::Relaxed) >= MESH_ADOPTIONS_MAX {
            return Err(adoption);
        }
        adoptions.fetch_add(1, Ordering::Relaxed);
        self.push(core, Message::Adopt(adoption));
        Ok(())
    }

    /// Whether copies' messages may be sent to `core` now.
    pub(super) fn has_frames_room(&self, core: usize) -> bool {
        self.peer(core).frames_out.load(Ordering::Relaxed) < MESH_FRAMES_MAX
    }

    /// Sends what copies here say to those on `core`, for which [`Self::has_frames_room`] showed room.
    pub(super) fn send_frames(&mut self, core: usize, bytes: Vec<u8>) {
        self.peer(core).frames_out.fetch_add(1, Ordering::Relaxed);
        self.push(core, Message::Frames(bytes));
    }

    fn push(&mut self, core: usize, message: Message) {
        let refused = self.peer(core).outlet.try_push(message);
        assert!(refused.is_none(), "credits bound what is in a queue");
        self.shared[core].wake_if_sleeping();
    }

    /// The next message from `core`.
    pub(super) fn next(&mut self, core: usize) -> Option<Message> {
        let peer = self.peer(core);
        let message = peer.inlet.try_pop()?;
        match message {
            Message::Adopt(_) => peer.adoptions_in.fetch_sub(1, Ordering::Relaxed),
            Message::Frames(_) => peer.frames_in.fetch_sub(1, Ordering::Relaxed),
            Message::Requests(_) | Message::Replies(_) => 0,
        };
        Some(message)
    }

    /// Keeps batches of `core` until it is their turn, behind those that are here.
    pub(super) fn keep(&mut self, core: usize, message: Message) {
        let peer = Self::peer_mut(&mut self.peers, core);
        match message {
            Message::Requests(batch) => peer.requests_in.push_back(Part { batch, offset: 0 }),
            Message::Replies(batch) => peer.replies_kept.push_back(Part { batch, offset: 0 }),
            Message::Adopt(_) | Message::Frames(_) => unreachable!("only batches of requests and replies wait"),
        }
    }

    /// The next requests of `core`, where their replies may be sent.
    pub(super) fn next_requests(&mut self, core: usize) -> Option<Part> {
        if !self.has_reply_window(core, &Batch::default()) {
            return None;
        }
        Self::peer_mut(&mut self.peers, core).requests_in.pop_front()
    }

    /// The next replies of `core`.
    pub(super) fn next_replies(&mut self, core: usize) -> Option<Part> {
        Self::peer_mut(&mut self.peers, core).replies_kept.pop_front()
    }

    /// Keeps what is left of the requests that came next.
    pub(super) fn keep_requests(&mut self, core: usize, part: Part) {
        Self::peer_mut(&mut self.peers, core).requests_in.push_front(part);
    }

    /// Keeps what is left of the replies that came next.
    pub(super) fn keep_replies(&mut self, core: usize, part: Part) {
        Self::peer_mut(&mut self.peers, core).replies_kept.push_front(part);
    }

    /// All replies of a batch are delivered: `core` may send more, and is woken if it waits to.
    pub(super) fn replies_delivered(&mut self, core: usize, batch: Batch) {
        self.peer(core).replies_in.fetch_sub(batch.bytes.len(), Ordering::Relaxed);
        self.recycle(batch);
        self.shared[core].wake_if_sleeping();
    }

    /// Takes a reply's credit back.
    pub(super) fn credit(&mut self, core: usize, request_bytes: usize) {
        let peer = Self::peer_mut(&mut self.peers, core);
        peer.inflight -= 1;
        peer.inflight_bytes -= request_bytes;
    }

    /// Connections that waited for a credit to `core`, to be looked at again.
    pub(super) fn take_waiting(&mut self, core: usize) -> Vec<u32> {
        std::mem::take(&mut Self::peer_mut(&mut self.peers, core).waiting)
    }

    /// Lets a connection wait for a credit to `core`.
    pub(super) fn wait(&mut self, core: usize, slot: u32) {
        Self::peer_mut(&mut self.peers, core).waiting.push(slot);
    }

    /// Requests that other cores have not answered.
    pub(super) fn inflight(&self) -> usize {
        self.peers.iter().flatten().map(|peer| peer.inflight).sum()
    }

    /// A batch with a buffer that was used before, where there is one.
    pub(super) fn spare_batch(&mut self, sent: Reading) -> Batch {
        Batch { bytes: self.spare.take(), entries: 0, sent }
    }

    /// Keeps a batch's buffer for reuse.
    pub(super) fn recycle(&mut self, batch: Batch) {
        self.spare.give(batch.bytes);
    }

    fn peer(&self, core: usize) -> &Peer {
        self.peers[core].as_ref().expect("a core has no queue to itself")
    }

    fn peer_mut(peers: &mut [Option<Peer>], core: usize) -> &mut Peer {
        peers[core].as_mut().expect("a core has no queue to itself")
    }
}

/// What is on its way from one core to another.
#[derive(Clone, Default)]
struct Counts {
    reply_bytes: Arc<AtomicUsize>,
    adoptions: Arc<AtomicUsize>,
    frames: Arc<AtomicUsize>,
}

impl Peer {
    fn new(outlet: Producer<Message>, inlet: Consumer<Message>, out: Counts, coming: Counts) -> Self {
        Self {
            outlet,
            inlet,
            requests: Batch::default(),
            inflight: 0,
            inflight_bytes: 0,
            replies_out: out.reply_bytes,
            replies_in: coming.reply_bytes,
            adoptions_out: out.adoptions,
            adoptions_in: coming.adoptions,
            frames_out: out.frames,
            frames_in: coming.frames,
            requests_in: VecDeque::new(),
            replies_kept: VecDeque::new(),
            waiting: Vec::new(),
        }
    }
}

impl Batch {
    /// Appends a reply's entry up to its frame, which the caller appends.
    pub(super) fn open_reply(&mut self, token: u64, request_bytes: usize) {
        self.bytes.extend_from_slice(&token.to_le_bytes());
        self.bytes.extend_from_slice(&(request_bytes as u32).to_le_bytes());
        self.entries += 1;
    }

    /// Takes back the reply whose entry began at `offset` and was opened last.
    pub(super) fn withdraw_reply(&mut self, offset: usize) {
        self.bytes.truncate(offset);
        self.entries -= 1;
    }

    /// The request's entry at `offset`: its token, its frame and where the next entry begins.
    pub(super) fn request_at(&self, offset: usize) -> Option<(u64, &[u8], usize)> {
        let (token, frame) = self.bytes.get(offset..)?.split_first_chunk::<8>()?;
        let frame_bytes = frame_bytes(frame)?;
        Some((u64::from_le_bytes(*token), frame.get(..frame_bytes)?, offset + REQUEST_ENTRY_BYTES + frame_bytes))
    }

    /// The reply's entry at `offset`: its token, the request's size, its frame and where the next entry begins.
    pub(super) fn reply_at(&self, offset: usize) -> Option<(u64, usize, &[u8], usize)> {
        let (token, rest) = self.bytes.get(offset..)?.split_first_chunk::<8>()?;
        let (request_bytes, frame) = rest.split_first_chunk::<4>()?;
        let request_bytes = u32::from_le_bytes(*request_bytes) as usize;
        let frame_bytes = frame_bytes(frame)?;
        let next = offset + REPLY_ENTRY_BYTES + frame_bytes;
        Some((u64::from_le_bytes(*token), request_bytes, frame.get(..frame_bytes)?, next))
    }
}

fn frame_bytes(frame: &[u8]) -> Option<usize> {
    frame.first_chunk::<4>().map(|length| u32::from_le_bytes(*length) as usize + 4)
}
