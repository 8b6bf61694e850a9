//! The front for tokio: a [`Client`] that is cloned freely, and one task that drives all its connections.
//!
//! Requests of all clones meet in that task, so what is asked at the same time leaves in the same write. A future that is
//! dropped gives up its answer; the request itself, once handed over, is carried out all the same.

mod driver;

use std::future::Future;
use std::time::Duration;

use ::tokio::sync::{mpsc, oneshot};
use ::tokio::time::Instant;
use quoit_wire::stats::Stats;
use quoit_wire::topology::Topology;
use quoit_wire::{Item, Version};

use self::driver::{Command, Driver};
use crate::answer::{Answer, Counter, Hit, Outcome, SetOutcome};
use crate::error::Error;
use crate::options::Options;
use crate::request::{IncrementOptions, Request, SetOptions};

/// Requests on their way to the driver; further callers wait. Fewer: the driver finds small batches. More: the wait is
/// there instead of here.
const COMMANDS_MAX: usize = 1024;

/// A client for tokio's tasks; cheap to clone, all clones share their connections.
///
/// ```no_run
/// # async fn example() -> Result<(), quoit_client::Error> {
/// use quoit_client::{Options, SetOptions, tokio::Client};
///
/// let client = Client::connect(["127.0.0.1:7400"], Options::default()).await?;
/// client.set("greeting", "hello", SetOptions::default()).await?;
/// let hit = client.get("greeting").await?.expect("it was just set");
/// assert_eq!(hit.value, b"hello");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    commands: mpsc::Sender<Command>,
}

impl Client {
    /// Finds a cluster through any of `servers` (`host:port`), learns its topology, and starts the task that drives the
    /// connections; it ends with the last clone. Needs a tokio runtime with time and I/O.
    ///
    /// Fails when none of the servers answers; later losses are mended behind the calls, within each call's deadline.
    pub async fn connect<S: Into<String>>(
        servers: impl IntoIterator<Item = S>,
        options: Options,
    ) -> Result<Self, Error> {
        let servers = servers.into_iter().map(Into::into).collect();
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let (started, start) = oneshot::channel();
        ::tokio::spawn(Driver::new(servers, options, receiver, started)?);
        start.await.unwrap_or(Err(Error::Closed))?;
        Ok(Self { commands })
    }

    /// Reads the item of `key`; `None` is a miss.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Hit>, Error> {
        self.call(Request::get(key)).await?.into_hit()
    }

    /// Writes an item.
    pub async fn set(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: SetOptions,
    ) -> Result<SetOutcome, Error> {
        self.call(Request::set(key, value, options)).await?.into_set_outcome()
    }

    /// Removes the item of `key`; `None` when there was none.
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<Option<Version>, Error> {
        self.call(Request::delete(key)).await?.into_version()
    }

    /// Gives the item a new time to live from now, `None` for ever. `None` comes back when there is no item.
    pub async fn touch(&self, key: impl AsRef<[u8]>, ttl: Option<Duration>) -> Result<Option<Version>, Error> {
        self.call(Request::touch(key, ttl)).await?.into_version()
    }

    /// Reads the item and gives it a new time to live; `None` is a miss.
    pub async fn get_and_touch(&self, key: impl AsRef<[u8]>, ttl: Option<Duration>) -> Result<Option<Hit>, Error> {
        self.call(Request::get_and_touch(key, ttl)).await?.into_hit()
    }

    /// Adds `delta` to the decimal counter of `key`; `None` when there is none and none is to be made.
    ///
    /// Applied once, however often the network makes the client repeat it.
    pub async fn increment(
        &self,
        key: impl AsRef<[u8]>,
        delta: i64,
        options: IncrementOptions,
    ) -> Result<Option<Counter>, Error> {
        self.call(Request::increment(key, delta, options)).await?.into_counter()
    }

    /// Subtracts `by` from the decimal counter of `key`; otherwise as [`Self::increment`].
    pub async fn decrement(
        &self,
        key: impl AsRef<[u8]>,
        by: u64,
        options: IncrementOptions,
    ) -> Result<Option<Counter>, Error> {
        self.call(Request::decrement(key, by, options)).await?.into_counter()
    }

    /// Adds bytes behind the item's value, once; `None` when there is no item.
    pub async fn append(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Option<Version>, Error> {
        self.call(Request::append(key, value)).await?.into_version()
    }

    /// Adds bytes before the item's value, once; `None` when there is no item.
    pub async fn prepend(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Option<Version>, Error> {
        self.call(Request::prepend(key, value)).await?.into_version()
    }

    /// Reads many items, one frame per core; the results come in the order of the keys, each its own.
    pub async fn multi_get(
        &self,
        keys: impl IntoIterator<Item = impl AsRef<[u8]>>,
    ) -> Result<Vec<Result<Option<Hit>, Error>>, Error> {
        let answers = self.call_many(Request::multi_get(keys)).await?;
        Ok(answers.into_iter().map(|answer| answer?.into_hit()).collect())
    }

    /// Writes many items, one frame per core; the results come in the order of the items, each its own.
    pub async fn multi_set<'a>(
        &self,
        items: impl IntoIterator<Item = Item<'a>>,
    ) -> Result<Vec<Result<SetOutcome, Error>>, Error> {
        let answers = self.call_many(Request::multi_set(items)).await?;
        Ok(answers.into_iter().map(|answer| answer?.into_set_outcome()).collect())
    }

    /// Removes every item that was acknowledged before, on every node.
    pub async fn flush(&self) -> Result<(), Error> {
        self.call_many(Request::flush()).await?.into_iter().try_for_each(|answer| answer?.into_done().map(drop))
    }

    /// Asks one server for a sign of life; the time from the request to the answer.
    pub async fn ping(&self) -> Result<Duration, Error> {
        let asked_at = Instant::now();
        self.call(Request::ping([])).await?.into_done()?;
        Ok(asked_at.elapsed())
    }

    /// Reads the counters of every node.
    pub async fn stats(&self) -> Result<Vec<Stats>, Error> {
        self.call_many(Request::stats()).await?.into_iter().map(|answer| answer?.into_stats()).collect()
    }

    /// Reads the topology from one server.
    pub async fn topology(&self) -> Result<Topology, Error> {
        self.call(Request::topology()).await?.into_topology()
    }

    /// Carries out one request with one answer.
    pub fn call(&self, request: Request) -> impl Future<Output = Result<Answer, Error>> + Send {
        let outcome = self.carry_out(request);
        async move { outcome.await.into_one() }
    }

    /// Carries out many requests, pipelined; their outcomes come in the order of the requests.
    ///
    /// Requests for one key take effect in the order given; across keys there is no order.
    pub async fn run(&self, requests: impl IntoIterator<Item = Request>) -> Vec<Outcome> {
        let mut answers = Vec::new();
        for request in requests {
            answers.push(self.hand_over(request).await);
        }
        let mut outcomes = Vec::with_capacity(answers.len());
        for answer in answers {
            outcomes.push(answer.await.unwrap_or(Outcome::One(Err(Error::Closed))));
        }
        outcomes
    }

    async fn call_many(&self, request: Request) -> Result<Vec<Result<Answer, Error>>, Error> {
        self.carry_out(request).await.into_many()
    }

    async fn carry_out(&self, request: Request) -> Outcome {
        self.hand_over(request).await.await.unwrap_or(Outcome::One(Err(Error::Closed)))
    }

    /// Gives the request to the driver, whose end of the channel is dropped if the driver is gone.
    async fn hand_over(&self, request: Request) -> oneshot::Receiver<Outcome> {
        let (answer, receiver) = oneshot::channel();
        // The deadline counts from the call, not from when there was room.
        let asked_at = Instant::now();
        let _ = self.commands.send(Command { request, answer, asked_at }).await;
        receiver
    }
}
