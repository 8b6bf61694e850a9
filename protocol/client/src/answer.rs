//! Answers: what a server said, and its reading for each kind of request.
//!
//! The session hands out [`Answer`]s, one shape for every operation; the fronts' methods turn them into what the operation
//! means. A status that does not answer the operation is a protocol error, never a guess.

use quoit_wire::stats::Stats;
use quoit_wire::topology::Topology;
use quoit_wire::{Operation, Status, Version};

use crate::error::{Error, ProtocolError};

/// A server's answer, not yet read for its operation's meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What was asked.
    pub operation: Operation,
    /// `Ok`, `Miss` or `ConditionFailed`: every other status is an [`Error`].
    pub status: Status,
    /// The item's version after a write or with a hit.
    pub version: Version,
    /// The client's flags, kept with the item.
    pub client_flags: u32,
    /// What it says may be stale, or not be committed yet: any copy was allowed to answer, or the node has lost touch with
    /// its cluster.
    pub is_stale: bool,
    /// The value of a hit, or a body.
    pub value: Vec<u8>,
}

/// An item that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Its value.
    pub value: Vec<u8>,
    /// Its version, for [`crate::Condition::IfVersion`].
    pub version: Version,
    /// The flags it was set with.
    pub client_flags: u32,
    /// A later write may have overtaken it, or it may yet be lost: see [`Answer::is_stale`].
    pub is_stale: bool,
}

/// How a set ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetOutcome {
    /// Written; the item has this version now.
    Stored(Version),
    /// The condition did not hold and nothing was changed. The item's version where there is one.
    ConditionFailed(Option<Version>),
}

/// A counter after an increment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Its value now.
    pub value: i64,
    /// Its version now.
    pub version: Version,
}

/// How a request handed to a session ended: one answer, or one per part, in the order asked.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The answer of a request with one.
    One(Result<Answer, Error>),
    /// The answers of a multi operation (one per key) or of a request to each node (one per node).
    Many(Vec<Result<Answer, Error>>),
}

impl Answer {
    /// Reads the answer to a get or a get-and-touch; `None` is a miss.
    pub fn into_hit(self) -> Result<Option<Hit>, Error> {
        match self.status {
            Status::Ok => Ok(Some(Hit {
                value: self.value,
                version: self.version,
                client_flags: self.client_flags,
                is_stale: self.is_stale,
            })),
            Status::Miss => Ok(None),
            _ => Err(self.unexpected()),
        }
    }

    /// Reads the answer to a delete, a touch, an append or a prepend: the item's version, `None` is a miss.
    pub fn into_version(self) -> Result<Option<Version>, Error> {
        match self.status {
            Status::Ok => Ok(Some(self.version)),
            Status::Miss => Ok(None),
            _ => Err(self.unexpected()),
        }
    }

    /// Reads the answer to a set.
    pub fn into_set_outcome(self) -> Result<SetOutcome, Error> {
        match self.status {
            Status::Ok => Ok(SetOutcome::Stored(self.version)),
            Status::Miss => Ok(SetOutcome::ConditionFailed(None)),
            Status::ConditionFailed => {
                Ok(SetOutcome::ConditionFailed((self.version != Version::NONE).then_some(self.version)))
            }
            _ => Err(self.unexpected()),
        }
    }

    /// Reads the answer to an increment; `None` is a miss.
    pub fn into_counter(self) -> Result<Option<Counter>, Error> {
        match self.status {
            Status::Ok => {
                let value = self.value.as_slice().try_into().map_err(|_| self.wrong_body())?;
                Ok(Some(Counter { value: i64::from_le_bytes(value), version: self.version }))
            }
            Status::Miss => Ok(None),
            _ => Err(self.unexpected()),
        }
    }

    /// Reads one node's answer to a stats request.
    pub fn into_stats(self) -> Result<Stats, Error> {
        self.into_done().and_then(|answer| Stats::from_bytes(&answer.value).ok_or_else(|| answer.wrong_body()))
    }

    /// Reads the answer to a topology request.
    pub fn into_topology(self) -> Result<Topology, Error> {
        self.into_done().and_then(|answer| Topology::from_bytes(&answer.value).map_err(|_| answer.wrong_body()))
    }

    /// Reads the answer to a request that can only be done, such as a ping or a flush.
    pub fn into_done(self) -> Result<Self, Error> {
        if self.status == Status::Ok { Ok(self) } else { Err(self.unexpected()) }
    }

    fn unexpected(&self) -> Error {
        ProtocolError::Status { operation: self.operation.name(), status: self.status }.into()
    }

    fn wrong_body(&self) -> Error {
        ProtocolError::Body { operation: self.operation.name() }.into()
    }
}

impl Outcome {
    /// The answer of a request with one; the first where there are many.
    pub fn into_one(self) -> Result<Answer, Error> {
        match self {
            Self::One(answer) => answer,
            Self::Many(answers) => answers.into_iter().next().unwrap_or(Err(Error::Closed)),
        }
    }

    /// The answers of a request with many; the error of one that ended before it had parts.
    pub fn into_many(self) -> Result<Vec<Result<Answer, Error>>, Error> {
        match self {
            Self::Many(answers) => Ok(answers),
            Self::One(Err(error)) => Err(error),
            Self::One(answer) => Ok(vec![answer]),
        }
    }
}
