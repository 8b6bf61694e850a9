//! The admin HTTP: `/metrics`, `/healthz`, `/readyz`, `/topology`, and `/cluster`, where operators also change something.
//!
//! Bounded on every side: connections, the size of a request's head, the time a client takes for it, the life of a
//! connection. Request bodies are never read. What changes something is a PUT or a DELETE: no page that a browser shows can
//! send one here without asking first, and that is not answered.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use quoit_wire::topology::Topology;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::cluster::Joining;
use super::cores::{Cores, Round};
use super::operate::{Answer, Ask, Declined, Question, Standing};
use super::ring_log::RingCounters;
use super::status::{ClusterStatus, no_answer, samples};
use super::{Phase, SharedPhase, json, metrics, process};
use crate::cluster::NodeRef;
use crate::cluster::overview::Refusal;
use crate::config::parse_weight;
use crate::runtime::boot_time;
use crate::samples::Sample;
use crate::units::parse_duration;

/// Connections at a time; further ones wait in the listener's queue.
const CONNECTIONS_MAX: usize = 32;
/// Bytes of a request's head; hyper's least.
const REQUEST_BYTES_MAX: usize = 8 << 10;
/// Headers of a request; scrapers send under twenty.
const REQUEST_HEADERS_MAX: usize = 64;
/// Time for the head of a request to arrive, from when it is awaited; so an idle connection ends after it too.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(75);
/// Life of a connection. A scraper connects anew now and then, and a client that never reads its answer is let go.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(300);
/// Time for the answer under way when a connection's life, or the node's, ends.
const LAST_ANSWER_TIME_MAX: Duration = Duration::from_secs(2);
/// Time for an answer about the cluster: an operator's change waits for etcd for five seconds.
const CLUSTER_TIME_MAX: Duration = Duration::from_secs(6);
/// Who follows the cluster's changes is answered after this long at the latest.
const WAIT_TIME_MAX: Duration = Duration::from_secs(10);
/// Pause after a failed accept, which mostly means that there are no file descriptors: trying at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the pages show.
#[derive(Debug)]
pub(super) struct Admin {
    cores: Cores,
    topology: watch::Receiver<Arc<Topology>>,
    phase: Arc<SharedPhase>,
    process: process::Process,
    operators: Option<Operators>,
}

/// The way from operators to their cluster.
#[derive(Debug)]
pub(super) struct Operators {
    cluster: String,
    own: String,
    ask: flume::Sender<Question>,
    counters: Arc<RingCounters>,
}

impl Operators {
    pub(super) fn new(joining: &Joining, ask: flume::Sender<Question>, counters: Arc<RingCounters>) -> Self {
        Self { cluster: joining.cluster_name().to_owned(), own: joining.node_name().to_owned(), ask, counters }
    }

    /// Asks the cluster's task; none: it is busy.
    async fn ask(&self, ask: Ask) -> Option<Answer> {
        let (answer_sender, answer) = flume::bounded(1);
        self.ask.try_send(Question { ask, answer: answer_sender }).ok()?;
        timeout(CLUSTER_TIME_MAX, answer.recv_async()).await.ok()?.ok()
    }

    fn status(&self, standing: &Standing) -> ClusterStatus {
        ClusterStatus::new(boot_time(), &self.cluster, &self.own, standing)
    }

    /// What `/metrics` shows of the cluster, beside what the cores tell.
    async fn samples(&self) -> Vec<Sample> {
        match self.ask(Ask::Status).await {
            Some(Ok(standing)) => samples(boot_time(), &standing, &self.own, &self.counters),
            _ => no_answer(),
        }
    }

    /// Why not to send requests here; none: there is no reason.
    async fn objection(&self) -> Option<String> {
        match self.ask(Ask::Ready).await {
            Some(Ok(_)) => None,
            Some(Err(why)) => Some(why.to_string()),
            None => Some("the node is busy with its cluster, or has not reached etcd yet".to_owned()),
        }
    }
}

impl Admin {
    pub(super) fn new(
        cores: Cores,
        topology: watch::Receiver<Arc<Topology>>,
        phase: Arc<SharedPhase>,
        operators: Option<Operators>,
    ) -> Self {
        Self { cores, topology, phase, process: process::Process::started_now(), operators }
    }

    fn router(self: Arc<Self>) -> Router {
        Router::new()
            .route("/", get(index))
            .route("/metrics", get(show_metrics))
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .route("/topology", get(topology))
            .route("/cluster", get(cluster))
            .route("/cluster/vnodes", get(vnodes))
            .route("/cluster/nodes/{name}", get(node))
            .route("/cluster/nodes/{name}/draining", put(drain).delete(undrain))
            .route("/cluster/nodes/{name}/weight", axum::routing::delete(reset_weight))
            .route("/cluster/nodes/{name}/weight/{weight}", put(set_weight))
            .with_state(self)
    }
}

/// Serves until `stopped` turns true.
pub(super) async fn serve(listener: TcpListener, admin: Arc<Admin>, mut stopped: watch::Receiver<bool>) {
    let router = admin.router();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let accept = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            accepted = accept => accepted,
            _ = stopped.wait_for(|stopped| *stopped) => break,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) => {
                let service = router.clone();
                let stopped = stopped.clone();
                connections.spawn(async move {
                    serve_connection(stream, service, stopped).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "can't take an admin connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // Every connection ends by itself within LAST_ANSWER_TIME_MAX now.
    while connections.join_next().await.is_some() {}
}

async fn serve_connection(stream: TcpStream, router: Router, mut stopped: watch::Receiver<bool>) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIME_MAX)
        .max_headers(REQUEST_HEADERS_MAX)
        .max_buf_size(REQUEST_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    // How a connection ends is the client's business: a broken one is not worth a line in the log.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = sleep(CONNECTION_TIME_MAX) => {}
        _ = stopped.wait_for(|stopped| *stopped) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(LAST_ANSWER_TIME_MAX, connection).await;
}

async fn index() -> &'static str {
    "quoit\n\n/metrics   Prometheus\n/healthz   200 while every core answers\n/readyz    200 while the node takes requests\n/topology  JSON\n/cluster   JSON: who is in the cluster, what each node has; see quoit cluster --help\n/cluster/vnodes   JSON: each vnode of this node\n"
}

async fn show_metrics(State(admin): State<Arc<Admin>>) -> Response {
    let round = admin.cores.ask().await;
    let cluster = match &admin.operators {
        Some(operators) => operators.samples().await,
        None => Vec::new(),
    };
    match metrics::render(&round.snapshots, &round.silent, &cluster, &admin.process.read()) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "can't render the metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// Whether the process is of use at all: an orchestrator restarts it when not.
async fn healthz(State(admin): State<Arc<Admin>>) -> (StatusCode, String) {
    match complaint(&admin.cores.ask().await) {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(complaint) => (StatusCode::SERVICE_UNAVAILABLE, complaint),
    }
}

/// Whether to send requests here.
async fn readyz(State(admin): State<Arc<Admin>>) -> (StatusCode, String) {
    match admin.phase.get() {
        Phase::Serving => {}
        Phase::Stopping => return (StatusCode::SERVICE_UNAVAILABLE, "the node is stopping\n".to_owned()),
        Phase::Starting => return (StatusCode::SERVICE_UNAVAILABLE, "the node is starting\n".to_owned()),
    }
    if let Some(operators) = &admin.operators
        && let Some(objection) = operators.objection().await
    {
        return (StatusCode::SERVICE_UNAVAILABLE, format!("{objection}\n"));
    }
    match complaint(&admin.cores.ask().await) {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(complaint) => (StatusCode::SERVICE_UNAVAILABLE, complaint),
    }
}

/// The cores that did not answer, in words.
fn complaint(round: &Round) -> Option<String> {
    let mut text = String::new();
    for core in &round.silent {
        // Writing to a String can't fail.
        let _ = writeln!(text, "core {core} does not answer");
    }
    (!text.is_empty()).then_some(text)
}

async fn topology(State(admin): State<Arc<Admin>>) -> Response {
    let mut body = json::topology(&admin.topology.borrow());
    if let Some(operators) = &admin.operators
        && let Some(Ok(standing)) = operators.ask(Ask::Status).await
    {
        json::add_status(&mut body, &operators.status(&standing));
    }
    json_answer(StatusCode::OK, body.to_string())
}

/// How the cluster stands; with `wait=DURATION`, when something has changed, or after that time.
async fn cluster(State(admin): State<Arc<Admin>>, RawQuery(query): RawQuery) -> Response {
    let wait = query.as_deref().and_then(|query| query.strip_prefix("wait=")).map(parse_duration);
    match wait {
        Some(Ok(wait)) => {
            let mut topology = admin.topology.clone();
            topology.mark_unchanged();
            // Either way: it has changed, or it is time.
            let _ = timeout(wait.min(WAIT_TIME_MAX), topology.changed()).await;
        }
        Some(Err(error)) => return declined(StatusCode::BAD_REQUEST, &error.to_string()),
        None => {}
    }
    ask(&admin, Ask::Status).await
}

/// Each vnode of this node by itself.
async fn vnodes(State(admin): State<Arc<Admin>>) -> Response {
    let cores = admin.cores.ask_vnodes().await;
    let topology = admin.topology.borrow();
    let named = |node: NodeRef| topology.nodes.iter().find(|known| known.id == node.id);
    let name = |node: NodeRef| named(node).map(|node| node.name.clone());
    json_answer(StatusCode::OK, json::vnodes(&cores, name).to_string())
}

/// How the cluster stands, if it knows a node of this name.
async fn node(State(admin): State<Arc<Admin>>, Path(name): Path<String>) -> Response {
    ask(&admin, Ask::Find { name }).await
}

async fn drain(State(admin): State<Arc<Admin>>, Path(name): Path<String>, RawQuery(query): RawQuery) -> Response {
    let fewer_copies = query.as_deref() == Some("fewer-copies");
    ask(&admin, Ask::Drain { name, fewer_copies }).await
}

async fn undrain(State(admin): State<Arc<Admin>>, Path(name): Path<String>) -> Response {
    ask(&admin, Ask::Undrain { name }).await
}

async fn set_weight(State(admin): State<Arc<Admin>>, Path((name, weight)): Path<(String, String)>) -> Response {
    match parse_weight(&weight) {
        Ok(weight) => ask(&admin, Ask::Weigh { name, weight: Some(weight) }).await,
        Err(error) => declined(StatusCode::BAD_REQUEST, &format!("weight \"{weight}\": {error}")),
    }
}

async fn reset_weight(State(admin): State<Arc<Admin>>, Path(name): Path<String>) -> Response {
    ask(&admin, Ask::Weigh { name, weight: None }).await
}

/// Asks the cluster's task, and tells how the cluster stands with the answer.
async fn ask(admin: &Admin, ask: Ask) -> Response {
    let Some(operators) = &admin.operators else {
        let why = "this node is in no cluster: it was started without --etcd";
        return declined(StatusCode::SERVICE_UNAVAILABLE, why);
    };
    let Some(answer) = operators.ask(ask).await else {
        let why = "this node is busy with its cluster, or has not reached etcd yet: ask again, or another node";
        return declined(StatusCode::SERVICE_UNAVAILABLE, why);
    };
    match answer {
        Ok(standing) => match serde_json::to_string(&operators.status(&standing)) {
            Ok(status) => json_answer(StatusCode::OK, status),
            Err(error) => declined(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        },
        Err(why) => {
            let code = match &why {
                Declined::Refused(Refusal::Unknown { .. }) => StatusCode::NOT_FOUND,
                Declined::Refused(_) => StatusCode::CONFLICT,
                Declined::Unready(_) | Declined::Unanswered(_) => StatusCode::SERVICE_UNAVAILABLE,
            };
            declined(code, &why.to_string())
        }
    }
}

fn declined(code: StatusCode, why: &str) -> Response {
    json_answer(code, serde_json::json!({ "error": why }).to_string())
}

fn json_answer(code: StatusCode, json: String) -> Response {
    (code, [(header::CONTENT_TYPE, "application/json")], json).into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU8;

    use quoit_wire::topology::Node;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::runtime::{Command, CoreHandle};
    use crate::samples::CoreSnapshot;

    /// An admin HTTP over one core, which answers for as long as its inbox is answered by the test's task.
    struct Fixture {
        address: std::net::SocketAddr,
        phase: Arc<SharedPhase>,
        stop: watch::Sender<bool>,
        server: tokio::task::JoinHandle<()>,
        core: tokio::task::JoinHandle<()>,
    }

    impl Fixture {
        async fn start() -> Self {
            let (commands, inbox) = flume::bounded::<Command>(4);
            let core = tokio::spawn(async move {
                while let Ok(command) = inbox.recv_async().await {
                    let answer = match command {
                        Command::Snapshot(answer) => answer,
                        Command::Vnodes(answer) => {
                            drop(answer.send(Vec::new()));
                            continue;
                        }
                        other => panic!("{other:?}"),
                    };
                    let (samples, histograms) = (Vec::new(), Vec::new());
                    let snapshot = CoreSnapshot { core: 0, cpu: 0, requests: Vec::new(), samples, histograms };
                    drop(answer.send(snapshot));
                }
            });
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let address = listener.local_addr().expect("bound");
            let phase = Arc::new(SharedPhase(AtomicU8::new(Phase::Serving as u8)));
            let cores = Cores::new(vec![CoreHandle { core: 0, cpu: 0, commands }]);
            let topology = watch::channel(Arc::new(standalone())).1;
            let admin = Arc::new(Admin::new(cores, topology, Arc::clone(&phase), None));
            let (stop, stopped) = watch::channel(false);
            let server = tokio::spawn(serve(listener, admin, stopped));
            Self { address, phase, stop, server, core }
        }

        /// Sends `request` and reads until the server closes.
        async fn exchange(&self, request: &str) -> String {
            let mut stream = TcpStream::connect(self.address).await.expect("the server listens");
            stream.write_all(request.as_bytes()).await.expect("the server reads");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.expect("the server answers and closes");
            answer
        }

        async fn get(&self, path: &str) -> String {
            self.exchange(&format!("GET {path} HTTP/1.1\r\nHost: quoit\r\nConnection: close\r\n\r\n")).await
        }
    }

    fn standalone() -> Topology {
        let node = Node {
            id: 7,
            incarnation: 1,
            name: String::new(),
            address: "127.0.0.1:7400".to_owned(),
            zone: String::new(),
            cores: 1,
            weight: 1,
        };
        Topology::standalone(node, 2, 5, 9)
    }

    #[tokio::test]
    async fn the_pages_answer() {
        let fixture = Fixture::start().await;
        assert!(fixture.get("/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(fixture.get("/readyz").await.ends_with("ready\n"));
        let metrics = fixture.get("/metrics").await;
        assert!(
            metrics.contains("text/plain; version=0.0.4") && metrics.contains("quoit_core_up{core=\"0\"} 1"),
            "{metrics}"
        );
        let topology = fixture.get("/topology").await;
        assert!(topology.contains("application/json") && topology.contains("\"epoch\":1"), "{topology}");
        let cluster = fixture.get("/cluster").await;
        assert!(cluster.starts_with("HTTP/1.1 503") && cluster.contains("without --etcd"), "{cluster}");
        assert!(fixture.get("/cluster/vnodes").await.starts_with("HTTP/1.1 200"));
        let drain = "/cluster/nodes/a/draining HTTP/1.1\r\nHost: q\r\nConnection: close\r\n\r\n";
        for method in ["GET", "POST"] {
            assert!(fixture.exchange(&format!("{method} {drain}")).await.starts_with("HTTP/1.1 405"), "{method}");
        }
        assert!(fixture.exchange(&format!("PUT {drain}")).await.starts_with("HTTP/1.1 503"));
        assert!(fixture.get("/nothing").await.starts_with("HTTP/1.1 404"));
        assert!(
            fixture
                .exchange("POST /metrics HTTP/1.1\r\nHost: q\r\nConnection: close\r\n\r\n")
                .await
                .starts_with("HTTP/1.1 405")
        );
    }

    #[tokio::test]
    async fn a_node_that_starts_or_stops_is_healthy_and_not_ready() {
        let fixture = Fixture::start().await;
        for (phase, word) in [(Phase::Starting, "starting"), (Phase::Stopping, "stopping")] {
            fixture.phase.set(phase);
            let ready = fixture.get("/readyz").await;
            assert!(ready.starts_with("HTTP/1.1 503") && ready.contains(word), "{ready}");
            assert!(fixture.get("/healthz").await.starts_with("HTTP/1.1 200"));
        }
    }

    #[tokio::test]
    async fn a_core_that_is_gone_makes_the_node_unhealthy() {
        let fixture = Fixture::start().await;
        fixture.core.abort();
        let health = fixture.get("/healthz").await;
        assert!(health.starts_with("HTTP/1.1 503") && health.ends_with("core 0 does not answer\n"), "{health}");
        assert!(fixture.get("/metrics").await.contains("quoit_core_up{core=\"0\"} 0"));
    }

    #[tokio::test]
    async fn a_head_over_the_limit_is_refused() {
        let fixture = Fixture::start().await;
        let request = format!("GET /healthz HTTP/1.1\r\nHost: q\r\nX: {}\r\n\r\n", "x".repeat(2 * REQUEST_BYTES_MAX));
        let mut stream = TcpStream::connect(fixture.address).await.expect("the server listens");
        // The server may close while the head is still being sent.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    }

    #[tokio::test]
    async fn connections_past_the_limit_wait_for_a_place() {
        let fixture = Fixture::start().await;
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            let mut stream = TcpStream::connect(fixture.address).await.expect("the server listens");
            // An answered request on a connection that stays: this one has its place.
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: q\r\n\r\n").await.expect("the server reads");
            let mut first = [0; 12];
            stream.read_exact(&mut first).await.expect("the server answers");
            held.push(stream);
        }
        let waiting = fixture.get("/healthz");
        let mut waiting = std::pin::pin!(waiting);
        let early = tokio::select! {
            answer = waiting.as_mut() => Some(answer),
            () = tokio::task::yield_now() => None,
        };
        assert_eq!(early, None);
        drop(held.pop());
        assert!(waiting.await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_is_closed_after_its_time() {
        let fixture = Fixture::start().await;
        let mut stream = TcpStream::connect(fixture.address).await.expect("the server listens");
        stream.write_all(b"GET /heal").await.expect("the server reads");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("the server closes");
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn stopping_ends_idle_connections_and_the_server() {
        let fixture = Fixture::start().await;
        let mut idle = TcpStream::connect(fixture.address).await.expect("the server listens");
        idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: q\r\n\r\n").await.expect("the server reads");
        let mut first = [0; 12];
        idle.read_exact(&mut first).await.expect("the server answers");
        fixture.stop.send_replace(true);
        fixture.server.await.expect("the server ends");
        let mut rest = Vec::new();
        idle.read_to_end(&mut rest).await.expect("the connection is closed");
    }
}
