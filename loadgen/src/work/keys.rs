//! Keys: numbers from 0 to n - 1, written with a fixed number of bytes.
//!
//! ```text
//! key 42 in 16 bytes   0 0 0 0 0 0 0 0 0 0 0 0 0 0 2 a
//! key 42 in 20 bytes   k k k k 0 0 0 0 … 2 a
//! ```

/// Hexadecimal digits of a `u64`.
const DIGITS: usize = 16;
/// Longest key of any protocol spoken here.
pub(crate) const KEY_BYTES_MAX: usize = 65_535;
const HEX: &[u8; 16] = b"0123456789abcdef";

/// The keys of a run.
#[derive(Clone, Debug)]
pub(crate) struct KeySpace {
    keys: u64,
    key_bytes: usize,
    /// Coprime to the number of keys: multiplying by it puts ranks in another order, each exactly once.
    stride: u64,
}

/// Why there can be no such keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyError {
    /// There must be one.
    #[error("--keys 0: there must be at least one key")]
    None,
    /// A length no protocol takes.
    #[error("--key-size {0}: a key has 1 to 65535 bytes")]
    Length(usize),
    /// Not enough digits.
    #[error("{keys} keys need {needed} hexadecimal digits each; use --key-size {needed} or more")]
    TooShort {
        /// Keys asked for.
        keys: u64,
        /// Digits of the last.
        needed: usize,
    },
}

impl KeySpace {
    /// `keys` keys of `key_bytes` each.
    pub(crate) fn new(keys: u64, key_bytes: usize) -> Result<Self, KeyError> {
        if keys == 0 {
            return Err(KeyError::None);
        }
        if !(1..=KEY_BYTES_MAX).contains(&key_bytes) {
            return Err(KeyError::Length(key_bytes));
        }
        let needed = digits_needed(keys);
        if key_bytes < needed {
            return Err(KeyError::TooShort { keys, needed });
        }
        Ok(Self { keys, key_bytes, stride: stride(keys) })
    }

    /// A part of these keys, `keys` of them (at least one), for the caller to number among all.
    pub(crate) fn shared_out(&self, keys: u64) -> Self {
        assert!((1..=self.keys).contains(&keys), "checked with the options");
        Self { keys, key_bytes: self.key_bytes, stride: stride(keys) }
    }

    /// Whether the keys leave a byte for another first letter, so that counters lie beside them.
    pub(crate) const fn has_room_for_counters(&self) -> bool {
        self.key_bytes > digits_needed(self.keys)
    }

    /// How many there are.
    pub(crate) const fn len(&self) -> u64 {
        self.keys
    }

    /// Bytes of each.
    pub(crate) const fn key_bytes(&self) -> usize {
        self.key_bytes
    }

    /// The key of a rank of popularity. Popular keys are spread over the space: had they been filled side by side, a
    /// server that keeps neighbours together would look better than it is.
    #[inline]
    pub(crate) fn at_rank(&self, rank: u64) -> u64 {
        match rank.checked_mul(self.stride) {
            Some(product) => product % self.keys,
            None => (u128::from(rank) * u128::from(self.stride) % u128::from(self.keys)) as u64,
        }
    }

    /// A buffer for one key; [`write_digits`] fills in the number.
    pub(crate) fn blank(&self) -> Box<[u8]> {
        vec![b'k'; self.key_bytes].into_boxed_slice()
    }
}

/// Writes `number` into the last digits of `key`.
#[inline]
pub(crate) fn write_digits(number: u64, key: &mut [u8]) {
    if let Some(digits) = key.last_chunk_mut::<DIGITS>() {
        digits[..8].copy_from_slice(&eight_digits((number >> 32) as u32));
        digits[8..].copy_from_slice(&eight_digits(number as u32));
    } else {
        for (place, digit) in key.iter_mut().rev().enumerate() {
            *digit = HEX[(number >> (4 * place)) as usize & 15];
        }
    }
}

/// Eight hexadecimal digits at once: each half-byte moves into a byte of its own, then all become letters together.
#[inline]
const fn eight_digits(number: u32) -> [u8; 8] {
    let spread = number as u64;
    let spread = ((spread << 16) & 0x0000_FFFF_0000_0000) | (spread & 0x0000_FFFF);
    let spread = ((spread << 8) & 0x00FF_0000_00FF_0000) | (spread & 0x0000_00FF_0000_00FF);
    let spread = ((spread << 4) & 0x0F00_0F00_0F00_0F00) | (spread & 0x000F_000F_000F_000F);
    let is_letter = ((spread + 0x0606_0606_0606_0606) >> 4) & 0x0101_0101_0101_0101;
    (spread + 0x3030_3030_3030_3030 + is_letter * (b'a' - b'0' - 10) as u64).to_be_bytes()
}

/// Hexadecimal digits of the last of `keys` keys.
const fn digits_needed(keys: u64) -> usize {
    match (keys - 1).checked_ilog2() {
        Some(bits) => bits as usize / 4 + 1,
        None => 1,
    }
}

/// The golden section spreads neighbours farthest; the next number coprime to `keys` does as well.
fn stride(keys: u64) -> u64 {
    let golden = (keys as f64 * 0.618_033_988_749_895) as u64;
    (golden.max(1)..).find(|&stride| greatest_common_divisor(stride, keys) == 1).unwrap_or(1)
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn written(key_bytes: usize, number: u64) -> String {
        let mut key = KeySpace::new(1, key_bytes).expect("valid").blank();
        write_digits(number, &mut key);
        String::from_utf8(key.into_vec()).expect("text")
    }

    #[test]
    fn keys_have_their_length_and_number() {
        assert_eq!(written(16, 0x2a), "000000000000002a");
        assert_eq!(written(20, 0x2a), "kkkk000000000000002a");
        assert_eq!(written(3, 0x2a), "02a");
        assert_eq!(written(16, u64::MAX), "ffffffffffffffff");
    }

    #[test]
    fn every_digit_is_written_in_every_place() {
        let mut random = crate::work::random::Random::new(11, 0);
        for _ in 0..10_000 {
            let number = random.next_u64();
            assert_eq!(written(16, number), format!("{number:016x}"));
        }
    }

    #[test]
    fn ranks_cover_every_key_once() {
        for keys in [1, 2, 3, 10, 97, 1000, 4096, 99_991] {
            let space = KeySpace::new(keys, 16).expect("valid");
            let seen: HashSet<u64> = (0..keys).map(|rank| space.at_rank(rank)).collect();
            assert_eq!(seen.len() as u64, keys);
            assert!(seen.iter().all(|&key| key < keys));
        }
    }

    #[test]
    fn what_can_not_be_is_refused() {
        assert_eq!(KeySpace::new(0, 16).err(), Some(KeyError::None));
        assert_eq!(KeySpace::new(1, 0).err(), Some(KeyError::Length(0)));
        assert_eq!(KeySpace::new(1, 65_536).err(), Some(KeyError::Length(65_536)));
        assert_eq!(KeySpace::new(257, 2).err(), Some(KeyError::TooShort { keys: 257, needed: 3 }));
        assert!(KeySpace::new(256, 2).is_ok());
    }
}
