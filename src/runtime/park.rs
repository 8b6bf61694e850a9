//! How a core with nothing to do sleeps, and what wakes it.
//!
//! A parked core waits in glommio for one eventfd. Rung by: a completion on the core's ring (enabled only while parked), a
//! mesh message from another core that saw the sleeping flag. Timers and control commands wake glommio by themselves.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use glommio::io::BufferedFile;

use super::clock::Reading;

/// What a core does when a turn found nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Sleep at once: no CPU while idle, a wake-up (tens of microseconds) before the next reply.
    Park,
    /// Never sleep: the core is always busy, replies leave at once.
    Spin,
    /// Look again for this long, then sleep.
    SpinThenPark(Duration),
}

impl Idle {
    /// Whether to sleep now, the last work being done at `last_work`.
    pub(super) fn shall_park(self, now: Reading, last_work: Reading) -> bool {
        match self {
            Self::Park => true,
            Self::Spin => false,
            Self::SpinThenPark(time) => now.is_past(last_work, time),
        }
    }
}

/// A fresh eventfd.
pub(super) fn new_eventfd() -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed; a non-negative result is a descriptor that nobody else owns.
    unsafe {
        match libc::eventfd(0, libc::EFD_CLOEXEC) {
            -1 => Err(io::Error::last_os_error()),
            descriptor => Ok(OwnedFd::from_raw_fd(descriptor)),
        }
    }
}

/// Waits for an eventfd by a read on glommio's ring. (glommio has no type for an eventfd; a read is a read.)
pub(super) struct Bell {
    file: BufferedFile,
}

impl Bell {
    /// A bell that is rung through `eventfd`.
    pub(super) fn new(eventfd: RawFd) -> io::Result<Self> {
        // SAFETY: the duplicate is owned by the file and nobody else.
        let file = unsafe {
            match libc::fcntl(eventfd, libc::F_DUPFD_CLOEXEC, 0) {
                -1 => return Err(io::Error::last_os_error()),
                descriptor => BufferedFile::from_raw_fd(descriptor),
            }
        };
        debug_assert!(file.as_raw_fd() >= 0);
        Ok(Self { file })
    }

    /// Returns when the bell has been rung since the last time, and silences it.
    pub(super) async fn rung(&self) -> io::Result<()> {
        self.file.read_at(0, 8).await.map(|_| ()).map_err(io::Error::from)
    }

    /// Gives its descriptor back. (Dropped, it would be closed by an executor that ends before it comes to it.)
    pub(super) async fn close(self) -> io::Result<()> {
        self.file.close().await.map_err(io::Error::from)
    }
}
