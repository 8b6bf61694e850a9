//! The command line: what can be asked for, and how it is explained.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use quoit_wire::WriteMode;

use crate::compare::ServerKind;
use crate::cores::CoreList;
use crate::units;
use crate::work::{Route, SizeRange};

/// Load for Quoit and for the caches beside it: the same generator, the same keys, the same histograms.
#[derive(Debug, Parser)]
#[command(name = "quoit-loadgen", version, after_help = EXAMPLES, args_override_self = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  Fill a million keys, then read and write them for ten seconds over 64 connections:
    quoit-loadgen fill --server 127.0.0.1:7400 --keys 1000000
    quoit-loadgen run  --server 127.0.0.1:7400 --keys 1000000 --connections 64 --set-ratio 0.1 --duration 10s

  The latency at a given rate, counted from when each request was due (no coordinated omission):
    quoit-loadgen run --rate 100000 --connections 64 --pipeline 4

  The same against memcached and redis:
    quoit-loadgen run --protocol memcache --server 127.0.0.1:11211 --connections 64
    quoit-loadgen run --protocol resp     --server 127.0.0.1:6379  --connections 16 --pipeline 16

  Is every reply right? A node with --eviction none must not lose anything either:
    quoit-loadgen run --verify --no-evictions --keys 100000 --set-ratio 0.2 --delete-ratio 0.05 --incr-ratio 0.05 --ttl 2s

  A real trace, object by object:
    quoit-loadgen replay --trace cloudPhysicsIO.oracleGeneral.bin --server 127.0.0.1:7400

  A cluster whose nodes come and go, through the client that programs use; every key is read once more at the end:
    quoit-loadgen run --client --verify --no-evictions --server 127.0.0.1:7410,127.0.0.1:7420 --write one --set-ratio 0.3

  The limit of this machine, for the same bytes:
    quoit-loadgen echo --listen 127.0.0.1:7500 --cores 0 --request-bytes 32 --reply-bytes 88
    quoit-loadgen run --protocol echo --server 127.0.0.1:7500 --cores 1 --connections 16 --pipeline 16

  A cluster on paper: how even it is, and what a node that joins or is lost moves:
    quoit-loadgen ring --nodes 100 --weights 1,1,2 --zones 3 --replicas 1

The generator spins on one core per --cores entry: give it cores that the server does not use.
Exit status: 0 all well, 1 errors (the report names them), 2 the command line is wrong.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Sends requests, closed loop or at a rate, and measures.
    Run(Box<RunArgs>),
    /// Writes every key exactly once, and ends.
    Fill(FillArgs),
    /// Plays a real trace as cache-aside: get, and on a miss set an object of the trace's size.
    Replay(ReplayArgs),
    /// Answers bytes with bytes: the limit of this machine.
    Echo(EchoArgs),
    /// Computes a cluster's ring on paper: balance, and what moves as nodes join and are lost.
    Ring(RingArgs),
    /// Measures Quoit beside the echo, memcached and redis, in turns, and writes the table.
    Compare(CompareArgs),
    /// Measures the memory of an item beside its key and value, of Quoit, memcached and redis.
    Density(DensityArgs),
    /// Measures how much Quoit, memcached and redis find again with the same resident memory.
    Hits(HitsArgs),
    /// Draws latency against throughput of Quoit, the echo, memcached and redis.
    Plot(PlotArgs),
}

/// What to talk to, and how.
#[derive(Clone, Debug, Args)]
pub(crate) struct TargetArgs {
    /// The server: host and port. Of a cluster any of its nodes, or several with commas between: the others are learnt
    #[arg(long = "server", value_name = "HOST:PORT", value_delimiter = ',', default_value = "127.0.0.1:7400", value_parser = address)]
    pub(crate) servers: Vec<SocketAddr>,
    /// What the server speaks
    #[arg(long, value_enum, default_value_t)]
    pub(crate) protocol: ProtocolName,
    /// Ask through the native client, one for each generator thread: it follows a cluster's changes, reconnects, and tries again
    /// within --deadline. It costs more per request than the generator's own connections (Quoit only)
    #[arg(long)]
    pub(crate) client: bool,
    /// With --client: time a request may take in all
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = units::parse_duration, requires = "client")]
    pub(crate) deadline: Duration,
    /// Copies that writes wait for: default (what the cluster says), async, one or all (Quoit only)
    #[arg(long = "write", value_name = "MODE", default_value = "default", value_parser = write_mode)]
    pub(crate) write_mode: WriteMode,
    /// Cores for the generator, one thread each: 1 or 2,3 or 4-7
    #[arg(long, default_value = "1")]
    pub(crate) cores: CoreList,
    /// The server's process, to see how busy it is; found by its port when it runs here
    #[arg(long, value_name = "PID")]
    pub(crate) server_pid: Option<u32>,
    /// The server's cores, to see how busy they are, instead of its process
    #[arg(long, value_name = "CORES", conflicts_with = "server_pid")]
    pub(crate) server_cpu: Option<CoreList>,
    /// Write the results as JSON to this file too
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Everything random follows from it
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// With --protocol echo: bytes of a request; by default those of Quoit's get
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub(crate) echo_request_bytes: Option<u64>,
    /// With --protocol echo: bytes of a reply; by default those of Quoit's hit
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub(crate) echo_reply_bytes: Option<u64>,
}

/// Keys, values and connections.
#[derive(Clone, Debug, Args)]
pub(crate) struct DataArgs {
    /// Connections, over all generator threads
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub(crate) connections: u32,
    /// Requests a connection may have unanswered
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_535))]
    pub(crate) pipeline: u32,
    /// Connections that are opened beside them, kept and never used
    #[arg(long, value_name = "COUNT", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=60_000))]
    pub(crate) idle_connections: u32,
    /// Different keys
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) keys: u64,
    /// Bytes of a key
    #[arg(long, value_name = "SIZE", default_value = "16", value_parser = bytes)]
    pub(crate) key_size: u64,
    /// Bytes of a value, or a range from which every length is as likely: 64, 4KiB, 33-96
    #[arg(long, value_name = "SIZE[-SIZE]", default_value = "64")]
    pub(crate) value_size: SizeRange,
    /// Time to live that sets give an item: 500ms, 30s; 0 is for ever
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = units::parse_duration)]
    pub(crate) ttl: Duration,
    /// Where a request goes, seen from the core that owns its key (Quoit only)
    #[arg(long, value_enum, default_value_t)]
    pub(crate) route: Route,
}

/// Sends requests, closed loop or at a rate, and measures.
#[derive(Clone, Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Share of requests that are sets; what the ratios leave over are gets
    #[arg(long, value_name = "RATIO", default_value_t = 0.0, value_parser = ratio)]
    pub(crate) set_ratio: f64,
    /// Share of requests that are deletes
    #[arg(long, value_name = "RATIO", default_value_t = 0.0, value_parser = ratio)]
    pub(crate) delete_ratio: f64,
    /// Share of requests that are increments, of counters beside the keys
    #[arg(long, value_name = "RATIO", default_value_t = 0.0, value_parser = ratio)]
    pub(crate) incr_ratio: f64,
    /// Keys of one get
    #[arg(long, value_name = "KEYS", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) multi_get: u16,
    /// Popularity of keys: Zipf's exponent; 0 makes all alike
    #[arg(long, value_name = "EXPONENT", default_value_t = 0.99, value_parser = exponent)]
    pub(crate) zipf: f64,
    /// How long to measure [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = units::parse_duration, conflicts_with = "requests")]
    pub(crate) duration: Option<Duration>,
    /// End after so many requests instead
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) requests: Option<u64>,
    /// How long to run before measuring
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = units::parse_duration, conflicts_with = "requests")]
    pub(crate) warmup: Duration,
    /// Requests per second: an open loop, latency counts from when a request was due
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// One more connection of each generator thread, which writes and reads values of this size without a pause; it is not
    /// in the latencies, nor in the rate
    #[arg(long, value_name = "SIZE", value_parser = frame_bytes, conflicts_with = "verify")]
    pub(crate) beside_value_size: Option<u64>,
    /// Sleep while nothing arrives, instead of spinning: for a generator that shares its core with the server. With --rate only
    /// through --client, and what is due then leaves up to a millisecond late
    #[arg(long)]
    pub(crate) sleep: bool,
    /// Check every reply against what was written before it (Quoit only): no stale value, no lost delete, no wrong byte,
    /// nothing served past its time, no counter that goes back. With --ttl half of the sets expire, within that time
    #[arg(long)]
    pub(crate) verify: bool,
    /// With --verify: the server evicts nothing (--eviction none, below its cap), so a miss of a live key is an error
    #[arg(long, requires = "verify")]
    pub(crate) no_evictions: bool,
}

/// Writes every key exactly once, and ends.
#[derive(Clone, Debug, Args)]
pub(crate) struct FillArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Leave this many of the keys out: they are there already
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    pub(crate) first_key: u64,
    /// Client flags that every item gets (not with --protocol resp, which knows none)
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub(crate) client_flags: u32,
}

/// Plays a real trace as cache-aside: get, and on a miss set an object of the trace's size.
///
/// As fast as the server answers; the trace's times are not waited for. For each object the trace's order is kept.
#[derive(Clone, Debug, Args)]
pub(crate) struct ReplayArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// The trace: libCacheSim's oracleGeneral, uncompressed
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: PathBuf,
    /// Connections; by default one for each core of the server
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub(crate) connections: Option<u32>,
    /// Requests a connection may have unanswered; more than 1 lets requests for different objects overtake each other
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_535))]
    pub(crate) pipeline: u32,
    /// Bytes of a key, which holds the object's id in 16 digits
    #[arg(long, value_name = "SIZE", default_value = "16", value_parser = bytes)]
    pub(crate) key_size: u64,
    /// Time to live that sets give an item; 0 is for ever
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = units::parse_duration)]
    pub(crate) ttl: Duration,
}

/// Answers bytes with bytes: the limit of this machine.
#[derive(Clone, Debug, Args)]
pub(crate) struct EchoArgs {
    /// Where to listen; port 0 takes a free one. The address is printed
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0", value_parser = address)]
    pub(crate) listen: SocketAddr,
    /// Cores to run on, one thread each
    #[arg(long, default_value = "0")]
    pub(crate) cores: CoreList,
    /// Bytes that make one request
    #[arg(long, value_name = "SIZE", default_value = "32", value_parser = frame_bytes)]
    pub(crate) request_bytes: u64,
    /// Bytes of the answer to each
    #[arg(long, value_name = "SIZE", default_value = "88", value_parser = frame_bytes)]
    pub(crate) reply_bytes: u64,
    /// Send from all over so much memory, as a cache does; by default from a region that stays in the processor's caches
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub(crate) from: Option<u64>,
    /// End after so long; by default with Ctrl-C or SIGTERM
    #[arg(long, value_name = "DURATION", value_parser = units::parse_duration)]
    pub(crate) duration: Option<Duration>,
}

/// Where servers are compared, and where the figures go.
#[derive(Clone, Debug, Args)]
pub(crate) struct SideBySideArgs {
    /// The quoit to measure; by default the one beside this program
    #[arg(long, value_name = "FILE")]
    pub(crate) quoit: Option<PathBuf>,
    /// The core that the servers run on
    #[arg(long, default_value_t = 0)]
    pub(crate) server_core: usize,
    /// The core that the generator runs on
    #[arg(long, default_value = "1")]
    pub(crate) cores: CoreList,
    /// Put the table into this file, between its two marks
    #[arg(long, value_name = "FILE")]
    pub(crate) write: Option<PathBuf>,
}

/// Measures Quoit beside the echo, memcached and redis, in turns, and writes the table.
///
/// Every server runs on --server-core, one at a time; the generator on --cores. Nothing else should run meanwhile.
#[derive(Clone, Debug, Args)]
pub(crate) struct CompareArgs {
    #[command(flatten)]
    pub(crate) stage: SideBySideArgs,
    /// How often each contender is measured, in turns
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// How long each measurement takes
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = units::parse_duration)]
    pub(crate) duration: Duration,
    /// How long each runs before it is measured
    #[arg(long, value_name = "DURATION", default_value = "300ms", value_parser = units::parse_duration)]
    pub(crate) warmup: Duration,
    /// Only these works: get-64x1, get-16x16, multi-get, sets-64x1, sets-16x16, memory, latency, open-loop, hops-64x1,
    /// hops-16x16, idle, beside, values-4KiB, values-64KiB, values-1MiB
    #[arg(long, value_name = "WORK", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// Write every report as JSON to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// Measures the memory of an item, beside its key and value, of Quoit, memcached and redis, and writes the table.
///
/// One server after the other is filled through its clients, and its resident memory read on the way. Others may run on
/// the machine meanwhile: no time is measured.
#[derive(Clone, Debug, Args)]
pub(crate) struct DensityArgs {
    #[command(flatten)]
    pub(crate) stage: SideBySideArgs,
    /// Only these servers
    #[arg(long, value_enum, value_name = "SERVER", value_delimiter = ',', default_value = "quoit,memcached,redis")]
    pub(crate) only: Vec<ServerKind>,
    /// Items after which memory is read, rising
    #[arg(
        long,
        value_name = "COUNT",
        value_delimiter = ',',
        default_value = "1000000,1500000,2000000,3000000,4000000,6000000",
        value_parser = clap::value_parser!(u64).range(1..=100_000_000)
    )]
    pub(crate) counts: Vec<u64>,
    /// Memory of the last row, in which servers evict
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = bytes)]
    pub(crate) cap: u64,
}

/// Measures how much Quoit, memcached and redis find again with the same resident memory, and writes the table.
///
/// Cache-aside over keys whose popularity shifts. Others may run on the machine meanwhile: no time is measured.
#[derive(Clone, Debug, Args)]
pub(crate) struct HitsArgs {
    #[command(flatten)]
    pub(crate) stage: SideBySideArgs,
    /// Only these servers
    #[arg(long, value_enum, value_name = "SERVER", value_delimiter = ',', default_value = "quoit,memcached,redis")]
    pub(crate) only: Vec<ServerKind>,
    /// Resident memory that each server gets
    #[arg(long, value_name = "SIZE", default_value = "512MiB", value_parser = bytes)]
    pub(crate) resident: u64,
    /// Different keys
    #[arg(long, default_value_t = 20_000_000, value_parser = clap::value_parser!(u64).range(1..=u64::from(u32::MAX)))]
    pub(crate) keys: u64,
    /// Bytes of a value: every length in the range is as likely
    #[arg(long, value_name = "SIZE[-SIZE]", default_value = "50-300")]
    pub(crate) value_size: SizeRange,
    /// Gets before hits are counted
    #[arg(long, value_name = "COUNT", default_value_t = 10_000_000)]
    pub(crate) warmup_gets: u64,
    /// Gets whose hits are counted
    #[arg(long, value_name = "COUNT", default_value_t = 5_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) gets: u64,
    /// Everything random follows from it
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

/// Draws latency against throughput of Quoit, the echo, memcached and redis: open loop, rising rate.
#[derive(Clone, Debug, Args)]
pub(crate) struct PlotArgs {
    #[command(flatten)]
    pub(crate) stage: SideBySideArgs,
    /// Where the chart goes
    #[arg(long, value_name = "FILE", default_value = "benches/latency.svg")]
    pub(crate) svg: PathBuf,
    /// How often each rate is measured, in turns
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// How long each measurement takes
    #[arg(long, value_name = "DURATION", default_value = "600ms", value_parser = units::parse_duration)]
    pub(crate) duration: Duration,
    /// How long each runs before it is measured
    #[arg(long, value_name = "DURATION", default_value = "200ms", value_parser = units::parse_duration)]
    pub(crate) warmup: Duration,
}

/// Computes a cluster's ring on paper: balance, and what moves as nodes join and are lost.
#[derive(Clone, Debug, Args)]
pub(crate) struct RingArgs {
    /// Nodes that found the cluster
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=900))]
    pub(crate) nodes: u16,
    /// Weights of the nodes, in turns
    #[arg(long, value_name = "WEIGHT", value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) weights: Vec<u16>,
    /// Zones that the nodes lie in, in turns
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=900))]
    pub(crate) zones: u16,
    /// Replicas beside each primary
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=3))]
    pub(crate) replicas: u8,
    /// The cluster has 2 to the power of this many vnodes
    #[arg(long, value_name = "BITS", default_value_t = 12, value_parser = clap::value_parser!(u8).range(0..=16))]
    pub(crate) vnode_bits: u8,
    /// Cores of each node
    #[arg(long, value_name = "COUNT", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) node_cores: u16,
    /// Nodes that join, one after the other
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) joins: u8,
    /// Nodes that are lost then, one after the other
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) losses: u8,
    /// Write the results as JSON to this file too
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// The protocols by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProtocolName {
    /// Quoit's own
    #[default]
    Quoit,
    /// Memcached's text commands
    Memcache,
    /// Memcached's meta commands
    MemcacheMeta,
    /// Redis, Valkey and others
    Resp,
    /// The echo of this program
    Echo,
}

/// Largest frame of the echo.
const FRAME_BYTES_MAX: u64 = 64 << 20;

fn address(text: &str) -> Result<SocketAddr, String> {
    let mut found =
        text.to_socket_addrs().map_err(|error| format!("{error}; write host:port, such as 127.0.0.1:7400"))?;
    found.next().ok_or_else(|| "the name has no address".to_owned())
}

fn write_mode(text: &str) -> Result<WriteMode, String> {
    match text {
        "default" => Ok(WriteMode::ClusterDefault),
        "async" => Ok(WriteMode::Async),
        "one" => Ok(WriteMode::One),
        "all" => Ok(WriteMode::All),
        _ => Err("a write waits for copies by default, async, one or all".to_owned()),
    }
}

fn bytes(text: &str) -> Result<u64, units::UnitError> {
    units::parse_bytes(text)
}

fn frame_bytes(text: &str) -> Result<u64, String> {
    let bytes = units::parse_bytes(text).map_err(|error| error.to_string())?;
    if (1..=FRAME_BYTES_MAX).contains(&bytes) { Ok(bytes) } else { Err("an echo's frame has 1B to 64MiB".to_owned()) }
}

fn ratio(text: &str) -> Result<f64, String> {
    let ratio: f64 = text.parse().map_err(|_| "a ratio is a number from 0 to 1, such as 0.1".to_owned())?;
    if (0.0..=1.0).contains(&ratio) { Ok(ratio) } else { Err("a ratio lies between 0 and 1".to_owned()) }
}

fn exponent(text: &str) -> Result<f64, String> {
    let exponent: f64 = text.parse().map_err(|_| "Zipf's exponent is a number, such as 0.99".to_owned())?;
    if (0.0..=10.0).contains(&exponent) {
        Ok(exponent)
    } else {
        Err("Zipf's exponent lies between 0 and 10".to_owned())
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "a rate is a number of requests per second".to_owned())?;
    if (0.1..=1e9).contains(&rate) { Ok(rate) } else { Err("a rate lies between 0.1 and 1e9 per second".to_owned()) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_example_of_the_issue_is_understood() {
        let line = "quoit-loadgen run --server 127.0.0.1:7400 --connections 64 --pipeline 1 --keys 1000000 --key-size 16 \
                    --value-size 64 --set-ratio 0.1 --zipf 0.99 --duration 10s --cores 1 --json out.json";
        let cli = Cli::try_parse_from(line.split_whitespace()).expect("valid");
        let Command::Run(run) = cli.command else { panic!("not a run") };
        assert_eq!((run.data.connections, run.set_ratio, run.duration), (64, 0.1, Some(Duration::from_secs(10))));
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for line in [
            "run --set-ratio 1.5",
            "run --zipf -1",
            "run --rate 0",
            "run --pipeline 0",
            "run --key-size x",
            "echo --reply-bytes 0",
            "run --requests 5 --duration 1s",
        ] {
            let words = std::iter::once("quoit-loadgen").chain(line.split_whitespace());
            assert!(Cli::try_parse_from(words).is_err(), "{line}");
        }
    }
}
