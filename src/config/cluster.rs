//! The options by which a node joins a cluster. Without `--etcd` there is none, and the others mean nothing.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use quoit_wire::WriteMode;
use quoit_wire::topology::REPLICAS_MAX;

use super::{Invalid, Key, Reader, Setting, parse_number};
use crate::cluster::copies::OnEtcdLoss;
use crate::units::{parse_bytes, parse_duration};

/// Bytes of a cluster's, node's or zone's name.
const NAME_BYTES_MAX: usize = 64;
/// Share of the vnodes relative to other nodes; more would make the smallest step of a share too coarse to be met.
const WEIGHT_MAX: u64 = 1000;
/// Time a node may be silent before it counts as lost. etcd counts in whole seconds; longer than this is no failover.
const LEASE_SECS: (u64, u64) = (1, 60);
/// Bytes a second that a node moves: slower would never end, faster is no limit.
const MOVE_BANDWIDTH: (u64, u64) = (1 << 20, 64 << 30);
/// Longest time that a node that is told to stop may take to hand over: who wants more drains it before.
const DRAIN_TIMEOUT_SECS_MAX: u64 = 3600;
/// etcd's members that are named.
const ENDPOINTS_MAX: usize = 16;

/// How a node takes part in a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    /// How etcd is reached.
    pub etcd: EtcdConfig,
    /// The cluster's name: nodes of one name in one etcd are one cluster.
    pub name: String,
    /// The node's name, unique in its cluster and the same over restarts.
    pub node: String,
    /// Where copies should not share fate; may be empty.
    pub zone: String,
    /// Share of the vnodes relative to other nodes.
    pub weight: u16,
    /// Copies wanted beside each primary. The first node of a cluster decides.
    pub replicas: u8,
    /// What a write waits for that does not say. The first node of a cluster decides.
    pub write_mode: WriteMode,
    /// What the node was told of these two, for a cluster that has others.
    pub asked: AskedOfCluster,
    /// How long a silent node is waited for.
    pub lease: Duration,
    /// What a node does that can't be sure of being in the cluster any more.
    pub on_etcd_loss: OnEtcdLoss,
    /// Bytes a second that the node sends and takes in for copies that are made anew; `None`: the default of each core.
    pub move_bandwidth: Option<u64>,
    /// A node that is told to stop hands over what it has for so long at most.
    pub drain_timeout: Duration,
}

/// What a node was told of what the first node of its cluster decides; `None`: nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AskedOfCluster {
    /// `--replicas`.
    pub replicas: Option<u8>,
    /// `--write`.
    pub write_mode: Option<WriteMode>,
}

/// How etcd is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdConfig {
    /// `http://host:port` or `https://host:port` of its members.
    pub endpoints: Vec<String>,
    /// User and password, where etcd asks for them.
    pub user: Option<(String, Secret)>,
    /// The authority that etcd's certificate is signed by, in PEM.
    pub ca: Option<PathBuf>,
    /// This node's certificate and its key, in PEM, where etcd asks for them.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// A text that no log shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// The flags of `quoit serve` that are about the cluster.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Cluster")]
pub(super) struct ClusterFlags {
    /// etcd's members, with commas between them: http://10.0.0.1:2379; with this the node joins a cluster [default: none]
    #[arg(long, value_name = "URLS")]
    etcd: Option<String>,
    /// Name of the cluster [default: quoit]
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// Name of this node, unique in its cluster and the same over restarts [default: none, and a cluster needs one]
    #[arg(long, value_name = "NAME")]
    node_id: Option<String>,
    /// Where this node's fate is shared, such as a rack: copies of one item go to different zones [default: none]
    #[arg(long, value_name = "NAME")]
    zone: Option<String>,
    /// Share of the vnodes relative to other nodes [default: 1]
    #[arg(long, value_name = "NUMBER")]
    weight: Option<String>,
    /// Copies of each item beside its primary, 0 to 3; said by the first node of a cluster [default: 0]
    #[arg(long, value_name = "NUMBER")]
    replicas: Option<String>,
    /// Copies a write waits for that does not say; said by the first node of a cluster [default: one, and async without replicas]
    #[arg(long, value_name = "async|one|all")]
    write: Option<String>,
    /// How long a node that has gone silent is waited for, in whole seconds [default: 2s]
    #[arg(long, value_name = "DURATION")]
    lease: Option<String>,
    /// What a node does that has lost etcd: serve what needs no certainty, or refuse everything [default: serve]
    #[arg(long, value_name = "serve|fence")]
    on_etcd_loss: Option<String>,
    /// Bytes a second sent and taken in while vnodes move [default: 64MiB for each core]
    #[arg(long, value_name = "SIZE")]
    move_bandwidth: Option<String>,
    /// Time that a node which is told to stop may take to hand over what it has [default: 1m]
    #[arg(long, value_name = "DURATION")]
    drain_timeout: Option<String>,
    /// User at etcd [default: none]
    #[arg(long, value_name = "NAME")]
    etcd_user: Option<String>,
    /// Password at etcd; others on this machine can see a flag, so better in the environment or the file [default: none]
    #[arg(long, value_name = "PASSWORD")]
    etcd_password: Option<String>,
    /// Authority that etcd's certificate is signed by, a PEM file [default: none]
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    etcd_ca: Option<String>,
    /// This node's certificate for etcd, a PEM file [default: none]
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    etcd_cert: Option<String>,
    /// The certificate's key, a PEM file [default: none]
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    etcd_key: Option<String>,
}

impl ClusterFlags {
    /// Each option with the flag that was given for it.
    pub(super) const fn given(&self) -> [(Key, &Option<String>); 16] {
        [
            (Key::Etcd, &self.etcd),
            (Key::Cluster, &self.cluster),
            (Key::NodeId, &self.node_id),
            (Key::Zone, &self.zone),
            (Key::Weight, &self.weight),
            (Key::Replicas, &self.replicas),
            (Key::Write, &self.write),
            (Key::Lease, &self.lease),
            (Key::OnEtcdLoss, &self.on_etcd_loss),
            (Key::MoveBandwidth, &self.move_bandwidth),
            (Key::DrainTimeout, &self.drain_timeout),
            (Key::EtcdUser, &self.etcd_user),
            (Key::EtcdPassword, &self.etcd_password),
            (Key::EtcdCa, &self.etcd_ca),
            (Key::EtcdCert, &self.etcd_cert),
            (Key::EtcdKey, &self.etcd_key),
        ]
    }
}

/// Options that say something only beside `etcd`.
const NEEDING_ETCD: [Key; 15] = [
    Key::Cluster,
    Key::NodeId,
    Key::Zone,
    Key::Weight,
    Key::Replicas,
    Key::Write,
    Key::Lease,
    Key::OnEtcdLoss,
    Key::MoveBandwidth,
    Key::DrainTimeout,
    Key::EtcdUser,
    Key::EtcdPassword,
    Key::EtcdCa,
    Key::EtcdCert,
    Key::EtcdKey,
];

/// Reads the options of the cluster: `None` where one was refused, `Some(None)` where there is to be none.
pub(super) fn read(reader: &mut Reader<'_>) -> Option<Option<ClusterConfig>> {
    let endpoints = reader.parse(Key::Etcd, parse_endpoints);
    let name = reader.parse(Key::Cluster, parse_name);
    let node = reader.parse(Key::NodeId, |text| optional(text, parse_name));
    let zone = reader.parse(Key::Zone, |text| optional(text, parse_name));
    let weight = reader.parse(Key::Weight, parse_weight);
    let replicas = reader.parse(Key::Replicas, |text| parse_number(text, 0, REPLICAS_MAX as u64));
    let write_mode = reader.parse(Key::Write, parse_write_mode);
    let lease = reader.parse(Key::Lease, parse_lease);
    let on_etcd_loss = reader.parse(Key::OnEtcdLoss, parse_on_etcd_loss);
    let move_bandwidth = reader.parse(Key::MoveBandwidth, parse_move_bandwidth);
    let drain_timeout = reader.parse(Key::DrainTimeout, parse_drain_timeout);
    let text = |text: &str| Ok((!text.is_empty()).then(|| text.to_owned()));
    let user = reader.parse(Key::EtcdUser, text);
    let password = reader.parse(Key::EtcdPassword, text);
    let ca = reader.parse(Key::EtcdCa, text);
    let certificate = reader.parse(Key::EtcdCert, text);
    let key = reader.parse(Key::EtcdKey, text);

    let endpoints = endpoints?;
    if endpoints.is_empty() {
        let is_given =
            |setting: &&Setting| NEEDING_ETCD.contains(&setting.key) && setting.text != setting.key.default_text();
        if let Some(setting) = reader.settings.iter().find(is_given) {
            reader.refuse(setting.key, Invalid::NeedsEtcd);
            return None;
        }
        return Some(None);
    }
    if node == Some(None) {
        reader.refuse(Key::NodeId, Invalid::NoName);
    }
    if user.as_ref().map(Option::is_some) != password.as_ref().map(Option::is_some) {
        reader.refuse(Key::EtcdPassword, Invalid::Unpaired { other: Key::EtcdUser });
    }
    if certificate.as_ref().map(Option::is_some) != key.as_ref().map(Option::is_some) {
        reader.refuse(Key::EtcdKey, Invalid::Unpaired { other: Key::EtcdCert });
    }
    let is_tls = |url: &String| url.starts_with("https://");
    if ca == Some(None) && endpoints.iter().any(is_tls) {
        reader.refuse(Key::EtcdCa, Invalid::NoAuthority);
    }
    for (key, file) in [(Key::EtcdCa, &ca), (Key::EtcdCert, &certificate)] {
        if matches!(file, Some(Some(_))) && !endpoints.iter().all(is_tls) {
            reader.refuse(key, Invalid::NoTls);
        }
    }
    let replicas = replicas? as u8;
    let is_given = |key| reader.settings.iter().any(|setting| setting.key == key);
    let asked =
        AskedOfCluster { replicas: Some(replicas).filter(|_| is_given(Key::Replicas)), write_mode: write_mode? };
    let default_mode = if replicas == 0 { WriteMode::Async } else { WriteMode::One };
    let write_mode = write_mode?.unwrap_or(default_mode);
    if replicas == 0 && write_mode != WriteMode::Async {
        reader.refuse(Key::Write, Invalid::NoReplicas);
    }
    Some(Some(ClusterConfig {
        etcd: EtcdConfig {
            endpoints,
            user: user?.zip(password?.map(Secret)),
            ca: ca?.map(PathBuf::from),
            certificate: certificate?.map(PathBuf::from).zip(key?.map(PathBuf::from)),
        },
        name: name?,
        node: node??,
        zone: zone?.unwrap_or_default(),
        weight: weight?,
        replicas,
        write_mode,
        asked,
        lease: lease?,
        on_etcd_loss: on_etcd_loss?,
        move_bandwidth: move_bandwidth?,
        drain_timeout: drain_timeout?,
    }))
}

fn parse_endpoints(text: &str) -> Result<Vec<String>, Invalid> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let endpoints: Vec<String> = text.split(',').map(|url| url.trim().trim_end_matches('/').to_owned()).collect();
    let is_url = |url: &String| {
        let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
        let port = rest.and_then(|rest| rest.rsplit_once(':')).filter(|(host, _)| !host.is_empty());
        port.is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|port| port != 0))
    };
    if endpoints.len() > ENDPOINTS_MAX || !endpoints.iter().all(is_url) {
        return Err(Invalid::Endpoints);
    }
    Ok(endpoints)
}

/// Reads the name of a cluster, a node or a zone.
pub fn parse_name(text: &str) -> Result<String, Invalid> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if (1..=NAME_BYTES_MAX).contains(&text.len()) && text.chars().all(is_plain) {
        Ok(text.to_owned())
    } else {
        Err(Invalid::Name)
    }
}

fn optional<T>(text: &str, parse: impl FnOnce(&str) -> Result<T, Invalid>) -> Result<Option<T>, Invalid> {
    if text.is_empty() { Ok(None) } else { parse(text).map(Some) }
}

/// Reads a node's share.
pub fn parse_weight(text: &str) -> Result<u16, Invalid> {
    parse_number(text, 1, WEIGHT_MAX).map(|weight| weight as u16)
}

/// The word for a write mode.
pub const fn write_mode_name(mode: WriteMode) -> &'static str {
    match mode {
        WriteMode::ClusterDefault => "auto",
        WriteMode::Async => "async",
        WriteMode::One => "one",
        WriteMode::All => "all",
    }
}

/// Reads the word for a write mode; `auto` is none of them.
pub fn parse_write_mode(text: &str) -> Result<Option<WriteMode>, Invalid> {
    match text {
        "auto" => Ok(None),
        "async" => Ok(Some(WriteMode::Async)),
        "one" => Ok(Some(WriteMode::One)),
        "all" => Ok(Some(WriteMode::All)),
        _ => Err(Invalid::Word),
    }
}

fn parse_lease(text: &str) -> Result<Duration, Invalid> {
    let lease = parse_duration(text).map_err(|error| Invalid::Size(error.problem))?;
    let (min, max) = LEASE_SECS;
    if lease.subsec_nanos() == 0 && (min..=max).contains(&lease.as_secs()) { Ok(lease) } else { Err(Invalid::Lease) }
}

fn parse_on_etcd_loss(text: &str) -> Result<OnEtcdLoss, Invalid> {
    match text {
        "serve" => Ok(OnEtcdLoss::Serve),
        "fence" => Ok(OnEtcdLoss::Fence),
        _ => Err(Invalid::Word),
    }
}

fn parse_move_bandwidth(text: &str) -> Result<Option<u64>, Invalid> {
    if text == "auto" {
        return Ok(None);
    }
    let (min, max) = MOVE_BANDWIDTH;
    match parse_bytes(text).map_err(|error| Invalid::Size(error.problem))? {
        bytes if (min..=max).contains(&bytes) => Ok(Some(bytes)),
        _ => Err(Invalid::Range { min, max }),
    }
}

fn parse_drain_timeout(text: &str) -> Result<Duration, Invalid> {
    let timeout = parse_duration(text).map_err(|error| Invalid::Size(error.problem))?;
    let max = DRAIN_TIMEOUT_SECS_MAX;
    if timeout <= Duration::from_secs(max) { Ok(timeout) } else { Err(Invalid::Range { min: 0, max }) }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{error_of, load};
    use super::*;

    #[test]
    fn without_etcd_there_is_no_cluster_and_its_options_are_refused() {
        assert_eq!(load(&[], &[]).unwrap().cluster, None);
        let error = error_of(load(&["--replicas", "2"], &[]));
        assert!(error.contains("replicas") && error.contains("--etcd"), "{error}");
    }

    #[test]
    fn a_cluster_needs_etcd_and_a_name_for_the_node() {
        let cluster = load(&["--etcd", "http://10.0.0.1:2379,http://10.0.0.2:2379/", "--node-id", "a"], &[]);
        let cluster = cluster.unwrap().cluster.unwrap();
        assert_eq!(cluster.etcd.endpoints, ["http://10.0.0.1:2379", "http://10.0.0.2:2379"]);
        assert_eq!((cluster.name.as_str(), cluster.node.as_str(), cluster.zone.as_str()), ("quoit", "a", ""));
        assert_eq!((cluster.replicas, cluster.write_mode, cluster.weight), (0, WriteMode::Async, 1));
        assert_eq!((cluster.lease, cluster.on_etcd_loss), (Duration::from_secs(2), OnEtcdLoss::Serve));
        assert_eq!(cluster.drain_timeout, Duration::from_secs(60));
        let error = error_of(load(&["--etcd", "http://10.0.0.1:2379"], &[]));
        assert!(error.contains("node-id"), "{error}");
    }

    #[test]
    fn what_can_not_be_is_refused() {
        let base = ["--etcd", "http://10.0.0.1:2379", "--node-id", "a"];
        for (option, value, message) in [
            ("--etcd", "10.0.0.1:2379", "URL"),
            ("--etcd", "http://:2379", "URL"),
            ("--cluster", "", "letters"),
            ("--node-id", "a b", "letters"),
            ("--node-id", "a/b", "letters"),
            ("--weight", "0", "from 1"),
            ("--replicas", "4", "from 0"),
            ("--write", "two", "none of the words"),
            ("--lease", "1500ms", "whole seconds"),
            ("--lease", "61s", "whole seconds"),
            ("--on-etcd-loss", "panic", "none of the words"),
            ("--move-bandwidth", "1KiB", "from 1048576"),
            ("--move-bandwidth", "fast", "64MiB for each core"),
            ("--drain-timeout", "2h", "from 0s to 1h"),
            ("--drain-timeout", "soon", "from 0s to 1h"),
            ("--etcd-user", "root", "etcd-password"),
            ("--etcd-cert", "cert.pem", "etcd-key"),
        ] {
            let base = if option == "--etcd" || option == "--node-id" { &base[..0] } else { &base[..] };
            let mut arguments = base.to_vec();
            if option == "--node-id" {
                arguments = vec!["--etcd", "http://10.0.0.1:2379"];
            }
            arguments.extend([option, value]);
            let error = error_of(load(&arguments, &[]));
            assert!(error.contains(message), "{option} {value}: {error}");
        }
        let error = error_of(load(&[&base[..], &["--replicas", "0", "--write", "one"]].concat(), &[]));
        assert!(error.contains("no replica"), "{error}");
    }

    #[test]
    fn a_node_of_a_cluster_has_no_state_folder() {
        let base = ["--etcd", "http://10.0.0.1:2379", "--node-id", "a", "--state-dir"];
        let error = error_of(load(&[&base[..], &["/var/lib/quoit"]].concat(), &[]));
        assert!(error.contains("saves nothing") && error.contains("leave it out, or etcd"), "{error}");
        assert!(load(&[&base[..], &[""]].concat(), &[]).is_ok());
    }

    #[test]
    fn a_node_of_a_cluster_that_listens_everywhere_says_where_it_is() {
        let base = ["--etcd", "http://10.0.0.1:2379", "--node-id", "a", "--insecure", "--listen"];
        for everywhere in ["0.0.0.0:7400", "[::]:7400"] {
            let error = error_of(load(&[&base[..], &[everywhere]].concat(), &[]));
            assert!(error.contains("advertise") && error.contains("the others have to be told one"), "{error}");
            assert!(load(&[&base[..], &[everywhere, "--advertise", "cache-1:7400"]].concat(), &[]).is_ok());
        }
        assert!(load(&[&base[..], &["10.0.0.5:7400"]].concat(), &[]).is_ok());
        assert!(load(&["--insecure", "--listen", "0.0.0.0:7400"], &[]).is_ok(), "a node alone needs none");
    }

    #[test]
    fn tls_and_the_files_for_it_go_together() {
        let load = |url, more: &[&str]| load(&[&["--etcd", url, "--node-id", "a"], more].concat(), &[]);
        let error = error_of(load("https://10.0.0.1:2379", &[]));
        assert!(error.contains("--etcd-ca ca.pem") && error.contains("whose signature"), "{error}");
        for url in ["http://10.0.0.1:2379", "https://10.0.0.1:2379,http://10.0.0.2:2379"] {
            let error = error_of(load(url, &["--etcd-ca", "ca.pem"]));
            assert!(error.contains("https:// each"), "{error}");
        }
        let shown = ["--etcd-cert", "node.pem", "--etcd-key", "node-key.pem"];
        assert!(error_of(load("http://10.0.0.1:2379", &shown)).contains("https:// each"));
        assert!(load("https://10.0.0.1:2379", &[&shown[..], &["--etcd-ca", "ca.pem"]].concat()).is_ok());
    }

    #[test]
    fn what_a_later_node_asks_of_its_cluster_is_known_from_what_it_leaves_open() {
        let load = |more: &[&str]| {
            let base = ["--etcd", "http://10.0.0.1:2379", "--node-id", "a"];
            load(&[&base[..], more].concat(), &[]).unwrap().cluster.unwrap().asked
        };
        assert_eq!(load(&[]), AskedOfCluster::default());
        let asked = load(&["--replicas", "2", "--write", "all"]);
        assert_eq!(asked, AskedOfCluster { replicas: Some(2), write_mode: Some(WriteMode::All) });
        assert_eq!(load(&["--replicas", "1"]).write_mode, None);
    }

    #[test]
    fn a_password_is_not_shown() {
        let arguments = ["--etcd", "http://10.0.0.1:2379", "--node-id", "a", "--etcd-user", "root"];
        let config = load(&arguments, &[("QUOIT_ETCD_PASSWORD", "hunter2")]).unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
        assert_eq!(config.cluster.unwrap().etcd.user.unwrap().1.reveal(), "hunter2");
    }
}
