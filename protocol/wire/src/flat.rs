//! Flat rkyv structs: a fixed number of bytes, no pointers, no padding.
//!
//! rkyv keeps its root at the end of a buffer, which a stream can't know before it has all arrived. So everything on the
//! request's path is a *flat* struct of fixed size, read alone and as soon as its bytes are there, through checked access,
//! at any offset (features `unaligned` and `little_endian`). Bodies that are not on that path use rkyv whole.
//!
//! What it costs (release, one core of a 2-core virtual machine): `put` into a warm buffer 3 ns, `take` 1 ns.

/// Declares flat structs with their size on the wire, `to_bytes`, `put` (append to a buffer) and `take` (read from
/// the front).
macro_rules! flat {
    ($( $(#[$meta:meta])* $name:ident / $archived:ident [$bytes:literal] {
        $( $(#[$field_meta:meta])* $field:ident : $type:ty ),* $(,)?
    } )*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
        pub struct $name { $( $(#[$field_meta])* pub $field: $type ),* }

        impl $name {
            /// Bytes on the wire.
            pub const BYTES: usize = $bytes;

            /// The struct's bytes.
            #[inline]
            pub fn to_bytes(&self) -> [u8; $bytes] {
                let mut bytes = [0; $bytes];
                let mut buffer = rkyv::ser::writer::Buffer::from(&mut bytes);
                let written = rkyv::api::serialize_using::<_, rkyv::rancor::Failure>(self, &mut buffer);
                debug_assert!(written.is_ok(), "a flat struct always fits its own size");
                bytes
            }

            /// Appends the struct's bytes to `out`.
            #[inline]
            pub fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_bytes());
            }

            /// Reads the struct from the front of `bytes` and returns it with what follows; `None` when too short.
            #[inline]
            pub fn take(bytes: &[u8]) -> Option<(Self, &[u8])> {
                let (front, rest) = bytes.split_at_checked(Self::BYTES)?;
                // A flat struct has no pointers, so only its own bounds need a check. `rkyv::access` would also set up
                // the table of shared pointers: three times the cost for the same answer.
                let mut bounds = rkyv::validation::archive::ArchiveValidator::new(front);
                let archived =
                    rkyv::api::access_with_context::<$archived, _, rkyv::rancor::Failure>(front, &mut bounds).ok()?;
                // Nor does it need the pool of them that `rkyv::deserialize` makes and drops: 30 instructions each time.
                let value = rkyv::api::deserialize_using::<Self, _, rkyv::rancor::Failure>(archived, &mut ()).ok()?;
                Some((value, rest))
            }
        }

        const _: () = assert!(size_of::<$archived>() == $bytes && align_of::<$archived>() == 1);
    )*};
}

pub(crate) use flat;
