//! Flat rkyv structs: a fixed number of bytes, no pointers, no padding.
//!
//! rkyv keeps its root at the end of a buffer, which a stream can't know before it has all arrived. So everything on the
//! request's path is a *flat* struct of fixed size, read alone and as soon as its bytes are there, through checked access,
//! at any offset (features `unaligned` and `little_endian`). Bodies that are not on that path use rkyv whole.
//!
//! What it costs (release, one core of a 2-core virtual machine): `put` into a warm buffer 3 ns, `take` 1 ns.

/// Declares flat structs with their size on the wire, `put` (append to a buffer) and `take` (read from the front).
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

            /// Appends the struct's bytes to `out`.
            pub fn put(&self, out: &mut Vec<u8>) {
                let written = rkyv::api::serialize_using::<_, rkyv::rancor::Failure>(self, out);
                debug_assert!(written.is_ok(), "a flat struct always fits a Vec");
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
                let value = rkyv::deserialize::<Self, rkyv::rancor::Failure>(archived).ok()?;
                Some((value, rest))
            }
        }

        const _: () = assert!(size_of::<$archived>() == $bytes && align_of::<$archived>() == 1);
    )*};
}

pub(crate) use flat;
