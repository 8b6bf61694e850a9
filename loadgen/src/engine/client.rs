//! One generator thread that asks through the native client: what a program sees that uses Quoit as it is meant to be.
//!
//! The client learns the cluster from any node, follows its changes, reconnects and repeats within the deadline; here only
//! the pace, the workload and the measuring are the generator's own. It costs more per request than the generator's own
//! connections: for throughput those are the instrument, for faults and moves this is.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use quoit_client::blocking::Pipeline;
use quoit_client::session::Counters;
use quoit_client::{Answer, Error, IncrementOptions, Options, Request as ClientRequest, SetOptions, Status, WriteMode};

use super::gaps::{Gaps, LongestGaps};
use super::phases::{Phase, Phases};
use super::{EngineOptions, Finished, Pace, Recorder, Shared, Waiting};
use crate::clock::now_ns;
use crate::protocol::{Answered, Outcome, Refusal, Request};
use crate::work::{Ask, Op, Work};

/// Errors that are told in words; all are counted.
const ERRORS_TOLD_MAX: usize = 10;
/// Longest sleep, so that a signal and the end are noticed though nothing arrives.
const SLEEP_MAX: Duration = Duration::from_millis(10);
/// Bytes that unanswered requests may hold.
const BYTES_MAX: usize = 1 << 30;

/// How a client asks.
#[derive(Clone, Debug)]
pub(crate) struct ClientOptions {
    /// Where a cluster is found.
    pub(crate) servers: Vec<String>,
    /// Callers of the thread, each with as many unanswered requests as its pipeline is deep.
    pub(crate) callers: usize,
    /// Time a request may take, repeats included.
    pub(crate) deadline: Duration,
    /// Copies that writes wait for.
    pub(crate) write_mode: WriteMode,
}

/// What a client has met with; that of several adds up.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClientFacts {
    /// Clients that this is about.
    pub(crate) clients: u64,
    /// What their sessions counted.
    pub(crate) counters: Counters,
    /// Times without success.
    pub(crate) gaps: LongestGaps,
    /// The first errors, in words.
    pub(crate) errors_told: Vec<String>,
}

/// A generator thread, ready to start.
pub(crate) struct ClientEngine<W> {
    pipeline: Pipeline,
    work: W,
    options: EngineOptions,
    write_mode: WriteMode,
    recorder: Recorder,
    gaps: Gaps,
    pace: Pace,
    requests_left: u64,
    /// Requests without an answer, by their tag; those of caller n lie from n times the depth on.
    calls: Vec<Option<Call>>,
    /// Tags that are free.
    free: VecDeque<u32>,
    errors_told: Vec<String>,
}

#[derive(Clone, Copy, Debug)]
struct Call {
    waiting: Waiting,
    /// Of a request for one key.
    vnode: Option<usize>,
}

/// Finds the cluster.
pub(crate) fn connect(options: &ClientOptions, depth: usize, keys_per_request: usize) -> Result<Pipeline, Error> {
    let requests_max = (options.callers * depth * keys_per_request).max(Options::default().requests_max);
    let client = Options { deadline: options.deadline, requests_max, bytes_max: BYTES_MAX, ..Options::default() };
    Pipeline::connect(options.servers.clone(), client)
}

impl<W: Work> ClientEngine<W> {
    /// An engine on the calling thread.
    pub(crate) fn new(pipeline: Pipeline, client: &ClientOptions, work: W, options: EngineOptions) -> io::Result<Self> {
        let topology = pipeline.topology().ok_or(io::ErrorKind::NotConnected)?;
        let slots = client.callers * options.depth;
        Ok(Self {
            gaps: Gaps::new(topology),
            pipeline,
            work,
            write_mode: client.write_mode,
            recorder: Recorder::new(),
            pace: Pace::Closed,
            requests_left: options.requests.unwrap_or(u64::MAX),
            options,
            calls: vec![None; slots],
            free: (0..slots as u32).collect(),
            errors_told: Vec::new(),
        })
    }

    /// Runs to the end; never longer than that and the deadline.
    pub(crate) fn run(mut self, shared: &Arc<Shared>) -> Finished<W> {
        let start_ns = now_ns();
        let mut phases = Phases::new(start_ns, &self.options);
        self.pace = self.options.rate.map_or(Pace::Closed, |rate| Pace::open(start_ns, rate));
        let (mut measured_ns, mut in_window, mut behind) = (0, 0, 0);
        let (mut now, mut last_reply_ns) = (start_ns, start_ns);
        loop {
            match phases.advance(now, shared.stop.load(Ordering::Relaxed)) {
                Some(Phase::Measuring) => {
                    self.recorder.reset();
                    self.gaps.reset();
                }
                Some(Phase::Draining) => {
                    shared.stop.store(true, Ordering::Relaxed);
                    measured_ns = now.saturating_sub(phases.measure_ns);
                    in_window = self.recorder.tally.answered;
                    behind = self.pace.behind(now);
                }
                _ => {}
            }
            let is_draining = phases.current == Phase::Draining;
            let has_finished = is_draining || self.requests_left == 0 || self.work.is_exhausted();
            if has_finished && self.free.len() == self.calls.len() {
                break;
            }
            let asked = !is_draining && self.ask(now);
            self.pipeline.turn(self.wait(now));
            let before_ns = std::mem::replace(&mut now, now_ns());
            self.recorder.turns += 1;
            if self.take_outcomes(now) {
                last_reply_ns = now;
                shared.answered.store(self.recorder.tally.answered, Ordering::Relaxed);
            } else if !asked {
                self.recorder.turns_empty += 1;
                self.recorder.idle_ns += now - before_ns;
            }
        }
        self.recorder.flush();
        let is_draining = phases.current == Phase::Draining;
        let answered = self.recorder.tally.answered;
        Finished {
            measured_ns: if is_draining { measured_ns } else { last_reply_ns.saturating_sub(phases.measure_ns) },
            answered_late: if is_draining { answered - in_window } else { 0 },
            behind,
            client: Some(ClientFacts {
                clients: 1,
                counters: self.pipeline.counters(),
                gaps: self.gaps.finish(now),
                errors_told: self.errors_told,
            }),
            recorder: self.recorder,
            work: self.work,
            failure: None,
            unanswered: 0,
        }
    }

    /// How long a turn may wait: until the next request is due, where sleeping is allowed.
    fn wait(&self, now_ns: u64) -> Duration {
        match self.options.sleeps {
            false => Duration::ZERO,
            true if self.free.is_empty() => SLEEP_MAX,
            true => self.pace.next_due(now_ns).map_or(SLEEP_MAX, |in_ns| Duration::from_nanos(in_ns).min(SLEEP_MAX)),
        }
    }

    /// Hands out requests, as far as they are due and callers have room; whether there were any.
    fn ask(&mut self, now_ns: u64) -> bool {
        let mut asked = false;
        for _ in 0..self.free.len() {
            let Some(intended_ns) = self.pace.due(now_ns).filter(|_| self.requests_left > 0) else { break };
            let Some(tag) = self.free.pop_front() else { break };
            let caller = tag as usize / self.options.depth;
            let Some(ask) = self.work.next(caller, now_ns) else {
                self.free.push_back(tag);
                continue;
            };
            let request = self.work.request(caller, &ask);
            let vnode = request.key().map(|key| self.gaps.vnode(key));
            let request = to_client(request).with_write_mode(self.write_mode);
            if let Some(vnode) = vnode {
                self.gaps.asked(vnode, is_write(&ask), now_ns);
            }
            self.calls[tag as usize] = Some(Call { waiting: Waiting { ask, intended_ns }, vnode });
            self.pipeline.submit(request, tag as usize);
            self.pace.sent();
            self.requests_left -= 1;
            asked = true;
        }
        asked
    }

    /// Takes what has ended; whether anything has.
    fn take_outcomes(&mut self, now_ns: u64) -> bool {
        let mut any = false;
        while let Some((tag, outcome)) = self.pipeline.poll_outcome() {
            any = true;
            let Some(Call { waiting, vnode }) = self.calls[tag].take() else { continue };
            self.free.push_back(tag as u32);
            let ask = &waiting.ask;
            let result = match (ask.op, outcome) {
                (Op::MultiGet, outcome) => outcome.into_many().and_then(merge),
                (_, outcome) => outcome.into_one(),
            };
            let (outcome, version, value) = match &result {
                Ok(answer) => (outcome_of(ask, answer), answer.version.as_u64(), &answer.value[..]),
                Err(error) => (self.tell(ask, error), 0, &[][..]),
            };
            let is_success = !matches!(outcome, Outcome::Refused(_) | Outcome::InDoubt);
            if let Some(vnode) = vnode {
                self.gaps.ended(vnode, is_write(ask), is_success, now_ns);
            }
            self.recorder.answered(ask, now_ns.saturating_sub(waiting.intended_ns), outcome, value.len());
            let caller = tag / self.options.depth;
            self.work.done(caller, &waiting, Answered { outcome, version, value }, now_ns);
        }
        any
    }

    /// Keeps the first errors, and says what an error is.
    fn tell(&mut self, ask: &Ask, error: &Error) -> Outcome {
        if self.errors_told.len() < ERRORS_TOLD_MAX {
            self.errors_told.push(format!("{:?} of key {:x}: {error}", ask.op, ask.key));
        }
        if is_write(ask) && error.maybe_applied() {
            return Outcome::InDoubt;
        }
        Outcome::Refused(match error {
            Error::TooLarge { .. } | Error::Server { status: Status::TooLarge, .. } => Refusal::TooLarge,
            Error::Server { status: Status::NoSpace, .. } => Refusal::NoSpace,
            Error::Overloaded { .. } => Refusal::Overloaded,
            Error::Server { status: Status::Moved, .. } => Refusal::Moved,
            _ => Refusal::Other,
        })
    }
}

impl ClientFacts {
    /// Adds those of another thread.
    pub(crate) fn add(&mut self, other: Self) {
        self.clients += other.clients;
        let (sum, more) = (&mut self.counters, other.counters);
        sum.repeats += more.repeats;
        sum.redirects += more.redirects;
        sum.refusals += more.refusals;
        sum.losses += more.losses;
        sum.topologies += more.topologies;
        self.gaps = LongestGaps {
            all: self.gaps.all.longer(other.gaps.all),
            vnode: self.gaps.vnode.longer(other.gaps.vnode),
            vnode_write: self.gaps.vnode_write.longer(other.gaps.vnode_write),
            notable: self.gaps.notable.max(other.gaps.notable),
        };
        self.errors_told.extend(other.errors_told);
        self.errors_told.truncate(ERRORS_TOLD_MAX);
    }
}

const fn is_write(ask: &Ask) -> bool {
    !matches!(ask.op, Op::Get | Op::MultiGet)
}

fn to_client(request: Request<'_>) -> ClientRequest {
    match request {
        Request::Get { key } => ClientRequest::get(key),
        Request::Set { key, value, ttl_ms, client_flags } => {
            let ttl = (ttl_ms > 0).then(|| Duration::from_millis(ttl_ms));
            ClientRequest::set(key, value, SetOptions { ttl, client_flags, ..SetOptions::default() })
        }
        Request::Delete { key } => ClientRequest::delete(key),
        Request::Increment { key } => {
            ClientRequest::increment(key, 1, IncrementOptions { initial: Some(1), ttl: None })
        }
        Request::MultiGet { keys, key_bytes } => ClientRequest::multi_get(keys.chunks_exact(key_bytes)),
    }
}

/// The answers of a multi-get as one, whose flags hold the number of hits; the first error where there is one.
fn merge(answers: Vec<Result<Answer, Error>>) -> Result<Answer, Error> {
    let mut merged: Option<Answer> = None;
    let mut hits = 0;
    for answer in answers {
        let answer = answer?;
        hits += u32::from(answer.status == Status::Ok);
        merged.get_or_insert(answer);
    }
    merged.map(|answer| Answer { client_flags: hits, value: Vec::new(), ..answer }).ok_or(Error::Closed)
}

fn outcome_of(ask: &Ask, answer: &Answer) -> Outcome {
    match (ask.op, answer.status) {
        (Op::MultiGet, _) => Outcome::Many { hits: answer.client_flags },
        (_, Status::Miss) => Outcome::Miss,
        (Op::Get, Status::Ok) => Outcome::Hit,
        (Op::Set, Status::Ok) => Outcome::Stored,
        (Op::Delete, Status::Ok) => Outcome::Deleted,
        (Op::Increment, Status::Ok) => match answer.value.first_chunk::<8>() {
            Some(number) => Outcome::Counted(i64::from_le_bytes(*number)),
            None => Outcome::Refused(Refusal::Other),
        },
        _ => Outcome::Refused(Refusal::Other),
    }
}
