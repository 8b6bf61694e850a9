//! Floor 7: the client commands of the command line, `quoit get`, `set`, and so on.
//!
//! Made for people and for scripts alike. A value comes out on standard output byte for byte; everything said about it goes
//! to standard error; the exit code tells a hit (0) from a miss or a condition that did not hold (1) and from an error (2).

mod admin;
mod cluster;
mod commands;
mod output;
mod status;

use std::ffi::OsString;
use std::io::{self, Write};
use std::num::ParseIntError;
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand};
use quoit_client::{Error, Version, WriteMode};

use self::admin::AdminError;
pub use self::cluster::ClusterCommand;
use crate::config::{Invalid, parse_write_mode};
use crate::units::parse_duration;

/// Where a node listens unless told otherwise, and so where the commands look.
const SERVER_DEFAULT: &str = "127.0.0.1:7400";

/// The commands that talk to a node.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Print an item's value.
    #[command(after_help = "Exit code: 0 found, 1 no such item, 2 error.\n\n\
        Examples:\n  \
        quoit get greeting\n  \
        quoit get photo > photo.jpg             the bytes as they are\n  \
        quoit get greeting --json               with version and flags\n  \
        quoit get session:7 --touch 30m         and let it live 30 minutes from now")]
    Get(Get),
    /// Store an item.
    #[command(
        group = ArgGroup::new("condition"),
        after_help = "Exit code: 0 stored, 1 the condition did not hold, 2 error.\n\n\
        Examples:\n  \
        quoit set greeting hello --ttl 30s\n  \
        quoit set photo - < photo.jpg           the value from standard input\n  \
        quoit set lock me --if-absent --ttl 1m  only the first one gets it\n  \
        quoit set k new --if-version 815.7      only if nobody changed it since (see get --json)"
    )]
    Set(Set),
    /// Add bytes behind an item's value.
    #[command(after_help = "Exit code: 0 added, 1 no such item, 2 error.\n\n\
        Examples:\n  \
        quoit append log 'one more line'\n  \
        quoit append log - < lines.txt          the bytes from standard input")]
    Append(Extend),
    /// Add bytes before an item's value.
    #[command(after_help = "Exit code: 0 added, 1 no such item, 2 error.\n\n\
        Examples:\n  \
        quoit prepend path /usr/local/bin:\n  \
        quoit prepend log - < lines.txt         the bytes from standard input")]
    Prepend(Extend),
    /// Remove items.
    #[command(after_help = "Exit code: 0 all were there, 1 at least one was not, 2 error.\n\n\
        Example:\n  quoit del greeting session:7")]
    Del(Del),
    /// Give an item a new time to live.
    #[command(after_help = "Exit code: 0 done, 1 no such item, 2 error.\n\n\
        Examples:\n  \
        quoit touch session:7 --ttl 30m\n  \
        quoit touch session:7                   for ever")]
    Touch(Touch),
    /// Add to a counter and print its new value.
    #[command(after_help = "Exit code: 0 done, 1 no such counter, 2 error.\n\n\
        Examples:\n  \
        quoit incr visits --initial 1           makes the counter when there is none, with the value 1\n  \
        quoit incr visits 10\n  \
        quoit incr visits -3")]
    Incr(Incr),
    /// Remove every item, on every node of the cluster.
    #[command(after_help = "Exit code: 0 done, 2 error: then items may be left on some nodes.\n\n\
        What is written meanwhile may stay, or go.\n\n\
        Example:\n  quoit flush")]
    Flush(Flush),
    /// Ask a node for a sign of life.
    #[command(after_help = "Exit code: 0 it answers, 2 it does not.")]
    Ping(Ping),
    /// Print the counters of every node.
    #[command(after_help = "Examples:\n  \
        quoit stats\n  \
        quoit stats --json | jq '.[0].total'")]
    Stats(Stats),
    /// Print which nodes there are and what they own.
    #[command(after_help = "Examples:\n  \
        quoit topology\n  \
        quoit topology --json | jq '.nodes[].address'")]
    Topology(Topology),
    /// Look at a cluster, and tell it what its nodes shall do.
    #[command(subcommand)]
    Cluster(ClusterCommand),
}

/// What every client command takes.
#[derive(Debug, Args)]
pub struct Common {
    /// Any node of the cluster, host:port; several with commas, to be tried in turn
    #[arg(long, short, value_name = "ADDRESS", env = "QUOIT_SERVER", default_value = SERVER_DEFAULT, value_delimiter = ',')]
    server: Vec<String>,
    /// How long to wait for an answer, at most 1m; a lost node of a cluster is replaced within its --lease and 1.5s
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    timeout: Duration,
    /// Print one JSON value instead of text
    #[arg(long)]
    json: bool,
}

/// What every command takes that changes something.
#[derive(Clone, Copy, Debug, Args)]
struct Writing {
    /// Copies in a cluster to wait for: none, one, or all that are in sync [default: what the cluster waits for]
    #[arg(long, value_name = "async|one|all", default_value = "auto", value_parser = parse_write, hide_default_value = true)]
    write: WriteMode,
}

/// `quoit get`.
#[derive(Debug, Args)]
pub struct Get {
    /// The item's key
    key: OsString,
    /// Let the item live this long from now: 30s, 1h30m; 0 is for ever
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    touch: Option<Duration>,
    /// Let any copy of the item answer, also while its primary is being replaced; perhaps with an older value, which is said
    #[arg(long, conflicts_with = "touch")]
    any: bool,
    #[command(flatten)]
    common: Common,
}

/// `quoit set`.
#[derive(Debug, Args)]
pub struct Set {
    /// The item's key
    key: OsString,
    /// The value; `-`, or none at all, reads it from standard input
    #[arg(allow_negative_numbers = true)]
    value: Option<OsString>,
    /// How long the item shall live: 30s, 1h30m; 0 is for ever, as without it
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    ttl: Option<Duration>,
    /// Start the time to live anew with every hit
    #[arg(long, requires = "ttl")]
    idle: bool,
    /// A number kept with the item
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    flags: u32,
    /// Only if there is no such item
    #[arg(long, group = "condition")]
    if_absent: bool,
    /// Only if there is one
    #[arg(long, group = "condition")]
    if_present: bool,
    /// Only if there is one of this version
    #[arg(long, group = "condition", value_name = "VERSION", value_parser = parse_version)]
    if_version: Option<Version>,
    #[command(flatten)]
    writing: Writing,
    #[command(flatten)]
    common: Common,
}

/// `quoit append` and `quoit prepend`.
#[derive(Debug, Args)]
pub struct Extend {
    /// The item's key
    key: OsString,
    /// The bytes to add; `-`, or none at all, reads them from standard input
    #[arg(allow_negative_numbers = true)]
    value: Option<OsString>,
    #[command(flatten)]
    writing: Writing,
    #[command(flatten)]
    common: Common,
}

/// `quoit del`.
#[derive(Debug, Args)]
pub struct Del {
    /// The items' keys
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<OsString>,
    #[command(flatten)]
    writing: Writing,
    #[command(flatten)]
    common: Common,
}

/// `quoit touch`.
#[derive(Debug, Args)]
pub struct Touch {
    /// The item's key
    key: OsString,
    /// How long the item shall live from now: 30s, 1h30m; 0 is for ever, as without it
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    ttl: Option<Duration>,
    #[command(flatten)]
    writing: Writing,
    #[command(flatten)]
    common: Common,
}

/// `quoit incr`.
#[derive(Debug, Args)]
pub struct Incr {
    /// The counter's key
    key: OsString,
    /// What to add; negative to subtract
    #[arg(default_value_t = 1, allow_negative_numbers = true)]
    delta: i64,
    /// Make a missing counter with this value, to which nothing is added
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    initial: Option<i64>,
    /// How long a counter that is made shall live; 0 is for ever, as without it
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, requires = "initial")]
    ttl: Option<Duration>,
    #[command(flatten)]
    writing: Writing,
    #[command(flatten)]
    common: Common,
}

/// `quoit flush`.
#[derive(Debug, Args)]
pub struct Flush {
    #[command(flatten)]
    common: Common,
}

/// `quoit ping`.
#[derive(Debug, Args)]
pub struct Ping {
    #[command(flatten)]
    common: Common,
}

/// `quoit stats`.
#[derive(Debug, Args)]
pub struct Stats {
    #[command(flatten)]
    common: Common,
}

/// `quoit topology`.
#[derive(Debug, Args)]
pub struct Topology {
    #[command(flatten)]
    common: Common,
}

/// How a command ended that was not an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Found, or done.
    Done,
    /// Not found, or a condition that did not hold.
    NotDone,
}

/// Why a command could not be carried out.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error("no answer within {0:?}; the node is overloaded or gone (--timeout 20s waits longer)")]
    Deadline(Duration),
    #[error(
        "no answer within {0:?}; it may or may not have been done (look before you repeat it; --timeout 20s waits longer)"
    )]
    InDoubt(Duration),
    #[error(transparent)]
    Client(Error),
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error("{node} is {state} now, and was not drained: quoit cluster status shows more")]
    NotDrained { node: String, state: String },
    #[error("--timeout must be longer than nothing, such as 1s")]
    Timeout,
    #[error("standard input can't be read: {0}")]
    Input(io::Error),
    #[error("no value: give it as an argument, or on standard input (`quoit set key - < file`)")]
    NoValue,
    #[error("standard output can't be written: {0}")]
    Output(io::Error),
}

/// Why a text is no version.
#[derive(Debug, thiserror::Error)]
enum VersionError {
    #[error("expected a version as `get --json` shows it, such as 815.7: {0}")]
    Number(#[from] ParseIntError),
    #[error("no version is that large")]
    Range,
}

/// Runs a client command. What goes wrong is said on standard error.
pub fn run(command: &ClientCommand) -> ExitCode {
    match commands::run(command) {
        Ok(Ending::Done) => ExitCode::SUCCESS,
        Ok(Ending::NotDone) => ExitCode::from(1),
        // Whoever read has read enough.
        Err(CommandError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            say(&error.to_string());
            ExitCode::from(2)
        }
    }
}

/// A line on standard error, which may be closed; then nobody wants to know.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "quoit: {line}");
}

/// Reads how many copies a write waits for; `auto` leaves it to the cluster.
fn parse_write(text: &str) -> Result<WriteMode, Invalid> {
    parse_write_mode(text).map(|mode| mode.unwrap_or(WriteMode::ClusterDefault))
}

/// Reads a version as it is shown, `term.sequence`, or as one number.
fn parse_version(text: &str) -> Result<Version, VersionError> {
    let Some((term, sequence)) = text.split_once('.') else { return Ok(Version::from_u64(text.parse()?)) };
    let (term, sequence) = (term.parse()?, sequence.parse()?);
    if term > Version::TERM_MAX || sequence > Version::SEQUENCE_MAX {
        return Err(VersionError::Range);
    }
    Ok(Version::new(term, sequence))
}

impl From<Error> for CommandError {
    fn from(error: Error) -> Self {
        match error {
            Error::Deadline { limit, maybe_applied: false } => Self::Deadline(limit),
            Error::Deadline { limit, maybe_applied: true } => Self::InDoubt(limit),
            error => Self::Client(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_reads_back_as_it_is_shown() {
        let version = Version::new(815, 7);
        assert_eq!(parse_version(&version.to_string()).unwrap(), version);
        assert_eq!(parse_version(&version.as_u64().to_string()).unwrap(), version);
        for text in ["", "815.", "815.7.1", "-1.7", "16777216.0", "0.1099511627776", "latest"] {
            assert!(parse_version(text).is_err(), "{text}");
        }
    }
}
