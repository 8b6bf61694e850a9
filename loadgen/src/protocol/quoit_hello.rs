//! How a connection to a Quoit node begins: hello, and for one of them the topology. Blocking, before the ring takes over.
//!
//! A hello is answered before anything else is sent: the node may hand the connection to another core meanwhile.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use quoit_wire::stats::Stats;
use quoit_wire::topology::{Topology, TopologyError};
use quoit_wire::{HelloParameters, HelloReply, Reply, ReplyError, RequestBody, RequestOptions, Status};

/// How long a node may take to answer a hello or a request for the topology.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const READ_BYTES: usize = 16 << 10;

/// Why a connection could not begin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HelloError {
    /// The connection broke, or nothing came.
    #[error("no answer to the hello: {0}; does a Quoit node listen there, or another server? (--protocol)")]
    Io(#[from] io::Error),
    /// The connection was closed.
    #[error("the server closed the connection at the hello; does a Quoit node listen there? (--protocol)")]
    Closed,
    /// Not this protocol.
    #[error("{0}; does a Quoit node listen there, or another server? (--protocol)")]
    Reply(#[from] ReplyError),
    /// The node said no.
    #[error("the node refused: {status}{message}")]
    Refused {
        /// Its status.
        status: &'static str,
        /// Its message, with what leads to it.
        message: String,
    },
    /// An answer of the wrong shape.
    #[error("the node's answer to the hello is too short")]
    Short,
    /// The topology doesn't hold together.
    #[error(transparent)]
    Topology(#[from] TopologyError),
}

/// Says hello, asking for `core`, and returns what the node answers.
pub(crate) fn say_hello(stream: &mut TcpStream, core: u16) -> Result<HelloReply, HelloError> {
    let parameters = HelloParameters {
        magic: HelloParameters::MAGIC,
        version_min: HelloParameters::VERSION,
        version_max: HelloParameters::VERSION,
        features: 0,
        core,
        security: 0,
    };
    let body = ask(stream, RequestBody::Hello { parameters, credentials: &[] })?;
    HelloReply::take(&body).map(|(reply, _)| reply).ok_or(HelloError::Short)
}

/// Fetches the topology.
pub(crate) fn fetch_topology(stream: &mut TcpStream) -> Result<Topology, HelloError> {
    Ok(Topology::from_bytes(&ask(stream, RequestBody::Topology { known_epoch: 0 })?)?)
}

/// Says hello, and fetches the node's counters.
pub(crate) fn fetch_stats(stream: &mut TcpStream) -> Result<Stats, HelloError> {
    say_hello(stream, HelloParameters::ANY_CORE)?;
    Stats::from_bytes(&ask(stream, RequestBody::Stats)?).ok_or(HelloError::Short)
}

/// Sends one request and waits for its reply's value.
fn ask(stream: &mut TcpStream, request: RequestBody<'_>) -> Result<Vec<u8>, HelloError> {
    let mut frame = Vec::new();
    request.encode(1, RequestOptions::default(), &mut frame);
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.write_all(&frame)?;
    let mut received = Vec::new();
    loop {
        let start = received.len();
        received.resize(start + READ_BYTES, 0);
        let count = stream.read(&mut received[start..])?;
        received.truncate(start + count);
        if count == 0 {
            return Err(HelloError::Closed);
        }
        if let Some((reply, _)) = Reply::decode(&received)? {
            stream.set_read_timeout(None)?;
            if reply.status == Status::Ok {
                return Ok(reply.value.to_vec());
            }
            let said = String::from_utf8_lossy(reply.value);
            let message = if said.is_empty() { String::new() } else { format!(": {said}") };
            return Err(HelloError::Refused { status: reply.status.name(), message });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use quoit_wire::topology::Node;

    use super::*;

    /// A responder that answers each of `replies` after it has read something.
    fn responder(replies: Vec<Vec<u8>>) -> (TcpStream, thread::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut buffer = [0; 1024];
            for reply in replies {
                let count = stream.read(&mut buffer).expect("a request");
                assert!(count > 0);
                // In two pieces: replies may arrive cut anywhere.
                let (first, second) = reply.split_at(reply.len() / 2);
                stream.write_all(first).and_then(|()| stream.write_all(second)).expect("sent");
            }
        });
        (TcpStream::connect(address).expect("connected"), thread)
    }

    fn frame(status: Status, value: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        Reply { value, ..Reply::status(1, status) }.encode(&mut out);
        out
    }

    #[test]
    fn hello_and_topology_are_asked_one_after_the_other() {
        let answer = HelloReply { cores: 2, core: 1, inflight_max: 64, ..HelloReply::default() };
        let mut body = Vec::new();
        answer.put(&mut body);
        let node = Node {
            id: 1,
            incarnation: 1,
            name: String::new(),
            address: "127.0.0.1:1".into(),
            zone: String::new(),
            cores: 2,
            weight: 1,
        };
        let topology = Topology::standalone(node, 6, 42, 1);
        let (mut stream, thread) = responder(vec![frame(Status::Ok, &body), frame(Status::Ok, &topology.to_bytes())]);
        assert_eq!(say_hello(&mut stream, 1).expect("answered"), answer);
        assert_eq!(fetch_topology(&mut stream).expect("answered"), topology);
        thread.join().expect("no failed assertion");
    }

    #[test]
    fn a_refusal_and_a_closed_connection_are_told() {
        let (mut stream, thread) = responder(vec![frame(Status::Unauthorized, b"who are you?")]);
        let refused = say_hello(&mut stream, 0).expect_err("refused").to_string();
        assert_eq!(refused, "the node refused: unauthorized: who are you?");
        thread.join().expect("no failed assertion");
        let (mut stream, thread) = responder(vec![vec![]]);
        assert!(matches!(say_hello(&mut stream, 0), Err(HelloError::Closed)));
        thread.join().expect("no failed assertion");
    }

    #[test]
    fn another_server_is_noticed() {
        let (mut stream, thread) = responder(vec![b"-ERR unknown command\r\n".to_vec()]);
        assert!(matches!(say_hello(&mut stream, 0), Err(HelloError::Reply(_))));
        thread.join().expect("no failed assertion");
    }
}
