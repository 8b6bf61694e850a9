//! An etcd of the size of a test: keys with revisions, leases that run out, watches.
//!
//! It serves the simulation and, through a path, the tests of `cluster::agent`. Who asks it has to delay, lose and hold back.

use std::collections::BTreeMap;

use crate::cluster::etcd::{Compare, Entry, EtcdFailure, EtcdRequest, EtcdResponse, Put, WatchEvent};
use crate::time::{Duration, Instant};

#[derive(Default)]
pub(super) struct Etcd {
    revision: i64,
    pub(super) entries: BTreeMap<String, Entry>,
    /// Time to live and end of each lease.
    leases: BTreeMap<i64, (Duration, Instant)>,
    next_lease: i64,
    /// Every event, in order; a watch has a place in it.
    pub(super) events: Vec<WatchEvent>,
    pub(super) transactions: u64,
    pub(super) bytes_put: u64,
}

impl Etcd {
    pub(super) fn execute(&mut self, now: Instant, request: &EtcdRequest) -> EtcdResponse {
        self.expire(now);
        match request {
            EtcdRequest::LeaseGrant { ttl_secs } => {
                self.next_lease += 1;
                let ttl = Duration::from_secs(ttl_secs.unsigned_abs());
                self.leases.insert(self.next_lease, (ttl, now + ttl));
                EtcdResponse::LeaseGranted { lease: self.next_lease, ttl_secs: *ttl_secs }
            }
            EtcdRequest::LeaseKeepAlive { lease } => {
                let Some((ttl, end)) = self.leases.get_mut(lease) else {
                    return EtcdResponse::LeaseKept { ttl_secs: 0 };
                };
                *end = now + *ttl;
                EtcdResponse::LeaseKept { ttl_secs: (ttl.as_millis() / 1000).cast_signed() }
            }
            EtcdRequest::LeaseRevoke { lease } => {
                self.leases.insert(*lease, (Duration::ZERO, now));
                self.expire(now);
                EtcdResponse::LeaseRevoked
            }
            EtcdRequest::Range { prefix } => {
                let entries = self.entries.values().filter(|entry| entry.key.starts_with(prefix)).cloned().collect();
                EtcdResponse::Range { revision: self.revision, entries }
            }
            EtcdRequest::Transaction { compares, puts } => self.transact(compares, puts),
            EtcdRequest::Watch { .. } | EtcdRequest::Compact { .. } => EtcdResponse::Compacted,
        }
    }

    fn transact(&mut self, compares: &[Compare], puts: &[Put]) -> EtcdResponse {
        self.transactions += 1;
        if puts.iter().any(|put| put.lease != 0 && !self.leases.contains_key(&put.lease)) {
            return EtcdResponse::Failed(EtcdFailure::Refused("requested lease not found".to_owned()));
        }
        assert!(puts.len() + compares.len() <= 128, "etcd takes 128 operations");
        let entry = |key: &String| self.entries.get(key);
        let holds = |compare: &Compare| match compare {
            Compare::CreateRevision { key, revision } => entry(key).map_or(0, |it| it.create_revision) == *revision,
            Compare::ModRevision { key, revision } => entry(key).map_or(0, |it| it.mod_revision) == *revision,
        };
        if !compares.iter().all(holds) {
            return EtcdResponse::Transaction { succeeded: false, revision: self.revision };
        }
        self.revision += 1;
        for Put { key, value, lease } in puts {
            self.bytes_put += (key.len() + value.len()) as u64;
            let create_revision = entry_revision(&self.entries, key).unwrap_or(self.revision);
            let (key, value) = (key.clone(), value.clone());
            let entry = Entry { key: key.clone(), value, create_revision, mod_revision: self.revision, lease: *lease };
            self.events.push(WatchEvent::Put(entry.clone()));
            self.entries.insert(key, entry);
        }
        EtcdResponse::Transaction { succeeded: true, revision: self.revision }
    }

    /// The place in [`Self::events`] of the first event of `revision` or later.
    pub(super) fn place_of(&self, revision: i64) -> usize {
        self.events.partition_point(|event| match event {
            WatchEvent::Put(entry) => entry.mod_revision < revision,
            WatchEvent::Delete { revision: at, .. } => *at < revision,
            WatchEvent::Closed => true,
        })
    }

    /// Ends leases, and what lies under them.
    pub(super) fn expire(&mut self, now: Instant) {
        let over: Vec<i64> = self.leases.iter().filter(|(_, (_, end))| now >= *end).map(|(lease, _)| *lease).collect();
        for lease in over {
            self.leases.remove(&lease);
            let gone: Vec<String> =
                self.entries.values().filter(|entry| entry.lease == lease).map(|entry| entry.key.clone()).collect();
            for key in gone {
                self.revision += 1;
                self.entries.remove(&key);
                self.events.push(WatchEvent::Delete { key, revision: self.revision });
            }
        }
    }
}

fn entry_revision(entries: &BTreeMap<String, Entry>, key: &str) -> Option<i64> {
    entries.get(key).map(|entry| entry.create_revision)
}
