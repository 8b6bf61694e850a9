//! Which core of its node keeps each copy.
//!
//! The cores of a node differ by at most one primary, and by at most one copy. A copy stays on its core as far as that
//! allows; primaries are seated first, and among them those that were primaries before.

use std::cmp::Reverse;

use super::{Cluster, Held, Holding};

/// The seats of each vnode, the primary's first.
pub(super) fn seat(
    cluster: &Cluster,
    before: &[Holding],
    primaries: &[usize],
    replicas: &[Vec<usize>],
) -> Vec<Vec<Held>> {
    let mut of_members: Vec<[Vec<Wish>; 2]> = cluster.members.iter().map(|_| Default::default()).collect();
    for (vnode, (&primary, replicas)) in primaries.iter().zip(replicas).enumerate() {
        let wish = |member| Wish { vnode, core: before[vnode].on(member).map(|held| held.core), stays: true };
        let stays = before[vnode].primary.is_some_and(|held| held.member == primary);
        of_members[primary][0].push(Wish { stays, ..wish(primary) });
        replicas.iter().for_each(|&member| of_members[member][1].push(wish(member)));
    }
    let mut seats: Vec<Vec<Held>> = replicas.iter().map(|replicas| Vec::with_capacity(1 + replicas.len())).collect();
    for role in [0, 1] {
        for (member, wishes) in of_members.iter().enumerate() {
            let [leading, following] = wishes;
            let cores = cluster.members[member].cores;
            // The cores of the primaries do not depend on the replicas, so both rounds find the same.
            let chosen = place(leading, &shares(leading.len(), cores, |core| wished(leading, core)));
            if role == 0 {
                leading.iter().zip(&chosen).for_each(|(wish, &core)| seats[wish.vnode].push(Held { member, core }));
                continue;
            }
            let mut taken = vec![0; cores];
            chosen.iter().for_each(|&core| taken[core] += 1);
            let claim = |core: usize| [taken[core], taken[core] + wished(following, core)[1]];
            let shares = shares(leading.len() + following.len(), cores, claim);
            let rooms: Vec<usize> = shares.iter().zip(&taken).map(|(share, taken)| share - taken).collect();
            let chosen = place(following, &rooms);
            following.iter().zip(&chosen).for_each(|(wish, &core)| seats[wish.vnode].push(Held { member, core }));
        }
    }
    seats
}

/// A vnode of a node, and on which of its cores it lies, if it does.
struct Wish {
    vnode: usize,
    core: Option<usize>,
    /// In the role it had before; a replica that becomes the primary gives way to those that were primaries.
    stays: bool,
}

/// How many want to be on a core: those that stay, and all.
fn wished(wishes: &[Wish], core: usize) -> [usize; 2] {
    let here = || wishes.iter().filter(|wish| wish.core == Some(core));
    [here().filter(|wish| wish.stays).count(), here().count()]
}

/// Divides `total` over cores, which differ by at most one; the odd ones go to the cores that would otherwise have to give
/// up something that they must keep, then to those that would have to give up anything.
fn shares(total: usize, cores: usize, claim: impl Fn(usize) -> [usize; 2]) -> Vec<usize> {
    let even = total / cores;
    let mut order: Vec<usize> = (0..cores).collect();
    order.sort_by_cached_key(|&core| {
        let claim = claim(core);
        (claim.map(|claim| Reverse(claim > even)), Reverse(claim[0]))
    });
    let mut shares = vec![even; cores];
    order.iter().take(total % cores).for_each(|&core| shares[core] += 1);
    shares
}

/// The core of each wish: its own while there is room, and for the others in turn the one that has got the fewest, so that
/// neighbouring vnodes of a new cluster lie on different cores.
fn place(wishes: &[Wish], rooms: &[usize]) -> Vec<usize> {
    let mut seated = vec![0; rooms.len()];
    let mut chosen: Vec<Option<usize>> = vec![None; wishes.len()];
    for stays in [true, false] {
        for (wish, chosen) in wishes.iter().zip(&mut chosen).filter(|(wish, _)| wish.stays == stays) {
            *chosen = wish.core.filter(|&core| seated[core] < rooms[core]);
            chosen.iter().for_each(|&core| seated[core] += 1);
        }
    }
    let place = |chosen: Option<usize>| {
        chosen.unwrap_or_else(|| {
            let free = (0..rooms.len()).filter(|&core| seated[core] < rooms[core]);
            let core = free.min_by_key(|&core| seated[core]).expect("the rooms add up to the wishes");
            seated[core] += 1;
            core
        })
    };
    chosen.into_iter().map(place).collect()
}
