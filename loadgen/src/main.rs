//! Quoit's load generator: the instrument by which Quoit and the caches beside it are measured.
//!
//! `cli` says what can be asked for; `run` turns that into a plan; `drive` starts one `engine` per core, each spinning on
//! its own ring (`socket`) with its connections; `work` says what is asked, `protocol` how it is written; `report` what
//! came of it. `echo` is the other end of the scale: a server that does nothing.

#[cfg(test)]
mod allocations;
mod cli;
mod clock;
mod compare;
mod connect;
mod cores;
mod drive;
mod echo;
mod engine;
mod interrupt;
mod protocol;
mod report;
mod ring;
mod run;
mod socket;
// One grammar of sizes and durations for the whole house; the server's crate is too heavy to depend on for it.
#[path = "../../src/units.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the server, which uses all of it")]
mod units;
mod work;

use std::fmt::Display;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use serde::Serialize;

use cli::{Cli, Command, EchoArgs, RingArgs};
use echo::{Echo, EchoOptions};
use report::Report;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = interrupt::install().map_err(Failed::from_error).and_then(|()| match cli.command {
        Command::Run(args) => finish(run::run(&args), args.target.json.as_deref()),
        Command::Fill(args) => finish(run::fill(&args), args.target.json.as_deref()),
        Command::Replay(args) => finish(run::replay(&args), args.target.json.as_deref()),
        Command::Echo(args) => serve_echo(&args),
        Command::Ring(args) => print_ring(&args),
        Command::Compare(args) => {
            let files = args.stage.write.iter().chain(&args.json).map(PathBuf::as_path).collect();
            print_page(files, || compare::compare(&args))
        }
        Command::Density(args) => {
            print_page(args.stage.write.iter().map(PathBuf::as_path).collect(), || compare::density(&args))
        }
        Command::Hits(args) => {
            print_page(args.stage.write.iter().map(PathBuf::as_path).collect(), || compare::hits(&args))
        }
        Command::Plot(args) => {
            let files = args.stage.write.iter().chain([&args.svg]).map(PathBuf::as_path).collect();
            print_page(files, || compare::plot(&args))
        }
    });
    match result {
        Ok(code) => code,
        Err(Failed(message)) => {
            // Nobody is left to tell when standard error is closed.
            let _ = writeln!(io::stderr(), "quoit-loadgen: {message}");
            ExitCode::FAILURE
        }
    }
}

/// A command that could not be carried out, as it is told.
struct Failed(String);

impl Failed {
    fn from_error(error: impl Display) -> Self {
        Self(error.to_string())
    }
}

/// Prints the report, writes it where it was asked for, and says by the exit code whether all was well.
fn finish(result: Result<Report, impl Display>, json: Option<&Path>) -> Result<ExitCode, Failed> {
    let report = result.map_err(Failed::from_error)?;
    writeln!(io::stdout(), "{}", report.to_text()).map_err(Failed::from_error)?;
    write_json(&report, json)?;
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn write_json(report: &impl Serialize, path: Option<&Path>) -> Result<(), Failed> {
    let Some(path) = path else { return Ok(()) };
    let text = serde_json::to_string_pretty(report).map_err(Failed::from_error)?;
    fs::write(path, text + "\n").map_err(|error| Failed(format!("can't write {}: {error}", path.display())))
}

/// Prints what a comparison finds; the files it will write are tried before.
fn print_page(
    files: Vec<&Path>,
    page: impl FnOnce() -> Result<String, compare::CompareError>,
) -> Result<ExitCode, Failed> {
    for path in files {
        compare::check_writable(path).map_err(|error| Failed(format!("can't write {}: {error}", path.display())))?;
    }
    let page = page().map_err(Failed::from_error)?;
    io::stdout().write_all(page.as_bytes()).map_err(Failed::from_error)?;
    Ok(ExitCode::SUCCESS)
}

fn print_ring(args: &RingArgs) -> Result<ExitCode, Failed> {
    let report = ring::judge(args).map_err(Failed::from_error)?;
    write!(io::stdout(), "{}", report.to_text()).map_err(Failed::from_error)?;
    write_json(&report, args.json.as_deref())?;
    Ok(ExitCode::SUCCESS)
}

fn serve_echo(args: &EchoArgs) -> Result<ExitCode, Failed> {
    args.cores.check().map_err(Failed::from_error)?;
    let options = EchoOptions {
        listen: args.listen,
        cores: args.cores.clone(),
        request_bytes: args.request_bytes as usize,
        reply_bytes: args.reply_bytes as usize,
        from_bytes: args.from.map(|bytes| bytes as usize),
        duration: args.duration,
    };
    let echo = Echo::bind(options)
        .map_err(|error| Failed(format!("can't listen on {}: {error}; is the port free? (--listen)", args.listen)))?;
    let address = echo.address().map_err(Failed::from_error)?;
    let mut output = io::stdout();
    writeln!(output, "listening on {address}").and_then(|()| output.flush()).map_err(Failed::from_error)?;
    let totals = echo.serve().map_err(Failed::from_error)?;
    writeln!(output, "{} requests over {} connections", totals.requests, totals.connections)
        .map_err(Failed::from_error)?;
    Ok(ExitCode::SUCCESS)
}
