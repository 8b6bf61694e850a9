//! The options of a node, parsed into one checked struct.
//!
//! Flags win over `QUOIT_*` variables, those over the file, the file over the defaults; the table of options is `key.rs`.
//! A [`Config`] that exists is valid: every value is in range and fits the others and the machine. What is wrong is said
//! all at once, each with the option, where its value came from, the value, and what would be right.

mod cluster;
mod key;
mod sources;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::num::ParseIntError;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use quoit_wire::{limits, topology};
use tracing_subscriber::filter::{LevelFilter, Targets};

use self::cluster::ClusterFlags;
pub use self::cluster::{
    AskedOfCluster, ClusterConfig, EtcdConfig, Secret, parse_name, parse_weight, parse_write_mode, write_mode_name,
};
pub use self::key::Key;
pub use self::sources::{Origin, Setting, SourceError};
use crate::cluster::NAME_BYTES_MAX;
use crate::runtime::limits::TimeLimits;
use crate::runtime::machine::{CpuListError, Machine, parse_cpus};
use crate::runtime::preflight::{self, Shortcoming};
use crate::runtime::{Idle, RuntimeOptions, StartError};
use crate::store::PolicyKind;
use crate::units::{self, DisplayBytes, UnitProblem};

/// Executors of a node may be no more than the wire format can number.
const CORES_MAX: usize = topology::CORES_MAX;
/// Longest spin before parking: longer is `spin`.
const IDLE_SPIN_MICROS_MAX: u64 = 1_000_000;
/// A share of the machine's memory is rounded down to this, so that it reads well.
const SHARE_STEP_BYTES: u64 = 1 << 20;
/// Bytes of a host name and of one of its labels, as the DNS has them (RFC 1035).
const HOST_BYTES_MAX: usize = 253;
const HOST_LABEL_BYTES_MAX: usize = 63;
/// Connections of a core; more than one machine's files and socket buffers carry.
const CONNECTIONS_MAX: usize = 1_000_000;

/// What shells complete after `--eviction`.
const POLICY_NAMES: [&str; PolicyKind::ALL.len()] = {
    let mut names = [""; PolicyKind::ALL.len()];
    let mut index = 0;
    while index < names.len() {
        names[index] = PolicyKind::ALL[index].name();
        index += 1;
    }
    names
};

/// A node's options, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// The address that the topology names, as clients are to connect to it; `None`: the one that is listened on.
    pub advertise: Option<String>,
    /// Where the admin HTTP listens.
    pub admin: SocketAddr,
    /// The CPU of each executor, in order; one may stand there more than once.
    pub cpus: Vec<usize>,
    /// The hard cap of items, index and buffers together.
    pub memory_bytes: usize,
    /// Whether all of that is touched at the start.
    pub prefault: bool,
    /// Who has to go when memory is full.
    pub eviction: PolicyKind,
    /// What a core without work does.
    pub idle: Idle,
    /// The largest value taken; `None`: the smaller of 16 MiB and 1/8 of a core's arena.
    pub value_bytes_max: Option<usize>,
    /// Connections each core keeps; `None`: as many as the limit of open files leaves room for.
    pub connections_max: Option<usize>,
    /// The hash space is cut into `2^vnode_bits` vnodes.
    pub vnode_bits: u8,
    /// Where items are kept while the node is down; `None`: nowhere.
    pub state_dir: Option<PathBuf>,
    /// How the node takes part in a cluster; `None`: it is a cluster of one.
    pub cluster: Option<ClusterConfig>,
    /// How the log is written.
    pub log: LogFormat,
    /// What the log tells.
    pub log_level: Targets,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Human,
    /// One JSON object a line.
    Json,
}

/// The flags of `quoit serve`. They are only collected here; [`Config::load`] judges them with the other sources.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(
    after_help = "Every option may also stand in the environment (QUOIT_VALUE_MAX for --value-max) or in the file that --config \
                        names (value-max = \"1MiB\"). Flags win over the environment, and that over the file. \
                        deploy/quoit.toml explains each option."
)]
pub struct ServeFlags {
    /// Where clients connect; port 0 takes a free one [default: 127.0.0.1:7400]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// The address clients are told to connect to, where it is not the one listened on [default: auto]
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Where /metrics, /healthz, /readyz, /topology and /cluster are served; quoit cluster asks there [default: 127.0.0.1:7401]
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
    /// CPUs that get an executor each: 0-3, or 0,2, or all [default: all]
    #[arg(long, value_name = "CPUS")]
    cores: Option<String>,
    /// Hard cap of items, index and buffers: 256MiB, or 25% of this machine's memory [default: 25%]
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// Touch all memory before the first request: no write waits for the kernel to find a page, and starting takes longer
    #[arg(long)]
    prefault: bool,
    /// Who has to go when memory is full [default: s3-fifo]
    #[arg(long, value_name = "POLICY", value_parser = Suggested(&POLICY_NAMES))]
    eviction: Option<String>,
    /// What a core without work does: stay awake while that has paid lately, park, spin, or spin for so many microseconds and
    /// then park [default: adaptive]
    #[arg(long, value_name = "adaptive|park|spin|MICROSECONDS", value_parser = Suggested(&["adaptive", "park", "spin"]), hide_possible_values = true)]
    idle: Option<String>,
    /// Largest value taken [default: the smaller of 16MiB and 1/8 of a core's arena]
    #[arg(long, value_name = "SIZE")]
    value_max: Option<String>,
    /// Connections each core keeps [default: as many as the limit of open files leaves room for]
    #[arg(long, value_name = "NUMBER")]
    connections_max: Option<String>,
    /// Slices of the hash space, a power of two [default: 4096]
    #[arg(long, value_name = "NUMBER")]
    vnodes: Option<String>,
    /// Folder in which SIGTERM saves all items, for the next start to go on with [default: none, a node starts empty]
    #[arg(long, value_name = "FOLDER", value_hint = clap::ValueHint::DirPath)]
    state_dir: Option<String>,
    #[command(flatten)]
    cluster: ClusterFlags,
    /// Listen off loopback although there is no authentication: whoever reaches the port may read and write everything
    #[arg(long)]
    insecure: bool,
    /// How the log is written [default: human]
    #[arg(long, value_name = "FORMAT", value_parser = Suggested(&["human", "json"]))]
    log: Option<String>,
    /// What the log tells: a level, or levels by part (info,quoit::runtime=debug) [default: info]
    #[arg(long, value_name = "LEVEL", value_parser = Suggested(&["error", "warn", "info", "debug", "trace"]))]
    log_level: Option<String>,
    /// A file with options, see deploy/quoit.toml
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    config: Option<String>,
}

impl Config {
    /// Puts together the options of a node on `machine`; `environment` looks a variable up.
    pub fn load(
        flags: &ServeFlags,
        environment: impl Fn(&str) -> Option<OsString>,
        machine: &Machine,
    ) -> Result<Self, ConfigErrors> {
        let settings = sources::gather(flags.settings(), environment)
            .map_err(|errors| ConfigErrors(errors.into_iter().map(ConfigError::Source).collect()))?;
        Self::check(&settings, machine)
    }

    /// Parses and checks settings, of which there is at most one per option.
    fn check(settings: &[Setting], machine: &Machine) -> Result<Self, ConfigErrors> {
        let mut reader = Reader { settings, errors: Vec::new() };
        let listen = reader.parse(Key::Listen, parse_address);
        let advertise = reader.parse(Key::Advertise, parse_advertise);
        let admin = reader.parse(Key::Admin, parse_address);
        let cpus = reader.parse(Key::Cores, |text| parse_cores(text, machine));
        let memory_bytes = reader.parse(Key::Memory, |text| parse_memory(text, machine));
        let prefault = reader.parse(Key::Prefault, parse_truth);
        let eviction = reader.parse(Key::Eviction, |text| text.parse().map_err(|_| Invalid::Policy));
        let idle = reader.parse(Key::Idle, parse_idle);
        let value_bytes_max = reader.parse(Key::ValueMax, parse_value_max);
        let connections_max = reader.parse(Key::ConnectionsMax, parse_connections);
        let vnode_bits = reader.parse(Key::Vnodes, parse_vnodes);
        let state_dir = reader.parse(Key::StateDir, parse_folder);
        let insecure = reader.parse(Key::Insecure, parse_truth);
        let cluster = cluster::read(&mut reader);
        let log = reader.parse(Key::Log, parse_log_format);
        let log_level = reader.parse(Key::LogLevel, parse_log_level);

        for (key, address) in [(Key::Listen, listen), (Key::Admin, admin)] {
            if let (Some(address), Some(false)) = (address, insecure)
                && !address.ip().to_canonical().is_loopback()
            {
                reader.refuse(key, Invalid::Exposed);
            }
        }
        if let (Some(cpus), Some(bits)) = (&cpus, vnode_bits)
            && cpus.len() > 1 << bits
        {
            reader.refuse(Key::Vnodes, Invalid::FewerVnodesThanCores { cores: cpus.len() });
        }

        if let (Some(Some(_)), Some(Some(_))) = (&state_dir, &cluster) {
            reader.refuse(Key::StateDir, Invalid::NotInCluster);
        }

        if let (Some(listen), Some(None), Some(Some(_))) = (listen, &advertise, &cluster)
            && listen.ip().to_canonical().is_unspecified()
        {
            reader.refuse(Key::Advertise, Invalid::NeedsAdvertise(listen));
        }

        let complete = || {
            Some(Self {
                listen: listen?,
                advertise: advertise?,
                admin: admin?,
                cpus: cpus?,
                memory_bytes: memory_bytes?,
                prefault: prefault?,
                eviction: eviction?,
                idle: idle?,
                value_bytes_max: value_bytes_max?,
                connections_max: connections_max?,
                vnode_bits: vnode_bits?,
                state_dir: state_dir?,
                cluster: cluster?,
                log: log?,
                log_level: log_level?,
            })
        };
        let Some(config) = complete().filter(|_| reader.errors.is_empty()) else {
            return Err(ConfigErrors(reader.errors));
        };
        match config.runtime_options(1).split_memory() {
            Ok(_) => return Ok(config),
            Err(StartError::ValueMax { limit_bytes, .. }) => {
                reader.refuse(Key::ValueMax, Invalid::OverArenaShare { limit_bytes });
            }
            Err(StartError::Memory { cores, needed_bytes, .. }) => {
                reader.refuse(Key::Memory, Invalid::TooLittleMemory { cores, needed_bytes });
            }
            Err(_) => reader.refuse(Key::Cores, Invalid::TooManyCores { count: config.cpus.len() }),
        }
        Err(ConfigErrors(reader.errors))
    }

    /// The part that the runtime is started with, now that it is known how many connections each core may keep.
    pub fn runtime_options(&self, connections_max: usize) -> RuntimeOptions {
        RuntimeOptions {
            listen: self.listen,
            advertise: self.advertise.clone(),
            cpus: self.cpus.clone(),
            memory_bytes: self.memory_bytes,
            prefault: self.prefault,
            policy: self.eviction,
            idle: self.idle,
            value_bytes_max: self.value_bytes_max,
            connections_max,
            vnode_bits: self.vnode_bits,
            node_id: None,
            cluster: None,
            state_dir: self.state_dir.clone(),
            time_limits: TimeLimits::default(),
        }
    }
}

/// Everything that is wrong with a node's options; at least one.
#[derive(Debug, thiserror::Error)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{error}")?;
        }
        Ok(())
    }
}

/// One thing that is wrong with a node's options.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A source can't be read, or has something in it that is no option.
    #[error(transparent)]
    Source(SourceError),
    /// A value is not one of its option's.
    #[error("{} = \"{}\" ({}): {invalid}\n  expected: {}\n  to mend:  {}",
        .setting.key, .setting.text, .setting.origin, .setting.key.expected(), mend(.setting, .invalid))]
    Value {
        /// The option, its value and where that came from.
        setting: Setting,
        /// What is wrong.
        invalid: Invalid,
    },
}

/// What is wrong with a value.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    /// No address with a port.
    #[error("it is not an IP address with a port")]
    Address,
    /// No host with a port.
    #[error("it is not a host and a port")]
    Host,
    /// A host and a port that are too much together.
    #[error("a host and its port have at most {NAME_BYTES_MAX} bytes together")]
    LongAddress,
    /// A node of a cluster that does not say where it is.
    #[error(
        "the node listens on {0}, which stands for all of the machine's own addresses: the others have to be told one"
    )]
    NeedsAdvertise(SocketAddr),
    /// An address that nobody can connect to.
    #[error("nobody can connect to this address: it stands for all of a machine's own")]
    Unspecified,
    /// A listener that strangers may reach.
    #[error(
        "other machines may reach this address, and there is no authentication: whoever does may read and change everything"
    )]
    Exposed,
    /// No list of CPUs.
    #[error("{0}")]
    Cpus(CpuListError),
    /// A CPU that can't be used.
    #[error("{}", .0.problem)]
    Cpu(Shortcoming),
    /// More executors than can be numbered.
    #[error("{count} executors are more than {CORES_MAX}")]
    TooManyCores {
        /// How many the list asks for.
        count: usize,
    },
    /// No size.
    #[error("{0}")]
    Size(UnitProblem),
    /// No share in percent.
    #[error("a share is a whole percentage from 1% to 100%")]
    Share,
    /// More memory than there is.
    #[error("this process may use {} of memory", DisplayBytes(*.limit_bytes))]
    MoreThanThere {
        /// What the machine, or the cgroup, has.
        limit_bytes: u64,
    },
    /// Less memory than the cores need.
    #[error("{cores} cores need at least {} together", DisplayBytes(*.needed_bytes as u64))]
    TooLittleMemory {
        /// How many executors there are to be.
        cores: usize,
        /// The least that works.
        needed_bytes: usize,
    },
    /// A value that could fill more than 1/8 of an arena.
    #[error("with this memory and these cores, 1/8 of a core's arena is {}", DisplayBytes(*.limit_bytes as u64))]
    OverArenaShare {
        /// The most that works.
        limit_bytes: usize,
    },
    /// No eviction policy.
    #[error("there is no such policy; there are {}", PolicyKind::ALL.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", "))]
    Policy,
    /// None of a few words.
    #[error("it is none of the words for it")]
    Word,
    /// No whole number.
    #[error("it is not a whole number: {0}")]
    Number(ParseIntError),
    /// A number outside its range.
    #[error("it is not from {min} to {max}")]
    Range {
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// A number of vnodes that is no power of two.
    #[error("it is not a power of two")]
    NoPowerOfTwo,
    /// Cores that would own nothing.
    #[error("{cores} cores can't each own one of fewer vnodes")]
    FewerVnodesThanCores {
        /// How many executors there are to be.
        cores: usize,
    },
    /// An option of the cluster's without a cluster.
    #[error("it is about a cluster, and without --etcd there is none")]
    NeedsEtcd,
    /// A folder for items that are not the node's own to keep.
    #[error("a node of a cluster saves nothing: what it holds it gets from the others, and gives to them when it ends")]
    NotInCluster,
    /// A node of a cluster without a name.
    #[error("a node of a cluster has a name, by which it is known after a restart too")]
    NoName,
    /// No name.
    #[error("a name has 1 to 64 letters, digits, hyphens, underscores and dots")]
    Name,
    /// No URLs of etcd's members.
    #[error("it is not a list of at most 16 URLs with ports")]
    Endpoints,
    /// One half of a pair.
    #[error("it goes together with {other}: give both, or neither")]
    Unpaired {
        /// The other half.
        other: Key,
    },
    /// An etcd that would be believed whoever it is.
    #[error("etcd speaks TLS, and it is not said whose signature on its certificate is good")]
    NoAuthority,
    /// Files for TLS without TLS.
    #[error("it is for TLS, and etcd is not asked for it: its URLs would have to begin with https:// each")]
    NoTls,
    /// A write that would wait for copies which there are none of.
    #[error("there is no replica to wait for: replicas is 0")]
    NoReplicas,
    /// No lease that etcd can keep.
    #[error("a lease is whole seconds, from 1s to 60s")]
    Lease,
    /// No log levels.
    #[error("it names no level")]
    LogLevel,
}

/// What to write instead, as it is written in the source of the value.
fn mend(setting: &Setting, invalid: &Invalid) -> String {
    let spelled = |value: &str| setting.origin.spell(setting.key, value);
    match invalid {
        Invalid::Exposed => format!(
            "{}, or {} if only trusted machines can reach it",
            spelled(setting.key.example()),
            setting.origin.spell(Key::Insecure, "true")
        ),
        Invalid::Cpu(shortcoming) => shortcoming.mend(),
        Invalid::TooLittleMemory { needed_bytes, .. } => {
            format!("{}, or fewer cores", spelled(&DisplayBytes(*needed_bytes as u64).to_string()))
        }
        Invalid::FewerVnodesThanCores { cores } => spelled(&cores.next_power_of_two().to_string()),
        Invalid::NotInCluster | Invalid::NoTls => format!("leave it out, or {}", Key::Etcd),
        _ => spelled(setting.key.example()),
    }
}

/// Parses settings one by one and collects what is wrong.
struct Reader<'a> {
    settings: &'a [Setting],
    errors: Vec<ConfigError>,
}

impl Reader<'_> {
    /// The option's value, from its setting or its default; `None` when that was refused.
    fn parse<T>(&mut self, key: Key, parse: impl FnOnce(&str) -> Result<T, Invalid>) -> Option<T> {
        let setting = self.setting(key);
        match parse(&setting.text) {
            Ok(value) => Some(value),
            Err(invalid) => {
                self.errors.push(ConfigError::Value { setting, invalid });
                None
            }
        }
    }

    /// Notes that an option's value, though well formed, can't be.
    fn refuse(&mut self, key: Key, invalid: Invalid) {
        let setting = self.setting(key);
        self.errors.push(ConfigError::Value { setting, invalid });
    }

    fn setting(&self, key: Key) -> Setting {
        let given = self.settings.iter().find(|setting| setting.key == key);
        given.cloned().unwrap_or_else(|| Setting { key, text: key.default_text().to_owned(), origin: Origin::Default })
    }
}

fn parse_address(text: &str) -> Result<SocketAddr, Invalid> {
    text.parse().map_err(|_| Invalid::Address)
}

fn parse_advertise(text: &str) -> Result<Option<String>, Invalid> {
    if text == "auto" {
        return Ok(None);
    }
    if text.len() > NAME_BYTES_MAX {
        return Err(Invalid::LongAddress);
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        let is_address = !address.ip().to_canonical().is_unspecified();
        return match address.port() {
            0 => Err(Invalid::Range { min: 1, max: u64::from(u16::MAX) }),
            _ if is_address => Ok(Some(text.to_owned())),
            _ => Err(Invalid::Unspecified),
        };
    }
    let (host, port) = text.rsplit_once(':').ok_or(Invalid::Host)?;
    let is_label = |label: &str| {
        let is_inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        (1..=HOST_LABEL_BYTES_MAX).contains(&label.len()) && label.chars().all(is_inner)
    };
    // What looks like an IPv4 address and is none would never be found as a name.
    let is_number = |label: &str| label.chars().all(|c| c.is_ascii_digit());
    let is_name = host.len() <= HOST_BYTES_MAX && host.split('.').all(is_label) && !host.rsplit('.').all(is_number);
    if !is_name {
        return Err(Invalid::Host);
    }
    parse_number(port, 1, u64::from(u16::MAX))?;
    Ok(Some(text.to_owned()))
}

fn parse_cores(text: &str, machine: &Machine) -> Result<Vec<usize>, Invalid> {
    let cpus = match text {
        "all" => machine.cpus_allowed.clone(),
        list => parse_cpus(list).map_err(Invalid::Cpus)?,
    };
    if cpus.len() > CORES_MAX {
        return Err(Invalid::TooManyCores { count: cpus.len() });
    }
    for cpu in &cpus {
        preflight::cpu_verdict(*cpu, &machine.cpus_online, &machine.cpus_allowed).map_err(Invalid::Cpu)?;
    }
    Ok(cpus)
}

fn parse_memory(text: &str, machine: &Machine) -> Result<usize, Invalid> {
    let bytes = match text.strip_suffix('%') {
        Some(percent) => {
            let percent = percent.parse::<u64>().ok().filter(|percent| (1..=100).contains(percent));
            let share_bytes = machine.memory_bytes.saturating_mul(percent.ok_or(Invalid::Share)?) / 100;
            share_bytes - share_bytes % SHARE_STEP_BYTES
        }
        None => units::parse_bytes(text).map_err(|error| Invalid::Size(error.problem))?,
    };
    if bytes > machine.memory_bytes {
        return Err(Invalid::MoreThanThere { limit_bytes: machine.memory_bytes });
    }
    usize::try_from(bytes).map_err(|_| Invalid::Size(UnitProblem::TooLarge))
}

fn parse_idle(text: &str) -> Result<Idle, Invalid> {
    match text {
        "adaptive" => Ok(Idle::Adaptive),
        "park" => Ok(Idle::Park),
        "spin" => Ok(Idle::Spin),
        digits if digits.starts_with(|c: char| c.is_ascii_digit()) => {
            let micros = parse_number(digits, 0, IDLE_SPIN_MICROS_MAX)?;
            Ok(Idle::SpinThenPark(Duration::from_micros(micros)))
        }
        _ => Err(Invalid::Word),
    }
}

fn parse_value_max(text: &str) -> Result<Option<usize>, Invalid> {
    if text == "auto" {
        return Ok(None);
    }
    let bytes = units::parse_bytes(text).map_err(|error| Invalid::Size(error.problem))?;
    match usize::try_from(bytes) {
        Ok(bytes @ 1..=limits::VALUE_BYTES_MAX) => Ok(Some(bytes)),
        _ => Err(Invalid::Range { min: 1, max: limits::VALUE_BYTES_MAX as u64 }),
    }
}

fn parse_connections(text: &str) -> Result<Option<usize>, Invalid> {
    match text {
        "auto" => Ok(None),
        number => Ok(Some(parse_number(number, 1, CONNECTIONS_MAX as u64)? as usize)),
    }
}

fn parse_vnodes(text: &str) -> Result<u8, Invalid> {
    let count = parse_number(text, 1, 1 << topology::VNODE_BITS_MAX)?;
    if count.is_power_of_two() { Ok(count.trailing_zeros() as u8) } else { Err(Invalid::NoPowerOfTwo) }
}

fn parse_folder(text: &str) -> Result<Option<PathBuf>, Invalid> {
    Ok((!text.is_empty()).then(|| PathBuf::from(text)))
}

fn parse_truth(text: &str) -> Result<bool, Invalid> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Invalid::Word),
    }
}

fn parse_log_format(text: &str) -> Result<LogFormat, Invalid> {
    match text {
        "human" => Ok(LogFormat::Human),
        "json" => Ok(LogFormat::Json),
        _ => Err(Invalid::Word),
    }
}

fn parse_log_level(text: &str) -> Result<Targets, Invalid> {
    // A bare word that is no level would be taken for a part of the program, to be told everything of: a misspelt level.
    let is_level = |part: &str| part.contains('=') || part.parse::<LevelFilter>().is_ok();
    if !text.split(',').all(is_level) {
        return Err(Invalid::LogLevel);
    }
    text.parse().map_err(|_| Invalid::LogLevel)
}

fn parse_number(text: &str, min: u64, max: u64) -> Result<u64, Invalid> {
    let number = text.parse().map_err(Invalid::Number)?;
    if (min..=max).contains(&number) { Ok(number) } else { Err(Invalid::Range { min, max }) }
}

impl ServeFlags {
    /// The flags that were given.
    fn settings(&self) -> Vec<Setting> {
        let [prefault, insecure] = [self.prefault, self.insecure].map(|is_on| is_on.then(|| "true".to_owned()));
        let own = [
            (Key::Listen, &self.listen),
            (Key::Advertise, &self.advertise),
            (Key::Admin, &self.admin),
            (Key::Cores, &self.cores),
            (Key::Memory, &self.memory),
            (Key::Prefault, &prefault),
            (Key::Eviction, &self.eviction),
            (Key::Idle, &self.idle),
            (Key::ValueMax, &self.value_max),
            (Key::ConnectionsMax, &self.connections_max),
            (Key::Vnodes, &self.vnodes),
            (Key::StateDir, &self.state_dir),
            (Key::Insecure, &insecure),
            (Key::Log, &self.log),
            (Key::LogLevel, &self.log_level),
            (Key::Config, &self.config),
        ];
        let given = own.into_iter().chain(self.cluster.given());
        let setting =
            |(key, text): (Key, &Option<String>)| text.clone().map(|text| Setting { key, text, origin: Origin::Flag });
        given.filter_map(setting).collect()
    }
}

/// Takes any text, and names values that shells complete and the help lists. Judging is left to [`Config::load`].
#[derive(Clone, Copy)]
struct Suggested(&'static [&'static str]);

impl TypedValueParser for Suggested {
    type Value = String;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue>>> {
        Some(Box::new(self.0.iter().copied().map(PossibleValue::new)))
    }
}
