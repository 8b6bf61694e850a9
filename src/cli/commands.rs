//! What each client command does: one request, or a few, and the reading of the answer.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal, Read};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use quoit_client::blocking::Client;
use quoit_client::{Condition, Error, IncrementOptions, Options, Request, SetOptions, SetOutcome};
use quoit_wire::limits::VALUE_BYTES_MAX;
use serde_json::json;

use super::{ClientCommand, CommandError, Common, Del, Ending, Extend, Get, Incr, Set, Touch, cluster, output, say};
use crate::control::json;

/// Carries a command out.
pub(super) fn run(command: &ClientCommand) -> Result<Ending, CommandError> {
    match command {
        ClientCommand::Get(get) => run_get(get),
        ClientCommand::Set(set) => run_set(set),
        ClientCommand::Append(extend) => run_extend(extend, |key, value| Request::append(key, value)),
        ClientCommand::Prepend(extend) => run_extend(extend, |key, value| Request::prepend(key, value)),
        ClientCommand::Del(del) => run_del(del),
        ClientCommand::Touch(touch) => run_touch(touch),
        ClientCommand::Incr(incr) => run_incr(incr),
        ClientCommand::Flush(flush) => run_flush(&flush.common),
        ClientCommand::Ping(ping) => run_ping(&ping.common),
        ClientCommand::Stats(stats) => run_stats(&stats.common),
        ClientCommand::Cluster(command) => cluster::run(command),
        ClientCommand::Topology(topology) => run_topology(&topology.common),
    }
}

fn run_get(get: &Get) -> Result<Ending, CommandError> {
    let mut client = connect(&get.common)?;
    let key = get.key.as_bytes();
    let hit = match get.touch {
        Some(_) => client.get_and_touch(key, lifetime(get.touch))?,
        None if get.any => client.call(Request::get(key).from_any_copy())?.into_hit()?,
        None => client.get(key)?,
    };
    if hit.as_ref().is_some_and(|hit| hit.is_stale) {
        say("this may be stale: who answered can't be sure that nobody has written since");
    }
    match (&hit, get.common.json) {
        (_, true) => output::line(&output::hit_json(key, hit.as_ref()))?,
        (Some(hit), false) => output::value(&hit.value)?,
        (None, false) => say(&format!("no item {}", output::shown(key))),
    }
    Ok(if hit.is_some() { Ending::Done } else { Ending::NotDone })
}

fn run_set(set: &Set) -> Result<Ending, CommandError> {
    let value = value_of(set.value.as_deref())?;
    let condition = match set.if_version {
        Some(version) => Condition::IfVersion(version),
        None if set.if_absent => Condition::IfAbsent,
        None if set.if_present => Condition::IfPresent,
        None => Condition::Always,
    };
    let options = SetOptions { ttl: lifetime(set.ttl), client_flags: set.flags, condition, idle: set.idle };
    let key = set.key.as_bytes();
    let request = Request::set(key, value, options).with_write_mode(set.writing.write);
    let outcome = connect(&set.common)?.call(request)?.into_set_outcome()?;
    let (stored, version) = match outcome {
        SetOutcome::Stored(version) => (true, Some(version)),
        SetOutcome::ConditionFailed(version) => (false, version),
    };
    let version = version.map(|version| version.to_string());
    if set.common.json {
        output::line(&json!({"key": output::text(key), "stored": stored, "version": version}))?;
    } else if !stored {
        let existing =
            version.map_or("there is no such item".to_owned(), |version| format!("it has version {version}"));
        say(&format!("not stored, the condition does not hold: {existing}"));
    }
    Ok(if stored { Ending::Done } else { Ending::NotDone })
}

/// Adds bytes to an item's value; `request` says on which side.
fn run_extend(extend: &Extend, request: impl Fn(&[u8], Vec<u8>) -> Request) -> Result<Ending, CommandError> {
    let value = value_of(extend.value.as_deref())?;
    let key = extend.key.as_bytes();
    let version =
        connect(&extend.common)?.call(request(key, value).with_write_mode(extend.writing.write))?.into_version()?;
    if extend.common.json {
        let version = version.map(|version| version.to_string());
        output::line(&json!({"key": output::text(key), "stored": version.is_some(), "version": version}))?;
    } else if version.is_none() {
        say(&format!("no item {}", output::shown(key)));
    }
    Ok(if version.is_some() { Ending::Done } else { Ending::NotDone })
}

fn run_del(del: &Del) -> Result<Ending, CommandError> {
    let delete = |key: &OsString| Request::delete(key.as_bytes()).with_write_mode(del.writing.write);
    let requests = del.keys.iter().map(delete);
    let outcomes = connect(&del.common)?.run(requests);
    let mut removed = Vec::new();
    let mut failure = None;
    for (key, outcome) in del.keys.iter().zip(outcomes) {
        match outcome.into_one().and_then(quoit_client::Answer::into_version) {
            Ok(version) => removed.push((key.as_bytes(), version.is_some())),
            // The others are told all the same.
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    if del.common.json {
        let list = removed.iter().map(|(key, removed)| json!({"key": output::text(key), "removed": removed}));
        output::line(&list.collect())?;
    } else {
        let missing = removed.iter().filter(|(_, removed)| !removed);
        missing.for_each(|(key, _)| say(&format!("no item {}", output::shown(key))));
    }
    match failure {
        Some(error) => Err(error.into()),
        None if removed.iter().all(|(_, removed)| *removed) => Ok(Ending::Done),
        None => Ok(Ending::NotDone),
    }
}

fn run_touch(touch: &Touch) -> Result<Ending, CommandError> {
    let key = touch.key.as_bytes();
    let request = Request::touch(key, lifetime(touch.ttl)).with_write_mode(touch.writing.write);
    let version = connect(&touch.common)?.call(request)?.into_version()?;
    if touch.common.json {
        let version = version.map(|version| version.to_string());
        output::line(&json!({"key": output::text(key), "touched": version.is_some(), "version": version}))?;
    } else if version.is_none() {
        say(&format!("no item {}", output::shown(key)));
    }
    Ok(if version.is_some() { Ending::Done } else { Ending::NotDone })
}

fn run_incr(incr: &Incr) -> Result<Ending, CommandError> {
    let key = incr.key.as_bytes();
    let options = IncrementOptions { initial: incr.initial, ttl: lifetime(incr.ttl) };
    let request = Request::increment(key, incr.delta, options).with_write_mode(incr.writing.write);
    let counter = connect(&incr.common)?.call(request)?.into_counter()?;
    match (counter, incr.common.json) {
        (counter, true) => {
            let version = counter.map(|counter| counter.version.to_string());
            let value = counter.map(|counter| counter.value);
            output::line(&json!({"key": output::text(key), "value": value, "version": version}))?;
        }
        (Some(counter), false) => output::line(&counter.value.into())?,
        (None, false) => say(&format!("no counter {} (--initial makes one)", output::shown(key))),
    }
    Ok(if counter.is_some() { Ending::Done } else { Ending::NotDone })
}

fn run_flush(common: &Common) -> Result<Ending, CommandError> {
    connect(common)?.flush()?;
    if common.json {
        output::line(&json!({"flushed": true}))?;
    }
    Ok(Ending::Done)
}

fn run_ping(common: &Common) -> Result<Ending, CommandError> {
    let elapsed = connect(common)?.ping()?;
    if common.json {
        output::line(&json!({"round_trip_us": elapsed.as_micros() as u64}))?;
    } else {
        output::text_lines(&format!("answered in {elapsed:.0?}\n"))?;
    }
    Ok(Ending::Done)
}

fn run_stats(common: &Common) -> Result<Ending, CommandError> {
    let mut client = connect(common)?;
    let (stats, topology) = (client.stats()?, client.topology()?);
    let named: Vec<_> = stats.iter().map(|stats| (stats, output::name_of(&topology, stats.node))).collect();
    if common.json {
        output::line(&named.into_iter().map(|(stats, name)| output::stats_json(stats, name)).collect())?;
    } else {
        named.into_iter().try_for_each(|(stats, name)| output::text_lines(&output::stats_table(stats, name)))?;
    }
    Ok(Ending::Done)
}

fn run_topology(common: &Common) -> Result<Ending, CommandError> {
    let topology = connect(common)?.topology()?;
    if common.json {
        output::line(&json::topology(&topology))?;
    } else {
        output::text_lines(&output::topology_table(&topology))?;
    }
    Ok(Ending::Done)
}

fn connect(common: &Common) -> Result<Client, CommandError> {
    if common.timeout.is_zero() {
        return Err(CommandError::Timeout);
    }
    // Half of the time each, so that a second attempt has its turn.
    let half = common.timeout / 2;
    let options = Options { deadline: common.timeout, stall_limit: half, connect_limit: half, ..Options::default() };
    // An address without a port means the usual one; one of IPv6 stands in brackets and has colons of its own.
    let with_port = |server: &String| if server.contains(':') { server.clone() } else { format!("{server}:7400") };
    Ok(Client::connect(common.server.iter().map(with_port), options)?)
}

/// A time to live as the command line gives it: none, and 0, are for ever.
fn lifetime(ttl: Option<Duration>) -> Option<Duration> {
    ttl.filter(|ttl| !ttl.is_zero())
}

/// The value that an argument gives; `-`, or none at all, is standard input.
fn value_of(argument: Option<&OsStr>) -> Result<Vec<u8>, CommandError> {
    match argument {
        Some(value) if value != OsStr::new("-") => Ok(value.as_bytes().to_vec()),
        given => read_value(given.is_some()),
    }
}

/// Reads a value from standard input, not more of it than any node takes.
fn read_value(is_asked_for: bool) -> Result<Vec<u8>, CommandError> {
    let input = io::stdin();
    if !is_asked_for && input.is_terminal() {
        return Err(CommandError::NoValue);
    }
    let mut value = Vec::new();
    input.lock().take(VALUE_BYTES_MAX as u64 + 1).read_to_end(&mut value).map_err(CommandError::Input)?;
    if value.len() > VALUE_BYTES_MAX {
        return Err(Error::TooLarge { bytes: value.len(), bytes_max: VALUE_BYTES_MAX }.into());
    }
    Ok(value)
}
