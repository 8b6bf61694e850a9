//! The provided receive buffers of one core: the kernel takes one per completion, the turn gives it back.
//!
//! ```text
//! one mapping:  ┌ ring of entries (16 B each, page aligned) ┬ of the reserved ones ┐┌ buffer 0 ┬────┬ buffer 1 ┬────┬ … ┐
//!               │ address, length, id │ …   tail in entry 0 │ the same             ││ 8 KiB    │ 64 │          │ 64 │   │
//!               └───────────────────────────────────────────┴──────────────────────┘└──────────┴────┴──────────┴────┴───┘
//! ```
//! Buffers lie a cache line further apart than they are long: with a power of two between them, the first lines of all of
//! them, where small requests lie, would share a few sets of every cache.
//!
//! Two groups: most buffers are for whoever sends something; the last few are reserved for receives that finish what a
//! connection holds. Invariant: an id is either in its group's ring (the kernel may write to its buffer) or with the core
//! that reaped it, never both.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

use super::limits::{RECEIVE_BUFFER_BYTES, RECEIVE_BUFFERS, RESERVED_BUFFERS};

/// The group of most buffers.
pub(super) const BUFFER_GROUP: u16 = 0;
/// The group of the reserved ones.
pub(super) const RESERVED_GROUP: u16 = 1;

const PAGE_BYTES: usize = 4096;
const BUFFERS: u16 = RECEIVE_BUFFERS + RESERVED_BUFFERS;
const BUFFER_STRIDE_BYTES: usize = RECEIVE_BUFFER_BYTES + 64;
const RESERVED_RING_AT: usize = size_of::<BufRingEntry>() * RECEIVE_BUFFERS as usize;
const BUFFERS_AT: usize = RESERVED_RING_AT + PAGE_BYTES;
const MAPPING_BYTES: usize = BUFFERS_AT + BUFFER_STRIDE_BYTES * BUFFERS as usize;
const _: () = assert!(RECEIVE_BUFFERS.is_power_of_two() && RESERVED_RING_AT.is_multiple_of(PAGE_BYTES));
const _: () = assert!(RESERVED_BUFFERS.is_power_of_two());
const _: () = assert!(size_of::<BufRingEntry>() * RESERVED_BUFFERS as usize <= PAGE_BYTES);

/// The provided buffers and the rings that hand them to the kernel. Outlives the io_uring it is registered with.
#[derive(Debug)]
pub(super) struct ReceiveBuffers {
    mapping: NonNull<u8>,
    tail: u16,
    reserved_tail: u16,
    /// Buffers that are not reserved and lie with the kernel.
    with_kernel: usize,
}

impl ReceiveBuffers {
    /// Maps the buffers, registers their rings and hands all of them to the kernel.
    pub(super) fn register(submitter: &Submitter<'_>) -> io::Result<Self> {
        // Resident at once: all of it comes into use sooner or later, and then no receive waits for it, and no item that is
        // just being stored seems to have cost it.
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
        // SAFETY: a fresh anonymous mapping, owned by the value made from it.
        let mapping = unsafe {
            libc::mmap(std::ptr::null_mut(), MAPPING_BYTES, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
        };
        if mapping == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mapping = NonNull::new(mapping.cast::<u8>()).expect("mmap never returns null without MAP_FIXED");
        let mut buffers = Self { mapping, tail: 0, reserved_tail: 0, with_kernel: 0 };
        let (ring, reserved_ring) = (buffers.ring(BUFFER_GROUP), buffers.ring(RESERVED_GROUP));
        // SAFETY: the rings lie page aligned at the front of a mapping that lives as long as `buffers`, which the owner
        // drops after the io_uring; each has room for its entries, a power of two.
        unsafe {
            submitter.register_buf_ring_with_flags(ring.as_ptr() as u64, RECEIVE_BUFFERS, BUFFER_GROUP, 0)?;
            submitter.register_buf_ring_with_flags(
                reserved_ring.as_ptr() as u64,
                RESERVED_BUFFERS,
                RESERVED_GROUP,
                0,
            )?;
        }
        for id in 0..BUFFERS {
            buffers.put_back(id);
        }
        buffers.publish();
        Ok(buffers)
    }

    /// Whether a buffer is one of the reserved.
    pub(super) const fn is_reserved(id: u16) -> bool {
        id >= RECEIVE_BUFFERS
    }

    /// Buffers that are not reserved and lie with the kernel.
    pub(super) const fn with_kernel(&self) -> usize {
        self.with_kernel
    }

    /// The kernel has given buffer `id`, with bytes in it.
    pub(super) const fn took(&mut self, id: u16) {
        self.with_kernel -= !Self::is_reserved(id) as usize;
    }

    /// The first `bytes` of buffer `id`, which the turn holds.
    pub(super) fn received(&self, id: u16, bytes: usize) -> &[u8] {
        assert!(id < BUFFERS && bytes <= RECEIVE_BUFFER_BYTES, "the kernel fills only what it was given");
        // SAFETY: in bounds by the assertion, initialised by mmap, and the kernel does not write to a buffer between its
        // completion and `put_back`.
        unsafe { std::slice::from_raw_parts(self.buffer(id), bytes) }
    }

    /// Gives a buffer back; the kernel sees it after `publish`.
    pub(super) fn put_back(&mut self, id: u16) {
        let address = self.buffer(id) as u64;
        let (group, slot) = if Self::is_reserved(id) {
            (RESERVED_GROUP, self.reserved_tail & (RESERVED_BUFFERS - 1))
        } else {
            (BUFFER_GROUP, self.tail & (RECEIVE_BUFFERS - 1))
        };
        // SAFETY: `slot` is within the group's ring; the kernel reads an entry only once the tail has passed it.
        let entry = unsafe { &mut *self.ring(group).add(usize::from(slot)).as_ptr() };
        entry.set_addr(address);
        entry.set_len(RECEIVE_BUFFER_BYTES as u32);
        entry.set_bid(id);
        if Self::is_reserved(id) {
            self.reserved_tail = self.reserved_tail.wrapping_add(1);
        } else {
            self.tail = self.tail.wrapping_add(1);
            self.with_kernel += 1;
        }
    }

    /// Shows the kernel every buffer given back.
    pub(super) fn publish(&mut self) {
        for (group, tail) in [(BUFFER_GROUP, self.tail), (RESERVED_GROUP, self.reserved_tail)] {
            // SAFETY: the tail lies in the reserved field of entry 0, aligned for u16; the kernel only reads it.
            let shown = unsafe { &*(BufRingEntry::tail(self.ring(group).as_ptr()).cast::<AtomicU16>()) };
            shown.store(tail, Ordering::Release);
        }
    }

    fn ring(&self, group: u16) -> NonNull<BufRingEntry> {
        let at = if group == RESERVED_GROUP { RESERVED_RING_AT } else { 0 };
        // SAFETY: both rings lie within the mapping.
        unsafe { self.mapping.add(at).cast() }
    }

    fn buffer(&self, id: u16) -> *const u8 {
        // SAFETY: `id` is below BUFFERS, so the buffer lies within the mapping.
        unsafe { self.mapping.add(BUFFERS_AT + usize::from(id) * BUFFER_STRIDE_BYTES).as_ptr() }
    }
}

impl Drop for ReceiveBuffers {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and the io_uring that knew it is gone (see the struct's invariant).
        unsafe { libc::munmap(self.mapping.as_ptr().cast(), MAPPING_BYTES) };
    }
}
