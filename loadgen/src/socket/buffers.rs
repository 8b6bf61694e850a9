//! Buffers that the kernel picks from when data arrives (a provided-buffer ring).
//!
//! ```text
//! ┌ entries (16 B each, page-aligned) ┐┌ buffer 0 ┐64┌ buffer 1 ┐64┌ …
//! ```
//! Buffers lie 64 bytes further apart than they are long: with a power of two between them, the first lines of all would
//! fall into the same sets of the first-level cache.

use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use super::ring::Ring;

/// A pool of receive buffers, group 0 of its ring.
///
/// Declare it after the ring in a struct: the kernel may write into buffers until the ring is gone.
pub(crate) struct BufferPool {
    memory: NonNull<u8>,
    memory_bytes: usize,
    entries: u16,
    buffer_bytes: usize,
    first_buffer: usize,
    tail: u16,
}

/// The buffer group that receives name.
pub(crate) const GROUP: u16 = 0;

/// Distance between buffers beyond their length: one cache line.
const STAGGER_BYTES: usize = 64;

impl BufferPool {
    /// Registers `entries` (a power of two) buffers of `buffer_bytes` with the ring.
    pub(crate) fn new(ring: &Ring, entries: u16, buffer_bytes: usize) -> io::Result<Self> {
        assert!(entries.is_power_of_two() && buffer_bytes > 0 && u32::try_from(buffer_bytes).is_ok());
        let first_buffer = (usize::from(entries) * size_of::<BufRingEntry>()).next_multiple_of(4096);
        let memory_bytes = first_buffer + usize::from(entries) * (buffer_bytes + STAGGER_BYTES);
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let memory = unsafe {
            libc::mmap(
                ptr::null_mut(),
                memory_bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE,
                -1,
                0,
            )
        };
        let memory = match NonNull::new(memory.cast::<u8>()) {
            Some(memory) if memory.as_ptr().cast() != libc::MAP_FAILED => memory,
            _ => return Err(io::Error::last_os_error()),
        };
        let mut pool = Self { memory, memory_bytes, entries, buffer_bytes, first_buffer, tail: 0 };
        // SAFETY: the entries lie at the page-aligned start of a mapping that lives until this pool is dropped, and the
        // pool is dropped after the ring.
        unsafe {
            let address = memory.as_ptr() as u64;
            ring.uring().submitter().register_buf_ring_with_flags(address, entries, GROUP, 0)?;
        }
        for buffer in 0..entries {
            pool.put_back(buffer);
        }
        pool.publish();
        Ok(pool)
    }

    /// The first `length` bytes of a buffer that a completion named and that has not been put back.
    #[inline]
    pub(crate) fn bytes(&self, buffer: u16, length: usize) -> &[u8] {
        assert!(buffer < self.entries && length <= self.buffer_bytes);
        // SAFETY: within the mapping; initialised (zeroed by mmap); the kernel does not write to it until it is put back.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().add(self.offset(buffer)), length) }
    }

    /// Gives a buffer back; the kernel sees it after [`Self::publish`].
    #[inline]
    pub(crate) fn put_back(&mut self, buffer: u16) {
        let slot = usize::from(self.tail & (self.entries - 1));
        // SAFETY: the slot lies within the entries; the kernel reads it only after the tail has been published. Only the
        // three fields are written: the tail itself lies in the reserved field of entry 0.
        unsafe {
            let entry = &mut *self.memory.as_ptr().cast::<BufRingEntry>().add(slot);
            entry.set_addr(self.memory.as_ptr().add(self.offset(buffer)) as u64);
            entry.set_len(self.buffer_bytes as u32);
            entry.set_bid(buffer);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    /// Shows the kernel everything that was put back.
    #[inline]
    pub(crate) fn publish(&self) {
        // SAFETY: the tail is a u16 within entry 0, aligned, written by us alone and read by the kernel with acquire.
        unsafe {
            let tail = BufRingEntry::tail(self.memory.as_ptr().cast::<BufRingEntry>());
            AtomicU16::from_ptr(tail.cast_mut()).store(self.tail, Ordering::Release);
        }
    }

    #[inline]
    fn offset(&self, buffer: u16) -> usize {
        self.first_buffer + usize::from(buffer) * (self.buffer_bytes + STAGGER_BYTES)
    }
}

impl Drop for BufferPool {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and, by the order of fields in the owner, the ring that used it is gone.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), self.memory_bytes) };
    }
}
