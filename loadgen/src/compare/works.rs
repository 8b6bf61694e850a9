//! What is compared: each work with its servers, and the loads that are put on them round after round.

use super::servers::{Cores, ServerKind, ServerSpec};

/// One comparison.
#[derive(Clone, Debug)]
pub(super) struct Work {
    /// Its name, for `--only` and the goals.
    pub(super) name: &'static str,
    /// What it is, for people.
    pub(super) title: &'static str,
    /// Servers that run through all of its rounds.
    pub(super) servers: Vec<ServerSpec>,
    /// Measured one after the other, in every round.
    pub(super) contenders: Vec<Contender>,
}

/// One load on one server.
#[derive(Clone, Debug)]
pub(super) struct Contender {
    /// Its name in the table.
    pub(super) name: &'static str,
    /// Which of the work's servers.
    pub(super) server: usize,
    /// Options of `quoit-loadgen run`, beside server, cores and duration.
    pub(super) load: String,
    /// Offer so much of what this contender carried in another work: that work's name, and the share.
    pub(super) share_of_peak: Option<(&'static str, f64)>,
}

/// Memory of servers with few items, and of the one with ten million.
const MEMORY: &str = "1GiB";
const MEMORY_LARGE: &str = "3GiB";

/// Connections that do nothing, of the goal.
const IDLE_CONNECTIONS: u32 = 10_000;

/// Every work, in the order of the table.
pub(super) fn works() -> Vec<Work> {
    let mut works = vec![
        against_all("get-64x1", "gets, 64 connections × depth 1, 10 000 keys", "--connections 64 --pipeline 1"),
        against_all("get-16x16", "gets, 16 connections × depth 16, 10 000 keys", "--connections 16 --pipeline 16"),
        multi_get(),
        mixed("sets-64x1", "10 % sets beside pure gets, 64 × 1, 1 M keys, Zipf 0.99", "--connections 64 --pipeline 1"),
        mixed(
            "sets-16x16",
            "10 % sets beside pure gets, 16 × 16, 1 M keys, Zipf 0.99",
            "--connections 16 --pipeline 16",
        ),
        out_of_cache(),
        one_connection(),
        open_loop(),
        hops(
            "hops-64x1",
            "every request to the wrong core, two cores that the load shares, 64 × 1",
            "--connections 64",
        ),
        hops(
            "hops-16x16",
            "every request to the wrong core, two cores that the load shares, 16 × 16",
            "--connections 16 --pipeline 16",
        ),
        idle_connections(),
        big_beside_small(),
    ];
    works.extend([
        values("values-4KiB", "values of 4 KiB, 16 connections × depth 4", "4KiB", 10_000, 4),
        values("values-64KiB", "values of 64 KiB, 16 connections × depth 1", "64KiB", 1_000, 1),
        values("values-1MiB", "values of 1 MiB, 16 connections × depth 1", "1MiB", 100, 1),
    ]);
    works
}

fn server(kind: ServerKind, options: &str, fill: &str) -> ServerSpec {
    let fill = (kind != ServerKind::Echo).then(|| fill.to_owned());
    ServerSpec { fill, ..ServerSpec::new(kind, options) }
}

fn quoit(memory: &str, fill: &str) -> ServerSpec {
    server(ServerKind::Quoit, &format!("--memory {memory}"), fill)
}

fn contender(name: &'static str, server: usize, load: &str) -> Contender {
    Contender { name, server, load: load.to_owned(), share_of_peak: None }
}

/// Quoit, the echo, memcached and redis under the same load.
fn against_all(name: &'static str, title: &'static str, shape: &str) -> Work {
    let data = "--keys 10000 --key-size 16 --value-size 64";
    let load = format!("{data} --zipf 0 {shape}");
    Work {
        name,
        title,
        servers: all_servers(data, "--memory 1GiB"),
        contenders: ["quoit", "echo", "memcached", "redis"]
            .into_iter()
            .enumerate()
            .map(|(server, name)| contender(name, server, &load))
            .collect(),
    }
}

fn all_servers(data: &str, quoit_options: &str) -> Vec<ServerSpec> {
    vec![
        server(ServerKind::Quoit, quoit_options, data),
        server(ServerKind::Echo, "--request-bytes 32 --reply-bytes 88", data),
        server(ServerKind::Memcached, "-m 1024", data),
        server(ServerKind::Redis, "", data),
    ]
}

fn multi_get() -> Work {
    let data = "--keys 10000 --key-size 16 --value-size 64";
    let load = format!("{data} --zipf 0 --connections 16 --pipeline 4 --multi-get 16");
    Work {
        name: "multi-get",
        title: "gets of 16 keys each, 16 connections × depth 4, 10 000 keys",
        servers: vec![
            quoit(MEMORY, data),
            server(ServerKind::Memcached, "-m 1024", data),
            server(ServerKind::Redis, "", data),
        ],
        contenders: vec![
            contender("quoit", 0, &load),
            contender("memcached", 1, &load),
            contender("memcached, meta", 1, &format!("{load} --protocol memcache-meta")),
            contender("redis", 2, &load),
        ],
    }
}

fn mixed(name: &'static str, title: &'static str, shape: &str) -> Work {
    let data = "--keys 1000000 --key-size 16 --value-size 64";
    Work {
        name,
        title,
        servers: vec![quoit(MEMORY, data)],
        contenders: vec![
            contender("quoit, gets", 0, &format!("{data} --zipf 0.99 {shape}")),
            contender("quoit, 10 % sets", 0, &format!("{data} --zipf 0.99 --set-ratio 0.1 {shape}")),
        ],
    }
}

fn out_of_cache() -> Work {
    let few = "--keys 10000 --key-size 16 --value-size 64";
    let many = "--keys 10000000 --key-size 16 --value-size 64";
    let shape = "--zipf 0 --connections 16 --pipeline 16";
    Work {
        name: "memory",
        title: "gets, 16 × 16, 10 M keys uniform beside 10 000",
        servers: vec![quoit(MEMORY, few), quoit(MEMORY_LARGE, many)],
        contenders: vec![
            contender("quoit, 10 k keys", 0, &format!("{few} {shape}")),
            contender("quoit, 10 M keys", 1, &format!("{many} {shape}")),
        ],
    }
}

fn one_connection() -> Work {
    let data = "--keys 10000 --key-size 16 --value-size 64";
    let load = format!("{data} --zipf 0 --connections 1 --pipeline 1");
    Work {
        name: "latency",
        title: "one connection, depth 1 (quoit with --idle spin)",
        servers: all_servers(data, "--memory 1GiB --idle spin"),
        contenders: ["quoit", "echo", "memcached", "redis"]
            .into_iter()
            .enumerate()
            .map(|(server, name)| contender(name, server, &load))
            .collect(),
    }
}

fn open_loop() -> Work {
    let data = "--keys 10000 --key-size 16 --value-size 64";
    let load = format!("{data} --zipf 0 --connections 64 --pipeline 16");
    let contenders = ["quoit", "echo", "memcached", "redis"].into_iter().enumerate();
    Work {
        name: "open-loop",
        title: "open loop at 70 % of each server's own peak of 64 × 1",
        servers: all_servers(data, "--memory 1GiB"),
        contenders: contenders
            .map(|(server, name)| Contender {
                share_of_peak: Some(("get-64x1", 0.7)),
                ..contender(name, server, &load)
            })
            .collect(),
    }
}

/// Both cores serve, and the generator sleeps on one of them while it waits: what is told is a ratio of Quoit to itself.
fn hops(name: &'static str, title: &'static str, shape: &str) -> Work {
    let data = "--keys 10000 --key-size 16 --value-size 64";
    let load = format!("{data} --zipf 0 {shape} --sleep");
    Work {
        name,
        title,
        servers: vec![ServerSpec { cores: Cores::Shared, ..quoit(MEMORY, data) }],
        contenders: vec![
            contender("quoit, right core", 0, &format!("{load} --route owner")),
            contender("quoit, wrong core", 0, &format!("{load} --route wrong")),
        ],
    }
}

fn idle_connections() -> Work {
    let data = "--keys 10000 --key-size 16 --value-size 64";
    let load = format!("{data} --zipf 0 --connections 64 --pipeline 1");
    Work {
        name: "idle",
        title: "64 busy connections beside 10 000 idle ones",
        servers: vec![quoit(MEMORY, data), ServerSpec { idle_connections: IDLE_CONNECTIONS, ..quoit(MEMORY, data) }],
        contenders: vec![contender("quoit", 0, &load), contender("quoit, 10 000 idle", 1, &load)],
    }
}

/// One connection reads and writes 16 MiB in turns; the figures are those of the others.
fn big_beside_small() -> Work {
    let data = "--keys 10000 --key-size 16 --value-size 64";
    let load = format!("{data} --zipf 0 --connections 64 --pipeline 1");
    let beside = format!("{load} --beside-value-size 16MiB");
    Work {
        name: "beside",
        title: "64-byte gets, 64 × 1, beside a connection that reads and writes 16 MiB values",
        servers: vec![
            quoit(MEMORY, data),
            server(ServerKind::Memcached, "-m 1024 -I 32m", data),
            server(ServerKind::Redis, "", data),
        ],
        contenders: vec![
            contender("quoit", 0, &load),
            contender("quoit, beside", 0, &beside),
            contender("memcached", 1, &load),
            contender("memcached, beside", 1, &beside),
            contender("redis", 2, &load),
            contender("redis, beside", 2, &beside),
        ],
    }
}

/// Beside the echo, whose replies stay in the caches, one that reads them from as much memory as the values lie in.
fn values(name: &'static str, title: &'static str, size: &str, keys: u64, depth: u32) -> Work {
    let data = format!("--keys {keys} --key-size 16 --value-size {size} --connections 16 --pipeline {depth}");
    let value_bytes = crate::units::parse_bytes(size).unwrap_or_default();
    let reply_bytes = value_bytes + quoit_wire::ReplyHeader::FRAME_BYTES as u64;
    let echo = format!("--request-bytes 32 --reply-bytes {reply_bytes}");
    Work {
        name,
        title,
        servers: vec![
            quoit(MEMORY, &data),
            server(ServerKind::Echo, &echo, &data),
            server(ServerKind::Echo, &format!("{echo} --from {}", keys * value_bytes), &data),
        ],
        contenders: vec![
            contender("quoit", 0, &format!("{data} --zipf 0")),
            contender("echo", 1, &format!("{data} --zipf 0")),
            contender("echo, from memory", 2, &format!("{data} --zipf 0")),
        ],
    }
}
