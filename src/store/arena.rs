//! The arena: one anonymous mapping from which items, index pages and ghosts are served.
//!
//! The only file of the store that touches raw memory. It hands out bounds-checked slices; what lies where is the
//! business of `segments.rs`. Pages are untouched, and cost nothing, until something is written to them.

use std::io;
use std::ptr::NonNull;

/// Bytes of a cache line, the unit of index buckets.
pub(crate) const LINE_BYTES: usize = 64;

/// A cache line as what the index and the ghosts are made of.
pub(super) type Line = [u16; LINE_BYTES / 2];
/// A line in which nothing is.
pub(super) const EMPTY_LINE: Line = [0; LINE_BYTES / 2];

/// The most that [`Arena::head`] gives. An arena ends with so many bytes that belong to no segment.
pub(super) const HEAD_BYTES_MAX: usize = LINE_BYTES;

/// What the arena begins at a multiple of: a huge page.
const ALIGN_BYTES: usize = 2 << 20;

/// One anonymous, private mapping, between stretches of addresses that nothing may touch.
pub(super) struct Arena {
    base: NonNull<u8>,
    bytes: usize,
    lines: usize,
    /// The last place from which on there are [`HEAD_BYTES_MAX`] bytes.
    last_head: usize,
    /// The mapping with what surrounds the arena.
    mapped: NonNull<u8>,
    mapped_bytes: usize,
}

// SAFETY: the mapping belongs to this value alone; nothing in it is tied to a thread.
unsafe impl Send for Arena {}

impl Arena {
    /// Maps `bytes` bytes of zeros.
    pub(super) fn map(bytes: usize) -> io::Result<Self> {
        assert!(bytes >= HEAD_BYTES_MAX && bytes.is_multiple_of(LINE_BYTES), "an arena is made of whole lines");
        // Room to begin at a huge page, and at least a page that may not be touched on either side.
        let mapped_bytes = bytes.next_multiple_of(ALIGN_BYTES) + 2 * ALIGN_BYTES;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory that is in use.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), mapped_bytes, libc::PROT_NONE, flags, -1, 0) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mapped = NonNull::new(address.cast()).ok_or_else(|| io::Error::other("mapped at address zero"))?;
        let before = ALIGN_BYTES - address.addr() % ALIGN_BYTES;
        // SAFETY: `before` is at most `ALIGN_BYTES`, so the arena and a stretch behind it lie within the mapping.
        let base = unsafe { mapped.add(before) };
        let (lines, last_head) = (bytes / LINE_BYTES, bytes - HEAD_BYTES_MAX);
        let arena = Self { base, bytes, lines, last_head, mapped, mapped_bytes };
        // SAFETY: only the mapping that was just made changes its protection.
        if unsafe { libc::mprotect(base.as_ptr().cast(), bytes, libc::PROT_READ | libc::PROT_WRITE) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // Look-ups at random places spend half their time on missing translations otherwise. Segments are used from the
        // start of the arena on, so no more than one huge page is resident in part. Where it is not offered nothing is lost.
        // SAFETY: advice on the mapping that was just made changes no contents.
        let _ = unsafe { libc::madvise(base.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
        Ok(arena)
    }

    /// Gives the first huge page its memory. Where the kernel does not, the first write that touches it will.
    pub(super) fn populate_first_page(&mut self) {
        let _ = self.populate(self.bytes.min(ALIGN_BYTES));
    }

    /// Gives all of it its memory.
    pub(super) fn populate_all(&mut self) -> io::Result<()> {
        self.populate(self.bytes)
    }

    fn populate(&mut self, bytes: usize) -> io::Result<()> {
        assert!(bytes <= self.bytes, "outside the arena");
        // SAFETY: the mapping is ours and at least that long; what is there stays, and what is not there becomes zeros.
        match unsafe { libc::madvise(self.base.as_ptr().cast(), bytes, libc::MADV_POPULATE_WRITE) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// `length` bytes from `at` on.
    #[inline]
    pub(super) fn bytes(&self, at: usize, length: usize) -> &[u8] {
        &self.all()[at..at + length]
    }

    /// The first bytes of what lies `at`, and what follows it. Every look at an item begins here: one comparison,
    /// where a slice of a slice would take three.
    #[inline(always)]
    pub(super) fn head(&self, at: usize) -> &[u8; HEAD_BYTES_MAX] {
        if at > self.last_head {
            outside(at);
        }
        // SAFETY: as in `all`, of which these bytes are a part: `map` has set `last_head` so that `HEAD_BYTES_MAX` follow it.
        unsafe { &*self.base.as_ptr().add(at).cast() }
    }

    /// `length` bytes from `at` on.
    #[inline]
    pub(super) fn bytes_mut(&mut self, at: usize, length: usize) -> &mut [u8] {
        &mut self.all_mut()[at..at + length]
    }

    /// Copies `length` bytes within the arena; source and target may overlap.
    #[inline]
    pub(super) fn copy(&mut self, source: usize, target: usize, length: usize) {
        self.all_mut().copy_within(source..source + length, target);
    }

    /// Cache line number `line`.
    #[inline]
    pub(super) fn line(&self, line: usize) -> &Line {
        &self.lines()[line]
    }

    /// Cache line number `line`.
    #[inline]
    pub(super) fn line_mut(&mut self, line: usize) -> &mut Line {
        &mut self.lines_mut()[line]
    }

    /// Fills `count` lines from `line` on with zeros.
    pub(super) fn clear_lines(&mut self, line: usize, count: usize) {
        self.lines_mut()[line..line + count].fill(EMPTY_LINE);
    }

    /// Copies `count` lines.
    pub(super) fn copy_lines(&mut self, source: usize, target: usize, count: usize) {
        self.lines_mut().copy_within(source..source + count, target);
    }

    /// Asks the processor to fetch the line that holds byte `at`.
    #[inline]
    pub(super) fn prefetch(&self, at: usize) {
        debug_assert!(at < self.bytes, "prefetch outside the arena");
        prefetch(self.base.as_ptr().wrapping_add(at));
    }

    #[inline]
    fn all(&self) -> &[u8] {
        // SAFETY: the mapping is `bytes` long, readable, initialised to zeros by the kernel, and lives as long as `self`;
        // writers need `&mut self`.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.bytes) }
    }

    #[inline]
    fn all_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `all`, and `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.bytes) }
    }

    #[inline]
    fn lines(&self) -> &[Line] {
        // SAFETY: as in `all`; mappings are page-aligned, every bit pattern is a `u16`, and `map` asserts whole lines.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().cast(), self.lines) }
    }

    #[inline]
    fn lines_mut(&mut self) -> &mut [Line] {
        // SAFETY: as in `lines`, and `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().cast(), self.lines) }
    }
}

#[cold]
#[inline(never)]
fn outside(at: usize) -> ! {
    panic!("byte {at} is out of range for the head of an item")
}

/// Asks the processor to fetch the line that holds `place`.
#[inline]
pub(crate) fn prefetch<T>(place: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing and faults on nothing, wherever it points.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch(place.cast(), _MM_HINT_T0);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made in `map`; no reference into it outlives `self`.
        let result = unsafe { libc::munmap(self.mapped.as_ptr().cast(), self.mapped_bytes) };
        debug_assert_eq!(result, 0, "unmapping the arena");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_lines_show_the_same_memory() {
        let mut arena = Arena::map(4096).unwrap();
        arena.line_mut(1)[0] = 0x0102;
        assert_eq!(arena.bytes(64, 2), if cfg!(target_endian = "little") { [2, 1] } else { [1, 2] });
        arena.copy_lines(1, 3, 1);
        arena.clear_lines(1, 1);
        assert_eq!((arena.line(1)[0], arena.line(3)[0]), (0, 0x0102));
        arena.prefetch(4095);
    }

    #[test]
    #[should_panic(expected = "out of range")]
    fn a_slice_never_leaves_the_arena() {
        let arena = Arena::map(4096).unwrap();
        arena.bytes(4090, 7);
    }

    #[test]
    #[should_panic(expected = "out of range")]
    fn a_head_never_leaves_the_arena() {
        let arena = Arena::map(4096).unwrap();
        arena.head(4096 - HEAD_BYTES_MAX + 1);
    }
}
