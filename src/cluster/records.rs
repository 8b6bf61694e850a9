//! The cluster's records in etcd: their keys, and their bytes.
//!
//! ```text
//! /quoit/<cluster>/identity          Identity       created once
//!                  nodes/<id>        Registration   under the node's lease
//!                  leader/<lease>    NodeRef        under the node's lease; the oldest of them leads
//!                  intents/<id>      Intent         what an operator wants of a node
//!                  ring/head         epoch and the cluster's constants; every change of the ring puts it
//!                  ring/slots        the nodes; put when one comes or goes
//!                  ring/chunk/<00>   roles of 1/64 of the vnodes; put when one of them changes
//!
//! roles      0      3       4         8        12
//!            ┌──────┬───────┬─────────┬────────┬───┐
//!            │ term │ count │ primary │ copy 0 │ … │    count: copies in bits 0-2, which of them are in sync in bits 4-7;
//!            │ u24  │ u8    │ Seat    │ Seat   │   │    with bit 3 none is, and bits 4-7 say which of them were so last
//!            └──────┴───────┴─────────┴────────┴───┘    8 bytes and 4 for each copy: at most 24
//! ```
//! A record begins with its format's version; numbers are little-endian; a text has its length before it. Whatever is read is
//! checked: bytes that mean nothing are an error, never a panic and never half a ring.

use quoit_wire::WriteMode;
use quoit_wire::topology::{CORES_MAX, NODES_MAX, REPLICAS_MAX, VNODE_BITS_MAX};

use super::bytes::{BytesError, Reader, put_seat, put_text};
use super::ring::{COPIES_MAX, CopyState, Member, NodeRef, Registration, Ring, RingError, Roles};

/// The version of every record's format, and of what nodes say to each other; a cluster has one.
pub const FORMAT: u8 = 5;
/// Keys over which the vnodes' roles are spread: one change of one vnode writes 1/64 of the ring.
pub const CHUNKS_MAX: usize = 64;

/// In the count of a vnode's copies: those that are marked are not in sync, but were the last that were.
const LASTS: u8 = 8;

/// What every node of a cluster agrees on, forever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Drawn when the cluster was created.
    pub cluster_id: u64,
    /// Seed of the key hash.
    pub seed: u64,
    /// `2^vnode_bits` vnodes.
    pub vnode_bits: u8,
}

/// What an operator wants of a node; it outlives the node's lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Intent {
    /// Give everything away and take nothing.
    pub draining: bool,
    /// A share other than the one it registers with.
    pub weight: Option<u16>,
}

/// Why a record can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It was written by another version.
    #[error("format {0} of a record in etcd; this node knows {FORMAT}: run one version of Quoit on a cluster")]
    Format(u8),
    /// Its bytes mean nothing.
    #[error("a damaged record in etcd: {0}; restore it from a backup, or remove the cluster's keys to start empty")]
    Damaged(&'static str),
    /// Together, the ring's records contradict themselves.
    #[error("{0}; restore etcd from a backup, or remove the cluster's keys to start empty")]
    Ring(#[from] RingError),
}

impl From<BytesError> for RecordError {
    fn from(BytesError(what): BytesError) -> Self {
        Self::Damaged(what)
    }
}

/// The keys of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    /// The keys of the cluster of this name.
    pub fn new(cluster: &str) -> Self {
        Self { prefix: format!("/quoit/{cluster}/") }
    }

    /// What all of them begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// [`Identity`].
    pub fn identity(&self) -> String {
        format!("{}identity", self.prefix)
    }

    /// All [`Registration`]s.
    pub fn nodes(&self) -> String {
        format!("{}nodes/", self.prefix)
    }

    /// The [`Registration`] of one node.
    pub fn node(&self, id: u64) -> String {
        format!("{}nodes/{id:016x}", self.prefix)
    }

    /// All candidates.
    pub fn candidates(&self) -> String {
        format!("{}leader/", self.prefix)
    }

    /// The candidate with this lease.
    pub fn candidate(&self, lease: i64) -> String {
        format!("{}leader/{lease:016x}", self.prefix)
    }

    /// All [`Intent`]s.
    pub fn intents(&self) -> String {
        format!("{}intents/", self.prefix)
    }

    /// The [`Intent`] for one node.
    pub fn intent(&self, id: u64) -> String {
        format!("{}intents/{id:016x}", self.prefix)
    }

    /// The ring's head: what a write of the ring compares.
    pub fn head(&self) -> String {
        format!("{}ring/head", self.prefix)
    }

    fn slots(&self) -> String {
        format!("{}ring/slots", self.prefix)
    }

    fn chunk(&self, chunk: usize) -> String {
        format!("{}ring/chunk/{chunk:02}", self.prefix)
    }

    /// What has to be put to come from the ring `before` to `after`; everything when there is none before.
    pub fn ring_changes(&self, before: Option<&Ring>, after: &Ring) -> Vec<(String, Vec<u8>)> {
        let mut puts = vec![(self.head(), head_to_bytes(after))];
        if before.is_none_or(|before| before.slots != after.slots) {
            puts.push((self.slots(), slots_to_bytes(&after.slots)));
        }
        for chunk in 0..chunks(after.vnode_bits) {
            let range = chunk_range(chunk, after.vnode_bits);
            if before.is_none_or(|before| before.vnodes[range.clone()] != after.vnodes[range.clone()]) {
                puts.push((self.chunk(chunk), chunk_to_bytes(&after.vnodes[range])));
            }
        }
        puts
    }

    /// The ring, from its records; none when there is no head. `get` looks a key up.
    pub fn ring<'a>(&self, get: impl Fn(&str) -> Option<&'a [u8]>) -> Result<Option<Ring>, RecordError> {
        let Some(head) = get(&self.head()) else { return Ok(None) };
        let mut ring = head_from_bytes(head)?;
        ring.slots = slots_from_bytes(get(&self.slots()).ok_or(RecordError::Damaged("no slots"))?)?;
        ring.vnodes.reserve_exact(1 << ring.vnode_bits);
        for chunk in 0..chunks(ring.vnode_bits) {
            let bytes = get(&self.chunk(chunk)).ok_or(RecordError::Damaged("a missing chunk"))?;
            chunk_from_bytes(bytes, chunk_range(chunk, ring.vnode_bits).len(), &mut ring.vnodes)?;
        }
        ring.check()?;
        Ok(Some(ring))
    }
}

impl Identity {
    /// The record.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        out.extend_from_slice(&self.cluster_id.to_le_bytes());
        out.extend_from_slice(&self.seed.to_le_bytes());
        out.push(self.vnode_bits);
        out
    }

    /// Reads the record.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut reader = open(bytes)?;
        let identity = Self { cluster_id: reader.u64()?, seed: reader.u64()?, vnode_bits: vnode_bits(&mut reader)? };
        reader.end()?;
        Ok(identity)
    }
}

impl NodeRef {
    /// The record of a candidate.
    pub fn to_bytes(self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        put_node(&mut out, self);
        out
    }

    /// Reads the record of a candidate.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut reader = open(bytes)?;
        let node = node(&mut reader)?;
        reader.end()?;
        Ok(node)
    }
}

impl Registration {
    /// The record.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        put_node(&mut out, self.node);
        put_text(&mut out, &self.name);
        put_text(&mut out, &self.address);
        put_text(&mut out, &self.zone);
        out.extend_from_slice(&self.cores.to_le_bytes());
        out.extend_from_slice(&self.weight.to_le_bytes());
        out.extend_from_slice(&self.memory_bytes.to_le_bytes());
        out.push(u8::from(self.leaving));
        out
    }

    /// Reads the record.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut reader = open(bytes)?;
        let registration = Self {
            node: node(&mut reader)?,
            name: reader.text()?,
            address: reader.text()?,
            zone: reader.text()?,
            cores: reader.u16()?,
            weight: reader.u16()?,
            memory_bytes: reader.u64()?,
            leaving: reader.bool()?,
        };
        reader.end()?;
        let has_cores = (1..=CORES_MAX).contains(&usize::from(registration.cores));
        if has_cores { Ok(registration) } else { Err(RecordError::Damaged("a node with no core, or more than 1,024")) }
    }
}

impl Intent {
    /// The record.
    pub fn to_bytes(self) -> Vec<u8> {
        let mut out = vec![FORMAT, u8::from(self.draining), u8::from(self.weight.is_some())];
        out.extend_from_slice(&self.weight.unwrap_or(0).to_le_bytes());
        out
    }

    /// Reads the record.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut reader = open(bytes)?;
        let (draining, is_weighted) = (reader.bool()?, reader.bool()?);
        let weight = Some(reader.u16()?).filter(|_| is_weighted);
        reader.end()?;
        Ok(Self { draining, weight })
    }
}

fn chunks(vnode_bits: u8) -> usize {
    CHUNKS_MAX.min(1 << vnode_bits)
}

fn chunk_range(chunk: usize, vnode_bits: u8) -> std::ops::Range<usize> {
    let vnodes = (1 << vnode_bits) / chunks(vnode_bits);
    chunk * vnodes..(chunk + 1) * vnodes
}

fn head_to_bytes(ring: &Ring) -> Vec<u8> {
    let mut out = vec![FORMAT];
    out.extend_from_slice(&ring.epoch.to_le_bytes());
    out.extend_from_slice(&ring.cluster_id.to_le_bytes());
    out.extend_from_slice(&ring.seed.to_le_bytes());
    out.extend_from_slice(&[ring.vnode_bits, ring.replicas, ring.write_mode as u8]);
    put_text(&mut out, &ring.cluster);
    out
}

/// A ring without slots and vnodes.
fn head_from_bytes(bytes: &[u8]) -> Result<Ring, RecordError> {
    let mut reader = open(bytes)?;
    let ring = Ring {
        epoch: reader.u32()?,
        cluster_id: reader.u64()?,
        seed: reader.u64()?,
        vnode_bits: vnode_bits(&mut reader)?,
        replicas: reader.u8()?,
        write_mode: match reader.u8()? {
            1 => WriteMode::Async,
            2 => WriteMode::One,
            3 => WriteMode::All,
            _ => return Err(RecordError::Damaged("a write mode that is none")),
        },
        cluster: reader.text()?,
        slots: Vec::new(),
        vnodes: Vec::new(),
    };
    reader.end()?;
    Ok(ring)
}

fn slots_to_bytes(slots: &[Option<Member>]) -> Vec<u8> {
    let mut out = vec![FORMAT];
    out.extend_from_slice(&(slots.len() as u16).to_le_bytes());
    for slot in slots {
        out.push(u8::from(slot.is_some()));
        let Some(member) = slot else { continue };
        put_node(&mut out, member.node);
        put_text(&mut out, &member.name);
        put_text(&mut out, &member.address);
        put_text(&mut out, &member.zone);
        out.extend_from_slice(&member.cores.to_le_bytes());
        out.extend_from_slice(&member.weight.to_le_bytes());
        out.push(u8::from(member.draining));
    }
    out
}

fn slots_from_bytes(bytes: &[u8]) -> Result<Vec<Option<Member>>, RecordError> {
    let mut reader = open(bytes)?;
    let count = usize::from(reader.u16()?);
    if count > NODES_MAX {
        return Err(RecordError::Damaged("more slots than a cluster may have"));
    }
    let mut slots = Vec::with_capacity(count);
    for _ in 0..count {
        slots.push(if reader.bool()? { Some(member(&mut reader)?) } else { None });
    }
    reader.end()?;
    Ok(slots)
}

fn member(reader: &mut Reader<'_>) -> Result<Member, RecordError> {
    Ok(Member {
        node: node(reader)?,
        name: reader.text()?,
        address: reader.text()?,
        zone: reader.text()?,
        cores: reader.u16()?,
        weight: reader.u16()?,
        draining: reader.bool()?,
    })
}

fn chunk_to_bytes(vnodes: &[Roles]) -> Vec<u8> {
    let mut out = vec![FORMAT];
    for roles in vnodes {
        let lasts = if roles.last().next().is_some() { LASTS } else { 0 };
        let marked = roles.copies().enumerate().filter(|(_, it)| it.was_last || it.state == CopyState::InSync);
        let count = marked.fold(lasts | roles.copies().count() as u8, |count, (place, _)| count | 16 << place);
        out.extend_from_slice(&roles.term.to_le_bytes()[..3]);
        out.push(count);
        put_seat(&mut out, roles.primary);
        roles.copies().for_each(|copy| put_seat(&mut out, copy.seat));
    }
    out
}

fn chunk_from_bytes(bytes: &[u8], count: usize, vnodes: &mut Vec<Roles>) -> Result<(), RecordError> {
    let mut reader = open(bytes)?;
    for _ in 0..count {
        let [low, middle, high] = reader.take()?;
        let count = reader.u8()?;
        let mut roles = Roles::new(u32::from_le_bytes([low, middle, high, 0]), reader.seat()?);
        let (copies, lasts) = (usize::from(count & 7), count & LASTS != 0);
        if copies > COPIES_MAX || u32::from(count) >> (4 + copies) != 0 {
            return Err(RecordError::Damaged("copies that can't be"));
        }
        for place in 0..copies {
            let is_marked = count >> (4 + place) & 1 == 1;
            let state = if is_marked && !lasts { CopyState::InSync } else { CopyState::CatchingUp };
            let seat = reader.seat()?;
            if roles.state(seat).is_some() {
                return Err(RecordError::Damaged("two copies on one core"));
            }
            roles.put(seat, state);
            if is_marked && lasts {
                roles.mark_last([seat].into_iter());
            }
        }
        vnodes.push(roles);
    }
    Ok(reader.end()?)
}

/// A reader behind the format's version.
fn open(bytes: &[u8]) -> Result<Reader<'_>, RecordError> {
    let mut reader = Reader::new(bytes);
    match reader.u8()? {
        FORMAT => Ok(reader),
        other => Err(RecordError::Format(other)),
    }
}

fn vnode_bits(reader: &mut Reader<'_>) -> Result<u8, RecordError> {
    Some(reader.u8()?).filter(|bits| *bits <= VNODE_BITS_MAX).ok_or(RecordError::Damaged("more than 65,536 vnodes"))
}

fn node(reader: &mut Reader<'_>) -> Result<NodeRef, RecordError> {
    Ok(NodeRef { id: reader.u64()?, incarnation: reader.u64()? })
}

fn put_node(out: &mut Vec<u8>, node: NodeRef) {
    out.extend_from_slice(&node.id.to_le_bytes());
    out.extend_from_slice(&node.incarnation.to_le_bytes());
}

// A vnode's roles, as they are promised to etcd.
const _: () = assert!(8 + 4 * COPIES_MAX <= 32 && COPIES_MAX == REPLICAS_MAX + 1);

#[cfg(test)]
mod tests;
