//! Hits for the same memory: how much each server finds again when all have the same resident memory.
//!
//! What a server's own limit counts differs from one to the next, and none of them counts everything. So the limit is
//! tuned: cache-aside requests bring the server to its steady state, its resident memory is read, and when it is off, the
//! server is started anew with a limit in proportion. Then hits are counted, and the memory is read once more.

use std::fmt::Write;

use clap::Parser;

use super::circumstances::Circumstances;
use super::density::{limit_options, settled};
use super::items::items;
use super::servers::{Server, ServerKind, ServerSpec};
use super::stage::{self, Stage, installed};
use super::{CompareError, table, tell};
use crate::cli::{Cli, Command, HitsArgs};
use crate::report::{Report, grouped};
use crate::run;
use crate::work::{CacheAside, CacheAsideOptions, KeySpace};

const KEY_BYTES: usize = 16;
const ZIPF: f64 = 0.9;
/// Share of gets after which the key loses its popularity: it has been asked for 100 times then.
const CHURN: f64 = 0.01;
/// Connections and depth.
const CONNECTIONS: usize = 16;
const DEPTH: usize = 16;
/// How far a server's resident memory may be from what it should be.
const RESIDENT_TOLERANCE: f64 = 0.02;
/// Starts of one server before its limit counts as untunable.
const ATTEMPTS_MAX: u32 = 5;

/// A server with a policy.
struct Contender {
    name: &'static str,
    kind: ServerKind,
    /// For redis.
    policy: &'static str,
    /// Its limit as a share of the resident memory that it leads to, near enough to need few starts.
    limit_share: f64,
}

const CONTENDERS: [Contender; 4] = [
    Contender { name: "quoit", kind: ServerKind::Quoit, policy: "", limit_share: 1.07 },
    Contender { name: "memcached", kind: ServerKind::Memcached, policy: "", limit_share: 0.95 },
    Contender { name: "redis, allkeys-lru", kind: ServerKind::Redis, policy: "allkeys-lru", limit_share: 0.95 },
    Contender { name: "redis, allkeys-lfu", kind: ServerKind::Redis, policy: "allkeys-lfu", limit_share: 0.95 },
];

/// What one server has found.
struct Row {
    name: &'static str,
    limit_bytes: u64,
    resident_bytes: u64,
    items: u64,
    hit_ratio: f64,
    gets_per_s: f64,
}

/// Measures and returns the page.
pub(crate) fn hits(args: &HitsArgs) -> Result<String, CompareError> {
    let stage = Stage::new(&args.stage)?;
    let circumstances = Circumstances::now(&stage.programs);
    let mut rows = Vec::new();
    for contender in CONTENDERS.iter().filter(|contender| args.only.contains(&contender.kind)) {
        if installed(&stage.programs, contender.kind) {
            rows.push(tune_and_measure(&stage, contender, args)?);
        }
    }
    let page = page(&circumstances, args, &rows);
    if let Some(path) = &args.stage.write {
        table::write_into(path, "hits", &page)?;
    }
    Ok(page)
}

fn tune_and_measure(stage: &Stage, contender: &Contender, args: &HitsArgs) -> Result<Row, CompareError> {
    let mut limit_bytes = (args.resident as f64 * contender.limit_share) as u64;
    for _ in 0..ATTEMPTS_MAX {
        let options = limit_options(contender.kind, limit_bytes, contender.policy);
        let server = stage.programs.start(&ServerSpec::new(contender.kind, &options))?;
        let mut work = workload(args)?;
        let mut resident_bytes = 0;
        let mut report = None;
        for gets in [args.warmup_gets, args.gets] {
            work.allow(gets);
            let (measured, rest) = play(stage, &server, work)?;
            work = rest;
            resident_bytes = settled(&server)?;
            report = is_near(resident_bytes, args.resident).then_some(measured);
            if report.is_none() {
                break;
            }
        }
        let limit_mib = limit_bytes as f64 / (1 << 20) as f64;
        let resident_mib = resident_bytes as f64 / (1 << 20) as f64;
        let Some(report) = report else {
            tell(&format!("{}: a limit of {limit_mib:.0} MiB leads to {resident_mib:.0} MiB resident", contender.name));
            limit_bytes = (limit_bytes as f64 * args.resident as f64 / resident_bytes.max(1) as f64) as u64;
            continue;
        };
        let hit_ratio = report.hit_ratio.unwrap_or(0.0);
        tell(&format!("{}: {hit_ratio:.4} of the gets hit, {resident_mib:.0} MiB resident", contender.name));
        let gets_per_s = args.gets as f64 / report.duration_s.max(1e-9);
        let items = items(&server)?;
        return Ok(Row { name: contender.name, limit_bytes, resident_bytes, items, hit_ratio, gets_per_s });
    }
    Err(CompareError::Untuned { server: contender.name, attempts: ATTEMPTS_MAX })
}

fn is_near(resident_bytes: u64, wanted_bytes: u64) -> bool {
    resident_bytes.abs_diff(wanted_bytes) as f64 <= wanted_bytes as f64 * RESIDENT_TOLERANCE
}

fn workload(args: &HitsArgs) -> Result<CacheAside, CompareError> {
    let keys = KeySpace::new(args.keys, KEY_BYTES).map_err(|error| CompareError::Load(error.to_string()))?;
    let options = CacheAsideOptions { keys, zipf: ZIPF, churn: CHURN, value_bytes: args.value_size, seed: args.seed };
    Ok(CacheAside::new(options, CONNECTIONS, DEPTH))
}

/// Plays as many gets as the workload allows, and the sets that follow misses.
fn play(stage: &Stage, server: &Server, work: CacheAside) -> Result<(Report, CacheAside), CompareError> {
    let shape = format!("--connections {CONNECTIONS} --pipeline {DEPTH}");
    let line = format!("quoit-loadgen run {}", stage.load_options(server, &shape));
    let cli = Cli::try_parse_from(line.split_whitespace()).map_err(|error| CompareError::Load(error.to_string()))?;
    let Command::Run(run) = cli.command else { return Err(CompareError::Load(line)) };
    let (report, work) =
        run::cache_aside(&run, work).map_err(|error| CompareError::Run { what: line.clone(), error })?;
    Ok((stage::check(report, || line.clone())?, work))
}

fn page(circumstances: &Circumstances, args: &HitsArgs, rows: &[Row]) -> String {
    let mut page = circumstances.to_text();
    let mebibytes = |bytes: u64| bytes as f64 / (1 << 20) as f64;
    // Writing to a string can't fail.
    let _ = write!(
        page,
        "\n{} keys, Zipf {ZIPF}, after each get a chance of 1 in {:.0} that its key changes places with any other; values of {} \
         to {} bytes, cache-aside. {} gets to the steady state, then {} gets that count; seed {}. Each server's own limit is \
         tuned until {:.0} MiB ± {:.0} % are resident.\n\n\
         | | hit ratio | own limit, MiB | resident, MiB | items | gets per second |\n| --- | ---: | ---: | ---: | ---: | ---: |\n",
        grouped(args.keys as f64),
        1.0 / CHURN,
        args.value_size.least,
        args.value_size.most,
        grouped(args.warmup_gets as f64),
        grouped(args.gets as f64),
        args.seed,
        mebibytes(args.resident),
        RESIDENT_TOLERANCE * 100.0
    );
    for row in rows {
        let Row { name, limit_bytes, resident_bytes, items, hit_ratio, gets_per_s } = row;
        let (limit, resident) = (mebibytes(*limit_bytes), mebibytes(*resident_bytes));
        let (items, rate) = (grouped(*items as f64), grouped(*gets_per_s));
        let _ = writeln!(page, "| {name} | {hit_ratio:.4} | {limit:.1} | {resident:.1} | {items} | {rate} |");
    }
    let ours = rows.iter().find(|row| row.name == "quoit").map(|row| row.hit_ratio);
    let best = rows.iter().filter(|row| row.name != "quoit").map(|row| row.hit_ratio).reduce(f64::max);
    if let (Some(ours), Some(best)) = (ours, best) {
        let verdict = if ours > best { "kept" } else { "**missed**" };
        let points = (ours - best) * 100.0;
        let _ = writeln!(page, "\nGoal: quoit's is the highest. {verdict}, by {points:+.2} points to the next.");
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_near_within_two_percent() {
        assert!(is_near(1020, 1000) && is_near(980, 1000));
        assert!(!is_near(1021, 1000) && !is_near(979, 1000));
    }
}
