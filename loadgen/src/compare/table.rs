//! The comparison as a page: what it ran on, the goals with what was reached, every figure; and its place in a file.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;

use super::goals::{Bound, Goal, Measured, goals, user_ns, validity};
use super::{Results, Row};
use crate::report::{Report, grouped};

/// The lines between which the page stands; everything outside is left alone.
const BEGIN: &str = "<!-- begin: written by quoit-loadgen compare -->";
const END: &str = "<!-- end: written by quoit-loadgen compare -->";

/// Where and with what the comparison ran.
#[derive(Clone, Debug, Default)]
pub(super) struct Circumstances {
    pub(super) command: String,
    pub(super) processor: String,
    pub(super) kernel: String,
    pub(super) load_average: String,
    pub(super) versions: Vec<String>,
    pub(super) rounds: u32,
    pub(super) seconds: f64,
}

/// The whole page.
pub(super) fn page(circumstances: &Circumstances, results: &Results) -> String {
    let mut page = String::new();
    let Circumstances { command, processor, kernel, load_average, versions, rounds, seconds } = circumstances;
    // Writing to a string can't fail.
    let _ = write!(
        page,
        "Command: `{command}`  \nMachine: {processor}; Linux {kernel}; load average before: {load_average}  \n\
         Versions: {}\n\n\
         {rounds} rounds, each contender for {seconds} s in each, one after the other; the others are stopped meanwhile. \
         Medians, with the least and the most in brackets; ratios are of medians within this run.\n",
        versions.join(" · ")
    );
    goal_table(&mut page, "Whether the echo is strong enough for the run to count:", &validity(results));
    goal_table(&mut page, "Goals:", &goals(results));
    for work in &results.works {
        if work.rows.is_empty() {
            continue;
        }
        let _ = write!(page, "\n#### {}\n\n", work.title);
        figure_table(&mut page, &work.rows);
    }
    page.push_str("\n† the server's busiest core was under 95 % busy: the generator, the depth or other programs set the pace, and the\nthroughput does not count.\n");
    page
}

fn goal_table(page: &mut String, title: &str, goals: &[Goal]) {
    let _ = write!(page, "\n{title}\n\n| ratio | goal | reached | |\n| --- | --- | --- | --- |\n");
    for Goal { text, bound, actual } in goals {
        let bound_text = match bound {
            Bound::AtLeast(bound) => format!("≥ {bound}"),
            Bound::AtMost(bound) => format!("≤ {bound}"),
        };
        let (actual_text, verdict) = match actual.filter(|actual| actual.value.is_finite()) {
            Some(Measured { value, counts: false }) => (format!("{value:.2}"), "does not count †"),
            Some(Measured { value, .. }) => {
                (format!("{value:.2}"), if bound.holds(value) { "kept" } else { "**missed**" })
            }
            None => ("not measured".to_owned(), ""),
        };
        let _ = writeln!(page, "| {text} | {bound_text} | {actual_text} | {verdict} |");
    }
}

fn figure_table(page: &mut String, rows: &[Row]) {
    let multi = rows.iter().any(|row| row.reports.iter().any(|report| report.keys_per_s > report.ops_per_s * 1.5));
    let unit = if multi { "keys per second" } else { "requests per second" };
    let _ = write!(
        page,
        "| | {unit} | p50 µs | p99 µs | p99.9 µs | server busy % | processor ns per request (user) |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
    );
    for row in rows {
        let rate = |report: &Report| if multi { report.keys_per_s } else { report.ops_per_s };
        let mark = if row.is_generator_bound() { " †" } else { "" };
        let _ = writeln!(
            page,
            "| {}{mark} | {} | {} | {} | {} | {} | {} ({}) |",
            row.name,
            spread(row, rate, grouped),
            spread(row, |report| report.latency.p50_us, tenths),
            spread(row, |report| report.latency.p99_us, tenths),
            spread(row, |report| report.latency.p999_us, tenths),
            spread(row, |report| report.server_busy_percent.unwrap_or(f64::NAN), tenths),
            median_text(row, |report| report.server_cpu_us_per_request.unwrap_or(f64::NAN) * 1e3),
            median_text(row, |report| user_ns(report).unwrap_or(f64::NAN)),
        );
    }
}

fn tenths(number: f64) -> String {
    format!("{number:.1}")
}

/// Median, least and most.
fn spread(row: &Row, figure: impl Fn(&Report) -> f64, show: impl Fn(f64) -> String) -> String {
    let figures = row.sorted(figure);
    match (figures.first(), figures.last(), super::median(&figures)) {
        (Some(&least), Some(&most), Some(median)) => format!("{} ({}–{})", show(median), show(least), show(most)),
        _ => "–".to_owned(),
    }
}

fn median_text(row: &Row, figure: impl Fn(&Report) -> f64) -> String {
    super::median(&row.sorted(figure)).map_or_else(|| "–".to_owned(), |median| format!("{median:.0}"))
}

/// Puts the page between its two lines in the file; adds both at the end of a file that has none.
pub(super) fn write_into(path: &Path, page: &str) -> io::Result<()> {
    let before = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    fs::write(path, placed(&before, page))
}

fn placed(before: &str, page: &str) -> String {
    let section = format!("{BEGIN}\n{page}{END}");
    match (before.find(BEGIN), before.find(END)) {
        (Some(begin), Some(end)) if begin < end => {
            format!("{}{section}{}", &before[..begin], &before[end + END.len()..])
        }
        _ => format!("{}\n\n{section}\n", before.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_throughput_of_an_idle_server_keeps_no_goal() {
        let measured = |counts| Some(Measured { value: 2.0, counts });
        let goals =
            [true, false].map(|counts| Goal { text: "t", bound: Bound::AtLeast(1.5), actual: measured(counts) });
        let mut page = String::new();
        goal_table(&mut page, "Goals:", &goals);
        assert!(page.contains("| t | ≥ 1.5 | 2.00 | kept |"), "{page}");
        assert!(page.contains("| t | ≥ 1.5 | 2.00 | does not count † |"), "{page}");
    }

    #[test]
    fn only_the_marked_section_is_replaced() {
        let first = placed("# Title\n\ntext\n", "one\n");
        assert_eq!(first, format!("# Title\n\ntext\n\n{BEGIN}\none\n{END}\n"));
        let with_more = format!("{first}\nmore\n");
        assert_eq!(placed(&with_more, "two\n"), format!("# Title\n\ntext\n\n{BEGIN}\ntwo\n{END}\n\nmore\n"));
    }
}
