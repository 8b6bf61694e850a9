//! The backlog: a core's latest records, for copies that have not applied them yet.
//!
//! A primary keeps what some copy lacks; a copy keeps what some other in-sync copy may lack, because it may be the
//! primary that has to bring them up to date (C7). One bound on bytes for the whole core: past it the oldest records go,
//! whichever vnode they belong to, and who needed them is streamed the vnode anew.

use std::collections::VecDeque;

/// What a record costs beside its bytes: its place in two queues.
const ENTRY_BYTES: usize = 32;
/// Stale places in the order of all records before it is swept.
const STALE_MAX: usize = 1024;

/// The records of one core.
pub(super) struct Backlog {
    logs: Vec<Log>,
    /// Every record, oldest first; those that were settled meanwhile are stale.
    order: VecDeque<(usize, u64)>,
    records: usize,
    bytes: usize,
    bytes_max: usize,
}

#[derive(Default)]
struct Log {
    /// The number of the oldest record that is kept; that of the next one, when none is.
    first: u64,
    records: VecDeque<Box<[u8]>>,
}

impl Backlog {
    /// An empty one for `vnodes` vnodes.
    pub(super) fn new(vnodes: usize, bytes_max: usize) -> Self {
        let logs = (0..vnodes).map(|_| Log { first: 1, ..Log::default() }).collect();
        Self { logs, order: VecDeque::new(), records: 0, bytes: 0, bytes_max }
    }

    /// Bytes kept.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds the record of write `sequence`.
    pub(super) fn push(&mut self, vnode: usize, sequence: u64, record: Box<[u8]>) {
        let log = &self.logs[vnode];
        if log.first + log.records.len() as u64 != sequence {
            self.restart(vnode, sequence);
        }
        self.bytes += record.len() + ENTRY_BYTES;
        self.records += 1;
        self.logs[vnode].records.push_back(record);
        self.order.push_back((vnode, sequence));
        while self.bytes > self.bytes_max
            && let Some((oldest, sequence)) = self.order.pop_front()
        {
            self.settle(oldest, sequence);
        }
        if self.order.len() > 2 * self.records + STALE_MAX {
            let logs = &self.logs;
            self.order.retain(|(vnode, sequence)| *sequence >= logs[*vnode].first);
        }
    }

    /// Whether every record of `vnode` from number `from` on is here.
    pub(super) fn covers(&self, vnode: usize, from: u64) -> bool {
        let log = &self.logs[vnode];
        (log.first..=log.first + log.records.len() as u64).contains(&from)
    }

    /// The records of `vnode` from number `from` on.
    pub(super) fn records(&self, vnode: usize, from: u64) -> impl Iterator<Item = &[u8]> + Clone {
        let log = &self.logs[vnode];
        let passed = usize::try_from(from.saturating_sub(log.first)).unwrap_or(usize::MAX);
        log.records.iter().skip(passed).map(|record| &**record)
    }

    /// Nobody needs the records of `vnode` up to number `sequence` any more.
    pub(super) fn settle(&mut self, vnode: usize, sequence: u64) {
        let log = &mut self.logs[vnode];
        while log.first <= sequence
            && let Some(record) = log.records.pop_front()
        {
            log.first += 1;
            self.records -= 1;
            self.bytes -= record.len() + ENTRY_BYTES;
        }
    }

    /// Forgets the records of `vnode`; the next one has number `next`.
    pub(super) fn restart(&mut self, vnode: usize, next: u64) {
        self.settle(vnode, u64::MAX);
        self.logs[vnode].first = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: u64) -> Box<[u8]> {
        number.to_le_bytes().into()
    }

    #[test]
    fn the_oldest_records_go_first_whichever_vnode_they_belong_to() {
        let mut backlog = Backlog::new(2, 5 * (8 + ENTRY_BYTES));
        (1..=3).for_each(|number| backlog.push(0, number, record(number)));
        (1..=3).for_each(|number| backlog.push(1, number, record(number)));
        assert!(!backlog.covers(0, 1) && backlog.covers(0, 2) && backlog.covers(1, 1));
        assert_eq!(backlog.records(0, 3).collect::<Vec<_>>(), [3u64.to_le_bytes()]);
        assert!(backlog.covers(0, 4) && !backlog.covers(0, 5), "the next one is no gap");
    }

    #[test]
    fn a_vnode_that_settles_leaves_nothing_behind_while_another_lags() {
        let mut backlog = Backlog::new(2, 1 << 20);
        backlog.push(0, 1, record(1));
        for number in 1..=10_000 {
            backlog.push(1, number, record(number));
            backlog.settle(1, number);
        }
        assert_eq!((backlog.records, backlog.bytes()), (1, 8 + ENTRY_BYTES));
        assert!(backlog.order.len() <= STALE_MAX + 4, "{}", backlog.order.len());
        backlog.push(1, 20_000, record(0));
        assert!(!backlog.covers(1, 10_001), "a gap is never papered over");
    }
}
