//! Vectors of memory that the kernel reads from, or writes to, in one go.

use super::limits::VECTOR_PIECES_MAX;
use crate::shard::Output;

/// The memory of a vectored send or receive, which the kernel reads until its completion.
pub(super) struct Vectored {
    pieces: [libc::iovec; VECTOR_PIECES_MAX],
    header: libc::msghdr,
}

/// Vectors kept for reuse, of a KiB each.
#[derive(Debug, Default)]
pub(super) struct SpareVectors {
    #[expect(
        clippy::vec_box,
        reason = "the kernel reads a vector where it lies, so it goes from hand to hand in its box"
    )]
    vectors: Vec<Box<Vectored>>,
}

/// Vectors that are kept.
const SPARE_VECTORS: usize = 32;

impl std::fmt::Debug for Vectored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vectored").field("pieces", &self.header.msg_iovlen).finish_non_exhaustive()
    }
}

impl SpareVectors {
    /// A vector of no pieces.
    pub(super) fn take(&mut self) -> Box<Vectored> {
        let mut vector = self.vectors.pop().unwrap_or_else(Vectored::new);
        vector.header.msg_iovlen = 0;
        vector
    }

    /// Keeps a vector, or frees it when enough are kept.
    pub(super) fn give(&mut self, vector: Box<Vectored>) {
        if self.vectors.len() < SPARE_VECTORS {
            self.vectors.push(vector);
        }
    }
}

impl Vectored {
    fn new() -> Box<Self> {
        let empty = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: a msghdr of zeroes is a valid message without name, pieces and control data.
        Box::new(Self { pieces: [empty; VECTOR_PIECES_MAX], header: unsafe { std::mem::zeroed() } })
    }

    /// What the kernel is given: valid as long as the vector stays in its box.
    pub(super) fn message(&mut self) -> *mut libc::msghdr {
        self.header.msg_iov = self.pieces.as_mut_ptr();
        &raw mut self.header
    }

    /// Whether it has no pieces.
    pub(super) const fn is_empty(&self) -> bool {
        self.header.msg_iovlen == 0
    }

    /// Adds memory behind what is there, in one piece with it where they are neighbours. False where there is no room.
    pub(super) fn add(&mut self, pointer: *mut u8, length: usize) -> bool {
        let count = self.header.msg_iovlen;
        if let Some(last) = self.pieces[..count].last_mut()
            && last.iov_base.cast::<u8>().wrapping_add(last.iov_len) == pointer
        {
            last.iov_len += length;
            return true;
        }
        let Some(piece) = self.pieces.get_mut(count) else { return false };
        *piece = libc::iovec { iov_base: pointer.cast(), iov_len: length };
        self.header.msg_iovlen += 1;
        true
    }

    /// Points the vector at `bytes_max` bytes of the output from `sent` on.
    pub(super) fn aim_at(&mut self, output: &Output, sent: usize, bytes_max: usize) {
        self.header.msg_iovlen = 0;
        let mut skip = sent;
        let mut room = bytes_max;
        let mut add = |pointer: *const u8, length: usize| {
            let skipped = skip.min(length);
            skip -= skipped;
            let length = (length - skipped).min(room);
            let is_added = length == 0 || self.add(pointer.wrapping_add(skipped).cast_mut(), length);
            room -= length;
            is_added && room > 0
        };
        let mut at = 0;
        for piece in &output.pieces {
            let goes_on = add(output.bytes[at..].as_ptr(), piece.at - at) && add(piece.pointer, piece.length);
            at = piece.at;
            if !goes_on {
                return;
            }
        }
        add(output.bytes[at..].as_ptr(), output.bytes.len() - at);
    }
}
