//! Byte buffers kept for reuse: no allocation for what comes again and again, and no more kept than is said.

/// Buffers for reuse.
#[derive(Debug)]
pub(super) struct Spare {
    buffers: Vec<Vec<u8>>,
    /// Capacity of all of them.
    bytes: usize,
    /// The most of it.
    bytes_max: usize,
    /// The largest buffer that is kept.
    buffer_bytes_max: usize,
}

impl Spare {
    /// Keeps up to `bytes_max` bytes in buffers of up to `buffer_bytes_max`.
    pub(super) const fn new(bytes_max: usize, buffer_bytes_max: usize) -> Self {
        Self { buffers: Vec::new(), bytes: 0, bytes_max, buffer_bytes_max }
    }

    /// Bytes that are kept.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// An empty buffer, used before where there is one.
    pub(super) fn take(&mut self) -> Vec<u8> {
        let buffer = self.buffers.pop().unwrap_or_default();
        self.bytes -= buffer.capacity();
        buffer
    }

    /// Keeps a buffer, or frees it when it is too large or enough are kept.
    pub(super) fn give(&mut self, mut buffer: Vec<u8>) {
        let bytes = buffer.capacity();
        if (1..=self.buffer_bytes_max).contains(&bytes) && self.bytes + bytes <= self.bytes_max {
            buffer.clear();
            self.bytes += bytes;
            self.buffers.push(buffer);
        }
    }

    /// Frees them all.
    pub(super) fn clear(&mut self) {
        self.buffers = Vec::new();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_kept_than_is_said() {
        let mut spare = Spare::new(1000, 400);
        for bytes in [0, 100, 401, 400, 400, 200, 100] {
            spare.give(Vec::with_capacity(bytes));
        }
        // 100, 400, 400 and the second 100 fit; the allocator may give more than was asked for, never less.
        assert_eq!(spare.bytes(), 1000);
        assert_eq!([spare.take().capacity(), spare.take().capacity()], [100, 400]);
        assert_eq!(spare.bytes(), 500);
        spare.clear();
        assert_eq!((spare.bytes(), spare.take().capacity()), (0, 0));
    }
}
