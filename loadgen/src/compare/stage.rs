//! The stage of a comparison: the programs, the cores they run on, and loads on running servers.

use std::io;

use clap::Parser;

use super::CompareError;
use super::servers::{Programs, Server, ServerKind};
use crate::cli::{Cli, Command, SideBySideArgs};
use crate::cores::CoreList;
use crate::interrupt;
use crate::report::Report;
use crate::run;

/// Connections and depth that servers are filled with.
const FILL_SHAPE: &str = "--connections 16 --pipeline 16";

/// Where everything runs.
#[derive(Clone, Debug)]
pub(super) struct Stage {
    /// The servers to be.
    pub(super) programs: Programs,
    /// The generator's cores.
    cores: CoreList,
}

impl Stage {
    /// The stage that the command line asks for; the quoit beside this program where none is named.
    pub(super) fn new(args: &SideBySideArgs) -> Result<Self, CompareError> {
        args.cores.check()?;
        CoreList(vec![args.server_core]).check()?;
        let quoit = match &args.quoit {
            Some(path) => path.clone(),
            None => std::env::current_exe()?.with_file_name("quoit"),
        };
        let generator_core = args.cores.0.first().copied().unwrap_or(args.server_core);
        let programs = Programs { quoit, core: args.server_core, generator_core };
        Ok(Self { programs, cores: args.cores.clone() })
    }

    /// The options of a load that say where it goes, and those given.
    pub(super) fn load_options(&self, server: &Server, options: &str) -> String {
        format!(
            "--protocol {} --server {} --server-pid {} --cores {} {options}",
            run::protocol_name(server.kind.protocol()),
            server.address,
            server.pid(),
            self.cores
        )
    }

    /// Writes keys into a server.
    pub(super) fn fill(&self, server: &Server, options: &str) -> Result<Report, CompareError> {
        load(&format!("fill {} {FILL_SHAPE}", self.load_options(server, options)))
    }
}

/// Which of the servers under comparison can run here; says which is left out.
pub(super) fn installed(programs: &Programs, kind: ServerKind) -> bool {
    let is_installed = !matches!(kind, ServerKind::Memcached | ServerKind::Redis) || programs.has(kind);
    if !is_installed {
        super::tell(&format!("   {} is not installed and left out (make bench-setup installs it)", kind.name()));
    }
    is_installed
}

/// Carries out one command line of this program, in this process.
pub(super) fn load(line: &str) -> Result<Report, CompareError> {
    let words = std::iter::once("quoit-loadgen").chain(line.split_whitespace());
    let cli = Cli::try_parse_from(words).map_err(|error| CompareError::Load(error.to_string()))?;
    let report = match &cli.command {
        Command::Run(args) => run::run(args),
        Command::Fill(args) => run::fill(args),
        _ => return Err(CompareError::Load(line.to_owned())),
    };
    let what = || format!("quoit-loadgen {line}");
    let report = report.map_err(|error| CompareError::Run { what: what(), error })?;
    check(report, what)
}

/// A report without errors, unless a signal has come.
pub(super) fn check(report: Report, what: impl Fn() -> String) -> Result<Report, CompareError> {
    if interrupt::requested() {
        return Err(io::Error::from(io::ErrorKind::Interrupted).into());
    }
    if !report.is_clean() {
        return Err(CompareError::Errors { what: what(), report: report.to_text() });
    }
    Ok(report)
}
