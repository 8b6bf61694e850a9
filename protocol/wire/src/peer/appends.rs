//! Appends: the next writes of many vnodes, all that one turn has for one link in one frame.
//!
//! Each append is whole in itself: what a copy makes of one does not depend on the others beside it. The frame is written
//! where it will be sent from, append after append, its counts filled in when it ends.

use super::change::Run;
use super::layout::{AppendHead, StampHead};
use super::{APPENDS, FRAME_HEAD_BYTES, begin_frame, end_frame, limited};
use crate::limits::{PEER_ENTRIES_MAX, PEER_FRAME_BYTES_MAX};

/// The next writes of one vnode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Append<'a> {
    /// Which.
    pub head: AppendHead,
    /// The writes.
    pub records: Run<'a>,
}

/// Appends of several vnodes that were checked whole when they were parsed; walking them can't fail after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appends<'a> {
    count: usize,
    bytes: &'a [u8],
}

impl<'a> Appends<'a> {
    /// Checks that `bytes` holds exactly `count` appends, with no more records than a frame may have.
    pub(super) fn of(count: u16, bytes: &'a [u8]) -> Option<Self> {
        let count = limited(count, PEER_ENTRIES_MAX)?;
        let (mut rest, mut records) = (bytes, 0);
        for _ in 0..count {
            let (head, own, behind) = cut(rest)?;
            Run::of_records(usize::from(head.records), own)?;
            head.first_sequence.checked_add(u64::from(head.records))?;
            records += usize::from(head.records);
            rest = behind;
        }
        (rest.is_empty() && records <= PEER_ENTRIES_MAX).then_some(Self { count, bytes })
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The appends in order.
    pub fn iter(&self) -> impl Iterator<Item = Append<'a>> + use<'a> {
        let mut rest = self.bytes;
        std::iter::from_fn(move || {
            let (head, own, behind) = cut(rest)?;
            rest = behind;
            Some(Append { head, records: Run::checked(usize::from(head.records), own) })
        })
    }
}

/// The head of the first append in `bytes`, the bytes of its records, and what follows.
fn cut(bytes: &[u8]) -> Option<(AppendHead, &[u8], &[u8])> {
    let (head, rest) = AppendHead::take(bytes)?;
    let (own, behind) = rest.split_at_checked(usize::try_from(head.bytes).ok()?)?;
    Some((head, own, behind))
}

/// A frame of appends at the end of an output, to which more can be added as long as nothing else is.
#[derive(Debug)]
pub struct AppendsFrame {
    start: usize,
    stamp: u64,
    appends: u16,
    records: usize,
}

impl AppendsFrame {
    /// Begins a frame at the end of `out`.
    pub fn begin(stamp: u64, out: &mut Vec<u8>) -> Self {
        let start = out.len();
        begin_frame(APPENDS, out);
        StampHead { stamp, entries: 0 }.put(out);
        Self { start, stamp, appends: 0, records: 0 }
    }

    /// Adds the first of `records`, which are encoded already, as many as the frame has room for; how many. A frame takes
    /// `bytes_max` bytes and its limit of records, or one record of any size. The counts in `head` are filled in.
    pub fn push<'v>(
        &mut self,
        head: AppendHead,
        records: impl Iterator<Item = &'v [u8]>,
        bytes_max: usize,
        out: &mut Vec<u8>,
    ) -> usize {
        let head_at = out.len();
        out.extend_from_slice(&[0; AppendHead::BYTES]);
        let records_at = out.len();
        let mut count = 0;
        for record in records {
            let is_first = self.records + count == 0;
            let fits = out.len() + record.len() - self.start <= bytes_max && self.records + count < PEER_ENTRIES_MAX;
            if !fits && !is_first {
                break;
            }
            out.extend_from_slice(record);
            count += 1;
        }
        if count == 0 {
            out.truncate(head_at);
            return 0;
        }
        let bytes = crate::frame_length(out.len() - records_at);
        let head = AppendHead { bytes, records: count as u16, ..head };
        out[head_at..records_at].copy_from_slice(&head.to_bytes());
        self.appends += 1;
        self.records += count;
        count
    }

    /// Ends the frame.
    pub fn end(self, out: &mut [u8]) {
        let head = StampHead { stamp: self.stamp, entries: self.appends };
        out[self.start + FRAME_HEAD_BYTES..][..StampHead::BYTES].copy_from_slice(&head.to_bytes());
        end_frame(self.start, out);
        debug_assert!(out.len() - self.start - 4 <= PEER_FRAME_BYTES_MAX, "over the limit of the wire");
    }
}
