//! The `quoit` command: reads the command line and hands over. What the commands do lies in `cli/` and `control/`.

use std::io;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use quoit::cli::{self, ClientCommand};
use quoit::config::ServeFlags;
use quoit::control::serve;

/// A distributed in-memory cache: thread per core, shared nothing, on io_uring.
#[derive(Debug, Parser)]
#[command(name = "quoit", version, max_term_width = 100)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a node, and serve until SIGINT or SIGTERM.
    Serve(Box<ServeFlags>),
    #[command(flatten)]
    Client(ClientCommand),
    /// Print a completion script for a shell, e.g. `quoit completions bash > /etc/bash_completion.d/quoit`.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

fn main() -> ExitCode {
    match CommandLine::parse().command {
        Command::Serve(flags) => serve::run(&flags),
        Command::Client(command) => cli::run(&command),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut CommandLine::command(), "quoit", &mut io::stdout());
            ExitCode::SUCCESS
        }
    }
}
