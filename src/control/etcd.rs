//! etcd, carried out: each request of the agent is one call with a time limit, and nothing is repeated here.
//!
//! What to ask, and what an answer means, is decided in `cluster/`. A write that was not answered is in doubt, and is said to
//! be; only what etcd answered that it refused is said to be refused.

use std::path::PathBuf;
use std::time::Duration;
use std::{fs, io};

use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, Error, EventType, GetOptions, Identity, KeyValue,
    PutOptions, TlsOptions, Txn, TxnOp, WatchOptions,
};
use tokio::time::timeout;

use crate::cluster::etcd::{self as asked, EtcdFailure, EtcdRequest, EtcdResponse, WatchEvent};
use crate::config::EtcdConfig;

/// Time for a connection to one of etcd's members.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(1);
/// etcd is asked for a sign of life this often while a watch is open, and has as long to give it: one that is gone, or on
/// the other side of a cut, is noticed.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// Time for one request. The agent gives up at the same time.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(1);
/// Messages of a watch that may wait to be taken; it is read no further until there is room.
const WATCH_MESSAGES_MAX: usize = 64;

/// A connection to etcd. Clones share it.
#[derive(Clone)]
pub(super) struct Etcd {
    client: Client,
}

/// Why etcd can't be used with these options.
#[derive(Debug, thiserror::Error)]
pub enum EtcdOptionsError {
    /// A file can't be read.
    #[error("{path} can't be read: {source}; name a PEM file that this user may read")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// etcd, or its library, refuses them.
    #[error("etcd can't be used: {0}; check --etcd and what belongs to it")]
    Refused(String),
}

/// What the network or TLS says of an etcd that does not answer; nothing where it is merely silent.
#[derive(Clone, Debug, Default)]
pub(super) struct Silence(pub(super) String);

impl Silence {
    /// What went wrong first is the innermost cause; those around it say "transport error".
    fn of(error: &Error) -> Self {
        let mut cause: &dyn std::error::Error = match error {
            Error::GRpcStatus(status) => status,
            other => other,
        };
        while let Some(source) = cause.source() {
            cause = source;
        }
        Self(cause.to_string())
    }
}

impl Etcd {
    /// Prepares a connection; etcd itself is asked only where there is a user to log in.
    pub(super) async fn connect(config: &EtcdConfig) -> Result<Result<Self, Silence>, EtcdOptionsError> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_TIME_MAX)
            .with_keep_alive(KEEP_ALIVE_INTERVAL, KEEP_ALIVE_INTERVAL)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true);
        if let Some((user, password)) = &config.user {
            // etcd forgets who logged in after five minutes without a request, and at its restart. What it refused for that is
            // asked again after a new login; a refused watch is opened anew, behind a range.
            options = options.with_user(user.clone(), password.reveal().to_owned()).with_auto_token_refresh(true);
        }
        if config.endpoints.iter().any(|url| url.starts_with("https://")) {
            options = options.with_tls(tls(config)?);
        }
        match timeout(2 * CONNECT_TIME_MAX, Client::connect(&config.endpoints, Some(options))).await {
            Ok(Ok(client)) => Ok(Ok(Self { client })),
            Ok(Err(error)) => match (Silence::of(&error), failure(error)) {
                (silence, EtcdFailure::Unanswered) => Ok(Err(silence)),
                (_, EtcdFailure::Refused(why)) => Err(EtcdOptionsError::Refused(why)),
            },
            Err(_) => Ok(Err(Silence::default())),
        }
    }

    /// Asks something small, to learn why etcd does not answer.
    pub(super) async fn silence(mut self) -> Silence {
        let asked = self.client.get("/quoit/", Some(GetOptions::new().with_count_only()));
        let answer = timeout(REQUEST_TIME_MAX, asked).await;
        answer.ok().and_then(Result::err).map_or_else(Silence::default, |error| Silence::of(&error))
    }

    /// Carries out any request but a watch.
    pub(super) async fn carry_out(mut self, request: EtcdRequest) -> EtcdResponse {
        match timeout(REQUEST_TIME_MAX, self.call(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                if is_login_outdated(&error) {
                    // Whether it succeeds shows when the agent asks again.
                    let _ = timeout(REQUEST_TIME_MAX, self.client.refresh_token()).await;
                }
                EtcdResponse::Failed(failure(error))
            }
            Err(_) => EtcdResponse::Failed(EtcdFailure::Unanswered),
        }
    }

    async fn call(&mut self, request: EtcdRequest) -> Result<EtcdResponse, Error> {
        Ok(match request {
            EtcdRequest::LeaseGrant { ttl_secs } => {
                let granted = self.client.lease_grant(ttl_secs, None).await?;
                EtcdResponse::LeaseGranted { lease: granted.id(), ttl_secs: granted.ttl() }
            }
            // etcd-client has read the answer to the first request before it hands the stream out.
            EtcdRequest::LeaseKeepAlive { lease } => match self.client.lease_keep_alive(lease).await {
                Ok(_) => EtcdResponse::LeaseKept { ttl_secs: 1 },
                Err(Error::LeaseKeepAliveError(_)) => EtcdResponse::LeaseKept { ttl_secs: 0 },
                Err(error) => return Err(error),
            },
            EtcdRequest::LeaseRevoke { lease } => {
                self.client.lease_revoke(lease).await?;
                EtcdResponse::LeaseRevoked
            }
            EtcdRequest::Range { prefix } => {
                let found = self.client.get(prefix, Some(GetOptions::new().with_prefix())).await?;
                let revision = found.header().map_or(0, etcd_client::ResponseHeader::revision);
                EtcdResponse::Range { revision, entries: found.kvs().iter().filter_map(entry).collect() }
            }
            EtcdRequest::Transaction { compares, puts } => {
                let compares: Vec<Compare> = compares.into_iter().map(compare).collect();
                let put =
                    |put: asked::Put| TxnOp::put(put.key, put.value, Some(PutOptions::new().with_lease(put.lease)));
                let puts: Vec<TxnOp> = puts.into_iter().map(put).collect();
                let done = self.client.txn(Txn::new().when(compares).and_then(puts)).await?;
                let revision = done.header().map_or(0, etcd_client::ResponseHeader::revision);
                EtcdResponse::Transaction { succeeded: done.succeeded(), revision }
            }
            EtcdRequest::Compact { revision } => {
                self.client.compact(revision, None).await?;
                EtcdResponse::Compacted
            }
            EtcdRequest::Watch { .. } => EtcdResponse::Failed(EtcdFailure::Refused("a watch has no answer".to_owned())),
        })
    }

    /// Tells every change under `prefix` from `from_revision` on, until the receiver is dropped or the watch ends; what
    /// belongs to one revision comes together, and the last event is [`WatchEvent::Closed`].
    pub(super) fn watch(&self, prefix: String, from_revision: i64) -> flume::Receiver<Vec<WatchEvent>> {
        let (events, watched) = flume::bounded(WATCH_MESSAGES_MAX);
        let client = self.client.clone();
        tokio::spawn(async move {
            if let Err(error) = watch(client, prefix, from_revision, &events).await {
                tracing::debug!(%error, "the watch on etcd has ended");
            }
            // Nobody listens any more when there is a newer watch.
            let _ = events.send_async(vec![WatchEvent::Closed]).await;
        });
        watched
    }
}

/// Returns when the watch has ended, or nobody listens any more.
async fn watch(
    mut client: Client,
    prefix: String,
    from_revision: i64,
    events: &flume::Sender<Vec<WatchEvent>>,
) -> Result<(), Error> {
    let options = WatchOptions::new().with_prefix().with_start_revision(from_revision);
    let mut stream = client.watch(prefix, Some(options)).await?;
    while let Some(message) = stream.message().await? {
        if message.canceled() || message.compact_revision() > 0 {
            return Ok(());
        }
        let event = |event: &etcd_client::Event| {
            let changed = event.kv()?;
            Some(match event.event_type() {
                EventType::Put => WatchEvent::Put(entry(changed)?),
                EventType::Delete => {
                    WatchEvent::Delete { key: changed.key_str().ok()?.to_owned(), revision: changed.mod_revision() }
                }
            })
        };
        let changes: Vec<WatchEvent> = message.events().iter().filter_map(event).collect();
        if !changes.is_empty() && events.send_async(changes).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn tls(config: &EtcdConfig) -> Result<TlsOptions, EtcdOptionsError> {
    let read = |path: &PathBuf| fs::read(path).map_err(|source| EtcdOptionsError::File { path: path.clone(), source });
    let mut options = TlsOptions::new();
    if let Some(ca) = &config.ca {
        options = options.ca_certificate(Certificate::from_pem(read(ca)?));
    }
    if let Some((certificate, key)) = &config.certificate {
        options = options.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    Ok(options)
}

/// A key that is no text is not the cluster's.
fn entry(found: &KeyValue) -> Option<asked::Entry> {
    Some(asked::Entry {
        key: found.key_str().ok()?.to_owned(),
        value: found.value().to_vec(),
        create_revision: found.create_revision(),
        mod_revision: found.mod_revision(),
        lease: found.lease(),
    })
}

fn compare(compare: asked::Compare) -> Compare {
    match compare {
        asked::Compare::CreateRevision { key, revision } => Compare::create_revision(key, CompareOp::Equal, revision),
        asked::Compare::ModRevision { key, revision } => Compare::mod_revision(key, CompareOp::Equal, revision),
    }
}

/// Whether etcd's users or their rights have changed since the login: a token that is signed (`--auth-token jwt`) says of
/// when it is, and is refused from then on. etcd-client logs in anew for tokens that are unknown or over, not for these.
fn is_login_outdated(error: &Error) -> bool {
    /// etcd's `ErrGRPCAuthOldRevision`; its code, "invalid argument", stands for much else.
    const MESSAGE: &str = "etcdserver: revision of auth store is old";
    matches!(error, Error::GRpcStatus(status) if status.message() == MESSAGE)
}

/// What an error says about whether the request was carried out.
fn failure(error: Error) -> EtcdFailure {
    /// gRPC's codes (grpc.github.io, "Status codes") with which a server says that it did nothing: invalid argument, not
    /// found, already exists, permission denied, resource exhausted, failed precondition, out of range, unimplemented,
    /// unauthenticated.
    const REFUSALS: [i32; 9] = [3, 5, 6, 7, 8, 9, 11, 12, 16];
    match error {
        Error::GRpcStatus(status) if REFUSALS.contains(&i32::from(status.code())) => {
            EtcdFailure::Refused(status.message().to_owned())
        }
        Error::InvalidArgs(_) | Error::InvalidUri(_) | Error::InvalidMetadataValue(_) | Error::EndpointError(_) => {
            EtcdFailure::Refused(error.to_string())
        }
        _ => EtcdFailure::Unanswered,
    }
}
