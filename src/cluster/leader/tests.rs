//! The leader's decisions, one by one; whole lives of clusters are in `agent/tests.rs`.

use super::*;
use crate::cluster::ring::{COPIES_MAX, Roles};

const START: Instant = Instant::from_millis(1_000_000);

fn node(id: u64) -> NodeRef {
    NodeRef { id, incarnation: id * 10 }
}

fn seat(id: u64) -> Seat {
    Seat { node: id as u16 - 1, core: 0 }
}

fn registration(node: NodeRef) -> Registration {
    let (name, address, zone) = (format!("node-{}", node.id), format!("node-{}:7400", node.id), String::new());
    Registration { node, name, address, zone, cores: 1, weight: 1, memory_bytes: 0, leaving: false }
}

/// A leader of nodes 1 to `nodes`, one core each, with 8 vnodes and one replica; it has founded the cluster.
fn leader(nodes: u64) -> (Leader, Known) {
    let identity = Identity { cluster_id: 1, seed: 2, vnode_bits: 3 };
    let founding = Founding { cluster: "test".to_owned(), identity, replicas: 1, write_mode: WriteMode::One };
    let mut leader = Leader::new(START, 7, founding);
    let registrations = (1..=nodes).map(|id| (id, registration(node(id)))).collect();
    let mut known = Known { registrations, ..Known::default() };
    leader.handle_known(START, known.clone());
    assert_eq!(leader.poll_write(START), None, "others may come");
    write(&mut leader, &mut known, START + FOUNDING_QUIET);
    (leader, known)
}

/// Lets the leader write once, and shows it the outcome.
fn write(leader: &mut Leader, known: &mut Known, now: Instant) -> Arc<Ring> {
    let ring = Arc::new(leader.poll_write(now).expect("something to write"));
    assert_eq!(ring.check(), Ok(()));
    known.ring = Some(ring.clone());
    leader.handle_known(now, known.clone());
    leader.handle_write_done(now);
    ring
}

/// Once the gap between two writes is over.
fn later(steps: u64) -> Instant {
    START + FOUNDING_QUIET + Duration::from_millis(steps * 100)
}

/// All orders that are due.
fn orders(leader: &mut Leader, now: Instant) -> Vec<(Seat, Order)> {
    leader.poll_orders(now).into_iter().flat_map(|(_, orders)| orders).collect()
}

/// A vnode that `primary` leads.
fn led_by(ring: &Ring, primary: Seat) -> (u32, Roles) {
    let (vnode, roles) =
        ring.vnodes.iter().enumerate().find(|(_, roles)| roles.primary == primary).expect("it leads some");
    (vnode as u32, *roles)
}

fn in_sync(seats: &[Seat]) -> [Seat; COPIES_MAX] {
    let mut set = [Seat::NOWHERE; COPIES_MAX];
    set.iter_mut().zip(seats).for_each(|(place, seat)| *place = *seat);
    set
}

fn lose(leader: &mut Leader, known: &mut Known, id: u64, now: Instant) {
    known.registrations.remove(&id);
    leader.handle_known(now, known.clone());
}

#[test]
fn a_failover_waits_until_every_live_member_has_reported_and_the_highest_leads() {
    let (mut leader, mut known) = leader(4);
    let mut ring = (**known.ring.as_ref().expect("a ring")).clone();
    let (vnode, mut roles) = led_by(&ring, seat(1));
    let copies: Vec<Seat> = [2, 3, 4].map(seat).to_vec();
    copies.iter().for_each(|&copy| assert!(roles.put(copy, CopyState::InSync)));
    ring.vnodes[vnode as usize] = roles;
    known.ring = Some(Arc::new(ring));
    leader.handle_known(later(1), known.clone());
    lose(&mut leader, &mut known, 1, later(2));

    let term = roles.term + 1;
    let sealed: Vec<Seat> = orders(&mut leader, later(2))
        .into_iter()
        .filter(|(_, order)| *order == Order::Seal { vnode, term })
        .map(|(seat, _)| seat)
        .collect();
    assert_eq!(sealed, copies, "everybody in sync is sealed");
    let report = |sequence| Report::Sealed { vnode, term, applied: Version::new(1, sequence) };
    leader.handle_report(node(2), seat(2), report(5));
    leader.handle_report(node(3), seat(3), report(9));
    leader.handle_report(node(3), seat(4), report(99));
    let roles_now = |known: &Known| known.ring.as_ref().expect("a ring").vnodes[vnode as usize];
    if let Some(ring) = leader.poll_write(later(3)) {
        assert_eq!(ring.vnodes[vnode as usize].term, roles.term, "node 4 has not reported: 3 can't speak for it");
        known.ring = Some(Arc::new(ring));
        leader.handle_known(later(3), known.clone());
        leader.handle_write_done(later(3));
    }
    // The last one does not answer but lose its lease.
    lose(&mut leader, &mut known, 4, later(4));
    write(&mut leader, &mut known, later(5));
    assert_eq!((roles_now(&known).term, roles_now(&known).primary), (term, seat(3)));
    assert!(roles_now(&known).in_sync().eq([seat(2)]), "4 was not sealed and is dropped");
}

#[test]
fn a_seal_of_an_earlier_leader_is_carried_on() {
    let (mut leader, mut known) = leader(3);
    let (vnode, roles) = led_by(known.ring.as_ref().expect("a ring"), seat(1));
    let copy = roles.in_sync().next().expect("a replica");
    let term = roles.term + 1;
    let sealed = |sequence| Report::Sealed { vnode, term, applied: Version::new(1, sequence) };
    leader.handle_report(node(u64::from(copy.node) + 1), copy, sealed(3));
    assert!(
        orders(&mut leader, later(1)).contains(&(roles.primary, Order::Seal { vnode, term })),
        "the primary as well"
    );
    assert_eq!(leader.poll_write(later(1)), None);
    leader.handle_report(node(1), seat(1), sealed(4));
    let ring = write(&mut leader, &mut known, later(2));
    assert_eq!((ring.vnodes[vnode as usize].term, ring.vnodes[vnode as usize].primary), (term, seat(1)));
}

#[test]
fn only_the_primary_of_the_term_changes_the_set_and_an_old_proposal_changes_nothing() {
    let (mut leader, mut known) = leader(3);
    let (vnode, roles) = led_by(known.ring.as_ref().expect("a ring"), seat(1));
    let copy = roles.in_sync().next().expect("a replica");
    let epoch = known.ring.as_ref().expect("a ring").epoch;
    let propose =
        |epoch, term, number, seats: &[Seat]| Report::InSync { vnode, term, number, epoch, in_sync: in_sync(seats) };
    leader.handle_report(node(u64::from(copy.node) + 1), copy, propose(epoch, roles.term, 1, &[]));
    leader.handle_report(node(1), seat(1), propose(epoch, roles.term + 1, 1, &[]));
    leader.handle_report(node(2), seat(1), propose(epoch, roles.term, 1, &[]));
    assert_eq!(leader.poll_write(later(1)), None);

    leader.handle_report(node(1), seat(1), propose(epoch, roles.term, 1, &[]));
    let ring = write(&mut leader, &mut known, later(2));
    assert_eq!(ring.vnodes[vnode as usize].state(copy), Some(CopyState::CatchingUp));
    let settled = |number| (seat(1), Order::Settled { vnode, term: roles.term, number, epoch: ring.epoch });
    assert!(orders(&mut leader, later(2)).contains(&settled(1)));

    leader.handle_report(node(1), seat(1), propose(ring.epoch, roles.term, 2, &[copy]));
    let ring = write(&mut leader, &mut known, later(3));
    assert_eq!(ring.vnodes[vnode as usize].state(copy), Some(CopyState::InSync));
    // The first one once more, from a slow wire.
    leader.handle_report(node(1), seat(1), propose(epoch, roles.term, 1, &[]));
    assert_eq!(leader.poll_write(later(4)), None);
}

#[test]
fn a_proposal_made_under_older_roles_is_refused_and_its_primary_told_by_which_ring_to_go() {
    let (mut leader, mut known) = leader(3);
    let (vnode, roles) = led_by(known.ring.as_ref().expect("a ring"), seat(1));
    let copy = roles.in_sync().next().expect("a replica");
    let propose = |epoch, number| {
        let in_sync = in_sync(&[copy]);
        Report::InSync { vnode, term: roles.term, number, epoch, in_sync }
    };
    // The copy is let go and taken again: it is empty, and has only begun to catch up. The primary knows of neither.
    let mut ring = (**known.ring.as_ref().expect("a ring")).clone();
    let before = ring.epoch;
    for put in [None, Some(CopyState::CatchingUp)] {
        ring.vnodes[vnode as usize].remove(copy);
        put.into_iter().for_each(|state| assert!(ring.vnodes[vnode as usize].put(copy, state)));
        ring.epoch += 1;
        known.ring = Some(Arc::new(ring.clone()));
        leader.handle_known(later(1), known.clone());
    }
    leader.handle_report(node(1), seat(1), propose(before, 1));
    assert_eq!(leader.poll_write(later(2)), None, "it would count, and have nothing");
    let refused = Order::Settled { vnode, term: roles.term, number: 1, epoch: ring.epoch };
    assert!(orders(&mut leader, later(2)).contains(&(seat(1), refused)));
    // Under the ring that let it go it may be proposed as little.
    leader.handle_report(node(1), seat(1), propose(ring.epoch - 1, 2));
    assert_eq!(leader.poll_write(later(3)), None);
    leader.handle_report(node(1), seat(1), propose(ring.epoch, 3));
    let ring = write(&mut leader, &mut known, later(4));
    assert_eq!(ring.vnodes[vnode as usize].state(copy), Some(CopyState::InSync));
}

#[test]
fn a_sealed_vnode_takes_no_proposal() {
    let (mut leader, mut known) = leader(3);
    let (vnode, roles) = led_by(known.ring.as_ref().expect("a ring"), seat(1));
    lose(&mut leader, &mut known, 1, later(1));
    let epoch = known.ring.as_ref().expect("a ring").epoch;
    let proposal = Report::InSync { vnode, term: roles.term, number: 1, epoch, in_sync: in_sync(&[]) };
    leader.handle_report(node(1), seat(1), proposal);
    let next = leader.poll_write(later(2));
    assert!(next.is_none_or(|ring| ring.vnodes[vnode as usize].in_sync().eq(roles.in_sync())));
}

#[test]
fn a_vnode_nobody_has_starts_empty_after_ten_seconds_under_a_new_term() {
    let (mut leader, mut known) = leader(3);
    let (vnode, roles) = led_by(known.ring.as_ref().expect("a ring"), seat(1));
    let copy = roles.in_sync().next().expect("a replica");
    lose(&mut leader, &mut known, 1, later(1));
    lose(&mut leader, &mut known, u64::from(copy.node) + 1, later(1));
    while let Some(ring) = leader.poll_write(later(1)) {
        assert_eq!(ring.vnodes[vnode as usize].term, roles.term);
        known.ring = Some(Arc::new(ring));
        leader.handle_known(later(1), known.clone());
        leader.handle_write_done(later(0));
    }
    let over = leader.poll_timeout(later(1)).expect("it waits for something");
    assert!(over <= later(1) + LOST_WAIT);
    let before = leader.poll_write(later(99));
    assert!(before.is_none_or(|ring| ring.vnodes[vnode as usize].term == roles.term));
    leader.handle_write_done(later(99));
    let ring = write(&mut leader, &mut known, later(101));
    assert_eq!(ring.vnodes[vnode as usize].term, roles.term + 1);
    assert_eq!(ring.vnodes[vnode as usize].in_sync().count(), 0, "whoever is left catches up from nothing");
}

/// A vnode of node 1 whose only copy was let go; and that copy.
fn let_go(leader: &mut Leader, known: &mut Known) -> (u32, Roles, Seat) {
    let (vnode, roles) = led_by(known.ring.as_ref().expect("a ring"), seat(1));
    let copy = roles.in_sync().next().expect("a replica");
    let epoch = known.ring.as_ref().map_or(0, |ring| ring.epoch);
    let alone = Report::InSync { vnode, term: roles.term, number: 1, epoch, in_sync: in_sync(&[]) };
    leader.handle_report(node(1), seat(1), alone);
    let roles = write(leader, known, later(1)).vnodes[vnode as usize];
    assert!(roles.last().eq([copy]) && roles.in_sync().count() == 0);
    (vnode, roles, copy)
}

#[test]
fn a_copy_that_was_let_go_last_takes_over_when_the_primary_dies_before_another_counts() {
    let (mut leader, mut known) = leader(3);
    let (vnode, roles, copy) = let_go(&mut leader, &mut known);
    lose(&mut leader, &mut known, 1, later(2));
    let term = roles.term + 1;
    assert!(orders(&mut leader, later(2)).contains(&(copy, Order::Seal { vnode, term })));
    let report = Report::Sealed { vnode, term, applied: Version::new(1, 7) };
    leader.handle_report(node(u64::from(copy.node) + 1), copy, report);
    let ring = write(&mut leader, &mut known, later(3));
    assert_eq!((ring.vnodes[vnode as usize].term, ring.vnodes[vnode as usize].primary), (term, copy));
}

#[test]
fn one_that_was_being_streamed_anew_is_not_relied_on() {
    let (mut leader, mut known) = leader(3);
    let (vnode, roles, copy) = let_go(&mut leader, &mut known);
    lose(&mut leader, &mut known, 1, later(2));
    let report = Report::Sealed { vnode, term: roles.term + 1, applied: Version::NONE };
    leader.handle_report(node(u64::from(copy.node) + 1), copy, report);
    while let Some(ring) = leader.poll_write(later(3)) {
        assert_eq!(ring.vnodes[vnode as usize].term, roles.term);
        known.ring = Some(Arc::new(ring));
        leader.handle_known(later(3), known.clone());
        leader.handle_write_done(later(2));
    }
    leader.poll_write(later(4));
    let ring = write(&mut leader, &mut known, later(110));
    assert_eq!(
        ring.vnodes[vnode as usize].term,
        roles.term + 2,
        "not the term that it was sealed for: it starts empty"
    );
}

#[test]
fn a_move_is_written_when_the_target_is_ready_and_undone_when_it_is_gone() {
    let (mut leader, mut known) = leader(3);
    let ring = known.ring.clone().expect("a ring");
    let (vnode, roles) = led_by(&ring, seat(1));
    let copy = roles.in_sync().next().expect("a replica");
    let ready = |term, target| Report::MoveReady { vnode, term, target };
    leader.handle_report(node(1), seat(1), ready(roles.term, copy));
    let moved = write(&mut leader, &mut known, later(1)).vnodes[vnode as usize];
    assert_eq!((moved.term, moved.primary), (roles.term + 1, copy));

    // The new primary gives it back; but its target is no copy that counts.
    let other =
        [1, 2, 3].map(seat).into_iter().find(|it| *it != copy && moved.state(*it).is_none()).expect("a stranger");
    let from = node(u64::from(copy.node) + 1);
    leader.handle_report(from, copy, ready(moved.term, other));
    let undone = write(&mut leader, &mut known, later(2)).vnodes[vnode as usize];
    assert_eq!((undone.term, undone.primary), (moved.term + 1, copy), "it goes on under a new term");
}

#[test]
fn moves_begin_when_the_ring_can_be_written_and_are_written_together() {
    let (mut leader, mut known) = leader(3);
    known.intents.insert(2, Intent { draining: true, weight: None });
    leader.handle_known(later(1), known.clone());
    let ring = write(&mut leader, &mut known, later(1));
    let begun = |leader: &mut Leader, now| {
        let begun = |(source, order)| match order {
            Order::BeginMove { vnode, term, target } => Some((source, Report::MoveReady { vnode, term, target })),
            _ => None,
        };
        orders(leader, now).into_iter().filter_map(begun).collect::<Vec<(Seat, Report)>>()
    };
    assert_eq!(begun(&mut leader, later(1)), [], "it was written just now");
    let (vnode, Roles { term, .. }) = led_by(&ring, seat(1));
    let proposal = Report::InSync { vnode, term, number: 1, epoch: ring.epoch, in_sync: in_sync(&[]) };
    leader.handle_report(node(1), seat(1), proposal);
    let next = leader.poll_write(later(2)).expect("the proposal is written");
    assert_eq!(begun(&mut leader, later(3)), [], "it is being written, which takes long");
    known.ring = Some(Arc::new(next));
    leader.handle_known(later(3), known.clone());
    leader.handle_write_done(later(3));

    let ready = begun(&mut leader, later(4));
    let [(one, one_ready), (two, two_ready)] = ready[..] else { panic!("two at a time: {ready:?}") };
    leader.handle_report(node(2), one, one_ready);
    assert_eq!(leader.poll_write(later(4)), None, "the other one is about to answer");
    leader.handle_report(node(2), two, two_ready);
    let moved = write(&mut leader, &mut known, later(4));
    for vnode in [one_ready.vnode(), two_ready.vnode()] {
        let (before, after) = (&ring.vnodes[vnode as usize], &moved.vnodes[vnode as usize]);
        assert_eq!((after.term, after.primary == before.primary), (before.term + 1, false));
    }
}

#[test]
fn a_new_node_catches_up_with_a_few_vnodes_at_a_time() {
    let identity = Identity { cluster_id: 1, seed: 2, vnode_bits: 10 };
    let founding = Founding { cluster: "test".to_owned(), identity, replicas: 1, write_mode: WriteMode::One };
    let mut leader = Leader::new(START, 7, founding);
    let mut known =
        Known { registrations: (1..=3).map(|id| (id, registration(node(id)))).collect(), ..Known::default() };
    leader.handle_known(START, known.clone());
    write(&mut leader, &mut known, later(0));
    known.registrations.insert(4, registration(node(4)));
    leader.handle_known(later(1), known.clone());
    write(&mut leader, &mut known, later(1));
    let ring = write(&mut leader, &mut known, later(2));
    let catching_up = ring.vnodes.iter().flat_map(|roles| roles.copies().collect::<Vec<_>>());
    let catching_up = catching_up.filter(|copy| copy.state == CopyState::CatchingUp);
    assert_eq!(catching_up.filter(|copy| copy.seat == seat(4)).count(), 1024 / VNODES_PER_CATCH_UP);
    assert_eq!(leader.poll_write(later(3)), None, "until one of them has caught up");
}

#[test]
fn what_is_left_to_do_is_counted_by_anybody_and_is_nothing_where_all_lies_well() {
    let (_, mut known) = leader(3);
    assert_eq!(Leader::steps_left(&known), StepsLeft::default());
    known.intents.insert(2, Intent { draining: true, weight: None });
    let ring = known.ring.clone().expect("a ring");
    let seats = |roles: &Roles| roles.in_sync_members().filter(|member| *member == seat(2)).count();
    let held: usize = ring.vnodes.iter().map(seats).sum();
    // Each of its vnodes is copied to somebody else or is there already, and the led ones are handed over.
    let left = Leader::steps_left(&known).total();
    assert!((held..=2 * held).contains(&left), "{left} steps for {held} seats");
    let impossible = Registration { cores: 0, ..registration(node(9)) };
    known.registrations.insert(9, impossible);
    assert_eq!(Leader::steps_left(&known).total(), 0, "a node that can't be stops nobody from answering");
}

#[test]
fn a_drained_node_is_given_nothing_and_asked_to_hand_over() {
    let (mut leader, mut known) = leader(3);
    known.intents.insert(2, Intent { draining: true, weight: None });
    leader.handle_known(later(1), known.clone());
    let ring = write(&mut leader, &mut known, later(1));
    assert!(ring.member(1).is_some_and(|member| member.draining));
    let led = ring.vnodes.iter().filter(|roles| roles.primary == seat(2)).count();
    // Few at a time, and the next when those have moved.
    for step in 2..20 {
        for (source, order) in orders(&mut leader, later(step)) {
            if let Order::BeginMove { vnode, term, target } = order {
                assert_eq!(source, seat(2), "nobody else gives anything away");
                leader.handle_report(node(2), source, Report::MoveReady { vnode, term, target });
            }
        }
        if let Some(ring) = leader.poll_write(later(step)) {
            known.ring = Some(Arc::new(ring));
            leader.handle_known(later(step), known.clone());
            leader.handle_write_done(later(step));
        }
    }
    let ring = known.ring.expect("a ring");
    for (vnode, roles) in ring.vnodes.iter().enumerate().filter(|(_, roles)| roles.primary == seat(2)) {
        assert!(roles.copies().any(|copy| copy.state == CopyState::CatchingUp), "vnode {vnode} has somewhere to go");
    }
    assert!(ring.vnodes.iter().filter(|roles| roles.primary == seat(2)).count() < led);
}
