//! Values that prove themselves: they say whose they are, and every byte of them can be checked.
//!
//! ```text
//! 0        8         16         20        24
//! ┌────────┬─────────┬──────────┬─────────┬──────────────────────────────────────────┐
//! │ key    │ writer  │ number   │ length  │ filler: a stream that follows from all    │
//! │ u64    │ u64     │ u32      │ u32     │ four fields before it                     │
//! └────────┴─────────┴──────────┴─────────┴──────────────────────────────────────────┘
//! ```
//! Little-endian. `writer` differs from run to run: what an earlier run has left behind is recognised.

use crate::work::random::Random;

/// Bytes of a stamp; the shortest value that can be verified.
pub(crate) const STAMP_BYTES: usize = 24;

/// What a value says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// The key it was written to.
    pub(super) key: u64,
    /// Who wrote it.
    pub(super) writer: u64,
    /// Which of the key's writes it was, from 1.
    pub(super) number: u32,
}

/// Why a value is not what anyone wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum StampError {
    /// Too short to hold a stamp.
    #[error("{0} bytes, too few for any value of this run")]
    Short(usize),
    /// The length within doesn't fit.
    #[error("{actual} bytes, though it says {stated}")]
    Length {
        /// Bytes there are.
        actual: usize,
        /// Bytes there should be.
        stated: usize,
    },
    /// A byte of the filler is wrong.
    #[error("a value whose byte {0} is wrong")]
    Byte(usize),
}

impl Stamp {
    /// Writes a value of `value_bytes` (at least [`STAMP_BYTES`]) over `out`.
    pub(super) fn write(self, value_bytes: usize, out: &mut Vec<u8>) {
        out.clear();
        out.resize(value_bytes, 0);
        let (head, filler) = out.split_at_mut(STAMP_BYTES);
        head[..8].copy_from_slice(&self.key.to_le_bytes());
        head[8..16].copy_from_slice(&self.writer.to_le_bytes());
        head[16..20].copy_from_slice(&self.number.to_le_bytes());
        head[20..].copy_from_slice(&(value_bytes as u32).to_le_bytes());
        self.filler(value_bytes).fill(filler);
    }

    /// Reads a value and checks every byte of it.
    pub(super) fn read(value: &[u8]) -> Result<Self, StampError> {
        let Some((head, filler)) = value.split_first_chunk::<STAMP_BYTES>() else {
            return Err(StampError::Short(value.len()));
        };
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| head[at + byte]));
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|byte| head[at + byte]));
        let stamp = Self { key: u64_at(0), writer: u64_at(8), number: u32_at(16) };
        let stated = u32_at(20) as usize;
        if stated != value.len() {
            return Err(StampError::Length { actual: value.len(), stated });
        }
        let mut expected = stamp.filler(stated);
        for (index, chunk) in filler.chunks(8).enumerate() {
            let right = expected.next_u64().to_le_bytes();
            if let Some(wrong) = chunk.iter().zip(right).position(|(&byte, right)| byte != right) {
                return Err(StampError::Byte(STAMP_BYTES + index * 8 + wrong));
            }
        }
        Ok(stamp)
    }

    fn filler(self, value_bytes: usize) -> Random {
        Random::new(self.key ^ self.writer.rotate_left(17), (u64::from(self.number) << 32) | value_bytes as u64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_written_is_read_back(key: u64, writer: u64, number: u32, value_bytes in STAMP_BYTES..200) {
            let stamp = Stamp { key, writer, number };
            let mut value = Vec::new();
            stamp.write(value_bytes, &mut value);
            prop_assert_eq!(value.len(), value_bytes);
            prop_assert_eq!(Stamp::read(&value), Ok(stamp));
        }

        #[test]
        fn one_changed_byte_is_noticed(value_bytes in STAMP_BYTES..100, at: usize, change in 1u8..) {
            let stamp = Stamp { key: 42, writer: 7, number: 3 };
            let mut value = Vec::new();
            stamp.write(value_bytes, &mut value);
            value[at % value_bytes] ^= change;
            prop_assert_ne!(Stamp::read(&value), Ok(stamp));
        }

        #[test]
        fn a_cut_value_is_noticed(value_bytes in STAMP_BYTES..100, cut in 1usize..100) {
            let mut value = Vec::new();
            Stamp { key: 42, writer: 7, number: 3 }.write(value_bytes, &mut value);
            value.truncate(value_bytes.saturating_sub(cut));
            prop_assert!(Stamp::read(&value).is_err());
        }
    }
}
