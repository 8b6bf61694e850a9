//! The log: `tracing` events as lines on standard error, for people or as JSON.
//!
//! Standard output stays free for what a script reads. Nothing on a request's path logs; what a bad client causes is
//! counted, and told once per interval by the runtime.

use std::io::{self, IsTerminal};

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, fmt};

use crate::config::LogFormat;

/// Sends this process's events to standard error; once per process.
pub fn start(format: LogFormat, levels: Targets) -> Result<(), TryInitError> {
    let lines = fmt::layer().with_writer(io::stderr);
    let lines = match format {
        LogFormat::Human => lines.with_ansi(io::stderr().is_terminal()).with_target(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(levels)).try_init()
}
