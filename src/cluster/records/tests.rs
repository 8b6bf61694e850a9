//! Records: what is written is read, whatever else is read is refused or passes the ring's check.

use std::collections::HashMap;

use proptest::collection::vec;
use proptest::prelude::*;

use quoit_wire::topology::Seat;

use super::*;

fn member(id: u64) -> Member {
    let node = NodeRef { id, incarnation: id * 7 };
    let (name, address) = (format!("node-{id}"), format!("10.0.0.{id}:7400"));
    Member { node, name, address, zone: format!("zone-{}", id % 3), cores: 8, weight: 1, draining: id == 2 }
}

fn ring(nodes: u16, vnode_bits: u8) -> Ring {
    let mut slots: Vec<_> = (1..=nodes).map(|id| Some(member(u64::from(id)))).collect();
    slots.push(None);
    let roles = |vnode: usize| {
        let seat =
            |place: usize| Seat { node: ((vnode + place) % usize::from(nodes)) as u16, core: (vnode % 8) as u16 };
        let mut roles = Roles::new(vnode as u32 * 255, seat(0));
        if nodes > 2 {
            roles.put(seat(1), if vnode.is_multiple_of(3) { CopyState::CatchingUp } else { CopyState::InSync });
            roles.put(seat(2), CopyState::InSync);
        }
        if nodes > 2 && vnode % 5 == 4 {
            [1, 2].into_iter().for_each(|place| assert!(roles.put(seat(place), CopyState::CatchingUp)));
            roles.mark_last([seat(2)].into_iter());
        }
        roles
    };
    let vnodes = (0..1 << vnode_bits).map(roles).collect();
    Ring {
        epoch: 9,
        cluster: "demo".to_owned(),
        cluster_id: 3,
        seed: 4,
        vnode_bits,
        replicas: 2,
        write_mode: WriteMode::One,
        slots,
        vnodes,
    }
}

fn read(keys: &Keys, records: &HashMap<String, Vec<u8>>) -> Result<Option<Ring>, RecordError> {
    keys.ring(|key| records.get(key).map(Vec::as_slice))
}

#[test]
fn a_ring_is_read_as_it_was_written() {
    let keys = Keys::new("demo");
    for (nodes, vnode_bits) in [(1, 0), (1, 3), (5, 6), (200, 12)] {
        let ring = ring(nodes, vnode_bits);
        let puts: HashMap<_, _> = keys.ring_changes(None, &ring).into_iter().collect();
        assert!(puts.keys().all(|key| key.starts_with(keys.prefix())));
        assert_eq!(read(&keys, &puts), Ok(Some(ring)));
    }
    assert_eq!(read(&keys, &HashMap::new()), Ok(None));
}

#[test]
fn a_change_of_one_vnode_writes_the_head_and_one_chunk() {
    let keys = Keys::new("demo");
    let before = ring(200, 12);
    let mut records: HashMap<_, _> = keys.ring_changes(None, &before).into_iter().collect();
    let mut after = before.clone();
    (after.epoch, after.vnodes[99].term) = (10, 70_000);
    let puts = keys.ring_changes(Some(&before), &after);
    assert_eq!(puts.len(), 2);
    let bytes: usize = puts.iter().map(|(key, value)| key.len() + value.len()).sum();
    assert!(bytes < 2048, "{bytes} bytes for 1 of 4096 vnodes");
    records.extend(puts);
    assert_eq!(read(&keys, &records), Ok(Some(after)));
}

#[test]
fn a_vnode_takes_at_most_32_bytes_and_the_largest_ring_fits_a_transaction() {
    let keys = Keys::new("demo");
    let puts = keys.ring_changes(None, &ring(1000, 16));
    assert!(puts.len() <= 66, "etcd takes 128 operations in a transaction");
    let bytes: usize = puts.iter().map(|(key, value)| key.len() + value.len()).sum();
    assert!(bytes < 3 << 19, "{bytes} bytes: etcd takes 1.5 MiB");
}

#[test]
fn every_record_is_read_as_it_was_written() {
    let identity = Identity { cluster_id: 1, seed: u64::MAX, vnode_bits: 12 };
    assert_eq!(Identity::from_bytes(&identity.to_bytes()), Ok(identity));
    let node = NodeRef { id: 1, incarnation: 2 };
    assert_eq!(NodeRef::from_bytes(&node.to_bytes()), Ok(node));
    let member = member(7);
    let registration = Registration {
        node,
        name: member.name,
        address: member.address,
        zone: member.zone,
        cores: 2,
        weight: 3,
        memory_bytes: 1 << 40,
        leaving: false,
    };
    assert_eq!(Registration::from_bytes(&registration.to_bytes()), Ok(registration));
    for intent in [Intent { draining: true, weight: None }, Intent { draining: false, weight: Some(0) }] {
        assert_eq!(Intent::from_bytes(&intent.to_bytes()), Ok(intent));
    }
}

#[test]
fn another_format_is_named_as_such() {
    let mut bytes = Intent::default().to_bytes();
    bytes[0] = 9;
    assert_eq!(Intent::from_bytes(&bytes), Err(RecordError::Format(9)));
    assert!(RecordError::Format(9).to_string().contains("one version"));
}

proptest! {
    #[test]
    fn random_bytes_are_refused_and_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        let _ = (Identity::from_bytes(&bytes), NodeRef::from_bytes(&bytes), Registration::from_bytes(&bytes));
        let _ = (Intent::from_bytes(&bytes), head_from_bytes(&bytes), slots_from_bytes(&bytes));
        let _ = chunk_from_bytes(&bytes, 16, &mut Vec::new());
    }

    #[test]
    fn mutated_records_never_yield_a_ring_that_fails_its_check(
        wounds in vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let keys = Keys::new("demo");
        let mut puts = keys.ring_changes(None, &ring(5, 6));
        for (record, place, byte) in wounds {
            let record = &mut puts[record.index(66)].1;
            let place = place.index(record.len());
            record[place] ^= byte;
        }
        if let Some(cut) = cut {
            puts[cut.index(66)].1.pop();
        }
        let outcome = read(&keys, &puts.into_iter().collect());
        if cut.is_some() {
            prop_assert!(outcome.is_err());
        } else if let Ok(ring) = outcome {
            prop_assert!(ring.is_some_and(|ring| ring.check().is_ok()));
        }
    }
}
