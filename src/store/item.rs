//! The bytes of one item.
//!
//! ```text
//! 0       1                        1+l       +s           +e           +i          +f       +key
//! ┌───────┬────────────────────────┬──────────┬────────────┬────────────┬───────────┬───────┬───────┐
//! │ shape │ value_bytes, key_bytes │ sequence │ expires ms │ idle ttl   │ client    │ key   │ value │
//! │ 1     │ 2, 3, 4 or 6           │ 2..=5    │ 0, 2 or 5  │ ms, 0 or 5 │ flags     │       │       │
//! │       │                        │          │            │            │ 0, 1 or 4 │       │       │
//! └───────┴────────────────────────┴──────────┴────────────┴────────────┴───────────┴───────┴───────┘
//!
//! shape  7           6   5            4   3              2   1          0
//!       ┌───────────────┬────────────────┬──────────────────┬─────────────┐
//!       │ expiry: none, │ client flags:  │ bits of lengths  │ sequence:   │
//!       │ shared, own,  │ none, shared,  │ (value, key):    │ 2 bytes + n │
//!       │ own and idle  │ 1 or 4 bytes   │ (10,6) (14,10)   │             │
//!       │               │                │ (14,18) (32,16)  │             │
//!       └───────────────┴────────────────┴──────────────────┴─────────────┘
//!
//! value of a large item:  ┌──────────────────────────────┬─────────────────────────────┐
//!                         │ tail: value_bytes mod 8 KiB  │ value_bytes / 8 KiB blocks  │
//!                         │                              │ u32 each, in order          │
//!                         └──────────────────────────────┴─────────────────────────────┘
//! ```
//! No padding: a small item costs 5 bytes beside key and value while its vnode has seen fewer than 65,536 writes. The
//! term of its version is the vnode's. All integers are little-endian.
//!
//! What is shared the segment says for all of its items ([`Shared`]): an expiry is then two bytes, the milliseconds since
//! the one that the segment says, and client flags that are the segment's are none. Most caches give most items the same
//! time to live and the same flags, and items that are written one after the other lie together.

use super::arena::HEAD_BYTES_MAX;
use super::segments::{BLOCK_BYTES, NEVER_MS};

/// Values up to this length lie in their item, longer ones in blocks with the rest (their tail) in the item. A sixteenth
/// of a segment, so that what is left at a segment's end is small.
pub(super) const INLINE_BYTES_MAX: usize = BLOCK_BYTES;

const SEQUENCE_WIDTH_MIN: usize = 2;
const SHAPE_LENGTHS_SHIFT: u32 = 2;
const SHAPE_LENGTHS_MASK: u8 = 3 << SHAPE_LENGTHS_SHIFT;
/// Bits of the value's length and, above them, of the key's, by the shape's two bits. The first takes what most items are in
/// two bytes: a key under 64 bytes, a value under 1 KiB. The last is for large values.
const LENGTH_BITS: [(u8, u8); 4] = [(10, 6), (14, 10), (14, 18), (32, 16)];
/// The bit of the second kind, beside the bit of those that are not common.
const SHAPE_MEDIUM: u8 = 1 << SHAPE_LENGTHS_SHIFT;
/// The bit of both kinds that are not common.
const SHAPE_LONG: u8 = 2 << SHAPE_LENGTHS_SHIFT;
/// What the shape of a plain item of the common kinds may say: lengths of either, a sequence of any.
const SHAPE_COMMON: u8 = SHAPE_MEDIUM | 3;
const SHAPE_FLAGS_SHIFT: u32 = 4;
const SHAPE_FLAGS_MASK: u8 = 3 << SHAPE_FLAGS_SHIFT;
const FLAGS_SHARED: u8 = 1 << SHAPE_FLAGS_SHIFT;
const FLAGS_SHORT: u8 = 2 << SHAPE_FLAGS_SHIFT;
const FLAGS_LONG: u8 = 3 << SHAPE_FLAGS_SHIFT;
/// Width of the client flags, by the shape's two bits.
const FLAGS_WIDTHS: [u8; 4] = [0, 0, 1, 4];
const SHAPE_EXPIRY_SHIFT: u32 = 6;
const SHAPE_EXPIRY_MASK: u8 = 3 << SHAPE_EXPIRY_SHIFT;
const EXPIRY_SHARED: u8 = 1 << SHAPE_EXPIRY_SHIFT;
const EXPIRY_OWN: u8 = 2 << SHAPE_EXPIRY_SHIFT;
const EXPIRY_IDLE: u8 = 3 << SHAPE_EXPIRY_SHIFT;

const MILLIS_BYTES: usize = 5;
/// Bytes of an expiry that counts from the segment's.
const SHARED_MILLIS_BYTES: usize = 2;
/// How long before the expiry of the first item that has one a segment's begins. Those that follow end later mostly, and
/// have the other three quarters of the 65 s that two bytes reach.
const SHARED_BEFORE_MS: u64 = (1 << (8 * SHARED_MILLIS_BYTES)) / 4;
/// The latest expiry that fits; later ones end there, 34 years after the clock's origin.
pub(super) const MILLIS_MAX: u64 = (1 << (8 * MILLIS_BYTES)) - 1;
/// Longest header there is.
pub(super) const HEADER_BYTES_MAX: usize = HEADER_BYTES[0b1111_1111] as usize;
/// Longest record: what lies in a segment for one item, with the longest key and the largest value.
pub(super) const RECORD_BYTES_MAX: usize = HEADER_BYTES_MAX
    + quoit_wire::limits::KEY_BYTES_MAX
    + BLOCK_BYTES
    + 4 * (quoit_wire::limits::VALUE_BYTES_MAX / BLOCK_BYTES);
const _: () = assert!(RECORD_BYTES_MAX <= super::segments::SEGMENT_BYTES);
const _: () = assert!(HEADER_BYTES[0] == 5);

/// Length of the header for every shape.
const HEADER_BYTES: [u8; 256] = {
    let mut table = [0; 256];
    let mut shape = 0;
    while shape < 256 {
        let bits = shape as u8;
        let (value_bits, key_bits) = LENGTH_BITS[((bits & SHAPE_LENGTHS_MASK) >> SHAPE_LENGTHS_SHIFT) as usize];
        let lengths = (value_bits + key_bits) / 8;
        let sequence = SEQUENCE_WIDTH_MIN as u8 + (bits & 3);
        let expiry = match bits & SHAPE_EXPIRY_MASK {
            EXPIRY_SHARED => SHARED_MILLIS_BYTES as u8,
            EXPIRY_OWN => MILLIS_BYTES as u8,
            EXPIRY_IDLE => 2 * MILLIS_BYTES as u8,
            _ => 0,
        };
        table[shape] = 1 + lengths + sequence + expiry + flags_width(bits) as u8;
        shape += 1;
    }
    table
};

/// What a segment says for its items. It is learned from the first that have it, and stays as long as the segment is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shared {
    /// Expiries are counted from here; [`NEVER_MS`]: no item has one yet.
    expires_from_ms: u64,
    /// Zero: no item has any yet.
    client_flags: u32,
}

impl Shared {
    /// Nothing is shared yet.
    pub(super) const NONE: Self = Self { expires_from_ms: NEVER_MS, client_flags: 0 };

    /// Learns from an item that will lie in the segment what is not known yet.
    pub(super) fn learn(&mut self, header: &Header) {
        if let Some(expires_ms) = header.expires_ms
            && self.expires_from_ms == NEVER_MS
        {
            self.expires_from_ms = expires_ms.min(MILLIS_MAX).saturating_sub(SHARED_BEFORE_MS);
        }
        if self.client_flags == 0 {
            self.client_flags = header.client_flags;
        }
    }

    /// What is left of an expiry when the segment has said its part; `None`: it can't be said in two bytes.
    fn rest_of(&self, expires_ms: u64) -> Option<u64> {
        let rest_ms = expires_ms.checked_sub(self.expires_from_ms)?;
        (rest_ms >> (8 * SHARED_MILLIS_BYTES) == 0).then_some(rest_ms)
    }
}

/// Which fields of an item its segment says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shares {
    expiry: bool,
    client_flags: bool,
}

/// What an item says beside key and value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) key_bytes: usize,
    /// Length of the whole value, blocks included.
    pub(super) value_bytes: usize,
    pub(super) sequence: u64,
    pub(super) client_flags: u32,
    /// `None`: never.
    pub(super) expires_ms: Option<u64>,
    /// Zero: the expiry does not move with hits. Otherwise there is one.
    pub(super) idle_ms: u64,
    /// As the item lies in its segment. None of them, until it has a place: [`Self::share`].
    pub(super) shares: Shares,
}

impl Header {
    /// Reads the header at the start of `bytes`, which the store wrote into a segment that says `shared`.
    #[inline(always)]
    pub(super) fn read(bytes: &[u8; HEAD_BYTES_MAX], shared: &Shared) -> Self {
        let head = Head::read(bytes);
        let Head { shape, key_bytes, value_bytes, sequence, .. } = head;
        let mut header = Self { key_bytes, value_bytes, sequence, ..Self::default() };
        if head.is_plain() {
            return header;
        }
        let mut at = head.fields_at;
        header.shares.expiry = shape & SHAPE_EXPIRY_MASK == EXPIRY_SHARED;
        header.expires_ms = match shape & SHAPE_EXPIRY_MASK {
            0 => None,
            EXPIRY_SHARED => Some(shared.expires_from_ms + read_uint(bytes, &mut at, SHARED_MILLIS_BYTES)),
            _ => Some(read_uint(bytes, &mut at, MILLIS_BYTES)),
        };
        if shape & SHAPE_EXPIRY_MASK == EXPIRY_IDLE {
            header.idle_ms = read_uint(bytes, &mut at, MILLIS_BYTES);
        }
        header.shares.client_flags = shape & SHAPE_FLAGS_MASK == FLAGS_SHARED;
        header.client_flags = match shape & SHAPE_FLAGS_MASK {
            0 => 0,
            FLAGS_SHARED => shared.client_flags,
            _ => read_uint(bytes, &mut at, flags_width(shape)) as u32,
        };
        header
    }

    /// Leaves to the segment what it says; everything else the item says itself, whatever was so before.
    pub(super) fn share(&mut self, shared: &Shared) {
        self.shares = Shares {
            // With idle expiry each hit writes a new one, which has to fit where the last one was.
            expiry: self.idle_ms == 0 && self.expires_ms.is_some_and(|ms| shared.rest_of(ms).is_some()),
            client_flags: self.client_flags != 0 && self.client_flags == shared.client_flags,
        };
    }

    /// Writes the header to the start of `out`, in a segment that says `shared`; returns its length.
    pub(super) fn write(&self, out: &mut [u8], shared: &Shared) -> usize {
        let shape = self.shape();
        out[0] = shape;
        let mut at = 1;
        let (value_bits, key_bits) = length_bits(shape);
        let lengths = self.value_bytes as u64 | (self.key_bytes as u64) << value_bits;
        write_uint(out, &mut at, (value_bits + key_bits) as usize / 8, lengths);
        write_uint(out, &mut at, SEQUENCE_WIDTH_MIN + usize::from(shape & 3), self.sequence);
        if let Some(expires_ms) = self.expires_ms.map(|expires_ms| expires_ms.min(MILLIS_MAX)) {
            match self.shares.expiry {
                true => write_uint(out, &mut at, SHARED_MILLIS_BYTES, expires_ms - shared.expires_from_ms),
                false => write_uint(out, &mut at, MILLIS_BYTES, expires_ms),
            }
            if self.idle_ms != 0 {
                write_uint(out, &mut at, MILLIS_BYTES, self.idle_ms.min(MILLIS_MAX));
            }
        }
        if !self.shares.client_flags {
            write_uint(out, &mut at, flags_width(shape), u64::from(self.client_flags));
        }
        at
    }

    /// Length of the header.
    #[inline]
    pub(super) fn bytes(&self) -> usize {
        usize::from(HEADER_BYTES[usize::from(self.shape())])
    }

    /// Whether the value lies in blocks.
    #[inline]
    pub(super) const fn is_large(&self) -> bool {
        self.value_bytes > INLINE_BYTES_MAX
    }

    /// Blocks that the value lies in.
    #[inline]
    pub(super) const fn blocks(&self) -> usize {
        if self.is_large() { self.value_bytes / BLOCK_BYTES } else { 0 }
    }

    /// Bytes of the value that lie in the item itself.
    #[inline]
    pub(super) const fn inline_bytes(&self) -> usize {
        if self.is_large() { self.value_bytes % BLOCK_BYTES } else { self.value_bytes }
    }

    /// Bytes that the item takes in its segment.
    #[inline]
    pub(super) fn record_bytes(&self) -> usize {
        self.bytes() + self.key_bytes + self.inline_bytes() + 4 * self.blocks()
    }

    /// Bytes that the item takes in all, its blocks included.
    #[inline]
    pub(super) fn total_bytes(&self) -> usize {
        self.record_bytes() + self.blocks() * BLOCK_BYTES
    }

    /// Whether the item has ended.
    #[inline]
    pub(super) fn is_expired(&self, now_ms: u64) -> bool {
        self.expires_ms.is_some_and(|expires_ms| now_ms >= expires_ms)
    }

    /// The first byte: which fields there are and how wide they are.
    #[inline]
    pub(super) const fn shape(&self) -> u8 {
        let sequence = match self.sequence {
            0..=0xFFFF => 0,
            0x1_0000..=0xFF_FFFF => 1,
            0x100_0000..=0xFFFF_FFFF => 2,
            _ => 3,
        };
        let lengths = match (self.value_bytes, self.key_bytes) {
            (0..=0x3FF, 0..=0x3F) => 0,
            (0..=INLINE_BYTES_MAX, 0..=0x3FF) => 1,
            (0..=INLINE_BYTES_MAX, _) => 2,
            _ => 3,
        };
        let flags = match self.client_flags {
            0 => 0,
            _ if self.shares.client_flags => FLAGS_SHARED,
            0x1..=0xFF => FLAGS_SHORT,
            _ => FLAGS_LONG,
        };
        let expiry = match self.expires_ms {
            None => 0,
            Some(_) if self.idle_ms != 0 => EXPIRY_IDLE,
            Some(_) if self.shares.expiry => EXPIRY_SHARED,
            Some(_) => EXPIRY_OWN,
        };
        sequence | lengths << SHAPE_LENGTHS_SHIFT | flags | expiry
    }
}

/// What every item says: what most reads need to know. It is read in few steps, as they all wait for the item's memory, and
/// the processor has room for little more than a hundred that wait.
#[derive(Clone, Copy)]
pub(super) struct Head {
    shape: u8,
    pub(super) key_bytes: usize,
    pub(super) value_bytes: usize,
    pub(super) sequence: u64,
    /// Where expiry, idle time and client flags begin, those that there are.
    fields_at: usize,
}

impl Head {
    /// Reads the head at the start of `bytes`.
    #[inline(always)]
    pub(super) fn read(bytes: &[u8; HEAD_BYTES_MAX]) -> Self {
        if bytes[0] & SHAPE_LONG == 0 { Self::read_common(bytes) } else { Self::read_any(bytes) }
    }

    /// Reads a plain head of the common kind: without expiry, idle time and client flags, with a short key, and a value
    /// that is not large. `None`: of another kind.
    #[inline(always)]
    pub(super) fn read_plain(bytes: &[u8; HEAD_BYTES_MAX]) -> Option<Self> {
        let shape = bytes[0];
        (shape & !SHAPE_COMMON == 0).then(|| Self::read_common(bytes))
    }

    /// Reads a head of the common kind, where no field is further away than a choice of two.
    #[inline(always)]
    fn read_common(bytes: &[u8; HEAD_BYTES_MAX]) -> Self {
        let shape = bytes[0];
        let is_medium = u32::from((shape & SHAPE_MEDIUM) >> SHAPE_LENGTHS_SHIFT);
        let lengths = u32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]);
        let value_bits = 10 + 4 * is_medium;
        let value_bytes = (lengths & !(u32::MAX << value_bits)) as usize;
        let key_bytes = (lengths >> value_bits & (0x3F | (0x3C0 * is_medium))) as usize;
        let sequence_at = 3 + is_medium as usize;
        let sequence = word_at(bytes, sequence_at) & SEQUENCE_MASKS[usize::from(shape & 3)];
        let fields_at = sequence_at + SEQUENCE_WIDTH_MIN + usize::from(shape & 3);
        Self { shape, key_bytes, value_bytes, sequence, fields_at }
    }

    /// Shape and both lengths take at most seven bytes: one load, and shifts.
    #[inline(never)]
    fn read_any(bytes: &[u8; HEAD_BYTES_MAX]) -> Self {
        let word = word_at(bytes, 0);
        let shape = word as u8;
        let (value_bits, key_bits) = length_bits(shape);
        let value_bytes = (word >> 8 & low_bits(value_bits)) as usize;
        let key_bytes = (word >> (8 + value_bits) & low_bits(key_bits)) as usize;
        let mut fields_at = 1 + (value_bits + key_bits) as usize / 8;
        let sequence = read_uint(bytes, &mut fields_at, SEQUENCE_WIDTH_MIN + usize::from(shape & 3));
        Self { shape, key_bytes, value_bytes, sequence, fields_at }
    }

    /// Whether it has no expiry, no idle time and no client flags.
    #[inline(always)]
    pub(super) fn is_plain(&self) -> bool {
        self.shape & (SHAPE_EXPIRY_MASK | SHAPE_FLAGS_MASK) == 0
    }

    /// Where key and value begin: the header's length.
    #[inline(always)]
    pub(super) fn key_at(&self) -> usize {
        if self.is_plain() { self.fields_at } else { usize::from(HEADER_BYTES[usize::from(self.shape)]) }
    }
}

/// Keys of these lengths are compared with what begins `at` so many bytes from an item's start, by loads of eight bytes that
/// may overlap: without the call and the bounds that the general way costs.
pub(super) const SHORT_KEY_BYTES_MIN: usize = 8;
pub(super) const SHORT_KEY_BYTES_MAX: usize = 32;
const _: () = assert!(HEADER_BYTES_MAX + SHORT_KEY_BYTES_MAX <= HEAD_BYTES_MAX);

/// Whether the item with this `head`, whose key has as many bytes as `key` and begins `at`, has that key.
#[inline(always)]
pub(super) fn is_short_key_at(head: &[u8; HEAD_BYTES_MAX], at: usize, key: &[u8]) -> bool {
    let at = at.min(HEADER_BYTES_MAX);
    let word = |bytes: &[u8], at: usize| bytes[at..at + 8].first_chunk().map_or(0, |word| u64::from_le_bytes(*word));
    let differs = |offset: usize| word(head, at + offset) ^ word(key, offset);
    match key.len() {
        length @ SHORT_KEY_BYTES_MIN..=16 => differs(0) | differs(length - 8) == 0,
        length @ 17..=SHORT_KEY_BYTES_MAX => differs(0) | differs(8) | differs(length - 16) | differs(length - 8) == 0,
        _ => false,
    }
}

/// Eight bytes from `at` on.
#[inline(always)]
fn word_at(bytes: &[u8; HEAD_BYTES_MAX], at: usize) -> u64 {
    bytes[at..at + 8].first_chunk().map_or(0, |word| u64::from_le_bytes(*word))
}

/// The sequence's bits among eight bytes, by its width.
const SEQUENCE_MASKS: [u64; 4] = [low_bits(16), low_bits(24), low_bits(32), low_bits(40)];

#[inline(always)]
const fn low_bits(count: u32) -> u64 {
    u64::MAX >> (64 - count)
}

/// Bits of the value's length and of the key's.
#[inline]
fn length_bits(shape: u8) -> (u32, u32) {
    let (value_bits, key_bits) = LENGTH_BITS[usize::from((shape & SHAPE_LENGTHS_MASK) >> SHAPE_LENGTHS_SHIFT)];
    (u32::from(value_bits), u32::from(key_bits))
}

/// Width of the client flags.
#[inline]
const fn flags_width(shape: u8) -> usize {
    FLAGS_WIDTHS[((shape & SHAPE_FLAGS_MASK) >> SHAPE_FLAGS_SHIFT) as usize] as usize
}

/// Reads `width` bytes, at most eight, by one load of eight: fields' widths differ from item to item, and a loop over
/// them would be mispredicted.
#[inline(always)]
fn read_uint(bytes: &[u8; HEAD_BYTES_MAX], at: &mut usize, width: usize) -> u64 {
    let word = word_at(bytes, *at);
    *at += width;
    word & low_bits(8 * width as u32)
}

#[inline]
fn write_uint(out: &mut [u8], at: &mut usize, width: usize, value: u64) {
    debug_assert!(width == 8 || value >> (8 * width) == 0, "{value} does not fit {width} bytes");
    out[*at..*at + width].copy_from_slice(&value.to_le_bytes()[..width]);
    *at += width;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_header_reads_back_as_it_was_written(
            key_bytes in prop_oneof![1usize..=63, 64usize..=1023, 1024usize..=65_535],
            value_bytes in prop_oneof![0usize..=1023, 1024usize..=8192, 8193usize..=16 << 20],
            sequence in (0u32..40).prop_flat_map(|bits| 0u64..(2 << bits).min((1 << 40) - 1)),
            client_flags in prop_oneof![Just(0), 1u32..=255, 256u32..=65_535, any::<u32>()],
            expires_ms in proptest::option::of(0u64..=MILLIS_MAX),
            idle_ms in prop_oneof![Just(0), 1u64..=MILLIS_MAX],
            first_expires_ms in proptest::option::of(-70_000i64..70_000),
            has_same_flags in any::<bool>(),
        ) {
            let idle_ms = if expires_ms.is_some() { idle_ms } else { 0 };
            let mut header = Header { key_bytes, value_bytes, sequence, client_flags, expires_ms, idle_ms, ..Header::default() };
            let mut shared = Shared::NONE;
            // The first item of the segment, which ends some time before this one or after it.
            let first_expires_ms = first_expires_ms.zip(expires_ms).map(|(after, own)| own.saturating_add_signed(after));
            let first_flags = if has_same_flags { client_flags } else { 3 };
            shared.learn(&Header { expires_ms: first_expires_ms, client_flags: first_flags, ..Header::default() });
            header.share(&shared);
            let mut bytes = vec![0; HEAD_BYTES_MAX + key_bytes];
            prop_assert_eq!(header.write(&mut bytes, &shared), header.bytes());
            prop_assert_eq!(Header::read(bytes.first_chunk().unwrap(), &shared), header);
            let head = Head::read(bytes.first_chunk().unwrap());
            prop_assert_eq!((head.key_bytes, head.value_bytes, head.sequence), (key_bytes, value_bytes, sequence));
            prop_assert_eq!(head.key_at(), header.bytes());
            prop_assert_eq!(head.is_plain(), expires_ms.is_none() && idle_ms == 0 && client_flags == 0);
        }

        #[test]
        fn short_keys_are_compared_as_slices_are(
            (stored, key) in (SHORT_KEY_BYTES_MIN..=SHORT_KEY_BYTES_MAX).prop_flat_map(|length| {
                let bytes = proptest::collection::vec(0u8..3, length);
                (bytes.clone(), bytes)
            }),
            flipped in 0usize..2 * SHORT_KEY_BYTES_MAX,
            at in 0..=HEADER_BYTES_MAX,
        ) {
            let mut head = [9; HEAD_BYTES_MAX];
            head[at..at + stored.len()].copy_from_slice(&stored);
            prop_assert_eq!(is_short_key_at(&head, at, &key), stored == key);
            let mut other = stored.clone();
            if let Some(byte) = other.get_mut(flipped) {
                *byte ^= 1;
            }
            prop_assert_eq!(is_short_key_at(&head, at, &other), stored == other);
        }
    }
}
