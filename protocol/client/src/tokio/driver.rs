//! The task that owns the session and its sockets: one future, polled whenever a socket, a caller or the clock has
//! something.
//!
//! Each poll is one turn over everything: read, answer, take requests, write, look at the time. It asks every socket, which
//! costs a few nanoseconds each; with the thousands of connections of a very large cluster a list of the ready ones would
//! pay.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use ::tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use ::tokio::net::TcpStream;
use ::tokio::sync::{mpsc, oneshot};
use ::tokio::task::JoinHandle;
use ::tokio::time::{self, Sleep};

use crate::answer::Outcome;
use crate::error::{Error, Fault};
use crate::options::{Options, READ_BYTES};
use crate::request::Request;
use crate::session::{Action, LinkId, Session};
use crate::time::Instant;

/// Requests taken in one turn, so that callers who never pause don't keep the sockets waiting.
const COMMANDS_PER_TURN_MAX: usize = 1024;
/// Reads of one socket before the others have their turn: one value of 1 MiB.
const READS_PER_TURN_MAX: usize = 16;

/// A request on its way from a caller to the driver.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) request: Request,
    pub(super) answer: oneshot::Sender<Outcome>,
    pub(super) asked_at: time::Instant,
}

/// The task's future. Ends when the last client is gone, or when no server could be found at the start.
pub(super) struct Driver {
    session: Session<oneshot::Sender<Outcome>>,
    commands: mpsc::Receiver<Command>,
    /// A request that did not fit the session's limits yet.
    held_back: Option<Command>,
    /// Told once whether a cluster was found.
    started: Option<oneshot::Sender<Result<(), Error>>>,
    /// By [`LinkId::index`].
    sockets: Vec<Option<(LinkId, Socket)>>,
    origin: time::Instant,
    timer: Pin<Box<Sleep>>,
    buffer: Box<[u8]>,
}

enum Socket {
    Connecting(Connecting),
    Connected(TcpStream),
}

/// An attempt to connect, given up when dropped.
struct Connecting(JoinHandle<io::Result<TcpStream>>);

impl Driver {
    pub(super) fn new(
        servers: Vec<String>,
        options: Options,
        commands: mpsc::Receiver<Command>,
        started: oneshot::Sender<Result<(), Error>>,
    ) -> Result<Self, Error> {
        let origin = time::Instant::now();
        Ok(Self {
            session: Session::new(servers, options, rand::random(), Instant::ORIGIN)?,
            commands,
            held_back: None,
            started: Some(started),
            sockets: Vec::new(),
            origin,
            timer: Box::pin(time::sleep_until(origin)),
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
        })
    }

    /// Takes what the sockets have; `true` when one of them has more.
    fn read(&mut self, context: &mut Context<'_>) -> bool {
        let now = self.instant(time::Instant::now());
        let mut has_more = false;
        for place in &mut self.sockets {
            let Some((link, socket)) = place else { continue };
            let link = *link;
            let progress = match socket {
                Socket::Connecting(Connecting(attempt)) => match Pin::new(attempt).poll(context) {
                    Poll::Pending => continue,
                    Poll::Ready(Ok(Ok(stream))) => {
                        *socket = Socket::Connected(stream);
                        self.session.handle_connected(link, now);
                        // It has not been asked whether it can be read.
                        Ok(true)
                    }
                    Poll::Ready(Ok(Err(error))) => Err(io_fault(error)),
                    Poll::Ready(Err(error)) => Err(io_fault(error.into())),
                },
                Socket::Connected(stream) => {
                    read(stream, &mut self.buffer, context, |bytes| self.session.handle_bytes(link, bytes, now))
                }
            };
            match progress {
                Ok(more) => has_more |= more,
                Err(fault) => {
                    *place = None;
                    self.session.handle_lost(link, fault, now);
                }
            }
        }
        has_more
    }

    /// Hands out what has ended. A caller that is gone does not want it.
    fn answer(&mut self) {
        while let Some((answer, outcome)) = self.session.poll_completion() {
            let _ = answer.send(outcome);
        }
    }

    /// Takes requests as far as there is room; `Ready` when nobody is left who could send one.
    fn take_commands(&mut self, context: &mut Context<'_>) -> Poll<()> {
        for _ in 0..COMMANDS_PER_TURN_MAX {
            let command = match self.held_back.take() {
                Some(command) => command,
                None => match ready!(self.commands.poll_recv(context)) {
                    Some(command) => command,
                    None => return Poll::Ready(()),
                },
            };
            if !self.session.has_room_for(&command.request) {
                // There will be room when an answer comes, and that wakes us.
                self.held_back = Some(command);
                return Poll::Pending;
            }
            let asked_at = self.instant(command.asked_at);
            self.session.submit(command.request, command.answer, asked_at);
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Opens and closes sockets; `true` when there are new ones, which nobody has asked yet.
    fn obey(&mut self) -> bool {
        let mut has_news = false;
        while let Some(action) = self.session.poll_action() {
            match action {
                Action::Connect { link, address } => {
                    if self.sockets.len() <= link.index() {
                        self.sockets.resize_with(link.index() + 1, || None);
                    }
                    let attempt = Connecting(::tokio::spawn(connect(address)));
                    self.sockets[link.index()] = Some((link, Socket::Connecting(attempt)));
                    has_news = true;
                }
                Action::Close { link } => {
                    if let Some(place) = self.sockets.get_mut(link.index()) {
                        *place = None;
                    }
                }
            }
        }
        has_news
    }

    fn write(&mut self, context: &mut Context<'_>) {
        let now = self.instant(time::Instant::now());
        for place in &mut self.sockets {
            let Some((link, Socket::Connected(stream))) = place else { continue };
            let link = *link;
            let fault = loop {
                let output = self.session.poll_output(link, now);
                if output.is_empty() {
                    break None;
                }
                match Pin::new(&mut *stream).poll_write(context, output) {
                    Poll::Ready(Ok(bytes)) => self.session.handle_written(link, bytes, now),
                    Poll::Ready(Err(error)) => break Some(io_fault(error)),
                    Poll::Pending => break None,
                }
            };
            if let Some(fault) = fault {
                *place = None;
                self.session.handle_lost(link, fault, now);
            }
        }
    }

    /// Tells the caller who connects whether a cluster was found; `Ready` when there is none.
    fn tell_start(&mut self) -> Poll<()> {
        let result = match self.session.startup_error() {
            _ if self.session.topology().is_some() => Ok(()),
            Some(error) => Err(error.clone()),
            None => return Poll::Pending,
        };
        let Some(started) = self.started.take() else { return Poll::Pending };
        let failed = result.is_err();
        // The caller may have stopped waiting; then its end of the commands is gone too.
        let _ = started.send(result);
        if failed { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Sets the timer to the session's next moment.
    fn set_timer(&mut self, context: &mut Context<'_>) {
        let Some(at) = self.session.poll_timeout() else { return };
        let at = self.origin + at.since(Instant::ORIGIN);
        if self.timer.deadline() != at {
            self.timer.as_mut().reset(at);
        }
        if self.timer.as_mut().poll(context).is_ready() {
            context.waker().wake_by_ref();
        }
    }

    fn instant(&self, at: time::Instant) -> Instant {
        Instant::from_origin(at.saturating_duration_since(self.origin))
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let driver = self.get_mut();
        let has_more = driver.read(context);
        driver.answer();
        if driver.take_commands(context).is_ready() || driver.tell_start().is_ready() {
            return Poll::Ready(());
        }
        let has_news = driver.obey();
        driver.write(context);
        let now = driver.instant(time::Instant::now());
        driver.session.handle_timeout(now);
        driver.answer();
        if has_more || has_news || driver.session.is_awaited() {
            context.waker().wake_by_ref();
        }
        driver.set_timer(context);
        Poll::Pending
    }
}

/// Reads what is there, within a turn's share; `true` when there may be more.
fn read(
    stream: &mut TcpStream,
    buffer: &mut [u8],
    context: &mut Context<'_>,
    mut take: impl FnMut(&[u8]),
) -> Result<bool, Fault> {
    for _ in 0..READS_PER_TURN_MAX {
        let mut room = ReadBuf::new(buffer);
        match Pin::new(&mut *stream).poll_read(context, &mut room) {
            Poll::Ready(Ok(())) if room.filled().is_empty() => return Err(Fault::Closed),
            Poll::Ready(Ok(())) => take(room.filled()),
            Poll::Ready(Err(error)) => return Err(io_fault(error)),
            Poll::Pending => return Ok(false),
        }
    }
    Ok(true)
}

async fn connect(address: String) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    // Requests are written in batches already; waiting for more would only delay them.
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn io_fault(error: io::Error) -> Fault {
    Fault::Io(Arc::new(error))
}

impl Drop for Connecting {
    fn drop(&mut self) {
        self.0.abort();
    }
}
