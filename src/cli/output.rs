//! How answers are shown: values byte for byte, JSON for programs, tables for people.
//!
//! Text that comes from a node is shown without control characters, so that no key and no node can write to a terminal what
//! a person did not ask for. Values are the exception: they were asked for.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use quoit_client::Hit;
use quoit_client::stats::Stats;
use quoit_client::topology::Topology;
use serde_json::{Map, Value, json};

use super::CommandError;
use crate::units::DisplayDuration;

/// Writes a value as it is. On a terminal the prompt shall stand on a line of its own after it.
pub(super) fn value(bytes: &[u8]) -> Result<(), CommandError> {
    let mut output = io::stdout().lock();
    let ends_line = !output.is_terminal() || bytes.ends_with(b"\n");
    let result = output.write_all(bytes).and_then(|()| if ends_line { Ok(()) } else { output.write_all(b"\n") });
    result.and_then(|()| output.flush()).map_err(CommandError::Output)
}

/// Writes a JSON value as one line.
pub(super) fn line(value: &Value) -> Result<(), CommandError> {
    text_lines(&format!("{value}\n"))
}

/// Writes lines.
pub(super) fn text_lines(lines: &str) -> Result<(), CommandError> {
    let mut output = io::stdout().lock();
    output.write_all(lines.as_bytes()).and_then(|()| output.flush()).map_err(CommandError::Output)
}

/// Writes lines in place of the last ones on a terminal; elsewhere below them.
pub(super) fn page(lines: &str) -> Result<(), CommandError> {
    /// Clear the screen, and begin at its top (ECMA-48: ED, CUP).
    const CLEAR: &str = "\x1b[2J\x1b[H";
    let before = if io::stdout().is_terminal() { CLEAR } else { "" };
    text_lines(&format!("{before}{lines}\n"))
}

/// A key as it is shown to a person.
pub(super) fn shown(key: &[u8]) -> String {
    format!("\"{}\"", key.escape_ascii())
}

/// Bytes in JSON: text where they are UTF-8, else `{"hex": …}`, so that nothing is lost.
pub(super) fn text(bytes: &[u8]) -> Value {
    match str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => {
            let hex = bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut hex, byte| {
                let _ = write!(hex, "{byte:02x}");
                hex
            });
            json!({ "hex": hex })
        }
    }
}

/// An item that was found, or `found: false`.
pub(super) fn hit_json(key: &[u8], hit: Option<&Hit>) -> Value {
    match hit {
        Some(hit) => json!({
            "key": text(key),
            "found": true,
            "value": text(&hit.value),
            "version": hit.version.to_string(),
            "flags": hit.client_flags,
            "stale": hit.is_stale,
        }),
        None => json!({"key": text(key), "found": false}),
    }
}

/// What operators call the node with this id; empty for a standalone node, and for one that has just come or gone.
pub(super) fn name_of(topology: &Topology, id: u64) -> &str {
    topology.nodes.iter().find(|node| node.id == id).map_or("", |node| &node.name)
}

/// A node as a line names it: by its name if it has one, and its id.
fn called(name: &str, id: u64) -> String {
    if name.is_empty() { format!("{id:016x}") } else { format!("{} ({id:016x})", printable(name)) }
}

/// A node's counters: of each core, and their sums.
pub(super) fn stats_json(stats: &Stats, name: &str) -> Value {
    let counters = |values: &[(String, u64)]| -> Map<String, Value> {
        values.iter().map(|(name, value)| (name.clone(), (*value).into())).collect()
    };
    let cores: Vec<Value> =
        stats.cores.iter().map(|core| json!({"core": core.core, "values": counters(&core.values)})).collect();
    let total: Map<String, Value> = names(stats).map(|name| (name.to_owned(), stats.sum(name).into())).collect();
    json!({
        "node": format!("{:016x}", stats.node),
        "name": name,
        "server_version": stats.server_version,
        "uptime_ms": stats.uptime_ms,
        "total": total,
        "cores": cores,
    })
}

/// A node's counters, a line each: the sum, then each core's.
pub(super) fn stats_table(stats: &Stats, name: &str) -> String {
    let uptime = DisplayDuration(std::time::Duration::from_secs(stats.uptime_ms / 1000));
    let node = called(name, stats.node);
    let mut lines = format!("node {node}, version {}, up {uptime}\n", printable(&stats.server_version));
    let name_width = names(stats).map(|name| printable(name).len()).max().unwrap_or(0);
    let rows: Vec<(String, Vec<String>)> = names(stats)
        .map(|name| {
            let of_core = |core: &quoit_client::stats::CoreStats| {
                core.values
                    .iter()
                    .find(|(known, _)| known == name)
                    .map_or("-".to_owned(), |(_, value)| value.to_string())
            };
            let cells = std::iter::once(stats.sum(name).to_string()).chain(stats.cores.iter().map(of_core));
            (printable(name), cells.collect())
        })
        .collect();
    let heads = std::iter::once("total".to_owned()).chain(stats.cores.iter().map(|core| format!("core {}", core.core)));
    let heads: Vec<String> = heads.collect();
    let width_of = |column: usize| {
        let cells = rows.iter().map(|(_, cells)| cells[column].len());
        cells.chain([heads[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width_of).collect();
    for (name, cells) in std::iter::once((String::new(), heads.clone())).chain(rows.iter().cloned()) {
        let _ = write!(lines, "{name:name_width$}");
        for (cell, width) in cells.iter().zip(&widths) {
            let _ = write!(lines, "  {cell:>width$}");
        }
        lines.push('\n');
    }
    lines
}

/// The nodes, a line each, with the vnodes of each core.
pub(super) fn topology_table(topology: &Topology) -> String {
    let cluster = if topology.cluster.is_empty() {
        "standalone".to_owned()
    } else {
        format!("cluster {}", printable(&topology.cluster))
    };
    let mut lines = format!("{cluster}, epoch {}, {} vnodes\n", topology.epoch, topology.vnodes.len());
    for (index, node) in topology.nodes.iter().enumerate() {
        let mut of_core = vec![0u32; usize::from(node.cores)];
        for placement in topology.vnodes.iter().filter(|placement| usize::from(placement.primary.node) == index) {
            of_core[usize::from(placement.primary.core)] += 1;
        }
        let _ = write!(lines, "node {} at {}", called(&node.name, node.id), printable(&node.address));
        if !node.zone.is_empty() {
            let _ = write!(lines, ", zone {}", printable(&node.zone));
        }
        let shares: Vec<String> = of_core.iter().map(ToString::to_string).collect();
        let _ = writeln!(lines, ", weight {}, vnodes of its cores: {}", node.weight, shares.join(" "));
    }
    lines
}

/// The names of a node's counters, each once, in the order the cores tell them.
fn names(stats: &Stats) -> impl Iterator<Item = &str> {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in stats.cores.iter().flat_map(|core| &core.values) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    names.into_iter()
}

/// A text that a node sent, without what could steer a terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use quoit_client::Version;
    use quoit_client::stats::CoreStats;

    use super::*;

    #[test]
    fn json_keeps_every_byte_and_every_bit() {
        let hit = Hit { value: vec![0xff, 0x00], version: Version::new(815, 7), client_flags: 42, is_stale: false };
        let shown = hit_json(b"key", Some(&hit));
        let expected = json!({
            "key": "key", "found": true, "value": {"hex": "ff00"}, "version": "815.7", "flags": 42, "stale": false
        });
        assert_eq!(shown, expected);
        assert_eq!(hit_json(&[0xfe], None), json!({"key": {"hex": "fe"}, "found": false}));
    }

    #[test]
    fn stats_stand_in_columns_and_add_up() {
        let core = |core, hits| CoreStats { core, values: vec![("hits_total".into(), hits), ("b\u{1b}[2J".into(), 1)] };
        let stats =
            Stats { server_version: "1".into(), node: 7, uptime_ms: 61_000, cores: vec![core(0, 5), core(1, 1_000)] };
        let table = stats_table(&stats, "a\u{1b}");
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[0], "node a (0000000000000007), version 1, up 1m1s");
        assert_eq!(lines[1], "            total  core 0  core 1");
        assert_eq!(lines[2], "hits_total   1005       5    1000");
        assert!(!table.contains('\u{1b}'), "a node's text can't steer the terminal");
        assert_eq!(stats_json(&stats, "")["total"]["hits_total"], 1005);
        assert!(stats_table(&stats, "").starts_with("node 0000000000000007, version 1"));
    }
}
