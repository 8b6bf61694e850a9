//! What one generator thread has measured: latencies, outcomes, and how busy it was itself.

use hdrhistogram::Histogram;

use crate::protocol::{Outcome, Refusal};
use crate::work::{Ask, Op};

/// Longest latency told apart; longer ones count as this.
const LATENCY_NS_MAX: u64 = 600_000_000_000;
/// Significant digits of a latency: 0.1 %.
const DIGITS: u8 = 3;

/// Counts of how requests ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Requests answered.
    pub(crate) answered: u64,
    /// Gets and multi-gets answered.
    pub(crate) reads: u64,
    /// Keys they asked for.
    pub(crate) keys_read: u64,
    /// Of those, found.
    pub(crate) hits: u64,
    /// Sets carried out.
    pub(crate) stored: u64,
    /// Deletes that removed an item.
    pub(crate) deleted: u64,
    /// Increments carried out.
    pub(crate) counted: u64,
    /// Bytes of values read (single gets).
    pub(crate) value_bytes_read: u64,
    /// Bytes of values written.
    pub(crate) value_bytes_written: u64,
    /// Bytes of values read and written beside what is measured; nothing else of that is counted, but refusals.
    pub(crate) aside_bytes: u64,
    /// Refused: over a limit of size.
    pub(crate) refused_too_large: u64,
    /// Refused: memory is full.
    pub(crate) refused_no_space: u64,
    /// Refused: too busy.
    pub(crate) refused_overloaded: u64,
    /// Refused: another node owns the key now.
    pub(crate) refused_moved: u64,
    /// Refused for another reason.
    pub(crate) refused_other: u64,
    /// Writes without an answer, which may have been carried out.
    pub(crate) in_doubt: u64,
}

impl Tally {
    #[inline]
    fn count(&mut self, ask: &Ask, outcome: Outcome, value_bytes: usize) {
        if ask.is_aside {
            return self.count_aside(ask, outcome, value_bytes);
        }
        self.answered += 1;
        if matches!(ask.op, Op::Get | Op::MultiGet) {
            self.reads += 1;
            self.keys_read += u64::from(ask.keys);
        }
        match outcome {
            Outcome::Hit => {
                self.hits += 1;
                self.value_bytes_read += value_bytes as u64;
            }
            Outcome::Many { hits } => self.hits += u64::from(hits),
            Outcome::Miss => {}
            Outcome::Stored => {
                self.stored += 1;
                self.value_bytes_written += u64::from(ask.value_bytes);
            }
            Outcome::Deleted => self.deleted += 1,
            Outcome::Counted(_) => self.counted += 1,
            Outcome::Refused(refusal) => self.count_refusal(refusal),
            Outcome::InDoubt => self.in_doubt += 1,
        }
    }

    #[cold]
    fn count_aside(&mut self, ask: &Ask, outcome: Outcome, value_bytes: usize) {
        match outcome {
            Outcome::Hit => self.aside_bytes += value_bytes as u64,
            Outcome::Stored => self.aside_bytes += u64::from(ask.value_bytes),
            Outcome::Refused(refusal) => self.count_refusal(refusal),
            _ => {}
        }
    }

    #[cold]
    const fn count_refusal(&mut self, refusal: Refusal) {
        match refusal {
            Refusal::TooLarge => self.refused_too_large += 1,
            Refusal::NoSpace => self.refused_no_space += 1,
            Refusal::Overloaded => self.refused_overloaded += 1,
            Refusal::Moved => self.refused_moved += 1,
            Refusal::Other => self.refused_other += 1,
        }
    }

    fn add(&mut self, other: &Self) {
        self.answered += other.answered;
        self.reads += other.reads;
        self.keys_read += other.keys_read;
        self.hits += other.hits;
        self.stored += other.stored;
        self.deleted += other.deleted;
        self.counted += other.counted;
        self.value_bytes_read += other.value_bytes_read;
        self.value_bytes_written += other.value_bytes_written;
        self.aside_bytes += other.aside_bytes;
        self.refused_too_large += other.refused_too_large;
        self.refused_no_space += other.refused_no_space;
        self.refused_overloaded += other.refused_overloaded;
        self.refused_moved += other.refused_moved;
        self.refused_other += other.refused_other;
        self.in_doubt += other.in_doubt;
    }
}

/// The measurements of one thread; those of several add up.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    /// How requests ended.
    pub(crate) tally: Tally,
    /// Latencies of gets and multi-gets.
    pub(crate) reads: Histogram<u64>,
    /// Latencies of everything else.
    pub(crate) writes: Histogram<u64>,
    /// Passes of the thread's loop.
    pub(crate) turns: u64,
    /// Of those, the ones that found nothing to do.
    pub(crate) turns_empty: u64,
    /// Time spent in passes that found nothing.
    pub(crate) idle_ns: u64,
    /// Replies that arrived together have one latency: recorded once, with their number.
    run: Run,
}

#[derive(Clone, Copy, Debug, Default)]
struct Run {
    is_read: bool,
    latency_ns: u64,
    count: u64,
}

impl Recorder {
    /// Nothing measured yet.
    pub(crate) fn new() -> Self {
        Self {
            tally: Tally::default(),
            reads: latencies(),
            writes: latencies(),
            turns: 0,
            turns_empty: 0,
            idle_ns: 0,
            run: Run::default(),
        }
    }

    /// Forgets everything: the warm-up is over.
    pub(crate) fn reset(&mut self) {
        self.reads.reset();
        self.writes.reset();
        self.tally = Tally::default();
        self.run = Run::default();
        (self.turns, self.turns_empty, self.idle_ns) = (0, 0, 0);
    }

    /// Takes note of a reply.
    #[inline]
    pub(crate) fn answered(&mut self, ask: &Ask, latency_ns: u64, outcome: Outcome, value_bytes: usize) {
        self.tally.count(ask, outcome, value_bytes);
        if ask.is_aside {
            return;
        }
        let is_read = matches!(ask.op, Op::Get | Op::MultiGet);
        if self.run.latency_ns != latency_ns || self.run.is_read != is_read {
            self.flush();
            self.run = Run { is_read, latency_ns, count: 0 };
        }
        self.run.count += 1;
    }

    /// Puts what was held back into the histograms; call it before reading them.
    #[inline]
    pub(crate) fn flush(&mut self) {
        let run = std::mem::take(&mut self.run);
        if run.count > 0 {
            let histogram = if run.is_read { &mut self.reads } else { &mut self.writes };
            histogram.saturating_record_n(run.latency_ns.max(1), run.count);
        }
    }

    /// Adds the measurements of another thread.
    pub(crate) fn add(&mut self, other: &Self) {
        self.tally.add(&other.tally);
        for (own, others) in [(&mut self.reads, &other.reads), (&mut self.writes, &other.writes)] {
            let added = own.add(others);
            debug_assert!(added.is_ok(), "both have the same bounds");
        }
        self.turns += other.turns;
        self.turns_empty += other.turns_empty;
        self.idle_ns += other.idle_ns;
    }

    /// Latencies of all requests.
    pub(crate) fn all(&self) -> Histogram<u64> {
        let mut all = self.reads.clone();
        let added = all.add(&self.writes);
        debug_assert!(added.is_ok(), "both have the same bounds");
        all
    }
}

#[expect(clippy::expect_used, reason = "the bounds are constants; a test makes one")]
fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, DIGITS).expect("constant bounds are valid")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_that_arrive_together_are_each_counted() {
        let mut recorder = Recorder::new();
        for latency in [500, 500, 500, 700, 500] {
            recorder.answered(&Ask::of(Op::Get, 1), latency, Outcome::Hit, 64);
        }
        recorder.answered(&Ask::of(Op::Set, 1), 500, Outcome::Stored, 0);
        recorder.answered(&Ask { is_aside: true, ..Ask::of(Op::Get, 1) }, 500, Outcome::Hit, 9000);
        recorder.flush();
        assert_eq!((recorder.reads.len(), recorder.writes.len(), recorder.all().len()), (5, 1, 6));
        assert_eq!(recorder.reads.count_at(500), 4);
        assert_eq!((recorder.tally.hits, recorder.tally.value_bytes_read, recorder.tally.aside_bytes), (5, 320, 9000));
    }

    #[test]
    fn threads_add_up_and_a_reset_forgets() {
        let mut one = Recorder::new();
        one.answered(&Ask { keys: 16, ..Ask::of(Op::MultiGet, 1) }, 10, Outcome::Many { hits: 12 }, 0);
        one.flush();
        let mut sum = Recorder::new();
        sum.add(&one);
        sum.add(&one);
        assert_eq!((sum.tally.answered, sum.tally.keys_read, sum.tally.hits, sum.reads.len()), (2, 32, 24, 2));
        sum.reset();
        assert_eq!((sum.tally, sum.reads.len()), (Tally::default(), 0));
    }
}
