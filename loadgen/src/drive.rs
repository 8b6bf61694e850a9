//! Starts generator threads, lets them run together, watches the server meanwhile, and adds up what they measured.

use std::io::{self, IsTerminal, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use quoit_client::blocking::Pipeline;

use crate::clock::now_ns;
use crate::cores::{self, CoreList};
use crate::engine::{ClientEngine, ClientFacts, ClientOptions, Engine, EngineOptions, Finished, Recorder, Shared};
use crate::interrupt;
use crate::protocol::Protocol;
use crate::report::{
    ClientReport, ErrorKinds, Latency, Report, SERVER_BUSY_PERCENT_MIN, ServerProbe, ServerUsage, UsageSample, grouped,
};
use crate::work::{Routes, Work};

/// Between two looks at signals.
const TICK: Duration = Duration::from_millis(100);
/// Share of the measured time that the server must have been watched for its figures to mean anything.
const WATCHED_SHARE_MIN: f64 = 0.8;
/// Between two lines of progress.
const PROGRESS_INTERVAL_NS: u64 = 1_000_000_000;

/// Everything about a run but its workload.
pub(crate) struct Plan {
    /// The work, for the report.
    pub(crate) command: &'static str,
    /// The protocol's name, for the report.
    pub(crate) protocol_name: String,
    /// The protocol.
    pub(crate) protocol: Protocol,
    /// The servers.
    pub(crate) servers: Vec<SocketAddr>,
    /// One generator thread each.
    pub(crate) cores: CoreList,
    /// The connections of each thread, and which keys they ask for.
    pub(crate) threads: Vec<ThreadPlan>,
    /// Pace, depth and end; rate and requests are those of all threads together.
    pub(crate) options: EngineOptions,
    /// Connections that are kept open and never used.
    pub(crate) idle: Vec<TcpStream>,
    /// Where the server's use of the processor is read.
    pub(crate) probe: Option<ServerProbe>,
    /// Everything random follows from it.
    pub(crate) seed: u64,
}

/// How one thread asks.
pub(crate) struct ThreadPlan {
    /// By what.
    pub(crate) means: Means,
    /// Which keys each connection, or caller, asks for.
    pub(crate) routes: Routes,
}

/// By what a thread asks.
pub(crate) enum Means {
    /// Connections of its own, opened, and past their hello.
    Connections(Vec<TcpStream>),
    /// The native client, which has found its cluster.
    Client(Box<Pipeline>, ClientOptions),
}

/// What a run gave.
pub(crate) struct Driven<W> {
    /// The measurements.
    pub(crate) report: Report,
    /// The workloads, with what they have learnt.
    pub(crate) works: Vec<W>,
}

impl Plan {
    /// One workload for each thread, made from its number and routes.
    pub(crate) fn works<W>(&self, mut make: impl FnMut(u64, Routes) -> W) -> Vec<W> {
        (0..).zip(&self.threads).map(|(number, thread)| make(number, thread.routes.clone())).collect()
    }
}

/// Runs the plan with one workload for each of its threads.
pub(crate) fn drive<W: Work + Send>(plan: Plan, works: Vec<W>) -> io::Result<Driven<W>> {
    let Plan { command, protocol_name, protocol, servers, cores, threads, options, idle, probe, seed } = plan;
    let connections = threads.iter().map(|thread| thread.routes.classes().len()).sum();
    let shares = threads.len();
    let shared: Vec<Arc<Shared>> = threads.iter().map(|_| Arc::default()).collect();
    let barrier = Barrier::new(shares + 1);
    let (finished, watch) = mpsc::channel();
    let (usage, cpu_s, results) = thread::scope(|scope| {
        let handles: Vec<_> = threads
            .into_iter()
            .zip(works)
            .enumerate()
            .map(|(index, (thread, work))| {
                let (shared, barrier, protocol) = (&shared[index], &barrier, protocol.clone());
                let options = share_of(&options, index as u64, shares as u64);
                let core = cores.0[index % cores.0.len()];
                let finished = finished.clone();
                scope.spawn(move || {
                    cores::pin_to(core);
                    let result = match thread.means {
                        Means::Connections(streams) => {
                            let engine = Engine::new(streams, protocol, work, options);
                            barrier.wait();
                            engine.and_then(|engine| engine.run(shared))
                        }
                        Means::Client(pipeline, client) => {
                            let engine = ClientEngine::new(*pipeline, &client, work, options);
                            barrier.wait();
                            engine.map(|engine| engine.run(shared))
                        }
                    };
                    let has_failed = result.as_ref().map_or(true, |finished| finished.failure.is_some());
                    // The watcher may have gone already, at the end of its time.
                    let _ = finished.send(has_failed);
                    result
                })
            })
            .collect();
        barrier.wait();
        let (usage, cpu_s) = watch_over(&watch, &options, &shared, probe.as_ref());
        let results: Vec<io::Result<Finished<W>>> = handles
            .into_iter()
            .map(|handle| handle.join().unwrap_or_else(|_| Err(io::Error::other("a generator thread panicked"))))
            .collect();
        (usage, cpu_s, results)
    });
    let mut sum = Sum::default();
    let mut works = Vec::with_capacity(shares);
    for result in results {
        works.push(sum.add(result?));
    }
    drop(idle);
    let mut report = sum.report(shares, cpu_s, usage, options.rate);
    report.command = command;
    report.protocol = protocol_name;
    report.server = crate::run::names(&servers);
    report.connections = connections;
    report.pipeline = options.depth;
    report.seed = seed;
    Ok(Driven { report, works })
}

/// One thread's part of what is counted for all: rates are divided, requests split without remainder.
fn share_of(options: &EngineOptions, index: u64, shares: u64) -> EngineOptions {
    EngineOptions {
        rate: options.rate.map(|rate| rate / shares as f64),
        requests: options.requests.map(|requests| requests * (index + 1) / shares - requests * index / shares),
        ..options.clone()
    }
}

/// Waits until the measuring is over, and reads the server's counters at both of its ends.
fn watch_over(
    watch: &Receiver<bool>,
    options: &EngineOptions,
    shared: &[Arc<Shared>],
    probe: Option<&ServerProbe>,
) -> (Option<ServerUsage>, f64) {
    let sample = || probe.and_then(|probe| probe.sample().ok());
    let measure_ns = now_ns().saturating_add(options.warmup_ns);
    let mut running = shared.len();
    wait_until(measure_ns, watch, &mut running, shared, options);
    let (before, cpu_before) = (sample(), own_cpu_s());
    let end_ns = options.duration_ns.map_or(u64::MAX, |duration| measure_ns.saturating_add(duration));
    wait_until(end_ns, watch, &mut running, shared, options);
    let (after, cpu_after) = (sample(), own_cpu_s());
    let usage = before.as_ref().zip(after.as_ref()).and_then(|(before, after): (&UsageSample, _)| {
        // A watcher that got no processor time has looked at the wrong moments.
        let expected_ns = options.duration_ns.unwrap_or(0) as f64;
        (before.ns_until(after) as f64 >= expected_ns * WATCHED_SHARE_MIN).then(|| before.until(after))
    });
    (usage, cpu_after - cpu_before)
}

/// Waits for a time, or until no thread is `running` any more; shows progress to a terminal. A thread that fails ends the
/// others, and so does a signal.
fn wait_until(
    end_ns: u64,
    watch: &Receiver<bool>,
    running: &mut usize,
    shared: &[Arc<Shared>],
    options: &EngineOptions,
) {
    let stop_all = || shared.iter().for_each(|one| one.stop.store(true, Ordering::Relaxed));
    let mut progress = Progress::new(options.requests);
    while *running > 0 {
        let remaining = Duration::from_nanos(end_ns.saturating_sub(now_ns()));
        if remaining.is_zero() {
            break;
        }
        match watch.recv_timeout(remaining.min(TICK)) {
            Ok(has_failed) => {
                *running -= 1;
                if has_failed {
                    stop_all();
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if interrupt::requested() {
            stop_all();
        }
        progress.show(|| shared.iter().map(|one| one.answered.load(Ordering::Relaxed)).sum());
    }
    progress.clear();
}

/// One line on a terminal, rewritten every second; nothing where standard error is no terminal.
struct Progress {
    is_terminal: bool,
    requests: Option<u64>,
    answered: u64,
    shown_ns: u64,
    is_shown: bool,
}

impl Progress {
    fn new(requests: Option<u64>) -> Self {
        let is_terminal = io::stderr().is_terminal();
        Self { is_terminal, requests, answered: 0, shown_ns: now_ns(), is_shown: false }
    }

    fn show(&mut self, answered: impl FnOnce() -> u64) {
        let now = now_ns();
        if !self.is_terminal || now - self.shown_ns < PROGRESS_INTERVAL_NS {
            return;
        }
        let answered = answered();
        let per_second = answered.saturating_sub(self.answered) as f64 * 1e9 / (now - self.shown_ns) as f64;
        let of = self.requests.map_or_else(String::new, |requests| format!(" of {}", grouped(requests as f64)));
        let line = format!("\r\x1b[K{} per second, {}{of} answered", grouped(per_second), grouped(answered as f64));
        // A terminal that has gone is no reason to stop.
        let _ = io::stderr().write_all(line.as_bytes());
        (self.answered, self.shown_ns, self.is_shown) = (answered, now, true);
    }

    fn clear(&self) {
        if self.is_shown {
            let _ = io::stderr().write_all(b"\r\x1b[K");
        }
    }
}

/// The results of threads, added up.
#[derive(Default)]
struct Sum {
    recorder: Option<Recorder>,
    measured_ns: u64,
    ops_per_s: f64,
    keys_per_s: f64,
    requests: u64,
    answered_late: u64,
    behind: u64,
    unanswered: u64,
    failures: Vec<String>,
    client: Option<ClientFacts>,
}

impl Sum {
    fn add<W>(&mut self, finished: Finished<W>) -> W {
        let seconds = (finished.measured_ns as f64 / 1e9).max(1e-9);
        let answered = finished.recorder.tally.answered;
        let in_time = answered - finished.answered_late;
        self.requests += in_time;
        self.ops_per_s += in_time as f64 / seconds;
        let keys_per_request = (answered - finished.recorder.tally.reads + finished.recorder.tally.keys_read) as f64
            / answered.max(1) as f64;
        self.keys_per_s += in_time as f64 * keys_per_request / seconds;
        self.measured_ns = self.measured_ns.max(finished.measured_ns);
        self.answered_late += finished.answered_late;
        self.behind += finished.behind;
        self.unanswered += finished.unanswered;
        self.failures.extend(finished.failure.map(|failure| failure.to_string()));
        if let Some(facts) = finished.client {
            self.client.get_or_insert_default().add(facts);
        }
        self.recorder.get_or_insert_with(Recorder::new).add(&finished.recorder);
        finished.work
    }

    fn report(self, threads: usize, cpu_s: f64, usage: Option<ServerUsage>, rate: Option<f64>) -> Report {
        let recorder = self.recorder.unwrap_or_else(Recorder::new);
        let tally = &recorder.tally;
        let error_kinds = ErrorKinds { unanswered: self.unanswered, ..ErrorKinds::refusals(&recorder) };
        let thread_ns = (self.measured_ns * threads as u64).max(1) as f64;
        Report {
            command: "",
            protocol: String::new(),
            server: String::new(),
            connections: 0,
            pipeline: 0,
            seed: 0,
            duration_s: self.measured_ns as f64 / 1e9,
            requests: self.requests,
            ops_per_s: self.ops_per_s,
            keys_per_s: self.keys_per_s,
            latency: Latency::of(&recorder.all()),
            reads: Latency::of(&recorder.reads),
            writes: Latency::of(&recorder.writes),
            hit_ratio: (tally.keys_read > 0).then(|| tally.hits as f64 / tally.keys_read as f64),
            errors: error_kinds.total(),
            error_kinds,
            cpu_s,
            generator_busy_percent: (100.0 - recorder.idle_ns as f64 / thread_ns * 100.0).clamp(0.0, 100.0),
            turns_empty_percent: recorder.turns_empty as f64 / recorder.turns.max(1) as f64 * 100.0,
            server_busy_percent: usage.map(|usage| usage.busiest_percent),
            server_spinning_percent: usage.map(|usage| usage.spinning_percent),
            server_cpu_s: usage.map(|usage| usage.cpu_s),
            server_user_s: usage.map(|usage| usage.user_s),
            server_system_s: usage.map(|usage| usage.system_s),
            server_cpu_us_per_request: usage.map(|usage| usage.cpu_s * 1e6 / self.requests.max(1) as f64),
            server_resident_bytes: usage.map(|usage| usage.resident_bytes).filter(|&bytes| bytes > 0),
            // With a rate of its own a run measures latency: that the server has time to spare is the point.
            generator_bound: usage
                .filter(|_| rate.is_none())
                .map(|usage| usage.busiest_percent < SERVER_BUSY_PERCENT_MIN),
            value_bytes_read: tally.value_bytes_read,
            value_bytes_written: tally.value_bytes_written,
            beside_bytes_per_s: tally.aside_bytes as f64 * 1e9 / self.measured_ns.max(1) as f64,
            rate,
            behind: self.behind,
            answered_late: self.answered_late,
            failures: self.failures,
            wrong: Vec::new(),
            replay: None,
            client: self.client.map(|facts| ClientReport::of(facts, tally)),
        }
    }
}

/// A report of nothing, for tests of what reads reports.
#[cfg(test)]
pub(crate) fn empty_report() -> Report {
    Sum::default().report(1, 0.0, Some(ServerUsage::default()), None)
}

/// Processor seconds of this process.
fn own_cpu_s() -> f64 {
    // SAFETY: getrusage writes a struct of the type it is given.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}
