//! What clients asked and were told, and what cores carried out: all that the checker judges by.

use quoit_wire::{Reply, Status, Version, WriteMode};

use crate::cluster::NodeRef;
use crate::cluster::copies::Peer;
use crate::store::DepartureCause;

/// Counters begin at the number of the write that made them times this, so that a new beginning shows.
pub(super) const COUNTER_BASE: i64 = 1_000_000;

/// The key of an operation that is for all of them.
pub(super) const EVERY_KEY: usize = usize::MAX;

/// Words of filling behind the number in a large value, each of them this one.
pub(super) const FILLING: u32 = u32::MAX;
pub(super) const FILLING_WORDS: usize = 700;

/// What a finding is about: one key, or one vnode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    Key(usize),
    Vnode(usize),
}

/// A node's data, or its place, was lost: that of one vnode, where its primary had to let it go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loss {
    pub(super) at_us: u64,
    pub(super) node: NodeRef,
    pub(super) vnode: Option<usize>,
}

/// What was asked. A write of a list leaves its operation's number in the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Get,
    /// What any copy has.
    GetAny,
    /// The value is the operation's number alone, for so many milliseconds, or for ever.
    Set {
        ttl_ms: u64,
    },
    /// The value is the operation's number and so much filling that it comes in pieces.
    SetLarge,
    SetIfAbsent,
    SetIfVersion(Version),
    /// The operation's number at the end of what is there.
    Append,
    Delete,
    Touch {
        ttl_ms: u64,
    },
    Increment,
    /// Every key is to be gone that was there when it was asked.
    Flush,
}

/// How an operation ended for its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Pending,
    Answered {
        status: Status,
        version: Version,
        value: Vec<u8>,
        /// It says that it may be stale.
        is_stale: bool,
    },
    /// It was not carried out, and will not be: its client was told why.
    Refused(String),
    /// It may have been carried out, or may yet be.
    Unknown,
}

#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub(super) client: usize,
    pub(super) key: usize,
    pub(super) ask: Ask,
    pub(super) mode: WriteMode,
    pub(super) invoked_us: u64,
    pub(super) finished_us: u64,
    pub(super) outcome: Outcome,
}

/// A request that was sent, whether or not it arrived.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    /// Each of its keys is an operation by itself.
    pub(super) operations: Vec<usize>,
    /// It is one for several keys, and so is its answer.
    pub(super) is_multi: bool,
}

/// A write that a core has carried out, whether or not anybody learnt of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Execution {
    pub(super) operation: usize,
    pub(super) at_us: u64,
    pub(super) by: Peer,
    pub(super) version: Version,
}

/// An item that has left a core's store by itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gone {
    pub(super) at_us: u64,
    #[expect(dead_code, reason = "a violation tells it")]
    pub(super) by: Peer,
    pub(super) version: Version,
    pub(super) cause: DepartureCause,
    /// It left a copy that follows, and only there: nothing is missed because of it.
    pub(super) follows: bool,
}

/// A vnode that a flush has emptied, whether or not anybody learnt of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Emptied {
    pub(super) attempt: u32,
    pub(super) vnode: usize,
    pub(super) version: Version,
}

/// An emptied vnode of which the flush's client was told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flushed {
    pub(super) operation: usize,
    pub(super) told_us: u64,
    pub(super) vnode: usize,
    pub(super) version: Version,
}

/// Why an item may be gone, beside deletes, its time to live and what has left by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// All that was before this version is gone: every member of the vnode was lost (C9).
    VnodeLost,
}

/// When what a vnode had may have been lost: each first loss, and the earliest second one of this and all later first ones.
#[derive(Clone, Debug)]
pub(super) struct Excuses {
    pairs: Vec<(u64, u64)>,
}

#[derive(Debug, Default)]
pub(super) struct History {
    /// The vnode of each key.
    pub(super) vnodes: Vec<usize>,
    /// Nodes without etcd answer what may be stale, and say so (C15).
    pub(super) serves_stale: bool,
    pub(super) operations: Vec<Operation>,
    /// What was sent, each with the operations that it is of.
    attempts: Vec<Attempt>,
    /// Writes that were carried out, by key.
    pub(super) executions: Vec<Vec<Execution>>,
    pub(super) causes: Vec<Vec<(Version, Cause)>>,
    pub(super) emptied: Vec<Emptied>,
    pub(super) flushed: Vec<Flushed>,
    /// What has left by itself, by key.
    pub(super) gone: Vec<Vec<Gone>>,
    pub(super) losses: Vec<Loss>,
    /// Moments at which all copies were there.
    pub(super) restored_us: Vec<u64>,
}

impl Ask {
    pub(super) fn is_write(self) -> bool {
        !self.is_get()
    }

    pub(super) fn is_get(self) -> bool {
        matches!(self, Self::Get | Self::GetAny)
    }

    /// Whether the write leaves an item behind.
    pub(super) fn puts(self) -> bool {
        !matches!(self, Self::Get | Self::GetAny | Self::Delete | Self::Flush)
    }

    /// The time to live that it gives the item, if it says so.
    pub(super) fn ttl_ms(self) -> Option<u64> {
        match self {
            Self::Set { ttl_ms } | Self::Touch { ttl_ms } => Some(ttl_ms),
            Self::SetLarge | Self::SetIfAbsent | Self::SetIfVersion(_) | Self::Increment => Some(0),
            Self::Get | Self::GetAny | Self::Append | Self::Delete | Self::Flush => None,
        }
    }
}

impl Operation {
    /// The version and status that its client was told.
    pub(super) fn told(&self) -> Option<(Status, Version)> {
        match &self.outcome {
            Outcome::Answered { status, version, .. } => Some((*status, *version)),
            _ => None,
        }
    }

    /// Whether its client was told that it may be stale.
    pub(super) fn is_stale(&self) -> bool {
        matches!(self.outcome, Outcome::Answered { is_stale: true, .. })
    }

    pub(super) fn waits_for_copies(&self) -> bool {
        matches!(self.mode, WriteMode::One | WriteMode::All)
    }
}

impl History {
    pub(super) fn new(vnodes: Vec<usize>, serves_stale: bool) -> Self {
        let keys = vnodes.len();
        let (executions, causes, gone) = (vec![Vec::new(); keys], vec![Vec::new(); keys], vec![Vec::new(); keys]);
        Self { vnodes, serves_stale, executions, causes, gone, ..Self::default() }
    }

    /// The number of a new request.
    pub(super) fn begin_attempt(&mut self, attempt: Attempt) -> u32 {
        self.attempts.push(attempt);
        u32::try_from(self.attempts.len()).expect("few attempts")
    }

    /// A request, by its number.
    pub(super) fn attempt(&self, number: u32) -> &Attempt {
        &self.attempts[number as usize - 1]
    }

    /// A client is told of a request: of a flush, that this attempt at a part of it has been carried out.
    pub(super) fn note_told(&mut self, attempt: u32, reply: &[u8], told_us: u64) {
        let operation = self.attempt(attempt).operations[0];
        let (reply, _) = Reply::decode(reply).expect("a reply").expect("a whole reply");
        if self.operations[operation].ask != Ask::Flush || reply.status != Status::Ok {
            return;
        }
        let own = self.emptied.iter().filter(|it| it.attempt == attempt);
        let flushed = own.map(|it| Flushed { operation, told_us, vnode: it.vnode, version: it.version });
        self.flushed.extend(flushed);
    }

    /// What may be lost of a vnode: two of its nodes lost, and no moment between the losses at which all copies were there
    /// (C14).
    pub(super) fn excuses(&self, vnode: usize) -> Excuses {
        let concerns = |loss: &&Loss| loss.vnode.is_none_or(|it| it == vnode);
        let losses: Vec<Loss> = self.losses.iter().filter(concerns).copied().collect();
        let is_restored = |from: u64, to: u64| self.restored_us.iter().any(|at| (from..to).contains(at));
        let pair = |first: &Loss| {
            let seconds = losses.iter().filter(|it| it.at_us >= first.at_us && it.node != first.node);
            let second_us = seconds.map(|it| it.at_us).min()?;
            (!is_restored(first.at_us, second_us)).then_some((first.at_us, second_us))
        };
        let mut pairs: Vec<(u64, u64)> = losses.iter().filter_map(pair).collect();
        pairs.sort_unstable();
        let mut earliest_us = u64::MAX;
        for (_, second_us) in pairs.iter_mut().rev() {
            earliest_us = earliest_us.min(*second_us);
            *second_us = earliest_us;
        }
        Excuses { pairs }
    }

    /// Whether what was written to a vnode from this moment on may be lost by now.
    pub(super) fn may_be_lost(&self, vnode: usize, written_us: u64, by_us: u64) -> bool {
        self.excuses(vnode).may_be_lost(written_us, by_us)
    }
}

impl Excuses {
    /// Whether what was written from this moment on may be lost by now.
    pub(super) fn may_be_lost(&self, written_us: u64, by_us: u64) -> bool {
        let next = self.pairs.partition_point(|(first_us, _)| *first_us < written_us);
        self.pairs.get(next).is_some_and(|(_, second_us)| *second_us <= by_us)
    }
}
