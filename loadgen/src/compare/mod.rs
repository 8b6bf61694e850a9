//! Quoit, the echo, memcached and redis side by side: A B C D, A B C D, … on the same core, with the same loads.
//!
//! Figures are medians over the rounds, and what counts is ratios within one run. No best of anything.

mod goals;
mod servers;
mod table;
mod works;

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap::Parser;

use crate::cli::{Cli, Command, CompareArgs};
use crate::interrupt;
use crate::report::Report;
use crate::run::{self, RunError};
use goals::Measured;
use servers::{Programs, Server, ServerError, ServerKind};
use table::Circumstances;
use works::{Contender, Work, works};

/// Above it the machine is not ours alone.
const LOAD_AVERAGE_MAX: f64 = 0.5;

/// Why a comparison could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CompareError {
    /// A server did not start.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// A load could not be made.
    #[error("{what}: {error}")]
    Run {
        /// Which load.
        what: String,
        /// Why.
        error: RunError,
    },
    /// A load had errors: its figures mean nothing.
    #[error("{what}: the run had errors\n{report}")]
    Errors {
        /// Which load.
        what: String,
        /// Its report.
        report: String,
    },
    /// A work that doesn't exist.
    #[error("no work is called \"{name}\"; there are: {known}")]
    Unknown {
        /// The name given.
        name: String,
        /// All names.
        known: String,
    },
    /// A load's options, which this program made itself.
    #[error("a load of the comparison is wrong: {0}")]
    Load(String),
    /// A file could not be written, or a signal came.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// All measurements.
#[derive(Debug, Default)]
pub(crate) struct Results {
    works: Vec<WorkResults>,
}

#[derive(Debug)]
struct WorkResults {
    name: &'static str,
    title: &'static str,
    rows: Vec<Row>,
}

/// The reports of one contender, one per round.
#[derive(Debug)]
struct Row {
    name: &'static str,
    reports: Vec<Report>,
}

/// Runs the comparison and returns the page.
pub(crate) fn compare(args: &CompareArgs) -> Result<String, CompareError> {
    let chosen = choose(args)?;
    let programs = Programs { quoit: quoit_program(args)?, core: args.server_core };
    let circumstances = circumstances(args, &programs);
    if circumstances.load_average.parse::<f64>().is_ok_and(|load| load > LOAD_AVERAGE_MAX) {
        tell(&format!(
            "The load average is {}: other programs use these cores, and the figures will say little.",
            circumstances.load_average
        ));
    }
    let mut results = Results::default();
    for work in chosen {
        let measured = measure(&work, args, &programs, &results)?;
        results.works.push(measured);
    }
    let page = table::page(&circumstances, &results);
    if let Some(path) = &args.write {
        table::write_into(path, &page)?;
    }
    if let Some(path) = &args.json {
        fs::write(path, results.to_json())?;
    }
    Ok(page)
}

fn choose(args: &CompareArgs) -> Result<Vec<Work>, CompareError> {
    let works = works();
    if let Some(name) = args.only.iter().find(|name| !works.iter().any(|work| work.name == **name)) {
        let known = works.iter().map(|work| work.name).collect::<Vec<_>>().join(", ");
        return Err(CompareError::Unknown { name: name.clone(), known });
    }
    let is_chosen = |work: &Work| args.only.is_empty() || args.only.iter().any(|name| name == work.name);
    Ok(works.into_iter().filter(is_chosen).collect())
}

/// The program named, or the one beside this.
fn quoit_program(args: &CompareArgs) -> io::Result<std::path::PathBuf> {
    match &args.quoit {
        Some(path) => Ok(path.clone()),
        None => Ok(std::env::current_exe()?.with_file_name("quoit")),
    }
}

/// One work: its servers are started and filled once, then measured in turns.
fn measure(work: &Work, args: &CompareArgs, programs: &Programs, done: &Results) -> Result<WorkResults, CompareError> {
    tell(&format!("== {}", work.title));
    let mut running: Vec<Option<Server>> = Vec::with_capacity(work.servers.len());
    for spec in &work.servers {
        if matches!(spec.kind, ServerKind::Memcached | ServerKind::Redis) && !programs.has(spec.kind) {
            tell(&format!("   {} is not installed and left out (make bench-setup installs it)", spec.kind.name()));
            running.push(None);
            continue;
        }
        let server = programs.start(spec)?;
        tell(&format!("   {}", server.command));
        if let Some(fill) = &spec.fill {
            let line =
                format!("fill {} --connections 16 --pipeline 16", common(&server, spec.kind.protocol(), fill, args));
            load(&line)?;
        }
        server.freeze();
        running.push(Some(server));
    }
    let mut rows: Vec<Row> =
        work.contenders.iter().map(|contender| Row { name: contender.name, reports: Vec::new() }).collect();
    for round in 0..args.rounds {
        for (contender, row) in work.contenders.iter().zip(&mut rows) {
            let Some(server) = &running[contender.server] else { continue };
            let protocol = work.servers[contender.server].kind.protocol();
            let Some(line) = run_line(contender, server, protocol, args, done) else { continue };
            server.thaw();
            let report = load(&line);
            server.freeze();
            let report = report?;
            tell(&format!(
                "   round {} {}: {:.0} per second, p50 {:.1} µs, p99.9 {:.1} µs, server {:.1} % busy",
                round + 1,
                contender.name,
                report.ops_per_s,
                report.latency.p50_us,
                report.latency.p999_us,
                report.server_busy_percent.unwrap_or(f64::NAN)
            ));
            row.reports.push(report);
        }
    }
    rows.retain(|row| !row.reports.is_empty());
    Ok(WorkResults { name: work.name, title: work.title, rows })
}

fn common(server: &Server, protocol: &str, options: &str, args: &CompareArgs) -> String {
    format!(
        "--protocol {protocol} --server {} --server-pid {} --cores {} {options}",
        server.address,
        server.pid(),
        args.cores
    )
}

/// The command line of one measurement; `None` where the peak it depends on was not measured.
fn run_line(
    contender: &Contender,
    server: &Server,
    protocol: &str,
    args: &CompareArgs,
    done: &Results,
) -> Option<String> {
    let mut line = format!(
        "run {} --duration {}ms --warmup {}ms",
        common(server, protocol, &contender.load, args),
        args.duration.as_millis(),
        args.warmup.as_millis()
    );
    if let Some((work, share)) = contender.share_of_peak {
        let peak = done.median(work, contender.name, |report| report.ops_per_s)?;
        line += &format!(" --rate {:.0}", peak * share);
    }
    Some(line)
}

/// Carries out one command line of this program, in this process.
fn load(line: &str) -> Result<Report, CompareError> {
    let words = std::iter::once("quoit-loadgen").chain(line.split_whitespace());
    let cli = Cli::try_parse_from(words).map_err(|error| CompareError::Load(error.to_string()))?;
    let report = match &cli.command {
        Command::Run(args) => run::run(args),
        Command::Fill(args) => run::fill(args),
        _ => return Err(CompareError::Load(line.to_owned())),
    };
    let what = || format!("quoit-loadgen {line}");
    let report = report.map_err(|error| CompareError::Run { what: what(), error })?;
    if interrupt::requested() {
        return Err(io::Error::from(io::ErrorKind::Interrupted).into());
    }
    if !report.is_clean() {
        return Err(CompareError::Errors { what: what(), report: report.to_text() });
    }
    Ok(report)
}

fn circumstances(args: &CompareArgs, programs: &Programs) -> Circumstances {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let processors = read("/proc/cpuinfo");
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    let count = processors.lines().filter(|line| line.starts_with("processor")).count();
    let kinds = [ServerKind::Quoit, ServerKind::Memcached, ServerKind::Redis];
    let only = if args.only.is_empty() { String::new() } else { format!(" --only {}", args.only.join(",")) };
    Circumstances {
        command: format!(
            "quoit-loadgen compare --rounds {} --duration {}ms --warmup {}ms --server-core {} --cores {}{only}",
            args.rounds,
            args.duration.as_millis(),
            args.warmup.as_millis(),
            args.server_core,
            args.cores
        ),
        processor: format!("{count} × {}", model.trim_start_matches([' ', '\t', ':'])),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        load_average: read("/proc/loadavg").split_whitespace().next().unwrap_or("unknown").to_owned(),
        versions: kinds.into_iter().map(|kind| programs.version(kind)).collect(),
        rounds: args.rounds,
        seconds: args.duration.as_secs_f64(),
    }
}

impl Results {
    /// The median of a figure over the rounds.
    fn median(&self, work: &str, contender: &str, figure: impl Fn(&Report) -> f64) -> Option<f64> {
        median(&self.row((work, contender))?.sorted(figure))
    }

    /// The ratio of two contenders' medians.
    fn ratio(&self, work: &str, ours: &str, theirs: &str, figure: impl Fn(&Report) -> f64 + Copy) -> Option<f64> {
        Some(self.median(work, ours, figure)? / self.median(work, theirs, figure)?)
    }

    /// The ratio of two throughputs, which counts only where neither server had time to spare.
    fn throughput_ratio(
        &self,
        ours: (&str, &str),
        theirs: (&str, &str),
        figure: impl Fn(&Report) -> f64 + Copy,
    ) -> Option<Measured> {
        let (ours, theirs) = (self.row(ours)?, self.row(theirs)?);
        let value = median(&ours.sorted(figure))? / median(&theirs.sorted(figure))?;
        Some(Measured { value, counts: !ours.is_generator_bound() && !theirs.is_generator_bound() })
    }

    fn row(&self, (work, contender): (&str, &str)) -> Option<&Row> {
        let work = self.works.iter().find(|results| results.name == work)?;
        work.rows.iter().find(|row| row.name == contender)
    }

    /// Every report, under its work and contender.
    fn to_json(&self) -> String {
        let rows = |work: &WorkResults| -> serde_json::Map<String, serde_json::Value> {
            let reports = |row: &Row| serde_json::to_value(&row.reports).unwrap_or_default();
            work.rows.iter().map(|row| (row.name.to_owned(), reports(row))).collect()
        };
        let works: serde_json::Map<_, _> =
            self.works.iter().map(|work| (work.name.to_owned(), rows(work).into())).collect();
        serde_json::Value::Object(works).to_string() + "\n"
    }
}

impl Row {
    /// Whether most of its rounds found the server with time to spare.
    fn is_generator_bound(&self) -> bool {
        self.reports.iter().filter(|report| report.generator_bound == Some(true)).count() * 2 > self.reports.len()
    }

    fn sorted(&self, figure: impl Fn(&Report) -> f64) -> Vec<f64> {
        let mut figures: Vec<f64> = self.reports.iter().map(figure).filter(|figure| figure.is_finite()).collect();
        figures.sort_by(f64::total_cmp);
        figures
    }
}

/// The middle of sorted figures, or of the two in the middle.
fn median(sorted: &[f64]) -> Option<f64> {
    let (lower, upper) = (sorted.get(sorted.len().checked_sub(1)? / 2)?, sorted.get(sorted.len() / 2)?);
    Some((lower + upper) / 2.0)
}

/// Progress goes to standard error; the page is the output.
fn tell(line: &str) {
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(io::stderr(), "{line}");
}

/// Checks a path before an hour of measuring is lost for it.
pub(crate) fn check_writable(path: &Path) -> io::Result<()> {
    fs::OpenOptions::new().append(true).create(true).open(path).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[1.0, 2.0, 9.0]), Some(2.0));
        assert_eq!(median(&[1.0, 2.0, 4.0, 9.0]), Some(3.0));
    }

    #[test]
    fn every_load_is_a_valid_command_line() {
        for work in works() {
            for contender in &work.contenders {
                let line = format!("quoit-loadgen run {}", contender.load);
                assert!(Cli::try_parse_from(line.split_whitespace()).is_ok(), "{line}");
                assert!(contender.server < work.servers.len());
            }
            for fill in work.servers.iter().filter_map(|server| server.fill.as_ref()) {
                let line = format!("quoit-loadgen fill {fill} --connections 16 --pipeline 16");
                assert!(Cli::try_parse_from(line.split_whitespace()).is_ok(), "{line}");
            }
        }
    }

    #[test]
    fn every_goal_names_works_and_contenders_that_exist() {
        // With one report of each contender every goal has a figure.
        let report = crate::drive::empty_report();
        let works = works().into_iter().map(|work| WorkResults {
            name: work.name,
            title: work.title,
            rows: work.contenders.iter().map(|one| Row { name: one.name, reports: vec![report.clone()] }).collect(),
        });
        let results = Results { works: works.collect() };
        for goal in goals::goals(&results).into_iter().chain(goals::validity(&results)) {
            assert!(goal.actual.is_some(), "{}", goal.text);
        }
    }
}
