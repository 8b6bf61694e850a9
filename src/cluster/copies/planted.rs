//! Mistakes that tests make on purpose, to see that they are found. Outside of tests none is ever made.

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// A seal is answered at once, and changes nothing.
    NoSeal,
    /// A seal is answered though a promise stands against it.
    NoPromise,
    /// A primary answers though its copies' promises are over.
    NoReadLease,
    /// `one` is acknowledged by the primary alone.
    OneAlone,
    /// A reply does not wait for the write that it rests on.
    DirtyRead,
}

/// Whether a test has planted `fault`.
#[cfg(not(test))]
#[inline(always)]
pub(super) const fn is_planted(_: Fault) -> bool {
    false
}

#[cfg(test)]
thread_local! {
    /// What the running test has planted.
    pub(super) static PLANTED: std::cell::Cell<Option<Fault>> = const { std::cell::Cell::new(None) };
}

/// Whether a test has planted `fault`.
#[cfg(test)]
pub(super) fn is_planted(fault: Fault) -> bool {
    PLANTED.get() == Some(fault)
}
