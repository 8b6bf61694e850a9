//! The manifest: the one small file that says what a state folder holds. What it does not name does not exist.
//!
//! ```text
//! 0       8        12     16     24      32      40     48       64     68      72
//! ┌───────┬────────┬──────┬──────┬───────┬───────┬──────┬────────┬──────┬───────┬───────────────┬─────────────────┬──────────┐
//! │ magic │ format │ kind │ save │ wall  │ node  │ seed │ policy │ bits │ files │ files ×       │ 2^bits ×        │ checksum │
//! │ bytes │ u32    │ u32  │ u64  │ ms u64│ id u64│ u64  │ name   │ u32  │ u32   │ chunks u32    │ term u32        │ u64      │
//! │       │        │      │      │       │       │      │ padded │      │       │ items u64     │ sequence u64    │          │
//! └───────┴────────┴──────┴──────┴───────┴───────┴──────┴────────┴──────┴───────┴───────────────┴─────────────────┴──────────┘
//! ```
//! There are two kinds. *Saved*: a node has ended well and its items lie in the files. *Serving*: a node runs, or has
//! crashed; there are no items, but who the node was is known, so that its successor goes on under a higher term.

use quoit_wire::Version;
use quoit_wire::topology::{CORES_MAX, VNODE_BITS_MAX};
use xxhash_rust::xxh3::xxh3_64;

use crate::store::PolicyKind;

const MAGIC: [u8; 8] = *b"QuoitSt\n";
/// Rises with every change of a state's bytes, here or in the chunks.
const FORMAT: u32 = 1;
const KIND_SERVING: u32 = 1;
const KIND_SAVED: u32 = 2;
const POLICY_BYTES: usize = 16;
const FIXED_BYTES: usize = 72;
const FILE_BYTES: usize = 12;
const VNODE_BYTES: usize = 12;
const CHECKSUM_BYTES: usize = 8;
/// The longest manifest.
pub(super) const MANIFEST_BYTES_MAX: usize =
    FIXED_BYTES + CORES_MAX * FILE_BYTES + (1 << VNODE_BITS_MAX) * VNODE_BYTES + CHECKSUM_BYTES;

/// What a state folder says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    pub identity: Identity,
    /// `None`: a node was serving when this was written, and has not ended well since.
    pub saved: Option<Saved>,
}

/// Who a node is, across its restarts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub node_id: u64,
    /// With which keys are hashed.
    pub seed: u64,
    /// A power of two of them.
    pub vnodes: Vec<VnodeState>,
}

/// How far a vnode's versions have come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct VnodeState {
    pub term: u32,
    pub sequence: u64,
}

/// The items that a node has left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Saved {
    /// Drawn at random; stands in every chunk of the files.
    pub save: u64,
    /// When, by the wall clock.
    pub wall_ms: u64,
    /// The policy under which they lived.
    pub policy: PolicyKind,
    /// One for each core that saved.
    pub files: Vec<SavedFile>,
}

/// One core's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::runtime) struct SavedFile {
    pub chunks: u32,
    pub items: u64,
}

/// Why a file is no manifest of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ManifestError {
    #[error("it was not written by Quoit")]
    Foreign,
    #[error("it is of format {found}, and this version reads format {FORMAT}")]
    Format { found: u32 },
    #[error("it is torn: its checksum does not fit")]
    Torn,
    #[error("it makes no sense: {0}")]
    Content(&'static str),
}

impl Identity {
    /// The same node with `2^bits` vnodes. A vnode's versions go on above those of all it takes in, so they never go back.
    pub(super) fn recut(&self, bits: u8) -> Vec<VnodeState> {
        let (old, new) = (self.vnodes.len(), 1usize << bits);
        let states = (0..new).map(|vnode| {
            let range = vnode * old / new..((vnode + 1) * old).div_ceil(new);
            let overlapping = &self.vnodes[range];
            VnodeState {
                term: overlapping.iter().map(|state| state.term).max().unwrap_or(0),
                sequence: overlapping.iter().map(|state| state.sequence).max().unwrap_or(0),
            }
        });
        states.collect()
    }

    /// The same node in a life of which nothing was saved: empty, under a term above all of before. `None` when there is
    /// none left.
    pub(super) fn next_term(&self) -> Option<u32> {
        let highest = self.vnodes.iter().map(|state| state.term).max()?;
        (highest < Version::TERM_MAX).then_some(highest + 1)
    }
}

impl Manifest {
    pub(super) fn encode(&self) -> Vec<u8> {
        let saved = self.saved.as_ref();
        let files = saved.map_or(&[][..], |saved| &saved.files);
        let mut policy = [0; POLICY_BYTES];
        let name = saved.map_or("", |saved| saved.policy.name()).as_bytes();
        policy[..name.len()].copy_from_slice(name);
        let mut bytes = Vec::from(MAGIC);
        bytes.extend(FORMAT.to_le_bytes());
        bytes.extend(if saved.is_some() { KIND_SAVED } else { KIND_SERVING }.to_le_bytes());
        bytes.extend(saved.map_or(0, |saved| saved.save).to_le_bytes());
        bytes.extend(saved.map_or(0, |saved| saved.wall_ms).to_le_bytes());
        bytes.extend(self.identity.node_id.to_le_bytes());
        bytes.extend(self.identity.seed.to_le_bytes());
        bytes.extend(policy);
        bytes.extend(self.identity.vnodes.len().ilog2().to_le_bytes());
        bytes.extend((files.len() as u32).to_le_bytes());
        for file in files {
            bytes.extend(file.chunks.to_le_bytes());
            bytes.extend(file.items.to_le_bytes());
        }
        for vnode in &self.identity.vnodes {
            bytes.extend(vnode.term.to_le_bytes());
            bytes.extend(vnode.sequence.to_le_bytes());
        }
        bytes.extend(xxh3_64(&bytes).to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        if !bytes.starts_with(&MAGIC) {
            return Err(ManifestError::Foreign);
        }
        let uint = |at: usize| bytes.get(at..at + 4).map_or(0, |four| uint_of(four) as u32);
        let long = |at: usize| bytes.get(at..at + 8).map_or(0, uint_of);
        if uint(8) != FORMAT {
            return Err(ManifestError::Format { found: uint(8) });
        }
        let (body, checksum) = bytes.split_at_checked(bytes.len() - CHECKSUM_BYTES).ok_or(ManifestError::Torn)?;
        if bytes.len() < FIXED_BYTES + CHECKSUM_BYTES || xxh3_64(body) != uint_of(checksum) {
            return Err(ManifestError::Torn);
        }
        let (bits, files) = (uint(64), uint(68) as usize);
        if bits > u32::from(VNODE_BITS_MAX) || files > CORES_MAX {
            return Err(ManifestError::Content("more vnodes or files than there may be"));
        }
        let vnodes = 1usize << bits;
        if body.len() != FIXED_BYTES + files * FILE_BYTES + vnodes * VNODE_BYTES {
            return Err(ManifestError::Content("its length"));
        }
        let (files, vnodes) = body[FIXED_BYTES..].split_at(files * FILE_BYTES);
        let vnodes: Vec<VnodeState> = vnodes
            .chunks_exact(VNODE_BYTES)
            .map(|vnode| VnodeState { term: uint_of(&vnode[..4]) as u32, sequence: uint_of(&vnode[4..]) })
            .collect();
        let is_version =
            |state: &VnodeState| state.term <= Version::TERM_MAX && state.sequence <= Version::SEQUENCE_MAX;
        if !vnodes.iter().all(is_version) {
            return Err(ManifestError::Content("a version out of range"));
        }
        let saved = match uint(12) {
            KIND_SERVING => None,
            KIND_SAVED => {
                let name = body[48..48 + POLICY_BYTES].split(|byte| *byte == 0).next().unwrap_or_default();
                let policy = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok());
                let file = |file: &[u8]| SavedFile { chunks: uint_of(&file[..4]) as u32, items: uint_of(&file[4..]) };
                Some(Saved {
                    save: long(16),
                    wall_ms: long(24),
                    policy: policy
                        .ok_or(ManifestError::Content("an eviction policy that this version does not know"))?,
                    files: files.chunks_exact(FILE_BYTES).map(file).collect(),
                })
            }
            _ => return Err(ManifestError::Content("its kind")),
        };
        Ok(Self { identity: Identity { node_id: long(32), seed: long(40), vnodes }, saved })
    }
}

fn uint_of(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn manifest(is_saved: bool, bits: u8) -> Manifest {
        let vnodes = (0..1 << bits).map(|vnode| VnodeState { term: 7 + vnode % 2, sequence: 100 + u64::from(vnode) });
        let files = vec![SavedFile { chunks: 3, items: 1 << 40 }, SavedFile { chunks: 0, items: 0 }];
        let saved = Saved { save: 0xABCD, wall_ms: 1_700_000_000_000, policy: PolicyKind::Sieve, files };
        Manifest {
            identity: Identity { node_id: 5, seed: 6, vnodes: vnodes.collect() },
            saved: is_saved.then_some(saved),
        }
    }

    #[test]
    fn a_manifest_reads_back_as_it_was_written() {
        for (is_saved, bits) in [(true, 0), (true, 4), (false, 12)] {
            let manifest = manifest(is_saved, bits);
            assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest));
        }
    }

    #[test]
    fn what_is_not_ours_is_told_from_what_is_torn() {
        assert_eq!(Manifest::decode(b"[package]\nname = \"quoit\""), Err(ManifestError::Foreign));
        assert_eq!(Manifest::decode(b""), Err(ManifestError::Foreign));
        let mut bytes = manifest(true, 4).encode();
        bytes[8] = 2;
        assert_eq!(Manifest::decode(&bytes), Err(ManifestError::Format { found: 2 }));
        let whole = manifest(true, 4).encode();
        assert_eq!(Manifest::decode(&whole[..whole.len() - 1]), Err(ManifestError::Torn));
    }

    #[test]
    fn another_number_of_vnodes_never_takes_a_version_back() {
        let Manifest { identity, .. } = manifest(true, 4);
        let fewer = identity.recut(2);
        assert_eq!((fewer.len(), fewer[3]), (4, VnodeState { term: 8, sequence: 115 }));
        let more = identity.recut(6);
        assert_eq!((more.len(), more[4]), (64, identity.vnodes[1]));
        assert_eq!(identity.recut(4), identity.vnodes);
        assert_eq!(identity.next_term(), Some(9));
        let last = Identity { vnodes: vec![VnodeState { term: Version::TERM_MAX, sequence: 1 }], ..identity };
        assert_eq!(last.next_term(), None);
    }

    proptest! {
        #[test]
        fn any_damage_is_noticed(at in 0usize..300, change in 1u8..=255, length in 0usize..300) {
            let whole = manifest(true, 4).encode();
            let mut bytes = whole.clone();
            bytes[at % whole.len()] ^= change;
            prop_assert!(Manifest::decode(&bytes).is_err());
            prop_assert!(Manifest::decode(&whole[..length % whole.len()]).is_err());
        }

        #[test]
        fn any_bytes_are_answered_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut sealed = Vec::from(MAGIC);
            sealed.extend(FORMAT.to_le_bytes());
            sealed.extend(bytes);
            sealed.extend(xxh3_64(&sealed).to_le_bytes());
            // Whether it is refused depends on the bytes; most are.
            let _ = Manifest::decode(&sealed);
        }
    }
}
