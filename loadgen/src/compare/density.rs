//! What an item costs beyond its key and value: resident memory of servers that are filled through their clients.
//!
//! A server is filled step by step, and its memory read after each: (resident now - resident while empty) / items, less the
//! bytes of keys and values. "Empty" is after gets that found nothing, so that the buffers of the connections are there
//! already and no item is charged with them. The last row is a server at its limit, after evictions.

use std::fmt::Write;
use std::fs;
use std::thread;
use std::time::Duration;

use super::circumstances::Circumstances;
use super::items::items;
use super::servers::{Server, ServerKind, ServerSpec};
use super::stage::{Stage, installed, load};
use super::{CompareError, table, tell};
use crate::cli::DensityArgs;
use crate::report::grouped;

const KEY_BYTES: u64 = 16;
/// The goal: bytes of an item beyond key and value, for Quoit.
const ITEM_BYTES_GOAL: f64 = 16.0;
/// The goal: resident memory of an empty node with one core.
const EMPTY_BYTES_GOAL: u64 = 32 << 20;
/// Memory that a server may use: the longest values at the highest count fit into it.
const MEMORY_GIB: u64 = 5;
/// Beside it: the generator, and what else the machine needs.
const SPARE_GIB: u64 = 1;
/// Gets on an empty server, over as many connections as fill it.
const EMPTY_GETS: u64 = 20_000;
/// Keys of the last row for each byte of its limit: twice what fits.
const CAP_BYTES_PER_KEY: u64 = 48;
/// Resident memory has settled when it has changed by no more than this share between two looks.
const SETTLED_SHARE: f64 = 0.001;
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
const LOOKS_MAX: u32 = 30;

/// What items are made of.
struct Case {
    name: &'static str,
    options: &'static str,
}

/// The last has flags that fill their 32 bits: smaller ones may be kept in fewer.
const CASES: [Case; 6] = [
    Case { name: "32 B", options: "--value-size 32" },
    Case { name: "64 B", options: "--value-size 64" },
    Case { name: "512 B", options: "--value-size 512" },
    Case { name: "33 to 96 B", options: "--value-size 33-96" },
    Case { name: "64 B, TTL and flags", options: "--value-size 64 --ttl 1d --client-flags 1" },
    Case { name: "64 B, TTL and flags of 32 bits", options: "--value-size 64 --ttl 1d --client-flags 4294967295" },
];

/// Values of the last row.
const CAP_VALUE_BYTES: u64 = 64;

/// One server with one kind of items.
struct Row {
    kind: ServerKind,
    case: &'static str,
    /// Bytes beyond key and value, after each of the counts.
    item_bytes: Vec<f64>,
}

/// A server at its limit.
struct AtCap {
    kind: ServerKind,
    items: u64,
    resident_bytes: u64,
    item_bytes: f64,
}

/// An empty server: just started, and after gets.
struct Empty {
    kind: ServerKind,
    started_bytes: u64,
    asked_bytes: u64,
}

#[derive(Default)]
struct Found {
    rows: Vec<Row>,
    empty: Vec<Empty>,
    at_cap: Vec<AtCap>,
}

/// Measures and returns the page.
pub(crate) fn density(args: &DensityArgs) -> Result<String, CompareError> {
    check_memory()?;
    let stage = Stage::new(&args.stage)?;
    let circumstances = Circumstances::now(&stage.programs);
    let mut found = Found::default();
    for &kind in args.only.iter().filter(|kind| **kind != ServerKind::Echo) {
        if !installed(&stage.programs, kind) {
            continue;
        }
        for case in &CASES {
            let row = fill_step_by_step(&stage, kind, case, &args.counts, &mut found.empty)?;
            found.rows.push(row);
        }
        found.at_cap.push(churn_at_cap(&stage, kind, args.cap)?);
    }
    let page = page(&circumstances, args, &found);
    if let Some(path) = &args.stage.write {
        table::write_into(path, "density", &page)?;
    }
    Ok(page)
}

fn check_memory() -> Result<(), CompareError> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let available_kib: Option<f64> = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    let available_gib = available_kib.unwrap_or(0.0) / (1 << 20) as f64;
    let needed_gib = MEMORY_GIB + SPARE_GIB;
    if available_gib < needed_gib as f64 {
        return Err(CompareError::Memory { needed_gib, available_gib });
    }
    Ok(())
}

fn fill_step_by_step(
    stage: &Stage,
    kind: ServerKind,
    case: &Case,
    counts: &[u64],
    empty: &mut Vec<Empty>,
) -> Result<Row, CompareError> {
    let server = stage.programs.start(&spec(kind, MEMORY_GIB << 30))?;
    let (started_bytes, asked_bytes) = ask_empty(stage, &server)?;
    if !empty.iter().any(|known| known.kind == kind) {
        empty.push(Empty { kind, started_bytes, asked_bytes });
    }
    let (mut written, mut value_bytes) = (0, 0);
    let mut item_bytes = Vec::new();
    for &count in counts {
        let options = format!("{} --keys {count} --first-key {written} --key-size {KEY_BYTES}", case.options);
        value_bytes += stage.fill(&server, &options)?.value_bytes_written;
        written = count;
        let (resident_bytes, items) = (settled(&server)?, items(&server)?);
        if items != count {
            return Err(CompareError::Items { server: server.command.clone(), items, expected: count });
        }
        let grown_bytes = resident_bytes.saturating_sub(asked_bytes) as f64;
        item_bytes.push((grown_bytes - (value_bytes + count * KEY_BYTES) as f64) / count as f64);
    }
    let figures = item_bytes.iter().map(|bytes| format!("{bytes:.2}")).collect::<Vec<_>>().join(" ");
    tell(&format!("{}, {}: {figures}", kind.name(), case.name));
    Ok(Row { kind, case: case.name, item_bytes })
}

/// Resident memory of an empty server: just started, and after gets that found nothing.
fn ask_empty(stage: &Stage, server: &Server) -> Result<(u64, u64), CompareError> {
    let started_bytes = settled(server)?;
    let gets = format!("--keys {EMPTY_GETS} --requests {EMPTY_GETS} --connections 16 --pipeline 16");
    load(&format!("run {}", stage.load_options(server, &gets)))?;
    Ok((started_bytes, settled(server)?))
}

/// Twice as many keys as fit, then gets and sets of them: what the policy remembers of evicted items is there too.
fn churn_at_cap(stage: &Stage, kind: ServerKind, cap_bytes: u64) -> Result<AtCap, CompareError> {
    let server = stage.programs.start(&spec(kind, cap_bytes))?;
    let (_, asked_bytes) = ask_empty(stage, &server)?;
    let keys = (cap_bytes / CAP_BYTES_PER_KEY).max(1);
    let data = format!("--keys {keys} --key-size {KEY_BYTES} --value-size {CAP_VALUE_BYTES}");
    stage.fill(&server, &data)?;
    let mix = format!("{data} --zipf 0.9 --set-ratio 0.5 --requests {keys} --connections 16 --pipeline 16");
    load(&format!("run {}", stage.load_options(&server, &mix)))?;
    let (resident_bytes, items) = (settled(&server)?, items(&server)?);
    let grown_bytes = resident_bytes.saturating_sub(asked_bytes) as f64;
    let item_bytes = grown_bytes / items.max(1) as f64 - (KEY_BYTES + CAP_VALUE_BYTES) as f64;
    tell(&format!("{}, at its limit: {item_bytes:.2} with {items} items", kind.name()));
    Ok(AtCap { kind, items, resident_bytes, item_bytes })
}

/// The server with a limit of `memory_bytes`, evicting past it.
fn spec(kind: ServerKind, memory_bytes: u64) -> ServerSpec {
    ServerSpec::new(kind, &limit_options(kind, memory_bytes, "allkeys-lru"))
}

/// The options that set a server's own limit of memory; `redis_policy` is what redis does past it.
pub(super) fn limit_options(kind: ServerKind, memory_bytes: u64, redis_policy: &str) -> String {
    match kind {
        ServerKind::Quoit => format!("--memory {}KiB", memory_bytes >> 10),
        ServerKind::Memcached => format!("-m {}", memory_bytes >> 20),
        ServerKind::Redis => format!("--maxmemory {memory_bytes} --maxmemory-policy {redis_policy}"),
        ServerKind::Echo => String::new(),
    }
}

/// Resident memory once it no longer moves: tables may still be moving, and freed memory on its way back.
#[expect(clippy::disallowed_methods, reason = "another program gives no signal when its memory has settled")]
pub(super) fn settled(server: &Server) -> Result<u64, CompareError> {
    let mut before = server.resident_bytes()?;
    for _ in 0..LOOKS_MAX {
        thread::sleep(LOOK_INTERVAL);
        let now = server.resident_bytes()?;
        if now.abs_diff(before) as f64 <= before as f64 * SETTLED_SHARE {
            return Ok(now);
        }
        before = now;
    }
    Ok(before)
}

fn page(circumstances: &Circumstances, args: &DensityArgs, found: &Found) -> String {
    let mut page = circumstances.to_text();
    // Writing to a string can't fail.
    let _ = write!(
        page,
        "\nBytes of an item beyond its key ({KEY_BYTES} bytes) and value: resident memory filled through the client, less that \
         of the empty server, by items. The worst of a row is its figure.\n\n"
    );
    let heads: Vec<String> = args.counts.iter().map(|&count| format!("{} M", count as f64 / 1e6)).collect();
    let _ = write!(
        page,
        "| | value | {} | worst |\n| --- | --- |{}\n",
        heads.join(" | "),
        " ---: |".repeat(heads.len() + 1)
    );
    for row in &found.rows {
        let figures: Vec<String> = row.item_bytes.iter().map(|bytes| format!("{bytes:.1}")).collect();
        let worst = worst(&row.item_bytes);
        let verdict = verdict(row.kind, worst <= ITEM_BYTES_GOAL);
        let _ =
            writeln!(page, "| {} | {} | {} | {worst:.1}{verdict} |", row.kind.name(), row.case, figures.join(" | "));
    }
    let _ = write!(
        page,
        "\nAt a limit of {} MiB, values of {CAP_VALUE_BYTES} B, after twice as many keys as fit and as many gets and sets:\n\n\
         | | items | resident MiB | bytes beyond key and value |\n| --- | ---: | ---: | ---: |\n",
        args.cap >> 20
    );
    for AtCap { kind, items, resident_bytes, item_bytes } in &found.at_cap {
        let verdict = verdict(*kind, *item_bytes <= ITEM_BYTES_GOAL);
        let (items, mebibytes) = (grouped(*items as f64), resident_bytes >> 20);
        let _ = writeln!(page, "| {} | {items} | {mebibytes} | {item_bytes:.1}{verdict} |", kind.name());
    }
    page.push_str(
        "\n| empty, one core | just started, MiB | after gets that found nothing, MiB |\n| --- | ---: | ---: |\n",
    );
    for Empty { kind, started_bytes, asked_bytes } in &found.empty {
        let mebibytes = |bytes: u64| bytes as f64 / (1 << 20) as f64;
        let verdict = verdict(*kind, *asked_bytes <= EMPTY_BYTES_GOAL);
        let _ = writeln!(
            page,
            "| {} | {:.1} | {:.1}{verdict} |",
            kind.name(),
            mebibytes(*started_bytes),
            mebibytes(*asked_bytes)
        );
    }
    let _ = write!(
        page,
        "\nGoals, for quoit: at most {ITEM_BYTES_GOAL} bytes an item, the worst of all rows; at most {} MiB empty. Redis keeps no \
         client flags.\n",
        EMPTY_BYTES_GOAL >> 20
    );
    page
}

fn worst(figures: &[f64]) -> f64 {
    figures.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

/// How Quoit stands to the goal; the others have none.
fn verdict(kind: ServerKind, is_kept: bool) -> &'static str {
    match (kind, is_kept) {
        (ServerKind::Quoit, true) => ", kept",
        (ServerKind::Quoit, false) => ", **missed**",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn every_fill_is_a_valid_command_line() {
        for case in &CASES {
            let line = format!("quoit-loadgen fill {} --keys 1000000 --first-key 0 --key-size 16", case.options);
            assert!(Cli::try_parse_from(line.split_whitespace()).is_ok(), "{line}");
        }
    }

    #[test]
    fn the_worst_is_the_most_and_only_quoit_has_goals() {
        assert_eq!(worst(&[14.5, 17.0, 16.0]), 17.0);
        assert_eq!(verdict(ServerKind::Quoit, false), ", **missed**");
        assert_eq!(verdict(ServerKind::Redis, false), "");
    }
}
