//! Which node is the primary of each vnode.
//!
//! A primary stays where it is unless its node is gone, or has more than its share. What has to go is fixed in number, so
//! no vnode moves that need not. Of what goes, as much as there is room for goes to nodes that hold a copy already: there a
//! change of primary costs no data. The rest goes where there is most room.

use super::{Cluster, Holding, shares};

/// The member that is to be the primary, for each vnode.
pub(super) fn choose(cluster: &Cluster, before: &[Holding]) -> Vec<usize> {
    let mut held = vec![0; cluster.members.len()];
    before.iter().filter_map(|holding| holding.primary).for_each(|primary| held[primary.member] += 1);
    let shares = shares::of_primaries(cluster, &held);
    let rooms = shares.iter().zip(&held).map(|(share, held)| share.saturating_sub(*held)).collect();
    let targets = before.iter().map(|holding| holding.primary.map(|primary| primary.member)).collect();
    let mut choice = Choice { cluster, before, rooms, targets, homeless: Vec::new() };

    // Those without a primary first: to them, a holder is worth most.
    for vnode in (0..cluster.vnodes).filter(|&vnode| before[vnode].primary.is_none()) {
        choice.send_to_holder(vnode);
    }
    let mut of_members: Vec<Vec<usize>> = vec![Vec::new(); cluster.members.len()];
    for (vnode, holding) in before.iter().enumerate() {
        holding.primary.iter().for_each(|primary| of_members[primary.member].push(vnode));
    }
    for (member, vnodes) in of_members.into_iter().enumerate() {
        choice.give(member, vnodes, held[member].saturating_sub(shares[member]));
    }
    choice.house_the_rest();
    choice.targets.into_iter().map(|target| target.expect("the rooms add up to the vnodes")).collect()
}

struct Choice<'a> {
    cluster: &'a Cluster,
    before: &'a [Holding],
    /// Primaries that each member still takes.
    rooms: Vec<usize>,
    targets: Vec<Option<usize>>,
    /// Vnodes for which no holder had room.
    homeless: Vec<usize>,
}

impl Choice<'_> {
    /// Gives `leaving` of a member's vnodes away, each from the core that has most of them then, so that little has to move
    /// between those that stay.
    fn give(&mut self, member: usize, vnodes: Vec<usize>, leaving: usize) {
        if leaving == 0 {
            return;
        }
        let mut cores = vec![Vec::new(); self.cluster.members[member].cores];
        vnodes.iter().for_each(|&vnode| {
            cores[self.before[vnode].primary.expect("the member's own").core].push(vnode);
        });
        cores.iter_mut().for_each(|vnodes| vnodes.sort_by_key(|&vnode| self.cluster.spread(vnode, member)));
        for _ in 0..leaving {
            let core = cores.iter_mut().rev().max_by_key(|vnodes| vnodes.len()).expect("a member has a core");
            let cheapest = core.iter().position(|&vnode| self.holder_with_room(vnode).is_some());
            let cheap = || core.iter().position(|&vnode| self.suits_somebody(vnode));
            let vnode = core.remove(cheapest.or_else(cheap).unwrap_or(0));
            self.targets[vnode] = None;
            self.send_to_holder(vnode);
        }
    }

    fn send_to_holder(&mut self, vnode: usize) {
        match self.holder_with_room(vnode) {
            Some(member) => self.send(vnode, member),
            None => self.homeless.push(vnode),
        }
    }

    fn holder_with_room(&self, vnode: usize) -> Option<usize> {
        let holders = self.before[vnode].replicas.iter().map(|held| held.member);
        holders.filter(|&member| self.rooms[member] > 0).max_by_key(|&member| self.rooms[member])
    }

    /// Whether a member with room could lead the vnode without one of its replicas having to go.
    fn suits_somebody(&self, vnode: usize) -> bool {
        let mut takers = self.cluster.takers().filter(|&member| self.rooms[member] > 0);
        takers.any(|member| self.suits(vnode, member))
    }

    fn suits(&self, vnode: usize, member: usize) -> bool {
        self.cluster.may_join(member, self.before[vnode].replicas.iter().map(|held| held.member))
    }

    /// Sends what is left where there is most room; if it can be, where no replica has to go because of it.
    fn house_the_rest(&mut self) {
        for vnode in std::mem::take(&mut self.homeless) {
            let rank =
                |&member: &usize| (self.suits(vnode, member), self.rooms[member], self.cluster.spread(vnode, member));
            let takers = self.cluster.takers().filter(|&member| self.rooms[member] > 0);
            let member = takers.max_by_key(rank).expect("the rooms add up to the vnodes");
            self.send(vnode, member);
        }
    }

    fn send(&mut self, vnode: usize, member: usize) {
        self.rooms[member] -= 1;
        self.targets[vnode] = Some(member);
    }
}
