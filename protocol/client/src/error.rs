//! What can go wrong, as a caller sees it. Misses and failed conditions are not here: they are outcomes.
//!
//! Every error says whether a write may have been applied all the same ([`Error::maybe_applied`]), because that decides
//! what a careful caller does next.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use quoit_wire::limits::KEY_BYTES_MAX;
use quoit_wire::{ReplyError, Status};

/// Why a request has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// No server was named.
    #[error("no server was given; name at least one as host:port, such as 127.0.0.1:7400")]
    NoServers,
    /// The server could not be reached, or what answers there is no Quoit. Nothing was sent.
    #[error("cannot use the server at {address}: {source}")]
    Connect {
        /// The address tried last.
        address: String,
        /// What went wrong there.
        source: Fault,
    },
    /// The connection broke with the request unanswered, and the retry budget is spent.
    #[error("the connection to {address} broke before the answer came, and the retry budget is spent: {source}")]
    Lost {
        /// The server.
        address: String,
        /// How the connection broke.
        source: Fault,
        /// Whether the request is a write that may have been applied.
        maybe_applied: bool,
    },
    /// No answer within the client's deadline.
    #[error(
        "no answer within {limit:?}{}; the server is overloaded or gone (raise Options::deadline to wait longer)",
        if *maybe_applied { " (the write may or may not have been applied)" } else { "" }
    )]
    Deadline {
        /// [`crate::Options::deadline`].
        limit: Duration,
        /// Whether the request is a write that was sent.
        maybe_applied: bool,
    },
    /// The client already holds as many unanswered requests as it may. Nothing was sent.
    #[error(
        "too many requests are waiting in this client; take answers first, or raise Options::requests_max and bytes_max"
    )]
    Busy,
    /// A repeated write came so late that the server has forgotten its first result.
    #[error(
        "the server no longer knows how this write ended: it may or may not have been applied; read the item to find out"
    )]
    OutcomeUnknown,
    /// The server is at a limit and the request's time or the retry budget did not allow to try again. Nothing was changed.
    #[error("the server is overloaded; try again in {retry_after:?}")]
    Overloaded {
        /// How long the server asked to wait.
        retry_after: Duration,
    },
    /// A key that is empty or too long. Nothing was sent.
    #[error("a key of {bytes} bytes; keys have 1 to {KEY_BYTES_MAX} bytes")]
    Key {
        /// Its length.
        bytes: usize,
    },
    /// More bytes than the server, or any server, takes. Nothing was sent.
    #[error("{bytes} bytes where the server takes {bytes_max}; split the value, or raise the server's largest value")]
    TooLarge {
        /// What the request has.
        bytes: usize,
        /// What is allowed.
        bytes_max: usize,
    },
    /// The server refused the request. Nothing was changed.
    #[error("{}", refusal_text(*.status, .message))]
    Server {
        /// Why.
        status: Status,
        /// What the server said about it; often empty.
        message: String,
    },
    /// The server answered something that does not answer the question.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// The client was shut down while the request was waiting.
    #[error("the client was shut down")]
    Closed,
}

/// What broke a connection, or kept it from being made.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Fault {
    /// The operating system says why.
    #[error("{0}; is a node running there? (start one with `quoit serve`)")]
    Io(#[source] Arc<io::Error>),
    /// No connection within the limit.
    #[error("no connection within {0:?}; check the address and the network between")]
    ConnectTimeout(Duration),
    /// The server closed the connection.
    #[error("the server closed the connection")]
    Closed,
    /// A request whose answer is too long in coming.
    #[error("an answer was due, and none came for {0:?}")]
    Stalled(Duration),
    /// What arrives is not this protocol.
    #[error("{0}; is this the port of another service?")]
    Protocol(#[from] ProtocolError),
    /// The server refused the hello.
    #[error("the server refused the connection: {}", refusal_text(*.status, .message))]
    Refused {
        /// Why.
        status: Status,
        /// What the server said about it.
        message: String,
    },
    /// The server is another one than the topology says: it was restarted or replaced.
    #[error("another node answers there now")]
    Replaced,
}

/// Bytes that no server of this protocol sends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// Not a reply.
    #[error(transparent)]
    Reply(#[from] ReplyError),
    /// The hello's answer is not one.
    #[error("the answer to the hello makes no sense")]
    Hello,
    /// The server chose a protocol version that was not offered.
    #[error("the server wants to speak protocol version {0}, this client speaks version 1")]
    Version(u16),
    /// An answer to a question that was not asked.
    #[error("an answer with id {0}, which no request has")]
    UnknownId(u32),
    /// The status is no answer to this operation.
    #[error("the server answered `{}` to a {operation}", .status.name())]
    Status {
        /// What was asked.
        operation: &'static str,
        /// What came.
        status: Status,
    },
    /// The answer's body does not hold together.
    #[error("the body of the answer to a {operation} does not hold together")]
    Body {
        /// What was asked.
        operation: &'static str,
    },
}

impl Error {
    /// Whether a write that ended with this error may have been applied all the same.
    pub const fn maybe_applied(&self) -> bool {
        match self {
            Self::Lost { maybe_applied, .. } | Self::Deadline { maybe_applied, .. } => *maybe_applied,
            Self::OutcomeUnknown | Self::Protocol(_) | Self::Closed => true,
            Self::NoServers
            | Self::Connect { .. }
            | Self::Busy
            | Self::Overloaded { .. }
            | Self::Key { .. }
            | Self::TooLarge { .. }
            | Self::Server { .. } => false,
        }
    }

    /// The error for a status that ends a request.
    pub(crate) fn from_status(status: Status, retry_after_ms: u16, message: &[u8]) -> Self {
        match status {
            Status::OutcomeUnknown => Self::OutcomeUnknown,
            Status::Overloaded => Self::Overloaded { retry_after: Duration::from_millis(retry_after_ms.into()) },
            _ => Self::Server { status, message: message_text(message) },
        }
    }
}

/// Characters of a server's message that are kept; a person reads them.
const MESSAGE_CHARS_MAX: usize = 512;

/// A message that came from outside, made fit to show: no control characters, bounded.
pub(crate) fn message_text(message: &[u8]) -> String {
    String::from_utf8_lossy(message).chars().filter(|c| !c.is_control()).take(MESSAGE_CHARS_MAX).collect()
}

fn refusal_text(status: Status, message: &str) -> String {
    let meaning = match status {
        Status::Malformed => "the server could not read the request; client and server may be of different versions",
        Status::UnknownOperation | Status::Unsupported => {
            "the server does not offer this; it may be of another version"
        }
        Status::TooLarge => {
            "the key, the value or the request is over the server's limit; split it, or raise the limit"
        }
        Status::NotANumber => "the item is not a decimal number; set it to one first, or delete it",
        Status::CounterOverflow => "the sum does not fit a signed 64-bit number; the counter was left as it is",
        Status::NoSpace => "memory is full and the server's policy evicts nothing; delete items or raise --memory",
        Status::NotEnoughCopies => {
            "too few in-sync copies for the write mode; wait for a node to return, or ask for fewer"
        }
        Status::Unauthorized => "the credentials were not accepted",
        Status::ShuttingDown => "the server is stopping",
        Status::Moved => "the item's owner keeps moving; the cluster has not settled, try again shortly",
        Status::Overloaded => "the server is overloaded; try again shortly",
        Status::OutcomeUnknown => "the server no longer knows how this write ended; read the item to find out",
        Status::Ok | Status::Miss | Status::ConditionFailed | Status::TopologyChanged => status.name(),
    };
    if message.is_empty() { meaning.to_owned() } else { format!("{meaning} ({message})") }
}
