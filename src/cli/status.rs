//! How a cluster's status is shown: a table for people, a line of JSON for programs.

use std::fmt::Write as _;
use std::ops::Range;
use std::time::Duration;

use super::output::printable;
use crate::control::status::{ClusterStatus, Moving, NodeStatus};
use crate::units::{DisplayDuration, DisplayRoughly};

/// Columns of the table; those of numbers, which stand below one another.
const COLUMNS: usize = 9;
const NUMBERS: Range<usize> = 2..7;

/// The status as one line of JSON.
pub(super) fn json_line(status: &ClusterStatus) -> String {
    let mut line = serde_json::to_string(status).expect("texts and numbers");
    line.push('\n');
    line
}

/// The status for people.
pub(super) fn table(status: &ClusterStatus) -> String {
    let cluster = printable(&status.cluster);
    let mut lines = match status.epoch {
        0 => format!("cluster {cluster}: not founded yet, nodes are waited for\n"),
        epoch => format!(
            "cluster {cluster}, epoch {epoch}: {} vnodes, {}, writes wait for {}\n",
            status.vnodes,
            counted(usize::from(status.replicas), "replica", "replicas"),
            written(&status.write),
        ),
    };
    let rows: Vec<[String; COLUMNS]> = status.nodes.iter().map(|node| row(status, node)).collect();
    let heads =
        ["NODE", "STATE", "LEADS", "IN SYNC", "CATCHING UP", "LAG", "WEIGHT", "ZONE", "ADDRESS"].map(str::to_owned);
    let width_of = |column: usize| {
        let cells = rows.iter().map(|cells| cells[column].chars().count());
        cells.chain([heads[column].len()]).max().unwrap_or(0)
    };
    let widths: [usize; COLUMNS] = std::array::from_fn(width_of);
    for cells in std::iter::once(&heads).chain(&rows) {
        let mut line = String::new();
        for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
            let _ = if NUMBERS.contains(&column) {
                write!(line, "{cell:>width$}  ")
            } else {
                write!(line, "{cell:width$}  ")
            };
        }
        lines.push_str(line.trim_end());
        lines.push('\n');
    }
    lines.push_str(&remarks(status));
    lines
}

/// What is left to do until a node is drained.
pub(super) fn drain_progress(status: &ClusterStatus, node: &NodeStatus) -> String {
    let copies = node.in_sync + node.catching_up;
    let eta_secs = status.moving.as_ref().and_then(|moving| moving.eta_secs);
    format!(
        "{}: {} and {} still to give away{}",
        printable(&node.name),
        counted(node.leads, "vnode", "vnodes"),
        counted(copies, "copy", "copies"),
        rest(eta_secs)
    )
}

/// A line about what is under way, with what stands in its way.
pub(super) fn with_trouble(status: &ClusterStatus, line: String) -> String {
    match (&status.trouble, &status.leader) {
        (Some(trouble), _) => format!("{line}; {} says: {}", printable(&status.asked), printable(trouble)),
        (None, None) => format!("{line}; no node leads: nothing changes until one does"),
        (None, Some(_)) => line,
    }
}

/// How far everything is on its way.
pub(super) fn move_progress(moving: &Moving) -> String {
    let Moving { steps_left, steps_done, bytes_left, bytes_per_sec, eta_secs } = moving;
    let to_stream = match (bytes_left, bytes_per_sec) {
        (0, _) => String::new(),
        (_, 0) => format!(", {} to stream", DisplayRoughly(*bytes_left)),
        _ => format!(", {} to stream at {}/s", DisplayRoughly(*bytes_left), DisplayRoughly(*bytes_per_sec)),
    };
    format!("moving: {steps_left} of {} steps left{to_stream}{}", steps_left + steps_done, rest(*eta_secs))
}

fn rest(eta_secs: Option<u64>) -> String {
    eta_secs.map_or(String::new(), |secs| format!(", about {} to go", DisplayDuration(Duration::from_secs(secs))))
}

fn row(status: &ClusterStatus, node: &NodeStatus) -> [String; COLUMNS] {
    let is_leader = status.leader.as_ref() == Some(&node.name) && node.state != "lost";
    [
        if is_leader { format!("{} *", printable(&node.name)) } else { printable(&node.name) },
        printable(&node.state),
        node.leads.to_string(),
        node.in_sync.to_string(),
        node.catching_up.to_string(),
        match node.lag_writes {
            0 => "0".to_owned(),
            writes => format!("{writes} ({})", DisplayRoughly(node.lag_bytes)),
        },
        node.weight.to_string(),
        if node.zone.is_empty() { "-".to_owned() } else { printable(&node.zone) },
        printable(&node.address),
    ]
}

/// What is to be known beside the table, a line each.
fn remarks(status: &ClusterStatus) -> String {
    let mut lines = String::new();
    let mut say = |line: String| lines.push_str(&format!("{line}\n"));
    match &status.leader {
        Some(_) => say("* leads the cluster".to_owned()),
        None => say("no node leads: nothing changes until one does (is etcd there?)".to_owned()),
    }
    if let Some(trouble) = &status.trouble {
        say(format!("{} says: {}", printable(&status.asked), printable(trouble)));
    }
    if let Some(moving) = &status.moving {
        say(move_progress(moving));
    }
    let vnodes = |count| counted(count, "vnode", "vnodes");
    if status.vnodes_without_primary > 0 {
        say(format!("{} without a primary: requests for them wait", vnodes(status.vnodes_without_primary)));
    }
    let silent: Vec<String> =
        status.nodes.iter().filter(|node| node.silent).map(|node| printable(&node.name)).collect();
    if !silent.is_empty() {
        say(format!(
            "no word from {}: how far copies lag behind what is led there is not in the figures",
            silent.join(", ")
        ));
    }
    if status.vnodes_short_of_copies > 0 {
        say(format!("{} with fewer copies than there should be", vnodes(status.vnodes_short_of_copies)));
    }
    lines
}

fn written(mode: &str) -> &str {
    match mode {
        "async" => "no copy",
        "one" => "one copy",
        "all" => "all copies",
        other => other,
    }
}

fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, state: &str, leads: usize) -> NodeStatus {
        let (name, state, address) = (name.to_owned(), state.to_owned(), format!("{name}:7400"));
        NodeStatus { name, state, leads, in_sync: 1, weight: 1, address, ..NodeStatus::default() }
    }

    #[test]
    fn a_status_is_a_table_with_remarks() {
        let status = ClusterStatus {
            cluster: "demo".to_owned(),
            epoch: 9,
            vnodes: 4096,
            replicas: 1,
            write: "one".to_owned(),
            leader: Some("a".to_owned()),
            asked: "a".to_owned(),
            vnodes_short_of_copies: 1,
            moving: Some(Moving {
                steps_left: 30,
                steps_done: 10,
                bytes_left: 3 << 30,
                bytes_per_sec: 25 << 20,
                eta_secs: Some(90),
            }),
            nodes: vec![
                node("a", "serving", 4000),
                NodeStatus { lag_writes: 12, lag_bytes: 3_481, silent: true, ..node("node\u{1b}[2J", "draining", 96) },
            ],
            ..ClusterStatus::default()
        };
        let table = table(&status);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[0], "cluster demo, epoch 9: 4096 vnodes, 1 replica, writes wait for one copy");
        assert_eq!(lines[1], "NODE     STATE     LEADS  IN SYNC  CATCHING UP          LAG  WEIGHT  ZONE  ADDRESS");
        assert_eq!(lines[2], "a *      serving    4000        1            0            0       1  -     a:7400");
        assert_eq!(lines[3], "node[2J  draining     96        1            0  12 (3.3KiB)       1  -     node[2J:7400");
        let moving = "moving: 30 of 40 steps left, 3.0GiB to stream at 25.0MiB/s, about 1m30s to go";
        let silent = "no word from node[2J: how far copies lag behind what is led there is not in the figures";
        let short = "1 vnode with fewer copies than there should be";
        assert_eq!(lines[4..], ["* leads the cluster", moving, silent, short]);
        let drain = "node[2J: 96 vnodes and 1 copy still to give away, about 1m30s to go";
        assert_eq!(drain_progress(&status, &status.nodes[1]), drain);
        let read: ClusterStatus = serde_json::from_str(&json_line(&status)).expect("its own JSON");
        assert_eq!(read, status);
    }

    #[test]
    fn a_cluster_that_is_not_there_yet_and_its_trouble_are_told() {
        let status = ClusterStatus {
            cluster: "demo".to_owned(),
            asked: "a".to_owned(),
            trouble: Some("etcd does not answer".to_owned()),
            ..ClusterStatus::default()
        };
        let table = table(&status);
        assert!(table.contains("not founded yet") && table.contains("no node leads"), "{table}");
        assert!(table.contains("a says: etcd does not answer"), "{table}");
        let progress = |status: &ClusterStatus| with_trouble(status, "moving".to_owned());
        assert_eq!(progress(&status), "moving; a says: etcd does not answer");
        let without = ClusterStatus { trouble: None, ..status };
        assert_eq!(progress(&without), "moving; no node leads: nothing changes until one does");
        assert_eq!(progress(&ClusterStatus { leader: Some("a".to_owned()), ..without }), "moving");
    }
}
