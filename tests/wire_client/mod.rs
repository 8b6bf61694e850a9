//! A client that shows every frame: one blocking socket, no retries, no routing. For tests that look at the protocol.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use quoit_wire::{HelloParameters, HelloReply, Reply, RequestBody, RequestOptions, Status, Version};

/// A test that waits this long has failed: it never decides how long something takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A reply that owns its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) id: u32,
    pub(crate) status: Status,
    pub(crate) version: Version,
    pub(crate) client_flags: u32,
    pub(crate) value: Vec<u8>,
}

pub(crate) struct WireClient {
    pub(crate) stream: TcpStream,
    pub(crate) hello: HelloReply,
    received: Vec<u8>,
    next_id: u32,
}

impl WireClient {
    /// Connects, says hello for `core`, and waits for the answer.
    pub(crate) fn connect(address: SocketAddr, core: u16) -> Self {
        let stream = TcpStream::connect(address).expect("the node listens");
        stream.set_nodelay(true).expect("a socket option");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        let hello = HelloReply::default();
        let mut client = Self { stream, hello, received: Vec::new(), next_id: 1 };
        let answer = client.call(&Self::hello(core));
        assert_eq!(answer.status, Status::Ok, "{}", String::from_utf8_lossy(&answer.value));
        client.hello = HelloReply::take(&answer.value).expect("a hello's body").0;
        client
    }

    /// A hello that asks for `core`.
    pub(crate) fn hello(core: u16) -> RequestBody<'static> {
        let parameters = HelloParameters {
            magic: HelloParameters::MAGIC,
            version_min: HelloParameters::VERSION,
            version_max: HelloParameters::VERSION,
            features: HelloParameters::FEATURES,
            core,
            security: 0,
        };
        RequestBody::Hello { parameters, credentials: &[] }
    }

    /// Sends a request and waits for its reply.
    pub(crate) fn call(&mut self, body: &RequestBody<'_>) -> Answer {
        let id = self.send(body, RequestOptions::default());
        let answer = self.receive().expect("the node answers");
        assert_eq!(answer.id, id, "the reply to another request");
        answer
    }

    /// Sends a request; returns its id.
    pub(crate) fn send(&mut self, body: &RequestBody<'_>, options: RequestOptions) -> u32 {
        let id = self.next_id;
        self.next_id += 1;
        let mut frame = Vec::new();
        body.encode(id, options, &mut frame);
        self.stream.write_all(&frame).expect("the node reads");
        id
    }

    /// The next reply; `None` when the node has closed the connection.
    pub(crate) fn receive(&mut self) -> Option<Answer> {
        loop {
            if let Some((reply, bytes)) = Reply::decode(&self.received).expect("a reply of this protocol") {
                let answer = Answer {
                    id: reply.id,
                    status: reply.status,
                    version: reply.version,
                    client_flags: reply.client_flags,
                    value: reply.value.to_vec(),
                };
                self.received.drain(..bytes);
                return Some(answer);
            }
            let mut buffer = [0; 64 << 10];
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(bytes) => self.received.extend_from_slice(&buffer[..bytes]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no reply within {PATIENCE:?}: {error}"),
            }
        }
    }
}
