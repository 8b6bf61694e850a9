//! Which nodes keep the replicas of each vnode.
//!
//! First, every copy stays that may. Then every free place goes to the node with the fewest copies for its weight. At last
//! replicas move on from nodes with more to nodes with less, while that makes them more even: one replica where one suffices,
//! otherwise a shortest chain of them. When no chain is left, the squares of the copies, each divided by its node's weight,
//! add up to the least possible (the augmenting paths of a convex flow; Ahuja, Magnanti and Orlin, *Network Flows*, 1993,
//! chapter 14), up to the rule for zones, which can forbid a chain that uses a vnode twice. Each move lowers that sum, so
//! it ends.

use std::cmp::Reverse;
use std::collections::VecDeque;

use super::{Cluster, Holding};

/// The members that are to keep the replicas, for each vnode.
pub(super) fn choose(cluster: &Cluster, before: &[Holding], primaries: &[usize]) -> Vec<Vec<usize>> {
    let mut copies = vec![0; cluster.members.len()];
    primaries.iter().for_each(|&primary| copies[primary] += 1);
    let replicas = vec![Vec::with_capacity(cluster.copies - 1); cluster.vnodes];
    let kept = vec![Vec::new(); cluster.members.len()];
    let mut choice = Choice { cluster, before, primaries, replicas, kept, copies };
    choice.keep_what_may_stay();
    choice.fill();
    while choice.move_one_on() {}
    choice.replicas
}

/// A replica of `vnode` moves on to a member, from the one before it in the chain.
#[derive(Clone, Copy)]
struct Step {
    vnode: usize,
    from: usize,
}

struct Choice<'a> {
    cluster: &'a Cluster,
    before: &'a [Holding],
    primaries: &'a [usize],
    /// The replicas of each vnode, by member.
    replicas: Vec<Vec<usize>>,
    /// The same, seen from the members: their vnodes.
    kept: Vec<Vec<usize>>,
    /// All copies of each member.
    copies: Vec<usize>,
}

impl Choice<'_> {
    fn keep_what_may_stay(&mut self) {
        for (vnode, holding) in self.before.iter().enumerate() {
            for held in holding.holders() {
                if !self.is_full(vnode) && self.cluster.may_join(held.member, self.holders(vnode)) {
                    self.add(vnode, held.member);
                }
            }
        }
    }

    fn fill(&mut self) {
        for vnode in 0..self.cluster.vnodes {
            while !self.is_full(vnode) {
                let fits = |&member: &usize| self.cluster.may_join(member, self.holders(vnode));
                let by_load = |left: &usize, right: &usize| {
                    let halves = |member: usize| (member, 2 * self.copies[member] + 1);
                    let ties = self.cluster.spread(vnode, *left).cmp(&self.cluster.spread(vnode, *right));
                    self.cluster.compare_loads(halves(*left), halves(*right)).then(ties)
                };
                let member = self.cluster.takers().filter(fits).min_by(by_load);
                self.add(vnode, member.expect("the zones' limit leaves a place for every copy"));
            }
        }
    }

    /// Moves a replica, or a chain of them, from a member with many to one with few copies. False when nothing would get
    /// more even by it.
    fn move_one_on(&mut self) -> bool {
        let mut sources: Vec<usize> = self.cluster.takers().collect();
        sources.sort_by(|&left, &right| self.compare_taken(right, left));
        let mut targets: Vec<usize> = sources.clone();
        targets.sort_by(|&left, &right| self.compare_added(left, right));
        // From what one source has reached in vain, no other gets any further.
        let mut reached: Vec<Option<Step>> = vec![None; self.cluster.members.len()];
        for source in sources {
            if !self.evens_out(source, targets[0]) {
                return false;
            }
            if let Some(target) = self.reach(source, &targets, &mut reached)
                && self.follow(source, target, &reached)
            {
                return true;
            }
        }
        false
    }

    /// Searches breadth first for a member to which `source` should give.
    fn reach(&self, source: usize, targets: &[usize], reached: &mut [Option<Step>]) -> Option<usize> {
        let mut queue = VecDeque::from([source]);
        while let Some(from) = queue.pop_front() {
            for &target in targets {
                if target == source || reached[target].is_some() {
                    continue;
                }
                let movable = self.kept[from].iter().copied().filter(|&vnode| self.may_move(vnode, from, target));
                // Best what costs nothing, or what is new anyway.
                let cost = |&vnode: &usize| {
                    let is_new = |member| i8::from(self.before[vnode].on(member).is_none());
                    (is_new(target) - is_new(from), self.cluster.spread(vnode, target))
                };
                let Some(vnode) = movable.min_by_key(cost) else { continue };
                reached[target] = Some(Step { vnode, from });
                if self.evens_out(source, target) {
                    return Some(target);
                }
                queue.push_back(target);
            }
        }
        None
    }

    /// Moves the replicas of a chain, the last first. False, and nothing is changed, when it uses a vnode twice in a way that
    /// the zones forbid.
    fn follow(&mut self, source: usize, target: usize, reached: &[Option<Step>]) -> bool {
        let mut done = Vec::new();
        let mut to = target;
        while to != source {
            let Step { vnode, from } = reached[to].expect("a chain leads back to its source");
            if !self.replicas[vnode].contains(&from) || !self.may_move(vnode, from, to) {
                done.into_iter().rev().for_each(|(vnode, from, to)| self.move_replica(vnode, to, from));
                return false;
            }
            self.move_replica(vnode, from, to);
            done.push((vnode, from, to));
            to = from;
        }
        true
    }

    /// Whether copies are more even with one less on `source` and one more on `target`.
    fn evens_out(&self, source: usize, target: usize) -> bool {
        let taken = (source, (2 * self.copies[source]).saturating_sub(1));
        self.cluster.compare_loads((target, 2 * self.copies[target] + 1), taken).is_lt()
    }

    fn compare_taken(&self, left: usize, right: usize) -> std::cmp::Ordering {
        let halves = |member: usize| (member, (2 * self.copies[member]).saturating_sub(1));
        self.cluster.compare_loads(halves(left), halves(right)).then_with(|| self.compare_ids(left, right))
    }

    fn compare_added(&self, left: usize, right: usize) -> std::cmp::Ordering {
        let halves = |member: usize| (member, 2 * self.copies[member] + 1);
        self.cluster.compare_loads(halves(left), halves(right)).then_with(|| self.compare_ids(left, right))
    }

    /// Decides ties in an order that has nothing to do with that of the ids.
    fn compare_ids(&self, left: usize, right: usize) -> std::cmp::Ordering {
        let rank = |member: usize| Reverse((self.cluster.spread(self.cluster.vnodes, member), member));
        rank(left).cmp(&rank(right))
    }

    fn may_move(&self, vnode: usize, from: usize, to: usize) -> bool {
        self.cluster.may_join(to, self.holders(vnode).filter(|&holder| holder != from))
            && !self.replicas[vnode].contains(&to)
    }

    fn holders(&self, vnode: usize) -> impl Iterator<Item = usize> + '_ {
        std::iter::once(self.primaries[vnode]).chain(self.replicas[vnode].iter().copied())
    }

    fn is_full(&self, vnode: usize) -> bool {
        self.replicas[vnode].len() == self.cluster.copies - 1
    }

    fn add(&mut self, vnode: usize, member: usize) {
        self.replicas[vnode].push(member);
        self.kept[member].push(vnode);
        self.copies[member] += 1;
    }

    fn move_replica(&mut self, vnode: usize, from: usize, to: usize) {
        let place = self.replicas[vnode].iter().position(|&member| member == from).expect("a replica that is there");
        self.replicas[vnode].swap_remove(place);
        let place = self.kept[from].iter().position(|&kept| kept == vnode).expect("a replica is known to its member");
        self.kept[from].swap_remove(place);
        self.copies[from] -= 1;
        self.add(vnode, to);
    }
}
