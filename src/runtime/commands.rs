//! Control commands: what other threads ask of a core, which looks for them before each of its turns.
//!
//! They come through a bounded flume queue, whose waker here is none of glommio's: it raises a flag, which is all that a
//! core looks at while there are none, and wakes the core where it sleeps, as a message of the mesh does. So a command is
//! served within one turn, however busy the core is.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use flume::r#async::RecvFut;

use super::clock::Reading;
use super::cluster::ClusterNews;
use super::core::Core;
use super::mesh::CoreShared;
use crate::cluster::copies::VnodeStatus;
use crate::cluster::load::Load;
use crate::samples::CoreSnapshot;

/// What the control thread asks of a core.
#[derive(Debug)]
pub enum Command {
    /// Send everything the core tells about itself.
    Snapshot(flume::Sender<CoreSnapshot>),
    /// Tell of each vnode by itself.
    Vnodes(flume::Sender<Vec<VnodeStatus>>),
    /// Go by this in the cluster from now on.
    Cluster(Box<ClusterNews>),
    /// Say what the core has of the cluster, and has still to do.
    Load(flume::Sender<Load>),
    /// Give a sign of life: the core turns.
    Alive(flume::Sender<SignOfLife>),
    /// Answer what was asked, close, and end.
    Shutdown,
}

/// That a core turns, and how far it is with what takes long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignOfLife {
    /// The core.
    pub core: u16,
    /// Bytes of vnodes that it has streamed to others since it began.
    pub streamed_bytes: u64,
}

/// The control thread's way to one core.
#[derive(Clone, Debug)]
pub struct CoreHandle {
    /// Index of the core within the node.
    pub core: u16,
    /// The CPU it is pinned to.
    pub cpu: usize,
    /// A bounded queue; a core serves it within milliseconds even when it is saturated.
    pub commands: flume::Sender<Command>,
}

/// A core's end of the queue.
pub(super) struct Inbox {
    queue: flume::Receiver<Command>,
    /// The receive that is under way: it has left the waker with the queue, or is about to.
    receive: RecvFut<'static, Command>,
    bell: Arc<Bell>,
    waker: Waker,
}

/// What the queue's senders ring.
struct Bell {
    shared: Arc<[CoreShared]>,
    core: usize,
    /// A command may be there.
    is_rung: AtomicBool,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_rung.store(true, Ordering::Release);
        self.shared[self.core].wake_if_sleeping();
    }
}

impl Inbox {
    /// The end of `queue` that belongs to core number `core` of those that share `shared`.
    pub(super) fn new(queue: flume::Receiver<Command>, shared: &Arc<[CoreShared]>, core: u16) -> Self {
        // Rung at first: the first look leaves the waker with the queue.
        let bell = Bell { shared: Arc::clone(shared), core: usize::from(core), is_rung: AtomicBool::new(true) };
        let bell = Arc::new(bell);
        let waker = Waker::from(Arc::clone(&bell));
        Self { receive: queue.clone().into_recv_async(), queue, bell, waker }
    }

    /// Whether there may be a command. Asked after the core has announced its sleep, no command is missed.
    pub(super) fn is_rung(&self) -> bool {
        self.bell.is_rung.load(Ordering::Relaxed)
    }

    /// Serves every command that is there.
    pub(super) fn serve(&mut self, core: &mut Core) {
        // Silenced before the look: who sends after it rings again.
        if !self.is_rung() || !self.bell.is_rung.swap(false, Ordering::AcqRel) {
            return;
        }
        while let Poll::Ready(received) = Pin::new(&mut self.receive).poll(&mut Context::from_waker(&self.waker)) {
            // Nobody is left who could send anything.
            let Ok(command) = received else { return };
            self.receive = self.queue.clone().into_recv_async();
            core.obey(command);
        }
    }
}

impl Core {
    fn obey(&mut self, command: Command) {
        match command {
            // The asker may have given up waiting.
            Command::Snapshot(answer) => drop(answer.try_send(self.snapshot())),
            Command::Vnodes(answer) => drop(answer.try_send(self.shard.vnodes())),
            Command::Cluster(news) => self.take_cluster_news(Reading::now().instant(), *news),
            Command::Load(answer) => drop(answer.try_send(self.shard.load())),
            Command::Alive(answer) => {
                let streamed_bytes = self.shard.streamed_bytes();
                // The asker may have gone.
                let _ = answer.try_send(SignOfLife { core: self.options.core, streamed_bytes });
            }
            Command::Shutdown => self.begin_drain(),
        }
    }
}
