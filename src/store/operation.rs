//! What callers ask of the store, and how each request ends. Outcomes are not errors: every end is a value of an enum.

use quoit_wire::Version;

use crate::time::Duration;

/// When an item ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expiry {
    /// Time to live; zero is for ever. The item is gone as soon as `now >= written + ttl`.
    pub ttl: Duration,
    /// The time to live starts anew with every hit.
    pub idle: bool,
}

impl Expiry {
    /// The item lives until it is deleted or evicted.
    pub const NEVER: Self = Self { ttl: Duration::ZERO, idle: false };

    /// The item ends `ttl` after it was written; never when `ttl` is zero.
    pub const fn after(ttl: Duration) -> Self {
        Self { ttl, idle: false }
    }
}

/// When a write is carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Always.
    #[default]
    Always,
    /// Only when there is no such item.
    IfAbsent,
    /// Only when there is one.
    IfPresent,
    /// Only when there is one of exactly this version.
    IfVersion(Version),
}

impl Condition {
    /// Whether the condition holds for an item of version `current`, or for none.
    pub fn holds(self, current: Option<Version>) -> bool {
        match self {
            Self::Always => true,
            Self::IfAbsent => current.is_none(),
            Self::IfPresent => current.is_some(),
            Self::IfVersion(version) => current == Some(version),
        }
    }
}

/// A set.
#[derive(Clone, Copy, Debug, Default)]
pub struct Write<'a> {
    /// The item's value.
    pub value: &'a [u8],
    /// Kept with the item and given back with every hit.
    pub client_flags: u32,
    /// When the item ends.
    pub expiry: Expiry,
    /// When the set is carried out.
    pub condition: Condition,
}

/// How a set or the publishing of a reservation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetOutcome {
    /// Stored, under this version.
    Stored(Version),
    /// The condition did not hold; the version of the item where there is one. Nothing was changed.
    ConditionFailed(Option<Version>),
    /// Key or value over the limit. Nothing was changed.
    TooLarge,
    /// Memory is full and the policy evicts nothing (or all that could go is pinned). Nothing was changed.
    NoSpace,
}

/// How a touch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TouchOutcome {
    /// The item has a new end and this version.
    Touched(Version),
    /// No such item.
    Missing,
    /// As with a set. Nothing was changed.
    NoSpace,
}

/// An increment (or, with a negative `delta`, a decrement).
#[derive(Clone, Copy, Debug, Default)]
pub struct Increment {
    /// What is added.
    pub delta: i64,
    /// The counter to make when there is none: its value (the delta is not added) and its time to live.
    pub create: Option<(i64, Duration)>,
}

/// How an increment ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IncrementOutcome {
    /// The counter now has this value and version.
    Stored {
        /// The write's version.
        version: Version,
        /// The counter's new value.
        value: i64,
    },
    /// No such item, and none was to be made.
    Missing,
    /// The item's value is not the decimal ASCII of an `i64`. Nothing was changed.
    NotANumber,
    /// The sum does not fit an `i64`. Nothing was changed.
    Overflow,
    /// As with a set. Nothing was changed.
    NoSpace,
}

/// Where [`extend`](super::Store::extend) adds its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Before the value (prepend).
    Front,
    /// Behind the value (append).
    Back,
}

/// How an append or prepend ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtendOutcome {
    /// Stored, under this version.
    Stored(Version),
    /// No such item.
    Missing,
    /// The longer value would be over the limit. Nothing was changed.
    TooLarge,
    /// As with a set. Nothing was changed.
    NoSpace,
}

/// Why no space could be reserved for a value that is still to arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReserveRefusal {
    /// Key or value over the limit.
    TooLarge,
    /// Memory is full and the policy evicts nothing (or all that could go is pinned).
    NoSpace,
    /// Too much memory is reserved for values that are still arriving: try again later.
    Busy,
}

/// Whether background work is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing is due now.
    Idle,
    /// More is due: call again soon.
    More,
}
