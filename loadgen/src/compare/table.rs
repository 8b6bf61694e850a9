//! The comparison as a page: what it ran on, the goals with what was reached, every figure; and its place in a file.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;

use super::circumstances::Circumstances;
use super::goals::{Bound, Goal, Measured, Verdict, goals, user_ns, validity};
use super::{Results, Row};
use crate::cli::CompareArgs;
use crate::report::{Report, grouped};

/// The whole page.
pub(super) fn page(circumstances: &Circumstances, args: &CompareArgs, results: &Results) -> String {
    // Writing to a string can't fail.
    let mut page = circumstances.to_text();
    let _ = write!(
        page,
        "\n{} rounds, each contender for {} s in each, one after the other; the others are stopped meanwhile. Medians, with \
         the least and the most in brackets; ratios are of medians within this run.\n",
        args.rounds,
        args.duration.as_secs_f64()
    );
    let validity = validity(results);
    goal_table(&mut page, "Whether the echo is strong enough for the run to count:", &validity);
    if validity.iter().any(|goal| goal.verdict() == Verdict::Missed) {
        page.push_str("\n**The echo is too weak: ratios to it do not count.**\n");
    }
    goal_table(&mut page, "Goals:", &goals(results));
    for work in &results.works {
        if work.rows.is_empty() {
            continue;
        }
        let _ = write!(page, "\n#### {}\n\n", work.title);
        figure_table(&mut page, &work.rows);
        if let Some(bytes) = work.idle_connection_bytes {
            let _ = write!(page, "\nAn idle connection costs {} bytes of the server's own memory.\n", grouped(bytes));
        }
    }
    page.push_str(
        "\n† most rounds found the server's core under 95 % busy: the generator, the depth or other programs set the pace, and\n\
         the server carries more than that. Such a figure proves a miss of whoever is measured against it, and nothing else.\n\n\
         ‡ most rounds found the generator's core at least 95 % busy: it may have set the pace, or shared in it.\n",
    );
    page
}

fn goal_table(page: &mut String, title: &str, goals: &[Goal]) {
    let _ = write!(page, "\n{title}\n\n| ratio | goal | reached | |\n| --- | --- | --- | --- |\n");
    for goal in goals {
        let bound_text = match goal.bound {
            Bound::AtLeast(bound) => format!("≥ {bound}"),
            Bound::AtMost(bound) => format!("≤ {bound}"),
        };
        let actual_text = goal.actual.map_or_else(|| "–".to_owned(), |actual| actual_text(&actual, goal.bound));
        let verdict = match goal.verdict() {
            Verdict::Kept => "kept",
            Verdict::Missed => "**missed**",
            Verdict::Open => "open †",
            Verdict::NotMeasured => "not measured",
        };
        let _ = writeln!(page, "| {} | {bound_text} | {actual_text} | {verdict} |", goal.text);
    }
}

/// Most digits behind the point; nearer to its bound a figure is as good as on it.
const DECIMALS_MAX: usize = 6;

/// The figure, and on which side of it the truth lies. It has as many digits as it takes not to read as kept when it is missed.
fn actual_text(actual: &Measured, bound: Bound) -> String {
    let Measured { value, may_be_more, may_be_less } = *actual;
    let side = match (may_be_more, may_be_less) {
        (false, false) => "",
        (true, false) => "≥ ",
        (false, true) => "≤ ",
        (true, true) => "about ",
    };
    let decimals_min = if value >= 100.0 { 0 } else { 2 };
    let reads_true = |decimals: &usize| {
        let shown: f64 = format!("{value:.decimals$}").parse().unwrap_or(value);
        bound.holds(shown) == bound.holds(value)
    };
    match (decimals_min..=DECIMALS_MAX).find(reads_true).unwrap_or(DECIMALS_MAX) {
        0 => format!("{side}{}", grouped(value)),
        decimals => format!("{side}{value:.decimals$}"),
    }
}

fn figure_table(page: &mut String, rows: &[Row]) {
    let multi = rows.iter().any(|row| row.reports.iter().any(|report| report.keys_per_s > report.ops_per_s * 1.5));
    let unit = if multi { "keys per second" } else { "requests per second" };
    let _ = write!(
        page,
        "| | {unit} | p50 µs | p99 µs | p99.9 µs | server busy % (and spinning) | generator busy % | processor ns per request (user) |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
    );
    for row in rows {
        let rate = |report: &Report| if multi { report.keys_per_s } else { report.ops_per_s };
        let bound_mark = if row.is_generator_bound() { " †" } else { "" };
        let full_mark = if row.is_generator_full() { " ‡" } else { "" };
        let _ = writeln!(
            page,
            "| {}{bound_mark}{full_mark} | {} | {} | {} | {} | {}{} | {} | {} ({}) |",
            row_name(row),
            spread(row, rate, grouped),
            spread(row, |report| report.latency.p50_us, tenths),
            spread(row, |report| report.latency.p99_us, tenths),
            spread(row, |report| report.latency.p999_us, tenths),
            spread(row, |report| report.server_busy_percent.unwrap_or(f64::NAN), tenths),
            spinning(row),
            median_text(row, |report| report.generator_busy_percent),
            median_text(row, |report| report.server_cpu_us_per_request.unwrap_or(f64::NAN) * 1e3),
            median_text(row, |report| user_ns(report).unwrap_or(f64::NAN)),
        );
    }
}

/// The contender, and what went on beside it.
fn row_name(row: &Row) -> String {
    let beside = super::median(&row.sorted(|report| report.beside_bytes_per_s / (1 << 20) as f64));
    match beside.filter(|&mebibytes| mebibytes > 0.0) {
        Some(mebibytes) => format!("{} ({mebibytes:.0} MiB per second)", row.name),
        None => row.name.to_owned(),
    }
}

/// What the server's core spun beside its work, where it did.
fn spinning(row: &Row) -> String {
    let percent = super::median(&row.sorted(|report| report.server_spinning_percent.unwrap_or(f64::NAN)));
    percent.filter(|percent| *percent >= 0.05).map_or_else(String::new, |percent| format!(" + {percent:.1}"))
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

/// Puts what the command `name` has found between its two lines in the file, and leaves everything else alone; adds the
/// lines at the end of a file that has none.
pub(super) fn write_into(path: &Path, name: &str, page: &str) -> io::Result<()> {
    let before = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    fs::write(path, placed(&before, name, page))
}

fn placed(before: &str, name: &str, page: &str) -> String {
    let begin_mark = format!("<!-- begin: written by quoit-loadgen {name} -->");
    let end_mark = format!("<!-- end: written by quoit-loadgen {name} -->");
    let section = format!("{begin_mark}\n{page}{end_mark}");
    match (before.find(&begin_mark), before.find(&end_mark)) {
        (Some(begin), Some(end)) if begin < end => {
            format!("{}{section}{}", &before[..begin], &before[end + end_mark.len()..])
        }
        _ => format!("{}\n\n{section}\n", before.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_told_with_the_side_on_which_the_truth_lies() {
        let goal = |value, may_be_more, may_be_less| Goal {
            text: "t",
            bound: Bound::AtLeast(1.5),
            actual: Some(Measured { value, may_be_more, may_be_less }),
        };
        let mut page = String::new();
        goal_table(&mut page, "Goals:", &[goal(2.0, false, false), goal(2.0, false, true), goal(1.0, false, true)]);
        for line in
            ["| t | ≥ 1.5 | 2.00 | kept |", "| t | ≥ 1.5 | ≤ 2.00 | open † |", "| t | ≥ 1.5 | ≤ 1.00 | **missed** |"]
        {
            assert!(page.contains(line), "{page}");
        }
    }

    #[test]
    fn a_figure_just_beside_its_bound_does_not_read_as_on_its_other_side() {
        let text = |value, bound| actual_text(&Measured::exactly(value), bound);
        assert_eq!(text(0.899, Bound::AtLeast(0.9)), "0.899");
        assert_eq!(text(0.899_96, Bound::AtLeast(0.9)), "0.89996");
        assert_eq!(text(0.901, Bound::AtLeast(0.9)), "0.90");
        assert_eq!(text(1.003, Bound::AtMost(1.0)), "1.003");
        assert_eq!(text(2.001, Bound::AtMost(1.0)), "2.00");
        assert_eq!(text(100.2, Bound::AtMost(100.0)), "100.2");
        assert_eq!(text(4097.0, Bound::AtMost(4096.0)), "4 097");
    }

    #[test]
    fn only_the_marked_section_is_replaced() {
        let (begin, end) =
            ("<!-- begin: written by quoit-loadgen compare -->", "<!-- end: written by quoit-loadgen compare -->");
        let first = placed("# Title\n\ntext\n", "compare", "one\n");
        assert_eq!(first, format!("# Title\n\ntext\n\n{begin}\none\n{end}\n"));
        let with_more = format!("{}\nmore\n", placed(&first, "hits", "other\n"));
        let again = placed(&with_more, "compare", "two\n");
        assert_eq!(again, with_more.replace("\none\n", "\ntwo\n"));
    }
}
