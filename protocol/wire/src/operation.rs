//! What a request asks and how a reply ends: the closed sets of operations, statuses and flags.

/// Declares a closed set of one-byte codes that travel: the enum, its decoding and its name in metrics and messages.
macro_rules! codes {
    ($(#[$meta:meta])* $name:ident { $( $(#[$variant_meta:meta])* $variant:ident = $code:literal / $text:literal ),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name { $( $(#[$variant_meta])* $variant = $code ),* }

        impl $name {
            /// Every member, in the order of the codes.
            pub const ALL: &[Self] = &[$( Self::$variant ),*];

            /// The member with this code on the wire.
            #[inline]
            pub const fn from_code(code: u8) -> Option<Self> {
                match code { $( $code => Some(Self::$variant), )* _ => None }
            }

            /// The code on the wire.
            pub const fn code(self) -> u8 {
                self as u8
            }

            /// The name in metrics, logs and messages.
            pub const fn name(self) -> &'static str {
                match self { $( Self::$variant => $text ),* }
            }
        }
    };
}

codes! {
    /// What a request asks.
    Operation {
        /// Opens a connection: protocol version, features, the core wanted.
        Hello = 1 / "hello",
        /// Answers with the bytes it carried.
        Ping = 2 / "ping",
        /// Reads an item.
        Get = 3 / "get",
        /// Writes an item, on a condition or without.
        Set = 4 / "set",
        /// Removes an item.
        Delete = 5 / "delete",
        /// Changes an item's time to live.
        Touch = 6 / "touch",
        /// Reads an item and changes its time to live.
        GetAndTouch = 7 / "get_and_touch",
        /// Adds to a decimal counter.
        Increment = 8 / "increment",
        /// Adds bytes behind an item's value.
        Append = 9 / "append",
        /// Adds bytes before an item's value.
        Prepend = 10 / "prepend",
        /// Reads many items.
        MultiGet = 11 / "multi_get",
        /// Writes many items.
        MultiSet = 12 / "multi_set",
        /// Removes everything that was acknowledged before it.
        Flush = 13 / "flush",
        /// Reads the node's counters.
        Stats = 14 / "stats",
        /// Reads the topology.
        Topology = 15 / "topology",
        /// Reads what has changed since a topology that the client has.
        TopologyChanges = 16 / "topology_changes",
    }
}

codes! {
    /// How a request ended. Below 16 are outcomes, from 16 on errors.
    Status {
        /// Done; a hit where the request reads.
        Ok = 0 / "ok",
        /// No such item.
        Miss = 1 / "miss",
        /// A set's condition did not hold. `version` is the item's own where there is one.
        ConditionFailed = 2 / "condition_failed",
        /// Not an answer: the server's news (id 0) that the topology now has the epoch in `version`.
        TopologyChanged = 3 / "topology_changed",
        /// The frame breaks the format. The connection is closed after it unless the frame's end was certain. Nothing
        /// was changed.
        Malformed = 16 / "malformed",
        /// No such operation. Nothing was changed.
        UnknownOperation = 17 / "unknown_operation",
        /// A version, flag, code or option that this server does not know or does not offer. Nothing was changed.
        Unsupported = 18 / "unsupported",
        /// Key, value, number of keys or reply over a limit. Nothing was changed.
        TooLarge = 19 / "too_large",
        /// The item is not a decimal number that fits an `i64`. Nothing was changed.
        NotANumber = 20 / "not_a_number",
        /// The sum does not fit an `i64`. Nothing was changed.
        CounterOverflow = 21 / "counter_overflow",
        /// Memory is full and the policy evicts nothing. Nothing was changed.
        NoSpace = 22 / "no_space",
        /// A limit of the server is reached; try again after `retry_after_ms`. Nothing was changed.
        Overloaded = 23 / "overloaded",
        /// This server does not own the key; `version` carries the epoch of a topology that says who does. Nothing was
        /// changed.
        Moved = 24 / "moved",
        /// The write mode asks for more in-sync copies than there are. Nothing was changed.
        NotEnoughCopies = 25 / "not_enough_copies",
        /// A retry came so late that its first result is forgotten: it may or may not have been applied.
        OutcomeUnknown = 26 / "outcome_unknown",
        /// The hello's credentials were not accepted.
        Unauthorized = 27 / "unauthorized",
        /// The server is stopping. Nothing was changed.
        ShuttingDown = 28 / "shutting_down",
    }
}

impl Status {
    /// Whether this is an error rather than an outcome.
    pub const fn is_error(self) -> bool {
        self as u8 >= 16
    }
}

impl Operation {
    /// Whether the operation names one key in the frame's key field.
    pub const fn has_key(self) -> bool {
        matches!(
            self,
            Self::Get
                | Self::Set
                | Self::Delete
                | Self::Touch
                | Self::GetAndTouch
                | Self::Increment
                | Self::Append
                | Self::Prepend
        )
    }

    /// Whether a request of this kind can change items.
    pub const fn is_write(self) -> bool {
        matches!(
            self,
            Self::Set
                | Self::Delete
                | Self::Touch
                | Self::GetAndTouch
                | Self::Increment
                | Self::Append
                | Self::Prepend
                | Self::MultiSet
                | Self::Flush
        )
    }
}

/// How many copies a write waits for (two bits of the request's flags).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum WriteMode {
    /// What the cluster's default says.
    #[default]
    ClusterDefault = 0,
    /// The primary alone.
    Async = 1,
    /// One other in-sync member too.
    One = 2,
    /// Every in-sync member.
    All = 3,
}

/// A request's flags.
///
/// ```text
///   bit 7     6            5           4              3  2        1             0
/// ┌────────┬────────────┬───────────┬──────────────┬────────────┬─────────────┬───────────────┐
/// │ repeat │ stale is   │ lease on  │ any in-sync  │ write mode │ retry token │ trace context │
/// │        │ fine       │ miss      │ copy         │            │ follows     │ follows       │
/// └────────┴────────────┴───────────┴──────────────┴────────────┴─────────────┴───────────────┘
///   writes   gets         gets        gets           writes       some writes   all but hello
/// ```
/// A flag outside its operations ([`RequestFlags::allowed`]) is refused, so it can be given a meaning there later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RequestFlags(u8);

impl RequestFlags {
    /// A [`crate::TraceContext`] follows the header.
    pub const TRACE: Self = Self(1);
    /// A [`crate::RetryToken`] follows the header.
    pub const RETRY_TOKEN: Self = Self(1 << 1);
    /// A read may be answered by any in-sync copy; a server may leave this permission unused.
    pub const ANY_COPY: Self = Self(1 << 4);
    /// Reserved: a miss grants the right to fill it.
    pub const LEASE_ON_MISS: Self = Self(1 << 5);
    /// Reserved: a value past its time is better than none.
    pub const STALE_IS_FINE: Self = Self(1 << 6);
    /// This request was sent before, with the same retry token, and not answered. A server that knows nothing of the
    /// session then answers `OutcomeUnknown` instead of taking the write for a new one.
    pub const REPEAT: Self = Self(1 << 7);

    const WRITE_MODE_SHIFT: u32 = 2;
    const WRITE_MODE: Self = Self(3 << Self::WRITE_MODE_SHIFT);

    /// The flags of a byte that came from outside; `None` when it marks a repeat without a retry token.
    pub const fn from_bits(bits: u8) -> Option<Self> {
        let flags = Self(bits);
        if flags.has(Self::REPEAT) && !flags.has(Self::RETRY_TOKEN) { None } else { Some(flags) }
    }

    /// The flags that have a meaning with `operation`.
    pub const fn allowed(operation: Operation) -> Self {
        let reads = Self::ANY_COPY.with(Self::LEASE_ON_MISS).with(Self::STALE_IS_FINE);
        let token = Self::RETRY_TOKEN.with(Self::REPEAT);
        match operation {
            // No feature is agreed on before the hello is answered.
            Operation::Hello => Self(0),
            Operation::Get | Operation::MultiGet => Self::TRACE.with(reads),
            Operation::Set
            | Operation::Delete
            | Operation::Touch
            | Operation::Increment
            | Operation::Append
            | Operation::Prepend => Self::TRACE.with(Self::WRITE_MODE).with(token),
            // A kept result has no value, nor one result for many keys; a repeat of these does no harm.
            Operation::GetAndTouch | Operation::MultiSet | Operation::Flush => Self::TRACE.with(Self::WRITE_MODE),
            Operation::Ping | Operation::Stats | Operation::Topology | Operation::TopologyChanges => Self::TRACE,
        }
    }

    /// The byte on the wire.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Both sets of flags.
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The same flags without those that say that a piece follows the header, or mark a repeat.
    pub const fn without_pieces(self) -> Self {
        Self(self.0 & !(Self::TRACE.0 | Self::RETRY_TOKEN.0 | Self::REPEAT.0))
    }

    /// Whether all of `other` are set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The same flags with this write mode.
    pub const fn with_write_mode(self, mode: WriteMode) -> Self {
        Self((self.0 & !(3 << Self::WRITE_MODE_SHIFT)) | ((mode as u8) << Self::WRITE_MODE_SHIFT))
    }

    /// The write mode asked for.
    pub const fn write_mode(self) -> WriteMode {
        match (self.0 >> Self::WRITE_MODE_SHIFT) & 3 {
            0 => WriteMode::ClusterDefault,
            1 => WriteMode::Async,
            2 => WriteMode::One,
            _ => WriteMode::All,
        }
    }
}
