//! What may be read of one key, from what was written to it.
//!
//! Writes of a key are numbered by its one writer, all over one connection, so they take effect in the order of their
//! numbers. A read is bounded by two floors, taken when it is sent: the highest number acknowledged by then (every
//! connection must see it) and, on the writer's own connection, the highest number sent (order on one connection). What
//! comes back must be no older than the floor and no newer than what was sent by the time of the reply.
//!
//! Times err on the side of the server: a write counts as carried out between its sending and its acknowledgement.
//!
//! Through the native client a write may travel more than once, over several connections: then a key has one write under
//! way at a time, and the second floor is the first. A write that ends without an answer is in doubt: it may be seen at any
//! time or never; `mod` excuses what follows from it.

use super::stamp::{Stamp, StampError};

/// How long after its expiry (counted from the acknowledgement of the write) an item may still be read: the server's
/// clock moves in milliseconds.
pub(super) const EXPIRED_ALLOWANCE_NS: u64 = 1_000_000;
/// How long before its expiry (counted from the sending of the write) an item may already be gone, for the same reason.
const EARLY_ALLOWANCE_NS: u64 = 1_000_000;
const NS_PER_MS: u64 = 1_000_000;

/// What is known of one key.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KeyHistory {
    /// Number of the last write sent.
    sent: u32,
    /// Highest number acknowledged.
    acknowledged: u32,
    /// Highest number refused: it changed nothing.
    refused: u32,
    /// Writes without a reply.
    writes_open: u16,
    /// Reads without a reply.
    reads_open: u16,
    /// Number of the last delete sent.
    deleted: u32,
    /// A number that a read on the writer's connection should have seen and did not: wrong if it is acknowledged yet.
    doubted: u32,
    /// The last write with a time to live.
    expiry: Expiry,
}

#[derive(Clone, Copy, Debug, Default)]
struct Expiry {
    number: u32,
    ttl_ns: u64,
    sent_ns: u64,
    /// Zero until it is acknowledged.
    acknowledged_ns: u64,
    /// When the write before it may have expired, if that was the one to be read meanwhile.
    before_ns: u64,
}

/// The floors of one read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Floors {
    /// Highest number acknowledged when the read was sent.
    pub(super) acknowledged: u32,
    /// Highest number that precedes the read on its own connection; never below `acknowledged`.
    pub(super) sent: u32,
}

/// What the server promises beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    /// It may drop live items.
    pub(super) evicts: bool,
    /// How long after its expiry an item may still be read.
    pub(super) expired_late_ns: u64,
}

/// What a read gave.
#[derive(Clone, Copy, Debug)]
pub(super) enum Seen<'a> {
    /// A value.
    Value(&'a [u8]),
    /// No such item.
    Miss,
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Violation {
    /// No value of this key.
    #[error("expected a value of this key, got {0}")]
    Bytes(StampError),
    /// Another key's value.
    #[error("expected a value of this key, got one of key {0:x}")]
    Key(u64),
    /// A value of an earlier run, or of nobody.
    #[error("expected write {floor} or later, got a value that another run has written")]
    Foreign {
        /// What should have been seen.
        floor: u32,
    },
    /// A value that was overwritten or deleted before.
    #[error("expected write {floor} or later, got write {number} ({}deleted since)", if *.deleted { "" } else { "not " })]
    Stale {
        /// What should have been seen.
        floor: u32,
        /// What was seen.
        number: u32,
        /// Whether a delete lies between.
        deleted: bool,
    },
    /// A write that was never sent.
    #[error("expected at most write {sent}, got write {number}")]
    Future {
        /// The last sent.
        sent: u32,
        /// What was seen.
        number: u32,
    },
    /// A write that the server had refused.
    #[error("got write {0}, which the server had refused")]
    Refused(u32),
    /// An item past its time.
    #[error("expected a miss, got write {number}, {late_ms} ms after it had expired")]
    Expired {
        /// What was seen.
        number: u32,
        /// Milliseconds from its expiry to the sending of the read.
        late_ms: u64,
    },
    /// A live item that is gone, where nothing is evicted.
    #[error("expected write {floor} or later, got a miss, and nothing is evicted")]
    Lost {
        /// What should have been seen.
        floor: u32,
    },
    /// A version that did not rise.
    #[error("expected a version above {floor:x}, got {version:x}")]
    Version {
        /// What had been seen before the request was sent.
        floor: u64,
        /// What came.
        version: u64,
    },
    /// A counter that went back, or jumped.
    #[error("expected the counter at {expected}, got {actual}")]
    Counter {
        /// What it should have been.
        expected: i64,
        /// What it was.
        actual: i64,
    },
}

impl KeyHistory {
    /// Whether the key was ever written.
    pub(super) const fn is_written(&self) -> bool {
        self.sent > 0
    }

    /// Whether a write with a time to live may be sent: only one is remembered, so no read or write may be open that
    /// depends on the one before.
    pub(super) const fn may_expire_next(&self) -> bool {
        self.writes_open == 0 && self.reads_open == 0
    }

    /// Whether a write may be sent: not behind one with a time to live that has no reply yet, nor past the last number.
    pub(super) const fn may_write_next(&self, one_at_a_time: bool) -> bool {
        if one_at_a_time && self.writes_open > 0 {
            return false;
        }
        let behind_expiring = self.expiry.number == self.sent && self.expiry.number != 0 && self.writes_open > 0;
        !behind_expiring && self.writes_open < u16::MAX && self.sent < u32::MAX
    }

    /// Takes note that a set is sent, and numbers it. A `ttl_ms` of zero is for ever.
    pub(super) fn set_sent(&mut self, ttl_ms: u64, now_ns: u64) -> u32 {
        self.sent += 1;
        self.writes_open += 1;
        if ttl_ms != 0 {
            debug_assert!(self.writes_open == 1 && self.reads_open == 0, "see may_expire_next");
            let previous = self.expiry;
            let is_current = previous.number != 0 && previous.number == self.acknowledged;
            let before_ns = if is_current { previous.earliest_ns() } else { u64::MAX };
            self.expiry = Expiry {
                number: self.sent,
                ttl_ns: ttl_ms.saturating_mul(NS_PER_MS),
                sent_ns: now_ns,
                acknowledged_ns: 0,
                before_ns,
            };
        }
        self.sent
    }

    /// Takes note that a delete is sent, and numbers it.
    pub(super) fn delete_sent(&mut self) -> u32 {
        self.sent += 1;
        self.writes_open += 1;
        self.deleted = self.sent;
        self.sent
    }

    /// Takes note of a write's reply; a doubt about an earlier read may turn out true.
    pub(super) fn write_answered(&mut self, number: u32, carried_out: bool, now_ns: u64) -> Result<(), Violation> {
        self.writes_open -= 1;
        let doubted = std::mem::take(&mut self.doubted);
        if !carried_out {
            self.refused = self.refused.max(number);
            self.doubted = if doubted == number { 0 } else { doubted };
            return Ok(());
        }
        self.acknowledged = self.acknowledged.max(number);
        if self.expiry.number == number {
            self.expiry.acknowledged_ns = now_ns;
        }
        if doubted == number {
            return Err(Violation::Stale { floor: number, number: number - 1, deleted: self.deleted == number });
        }
        self.doubted = doubted;
        Ok(())
    }

    /// Takes note that a write has ended without an answer.
    pub(super) fn write_in_doubt(&mut self) {
        self.writes_open -= 1;
    }

    /// Takes note that a read is sent.
    pub(super) fn read_sent(&mut self, on_writers_connection: bool) -> Floors {
        self.reads_open = self.reads_open.saturating_add(1);
        let sent = if on_writers_connection { self.sent } else { self.acknowledged };
        Floors { acknowledged: self.acknowledged, sent: sent.max(self.acknowledged) }
    }

    /// Takes note that a read was answered with an error: it says nothing about the key.
    pub(super) fn read_refused(&mut self) {
        self.reads_open = self.reads_open.saturating_sub(1);
    }

    /// Judges what a read gave. `writer` and `key` are those that values of this run carry here.
    pub(super) fn read_answered(
        &mut self,
        floors: Floors,
        seen: Seen<'_>,
        identity: (u64, u64),
        sent_ns: u64,
        now_ns: u64,
        terms: Terms,
    ) -> Result<(), Violation> {
        self.reads_open = self.reads_open.saturating_sub(1);
        let judge = |floor| match seen {
            Seen::Value(value) => self.judge_value(floor, value, identity, sent_ns, terms),
            Seen::Miss => self.judge_miss(floor, now_ns, terms.evicts),
        };
        let Err(violation) = judge(floors.sent) else { return Ok(()) };
        if floors.sent == floors.acknowledged {
            return Err(violation);
        }
        // Wrong only if the write before it on this connection was carried out, which its reply will say.
        judge(floors.acknowledged)?;
        if floors.sent <= self.refused {
            Ok(())
        } else if floors.sent <= self.acknowledged {
            Err(violation)
        } else {
            self.doubted = floors.sent;
            Ok(())
        }
    }

    fn judge_value(
        &self,
        floor: u32,
        value: &[u8],
        identity: (u64, u64),
        sent_ns: u64,
        terms: Terms,
    ) -> Result<(), Violation> {
        let (writer, key) = identity;
        let stamp = match Stamp::read(value) {
            Ok(stamp) => stamp,
            // Until this run has written the key, anything may lie there.
            Err(_) if floor == 0 && self.is_foreign(value, writer) => return Ok(()),
            Err(error) => return Err(Violation::Bytes(error)),
        };
        if stamp.writer != writer {
            return if floor == 0 { Ok(()) } else { Err(Violation::Foreign { floor }) };
        }
        if stamp.key != key {
            return Err(Violation::Key(stamp.key));
        }
        let number = stamp.number;
        if number < floor {
            return Err(Violation::Stale { floor, number, deleted: self.deleted > number });
        }
        if number > self.sent {
            return Err(Violation::Future { sent: self.sent, number });
        }
        if number == self.refused {
            return Err(Violation::Refused(number));
        }
        if number == self.expiry.number && self.expiry.acknowledged_ns != 0 {
            let latest_ns = self.expiry.acknowledged_ns.saturating_add(self.expiry.ttl_ns);
            if sent_ns > latest_ns.saturating_add(terms.expired_late_ns) {
                return Err(Violation::Expired { number, late_ms: (sent_ns - latest_ns) / NS_PER_MS });
            }
        }
        Ok(())
    }

    /// Whether a value that is no stamp can't be a damaged one of this run: it doesn't carry the writer.
    fn is_foreign(&self, value: &[u8], writer: u64) -> bool {
        value.get(8..16) != Some(&writer.to_le_bytes())
    }

    fn judge_miss(&self, floor: u32, now_ns: u64, evicts: bool) -> Result<(), Violation> {
        let may_be_deleted = self.deleted >= floor;
        let expired_ns = match self.expiry.number {
            0 => u64::MAX,
            number if number == floor => self.expiry.earliest_ns(),
            number if number > floor => self.expiry.earliest_ns().min(self.expiry.before_ns),
            _ => u64::MAX,
        };
        let may_be_expired = now_ns.saturating_add(EARLY_ALLOWANCE_NS) >= expired_ns;
        if evicts || floor == 0 || floor == self.refused || may_be_deleted || may_be_expired {
            return Ok(());
        }
        Err(Violation::Lost { floor })
    }
}

impl Expiry {
    const fn earliest_ns(&self) -> u64 {
        self.sent_ns.saturating_add(self.ttl_ns)
    }
}

/// The versions seen of one key: whoever asks after one was seen sees that or a later one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct VersionHistory {
    newest: u64,
    /// When it was seen.
    seen_ns: u64,
}

impl VersionHistory {
    /// Judges the version in an answer to what was sent at `sent_ns`; a write's must be a new one.
    pub(super) fn answered(
        &mut self,
        version: u64,
        is_write: bool,
        sent_ns: u64,
        now_ns: u64,
    ) -> Result<(), Violation> {
        let floor = self.newest;
        let is_bound = self.seen_ns < sent_ns && floor != 0;
        if version > self.newest {
            (self.newest, self.seen_ns) = (version, now_ns);
        } else if is_bound && (is_write || version < floor) {
            return Err(Violation::Version { floor, version });
        }
        Ok(())
    }
}

/// What is known of one counter, incremented by its one writer alone.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CounterHistory {
    /// Increments sent.
    sent: u32,
    /// The last one answered, and what it gave; zero before the first.
    answered: u32,
    value: i64,
    /// Whether increments since then were refused, so that the next value can't be foretold.
    is_uncertain: bool,
    /// Increments without a reply.
    open: u32,
    /// Increments that ended without an answer and may still be carried out.
    in_doubt: u32,
}

impl CounterHistory {
    /// Whether an increment may be sent while at most one is to be under way.
    pub(super) const fn is_idle(&self) -> bool {
        self.open == 0
    }

    /// Whether the counter was ever incremented.
    pub(super) const fn is_used(&self) -> bool {
        self.sent > 0
    }

    /// Takes note that an increment is sent, and numbers it.
    pub(super) fn increment_sent(&mut self) -> u32 {
        self.sent += 1;
        self.open += 1;
        self.sent
    }

    /// Takes note that an increment was refused.
    pub(super) fn increment_refused(&mut self) {
        self.open -= 1;
        self.is_uncertain = true;
    }

    /// Takes note that an increment has ended without an answer: it was carried out, or will be, or never.
    pub(super) fn increment_in_doubt(&mut self) {
        self.increment_refused();
        self.in_doubt += 1;
    }

    /// Judges what an increment gave.
    ///
    /// Each must be one more than the one before. Where items are evicted a counter may begin again at 1.
    pub(super) fn increment_answered(&mut self, number: u32, value: i64, evicts: bool) -> Result<(), Violation> {
        self.open -= 1;
        if number < self.answered {
            // A reply that was overtaken: its value lies below the one that is known.
            return if value < self.value || evicts { Ok(()) } else { Err(self.violation(value, 0)) };
        }
        let steps = i64::from(number - self.answered);
        let known = self.answered != 0;
        let expected = self.value + steps;
        let continues = !known || value == expected || (self.is_uncertain && value > self.value && value < expected);
        let late = value.saturating_sub(expected);
        let was_late = late > 0 && late <= i64::from(self.in_doubt);
        let begins_again = evicts && (1..=steps).contains(&value);
        let result = if continues || was_late || begins_again { Ok(()) } else { Err(self.violation(value, steps)) };
        if was_late {
            self.in_doubt -= late as u32;
        }
        (self.answered, self.value, self.is_uncertain) = (number, value, false);
        result
    }

    const fn violation(&self, actual: i64, steps: i64) -> Violation {
        Violation::Counter { expected: self.value + steps, actual }
    }
}
