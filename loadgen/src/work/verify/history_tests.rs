//! Each promise broken once, on purpose: a checker that finds nothing is worth nothing.

use super::history::{
    CounterHistory, EXPIRED_ALLOWANCE_NS, Floors, KeyHistory, Seen, Terms, VersionHistory, Violation,
};
use super::stamp::Stamp;

const KEY: u64 = 42;
const WRITER: u64 = 7;
const MS: u64 = 1_000_000;

const fn terms(evicts: bool) -> Terms {
    Terms { evicts, expired_late_ns: EXPIRED_ALLOWANCE_NS }
}

fn value(number: u32) -> Vec<u8> {
    stamped(KEY, WRITER, number)
}

fn stamped(key: u64, writer: u64, number: u32) -> Vec<u8> {
    let mut value = Vec::new();
    Stamp { key, writer, number }.write(40, &mut value);
    value
}

/// A history in which writes are acknowledged at once; `d` is a delete, `s` a set.
fn history(writes: &str) -> KeyHistory {
    let mut history = KeyHistory::default();
    for write in writes.chars() {
        let number = if write == 'd' { history.delete_sent() } else { history.set_sent(0, 0) };
        history.write_answered(number, true, 0).expect("no doubt");
    }
    history
}

/// A read from another connection that gives `seen`.
fn read(history: &mut KeyHistory, seen: Seen<'_>, evicts: bool) -> Result<(), Violation> {
    let floors = history.read_sent(false);
    history.read_answered(floors, seen, (WRITER, KEY), 0, 0, terms(evicts))
}

#[test]
fn the_last_write_is_right() {
    assert_eq!(read(&mut history("sss"), Seen::Value(&value(3)), false), Ok(()));
}

#[test]
fn a_stale_value_is_caught() {
    let stale = read(&mut history("sss"), Seen::Value(&value(2)), true);
    assert_eq!(stale, Err(Violation::Stale { floor: 3, number: 2, deleted: false }));
}

#[test]
fn a_lost_delete_is_caught() {
    let stale = read(&mut history("sd"), Seen::Value(&value(1)), true);
    assert_eq!(stale, Err(Violation::Stale { floor: 2, number: 1, deleted: true }));
    assert_eq!(read(&mut history("sd"), Seen::Miss, false), Ok(()));
}

#[test]
fn a_lost_item_is_caught_only_where_nothing_is_evicted() {
    assert_eq!(read(&mut history("s"), Seen::Miss, false), Err(Violation::Lost { floor: 1 }));
    assert_eq!(read(&mut history("s"), Seen::Miss, true), Ok(()));
    assert_eq!(read(&mut history(""), Seen::Miss, false), Ok(()));
    assert_eq!(read(&mut history("ds"), Seen::Miss, false), Err(Violation::Lost { floor: 2 }));
}

#[test]
fn a_wrong_byte_is_caught() {
    let mut wrong = value(1);
    wrong[30] ^= 1;
    assert!(matches!(read(&mut history("s"), Seen::Value(&wrong), true), Err(Violation::Bytes(_))));
    // Before the first acknowledgement too: it carries our name.
    let mut early = KeyHistory::default();
    early.set_sent(0, 0);
    assert!(matches!(read(&mut early, Seen::Value(&wrong), true), Err(Violation::Bytes(_))));
}

#[test]
fn another_keys_value_is_caught() {
    let other = read(&mut history("s"), Seen::Value(&stamped(43, WRITER, 1)), true);
    assert_eq!(other, Err(Violation::Key(43)));
}

#[test]
fn what_an_earlier_run_left_is_right_until_this_one_has_written() {
    let left = stamped(KEY, WRITER + 1, 99);
    assert_eq!(read(&mut history(""), Seen::Value(&left), true), Ok(()));
    assert_eq!(read(&mut history(""), Seen::Value(b"anything"), true), Ok(()));
    assert_eq!(read(&mut history("s"), Seen::Value(&left), true), Err(Violation::Foreign { floor: 1 }));
}

#[test]
fn a_write_never_sent_and_a_refused_one_are_caught() {
    assert_eq!(read(&mut history("s"), Seen::Value(&value(2)), true), Err(Violation::Future { sent: 1, number: 2 }));
    let mut history = history("s");
    let number = history.set_sent(0, 0);
    history.write_answered(number, false, 0).expect("no doubt");
    assert_eq!(read(&mut history, Seen::Value(&value(2)), true), Err(Violation::Refused(2)));
    assert_eq!(read(&mut history, Seen::Value(&value(1)), false), Ok(()));
}

#[test]
fn a_write_on_its_way_may_or_may_not_be_seen() {
    for seen in [1, 2] {
        let mut history = history("s");
        history.set_sent(0, 0);
        assert_eq!(read(&mut history, Seen::Value(&value(seen)), false), Ok(()), "write {seen}");
    }
    let mut history = history("s");
    history.delete_sent();
    assert_eq!(read(&mut history, Seen::Miss, false), Ok(()));
}

#[test]
fn on_the_writers_connection_a_write_must_be_seen_before_its_reply() {
    // The reply to the write comes after that to the read.
    let mut late = history("s");
    let number = late.set_sent(0, 0);
    let floors = late.read_sent(true);
    assert_eq!(floors, Floors { acknowledged: 1, sent: 2 });
    assert_eq!(late.read_answered(floors, Seen::Value(&value(1)), (WRITER, KEY), 0, 0, terms(true)), Ok(()), "a doubt");
    assert!(matches!(late.write_answered(number, true, 0), Err(Violation::Stale { floor: 2, .. })));
    // It comes before.
    let mut early = history("s");
    let number = early.set_sent(0, 0);
    let floors = early.read_sent(true);
    early.write_answered(number, true, 0).expect("no doubt yet");
    let stale = early.read_answered(floors, Seen::Value(&value(1)), (WRITER, KEY), 0, 0, terms(true));
    assert_eq!(stale, Err(Violation::Stale { floor: 2, number: 1, deleted: false }));
}

#[test]
fn a_doubt_is_dropped_when_the_write_was_refused() {
    let mut history = history("s");
    let number = history.set_sent(0, 0);
    let floors = history.read_sent(true);
    assert_eq!(history.read_answered(floors, Seen::Value(&value(1)), (WRITER, KEY), 0, 0, terms(false)), Ok(()));
    assert_eq!(history.write_answered(number, false, 0), Ok(()));
}

/// A set with 100 ms to live, sent at 1000 ms and acknowledged at 1001 ms.
fn expiring() -> KeyHistory {
    let mut history = history("s");
    assert!(history.may_expire_next());
    let number = history.set_sent(100, 1000 * MS);
    history.write_answered(number, true, 1001 * MS).expect("no doubt");
    history
}

fn read_at(history: &mut KeyHistory, seen: Seen<'_>, sent_ms: u64, answered_ms: u64) -> Result<(), Violation> {
    let floors = history.read_sent(false);
    history.read_answered(floors, seen, (WRITER, KEY), sent_ms * MS, answered_ms * MS, terms(false))
}

#[test]
fn an_item_served_past_its_time_is_caught() {
    assert_eq!(read_at(&mut expiring(), Seen::Value(&value(2)), 1102, 1103), Ok(()), "within the allowance");
    let late = read_at(&mut expiring(), Seen::Value(&value(2)), 1108, 1109);
    assert_eq!(late, Err(Violation::Expired { number: 2, late_ms: 7 }));
    assert_eq!(read_at(&mut expiring(), Seen::Miss, 1108, 1109), Ok(()));
}

#[test]
fn an_item_gone_before_its_time_is_caught() {
    assert_eq!(read_at(&mut expiring(), Seen::Miss, 1050, 1060), Err(Violation::Lost { floor: 2 }));
    assert_eq!(read_at(&mut expiring(), Seen::Miss, 1098, 1099), Ok(()), "within the allowance");
}

#[test]
fn an_expired_item_may_be_missed_while_the_next_write_is_on_its_way() {
    let mut history = expiring();
    let number = history.set_sent(5000, 1200 * MS);
    assert_eq!(read_at(&mut history, Seen::Miss, 1201, 1202), Ok(()));
    history.write_answered(number, true, 1203 * MS).expect("no doubt");
    assert_eq!(read_at(&mut history, Seen::Miss, 1204, 1205), Err(Violation::Lost { floor: 3 }));
}

#[test]
fn an_expiring_write_waits_for_what_is_open() {
    let mut history = history("s");
    history.read_sent(false);
    assert!(!history.may_expire_next() && history.may_write_next(false));
    let mut history = self::history("s");
    history.set_sent(100, 0);
    assert!(!history.may_write_next(false), "nothing is sent behind an expiring write without a reply");
}

#[test]
fn a_counter_that_goes_back_or_jumps_is_caught() {
    let count = |values: &[i64], evicts| {
        let mut counter = CounterHistory::default();
        values.iter().try_for_each(|&value| {
            let number = counter.increment_sent();
            counter.increment_answered(number, value, evicts)
        })
    };
    assert_eq!(count(&[1, 2, 3], false), Ok(()));
    assert_eq!(count(&[500, 501], false), Ok(()), "an earlier run may have counted");
    assert_eq!(count(&[1, 2, 2], false), Err(Violation::Counter { expected: 3, actual: 2 }));
    assert_eq!(count(&[1, 2, 4], true), Err(Violation::Counter { expected: 3, actual: 4 }));
    assert_eq!(count(&[5, 6, 1], false), Err(Violation::Counter { expected: 7, actual: 1 }));
    assert_eq!(count(&[5, 6, 1, 2], true), Ok(()), "evicted, and begun again");
    assert_eq!(count(&[5, 6, 2], true), Err(Violation::Counter { expected: 7, actual: 2 }));
}

#[test]
fn a_refused_increment_makes_the_next_one_uncertain_but_no_less() {
    let mut counter = CounterHistory::default();
    let first = counter.increment_sent();
    counter.increment_answered(first, 10, false).expect("right");
    counter.increment_sent();
    counter.increment_refused();
    let third = counter.increment_sent();
    let mut went_back = counter;
    assert_eq!(counter.increment_answered(third, 11, false), Ok(()));
    assert!(went_back.increment_answered(third, 10, false).is_err());
}

#[test]
fn an_increment_in_doubt_may_be_carried_out_late_and_once() {
    let count = |values: &[i64]| {
        let mut counter = CounterHistory::default();
        let first = counter.increment_sent();
        counter.increment_answered(first, 1, false)?;
        counter.increment_sent();
        counter.increment_in_doubt();
        values.iter().try_for_each(|&value| {
            let number = counter.increment_sent();
            counter.increment_answered(number, value, false)
        })
    };
    assert_eq!(count(&[2, 3]), Ok(()), "it was never carried out");
    assert_eq!(count(&[3, 4]), Ok(()), "it was carried out in its place");
    assert_eq!(count(&[2, 4, 5]), Ok(()), "it was carried out late");
    assert_eq!(count(&[2, 4, 6]), Err(Violation::Counter { expected: 5, actual: 6 }), "it was carried out twice");
    assert_eq!(count(&[2, 2]), Err(Violation::Counter { expected: 3, actual: 2 }));
}

#[test]
fn a_version_that_was_seen_is_not_gone_back_behind() {
    let mut versions = VersionHistory::default();
    assert_eq!(versions.answered(5, true, 0, 10), Ok(()));
    assert_eq!(versions.answered(5, false, 11, 12), Ok(()), "a read of what was written");
    assert_eq!(versions.answered(4, false, 9, 12), Ok(()), "it was asked before");
    assert_eq!(versions.answered(4, false, 11, 12), Err(Violation::Version { floor: 5, version: 4 }));
    assert_eq!(versions.answered(5, true, 13, 14), Err(Violation::Version { floor: 5, version: 5 }));
    assert_eq!(versions.answered(6, true, 15, 16), Ok(()));
}

#[test]
fn one_write_at_a_time_waits_for_the_one_before() {
    let mut history = KeyHistory::default();
    let first = history.set_sent(0, 0);
    assert!(history.may_write_next(false) && !history.may_write_next(true));
    history.write_in_doubt();
    assert!(history.may_write_next(true));
    // What is in doubt may be there or not.
    assert_eq!(read(&mut history, Seen::Value(&value(first)), false), Ok(()));
    assert_eq!(read(&mut history, Seen::Miss, false), Ok(()));
}
