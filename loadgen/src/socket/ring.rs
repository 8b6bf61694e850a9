//! One thread's io_uring ring.
//!
//! Set up as the limit of the machine wants it: a single issuer, task work deferred to our own enter, and a flag in
//! shared memory that says when there is some, so that a spinning loop enters the kernel only when it pays.
//!
//! Memory handed to the kernel must outlive its completion; that is the business of who pushes, and why `push` is unsafe.

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use io_uring::{IoUring, cqueue, squeue, types};

/// Entries of the submission queue: sends and re-arms of one turn. A full queue is entered early, nothing is lost.
const SUBMISSIONS: u32 = 1024;
/// Entries of the completion queue: receives and sends of one turn. Past it the kernel keeps completions back, in order.
const COMPLETIONS: u32 = 2048;
/// `IORING_ENTER_GETEVENTS`: run deferred task work, post its completions.
const ENTER_GETEVENTS: u32 = 1;

/// A ring; used by the thread that made it.
pub(crate) struct Ring {
    uring: IoUring,
}

/// What a completion belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    /// The kind of submission.
    pub(crate) kind: TokenKind,
    /// Which of its kind; for sockets the connection.
    pub(crate) index: u32,
}

/// The kinds of submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum TokenKind {
    /// A multishot accept.
    Accept = 0,
    /// A multishot receive.
    Receive = 1,
    /// A send.
    Send = 2,
    /// The end: a signal or a timer.
    Stop = 3,
    /// A close that nobody waits for.
    Close = 4,
}

/// A completion: what it belongs to, and the result as the system call would have given it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completion {
    /// What was submitted.
    pub(crate) token: Token,
    /// A count, or a negated error number.
    pub(crate) result: i32,
    flags: u32,
}

impl Completion {
    /// The provided buffer that holds the data.
    #[inline]
    pub(crate) fn buffer(&self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }

    /// Whether a multishot submission stays armed.
    #[inline]
    pub(crate) fn stays_armed(&self) -> bool {
        cqueue::more(self.flags)
    }
}

impl Token {
    /// The token as it travels through the kernel.
    #[inline]
    pub(crate) const fn to_u64(self) -> u64 {
        ((self.kind as u64) << 32) | self.index as u64
    }

    #[inline]
    const fn from_u64(raw: u64) -> Self {
        let kind = match (raw >> 32) as u8 {
            0 => TokenKind::Accept,
            1 => TokenKind::Receive,
            2 => TokenKind::Send,
            3 => TokenKind::Stop,
            _ => TokenKind::Close,
        };
        Self { kind, index: raw as u32 }
    }
}

impl Ring {
    /// A new ring for the calling thread.
    pub(crate) fn new() -> io::Result<Self> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)?;
        Ok(Self { uring })
    }

    /// Gives the sockets to the ring as fixed files 0, 1, …: the kernel then looks up and counts none of them per request.
    pub(crate) fn register_files(&self, sockets: &[RawFd]) -> io::Result<()> {
        self.uring.submitter().register_files(sockets)
    }

    /// Makes room for `count` fixed files that accepts fill.
    pub(crate) fn reserve_files(&self, count: u32) -> io::Result<()> {
        self.uring.submitter().register_files_sparse(count)
    }

    /// The ring underneath, to register buffers.
    pub(super) fn uring(&self) -> &IoUring {
        &self.uring
    }

    /// Queues a submission; enters the kernel first when the queue is full.
    ///
    /// # Safety
    /// Whatever memory `entry` names stays valid and untouched until its completion has been taken.
    #[inline]
    pub(crate) unsafe fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: the caller's promise about the entry's memory.
        while unsafe { self.uring.submission().push(entry) }.is_err() {
            self.enter(0)?;
        }
        Ok(())
    }

    /// Submits what is queued, runs deferred work, and waits until `wanted` completions are there; a signal ends the wait.
    #[inline]
    pub(crate) fn enter(&mut self, wanted: u32) -> io::Result<()> {
        let queued = self.uring.submission().len() as u32;
        // SAFETY: no argument is passed; the flags ask for nothing that needs one.
        let result = unsafe { self.uring.submitter().enter::<libc::sigset_t>(queued, wanted, ENTER_GETEVENTS, None) };
        match result {
            Ok(_) => Ok(()),
            // EBUSY and EAGAIN: the completion queue is full or memory is short for a moment; the caller reaps and comes back.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Sleeps until a completion is there, or for `limit`; submits nothing.
    pub(crate) fn wait(&mut self, limit: Duration) -> io::Result<()> {
        let limit = types::Timespec::from(limit);
        match self.uring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&limit)) {
            Ok(_) => Ok(()),
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Whether an enter would find something: submissions to make, or work the kernel holds for us.
    #[inline]
    pub(crate) fn wants_enter(&mut self) -> bool {
        let submission = self.uring.submission();
        !submission.is_empty() || submission.taskrun() || submission.cq_overflow()
    }

    /// Appends every completion that is there to `into`; one pair of shared-memory accesses for all of them.
    #[inline]
    pub(crate) fn take_completions(&mut self, into: &mut Vec<Completion>) {
        into.extend(self.uring.completion().map(|entry| Completion {
            token: Token::from_u64(entry.user_data()),
            result: entry.result(),
            flags: entry.flags(),
        }));
    }
}
