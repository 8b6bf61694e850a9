//! What nodes say to one another, core to core: replication, its acknowledgements, and the leader's messages.
//!
//! `protocol/PEERS.md` is the specification in words. A link carries frames both ways, in order. Its first frame each way
//! is a hello; the receiver holds it against who it thinks is there, and everything else is believed to come from there.
//! A frame that does not decode ends the link: nothing behind it can be trusted.

mod appends;
mod change;
mod layout;

pub use appends::{Append, Appends, AppendsFrame};
pub use change::{Change, KeptResult, Put, Record, Run, SliceItem};
pub use layout::{
    AckEntry, AckHead, AppendHead, BeginHead, Handover, HeartbeatEntry, PeerHello, RecordEntry, ResultEntry,
    SliceEntry, SliceHead, StampHead, TermEntry,
};

use crate::limits::{PEER_ENTRIES_MAX, PEER_FRAME_BYTES_MAX, PEER_RESULTS_MAX, PEER_TERMS_MAX};

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerMessage<'a> {
    /// Opens a link.
    Hello(PeerHello),
    /// Primary to copy: these I lead.
    Heartbeat {
        /// The primary's clock in milliseconds.
        stamp: u64,
        /// The vnodes.
        entries: Entries<'a, HeartbeatEntry>,
    },
    /// Copy to primary: here I stand.
    Acks {
        /// The newest stamp the copy has received, and the ring it goes by.
        head: AckHead,
        /// The vnodes.
        entries: Entries<'a, AckEntry>,
    },
    /// Primary to copy: follow from here on.
    Begin {
        /// What and from where.
        head: BeginHead,
        /// Where each term began, oldest first.
        terms: Entries<'a, TermEntry>,
        /// The results kept for repeats, [`KeptResult`] after [`KeptResult`].
        results: Entries<'a, ResultEntry>,
    },
    /// Primary to copy: the next writes.
    Appends {
        /// The primary's clock, as in a heartbeat.
        stamp: u64,
        /// The writes, vnode by vnode.
        appends: Appends<'a>,
    },
    /// Primary to copy: items of a vnode that is streamed anew.
    Slice {
        /// Which.
        head: SliceHead,
        /// The items.
        items: Run<'a>,
    },
    /// Primary to the copy that is to become the primary.
    Handover(Handover),
    /// A message between the leader and a node, whose bytes are its own affair.
    Control(&'a [u8]),
}

/// A number of flat structs of one kind, checked to be whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entries<'a, T> {
    bytes: &'a [u8],
    kind: std::marker::PhantomData<T>,
}

/// A flat struct that stands in a list.
pub trait Entry: Sized {
    /// Its bytes on the wire.
    const ENTRY_BYTES: usize;
    /// Reads one from the front of `bytes`.
    fn take_entry(bytes: &[u8]) -> Option<(Self, &[u8])>;
    /// Appends it.
    fn put_entry(&self, out: &mut Vec<u8>);
}

macro_rules! entries {
    ($($name:ident),*) => {$(
        impl Entry for $name {
            const ENTRY_BYTES: usize = Self::BYTES;

            fn take_entry(bytes: &[u8]) -> Option<(Self, &[u8])> {
                Self::take(bytes)
            }

            fn put_entry(&self, out: &mut Vec<u8>) {
                self.put(out);
            }
        }
    )*};
}
entries!(HeartbeatEntry, AckEntry, TermEntry, ResultEntry);

impl<'a, T: Entry> Entries<'a, T> {
    /// The first `count` structs of `bytes`, and what follows.
    fn take(count: usize, bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (bytes, rest) = bytes.split_at_checked(count.checked_mul(T::ENTRY_BYTES)?)?;
        Some((Self { bytes, kind: std::marker::PhantomData }, rest))
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.bytes.len() / T::ENTRY_BYTES
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// As they travel.
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The structs in order.
    pub fn iter(&self) -> impl Iterator<Item = T> + Clone + use<'a, T> {
        self.bytes.chunks_exact(T::ENTRY_BYTES).filter_map(|bytes| T::take_entry(bytes).map(|(entry, _)| entry))
    }
}

/// Why bytes are not a peer message. The link they came by is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The length says that it is no frame of this protocol.
    #[error("a peer frame of {0} bytes: this is not the peer protocol; check which address was connected to")]
    Length(usize),
    /// Kind or content don't hold together.
    #[error("a peer frame that does not hold together (kind {0}): is the other node of another version?")]
    Content(u8),
}

const HELLO: u8 = 1;
const HEARTBEAT: u8 = 2;
const ACKS: u8 = 3;
const BEGIN: u8 = 4;
const APPENDS: u8 = 5;
const SLICE: u8 = 6;
const HANDOVER: u8 = 7;
const CONTROL: u8 = 8;

/// Bytes before a message's head: length and kind.
const FRAME_HEAD_BYTES: usize = 5;

impl<'a> PeerMessage<'a> {
    /// Reads the message at the front of `bytes` and returns it with its length; `None` while bytes are missing.
    pub fn decode(bytes: &'a [u8]) -> Result<Option<(Self, usize)>, PeerError> {
        let Some(length) = bytes.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if length == 0 || length > PEER_FRAME_BYTES_MAX {
            return Err(PeerError::Length(length));
        }
        let Some(frame) = bytes.get(4..4 + length) else { return Ok(None) };
        match Self::decode_body(frame[0], &frame[1..]) {
            Some(message) => Ok(Some((message, 4 + length))),
            None => Err(PeerError::Content(frame[0])),
        }
    }

    fn decode_body(kind: u8, body: &'a [u8]) -> Option<Self> {
        let (message, rest) = match kind {
            HELLO => PeerHello::take(body).map(|(hello, rest)| (Self::Hello(hello), rest))?,
            HEARTBEAT => {
                let (head, rest) = StampHead::take(body)?;
                let (entries, rest) = Entries::take(limited(head.entries, PEER_ENTRIES_MAX)?, rest)?;
                (Self::Heartbeat { stamp: head.stamp, entries }, rest)
            }
            ACKS => {
                let (head, rest) = AckHead::take(body)?;
                let (entries, rest) = Entries::<AckEntry>::take(limited(head.entries, PEER_ENTRIES_MAX)?, rest)?;
                let is_known = |entry: AckEntry| entry.marks & !AckEntry::MARKS == 0;
                if !entries.iter().all(is_known) {
                    return None;
                }
                (Self::Acks { head, entries }, rest)
            }
            BEGIN => Self::decode_begin(body)?,
            APPENDS => {
                let (head, rest) = StampHead::take(body)?;
                (Self::Appends { stamp: head.stamp, appends: Appends::of(head.entries, rest)? }, &[][..])
            }
            SLICE => {
                let (head, rest) = SliceHead::take(body)?;
                let items = Run::of_items(limited(head.items, PEER_ENTRIES_MAX)?, rest)?;
                let goes_on = head.from < head.next && head.next <= AckEntry::CURSOR_END;
                (Self::Slice { head, items }, if goes_on { &[][..] } else { return None })
            }
            HANDOVER => Handover::take(body).map(|(handover, rest)| (Self::Handover(handover), rest))?,
            CONTROL => (Self::Control(body), &[][..]),
            _ => return None,
        };
        rest.is_empty().then_some(message)
    }

    fn decode_begin(body: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (head, rest) = BeginHead::take(body)?;
        let (terms, rest) = Entries::<TermEntry>::take(limited(u16::from(head.terms), PEER_TERMS_MAX)?, rest)?;
        let results_count = usize::try_from(head.results).ok().filter(|results| *results <= PEER_RESULTS_MAX)?;
        let (results, rest) = Entries::<ResultEntry>::take(results_count, rest)?;
        let mut unchecked = results.as_bytes();
        while !unchecked.is_empty() {
            unchecked = KeptResult::take(unchecked)?.1;
        }
        let rises = terms
            .iter()
            .zip(terms.iter().skip(1))
            .all(|(one, next)| one.term < next.term && one.first_sequence <= next.first_sequence);
        let is_led = terms.iter().last().is_some_and(|last| last.term == head.term);
        (rises && is_led && head.wipes <= 1).then_some((Self::Begin { head, terms, results }, rest))
    }

    /// Appends a hello.
    pub fn push_hello(hello: &PeerHello, out: &mut Vec<u8>) {
        frame(HELLO, out, |out| hello.put(out));
    }

    /// Appends a heartbeat of at most [`PEER_ENTRIES_MAX`] vnodes.
    pub fn push_heartbeat(stamp: u64, entries: &[HeartbeatEntry], out: &mut Vec<u8>) {
        frame(HEARTBEAT, out, |out| stamped(stamp, entries, out));
    }

    /// Appends the acknowledgements of at most [`PEER_ENTRIES_MAX`] vnodes; their count in `head` is filled in.
    pub fn push_acks(head: AckHead, entries: impl Iterator<Item = AckEntry>, out: &mut Vec<u8>) {
        frame(ACKS, out, |out| {
            let head_at = out.len();
            head.put(out);
            let mut count = 0;
            entries.for_each(|entry| {
                entry.put(out);
                count += 1;
            });
            assert!(count <= PEER_ENTRIES_MAX, "over the limit of the wire");
            let head = AckHead { entries: count as u16, ..head };
            out[head_at..][..AckHead::BYTES].copy_from_slice(&head.to_bytes());
        });
    }

    /// Appends a begin; the counts in `head` are filled in.
    pub fn push_begin(head: BeginHead, terms: &[TermEntry], results: &[KeptResult], out: &mut Vec<u8>) {
        assert!(terms.len() <= PEER_TERMS_MAX && results.len() <= PEER_RESULTS_MAX, "over the limits of the wire");
        frame(BEGIN, out, |out| {
            BeginHead { terms: terms.len() as u8, results: results.len() as u32, ..head }.put(out);
            terms.iter().for_each(|entry| entry.put(out));
            results.iter().for_each(|result| result.push(out));
        });
    }

    /// Appends a slice of `head.items` items, which are encoded already.
    pub fn push_slice(head: SliceHead, items: &[u8], out: &mut Vec<u8>) {
        frame(SLICE, out, |out| {
            head.put(out);
            out.extend_from_slice(items);
        });
    }

    /// Appends a handover.
    pub fn push_handover(handover: Handover, out: &mut Vec<u8>) {
        frame(HANDOVER, out, |out| handover.put(out));
    }

    /// Appends a message between the leader and a node.
    pub fn push_control(bytes: &[u8], out: &mut Vec<u8>) {
        frame(CONTROL, out, |out| out.extend_from_slice(bytes));
    }
}

fn limited(count: u16, limit: usize) -> Option<usize> {
    Some(usize::from(count)).filter(|count| *count <= limit)
}

fn stamped<T: Entry>(stamp: u64, entries: &[T], out: &mut Vec<u8>) {
    assert!(entries.len() <= PEER_ENTRIES_MAX, "over the limit of the wire");
    StampHead { stamp, entries: entries.len() as u16 }.put(out);
    entries.iter().for_each(|entry| entry.put_entry(out));
}

/// Appends a frame of `kind`, its length filled in when `body` has written what it has.
fn frame(kind: u8, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    begin_frame(kind, out);
    body(out);
    end_frame(start, out);
}

/// Appends the front of a frame of `kind`, whose length is not known yet.
fn begin_frame(kind: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(&[0; FRAME_HEAD_BYTES - 1]);
    out.push(kind);
}

/// Fills in the length of the frame that begins at `start` and ends with `out`.
fn end_frame(start: usize, out: &mut [u8]) {
    let length = crate::frame_length(out.len() - start - 4);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}
