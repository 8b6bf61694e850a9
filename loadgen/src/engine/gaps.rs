//! Times without success: how long requests went on without one that was answered, over all and for each vnode.
//!
//! A gap begins when something is asked for while nothing was, or with the success before; so time in which nobody asks is
//! none. In a failover the longest gap of a vnode is what it cost.

use quoit_wire::topology::{Topology, key_hash, vnode_of};

/// Gaps over this are counted: longer than anything a healthy cluster does.
pub(crate) const NOTABLE_NS: u64 = 100_000_000;

/// The longest time without a success.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gap {
    /// How long.
    pub(crate) ns: u64,
    /// When the success came that ended it, or the run's end.
    pub(crate) ended_ns: u64,
}

impl Gap {
    /// The longer of two.
    pub(crate) fn longer(self, other: Self) -> Self {
        if other.ns > self.ns { other } else { self }
    }
}

/// The gaps of a thread.
#[derive(Debug)]
pub(crate) struct Gaps {
    seed: u64,
    vnode_bits: u8,
    all: Waits,
    /// Of each vnode.
    vnodes: Vec<Waits>,
    /// Of each vnode, its writes alone.
    writes: Vec<Waits>,
}

/// The gaps of a thread, at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LongestGaps {
    /// No request of any vnode succeeded.
    pub(crate) all: Gap,
    /// No request of one vnode did.
    pub(crate) vnode: Gap,
    /// No write of one vnode did.
    pub(crate) vnode_write: Gap,
    /// Vnodes with a gap over [`NOTABLE_NS`].
    pub(crate) notable: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Waits {
    /// Requests without an answer.
    open: u32,
    /// The last success, or the first request since nothing was asked for.
    since_ns: Option<u64>,
    longest: Gap,
}

impl Gaps {
    /// None yet.
    pub(crate) fn new(topology: &Topology) -> Self {
        let none = vec![Waits::default(); topology.vnodes.len()];
        Self {
            seed: topology.seed,
            vnode_bits: topology.vnode_bits,
            all: Waits::default(),
            vnodes: none.clone(),
            writes: none,
        }
    }

    /// Forgets the gaps so far: measuring begins.
    pub(crate) fn reset(&mut self) {
        for waits in self.vnodes.iter_mut().chain(&mut self.writes).chain([&mut self.all]) {
            waits.longest = Gap::default();
        }
    }

    /// The vnode of a key.
    pub(crate) fn vnode(&self, key: &[u8]) -> usize {
        vnode_of(key_hash(self.seed, key), self.vnode_bits)
    }

    /// A request is sent.
    pub(crate) fn asked(&mut self, vnode: usize, is_write: bool, now_ns: u64) {
        self.each(vnode, is_write, |waits| {
            waits.open += 1;
            waits.since_ns.get_or_insert(now_ns);
        });
    }

    /// A request has ended, well or not.
    pub(crate) fn ended(&mut self, vnode: usize, is_write: bool, is_success: bool, now_ns: u64) {
        self.each(vnode, is_write, |waits| {
            waits.open -= 1;
            if is_success {
                waits.end_gap(now_ns);
                waits.since_ns = (waits.open > 0).then_some(now_ns);
            }
        });
    }

    /// The longest; gaps that nothing has ended last until now.
    pub(crate) fn finish(mut self, now_ns: u64) -> LongestGaps {
        let longest = |waits: &mut Waits| {
            waits.end_gap(now_ns);
            waits.longest
        };
        let vnodes: Vec<Gap> = self.vnodes.iter_mut().map(longest).collect();
        LongestGaps {
            all: longest(&mut self.all),
            vnode: vnodes.iter().copied().fold(Gap::default(), Gap::longer),
            vnode_write: self.writes.iter_mut().map(longest).fold(Gap::default(), Gap::longer),
            notable: vnodes.iter().filter(|gap| gap.ns > NOTABLE_NS).count() as u64,
        }
    }

    fn each(&mut self, vnode: usize, is_write: bool, mut change: impl FnMut(&mut Waits)) {
        change(&mut self.all);
        change(&mut self.vnodes[vnode]);
        if is_write {
            change(&mut self.writes[vnode]);
        }
    }
}

impl Waits {
    fn end_gap(&mut self, now_ns: u64) {
        if let Some(since_ns) = self.since_ns {
            self.longest = self.longest.longer(Gap { ns: now_ns.saturating_sub(since_ns), ended_ns: now_ns });
        }
    }
}

#[cfg(test)]
mod tests {
    use quoit_wire::topology::Node;

    use super::*;

    const MS: u64 = 1_000_000;

    fn gaps() -> Gaps {
        let node = Node {
            id: 1,
            incarnation: 1,
            name: String::new(),
            address: "a:1".into(),
            zone: String::new(),
            cores: 1,
            weight: 1,
        };
        Gaps::new(&Topology::standalone(node, 2, 42, 1))
    }

    #[test]
    fn a_gap_lasts_from_a_success_to_the_next_while_somebody_asks() {
        let mut gaps = gaps();
        gaps.asked(0, true, 0);
        gaps.ended(0, true, true, MS);
        // Nobody asks for two seconds: no gap. Then one fails, and one succeeds half a second after it was asked.
        gaps.asked(0, true, 2000 * MS);
        gaps.asked(0, true, 2010 * MS);
        gaps.ended(0, true, false, 2100 * MS);
        gaps.ended(0, true, true, 2500 * MS);
        // Another vnode did well all the time.
        for at in 200..250 {
            gaps.asked(1, false, at * 10 * MS);
            gaps.ended(1, false, true, at * 10 * MS + MS);
        }
        let longest = gaps.finish(9000 * MS);
        assert_eq!(longest.vnode, Gap { ns: 500 * MS, ended_ns: 2500 * MS });
        assert_eq!((longest.vnode_write, longest.notable), (longest.vnode, 1));
        assert!(longest.all.ns <= 500 * MS);
    }

    #[test]
    fn what_never_succeeds_again_is_a_gap_until_the_end() {
        let mut gaps = gaps();
        gaps.asked(3, true, MS);
        gaps.ended(3, true, false, 2 * MS);
        assert_eq!(gaps.finish(1001 * MS).vnode_write.ns, 1000 * MS);
    }
}
