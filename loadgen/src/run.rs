//! The commands that load a server: from the command line's options to a plan, and from its results to a report.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::cli::{DataArgs, FillArgs, ProtocolName, ReplayArgs, RunArgs, TargetArgs};
use crate::connect::{ConnectError, Connected, connect_all, connect_clients, connect_idle};
use crate::cores::CoreError;
use crate::drive::{Plan, drive};
use crate::echo::open_files_limit;
use crate::engine::{ClientOptions, EngineOptions, STALL_NS};
use crate::interrupt;
use crate::protocol::{Echo, Memcache, MemcacheMeta, Protocol, Quoit, Resp};
use crate::report::{ProcessProbe, Report, ServerProbe};
use crate::work::{
    Beside, BesideOptions, CacheAside, Fill, FillOptions, KeyError, KeySpace, Mix, MixOptions, Replay, Route,
    STAMP_BYTES, TraceError, TraceReader, Verify, VerifyOptions, Work,
};

/// How long to measure when nothing is said.
const DURATION_DEFAULT: Duration = Duration::from_secs(10);
/// Bytes of a reply beside its values, at most, in any of the protocols and for keys of ordinary length.
const REPLY_OVERHEAD_BYTES: usize = 64;
/// Object ids of a trace are any 64-bit number.
const OBJECT_IDS: u64 = u64::MAX;
/// Bytes of a typical object in a trace, for the size of receive buffers.
const REPLAY_REPLY_BYTES: usize = 16 << 10;
/// Largest object sent to servers that don't say what they take.
const REPLAY_VALUE_BYTES_MAX: u32 = 64 << 20;
/// Descriptors a process needs beside its connections.
const OTHER_DESCRIPTORS: u32 = 64;

/// Why a run can't be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// The keys asked for can't be.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// A core asked for can't be used.
    #[error(transparent)]
    Cores(#[from] CoreError),
    /// Ratios that add up to more than everything.
    #[error("--set-ratio, --delete-ratio and --incr-ratio add up to {0}; together they are at most 1")]
    Ratios(f64),
    /// The trace can't be played.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// A workload with one order, and one thread to keep it.
    #[error("{0} keeps its order with one thread: give one core to --cores")]
    OneThread(&'static str),
    /// A pace that can't be slept to.
    #[error(
        "--sleep wakes up too late for a --rate over the generator's own connections: leave it out, or ask through --client"
    )]
    Sleep,
    /// What speaks only its own protocol.
    #[error("--client is Quoit's own: leave --protocol out")]
    Client,
    /// Verification of a protocol or mix that it doesn't know.
    #[error("--verify {0}")]
    Verify(&'static str),
    /// Values too short to be verified.
    #[error("--verify writes who, what and which into every value: use --value-size {STAMP_BYTES} or more")]
    ValuesTooShort,
    /// A thread would have nothing to do.
    #[error("{connections} connections for {threads} generator threads: give at least one to each, or fewer --cores")]
    TooFewConnections {
        /// Connections asked for.
        connections: u32,
        /// Threads asked for.
        threads: usize,
    },
    /// More connections than descriptors.
    #[error(
        "{connections} connections need more open files than this process may have ({limit}): raise it with ulimit -n"
    )]
    OpenFiles {
        /// Connections asked for.
        connections: u32,
        /// The limit.
        limit: u32,
    },
    /// The server could not be reached.
    #[error("{servers}: {error}")]
    Connect {
        /// The addresses tried.
        servers: String,
        /// What happened.
        error: ConnectError,
    },
    /// More requests at once than the server takes.
    #[error("--pipeline {depth}: the server takes at most {inflight_max} unanswered requests per connection")]
    TooDeep {
        /// The depth asked for.
        depth: u32,
        /// The server's limit.
        inflight_max: u16,
    },
    /// The machine refused something.
    #[error("{0}; io_uring must be allowed (kernel 6.1 or newer, sysctl kernel.io_uring_disabled=0)")]
    System(#[from] io::Error),
}

/// `quoit-loadgen run`.
pub(crate) fn run(args: &RunArgs) -> Result<Report, RunError> {
    let ratios = args.set_ratio + args.delete_ratio + args.incr_ratio;
    // The sum of three decimal fractions may pass 1 by a rounding.
    if ratios > 1.0 + 1e-9 {
        return Err(RunError::Ratios(ratios));
    }
    if args.sleep && args.rate.is_some() && !args.target.client {
        return Err(RunError::Sleep);
    }
    let keys = KeySpace::new(args.data.keys, args.data.key_size as usize)?;
    if args.verify {
        check_verifiable(args, &keys)?;
    }
    let duration = args.duration.or_else(|| args.requests.is_none().then_some(DURATION_DEFAULT));
    let options = EngineOptions {
        depth: args.data.pipeline as usize,
        rate: args.rate,
        warmup_ns: args.warmup.as_nanos() as u64,
        duration_ns: duration.map(|duration| duration.as_nanos() as u64),
        requests: args.requests,
        sleeps: args.sleep,
        reply_bytes: reply_bytes(&args.data, args.multi_get),
        stall_ns: STALL_NS,
    };
    let mut pipes = Pipes { keys_per_request: args.multi_get, ..Pipes::of(&args.data) };
    if args.beside_value_size.is_some() {
        pipes.connections = pipes.connections.map(|count| count + args.target.cores.0.len() as u32);
    }
    let (plan, _) = plan("run", &args.target, &pipes, options.clone())?;
    let mix = MixOptions {
        keys,
        zipf: args.zipf,
        value_bytes: args.data.value_size,
        set_ratio: args.set_ratio,
        delete_ratio: args.delete_ratio,
        increment_ratio: args.incr_ratio,
        ttl_ms: args.data.ttl.as_millis() as u64,
        multi_get: args.multi_get,
        seed: args.target.seed,
    };
    if args.verify {
        return verify(args, mix, plan, &pipes, options);
    }
    if let Some(value_bytes) = args.beside_value_size {
        let options = BesideOptions { value_bytes: value_bytes as u32, keys: mix.keys.clone(), seed: mix.seed };
        let works = plan.works(|thread, routes| {
            let last = routes.classes().len() - 1;
            Beside::new(Mix::new(mix.clone(), routes, thread), &options, thread, last)
        });
        return Ok(drive(plan, works)?.report);
    }
    let works = plan.works(|thread, routes| Mix::new(mix.clone(), routes, thread));
    Ok(drive(plan, works)?.report)
}

/// Plays `work`, of one generator thread, to the end of what it allows; returns it to go on with.
pub(crate) fn cache_aside(args: &RunArgs, work: CacheAside) -> Result<(Report, CacheAside), RunError> {
    let options = EngineOptions {
        depth: args.data.pipeline as usize,
        rate: None,
        warmup_ns: 0,
        duration_ns: None,
        requests: None,
        sleeps: false,
        reply_bytes: reply_bytes(&args.data, 1),
        stall_ns: STALL_NS,
    };
    if args.target.cores.0.len() != 1 {
        return Err(RunError::OneThread("cache-aside"));
    }
    let (plan, _) = plan("cache-aside", &args.target, &Pipes::of(&args.data), options)?;
    let mut driven = drive(plan, vec![work])?;
    let work = driven.works.pop().ok_or(RunError::OneThread("cache-aside"))?;
    Ok((driven.report, work))
}

/// `quoit-loadgen run --verify`.
fn verify(
    args: &RunArgs,
    mix: MixOptions,
    first: Plan,
    pipes: &Pipes,
    options: EngineOptions,
) -> Result<Report, RunError> {
    let threads = first.threads.len() as u64;
    // Randomly keyed in every process: no clock is asked, and two runs of one seed still tell each other's values apart.
    let run = RandomState::new().build_hasher().finish() as u32;
    let verify = VerifyOptions { mix, evicts: !args.no_evictions, through_client: args.target.client, run };
    let works = first.works(|thread, routes| Verify::new(verify.clone(), routes, thread, threads));
    let mut driven = drive(first, works)?;
    let mut report = driven.report;
    if args.target.client {
        // What was acknowledged and never read again may be lost as well: everything is looked at once more.
        interrupt::forget();
        driven.works.iter_mut().for_each(Verify::begin_last_look);
        let options = EngineOptions { rate: None, warmup_ns: 0, duration_ns: None, requests: None, ..options };
        let (last, _) = plan("run", &args.target, pipes, options)?;
        driven = drive(last, driven.works)?;
        report.add_last_look(&driven.report);
    }
    for work in driven.works {
        report.count_wrong(work.violations, work.violations_told);
        report.client.iter_mut().for_each(|client| client.excused += work.excused);
    }
    Ok(report)
}

/// What verification can't do is refused before anything is sent.
fn check_verifiable(args: &RunArgs, keys: &KeySpace) -> Result<(), RunError> {
    let refuse = |why| Err(RunError::Verify(why));
    if args.target.protocol != ProtocolName::Quoit {
        return refuse("knows the protocol quoit only");
    }
    if args.multi_get > 1 {
        return refuse("checks single gets: leave --multi-get out");
    }
    if keys.len() < args.target.cores.0.len() as u64 || keys.len() > u64::from(u32::MAX) {
        return refuse("needs a key for every generator thread, and at most 4294967295 keys");
    }
    if args.incr_ratio > 0.0 && !keys.has_room_for_counters() {
        return refuse("with --incr-ratio needs a longer --key-size: counters differ from keys by their first letter");
    }
    if (args.data.value_size.least as usize) < STAMP_BYTES {
        return Err(RunError::ValuesTooShort);
    }
    Ok(())
}

/// `quoit-loadgen fill`.
pub(crate) fn fill(args: &FillArgs) -> Result<Report, RunError> {
    let keys = KeySpace::new(args.data.keys, args.data.key_size as usize)?;
    let options = EngineOptions {
        depth: args.data.pipeline as usize,
        rate: None,
        warmup_ns: 0,
        duration_ns: None,
        requests: None,
        sleeps: false,
        reply_bytes: REPLY_OVERHEAD_BYTES,
        stall_ns: STALL_NS,
    };
    let (plan, _) = plan("fill", &args.target, &Pipes::of(&args.data), options)?;
    let threads = plan.threads.len() as u64;
    let fill = FillOptions {
        keys,
        first_key: args.first_key,
        value_bytes: args.data.value_size,
        ttl_ms: args.data.ttl.as_millis() as u64,
        client_flags: args.client_flags,
        seed: args.target.seed,
    };
    let works = plan.works(|thread, routes| Fill::new(fill.clone(), routes, thread, threads));
    let driven = drive(plan, works)?;
    let mut report = driven.report;
    if !driven.works.iter().all(Work::is_exhausted) && report.failures.is_empty() {
        report.failures.push("interrupted before every key was written".to_owned());
    }
    Ok(report)
}

/// `quoit-loadgen replay`.
pub(crate) fn replay(args: &ReplayArgs) -> Result<Report, RunError> {
    // The trace first: one that can't be played costs the server nothing.
    let mut reader = TraceReader::open(&args.trace)?;
    let first = reader.next_record()?.ok_or_else(|| TraceError::Empty(args.trace.clone()))?;
    if args.target.cores.0.len() != 1 {
        return Err(RunError::OneThread("replay"));
    }
    let keys = KeySpace::new(OBJECT_IDS, args.key_size as usize)?;
    let options = EngineOptions {
        depth: args.pipeline as usize,
        rate: None,
        warmup_ns: 0,
        duration_ns: None,
        requests: None,
        sleeps: false,
        reply_bytes: REPLAY_REPLY_BYTES,
        stall_ns: STALL_NS,
    };
    let pipes = Pipes {
        connections: args.connections,
        idle_connections: 0,
        depth: args.pipeline,
        route: Route::Owner,
        key_bytes: args.key_size,
        value_bytes_max: 0,
        keys_per_request: 1,
    };
    let (plan, value_bytes_max) = plan("replay", &args.target, &pipes, options)?;
    let value_bytes_max = value_bytes_max.unwrap_or(REPLAY_VALUE_BYTES_MAX);
    let (ttl_ms, seed, depth) = (args.ttl.as_millis() as u64, args.target.seed, args.pipeline as usize);
    let mut reader = Some(reader);
    let works = plan.works(|_, routes| {
        reader.take().map(|reader| Replay::new(first, reader, &keys, value_bytes_max, ttl_ms, seed, routes, depth))
    });
    let driven = drive(plan, works.into_iter().flatten().collect())?;
    let mut report = driven.report;
    for work in driven.works {
        report.add_replay(work.totals);
        report.failures.extend(work.error.map(|error| error.to_string()));
    }
    Ok(report)
}

fn reply_bytes(data: &DataArgs, multi_get: u16) -> usize {
    (data.value_size.most as usize + REPLY_OVERHEAD_BYTES) * usize::from(multi_get)
}

/// The part of a command's options that is about connections.
struct Pipes {
    /// `None`: one for each core of the server.
    connections: Option<u32>,
    idle_connections: u32,
    depth: u32,
    route: Route,
    /// Bytes of frames, for the echo.
    key_bytes: u64,
    value_bytes_max: u32,
    /// Keys that one request names.
    keys_per_request: u16,
}

impl Pipes {
    fn of(data: &DataArgs) -> Self {
        Self {
            connections: Some(data.connections),
            idle_connections: data.idle_connections,
            depth: data.pipeline,
            route: data.route,
            key_bytes: data.key_size,
            value_bytes_max: data.value_size.most,
            keys_per_request: 1,
        }
    }
}

/// A plan, and the largest value the server takes if it has said so.
fn plan(
    command: &'static str,
    target: &TargetArgs,
    pipes: &Pipes,
    options: EngineOptions,
) -> Result<(Plan, Option<u32>), RunError> {
    target.cores.check()?;
    let threads = target.cores.0.len();
    let limit = open_files_limit();
    if let Some(connections) = pipes.connections {
        if (connections as usize) < threads {
            return Err(RunError::TooFewConnections { connections, threads });
        }
        let connections = connections.saturating_add(pipes.idle_connections);
        if connections > limit.saturating_sub(OTHER_DESCRIPTORS) {
            return Err(RunError::OpenFiles { connections, limit });
        }
    }
    let unreachable = |error| RunError::Connect { servers: names(&target.servers), error };
    let connections = pipes.connections.map(|count| count as usize);
    let Connected { threads, hello, epoch } = if target.client {
        if target.protocol != ProtocolName::Quoit {
            return Err(RunError::Client);
        }
        let (callers, keys) = (connections.unwrap_or(threads), usize::from(pipes.keys_per_request));
        let client = client_options(target);
        connect_clients(&target.servers, callers, threads, options.depth, keys, &client).map_err(unreachable)?
    } else {
        connect_all(&target.servers, target.protocol, connections, threads, pipes.route).map_err(unreachable)?
    };
    if let Some(hello) = hello.as_ref().filter(|hello| pipes.depth > u32::from(hello.inflight_max)) {
        return Err(RunError::TooDeep { depth: pipes.depth, inflight_max: hello.inflight_max });
    }
    let idle = connect_idle(&target.servers, target.protocol, pipes.idle_connections as usize).map_err(unreachable)?;
    // Through the client nodes may be killed and frozen meanwhile: they are not asked.
    let are_nodes = target.protocol == ProtocolName::Quoit && !target.client;
    let probe = match (&target.server_cpu, target.server_pid) {
        (Some(cores), _) => Some(ServerProbe::Cores(cores.clone())),
        (None, Some(pid)) => {
            let node = target.servers.first().copied().filter(|_| are_nodes);
            Some(ServerProbe::Processes(vec![ProcessProbe { pid, node }]))
        }
        (None, None) => ServerProbe::find(&target.servers, are_nodes),
    };
    let plan = Plan {
        command,
        protocol_name: protocol_name(target.protocol),
        protocol: protocol(target, pipes, epoch),
        servers: target.servers.clone(),
        cores: target.cores.clone(),
        threads,
        options,
        idle,
        probe,
        seed: target.seed,
    };
    Ok((plan, hello.map(|hello| hello.value_bytes_max)))
}

/// What all clients of a run have in common.
fn client_options(target: &TargetArgs) -> ClientOptions {
    ClientOptions { servers: Vec::new(), callers: 0, deadline: target.deadline, write_mode: target.write_mode }
}

/// Addresses as they are given to `--server`.
pub(crate) fn names(servers: &[SocketAddr]) -> String {
    servers.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(",")
}

/// The name of a protocol, as it is given to `--protocol`.
pub(crate) fn protocol_name(name: ProtocolName) -> String {
    use clap::ValueEnum;
    name.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

fn protocol(target: &TargetArgs, pipes: &Pipes, epoch: u32) -> Protocol {
    match target.protocol {
        ProtocolName::Quoit => Protocol::Quoit(Quoit::new(epoch, target.write_mode)),
        ProtocolName::Memcache => Protocol::Memcache(Memcache),
        ProtocolName::MemcacheMeta => Protocol::MemcacheMeta(MemcacheMeta),
        ProtocolName::Resp => Protocol::Resp(Resp),
        ProtocolName::Echo => {
            let request_bytes = quoit_wire::RequestHeader::FRAME_BYTES as u64 + pipes.key_bytes;
            let reply_bytes = quoit_wire::ReplyHeader::FRAME_BYTES as u64 + u64::from(pipes.value_bytes_max);
            Protocol::Echo(Echo {
                request_bytes: target.echo_request_bytes.unwrap_or(request_bytes) as usize,
                reply_bytes: target.echo_reply_bytes.unwrap_or(reply_bytes) as usize,
            })
        }
    }
}
