//! What a core tells about itself: the runtime's counters and histograms, beside the shard's.

use hdrhistogram::Histogram;
use quoit_wire::stats::{CoreStats, Stats};
use quoit_wire::{Reply, Status};

use super::clock::Reading;
use super::connection::CloseCause;
use super::core::Core;
use crate::samples::{CoreSnapshot, HistogramSample, Sample, SampleKind};
use crate::shard::Output;

/// Longest time a histogram tells apart; longer ones count as this.
const NANOS_MAX: u64 = 60_000_000_000;

/// Plain integers, one core's.
#[derive(Debug)]
pub(super) struct Counters {
    pub answered: u64,
    pub forwarded: u64,
    pub mesh_messages: u64,
    pub opened: u64,
    pub closed: [u64; CloseCause::ALL.len()],
    pub handed_over: u64,
    pub adopted: u64,
    pub accept_failures: u64,
    pub malformed: u64,
    pub truncated: u64,
    pub refused: u64,
    pub receive_restarts: u64,
    pub receive_cancels: u64,
    pub stalls_output: u64,
    pub stalls_inflight: u64,
    pub stalls_credit: u64,
    pub stalls_budget: u64,
    pub news: u64,
    pub turns: u64,
    pub parks: u64,
    pub spinning_nanos: u64,
    pub background_ticks: u64,
    pub state_loaded_bytes: u64,
    pub state_loaded_items: u64,
    pub state_expired_items: u64,
    pub state_refused_items: u64,
    pub silent_complaints: u64,
    pub last_complaint: Option<Reading>,
    request_time: Histogram<u64>,
    turn_time: Histogram<u64>,
    hop_time: Histogram<u64>,
}

impl Counters {
    pub(super) fn new() -> Self {
        let histogram =
            || Histogram::new_with_bounds(1, NANOS_MAX, 2).expect("1 ns to 60 s with two digits is in range");
        Self {
            answered: 0,
            forwarded: 0,
            mesh_messages: 0,
            opened: 0,
            closed: [0; CloseCause::ALL.len()],
            handed_over: 0,
            adopted: 0,
            accept_failures: 0,
            malformed: 0,
            truncated: 0,
            refused: 0,
            receive_restarts: 0,
            receive_cancels: 0,
            stalls_output: 0,
            stalls_inflight: 0,
            stalls_credit: 0,
            stalls_budget: 0,
            news: 0,
            turns: 0,
            parks: 0,
            spinning_nanos: 0,
            background_ticks: 0,
            state_loaded_bytes: 0,
            state_loaded_items: 0,
            state_expired_items: 0,
            state_refused_items: 0,
            silent_complaints: 0,
            last_complaint: None,
            request_time: histogram(),
            turn_time: histogram(),
            hop_time: histogram(),
        }
    }

    /// A turn that began at `began` has ended. A request's time is its turn's: it came in with it and left with it.
    pub(super) fn turn(&mut self, began: Reading, answered_before: u64) {
        self.turns += 1;
        let answered = self.answered - answered_before;
        if answered > 0 {
            let nanos = Reading::now().nanos_since(began).clamp(1, NANOS_MAX);
            self.turn_time.saturating_record(nanos);
            self.request_time.saturating_record_n(nanos, answered);
        }
    }

    /// `entries` replies have come back from another core `nanos` after their requests left.
    pub(super) fn hops(&mut self, nanos: u64, entries: u64) {
        self.hop_time.saturating_record_n(nanos.clamp(1, NANOS_MAX), entries);
    }
}

impl Core {
    /// Everything this core tells about itself.
    pub(super) fn snapshot(&self) -> CoreSnapshot {
        let mut samples = Vec::new();
        self.samples(&mut samples);
        self.shard.samples(&mut samples);
        let histogram =
            |name, help, histogram: &Histogram<u64>| HistogramSample { name, help, histogram: histogram.clone() };
        let counters = &self.counters;
        CoreSnapshot {
            core: self.options.core,
            cpu: self.options.cpu,
            requests: self.shard.requests(),
            samples,
            histograms: vec![
                histogram(
                    "request_duration_seconds",
                    "Time from a request's receipt by its executing core to its reply's submission to the kernel.",
                    &counters.request_time,
                ),
                histogram("turn_duration_seconds", "Time of a turn that answered requests.", &counters.turn_time),
                histogram(
                    "mesh_hop_duration_seconds",
                    "Time from handing a request to another core to having its reply.",
                    &counters.hop_time,
                ),
            ],
        }
    }

    fn samples(&self, out: &mut Vec<Sample>) {
        let counters = &self.counters;
        let mut counter = |name, help, label, value| {
            out.push(Sample { name, help, kind: SampleKind::Counter, label, value });
        };
        counter(
            "requests_forwarded_total",
            "Requests handed to the core that owns their key.",
            None,
            counters.forwarded,
        );
        counter("mesh_messages_total", "Messages taken from other cores' queues.", None, counters.mesh_messages);
        counter("connections_opened_total", "Connections accepted or adopted.", None, counters.opened);
        for cause in CloseCause::ALL {
            let count = counters.closed[cause as usize];
            counter("connections_closed_total", "Connections closed.", Some(("cause", cause.name())), count);
        }
        counter(
            "connections_handed_over_total",
            "Connections given to the core they asked for.",
            None,
            counters.handed_over,
        );
        counter(
            "connections_adopted_total",
            "Connections taken over from the core that accepted them.",
            None,
            counters.adopted,
        );
        counter("accept_failures_total", "Connections the kernel could not accept.", None, counters.accept_failures);
        counter(
            "frames_malformed_total",
            "Streams closed because they were not this protocol.",
            None,
            counters.malformed,
        );
        counter("frames_truncated_total", "Streams that ended within a frame.", None, counters.truncated);
        counter("frames_refused_total", "Frames refused from their header and passed over.", None, counters.refused);
        counter(
            "receive_restarts_total",
            "Receives armed again after the kernel ended them.",
            None,
            counters.receive_restarts,
        );
        counter(
            "receive_cancels_total",
            "Receives cancelled because their connection was stalled.",
            None,
            counters.receive_cancels,
        );
        for (reason, count) in [
            ("output", counters.stalls_output),
            ("inflight", counters.stalls_inflight),
            ("credit", counters.stalls_credit),
            ("budget", counters.stalls_budget),
        ] {
            counter(
                "connection_stalls_total",
                "Times a connection was left unread at a limit.",
                Some(("reason", reason)),
                count,
            );
        }
        counter("topology_news_total", "Times a connection was told of a new topology.", None, counters.news);
        counter("turns_total", "Turns taken.", None, counters.turns);
        counter("parks_total", "Times the core slept.", None, counters.parks);
        counter(
            "spinning_nanoseconds_total",
            "Time that the core was awake and found nothing to do.",
            None,
            counters.spinning_nanos,
        );
        counter(
            "background_ticks_total",
            "Times a core slept until it had to look for background work.",
            None,
            counters.background_ticks,
        );
        counter(
            "state_loaded_bytes_total",
            "Bytes of the saved state that this core has read at the start.",
            None,
            counters.state_loaded_bytes,
        );
        for (fate, items) in [
            ("loaded", counters.state_loaded_items),
            ("expired", counters.state_expired_items),
            ("no_room", counters.state_refused_items),
        ] {
            let help = "Items of the saved state by what became of them at the start.";
            counter("state_items_total", help, Some(("fate", fate)), items);
        }
        let peers = &self.peers.counters;
        counter("peer_links_made_total", "Links to other nodes' cores that were made.", None, peers.made);
        counter("peer_links_accepted_total", "Links that other nodes' cores made to this one.", None, peers.accepted);
        counter(
            "peer_links_failed_total",
            "Links to other nodes that broke, or could not be made.",
            None,
            peers.failed,
        );
        counter("peer_links_refused_total", "Links refused by their hello.", None, peers.refused);
        counter("peer_garbage_total", "Links closed because of frames that don't hold together.", None, peers.garbage);
        counter("peer_frames_sent_total", "Frames put on links to other nodes.", None, peers.sent);
        counter("peer_frames_received_total", "Frames taken from other nodes.", None, peers.received);
        for (reason, count) in
            [("down", peers.dropped_down), ("full", peers.dropped_full), ("control_behind", peers.dropped_events)]
        {
            let help = "Frames to or from other nodes that were not passed on: they are repeated.";
            counter("peer_frames_dropped_total", help, Some(("reason", reason)), count);
        }
        for (fate, count) in [("committed", self.held.counters.committed), ("abandoned", self.held.counters.abandoned)]
        {
            let help = "Replies that have waited for a commit, by what became of it.";
            counter("replies_released_total", help, Some(("fate", fate)), count);
        }
        let waiting = &self.waiting.counters;
        for (fate, count) in [("served", waiting.served), ("expired", waiting.expired)] {
            let help =
                "Requests that have waited for their vnode to be between two primaries no more, by how that ended.";
            counter("requests_waited_total", help, Some(("fate", fate)), count);
        }
        let mut gauge = |name, help, value: usize| {
            out.push(Sample { name, help, kind: SampleKind::Gauge, label: None, value: value as u64 });
        };
        gauge("peer_links", "Links to other nodes' cores that stand.", self.peers.up());
        gauge("connections", "Open connections.", self.connections.len());
        gauge(
            "buffer_bytes",
            "Bytes of connections' buffers, with what is promised to frames that are to arrive.",
            self.budget.held_bytes(),
        );
        gauge(
            "mesh_bytes",
            "Bytes of requests and replies between cores, on their sender's account, with buffers kept for reuse.",
            self.mesh.bytes(),
        );
        gauge("spare_buffer_bytes", "Bytes of connections' buffers kept for reuse.", self.spare.bytes());
        gauge("buffer_bytes_max", "Bytes that all these buffers may have.", self.budget.bytes_max());
        gauge(
            "receive_buffers_withheld",
            "Receive buffers kept from the kernel, since there is no room for what it would put into them.",
            self.held_buffers.len(),
        );
        gauge("mesh_inflight", "Requests unanswered at other cores.", self.mesh.inflight());
        gauge("replies_held", "Replies kept back until what they rest on is committed.", self.held.len());
        gauge("replies_held_bytes", "Bytes of such replies, with buffers kept for reuse.", self.held.bytes());
        gauge("requests_waiting", "Requests that wait for their vnode.", self.waiting.len());
        gauge("requests_waiting_bytes", "Bytes of such requests.", self.waiting.bytes());
        gauge("gathers", "Requests that span cores and wait for a part.", self.gathers.len());
    }

    /// Appends this core's part of a stats reply.
    pub(super) fn reply_own_stats(&mut self, id: u32, output: &mut Output) {
        let snapshot = self.snapshot();
        let label = |name: &str, key: &str, value: &str| format!("{name}{{{key}=\"{value}\"}}");
        let requests = snapshot.requests.iter().map(|(operation, status, count)| {
            let name = format!("requests_total{{operation=\"{}\",status=\"{}\"}}", operation.name(), status.name());
            (name, *count)
        });
        let samples = snapshot.samples.iter().map(|sample| {
            let name = sample.label.map_or(sample.name.to_owned(), |(key, value)| label(sample.name, key, value));
            (name, sample.value)
        });
        let core = CoreStats { core: self.options.core, values: requests.chain(samples).collect() };
        let body = Stats { cores: vec![core], ..Stats::default() }.to_bytes();
        output.reply(&Reply { value: &body, ..Reply::status(id, Status::Ok) });
    }

    /// The node's stats, put together from its cores'.
    pub(super) fn node_stats(&self, mut cores: Vec<CoreStats>) -> Stats {
        cores.sort_by_key(|core| core.core);
        Stats {
            server_version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.options.node_id,
            uptime_ms: self.now.nanos_since(self.options.started) / 1_000_000,
            cores,
        }
    }
}
