//! Quoit, the echo, memcached and redis side by side: A B C D, A B C D, … on the same core, with the same loads.
//!
//! Figures are medians over the rounds, and what counts is ratios within one run. No best of anything.

mod circumstances;
mod density;
mod goals;
mod hits;
mod items;
mod plot;
mod servers;
mod stage;
mod svg;
mod table;
mod works;

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use crate::cli::CompareArgs;
use crate::connect::ConnectError;
use crate::cores::CoreError;
use crate::report::{GENERATOR_BUSY_PERCENT_MAX, Report};
use crate::run::RunError;
use circumstances::Circumstances;
use goals::Measured;
use servers::{Cores, Server, ServerError};
use stage::Stage;
use works::{Contender, Work, works};

pub(crate) use density::density;
pub(crate) use hits::hits;
pub(crate) use plot::plot;
pub(crate) use servers::ServerKind;

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
    /// The idle connections could not be opened.
    #[error("can't keep idle connections to {server}: {error}")]
    Idle {
        /// How the server was started.
        server: String,
        /// Why.
        error: ConnectError,
    },
    /// A work that doesn't exist.
    #[error("no work is called \"{name}\"; there are: {known}")]
    Unknown {
        /// The name given.
        name: String,
        /// All names.
        known: String,
    },
    /// A server lost items that should all be there, or kept some that should not.
    #[error("{server} holds {items} items instead of {expected}: has it too little memory?")]
    Items {
        /// How it was started.
        server: String,
        /// Items it says it holds.
        items: u64,
        /// Items that were written.
        expected: u64,
    },
    /// A server's limit leads nowhere near the memory it should use.
    #[error("{server}: {attempts} starts with other limits did not bring its resident memory to what was asked for")]
    Untuned {
        /// Which.
        server: &'static str,
        /// Starts.
        attempts: u32,
    },
    /// A core that can't be used.
    #[error(transparent)]
    Cores(#[from] CoreError),
    /// Too little memory for what is to be measured.
    #[error(
        "this needs {needed_gib} GiB of memory, and {available_gib:.1} GiB are free: measure less (--counts, --only)"
    )]
    Memory {
        /// Needed.
        needed_gib: u64,
        /// There is.
        available_gib: f64,
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
    /// Bytes of the server's own memory for each idle connection, where there were any.
    idle_connection_bytes: Option<f64>,
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
    let stage = Stage::new(&args.stage)?;
    let circumstances = Circumstances::now(&stage.programs);
    circumstances.warn_of_load();
    let mut results = Results::default();
    for work in chosen {
        let measured = measure(&work, args, &stage, &results)?;
        results.works.push(measured);
    }
    let page = table::page(&circumstances, args, &results);
    if let Some(path) = &args.stage.write {
        table::write_into(path, "compare", &page)?;
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

/// One work: its servers are started and filled once, then measured in turns.
fn measure(work: &Work, args: &CompareArgs, stage: &Stage, done: &Results) -> Result<WorkResults, CompareError> {
    tell(&format!("== {}", work.title));
    let mut running: Vec<Option<Server>> = Vec::with_capacity(work.servers.len());
    let mut idle_connection_bytes = None;
    for spec in &work.servers {
        if !stage::installed(&stage.programs, spec.kind) {
            running.push(None);
            continue;
        }
        let mut server = stage.programs.start(spec)?;
        tell(&format!("   {}", server.command));
        if let Some(fill) = &spec.fill {
            stage.fill(&server, fill)?;
        }
        if spec.idle_connections > 0 {
            idle_connection_bytes = Some(server.hold_idle(spec.idle_connections)?);
        }
        server.freeze();
        running.push(Some(server));
    }
    let mut rows: Vec<Row> =
        work.contenders.iter().map(|contender| Row { name: contender.name, reports: Vec::new() }).collect();
    for round in 0..args.rounds {
        for (contender, row) in work.contenders.iter().zip(&mut rows) {
            let Some(server) = &running[contender.server] else { continue };
            let Some(line) = run_line(contender, server, stage, args, done) else { continue };
            server.thaw();
            let report = stage::load(&line);
            server.freeze();
            let mut report = report?;
            if work.servers[contender.server].cores == Cores::Shared {
                // The generator takes a part of the server's time: who of the two set the pace is not seen.
                report.generator_bound = None;
            }
            tell(&format!("   round {} {}: {}", round + 1, contender.name, in_short(&report)));
            row.reports.push(report);
        }
    }
    rows.retain(|row| !row.reports.is_empty());
    Ok(WorkResults { name: work.name, title: work.title, rows, idle_connection_bytes })
}

/// The command line of one measurement; `None` where the peak it depends on was not measured.
fn run_line(
    contender: &Contender,
    server: &Server,
    stage: &Stage,
    args: &CompareArgs,
    done: &Results,
) -> Option<String> {
    let mut line = format!(
        "run {} --duration {}ms --warmup {}ms",
        stage.load_options(server, &contender.load),
        args.duration.as_millis(),
        args.warmup.as_millis()
    );
    if let Some((work, share)) = contender.share_of_peak {
        let peak = done.median(work, contender.name, |report| report.ops_per_s)?;
        line += &format!(" --rate {:.0}", peak * share);
    }
    Some(line)
}

/// A measurement as it is told while it goes on.
fn in_short(report: &Report) -> String {
    format!(
        "{:.0} per second, p50 {:.1} µs, p99.9 {:.1} µs, server {:.1} % busy and {:.1} % spinning, generator {:.1} %",
        report.ops_per_s,
        report.latency.p50_us,
        report.latency.p999_us,
        report.server_busy_percent.unwrap_or(f64::NAN),
        report.server_spinning_percent.unwrap_or(f64::NAN),
        report.generator_busy_percent
    )
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

    /// The ratio of two throughputs, and what it proves: a server that had time to spare carries more.
    fn throughput_ratio(
        &self,
        ours: (&str, &str),
        theirs: (&str, &str),
        figure: impl Fn(&Report) -> f64 + Copy,
    ) -> Option<Measured> {
        let (ours, theirs) = (self.row(ours)?, self.row(theirs)?);
        let value = median(&ours.sorted(figure))? / median(&theirs.sorted(figure))?;
        Some(Measured { value, may_be_more: ours.is_generator_bound(), may_be_less: theirs.is_generator_bound() })
    }

    /// What an idle connection costs in a work, of the server's own memory.
    fn idle_connection_bytes(&self, work: &str) -> Option<f64> {
        self.works.iter().find(|results| results.name == work)?.idle_connection_bytes
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
        self.is_mostly(|report| report.generator_bound == Some(true))
    }

    /// Whether most of its rounds found the generator without.
    fn is_generator_full(&self) -> bool {
        self.is_mostly(|report| report.generator_busy_percent >= GENERATOR_BUSY_PERCENT_MAX)
    }

    fn is_mostly(&self, what: impl Fn(&Report) -> bool) -> bool {
        self.reports.iter().filter(|report| what(report)).count() * 2 > self.reports.len()
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
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

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
            idle_connection_bytes: Some(1.0),
        });
        let results = Results { works: works.collect() };
        for goal in goals::goals(&results).into_iter().chain(goals::validity(&results)) {
            assert!(goal.actual.is_some(), "{}", goal.text);
        }
    }
}
