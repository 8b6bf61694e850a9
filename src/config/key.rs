//! The options of a node: their names everywhere, their defaults, and what their values look like.
//!
//! One table, which flags, environment, file, messages and the example file all follow.

use std::fmt;

/// Declares the options.
macro_rules! keys {
    ($( $(#[$meta:meta])* $variant:ident { $name:literal, default: $default:literal, example: $example:literal, expected: $expected:literal } )*) => {
        /// An option of `quoit serve`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Key { $( $(#[$meta])* $variant ),* }

        impl Key {
            /// Every option, in the order of the help.
            pub const ALL: &[Self] = &[$( Self::$variant ),*];

            /// Whether the flag stands alone, for true.
            pub const fn is_switch(self) -> bool {
                matches!(self, Self::Prefault | Self::Insecure)
            }

            /// The name of the flag and of the key in the file.
            pub const fn name(self) -> &'static str {
                match self { $( Self::$variant => $name ),* }
            }

            /// The value when none is given; empty for none.
            pub const fn default_text(self) -> &'static str {
                match self { $( Self::$variant => $default ),* }
            }

            /// A value that works on every machine, for messages.
            pub const fn example(self) -> &'static str {
                match self { $( Self::$variant => $example ),* }
            }

            /// What a value may look like, for messages.
            pub const fn expected(self) -> &'static str {
                match self { $( Self::$variant => $expected ),* }
            }
        }
    };
}

keys! {
    /// Where clients connect.
    Listen {
        "listen", default: "127.0.0.1:7400", example: "127.0.0.1:7400",
        expected: "an IP address and a port, such as 127.0.0.1:7400 or [::1]:7400; port 0 takes a free one"
    }
    /// Where other machines reach the node.
    Advertise {
        "advertise", default: "auto", example: "cache-1.example.net:7400",
        expected: "a host name or an IP address that clients can connect to, and a port, such as cache-1.example.net:7400 or [2001:db8::1]:7400; or the address that is listened on: auto"
    }
    /// Where the admin HTTP listens.
    Admin {
        "admin", default: "127.0.0.1:7401", example: "127.0.0.1:7401",
        expected: "an IP address and a port, such as 127.0.0.1:7401 or [::1]:7401; port 0 takes a free one"
    }
    /// The CPUs that get an executor each.
    Cores {
        "cores", default: "all", example: "0",
        expected: "CPU numbers and ranges, such as 0-3 or 0,2 (one repeated gets that many executors), or all that this process may run on: all"
    }
    /// The hard cap of items, index and buffers.
    Memory {
        "memory", default: "25%", example: "256MiB",
        expected: "a size such as 256MiB or 1.5GiB, or a share of this machine's memory such as 25%"
    }
    /// Whether memory is touched at the start.
    Prefault {
        "prefault", default: "false", example: "true",
        expected: "true or false"
    }
    /// Who has to go when memory is full.
    Eviction {
        "eviction", default: "s3-fifo", example: "s3-fifo",
        expected: "the name of an eviction policy"
    }
    /// What a core without work does.
    Idle {
        "idle", default: "adaptive", example: "adaptive",
        expected: "adaptive, park, spin, or the number of microseconds (at most 1000000) to spin before parking"
    }
    /// The largest value taken.
    ValueMax {
        "value-max", default: "auto", example: "auto",
        expected: "a size from 1B to 16MiB and at most 1/8 of a core's arena, or the smaller of those two: auto"
    }
    /// Connections each core keeps.
    ConnectionsMax {
        "connections-max", default: "auto", example: "auto",
        expected: "a number of connections per core, from 1 to 1000000, or as many as the limit of open files leaves room for: auto"
    }
    /// Slices of the hash space.
    Vnodes {
        "vnodes", default: "4096", example: "4096",
        expected: "a power of two from 1 to 65536, and at least the number of cores"
    }
    /// Where items are kept while the node is down.
    StateDir {
        "state-dir", default: "", example: "/var/lib/quoit",
        expected: "the path of a folder that only this node uses, or nothing"
    }
    /// etcd's members.
    Etcd {
        "etcd", default: "", example: "http://127.0.0.1:2379",
        expected: "URLs such as http://10.0.0.1:2379,http://10.0.0.2:2379, or nothing for a node without a cluster"
    }
    /// The cluster's name.
    Cluster {
        "cluster", default: "quoit", example: "quoit",
        expected: "a name of 1 to 64 letters, digits, hyphens, underscores and dots"
    }
    /// The node's name.
    NodeId {
        "node-id", default: "", example: "a",
        expected: "a name of 1 to 64 letters, digits, hyphens, underscores and dots, unique in the cluster and the same over restarts"
    }
    /// Where the node's fate is shared.
    Zone {
        "zone", default: "", example: "rack-1",
        expected: "a name of 1 to 64 letters, digits, hyphens, underscores and dots, or nothing"
    }
    /// The node's share.
    Weight {
        "weight", default: "1", example: "1",
        expected: "a whole number from 1 to 1000"
    }
    /// Copies beside the primary.
    Replicas {
        "replicas", default: "0", example: "0",
        expected: "a whole number from 0 to 3"
    }
    /// What a write waits for.
    Write {
        "write", default: "auto", example: "auto",
        expected: "async, one or all, or one where there are replicas and else async: auto"
    }
    /// How long a silent node is waited for.
    Lease {
        "lease", default: "2s", example: "2s",
        expected: "whole seconds, from 1s to 60s"
    }
    /// What a node does that has lost etcd.
    OnEtcdLoss {
        "on-etcd-loss", default: "serve", example: "serve",
        expected: "serve or fence"
    }
    /// How fast vnodes move.
    MoveBandwidth {
        "move-bandwidth", default: "auto", example: "auto",
        expected: "bytes a second, from 1MiB to 64GiB, or 64MiB for each core: auto"
    }
    /// How long a node that is told to stop hands over.
    DrainTimeout {
        "drain-timeout", default: "1m", example: "1m",
        expected: "a duration from 0s to 1h"
    }
    /// User at etcd.
    EtcdUser {
        "etcd-user", default: "", example: "quoit",
        expected: "a user's name, with etcd-password beside it, or nothing"
    }
    /// Password at etcd.
    EtcdPassword {
        "etcd-password", default: "", example: "secret",
        expected: "the password of etcd-user, or nothing"
    }
    /// The authority of etcd's certificate.
    EtcdCa {
        "etcd-ca", default: "", example: "ca.pem",
        expected: "the path of a PEM file, or nothing"
    }
    /// The node's certificate for etcd.
    EtcdCert {
        "etcd-cert", default: "", example: "node.pem",
        expected: "the path of a PEM file, with etcd-key beside it, or nothing"
    }
    /// The certificate's key.
    EtcdKey {
        "etcd-key", default: "", example: "node-key.pem",
        expected: "the path of a PEM file, with etcd-cert beside it, or nothing"
    }
    /// Consent to a listener that strangers may reach.
    Insecure {
        "insecure", default: "false", example: "true",
        expected: "true or false"
    }
    /// How the log is written.
    Log {
        "log", default: "human", example: "human",
        expected: "human or json"
    }
    /// What the log tells.
    LogLevel {
        "log-level", default: "info", example: "info",
        expected: "error, warn, info, debug or trace, or by part: info,quoit::runtime=debug"
    }
    /// The file.
    Config {
        "config", default: "", example: "quoit.toml",
        expected: "the path of a file like deploy/quoit.toml"
    }
}

impl Key {
    /// The option of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|key| key.name() == name)
    }

    /// The name of the environment variable.
    pub fn environment(self) -> String {
        format!("QUOIT_{}", self.name().replace('-', "_").to_ascii_uppercase())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
