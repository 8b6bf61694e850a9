//! The provided receive buffers of one core: the kernel takes one per completion, the turn gives it back.
//!
//! ```text
//! one mapping:  ┌ ring of entries (16 B × RECEIVE_BUFFERS, page aligned) ┐┌ buffer 0 ┬────┬ buffer 1 ┬────┬ … ┐
//!               │ address, length, id │ …            tail in entry 0     ││ 8 KiB    │ 64 │          │ 64 │   │
//!               └────────────────────────────────────────────────────────┘└──────────┴────┴──────────┴────┴───┘
//! ```
//! Buffers lie a cache line further apart than they are long: with a power of two between them, the first lines of all of
//! them, where small requests lie, would share a few sets of every cache.
//!
//! Invariant: an id is either in the ring (the kernel may write to its buffer) or with the turn that reaped it, never both.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

use super::limits::{RECEIVE_BUFFER_BYTES, RECEIVE_BUFFERS};

/// The buffer group that receives name.
pub(super) const BUFFER_GROUP: u16 = 0;

const RING_BYTES: usize = size_of::<BufRingEntry>() * RECEIVE_BUFFERS as usize;
const BUFFER_STRIDE_BYTES: usize = RECEIVE_BUFFER_BYTES + 64;
const MAPPING_BYTES: usize = RING_BYTES + BUFFER_STRIDE_BYTES * RECEIVE_BUFFERS as usize;
const _: () = assert!(RECEIVE_BUFFERS.is_power_of_two() && RING_BYTES.is_multiple_of(4096));

/// The provided buffers and the ring that hands them to the kernel. Outlives the io_uring it is registered with.
#[derive(Debug)]
pub(super) struct ReceiveBuffers {
    mapping: NonNull<u8>,
    tail: u16,
}

impl ReceiveBuffers {
    /// Maps the buffers, registers their ring and hands all of them to the kernel.
    pub(super) fn register(submitter: &Submitter<'_>) -> io::Result<Self> {
        // SAFETY: a fresh anonymous mapping, owned by the value made from it.
        let mapping = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                MAPPING_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if mapping == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mapping = NonNull::new(mapping.cast::<u8>()).expect("mmap never returns null without MAP_FIXED");
        let mut buffers = Self { mapping, tail: 0 };
        // SAFETY: the ring lies page aligned at the front of a mapping that lives as long as `buffers`, which the owner
        // drops after the io_uring; it has room for RECEIVE_BUFFERS entries, a power of two.
        unsafe {
            submitter.register_buf_ring_with_flags(mapping.as_ptr() as u64, RECEIVE_BUFFERS, BUFFER_GROUP, 0)?;
        }
        for id in 0..RECEIVE_BUFFERS {
            buffers.put_back(id);
        }
        buffers.publish();
        Ok(buffers)
    }

    /// The first `bytes` of buffer `id`, which the turn holds.
    pub(super) fn received(&self, id: u16, bytes: usize) -> &[u8] {
        assert!(id < RECEIVE_BUFFERS && bytes <= RECEIVE_BUFFER_BYTES, "the kernel fills only what it was given");
        // SAFETY: in bounds by the assertion, initialised by mmap, and the kernel does not write to a buffer between its
        // completion and `put_back`.
        unsafe { std::slice::from_raw_parts(self.buffer(id), bytes) }
    }

    /// Gives a buffer back; the kernel sees it after `publish`.
    pub(super) fn put_back(&mut self, id: u16) {
        let slot = usize::from(self.tail & (RECEIVE_BUFFERS - 1));
        let address = self.buffer(id) as u64;
        // SAFETY: `slot` is within the ring; the kernel reads an entry only once the tail has passed it.
        let entry = unsafe { &mut *self.mapping.cast::<BufRingEntry>().add(slot).as_ptr() };
        entry.set_addr(address);
        entry.set_len(RECEIVE_BUFFER_BYTES as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Shows the kernel every buffer given back.
    pub(super) fn publish(&mut self) {
        // SAFETY: the tail lies in the reserved field of entry 0, aligned for u16; the kernel only reads it.
        let tail = unsafe { &*(BufRingEntry::tail(self.mapping.cast::<BufRingEntry>().as_ptr()).cast::<AtomicU16>()) };
        tail.store(self.tail, Ordering::Release);
    }

    fn buffer(&self, id: u16) -> *const u8 {
        // SAFETY: `id` is below RECEIVE_BUFFERS, so the buffer lies within the mapping.
        unsafe { self.mapping.add(RING_BYTES + usize::from(id) * BUFFER_STRIDE_BYTES).as_ptr() }
    }
}

impl Drop for ReceiveBuffers {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and the io_uring that knew it is gone (see the struct's invariant).
        unsafe { libc::munmap(self.mapping.as_ptr().cast(), MAPPING_BYTES) };
    }
}
