//! The front for threads: std sockets, poll(2), no runtime and no thread of its own.
//!
//! A [`Client`] belongs to one thread at a time. While a call runs, the client drives all its connections; between calls
//! nothing happens. So a thread that wants throughput hands in many requests at once ([`Client::run`], [`Client::multi_get`]):
//! they leave in one write per core and their answers are taken as they come. A caller that never wants to wait for one
//! request alone keeps a [`Pipeline`]. Connections are made beside everything else; only looking a host's name up blocks.

mod pipeline;
mod poll;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket as NewSocket, Type};

use quoit_wire::stats::Stats;
use quoit_wire::topology::Topology;
use quoit_wire::{Item, Version};

pub use self::pipeline::Pipeline;
use self::poll::{Interest, PollSet};
use crate::answer::{Answer, Counter, Hit, Outcome, SetOutcome};
use crate::error::{Error, Fault};
use crate::options::{Options, READ_BYTES};
use crate::request::{IncrementOptions, Request, SetOptions};
use crate::session::{Action, LinkId, Session};
use crate::time::Instant;

/// Reads of one socket before the others have their turn: one value of 1 MiB.
const READS_PER_TURN_MAX: usize = 16;

/// A client for one thread.
///
/// ```no_run
/// use quoit_client::{Options, SetOptions, blocking::Client};
///
/// let mut client = Client::connect(["127.0.0.1:7400"], Options::default())?;
/// client.set("greeting", "hello", SetOptions::default())?;
/// let hit = client.get("greeting")?.expect("it was just set");
/// assert_eq!(hit.value, b"hello");
/// # Ok::<(), quoit_client::Error>(())
/// ```
#[derive(Debug)]
pub struct Client {
    session: Session<usize>,
    /// By [`LinkId::index`].
    sockets: Vec<Option<Socket>>,
    /// Connections begun so far: a name with several addresses is tried at each in turn.
    connects: usize,
    started: std::time::Instant,
    buffer: Box<[u8]>,
    poll_set: PollSet,
}

#[derive(Debug)]
struct Socket {
    link: LinkId,
    stream: TcpStream,
    /// The connection does not stand yet.
    is_connecting: bool,
    /// The kernel would take no more: poll for room.
    is_full: bool,
}

impl Client {
    /// Finds a cluster through any of `servers` (`host:port`) and learns its topology.
    ///
    /// Fails when none of them answers; later losses are mended behind the calls, within each call's deadline.
    pub fn connect<S: Into<String>>(servers: impl IntoIterator<Item = S>, options: Options) -> Result<Self, Error> {
        let servers = servers.into_iter().map(Into::into).collect();
        let session = Session::new(servers, options, rand::random(), Instant::ORIGIN)?;
        #[expect(clippy::disallowed_methods, reason = "a front reads the clock so that the session need not")]
        let started = std::time::Instant::now();
        let buffer = vec![0; READ_BYTES].into_boxed_slice();
        let poll_set = PollSet::default();
        let mut client = Self { session, sockets: Vec::new(), connects: 0, started, buffer, poll_set };
        while client.session.topology().is_none() {
            if let Some(error) = client.session.startup_error() {
                return Err(error.clone());
            }
            client.turn(Duration::MAX);
        }
        Ok(client)
    }

    /// Reads the item of `key`; `None` is a miss.
    pub fn get(&mut self, key: impl AsRef<[u8]>) -> Result<Option<Hit>, Error> {
        self.call(Request::get(key))?.into_hit()
    }

    /// Writes an item.
    pub fn set(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: SetOptions,
    ) -> Result<SetOutcome, Error> {
        self.call(Request::set(key, value, options))?.into_set_outcome()
    }

    /// Removes the item of `key`; `None` when there was none.
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> Result<Option<Version>, Error> {
        self.call(Request::delete(key))?.into_version()
    }

    /// Gives the item a new time to live from now, `None` for ever. `None` comes back when there is no item.
    pub fn touch(&mut self, key: impl AsRef<[u8]>, ttl: Option<Duration>) -> Result<Option<Version>, Error> {
        self.call(Request::touch(key, ttl))?.into_version()
    }

    /// Reads the item and gives it a new time to live; `None` is a miss.
    pub fn get_and_touch(&mut self, key: impl AsRef<[u8]>, ttl: Option<Duration>) -> Result<Option<Hit>, Error> {
        self.call(Request::get_and_touch(key, ttl))?.into_hit()
    }

    /// Adds `delta` to the decimal counter of `key`; `None` when there is none and none is to be made.
    ///
    /// Applied once, however often the network makes the client repeat it.
    pub fn increment(
        &mut self,
        key: impl AsRef<[u8]>,
        delta: i64,
        options: IncrementOptions,
    ) -> Result<Option<Counter>, Error> {
        self.call(Request::increment(key, delta, options))?.into_counter()
    }

    /// Subtracts `by` from the decimal counter of `key`; otherwise as [`Self::increment`].
    pub fn decrement(
        &mut self,
        key: impl AsRef<[u8]>,
        by: u64,
        options: IncrementOptions,
    ) -> Result<Option<Counter>, Error> {
        self.call(Request::decrement(key, by, options))?.into_counter()
    }

    /// Adds bytes behind the item's value, once; `None` when there is no item.
    pub fn append(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Option<Version>, Error> {
        self.call(Request::append(key, value))?.into_version()
    }

    /// Adds bytes before the item's value, once; `None` when there is no item.
    pub fn prepend(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Option<Version>, Error> {
        self.call(Request::prepend(key, value))?.into_version()
    }

    /// Reads many items, one frame per core; the results come in the order of the keys.
    ///
    /// Each key has its own result: a core that does not answer fails its keys alone. `collect` them into a
    /// `Result<Vec<_>, _>` where all or nothing is wanted.
    pub fn multi_get(
        &mut self,
        keys: impl IntoIterator<Item = impl AsRef<[u8]>>,
    ) -> Result<Vec<Result<Option<Hit>, Error>>, Error> {
        let answers = self.call_many(Request::multi_get(keys))?;
        Ok(answers.into_iter().map(|answer| answer?.into_hit()).collect())
    }

    /// Writes many items, one frame per core; the results come in the order of the items, each its own.
    pub fn multi_set<'a>(
        &mut self,
        items: impl IntoIterator<Item = Item<'a>>,
    ) -> Result<Vec<Result<SetOutcome, Error>>, Error> {
        let answers = self.call_many(Request::multi_set(items))?;
        Ok(answers.into_iter().map(|answer| answer?.into_set_outcome()).collect())
    }

    /// Removes every item that was acknowledged before, on every node.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.call_many(Request::flush())?.into_iter().try_for_each(|answer| answer?.into_done().map(drop))
    }

    /// Asks one server for a sign of life; the time from the request to the answer.
    pub fn ping(&mut self) -> Result<Duration, Error> {
        let asked_at = self.now();
        self.call(Request::ping([]))?.into_done()?;
        Ok(self.now().since(asked_at))
    }

    /// Reads the counters of every node.
    pub fn stats(&mut self) -> Result<Vec<Stats>, Error> {
        self.call_many(Request::stats())?.into_iter().map(|answer| answer?.into_stats()).collect()
    }

    /// Reads the topology from one server.
    pub fn topology(&mut self) -> Result<Topology, Error> {
        self.call(Request::topology())?.into_topology()
    }

    /// Carries out one request with one answer.
    pub fn call(&mut self, request: Request) -> Result<Answer, Error> {
        self.carry_out(request).into_one()
    }

    /// Carries out many requests, pipelined; their outcomes come in the order of the requests.
    ///
    /// Requests that don't fit the client's limits ([`Options::requests_max`]) wait until others are answered. Requests for
    /// one key take effect in the order given; across keys there is no order.
    ///
    /// ```no_run
    /// # use quoit_client::{Options, Request, SetOptions, blocking::Client};
    /// # let mut client = Client::connect(["127.0.0.1:7400"], Options::default())?;
    /// let requests = (0..1000).map(|i| Request::set(format!("key-{i}"), "value", SetOptions::default()));
    /// for outcome in client.run(requests) {
    ///     outcome.into_one()?.into_set_outcome()?;
    /// }
    /// # Ok::<(), quoit_client::Error>(())
    /// ```
    pub fn run(&mut self, requests: impl IntoIterator<Item = Request>) -> Vec<Outcome> {
        let mut requests = requests.into_iter().peekable();
        let mut outcomes: Vec<Option<Outcome>> = Vec::new();
        let mut missing = 0;
        loop {
            let now = self.now();
            while let Some(request) = requests.next_if(|request| self.session.has_room_for(request)) {
                self.session.submit(request, outcomes.len(), now);
                outcomes.push(None);
                missing += 1;
            }
            while let Some((index, outcome)) = self.session.poll_completion() {
                outcomes[index] = Some(outcome);
                missing -= 1;
            }
            match (missing, requests.peek()) {
                (0, None) => return outcomes.into_iter().flatten().collect(),
                // All that was handed in has ended at once: there may be room for more.
                (0, Some(_)) => {}
                _ => self.turn(Duration::MAX),
            }
        }
    }

    fn call_many(&mut self, request: Request) -> Result<Vec<Result<Answer, Error>>, Error> {
        self.carry_out(request).into_many()
    }

    fn carry_out(&mut self, request: Request) -> Outcome {
        let now = self.now();
        self.session.submit(request, 0, now);
        loop {
            if let Some((_, outcome)) = self.session.poll_completion() {
                return outcome;
            }
            self.turn(Duration::MAX);
        }
    }

    /// One turn: does what the session asks, writes what it has, waits (at most `wait_max`), reads, and tells it the time.
    fn turn(&mut self, wait_max: Duration) {
        while let Some(action) = self.session.poll_action() {
            match action {
                Action::Connect { link, address } => self.open(link, &address),
                Action::Close { link } => self.close(link),
            }
        }
        self.write();
        self.wait_and_read(wait_max);
        let now = self.now();
        self.session.handle_timeout(now);
    }

    fn open(&mut self, link: LinkId, address: &str) {
        self.connects = self.connects.wrapping_add(1);
        match begin_connect(address, self.connects) {
            Ok(stream) => {
                if self.sockets.len() <= link.index() {
                    self.sockets.resize_with(link.index() + 1, || None);
                }
                self.sockets[link.index()] = Some(Socket { link, stream, is_connecting: true, is_full: false });
            }
            Err(error) => {
                let now = self.now();
                self.session.handle_lost(link, io_fault(error), now);
            }
        }
    }

    fn close(&mut self, link: LinkId) {
        if let Some(socket) = self.sockets.get_mut(link.index()) {
            *socket = None;
        }
    }

    fn write(&mut self) {
        let now = self.now();
        for place in &mut self.sockets {
            let Some(socket) = place.as_mut().filter(|socket| !socket.is_connecting) else { continue };
            let link = socket.link;
            socket.is_full = false;
            let fault = loop {
                let output = self.session.poll_output(link, now);
                if output.is_empty() {
                    break None;
                }
                match socket.stream.write(output) {
                    Ok(bytes) => self.session.handle_written(link, bytes, now),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        socket.is_full = true;
                        break None;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => break Some(io_fault(error)),
                }
            };
            if let Some(fault) = fault {
                *place = None;
                self.session.handle_lost(link, fault, now);
            }
        }
    }

    fn wait_and_read(&mut self, wait_max: Duration) {
        self.poll_set.clear();
        for (index, socket) in self.sockets.iter().enumerate() {
            if let Some(socket) = socket {
                let interest = match socket {
                    Socket { is_connecting: true, .. } => Interest::Write,
                    Socket { is_full: true, .. } => Interest::ReadAndWrite,
                    _ => Interest::Read,
                };
                self.poll_set.add(index, socket.stream.as_raw_fd(), interest);
            }
        }
        let now = self.now();
        let timeout = match self.session.poll_timeout() {
            // Writing may have ended requests: one that no server takes, for one.
            _ if self.session.is_awaited() => Duration::ZERO,
            at => at.map_or(wait_max, |at| at.since(now).min(wait_max)),
        };
        self.poll_set.wait(timeout);
        let now = self.now();
        for index in self.poll_set.ready() {
            let place = &mut self.sockets[index];
            let Some(socket) = place else { continue };
            let link = socket.link;
            if std::mem::take(&mut socket.is_connecting) {
                match socket.stream.take_error() {
                    Ok(None) => self.session.handle_connected(link, now),
                    Ok(Some(error)) | Err(error) => {
                        *place = None;
                        self.session.handle_lost(link, io_fault(error), now);
                    }
                }
                continue;
            }
            if let Err(fault) = read(socket, &mut self.buffer, |bytes| self.session.handle_bytes(link, bytes, now)) {
                *place = None;
                self.session.handle_lost(link, fault, now);
            }
        }
    }

    fn now(&self) -> Instant {
        Instant::from_origin(self.started.elapsed())
    }
}

/// Reads what is there, within a turn's share.
fn read(socket: &mut Socket, buffer: &mut [u8], mut take: impl FnMut(&[u8])) -> Result<(), Fault> {
    for _ in 0..READS_PER_TURN_MAX {
        match socket.stream.read(buffer) {
            Ok(0) => return Err(Fault::Closed),
            Ok(bytes) => {
                take(&buffer[..bytes]);
                if bytes < buffer.len() {
                    return Ok(());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(io_fault(error)),
        }
    }
    Ok(())
}

/// Begins to connect to an address of the name: attempt `n` to the n-th, and so on around.
fn begin_connect(name: &str, attempt: usize) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = name.to_socket_addrs()?.collect();
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    let address = addresses[attempt % addresses.len()];
    let socket = NewSocket::new(Domain::for_address(address), Type::STREAM, None)?;
    // Requests are written in batches already; waiting for more would only delay them.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::from(address)) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket.into()),
    }
}

fn io_fault(error: io::Error) -> Fault {
    Fault::Io(Arc::new(error))
}
