//! Mistakes that tests make on purpose, to see that they are found. A build without debug assertions can make none.

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A seal is answered at once, and changes nothing.
    NoSeal,
    /// A seal is answered though a promise stands against it.
    NoPromise,
    /// A primary answers though its copies' promises are over.
    NoReadLease,
    /// `one` is acknowledged by the primary alone.
    OneAlone,
    /// A copy that catches up counts for `one`.
    CatchingUpCounts,
    /// A read does not wait for the write that it rests on.
    DirtyRead,
    /// A slice is taken whenever it comes.
    LateSlice,
    /// A copy does not keep the results of writes.
    ForgottenResults,
    /// A copy decides for itself what it evicts.
    CopyEvicts,
}

/// Whether a test has planted `fault`.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub(crate) const fn is_planted(_: Fault) -> bool {
    false
}

#[cfg(debug_assertions)]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Fault>> = const { std::cell::Cell::new(None) };
}

/// From now on everything in this thread makes this mistake, or none.
#[cfg(debug_assertions)]
pub fn plant(fault: Option<Fault>) {
    PLANTED.set(fault);
}

/// Whether a test has planted `fault`.
#[cfg(debug_assertions)]
pub(crate) fn is_planted(fault: Fault) -> bool {
    PLANTED.get() == Some(fault)
}
