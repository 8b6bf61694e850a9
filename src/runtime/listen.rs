//! A node's listeners: one per core on one address, shared by `SO_REUSEPORT`.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

/// How often and how long apart a taken address is tried again at start: a second in all.
const BIND_TRIES: usize = 20;
const BIND_INTERVAL: Duration = Duration::from_millis(50);
/// Connections the kernel may hold before a core accepts them.
const LISTEN_BACKLOG: i32 = 4096;

/// One listener per core on one address.
pub(super) fn listen(address: SocketAddr, cores: usize) -> io::Result<Vec<TcpListener>> {
    // Without SO_REUSEPORT, so that a node that already listens there is noticed: with it, both would get connections.
    let probe = bind_patiently(address)?;
    let address = probe.local_addr()?.as_socket().unwrap_or(address);
    drop(probe);
    (0..cores)
        .map(|_| {
            let socket = bind(address, true)?;
            socket.listen(LISTEN_BACKLOG)?;
            Ok(socket.into())
        })
        .collect()
}

/// Binds, waiting a little where the address is taken: a process that was killed gives its listeners back only when the
/// kernel has torn its io_uring down, some milliseconds after it is gone. A restart must not fail by that.
fn bind_patiently(address: SocketAddr) -> io::Result<Socket> {
    for _ in 0..BIND_TRIES {
        match bind(address, false) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                #[expect(clippy::disallowed_methods, reason = "nothing signals that the kernel has freed an address")]
                std::thread::sleep(BIND_INTERVAL);
            }
            bound => return bound,
        }
    }
    bind(address, false)
}

fn bind(address: SocketAddr, is_shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(is_shared)?;
    socket.bind(&address.into())?;
    Ok(socket)
}
