//! The cluster's keys as this node last saw them: one read of all of them at one revision, and every event since.
//!
//! Everything that the cluster knows in common is derived from here. The last good ring outlives what replaces it: a ring
//! that does not parse, or another cluster's, is told, and not used.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cluster::etcd::{Entry, WatchEvent};
use crate::cluster::leader::Known;
use crate::cluster::messages::Election;
use crate::cluster::records::{Identity, Intent, Keys, RecordError};
use crate::cluster::ring::{NodeRef, Registration, Ring};

/// The cluster's keys.
#[derive(Debug)]
pub(super) struct Mirror {
    entries: BTreeMap<String, Entry>,
    /// Everything up to here is in.
    pub(super) revision: i64,
}

impl Mirror {
    pub(super) fn new(revision: i64, entries: Vec<Entry>) -> Self {
        Self { revision, entries: entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect() }
    }

    /// Takes an event in. Those that the first read has seen already change nothing.
    pub(super) fn apply(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Put(entry) => {
                self.revision = self.revision.max(entry.mod_revision);
                let is_newer = |known: &Entry| entry.mod_revision > known.mod_revision;
                if self.entries.get(&entry.key).is_none_or(is_newer) {
                    self.entries.insert(entry.key.clone(), entry);
                }
            }
            WatchEvent::Delete { key, revision } => {
                self.revision = self.revision.max(revision);
                if self.entries.get(&key).is_some_and(|known| revision > known.mod_revision) {
                    self.entries.remove(&key);
                }
            }
            WatchEvent::Closed => {}
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// When the key was last put; 0 when it does not exist.
    pub(super) fn mod_revision(&self, key: &str) -> i64 {
        self.get(key).map_or(0, |entry| entry.mod_revision)
    }

    pub(super) fn identity(&self, keys: &Keys) -> Result<Option<Identity>, RecordError> {
        self.get(&keys.identity()).map(|entry| Identity::from_bytes(&entry.value)).transpose()
    }

    /// What operators want of the node with this id. A record that can't be read says as much as none.
    pub(super) fn intent(&self, keys: &Keys, id: u64) -> Intent {
        self.get(&keys.intent(id)).and_then(|entry| Intent::from_bytes(&entry.value).ok()).unwrap_or_default()
    }

    /// The oldest candidate leads: who, and by which election.
    pub(super) fn leader(&self, keys: &Keys) -> Option<(NodeRef, Election)> {
        let oldest = self.under(&keys.candidates()).min_by_key(|entry| entry.create_revision)?;
        let election = Election::try_from(oldest.create_revision).ok()?;
        Some((NodeRef::from_bytes(&oldest.value).ok()?, election))
    }

    pub(super) fn ring(&self, keys: &Keys) -> Result<Option<Ring>, RecordError> {
        keys.ring(|key| self.get(key).map(|entry| entry.value.as_slice()))
    }

    /// Everything that a leader goes by. Records of single nodes that can't be read are as good as absent.
    pub(super) fn known(&self, keys: &Keys, ring: Option<Arc<Ring>>) -> Known {
        let (nodes, wishes) = (keys.nodes(), keys.intents());
        let registrations = self.under(&nodes).filter_map(|entry| Registration::from_bytes(&entry.value).ok());
        let id = |entry: &Entry| u64::from_str_radix(entry.key.strip_prefix(&wishes)?, 16).ok();
        let intents =
            self.under(&wishes).filter_map(|entry| Some((id(entry)?, Intent::from_bytes(&entry.value).ok()?)));
        Known {
            ring,
            registrations: registrations.map(|registration| (registration.node.id, registration)).collect(),
            intents: intents.collect(),
        }
    }

    /// The first registration that can't be read, if there is one: its node's id as the key has it, and why.
    pub(super) fn unreadable(&self, keys: &Keys) -> Option<(String, RecordError)> {
        let nodes = keys.nodes();
        self.under(&nodes).find_map(|entry| {
            let error = Registration::from_bytes(&entry.value).err()?;
            Some((entry.key.strip_prefix(&nodes)?.to_owned(), error))
        })
    }

    fn under(&self, prefix: &str) -> impl Iterator<Item = &Entry> {
        let from = self.entries.range(prefix.to_owned()..).map(|(_, entry)| entry);
        let prefix = prefix.to_owned();
        from.take_while(move |entry| entry.key.starts_with(&prefix))
    }
}
