//! `quoit cluster`: how a cluster stands, and what its operators want of its nodes.
//!
//! Any node answers for the whole cluster, over its admin HTTP. A change is a record in etcd that whoever leads obeys, so
//! nothing is lost when this command is interrupted, or the node that was asked: what it was told goes on.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::admin::{Admin, AdminError};
use super::status::{drain_progress, json_line, move_progress, table, with_trouble};
use super::{CommandError, Ending, output, say};
use crate::control::status::ClusterStatus;
use crate::units::parse_duration;

/// Where a node's admin HTTP listens unless told otherwise.
const ADMIN_DEFAULT: &str = "127.0.0.1:7401";
/// What is followed is asked for again after this long at the latest, though nothing has changed.
const LOOK_PATH: &str = "/cluster?wait=1s";

/// The commands about a cluster.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Print the nodes, what each one has, and what is missing or on its way.
    #[command(after_help = "Exit code: 0 printed, 2 error.\n\n\
        A node leads the vnodes whose requests it answers, and keeps copies of others. A copy that is in sync has all that \
        was acknowledged; one that catches up counts for nothing yet. LAG is how many writes (and bytes of them) a node's \
        copies have not acknowledged to their primaries yet.\n\n\
        Examples:\n  \
        quoit cluster status\n  \
        quoit cluster status --watch            anew with every change\n  \
        quoit cluster status --json | jq '.nodes[] | {name, state}'")]
    Status(Status),
    /// Have a node give all its vnodes to others, and wait until it has none: then it can be stopped without loss.
    #[command(after_help = "Exit code: 0 drained (or asked, with --no-wait), 1 refused, 2 error.\n\n\
        The node goes on answering for what it still has. Interrupting this command does not end the draining: that is what \
        undrain does. A drained node takes nothing, after a restart neither, until it is undrained.\n\n\
        Examples:\n  \
        quoit cluster drain c                   then stop it: kill -TERM …\n  \
        quoit cluster drain c --no-wait; quoit cluster status --watch")]
    Drain(Drain),
    /// Let a node that was drained, or is being drained, take its share again.
    #[command(after_help = "Exit code: 0 done, 1 refused, 2 error.")]
    Undrain(Undrain),
    /// Give nodes other shares of the vnodes, and wait until everything lies where it should.
    #[command(after_help = "Exit code: 0 done, 1 refused, 2 error.\n\n\
        Shares are relative: a node of weight 2 leads twice as many vnodes as one of weight 1. They replace what the node says \
        at its start (quoit serve --weight) until they are taken back by NODE=own.\n\n\
        Examples:\n  \
        quoit cluster rebalance big=4 small=1\n  \
        quoit cluster rebalance big=own")]
    Rebalance(Rebalance),
}

/// What every command about a cluster takes.
#[derive(Debug, Args)]
pub(super) struct Common {
    /// Admin HTTP of any node of the cluster, host:port; several with commas, to be tried in turn
    #[arg(long, short, value_name = "ADDRESS", env = "QUOIT_ADMIN", default_value = ADMIN_DEFAULT, value_delimiter = ',')]
    admin: Vec<String>,
    /// How long to wait for an answer; a change waits for etcd for up to 5s
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    timeout: Duration,
    /// Print JSON, one line each time, instead of a table
    #[arg(long)]
    json: bool,
}

/// `quoit cluster status`.
#[derive(Debug, Args)]
pub struct Status {
    /// Print again with every change, and once a second, until interrupted
    #[arg(long, short)]
    watch: bool,
    #[command(flatten)]
    common: Common,
}

/// `quoit cluster drain`.
#[derive(Debug, Args)]
pub struct Drain {
    /// The node's name, as status shows it
    #[arg(value_name = "NODE", value_parser = parse_node)]
    node: String,
    /// Do it though the other nodes are too few for all copies of every item
    #[arg(long)]
    fewer_copies: bool,
    /// Return as soon as the cluster has been told
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    common: Common,
}

/// `quoit cluster undrain`.
#[derive(Debug, Args)]
pub struct Undrain {
    /// The node's name, as status shows it
    #[arg(value_name = "NODE", value_parser = parse_node)]
    node: String,
    #[command(flatten)]
    common: Common,
}

/// `quoit cluster rebalance`.
#[derive(Debug, Args)]
pub struct Rebalance {
    /// Nodes with their weights from 1 to 1000, or `own` for what the node says itself
    #[arg(value_name = "NODE=WEIGHT", required = true, value_parser = parse_share)]
    shares: Vec<Share>,
    /// Return as soon as the cluster has been told
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    common: Common,
}

/// A node's new weight; `None` for its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Share {
    node: String,
    weight: Option<u16>,
}

/// Why a text names no node, or no share.
#[derive(Debug, thiserror::Error)]
enum ShareError {
    #[error("a node's name has 1 to 64 letters, digits, hyphens, underscores and dots")]
    Name,
    #[error("expected NODE=WEIGHT with a weight from 1 to 1000, or NODE=own")]
    Weight,
}

/// Carries a command out.
pub(super) fn run(command: &ClusterCommand) -> Result<Ending, CommandError> {
    let outcome = match command {
        ClusterCommand::Status(status) => run_status(status),
        ClusterCommand::Drain(drain) => run_drain(drain),
        ClusterCommand::Undrain(undrain) => run_undrain(undrain),
        ClusterCommand::Rebalance(rebalance) => run_rebalance(rebalance),
    };
    match outcome {
        // Nothing was changed: a condition that does not hold, as elsewhere.
        Err(CommandError::Admin(AdminError::Refused(why))) => {
            say(&why);
            Ok(Ending::NotDone)
        }
        outcome => outcome,
    }
}

fn run_status(status: &Status) -> Result<Ending, CommandError> {
    let admin = admin(&status.common)?;
    let mut standing = admin.ask("GET", "/cluster")?;
    loop {
        if status.common.json {
            output::text_lines(&json_line(&standing))?;
        } else if status.watch {
            output::page(&table(&standing))?;
        } else {
            output::text_lines(&table(&standing))?;
        }
        if !status.watch {
            return Ok(Ending::Done);
        }
        standing = admin.ask("GET", LOOK_PATH)?;
    }
}

fn run_drain(drain: &Drain) -> Result<Ending, CommandError> {
    let admin = admin(&drain.common)?;
    let query = if drain.fewer_copies { "?fewer-copies" } else { "" };
    let mut standing = admin.ask("PUT", &format!("/cluster/nodes/{}/draining{query}", drain.node))?;
    if !drain.no_wait {
        standing = wait_until_drained(&admin, &drain.node, standing)?;
    }
    if drain.common.json {
        output::text_lines(&json_line(&standing))?;
    } else if drain.no_wait {
        say(&format!("{} is being drained: quoit cluster status --watch", drain.node));
    } else {
        say(&format!("{} is drained: it can be stopped (SIGTERM), or take its share again (undrain)", drain.node));
    }
    Ok(Ending::Done)
}

/// Follows the node until it has nothing, and says how far it is.
fn wait_until_drained(admin: &Admin<'_>, name: &str, first: ClusterStatus) -> Result<ClusterStatus, CommandError> {
    let mut standing = first;
    let mut told = String::new();
    // A node that is gone from the list has ended with nothing left.
    while let Some(node) = standing.node(name).filter(|node| node.state != "drained") {
        if node.state != "draining" {
            // It ended before, or somebody wants something else of it.
            return Err(CommandError::NotDrained { node: name.to_owned(), state: node.state.clone() });
        }
        let line = with_trouble(&standing, drain_progress(&standing, node));
        if line != told {
            say(&line);
            told = line;
        }
        standing = admin.ask("GET", LOOK_PATH)?;
    }
    Ok(standing)
}

fn run_undrain(undrain: &Undrain) -> Result<Ending, CommandError> {
    let standing = admin(&undrain.common)?.ask("DELETE", &format!("/cluster/nodes/{}/draining", undrain.node))?;
    finish(&undrain.common, &standing)
}

fn run_rebalance(rebalance: &Rebalance) -> Result<Ending, CommandError> {
    let admin = admin(&rebalance.common)?;
    let mut standing = ClusterStatus::default();
    // All or nothing: a name that is mistyped is found before anything moves.
    for Share { node, .. } in &rebalance.shares {
        admin.ask("GET", &format!("/cluster/nodes/{node}"))?;
    }
    for Share { node, weight } in &rebalance.shares {
        let path = format!("/cluster/nodes/{node}/weight");
        standing = match weight {
            Some(weight) => admin.ask("PUT", &format!("{path}/{weight}"))?,
            None => admin.ask("DELETE", &path)?,
        };
    }
    let mut told = String::new();
    while let Some(moving) = standing.moving.as_ref().filter(|_| !rebalance.no_wait) {
        let line = with_trouble(&standing, move_progress(moving));
        if line != told {
            say(&line);
            told = line;
        }
        standing = admin.ask("GET", LOOK_PATH)?;
    }
    finish(&rebalance.common, &standing)
}

fn finish(common: &Common, standing: &ClusterStatus) -> Result<Ending, CommandError> {
    output::text_lines(&if common.json { json_line(standing) } else { table(standing) })?;
    Ok(Ending::Done)
}

fn admin(common: &Common) -> Result<Admin<'_>, CommandError> {
    if common.timeout.is_zero() {
        return Err(CommandError::Timeout);
    }
    Ok(Admin { addresses: &common.admin, timeout: common.timeout })
}

/// Reads a node's name: what stands in a path must be what a node can be called.
fn parse_node(text: &str) -> Result<String, ShareError> {
    crate::config::parse_name(text).map_err(|_| ShareError::Name)
}

fn parse_share(text: &str) -> Result<Share, ShareError> {
    let (node, weight) = text.split_once('=').ok_or(ShareError::Weight)?;
    let weight = match weight {
        "own" => None,
        weight => Some(crate::config::parse_weight(weight).map_err(|_| ShareError::Weight)?),
    };
    Ok(Share { node: parse_node(node)?, weight })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_names_with_weights() {
        assert_eq!(parse_share("a=3").unwrap(), Share { node: "a".to_owned(), weight: Some(3) });
        assert_eq!(parse_share("a.b-c=own").unwrap(), Share { node: "a.b-c".to_owned(), weight: None });
        for text in ["a", "a=", "a=0", "a=1001", "a=two", "=1", "a/b=1", "a b=1", "../x=1"] {
            assert!(parse_share(text).is_err(), "{text}");
        }
    }
}
