//! Values: lengths drawn from a range, bytes that no one can compress.

use std::str::FromStr;

use super::random::Random;
use crate::units;

/// Bytes beyond the longest value, so that values begin at different places.
const SPARE_BYTES: usize = 64 << 10;
/// Longest value; the most any of the servers takes.
const VALUE_BYTES_MAX: u64 = 512 << 20;

/// A length, or lengths from the least to the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SizeRange {
    /// Shortest.
    pub(crate) least: u32,
    /// Longest.
    pub(crate) most: u32,
}

/// Why a text is no range of lengths.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SizeRangeError {
    /// One of the lengths is none.
    #[error(transparent)]
    Unit(#[from] units::UnitError),
    /// The wrong way round, or too long.
    #[error("\"{0}\" is no range of sizes: write 64, 4KiB or 33-96, at most 512MiB")]
    Range(String),
}

impl FromStr for SizeRange {
    type Err = SizeRangeError;

    fn from_str(text: &str) -> Result<Self, SizeRangeError> {
        let (least, most) = text.split_once('-').unwrap_or((text, text));
        let (least, most) = (units::parse_bytes(least)?, units::parse_bytes(most)?);
        if least > most || most > VALUE_BYTES_MAX {
            return Err(SizeRangeError::Range(text.to_owned()));
        }
        Ok(Self { least: least as u32, most: most as u32 })
    }
}

impl SizeRange {
    /// Draws a length; all are equally likely.
    #[inline]
    pub(crate) fn draw(self, random: &mut Random) -> u32 {
        if self.least == self.most {
            return self.least;
        }
        self.least + random.below(u64::from(self.most - self.least) + 1) as u32
    }
}

/// Random bytes to cut values from.
#[derive(Clone, Debug)]
pub(crate) struct Values {
    bytes: Box<[u8]>,
}

impl Values {
    /// Bytes for values of up to `value_bytes_max`.
    pub(crate) fn new(value_bytes_max: u32, random: &mut Random) -> Self {
        let mut bytes = vec![0; value_bytes_max as usize + SPARE_BYTES].into_boxed_slice();
        random.fill(&mut bytes);
        Self { bytes }
    }

    /// A value of `value_bytes`; which bytes it has follows from `key`.
    #[inline]
    pub(crate) fn of(&self, key: u64, value_bytes: u32) -> &[u8] {
        let start = (key as usize).wrapping_mul(64) % SPARE_BYTES;
        &self.bytes[start..start + value_bytes as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_people_write_them() {
        assert_eq!("64".parse(), Ok(SizeRange { least: 64, most: 64 }));
        assert_eq!("4KiB".parse(), Ok(SizeRange { least: 4096, most: 4096 }));
        assert_eq!("33-96".parse(), Ok(SizeRange { least: 33, most: 96 }));
        assert!(matches!("96-33".parse::<SizeRange>(), Err(SizeRangeError::Range(_))));
        assert!(matches!("1-600MiB".parse::<SizeRange>(), Err(SizeRangeError::Range(_))));
        assert!(matches!("big".parse::<SizeRange>(), Err(SizeRangeError::Unit(_))));
    }

    #[test]
    fn drawn_lengths_reach_both_ends_and_nothing_else() {
        let range = SizeRange { least: 3, most: 5 };
        let mut random = Random::new(3, 0);
        let mut counts = [0u32; 8];
        for _ in 0..3000 {
            counts[range.draw(&mut random) as usize] += 1;
        }
        assert_eq!(counts.iter().sum::<u32>(), counts[3..=5].iter().sum::<u32>());
        assert!(counts[3..=5].iter().all(|&count| count > 900), "{counts:?}");
    }

    #[test]
    fn every_value_has_its_length() {
        let values = Values::new(1000, &mut Random::new(1, 0));
        for key in [0, 1, 1023, 1024, u64::MAX] {
            assert_eq!(values.of(key, 1000).len(), 1000);
        }
    }
}
