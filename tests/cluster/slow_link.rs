//! A link to etcd whose answers can be made late: a proxy on the loopback, as long as the test lives.
//!
//! ```text
//!  nodes ──► proxy ─────────────► etcd
//!        ◄── what came `delay` ago ◄──    order and bytes as they were: latency, not loss
//! ```

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Bytes that are carried at once.
const CHUNK_BYTES: usize = 64 << 10;

/// The link; its threads end with its connections.
pub(crate) struct SlowLink {
    address: SocketAddr,
    delay_ms: Arc<AtomicU64>,
}

impl SlowLink {
    /// To a server, with no delay at first.
    pub(crate) fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let delay_ms = Arc::new(AtomicU64::new(0));
        let link = Self { address: listener.local_addr().expect("bound"), delay_ms: Arc::clone(&delay_ms) };
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // A server that is not there yet: the client's connection ends, and it tries again.
                let Ok(server) = TcpStream::connect(server) else { continue };
                // One that has ended meanwhile carries nothing.
                let _ = carry(client, server, &delay_ms);
            }
        });
        link
    }

    /// Where clients find the server.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What comes from the server from now on comes so much later.
    pub(crate) fn delay(&self, delay: Duration) {
        self.delay_ms.store(delay.as_millis() as u64, Ordering::Relaxed);
    }
}

/// Carries both ways until either end closes.
fn carry(client: TcpStream, server: TcpStream, delay_ms: &Arc<AtomicU64>) -> io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut asked, mut to_server) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        // However it ends, it has.
        let _ = io::copy(&mut asked, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Both);
    });
    let (chunk, chunks) = mpsc::channel();
    let (mut from_server, delay_ms) = (server, Arc::clone(delay_ms));
    thread::spawn(move || {
        let mut bytes = vec![0; CHUNK_BYTES];
        while let Some(count) = from_server.read(&mut bytes).ok().filter(|count| *count > 0) {
            if chunk.send((due(&delay_ms), bytes[..count].to_vec())).is_err() {
                break;
            }
        }
    });
    thread::spawn(move || {
        let mut client = client;
        for (due, bytes) in chunks {
            wait_until(due);
            if client.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = client.shutdown(Shutdown::Both);
    });
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "to be late is what this is for")]
fn due(delay_ms: &AtomicU64) -> Instant {
    Instant::now() + Duration::from_millis(delay_ms.load(Ordering::Relaxed))
}

#[expect(clippy::disallowed_methods, reason = "to be late is what this is for")]
fn wait_until(due: Instant) {
    thread::sleep(due.saturating_duration_since(Instant::now()));
}
