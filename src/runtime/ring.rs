//! A core's private io_uring: everything its sockets do, submitted and reaped by one `io_uring_enter` per turn.
//!
//! The ring is driven from inside a glommio task, whose own rings it does not touch. A core that sleeps waits in it
//! (`park.rs`). What this file leaves out: what the completions mean.

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

use super::buffers::{BUFFER_GROUP, RESERVED_GROUP, ReceiveBuffers};
use super::limits::{COMPLETIONS_MAX, FILES_MAX, SUBMISSIONS_MAX};
use super::machine::{Limit, Resource};

/// What a submission was for; travels through the kernel in the upper byte of its user data, with the connection's slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A new connection on the listener.
    Accept,
    /// Bytes of a connection, into provided buffers.
    Receive,
    /// A connection's output has left, or part of it.
    Send,
    /// A cancellation's own completion; nothing follows from it.
    Cancel,
    /// A connection that this core makes stands, or does not.
    Connect,
    /// Somebody has rung the core's eventfd.
    Bell,
}

/// How a submission names a connection's socket.
#[derive(Clone, Copy, Debug)]
pub(super) enum Socket {
    /// By its descriptor, which the kernel looks up and counts each time.
    Descriptor(RawFd),
    /// By its place among the ring's own files: see [`Ring::register`].
    File(u32),
}

/// One completion, as plain numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Completion {
    /// What it completes.
    pub purpose: Purpose,
    /// The connection's slot.
    pub slot: u32,
    /// Bytes or descriptor; a negative errno on failure.
    pub result: i32,
    /// The provided buffer that holds the bytes.
    pub buffer: Option<u16>,
    /// More completions of this submission will come.
    pub more: bool,
}

/// The private ring with its provided buffers.
pub(super) struct Ring {
    // Field order is drop order: the io_uring goes before the buffers it may write to.
    uring: IoUring,
    pub(super) buffers: ReceiveBuffers,
    /// Completions that were reaped and not handed out yet. Bounded: each connection has a send and a receive under way,
    /// and receives have no more buffers than there are.
    reaped: VecDeque<Completion>,
    /// Rung by who wakes the core.
    eventfd: RawFd,
    /// Places for files of the ring's own.
    files: u32,
}

impl Ring {
    /// Sets the ring up for the calling thread, which alone may use it; it watches `eventfd`, which outlives it.
    ///
    /// `connections_max` of its connections get a place among its own files, or as many as the limit of open files allows.
    pub(super) fn new(eventfd: RawFd, connections_max: usize) -> io::Result<Self> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(COMPLETIONS_MAX)
            .build(SUBMISSIONS_MAX)?;
        let buffers = ReceiveBuffers::register(&uring.submitter())?;
        let limit = Limit::read(Resource::OpenFiles).map_or(0, |limit| limit.soft);
        let files = u32::try_from(limit.min(connections_max as u64)).unwrap_or(u32::MAX).min(FILES_MAX);
        // Where the kernel refuses (no memory for the table), sockets go by their descriptors: slower, not wrong.
        let files = if uring.submitter().register_files_sparse(files).is_ok() { files } else { 0 };
        let mut ring = Self { uring, buffers, reaped: VecDeque::new(), eventfd, files };
        ring.watch_bell();
        Ok(ring)
    }

    /// Makes a connection's socket one of the ring's own files, in its slot's place: the kernel then looks nothing up and
    /// counts nothing per submission. False where there is no such place. Undo it before the socket is closed.
    pub(super) fn register(&mut self, slot: u32, socket: RawFd) -> bool {
        slot < self.files && self.uring.submitter().register_files_update(slot, &[socket]).is_ok()
    }

    /// Gives a registered socket's place back.
    pub(super) fn unregister(&mut self, slot: u32) {
        let freed = self.uring.submitter().register_files_update(slot, &[-1]);
        debug_assert!(freed.is_ok(), "the place was taken");
    }

    /// Watches the eventfd, until the kernel ends it (it may when completions overflow). Each ring is told of by itself, so
    /// nobody has to read the eventfd.
    pub(super) fn watch_bell(&mut self) {
        let entry = opcode::PollAdd::new(Fd(self.eventfd), libc::POLLIN as u32).multi(true).build();
        self.push(&entry.user_data(user_data(Purpose::Bell, 0)));
    }

    /// Accepts connections on `listener` until cancelled.
    pub(super) fn accept(&mut self, listener: RawFd) {
        let entry = opcode::AcceptMulti::new(Fd(listener)).flags(libc::SOCK_CLOEXEC).build();
        self.push(&entry.user_data(user_data(Purpose::Accept, 0)));
    }

    /// Connects a socket.
    ///
    /// # Safety
    /// The address stays in place and unchanged until the submission's completion has been reaped.
    pub(super) unsafe fn connect(
        &mut self,
        socket: RawFd,
        slot: u32,
        address: *const libc::sockaddr,
        length: libc::socklen_t,
    ) {
        let entry = opcode::Connect::new(Fd(socket), address, length).build();
        self.push(&entry.user_data(user_data(Purpose::Connect, slot)));
    }

    /// Receives once, at most `bytes` bytes, into a reserved buffer.
    pub(super) fn receive_once(&mut self, socket: RawFd, slot: u32, bytes: usize) {
        let entry = opcode::Recv::new(Fd(socket), std::ptr::null_mut(), bytes as u32).buf_group(RESERVED_GROUP).build();
        let entry = entry.flags(squeue::Flags::BUFFER_SELECT);
        self.push(&entry.user_data(user_data(Purpose::Receive, slot)));
    }

    /// Receives once into the pieces `message` points to.
    ///
    /// # Safety
    /// The header, its vector and every piece stay in place, and nobody else touches the pieces, until the completion has been
    /// reaped.
    pub(super) unsafe fn receive_message(&mut self, socket: Socket, slot: u32, message: *mut libc::msghdr) {
        let receive = match socket {
            Socket::Descriptor(descriptor) => opcode::RecvMsg::new(Fd(descriptor), message.cast()),
            Socket::File(file) => opcode::RecvMsg::new(Fixed(file), message.cast()),
        };
        self.push(&receive.build().user_data(user_data(Purpose::Receive, slot)));
    }

    /// Receives into provided buffers until cancelled or out of buffers.
    pub(super) fn receive(&mut self, socket: Socket, slot: u32) {
        let receive = match socket {
            Socket::Descriptor(descriptor) => opcode::RecvMulti::new(Fd(descriptor), BUFFER_GROUP),
            Socket::File(file) => opcode::RecvMulti::new(Fixed(file), BUFFER_GROUP),
        };
        let entry = receive.build();
        self.push(&entry.user_data(user_data(Purpose::Receive, slot)));
    }

    /// Sends `bytes`.
    ///
    /// # Safety
    /// The bytes stay in place and unchanged until the submission's completion has been reaped.
    pub(super) unsafe fn send(&mut self, socket: Socket, slot: u32, bytes: *const u8, length: u32) {
        let send = match socket {
            Socket::Descriptor(descriptor) => opcode::Send::new(Fd(descriptor), bytes, length),
            Socket::File(file) => opcode::Send::new(Fixed(file), bytes, length),
        };
        let entry = send.flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL).build();
        self.push(&entry.user_data(user_data(Purpose::Send, slot)));
    }

    /// Sends the pieces `message` points to.
    ///
    /// # Safety
    /// The header, its vector and every piece stay in place and unchanged until the completion has been reaped.
    pub(super) unsafe fn send_message(&mut self, socket: Socket, slot: u32, message: *const libc::msghdr) {
        let send = match socket {
            Socket::Descriptor(descriptor) => opcode::SendMsg::new(Fd(descriptor), message.cast()),
            Socket::File(file) => opcode::SendMsg::new(Fixed(file), message.cast()),
        };
        let entry = send.flags((libc::MSG_NOSIGNAL | libc::MSG_WAITALL) as u32).build();
        self.push(&entry.user_data(user_data(Purpose::Send, slot)));
    }

    /// Cancels what is under way for this purpose and slot; its last completion still comes.
    pub(super) fn cancel(&mut self, purpose: Purpose, slot: u32) {
        let target = CancelBuilder::user_data(user_data(purpose, slot));
        let entry = opcode::AsyncCancel2::new(target).build();
        self.push(&entry.user_data(user_data(Purpose::Cancel, slot)));
    }

    /// Submits everything prepared and lets the kernel post what is ready; returns without waiting. Where there is nothing
    /// to submit and the kernel shows that it has nothing, it is left alone: a spinning core looks at shared memory only.
    pub(super) fn enter(&mut self) -> io::Result<()> {
        /// `IORING_ENTER_GETEVENTS`: run deferred task work even when nothing is submitted.
        const GET_EVENTS: u32 = 1;
        self.buffers.publish();
        let (to_submit, has_work) = {
            let submission = self.uring.submission();
            (submission.len() as u32, submission.taskrun() || submission.cq_overflow())
        };
        if to_submit == 0 && !has_work {
            return Ok(());
        }
        // SAFETY: no argument is passed; every submission's memory is kept by the callers of the unsafe methods above.
        match unsafe { self.uring.submitter().enter::<libc::sigset_t>(to_submit, 0, GET_EVENTS, None) } {
            Ok(_) => Ok(()),
            // EBUSY: completions overflowed and wait in the kernel until some are reaped; the next turn goes on.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Submits what is prepared, and waits until a completion is there, at most for `time`; whether that has passed.
    pub(super) fn wait(&mut self, time: Duration) -> io::Result<bool> {
        let time = Timespec::from(time);
        match self.uring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&time)) {
            Ok(_) => Ok(false),
            Err(error) if error.raw_os_error() == Some(libc::ETIME) => Ok(true),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes every completion that is there from the kernel.
    pub(super) fn reap(&mut self) {
        for entry in self.uring.completion() {
            let (purpose, slot) = from_user_data(entry.user_data());
            let buffer = cqueue::buffer_select(entry.flags());
            if let Some(id) = buffer {
                self.buffers.took(id);
            }
            self.reaped.push_back(Completion {
                purpose,
                slot,
                result: entry.result(),
                buffer,
                more: cqueue::more(entry.flags()),
            });
        }
    }

    /// The next completion that was reaped.
    pub(super) fn next_completion(&mut self) -> Option<Completion> {
        self.reaped.pop_front()
    }

    /// Whether a completion waits to be taken.
    pub(super) fn has_completions(&mut self) -> bool {
        !self.reaped.is_empty() || !self.uring.completion().is_empty()
    }

    fn push(&mut self, entry: &squeue::Entry) {
        loop {
            // SAFETY: the entry's memory is kept by the callers of the unsafe methods; the others name none.
            if unsafe { self.uring.submission().push(entry) }.is_ok() {
                return;
            }
            // A full queue is submitted at once: rare (more sends than SUBMISSIONS_MAX in a turn) and only costs an enter.
            match self.uring.submit() {
                Ok(_) => {}
                Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EAGAIN | libc::EINTR)) => {
                    // The kernel wants its completions taken first.
                    self.reap();
                }
                Err(error) => panic!("the ring refuses submissions: {error}"),
            }
        }
    }
}

impl Purpose {
    const ALL: [Self; 6] = [Self::Accept, Self::Receive, Self::Send, Self::Cancel, Self::Connect, Self::Bell];
}

const fn user_data(purpose: Purpose, slot: u32) -> u64 {
    ((purpose as u64) << 56) | slot as u64
}

fn from_user_data(user_data: u64) -> (Purpose, u32) {
    (Purpose::ALL[(user_data >> 56) as usize], user_data as u32)
}
