//! A real etcd as a child process, its data on tmpfs; and a watch on what it deletes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use etcd_client::{Client, EventType, WatchOptions};

use crate::children;
use crate::namespaces::{self, Namespaces};
use crate::world::unix_ms;

/// Where data lies, which is on tmpfs: `quoit-etcd-PID-NUMBER`.
const DATA_PLACE: &str = "/dev/shm";
const DATA_PREFIX: &str = "quoit-etcd";

/// Ended, and its data removed, with the test.
pub(crate) struct Etcd {
    child: Child,
    data: PathBuf,
    place: Place,
}

/// Where it listens.
#[derive(Clone)]
struct Place {
    /// The network namespace, where it is not the test's own.
    namespace: Option<String>,
    address: IpAddr,
    /// For clients, and for peers it does not have.
    ports: [u16; 2],
    secured: Option<Secured>,
}

/// The PEM files of an etcd that speaks TLS, and hears only whom the same authority has signed for.
#[derive(Clone)]
pub(crate) struct Secured {
    pub(crate) authority: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Etcd {
    /// Starts an etcd of one member on free ports. Whoever asks it may have to wait until it answers.
    pub(crate) fn start() -> Self {
        Self::start_on_loopback(None)
    }

    /// The same, with TLS for its clients.
    pub(crate) fn start_secured(secured: &Secured) -> Self {
        Self::start_on_loopback(Some(secured.clone()))
    }

    fn start_on_loopback(secured: Option<Secured>) -> Self {
        // Both at once, so that they differ.
        let free = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let ports = free.map(|listener| listener.local_addr().expect("bound").port());
        Self::start_at(Place { namespace: None, address: Ipv4Addr::LOCALHOST.into(), ports, secured })
    }

    /// The same where the network's hub is.
    pub(crate) fn start_in(network: &Namespaces) -> Self {
        let place = Place {
            namespace: Some(network.hub()),
            address: namespaces::HUB.into(),
            ports: [2379, 2380],
            secured: None,
        };
        Self::start_at(place)
    }

    fn start_at(place: Place) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        remove_what_is_left_behind();
        let data = Path::new(DATA_PLACE).join(format!("{DATA_PREFIX}-{}-{number}", std::process::id()));
        Self { child: spawn(&data, &place), data, place }
    }

    pub(crate) fn url(&self) -> String {
        self.place.client_url()
    }

    /// Where clients reach it.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::new(self.place.address, self.place.ports[0])
    }

    /// What it has under a key; waits until it answers.
    pub(crate) fn value(&self, key: &str) -> Vec<u8> {
        self.ask(async |client| {
            let found = client.get(key, None).await?;
            Ok(found.kvs().first().map(|pair| pair.value().to_vec()).unwrap_or_default())
        })
    }

    /// Puts a value, whatever was there; waits until it answers.
    pub(crate) fn put(&self, key: &str, value: &[u8]) {
        self.ask(async |client| client.put(key, value, None).await.map(drop));
    }

    fn ask<T>(&self, ask: impl AsyncFn(&mut Client) -> Result<T, etcd_client::Error>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            loop {
                if let Ok(mut client) = Client::connect([self.url()], None).await
                    && let Ok(answer) = ask(&mut client).await
                {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it is a child");
    }

    /// Starts it again, on its data and ports.
    pub(crate) fn restart(&mut self) {
        self.child = spawn(&self.data, &self.place);
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.data);
    }
}

impl Place {
    fn client_url(&self) -> String {
        let scheme = if self.secured.is_some() { "https" } else { "http" };
        format!("{scheme}://{}:{}", self.address, self.ports[0])
    }
}

fn spawn(data: &Path, place: &Place) -> Child {
    let (client, peer) = (place.client_url(), format!("http://{}:{}", place.address, place.ports[1]));
    let mut command = Command::new("etcd");
    if let Some(namespace) = &place.namespace {
        command = Command::new("ip");
        command.args(["netns", "exec", namespace, "etcd"]);
    }
    if let Some(Secured { authority, certificate, key }) = &place.secured {
        // Who has logged in is forgotten after a second without a request: etcd's least.
        command.args(["--auth-token-ttl", "1"]);
        command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(authority);
        command.arg("--cert-file").arg(certificate).arg("--key-file").arg(key);
    }
    command
        .arg("--data-dir")
        .arg(data)
        .args(["--name", "test", "--logger", "zap", "--log-level", "error"])
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("test={peer}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    children::spawn(command).expect("etcd runs: .ci/setup installs it")
}

/// Tests that were killed could not remove their data.
fn remove_what_is_left_behind() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let entries = std::fs::read_dir(DATA_PLACE).expect("tmpfs").flatten().map(|entry| entry.path());
        for left in entries.filter(|path| children::is_left_behind(path, DATA_PREFIX)) {
            // Another run may be at it, too.
            let _ = std::fs::remove_dir_all(left);
        }
    });
}

/// What etcd deletes, as it does.
pub(crate) struct Deletions(flume::Receiver<(String, u64)>);

impl Deletions {
    /// Watches from here on, until etcd ends.
    pub(crate) fn watch(url: &str, network: Option<&Namespaces>) -> Self {
        let (deletion, deletions) = flume::unbounded();
        let (url, hub) = (url.to_owned(), network.map(Namespaces::hub));
        thread::spawn(move || {
            hub.iter().for_each(|hub| namespaces::enter(hub));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                // It may not listen yet.
                let mut client = loop {
                    match Client::connect([&url], None).await {
                        Ok(client) => break client,
                        Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                    }
                };
                let mut stream = loop {
                    match client.watch("/quoit/", Some(WatchOptions::new().with_prefix())).await {
                        Ok(stream) => break stream,
                        Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                    }
                };
                while let Ok(Some(message)) = stream.message().await {
                    let deleted = message.events().iter().filter(|event| event.event_type() == EventType::Delete);
                    for key in deleted.filter_map(|event| event.kv()).filter_map(|kv| kv.key_str().ok()) {
                        // The test may be over.
                        let _ = deletion.send((key.to_owned(), unix_ms()));
                    }
                }
            });
        });
        Self(deletions)
    }

    /// Waits until a key is deleted; when.
    pub(crate) fn of(&self, key: &str, patience: Duration) -> u64 {
        loop {
            let (deleted, unix_ms) = self.0.recv_timeout(patience).expect("etcd deletes it");
            if deleted == key {
                return unix_ms;
            }
        }
    }
}
