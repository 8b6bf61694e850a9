//! The echo: what this machine can carry when a server does nothing at all.
//!
//! For every `request_bytes` received it answers `reply_bytes`; it parses nothing, looks nothing up and copies nothing:
//! replies are sent from one constant region. Multishot accept and receive, provided buffers, fixed files, one enter per
//! turn. A weak echo would flatter whoever is measured against it, so this one is as strong as we know how.
//!
//! That region stays in the processor's caches, which no cache's values do. Told to, it sends from all over as much memory as
//! values lie in: the difference is what reading them costs, whoever does it.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, RawFd};
use std::thread;
use std::time::Duration;

use io_uring::{opcode, types};
use socket2::{Domain, Protocol, Socket, Type};

use crate::cores::{self, CoreList};
use crate::interrupt;
use crate::socket::{BufferPool, Completion, Ring, Token, TokenKind};
use crate::work::random::Random;

/// Connections per thread; fixed files are reserved for so many, within the limit on open files.
const CONNECTIONS_MAX: u32 = 16_384;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;
/// Receive buffers per thread: more than a turn's worth at 64 connections, few enough to stay in the cache.
const BUFFERS: u16 = 256;
/// Bytes of a receive buffer: from the smallest page to what a large value arrives in.
const BUFFER_BYTES_MIN: usize = 4 << 10;
const BUFFER_BYTES_MAX: usize = 64 << 10;
/// Bytes of the region replies are sent from, and of one send. Larger, and what is on its way falls out of the caches.
const REGION_BYTES_MIN: usize = 64 << 10;
const REGION_BYTES_MAX: usize = 256 << 10;
/// What advice on memory goes by.
const PAGE_BYTES: usize = 4 << 10;
/// Bytes that the kernel may hold of one connection, twice a send. With its own choice, up to 4 MiB, replies of 1 MiB took
/// 1.4 times the processor: whoever was measured against that echo was flattered.
const SOCKET_BUFFER_BYTES: usize = 512 << 10;
/// Replies of one send for which the region has room.
const REGION_REPLIES: usize = 256;

/// What an echo does.
#[derive(Clone, Debug)]
pub(crate) struct EchoOptions {
    /// Where it listens; port 0 picks a free one.
    pub(crate) listen: SocketAddr,
    /// One thread per core.
    pub(crate) cores: CoreList,
    /// Bytes that make one request.
    pub(crate) request_bytes: usize,
    /// Bytes of one reply.
    pub(crate) reply_bytes: usize,
    /// Bytes of memory from all over which replies are sent; none: from one region that stays in the caches.
    pub(crate) from_bytes: Option<usize>,
    /// Ends after so long, or with a signal.
    pub(crate) duration: Option<Duration>,
}

/// What an echo did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EchoTotals {
    /// Connections accepted.
    pub(crate) connections: u64,
    /// Requests answered.
    pub(crate) requests: u64,
}

/// An echo that listens and has not begun to serve.
pub(crate) struct Echo {
    options: EchoOptions,
    listeners: Vec<TcpListener>,
}

impl Echo {
    /// Binds one listener per core, all on the same port.
    pub(crate) fn bind(options: EchoOptions) -> io::Result<Self> {
        let mut listeners = Vec::new();
        let mut address = options.listen;
        for _ in &options.cores.0 {
            let listener = listen(address, options.cores.0.len() > 1)?;
            address = listener.local_addr()?;
            listeners.push(listener);
        }
        Ok(Self { options, listeners })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.listeners[0].local_addr()
    }

    /// Serves until a signal or the end of the duration.
    pub(crate) fn serve(self) -> io::Result<EchoTotals> {
        let Self { options, listeners } = self;
        let threads: Vec<_> = listeners
            .into_iter()
            .zip(options.cores.0.clone())
            .map(|(listener, core)| {
                let options = options.clone();
                thread::spawn(move || {
                    cores::pin_to(core);
                    EchoThread::new(listener, &options)?.serve()
                })
            })
            .collect();
        let mut totals = EchoTotals::default();
        for thread in threads {
            let one = thread.join().map_err(|_| io::Error::other("an echo thread panicked"))??;
            totals.connections += one.connections;
            totals.requests += one.requests;
        }
        Ok(totals)
    }
}

fn listen(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    // Accepted sockets inherit both.
    socket.set_tcp_nodelay(true)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// One connection of an echo.
#[derive(Clone, Copy, Debug, Default)]
struct Peer {
    /// Received bytes that don't make a whole request yet.
    unanswered_bytes: usize,
    /// Reply bytes still to be sent.
    owed_bytes: u64,
    sending: bool,
    /// Its receive has ended: nothing more comes in, and the socket goes with the last send.
    ended: bool,
}

struct EchoThread {
    ring: Ring,
    pool: BufferPool,
    listener: TcpListener,
    region: Box<[u8]>,
    /// Where in the region the next send begins, if not at its start.
    places: Option<Random>,
    /// Bytes of one send.
    send_bytes_max: usize,
    peers: Vec<Peer>,
    /// Connections that owe bytes and send none yet.
    debtors: Vec<u32>,
    request_bytes: usize,
    reply_bytes: u64,
    totals: EchoTotals,
    timeout: Option<Box<types::Timespec>>,
    ending: bool,
}

impl EchoThread {
    fn new(listener: TcpListener, options: &EchoOptions) -> io::Result<Self> {
        let ring = Ring::new()?;
        ring.reserve_files(CONNECTIONS_MAX.min(open_files_limit()))?;
        let request_bytes = options.request_bytes.max(1);
        let buffer_bytes = request_bytes.next_power_of_two().clamp(BUFFER_BYTES_MIN, BUFFER_BYTES_MAX);
        let pool = BufferPool::new(&ring, BUFFERS, buffer_bytes)?;
        let send_bytes_max = (options.reply_bytes * REGION_REPLIES).clamp(REGION_BYTES_MIN, REGION_BYTES_MAX);
        let region_bytes = options.from_bytes.unwrap_or_default().max(send_bytes_max);
        Ok(Self {
            ring,
            pool,
            listener,
            region: region(region_bytes),
            places: options.from_bytes.map(|_| Random::new(1, 0)),
            send_bytes_max,
            peers: Vec::new(),
            debtors: Vec::new(),
            request_bytes,
            reply_bytes: options.reply_bytes as u64,
            totals: EchoTotals::default(),
            timeout: options.duration.map(|duration| Box::new(types::Timespec::from(duration))),
            ending: false,
        })
    }

    fn serve(mut self) -> io::Result<EchoTotals> {
        self.arm_end()?;
        self.arm_accept()?;
        let mut completions: Vec<Completion> = Vec::with_capacity(1024);
        while !self.ending {
            self.ring.enter(1)?;
            self.ring.take_completions(&mut completions);
            for completion in completions.drain(..) {
                match completion.token.kind {
                    TokenKind::Receive => self.on_received(completion)?,
                    TokenKind::Send => self.on_sent(completion)?,
                    TokenKind::Accept => self.on_accepted(completion)?,
                    TokenKind::Stop => self.ending = true,
                    TokenKind::Close => {}
                }
            }
            self.pool.publish();
            self.send_replies()?;
        }
        Ok(self.totals)
    }

    fn on_received(&mut self, completion: Completion) -> io::Result<()> {
        let index = completion.token.index;
        if let Some(buffer) = completion.buffer() {
            self.pool.put_back(buffer);
        }
        let peer = &mut self.peers[index as usize];
        match completion.result {
            received @ 1.. => {
                let unanswered_bytes = peer.unanswered_bytes + received as usize;
                let requests = unanswered_bytes / self.request_bytes;
                peer.unanswered_bytes = unanswered_bytes % self.request_bytes;
                self.totals.requests += requests as u64;
                if peer.owed_bytes == 0 && requests > 0 {
                    self.debtors.push(index);
                }
                peer.owed_bytes += requests as u64 * self.reply_bytes;
                if !completion.stays_armed() {
                    self.arm_receive(index)?;
                }
            }
            // No buffer was free: those of this turn are put back before the next enter.
            result if result == -libc::ENOBUFS => self.arm_receive(index)?,
            _ => {
                peer.ended = true;
                if !peer.sending {
                    self.close(index)?;
                }
            }
        }
        Ok(())
    }

    fn on_sent(&mut self, completion: Completion) -> io::Result<()> {
        let index = completion.token.index;
        let peer = &mut self.peers[index as usize];
        peer.sending = false;
        // A failed send means that the peer is gone: its receive says so too, and only then may the place be used again.
        peer.owed_bytes -= if completion.result > 0 { completion.result as u64 } else { peer.owed_bytes };
        if peer.ended {
            self.close(index)?;
        } else if peer.owed_bytes > 0 {
            self.debtors.push(index);
        }
        Ok(())
    }

    fn on_accepted(&mut self, completion: Completion) -> io::Result<()> {
        if completion.result >= 0 {
            let index = completion.result as u32;
            if self.peers.len() <= index as usize {
                self.peers.resize(index as usize + 1, Peer::default());
            }
            self.peers[index as usize] = Peer::default();
            self.totals.connections += 1;
            self.arm_receive(index)?;
        }
        if !completion.stays_armed() {
            self.arm_accept()?;
        }
        Ok(())
    }

    /// One send per connection that owes: the whole debt, as far as the region reaches.
    fn send_replies(&mut self) -> io::Result<()> {
        let mut debtors = std::mem::take(&mut self.debtors);
        for index in debtors.drain(..) {
            let peer = &mut self.peers[index as usize];
            if peer.sending || peer.ended {
                continue;
            }
            peer.sending = true;
            let bytes = peer.owed_bytes.min(self.send_bytes_max as u64) as u32;
            let last_start = self.region.len() - bytes as usize;
            let start = self.places.as_mut().map_or(0, |places| places.below(last_start as u64 + 1) as usize);
            let send = opcode::Send::new(types::Fixed(index), self.region[start..].as_ptr(), bytes)
                .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
                .build()
                .user_data(Token { kind: TokenKind::Send, index }.to_u64());
            // SAFETY: the region is never changed and lives as long as the ring.
            unsafe { self.ring.push(&send)? };
        }
        self.debtors = debtors;
        Ok(())
    }

    fn arm_accept(&mut self) -> io::Result<()> {
        let accept = opcode::AcceptMulti::new(types::Fd(self.listener.as_raw_fd()))
            .allocate_file_index(true)
            .build()
            .user_data(Token { kind: TokenKind::Accept, index: 0 }.to_u64());
        // SAFETY: names no memory; the listener lives as long as the ring.
        unsafe { self.ring.push(&accept) }
    }

    fn arm_receive(&mut self, index: u32) -> io::Result<()> {
        let receive = opcode::RecvMulti::new(types::Fixed(index), crate::socket::BUFFER_GROUP)
            .build()
            .user_data(Token { kind: TokenKind::Receive, index }.to_u64());
        // SAFETY: names only the pool's buffers, which live as long as the ring.
        unsafe { self.ring.push(&receive) }
    }

    fn close(&mut self, index: u32) -> io::Result<()> {
        let close =
            opcode::Close::new(types::Fixed(index)).build().user_data(Token { kind: TokenKind::Close, index }.to_u64());
        // SAFETY: names no memory.
        unsafe { self.ring.push(&close) }
    }

    fn arm_end(&mut self) -> io::Result<()> {
        let token = Token { kind: TokenKind::Stop, index: 0 }.to_u64();
        let wake: Option<RawFd> = interrupt::wake_descriptor();
        if let Some(wake) = wake {
            let poll = opcode::PollAdd::new(types::Fd(wake), libc::POLLIN as u32).build().user_data(token);
            // SAFETY: names no memory; the descriptor lives as long as the process.
            unsafe { self.ring.push(&poll)? };
        }
        if let Some(timeout) = &self.timeout {
            let timer = opcode::Timeout::new(&raw const **timeout).build().user_data(token);
            // SAFETY: the boxed time lives as long as the ring and is never changed.
            unsafe { self.ring.push(&timer)? };
        }
        Ok(())
    }
}

/// What replies are sent from: in huge pages where they are offered, as a cache's values are.
fn region(bytes: usize) -> Box<[u8]> {
    let mut region = Vec::with_capacity(bytes);
    let start = region.spare_capacity_mut().as_mut_ptr();
    let aligned = start.wrapping_add(start.align_offset(PAGE_BYTES));
    // SAFETY: advice changes no contents; it is on whole pages of the vector's own memory.
    unsafe { libc::madvise(aligned.cast(), bytes.saturating_sub(PAGE_BYTES), libc::MADV_HUGEPAGE) };
    region.resize(bytes, b'e');
    region.into_boxed_slice()
}

/// Raises the soft limit on open files to the hard one and returns it.
pub(crate) fn open_files_limit() -> u32 {
    // SAFETY: both calls get a pointer to a local struct of the right type.
    let limit = unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        limit.rlim_cur
    };
    u32::try_from(limit).unwrap_or(u32::MAX)
}
