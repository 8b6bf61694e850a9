//! What a node tells others of its copies when an operator asks: how far they lag, and how much it has still to stream.
//!
//! It is no key in etcd. Keys are what all nodes go by, and each put of one wakes all of them; these figures change all the
//! time, and are asked for now and then. So the node that is asked asks the others, over the links that carry reports and
//! orders, waits for them a little, and says who did not answer: two small messages a node and no transaction.

use std::collections::BTreeMap;

use super::bytes::{BytesError, Reader};
use super::ring::{NodeRef, Ring};

/// How far copies are behind their primaries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Writes that they have not acknowledged.
    pub writes: u64,
    /// Bytes of the records of these, as far as they are kept.
    pub bytes: u64,
}

/// What a core or a node has, and has still to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Vnodes that it leads or keeps a copy of.
    pub held_vnodes: u64,
    /// Bytes of their items.
    pub held_bytes: u64,
    /// Bytes that copies elsewhere, which are being made, are still to be sent from here: by the vnodes' average.
    pub unstreamed_bytes: u64,
    /// Bytes that are streamed from here in a second, of late.
    pub streamed_bytes_per_sec: u64,
    /// How far the copies are behind that follow a primary here, by the node that keeps them.
    pub lags: BTreeMap<NodeRef, Lag>,
}

impl Lag {
    /// Both together.
    pub fn add(&mut self, other: Self) {
        self.writes = self.writes.saturating_add(other.writes);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

impl Load {
    /// Both together.
    pub fn add(&mut self, other: &Self) {
        self.held_vnodes = self.held_vnodes.saturating_add(other.held_vnodes);
        self.held_bytes = self.held_bytes.saturating_add(other.held_bytes);
        self.unstreamed_bytes = self.unstreamed_bytes.saturating_add(other.unstreamed_bytes);
        self.streamed_bytes_per_sec = self.streamed_bytes_per_sec.saturating_add(other.streamed_bytes_per_sec);
        other.lags.iter().for_each(|(node, lag)| self.lags.entry(*node).or_default().add(*lag));
    }

    /// Bytes of a vnode, on average.
    pub fn vnode_bytes(&self) -> u64 {
        self.held_bytes.checked_div(self.held_vnodes).unwrap_or(0)
    }

    /// The same without what is behind on nodes that are not in `ring`: so there are no more of them than nodes may be.
    #[must_use]
    pub fn of_members(mut self, ring: &Ring) -> Self {
        self.lags.retain(|node, _| ring.slot_of(*node).is_some());
        self
    }

    /// Appends it to a message; what is behind by nothing is left out.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        let numbers = [self.held_vnodes, self.held_bytes, self.unstreamed_bytes, self.streamed_bytes_per_sec];
        numbers.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
        for (node, lag) in &self.lags {
            [node.id, node.incarnation, lag.writes, lag.bytes]
                .iter()
                .for_each(|it| out.extend_from_slice(&it.to_le_bytes()));
        }
    }

    /// Reads it from a message that names `lags` nodes.
    pub(super) fn take(reader: &mut Reader<'_>, lags: usize) -> Result<Self, BytesError> {
        let mut load = Self {
            held_vnodes: reader.u64()?,
            held_bytes: reader.u64()?,
            unstreamed_bytes: reader.u64()?,
            streamed_bytes_per_sec: reader.u64()?,
            lags: BTreeMap::new(),
        };
        for _ in 0..lags {
            let node = NodeRef { id: reader.u64()?, incarnation: reader.u64()? };
            let lag = Lag { writes: reader.u64()?, bytes: reader.u64()? };
            if load.lags.last_key_value().is_some_and(|(last, _)| *last >= node) {
                return Err(BytesError("nodes that are not in order"));
            }
            load.lags.insert(node, lag);
        }
        Ok(load)
    }
}
