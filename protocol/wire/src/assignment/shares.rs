//! How many primaries each node gets: Webster's method (Sainte-Laguë; Balinski and Young, *Fair Representation*, 1982).
//!
//! One vnode after the other goes to the node with the smallest `(2 · vnodes + 1) / weight`. For the outcome `x` and any
//! two nodes, `x[i] / w[i] − x[j] / w[j] ≤ 1/2 · (1 / w[i] + 1 / w[j])`, which is at most one vnode per unit of weight;
//! and only Webster's outcomes keep that bound. One that comes takes from others and gives to none. (Largest remainders, the
//! better-known method, would keep `x` within one of the exact share, but then a newcomer can make one node of the others
//! gain from another.) Ties, common as equal nodes are, go first to nodes that would lose a vnode otherwise, so of all
//! outcomes that keep the bound this one moves the fewest.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use super::Cluster;

/// The primaries of each member, who has `held` now.
pub(super) fn of_primaries(cluster: &Cluster, held: &[usize]) -> Vec<usize> {
    let mut shares = vec![0; cluster.members.len()];
    let bid = |member: usize, vnodes: usize| {
        let rank = (Reverse(held[member] > vnodes), cluster.spread(vnodes, member));
        Reverse(Bid { cluster, member, vnodes, rank })
    };
    let mut bids: BinaryHeap<_> = cluster.takers().map(|member| bid(member, 0)).collect();
    for _ in 0..cluster.vnodes {
        let Reverse(Bid { member, vnodes, .. }) = bids.pop().expect("somebody takes");
        shares[member] = vnodes + 1;
        bids.push(bid(member, vnodes + 1));
    }
    shares
}

/// A member that has `vnodes` bids for one more. The smallest bid wins.
struct Bid<'a> {
    cluster: &'a Cluster,
    member: usize,
    vnodes: usize,
    /// Decides ties.
    rank: (Reverse<bool>, u64),
}

impl Ord for Bid<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let halves = |bid: &Self| (bid.member, 2 * bid.vnodes + 1);
        let by_load = self.cluster.compare_loads(halves(self), halves(other));
        by_load.then_with(|| (self.rank, self.member).cmp(&(other.rank, other.member)))
    }
}

impl PartialOrd for Bid<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Bid<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Bid<'_> {}
