//! Throughput against latency: an open loop at rising rates, for each server until it no longer follows.
//!
//! Rates rise by the same factor, so that points lie evenly on a logarithmic axis. Latency counts from when a request was
//! due: past its limit a server's latency is how far it has fallen behind, and its line goes straight up.

use std::fmt::Write;
use std::fs;

use super::circumstances::Circumstances;
use super::servers::{Server, ServerKind, ServerSpec};
use super::stage::{self, Stage, installed};
use super::svg::{Chart, Panel};
use super::{CompareError, Row, median, table, tell};
use crate::cli::PlotArgs;
use crate::report::{Report, grouped};

/// The first rate, per second.
const RATE_FIRST: f64 = 20_000.0;
/// From one rate to the next.
const RATE_FACTOR: f64 = std::f64::consts::SQRT_2;
/// No server gets farther.
const RATE_LAST: f64 = 20e6;
/// A server that answers less than this share of the rate no longer follows.
const FOLLOWS_SHARE: f64 = 0.95;
/// Longer latencies are drawn as this: they are a backlog, and would press everything else together.
const DRAWN_US_MAX: f64 = 20_000.0;
const DATA: &str = "--keys 10000 --key-size 16 --value-size 64";
const SHAPE: &str = "--zipf 0 --connections 64 --pipeline 16";
/// In the order of their colours.
const SERVERS: [(&str, ServerKind, &str); 4] = [
    ("quoit", ServerKind::Quoit, "--memory 1GiB"),
    ("echo", ServerKind::Echo, "--request-bytes 32 --reply-bytes 88"),
    ("memcached", ServerKind::Memcached, "-m 1024"),
    ("redis", ServerKind::Redis, ""),
];

/// One server's points, a row for each rate.
struct Line {
    name: &'static str,
    server: Server,
    points: Vec<Row>,
}

/// Measures, writes the chart, and returns the page.
pub(crate) fn plot(args: &PlotArgs) -> Result<String, CompareError> {
    let stage = Stage::new(&args.stage)?;
    let circumstances = Circumstances::now(&stage.programs);
    circumstances.warn_of_load();
    let mut lines = Vec::new();
    for (name, kind, options) in SERVERS {
        if !installed(&stage.programs, kind) {
            continue;
        }
        let server = stage.programs.start(&ServerSpec::new(kind, options))?;
        if kind != ServerKind::Echo {
            stage.fill(&server, DATA)?;
        }
        server.freeze();
        lines.push(Line { name, server, points: Vec::new() });
    }
    for round in 0..args.rounds {
        tell(&format!("== round {}", round + 1));
        measure_round(&stage, args, &mut lines)?;
    }
    fs::write(&args.svg, chart(&circumstances, args, &lines).to_svg())?;
    let page = page(&circumstances, args, &lines);
    if let Some(path) = &args.stage.write {
        table::write_into(path, "plot", &page)?;
    }
    Ok(page)
}

/// Every rate for every server that still follows, one server after the other at each.
fn measure_round(stage: &Stage, args: &PlotArgs, lines: &mut [Line]) -> Result<(), CompareError> {
    let mut follows = vec![true; lines.len()];
    let rates = (0..).map(|step| RATE_FIRST * RATE_FACTOR.powi(step)).take_while(|&rate| rate <= RATE_LAST);
    for (step, rate) in rates.enumerate() {
        for (line, follows) in lines.iter_mut().zip(&mut follows).filter(|(_, follows)| **follows) {
            let options = stage.load_options(&line.server, &format!("{DATA} {SHAPE} --rate {rate:.0}"));
            let (duration, warmup) = (args.duration.as_millis(), args.warmup.as_millis());
            line.server.thaw();
            let report = stage::load(&format!("run {options} --duration {duration}ms --warmup {warmup}ms"));
            line.server.freeze();
            let report = report?;
            tell(&format!(
                "   {} at {rate:.0}: {:.0} per second, p50 {:.1} µs, p99.9 {:.1} µs",
                line.name, report.ops_per_s, report.latency.p50_us, report.latency.p999_us
            ));
            *follows = report.ops_per_s >= rate * FOLLOWS_SHARE;
            if line.points.len() <= step {
                line.points.push(Row { name: line.name, reports: Vec::new() });
            }
            line.points[step].reports.push(report);
        }
        if !follows.contains(&true) {
            break;
        }
    }
    Ok(())
}

/// The points that most rounds have reached: throughput and the figure, as medians. A server that carries less at a higher
/// rate has passed its limit, and its line ends.
fn points(line: &Line, rounds: u32, figure: impl Fn(&Report) -> f64) -> Vec<(f64, f64)> {
    let mut points: Vec<(f64, f64)> = Vec::new();
    for row in line.points.iter().filter(|row| row.reports.len() * 2 > rounds as usize) {
        let carried = median(&row.sorted(|report| report.ops_per_s));
        let Some(point) = carried.zip(median(&row.sorted(&figure))) else { continue };
        if points.last().is_some_and(|last| point.0 <= last.0) {
            break;
        }
        points.push(point);
    }
    points
}

fn chart(circumstances: &Circumstances, args: &PlotArgs, lines: &[Line]) -> Chart {
    let panel = |title, figure: fn(&Report) -> f64| Panel {
        title,
        lines: lines.iter().map(|line| points(line, args.rounds, |report| figure(report).min(DRAWN_US_MAX))).collect(),
    };
    let mut notes: Vec<String> = circumstances.to_text().lines().map(|line| line.replace('`', "")).collect();
    notes.push(format!("Latencies over {} ms are drawn at {0} ms: the server no longer follows.", DRAWN_US_MAX / 1e3));
    Chart {
        title: "Latency of a get by throughput, each server on one core".to_owned(),
        notes,
        x_label: "gets per second (open loop, 64 connections)",
        series: lines.iter().map(|line| line.name).collect(),
        panels: vec![
            panel("median (p50)", |report| report.latency.p50_us),
            panel("99.9th percentile (p99.9)", |report| report.latency.p999_us),
        ],
    }
}

fn page(circumstances: &Circumstances, args: &PlotArgs, lines: &[Line]) -> String {
    let mut page = circumstances.to_text();
    // Writing to a string can't fail.
    let _ = write!(
        page,
        "\nOpen loop over 64 connections with at most 16 unanswered requests each, gets of 16 + 64 bytes, 10 000 keys; {} \
         rounds of {} ms at each rate, medians. A line ends where its server answers less than {:.0} % of the rate.\n\n\
         | | gets per second | p50 µs | p99.9 µs |\n| --- | ---: | ---: | ---: |\n",
        args.rounds,
        args.duration.as_millis(),
        FOLLOWS_SHARE * 100.0
    );
    for line in lines {
        let p999 = points(line, args.rounds, |report| report.latency.p999_us);
        for ((rate, p50), (_, p999)) in points(line, args.rounds, |report| report.latency.p50_us).into_iter().zip(p999)
        {
            let _ = writeln!(page, "| {} | {} | {p50:.1} | {p999:.1} |", line.name, grouped(rate));
        }
    }
    page
}
