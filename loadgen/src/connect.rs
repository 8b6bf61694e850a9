//! Opens the connections of a run and shares them out among the generator's threads.
//!
//! A Quoit node is asked for the topology; connection i goes to core i mod cores, counted over all nodes that own something,
//! and each thread gets connections to every core, as long as there are enough of them. The topology is that of the
//! beginning: what moves later is answered `moved`, and counted (`--client` follows it).

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use quoit_wire::topology::{Seat, Topology};
use quoit_wire::{HelloParameters, HelloReply};

use crate::cli::ProtocolName;
use crate::drive::{Means, ThreadPlan};
use crate::engine::{ClientOptions, connect_client};
use crate::protocol::{HelloError, fetch_topology, say_hello};
use crate::work::{Route, Routes};

/// How long a server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the connections could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// Nobody listens there, or nobody answers.
    #[error("can't connect: {0}. Is the server running, and is this its address? (--server)")]
    Refused(#[source] io::Error),
    /// A socket option was refused.
    #[error("can't set up the connection: {0}")]
    Option(#[source] io::Error),
    /// The topology names a node whose address leads nowhere.
    #[error("the topology names a node at {address}, which can't be looked up: {error}")]
    Address {
        /// What the topology says.
        address: String,
        /// Why it leads nowhere.
        error: io::Error,
    },
    /// The native client found no cluster.
    #[error(transparent)]
    Client(#[from] quoit_client::Error),
    /// A Quoit node did not answer as one.
    #[error(transparent)]
    Hello(#[from] HelloError),
}

/// Open connections.
pub(crate) struct Connected {
    /// Of each thread.
    pub(crate) threads: Vec<ThreadPlan>,
    /// What a Quoit node said.
    pub(crate) hello: Option<HelloReply>,
    /// The epoch of its topology; zero for others.
    pub(crate) epoch: u32,
}

/// Opens `connections` connections for `threads` threads; by default one for each core of the server.
pub(crate) fn connect_all(
    servers: &[SocketAddr],
    protocol: ProtocolName,
    connections: Option<usize>,
    threads: usize,
    route: Route,
) -> Result<Connected, ConnectError> {
    if protocol == ProtocolName::Quoit {
        return connect_to_cluster(servers, connections, threads, route);
    }
    let mut streams: Vec<Vec<TcpStream>> = (0..threads).map(|_| Vec::new()).collect();
    for connection in 0..connections.unwrap_or(threads) {
        streams[connection % threads].push(connect(servers[connection % servers.len()])?);
    }
    let plan = |streams: Vec<TcpStream>| ThreadPlan {
        routes: Routes::anywhere(streams.len()),
        means: Means::Connections(streams),
    };
    Ok(Connected { threads: streams.into_iter().map(plan).collect(), hello: None, epoch: 0 })
}

/// Has one native client per thread find the cluster; `callers` in all.
pub(crate) fn connect_clients(
    servers: &[SocketAddr],
    callers: usize,
    threads: usize,
    depth: usize,
    keys_per_request: usize,
    options: &ClientOptions,
) -> Result<Connected, ConnectError> {
    let client = |thread: usize| {
        let callers = callers * (thread + 1) / threads - callers * thread / threads;
        let servers = servers.iter().map(SocketAddr::to_string).collect();
        let options = ClientOptions { servers, callers, ..options.clone() };
        let pipeline = connect_client(&options, depth, keys_per_request)?;
        Ok(ThreadPlan { means: Means::Client(Box::new(pipeline), options), routes: Routes::anywhere(callers) })
    };
    let threads = (0..threads).map(client).collect::<Result<_, ConnectError>>()?;
    Ok(Connected { threads, hello: None, epoch: 0 })
}

/// Opens connections that say what is needed to stay open, and nothing more.
pub(crate) fn connect_idle(
    servers: &[SocketAddr],
    protocol: ProtocolName,
    connections: usize,
) -> Result<Vec<TcpStream>, ConnectError> {
    let open = |connection: usize| {
        let mut stream = connect(servers[connection % servers.len()])?;
        if protocol == ProtocolName::Quoit {
            say_hello(&mut stream, HelloParameters::ANY_CORE)?;
        }
        Ok(stream)
    };
    (0..connections).map(open).collect()
}

fn connect_to_cluster(
    servers: &[SocketAddr],
    connections: Option<usize>,
    threads: usize,
    route: Route,
) -> Result<Connected, ConnectError> {
    let (server, mut first) = connect_to_any(servers)?;
    let hello = say_hello(&mut first, 0)?;
    let topology = Arc::new(fetch_topology(&mut first)?);
    let (addresses, seats) = (addresses(&topology, hello.node, server)?, seats(&topology, hello.node));
    let connections = connections.unwrap_or(seats.len().max(threads));
    let mut shares: Vec<(Vec<TcpStream>, Vec<Seat>)> = (0..threads).map(|_| Default::default()).collect();
    let mut first = Some((first, hello.core)).filter(|_| seats.first().is_some_and(|seat| seat.core == 0));
    for connection in 0..connections {
        let seat = seats[connection % seats.len()];
        let (stream, core) = match first.take() {
            Some(first) => first,
            None => {
                let mut stream = connect(addresses[usize::from(seat.node)])?;
                let core = say_hello(&mut stream, seat.core)?.core;
                (stream, core)
            }
        };
        let round = connections >= seats.len() * threads;
        let thread = if round { connection / seats.len() % threads } else { connection % threads };
        shares[thread].0.push(stream);
        shares[thread].1.push(Seat { core, ..seat });
    }
    let epoch = topology.epoch;
    let plan = |(streams, seats)| ThreadPlan {
        means: Means::Connections(streams),
        routes: Routes::by_topology(route, topology.clone(), seats),
    };
    Ok(Connected { threads: shares.into_iter().map(plan).collect(), hello: Some(hello), epoch })
}

/// The first server that takes a connection.
fn connect_to_any(servers: &[SocketAddr]) -> Result<(SocketAddr, TcpStream), ConnectError> {
    let mut refused = None;
    for &server in servers {
        match connect(server) {
            Ok(stream) => return Ok((server, stream)),
            Err(error) => refused = Some(error),
        }
    }
    Err(refused.unwrap_or_else(|| ConnectError::Refused(io::ErrorKind::NotFound.into())))
}

/// Where each node of the topology is reached: the one that was `met` there, whatever the topology says of it.
fn addresses(topology: &Topology, met: u64, at: SocketAddr) -> Result<Vec<SocketAddr>, ConnectError> {
    let address_of = |node: &quoit_wire::topology::Node| {
        if node.id == met {
            return Ok(at);
        }
        let found =
            node.address.to_socket_addrs().and_then(|mut found| found.next().ok_or(io::ErrorKind::NotFound.into()));
        found.map_err(|error| ConnectError::Address { address: node.address.clone(), error })
    };
    topology.nodes.iter().map(address_of).collect()
}

/// The cores of the nodes that own something, those of the node that was `met` first.
fn seats(topology: &Topology, met: u64) -> Vec<Seat> {
    let owns = |node: u16| topology.vnodes.iter().any(|placement| placement.primary.node == node);
    let mut nodes: Vec<u16> = (0..topology.nodes.len() as u16).filter(|&node| owns(node)).collect();
    nodes.sort_by_key(|&node| topology.nodes[usize::from(node)].id != met);
    let cores_of = |node: u16| (0..topology.nodes[usize::from(node)].cores).map(move |core| Seat { node, core });
    nodes.into_iter().flat_map(cores_of).collect()
}

fn connect(server: SocketAddr) -> Result<TcpStream, ConnectError> {
    let stream = TcpStream::connect_timeout(&server, CONNECT_TIMEOUT).map_err(ConnectError::Refused)?;
    stream.set_nodelay(true).map_err(ConnectError::Option)?;
    Ok(stream)
}
