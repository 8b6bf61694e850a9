//! Requests handed in one by one and answered in any order, by a thread that never waits for one alone.

use std::time::Duration;

use super::Client;
use crate::answer::Outcome;
use crate::error::Error;
use crate::options::Options;
use crate::request::Request;
use crate::session::Counters;
use quoit_wire::topology::Topology;

/// A client whose requests overlap: each is handed in under a tag, and its outcome comes back with the tag.
///
/// ```no_run
/// use std::time::Duration;
/// use quoit_client::{Options, Request, blocking::Pipeline};
///
/// let mut pipeline = Pipeline::connect(["127.0.0.1:7400"], Options::default())?;
/// (0..100).for_each(|tag| pipeline.submit(Request::get(format!("key-{tag}")), tag));
/// let mut answered = 0;
/// while answered < 100 {
///     pipeline.turn(Duration::from_millis(10));
///     while let Some((tag, outcome)) = pipeline.poll_outcome() {
///         println!("{tag}: {:?}", outcome.into_one()?.into_hit()?);
///         answered += 1;
///     }
/// }
/// # Ok::<(), quoit_client::Error>(())
/// ```
#[derive(Debug)]
pub struct Pipeline(Client);

impl Pipeline {
    /// Finds a cluster, as [`Client::connect`] does.
    pub fn connect<S: Into<String>>(servers: impl IntoIterator<Item = S>, options: Options) -> Result<Self, Error> {
        Client::connect(servers, options).map(Self)
    }

    /// Whether the client's limits have room for the request now; one that is handed in all the same ends with
    /// [`Error::Busy`].
    pub fn has_room_for(&self, request: &Request) -> bool {
        self.0.session.has_room_for(request)
    }

    /// Hands a request in. It leaves with the next turn.
    pub fn submit(&mut self, request: Request, tag: usize) {
        let now = self.0.now();
        self.0.session.submit(request, tag, now);
    }

    /// Writes, waits until something arrives or is due, but at most `wait_max`, and reads.
    pub fn turn(&mut self, wait_max: Duration) {
        self.0.turn(wait_max);
    }

    /// The next request that has ended.
    pub fn poll_outcome(&mut self) -> Option<(usize, Outcome)> {
        self.0.session.poll_completion()
    }

    /// What this client has met with.
    pub fn counters(&self) -> Counters {
        self.0.session.counters()
    }

    /// The topology it goes by.
    pub fn topology(&self) -> Option<&Topology> {
        self.0.session.topology().map(|topology| &**topology)
    }
}
