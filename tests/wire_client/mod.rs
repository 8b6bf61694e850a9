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
    pub(crate) is_stale: bool,
    pub(crate) value: Vec<u8>,
}

pub(crate) struct WireClient {
    pub(crate) stream: TcpStream,
    pub(crate) hello: HelloReply,
    received: Vec<u8>,
    /// Bytes of `received` that are decoded.
    decoded: usize,
    next_id: u32,
}

impl WireClient {
    /// Connects, says hello for `core`, and waits for the answer.
    pub(crate) fn connect(address: SocketAddr, core: u16) -> Self {
        Self::greet(TcpStream::connect(address).expect("the node listens"), core)
    }

    /// Says hello for `core` on a socket that is connected, and waits for the answer.
    pub(crate) fn greet(stream: TcpStream, core: u16) -> Self {
        let mut client = Self::stranger(stream);
        let answer = client.call(&Self::hello(core));
        assert_eq!(answer.status, Status::Ok, "{}", String::from_utf8_lossy(&answer.value));
        client.hello = HelloReply::take(&answer.value).expect("a hello's body").0;
        client
    }

    /// A client that has said nothing.
    pub(crate) fn stranger(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a socket option");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket option");
        let hello = HelloReply::default();
        Self { stream, hello, received: Vec::new(), decoded: 0, next_id: 1 }
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

    /// The same; `None` when the node ends the connection instead.
    pub(crate) fn try_call(&mut self, body: &RequestBody<'_>) -> Option<Answer> {
        let mut frame = Vec::new();
        self.push(body, &mut frame);
        self.stream.write_all(&frame).ok()?;
        self.receive()
    }

    /// Sends `frames` while it reads the `count` replies to them.
    pub(crate) fn pipeline(&mut self, frames: &[u8], count: usize, mut each: impl FnMut(Answer)) {
        let mut writer = self.stream.try_clone().expect("a socket");
        std::thread::scope(|scope| {
            scope.spawn(move || writer.write_all(frames).expect("the node reads"));
            (0..count).for_each(|_| each(self.receive().expect("the node answers")));
        });
    }

    /// Appends a request to `frames`; returns its id.
    pub(crate) fn push(&mut self, body: &RequestBody<'_>, frames: &mut Vec<u8>) -> u32 {
        let id = self.next_id;
        self.next_id += 1;
        body.encode(id, RequestOptions::default(), frames);
        id
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
            if let Some((reply, bytes)) =
                Reply::decode(&self.received[self.decoded..]).expect("a reply of this protocol")
            {
                let answer = Answer {
                    id: reply.id,
                    status: reply.status,
                    version: reply.version,
                    client_flags: reply.client_flags,
                    is_stale: reply.is_stale,
                    value: reply.value.to_vec(),
                };
                self.decoded += bytes;
                return Some(answer);
            }
            self.received.drain(..std::mem::take(&mut self.decoded));
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
