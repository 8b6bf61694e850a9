//! What a run through the native client adds: what the client met with, and times without success.

use serde::Serialize;

use crate::clock::unix_ms;
use crate::engine::{ClientFacts, Tally};

/// What a run through the native client adds. Field names are the JSON's.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct ClientReport {
    /// Clients, one for each generator thread.
    pub(crate) clients: u64,
    /// Writes that were acknowledged.
    pub(crate) acknowledged: u64,
    /// Requests sent again because their connection ended first.
    pub(crate) repeats: u64,
    /// Answers `moved`.
    pub(crate) redirects: u64,
    /// Refusals after which a request was tried again.
    pub(crate) refusals: u64,
    /// Connections that ended, or could not be made.
    pub(crate) losses: u64,
    /// Topologies taken, the first among them.
    pub(crate) topologies: u64,
    /// Longest time in which no request succeeded though there were some.
    pub(crate) gap_ms: f64,
    /// The same for the requests of one vnode; of all vnodes the longest.
    pub(crate) vnode_gap_ms: f64,
    /// When that ended: milliseconds since 1970.
    pub(crate) vnode_gap_ended_unix_ms: u64,
    /// The same for the writes of one vnode.
    pub(crate) vnode_write_gap_ms: f64,
    /// When that ended.
    pub(crate) vnode_write_gap_ended_unix_ms: u64,
    /// Vnodes in which no request succeeded for over 100 ms.
    pub(crate) vnodes_over_100_ms: u64,
    /// With `--verify`: writes in doubt that were seen later, or hid what was written after them.
    pub(crate) excused: u64,
    /// With `--verify`: keys and counters that were looked at once more at the end.
    pub(crate) looked_at: u64,
    /// The first errors, in words.
    pub(crate) errors_told: Vec<String>,
}

impl ClientReport {
    /// The report of facts and of how requests ended.
    pub(crate) fn of(facts: ClientFacts, tally: &Tally) -> Self {
        let ms = |ns: u64| ns as f64 / 1e6;
        let (counters, gaps) = (facts.counters, facts.gaps);
        Self {
            clients: facts.clients,
            acknowledged: tally.stored + tally.deleted + tally.counted,
            repeats: counters.repeats,
            redirects: counters.redirects,
            refusals: counters.refusals,
            losses: counters.losses,
            topologies: counters.topologies,
            gap_ms: ms(gaps.all.ns),
            vnode_gap_ms: ms(gaps.vnode.ns),
            vnode_gap_ended_unix_ms: unix_ms(gaps.vnode.ended_ns),
            vnode_write_gap_ms: ms(gaps.vnode_write.ns),
            vnode_write_gap_ended_unix_ms: unix_ms(gaps.vnode_write.ended_ns),
            vnodes_over_100_ms: gaps.notable,
            excused: 0,
            looked_at: 0,
            errors_told: facts.errors_told,
        }
    }

    pub(super) fn to_text(&self) -> String {
        let mut text = format!(
            "client    {} writes acknowledged; {} repeats, {} redirects, {} refusals tried again, {} connections lost, {} topologies\n\
             gaps      no success for {:.0} ms at most; of one vnode for {:.0} ms, of its writes for {:.0} ms; {} vnodes over 100 ms",
            self.acknowledged,
            self.repeats,
            self.redirects,
            self.refusals,
            self.losses,
            self.topologies,
            self.gap_ms,
            self.vnode_gap_ms,
            self.vnode_write_gap_ms,
            self.vnodes_over_100_ms,
        );
        if self.looked_at > 0 {
            text += &format!(
                "\nverified  {} keys and counters read at the end; {} writes in doubt excused",
                self.looked_at, self.excused
            );
        }
        text
    }
}
