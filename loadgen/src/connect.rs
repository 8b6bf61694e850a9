//! Opens the connections of a run and shares them out among the generator's threads.
//!
//! To a Quoit node, connection i asks in its hello for core i mod cores; each thread gets connections to every core, as
//! long as there are enough of them.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use quoit_wire::{HelloParameters, HelloReply};

use crate::cli::ProtocolName;
use crate::drive::ThreadPlan;
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
    server: SocketAddr,
    protocol: ProtocolName,
    connections: Option<usize>,
    threads: usize,
    route: Route,
) -> Result<Connected, ConnectError> {
    if protocol == ProtocolName::Quoit {
        return connect_to_node(server, connections, threads, route);
    }
    let mut streams: Vec<Vec<TcpStream>> = (0..threads).map(|_| Vec::new()).collect();
    for connection in 0..connections.unwrap_or(threads) {
        streams[connection % threads].push(connect(server)?);
    }
    let plan = |streams: Vec<TcpStream>| ThreadPlan { routes: Routes::anywhere(streams.len()), streams };
    Ok(Connected { threads: streams.into_iter().map(plan).collect(), hello: None, epoch: 0 })
}

/// Opens connections that say what is needed to stay open, and nothing more.
pub(crate) fn connect_idle(
    server: SocketAddr,
    protocol: ProtocolName,
    connections: usize,
) -> Result<Vec<TcpStream>, ConnectError> {
    let open = |_| {
        let mut stream = connect(server)?;
        if protocol == ProtocolName::Quoit {
            say_hello(&mut stream, HelloParameters::ANY_CORE)?;
        }
        Ok(stream)
    };
    (0..connections).map(open).collect()
}

fn connect_to_node(
    server: SocketAddr,
    connections: Option<usize>,
    threads: usize,
    route: Route,
) -> Result<Connected, ConnectError> {
    let mut first = connect(server)?;
    let hello = say_hello(&mut first, 0)?;
    let topology = Arc::new(fetch_topology(&mut first)?);
    let cores = usize::from(hello.cores.max(1));
    let connections = connections.unwrap_or(cores.max(threads));
    let mut shares: Vec<(Vec<TcpStream>, Vec<u16>)> = (0..threads).map(|_| Default::default()).collect();
    let mut first = Some((first, hello.core));
    for connection in 0..connections {
        let (stream, core) = match first.take() {
            Some(first) => first,
            None => {
                let mut stream = connect(server)?;
                let core = say_hello(&mut stream, (connection % cores) as u16)?.core;
                (stream, core)
            }
        };
        let thread = if connections >= cores * threads { connection / cores % threads } else { connection % threads };
        shares[thread].0.push(stream);
        shares[thread].1.push(core);
    }
    let epoch = topology.epoch;
    let plan = |(streams, cores)| ThreadPlan { streams, routes: Routes::by_topology(route, topology.clone(), cores) };
    Ok(Connected { threads: shares.into_iter().map(plan).collect(), hello: Some(hello), epoch })
}

fn connect(server: SocketAddr) -> Result<TcpStream, ConnectError> {
    let stream = TcpStream::connect_timeout(&server, CONNECT_TIMEOUT).map_err(ConnectError::Refused)?;
    stream.set_nodelay(true).map_err(ConnectError::Option)?;
    Ok(stream)
}
