//! Ctrl-C and SIGTERM: a flag for loops that spin and a descriptor for rings that sleep.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

static REQUESTED: AtomicBool = AtomicBool::new(false);
static WAKE_DESCRIPTOR: AtomicI32 = AtomicI32::new(-1);
static WAKE: OnceLock<OwnedFd> = OnceLock::new();

/// Catches SIGINT and SIGTERM from here on. A second signal ends the process as it would without us.
pub(crate) fn install() -> io::Result<()> {
    // SAFETY: eventfd has no pointers; a negative result is checked before it becomes an OwnedFd.
    let descriptor = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just opened and belongs to nobody else.
    let owned = unsafe { OwnedFd::from_raw_fd(descriptor) };
    WAKE_DESCRIPTOR.store(owned.as_raw_fd(), Ordering::Release);
    // Installed twice, the first descriptor stays: both would do.
    let _ = WAKE.set(owned);
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: a zeroed sigaction is a valid one; the handler only does what is async-signal-safe.
        let result = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as *const () as usize;
            action.sa_flags = libc::SA_RESETHAND;
            libc::sigaction(signal, &action, std::ptr::null_mut())
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Whether a signal has asked us to end.
#[inline]
pub(crate) fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// Forgets the signal: what it asked to end has ended, and what follows is short. A second signal is not caught.
pub(crate) fn forget() {
    REQUESTED.store(false, Ordering::Relaxed);
}

/// A descriptor that becomes readable with the signal, and stays so.
pub(crate) fn wake_descriptor() -> Option<RawFd> {
    WAKE.get().map(AsRawFd::as_raw_fd)
}

extern "C" fn on_signal(_signal: libc::c_int) {
    REQUESTED.store(true, Ordering::Relaxed);
    let one = 1u64;
    // SAFETY: write(2) is async-signal-safe; the eight bytes live on this stack.
    unsafe { libc::write(WAKE_DESCRIPTOR.load(Ordering::Acquire), (&raw const one).cast(), 8) };
}
