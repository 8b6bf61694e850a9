//! Chunks: the pieces in which a state is written and read, each complete in itself and checked by itself.
//!
//! ```text
//! 0          8      16     20       24              28     32
//! ┌──────────┬──────┬──────┬────────┬───────────────┬──────┬─────────┬───────┐
//! │ checksum │ save │ file │ number │ payload_bytes │ kind │ payload │ zeros │   1 MiB in all
//! │ u64      │ u64  │ u32  │ u32    │ u32           │ u32  │         │       │
//! └──────────┴──────┴──────┴────────┴───────────────┴──────┴─────────┴───────┘
//! ```
//! The checksum (xxh3 with a seed of our own) is over all that follows it, the zeros too. A chunk knows which save it is
//! of, which file and where in it: one that is left of an older save, or stands in another's place, is noticed like one
//! that was torn.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Bytes of every chunk. Large enough for a disk to work at its full speed, small enough that a few of them at a time are
/// little memory; a multiple of every disk's block.
pub const CHUNK_BYTES: usize = 1 << 20;
const HEAD_BYTES: usize = 32;
/// Bytes of payload that a chunk has room for.
pub const CHUNK_PAYLOAD_BYTES_MAX: usize = CHUNK_BYTES - HEAD_BYTES;
/// What makes a checksum one of ours: "QuoitSt1".
const CHECKSUM_SEED: u64 = u64::from_le_bytes(*b"QuoitSt1");

/// Which chunk it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkPlace {
    /// The save, by a number drawn at random.
    pub save: u64,
    /// The file within the save.
    pub file: u32,
    /// The chunk within the file.
    pub number: u32,
}

/// What a chunk's payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkKind {
    /// Items (`record.rs`).
    Items = 1,
    /// Results of writes that are kept for repeats.
    Retries = 2,
}

/// Why a state can't be used: what was read is not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Torn, overwritten, or never of this format.
    #[error("its checksum does not fit")]
    Checksum,
    /// Whole, but of another save or place.
    #[error("it is a piece of another save, file or place")]
    Misplaced,
    /// Whole, but what is in it does not hold together: written by something else than this program.
    #[error("it is whole but makes no sense: {0}")]
    Content(&'static str),
}

/// A chunk that is being filled.
#[derive(Debug)]
pub struct ChunkWriter<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl<'a> ChunkWriter<'a> {
    /// An empty chunk in `bytes`, which are [`CHUNK_BYTES`].
    pub fn new(bytes: &'a mut [u8]) -> Self {
        assert_eq!(bytes.len(), CHUNK_BYTES, "a chunk has its size");
        Self { bytes, at: HEAD_BYTES }
    }

    /// Bytes that still fit.
    pub fn room(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Whether nothing was put into it.
    pub fn is_empty(&self) -> bool {
        self.at == HEAD_BYTES
    }

    /// Appends `bytes`, for which there is room.
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    /// Completes the chunk.
    pub fn seal(self, place: ChunkPlace, kind: ChunkKind) {
        let Self { bytes, at } = self;
        bytes[at..].fill(0);
        bytes[8..16].copy_from_slice(&place.save.to_le_bytes());
        bytes[16..20].copy_from_slice(&place.file.to_le_bytes());
        bytes[20..24].copy_from_slice(&place.number.to_le_bytes());
        bytes[24..28].copy_from_slice(&((at - HEAD_BYTES) as u32).to_le_bytes());
        bytes[28..32].copy_from_slice(&(kind as u32).to_le_bytes());
        let checksum = xxh3_64_with_seed(&bytes[8..], CHECKSUM_SEED);
        bytes[..8].copy_from_slice(&checksum.to_le_bytes());
    }
}

/// Checks a chunk that was read; its kind and its payload.
pub fn open_chunk(bytes: &[u8], place: ChunkPlace) -> Result<(ChunkKind, &[u8]), Damage> {
    let uint = |at: usize| bytes[at..].first_chunk().map_or(0, |four| u32::from_le_bytes(*four));
    let long = |at: usize| bytes[at..].first_chunk().map_or(0, |eight| u64::from_le_bytes(*eight));
    if bytes.len() != CHUNK_BYTES || xxh3_64_with_seed(&bytes[8..], CHECKSUM_SEED) != long(0) {
        return Err(Damage::Checksum);
    }
    if (ChunkPlace { save: long(8), file: uint(16), number: uint(20) }) != place {
        return Err(Damage::Misplaced);
    }
    let kind = match uint(28) {
        1 => ChunkKind::Items,
        2 => ChunkKind::Retries,
        _ => return Err(Damage::Content("a kind of chunk that this version does not know")),
    };
    let payload = bytes[HEAD_BYTES..].get(..uint(24) as usize);
    Ok((kind, payload.ok_or(Damage::Content("a chunk that says it is longer than it is"))?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLACE: ChunkPlace = ChunkPlace { save: 0x0123_4567_89AB_CDEF, file: 3, number: 70_000 };

    fn sealed(payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0xFF; CHUNK_BYTES];
        let mut chunk = ChunkWriter::new(&mut bytes);
        chunk.put(payload);
        chunk.seal(PLACE, ChunkKind::Items);
        bytes
    }

    #[test]
    fn a_chunk_opens_in_its_own_place_only() {
        let bytes = sealed(b"payload");
        assert_eq!(open_chunk(&bytes, PLACE), Ok((ChunkKind::Items, &b"payload"[..])));
        for other in
            [ChunkPlace { save: 1, ..PLACE }, ChunkPlace { file: 4, ..PLACE }, ChunkPlace { number: 7, ..PLACE }]
        {
            assert_eq!(open_chunk(&bytes, other), Err(Damage::Misplaced));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_changed_byte_or_a_missing_end_is_noticed(at in 0..CHUNK_BYTES, change in 1u8..=255, length in 0..CHUNK_BYTES) {
            let mut bytes = sealed(&[7; 1000]);
            bytes[at] ^= change;
            prop_assert_eq!(open_chunk(&bytes, PLACE), Err(Damage::Checksum));
            bytes[at] ^= change;
            prop_assert_eq!(open_chunk(&bytes[..length], PLACE), Err(Damage::Checksum));
        }
    }
}
