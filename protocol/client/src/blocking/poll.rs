//! poll(2): waits until one of several sockets can be read or written.

use std::os::fd::RawFd;
use std::time::Duration;

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interest {
    Read,
    ReadAndWrite,
    /// A connection that is being made: it can be written when it stands, and when it failed.
    Write,
}

/// The sockets waited for, each with the caller's index.
#[derive(Default)]
pub(super) struct PollSet {
    places: Vec<libc::pollfd>,
    indexes: Vec<usize>,
}

impl PollSet {
    pub(super) fn clear(&mut self) {
        self.places.clear();
        self.indexes.clear();
    }

    pub(super) fn add(&mut self, index: usize, socket: RawFd, interest: Interest) {
        let events = match interest {
            Interest::Read => libc::POLLIN,
            Interest::ReadAndWrite => libc::POLLIN | libc::POLLOUT,
            Interest::Write => libc::POLLOUT,
        };
        self.places.push(libc::pollfd { fd: socket, events, revents: 0 });
        self.indexes.push(index);
    }

    /// Waits until a socket is ready or `timeout` is over. May return early.
    pub(super) fn wait(&mut self, timeout: Duration) {
        // Rounded up: waking before the time is due would only mean waiting again.
        let timeout_ms = timeout.as_micros().div_ceil(1000).try_into().unwrap_or(libc::c_int::MAX);
        // SAFETY: `places` holds `places.len()` initialised structs that nothing else touches during the call.
        let ready = unsafe { libc::poll(self.places.as_mut_ptr(), self.places.len() as libc::nfds_t, timeout_ms) };
        if ready < 0 {
            // Interrupted, or the kernel is short of memory: nothing is known to be ready, and the caller comes again.
            self.places.iter_mut().for_each(|place| place.revents = 0);
        }
    }

    /// The indexes of the sockets that have bytes, or an end, to be read, and of connections that stand now or have failed.
    pub(super) fn ready(&self) -> impl Iterator<Item = usize> {
        let is_ready = |place: &libc::pollfd| {
            let says_more = place.revents & !libc::POLLOUT != 0;
            says_more || place.events == libc::POLLOUT && place.revents != 0
        };
        let ready = self.places.iter().zip(&self.indexes).filter(move |(place, _)| is_ready(place));
        ready.map(|(_, index)| *index)
    }
}

impl std::fmt::Debug for PollSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PollSet").field("sockets", &self.places.len()).finish()
    }
}
