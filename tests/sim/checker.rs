//! The checker: is each key's history that of one register, in the order of versions?
//!
//! Versions order the writes of a key, so no search is needed (Lowe, "Testing for linearizability", has it for registers
//! with unique values). Each operation has a point in that order: the version that it made, read, or failed on. Whatever
//! began after another had ended must not lie before it, and what was read must be what the writes up to there leave. Values
//! are lists of the operations that made them, so a write that was lost, doubled or brought back shows in a later read.
//!
//! A miss has no version: its point is the earliest at which the key may have been gone. Gone for a reason: a delete, or a
//! time to live that can have ended, or the eviction of just that version. What two losses have taken may be missing, too; one loss takes nothing.

use quoit_wire::{Status, Version};

use crate::store::DepartureCause;

use super::client::DEADLINE;
use super::history::{
    Ask, COUNTER_BASE, Cause, EVERY_KEY, Excuses, Execution, FILLING, FILLING_WORDS, Flushed, History, Operation,
    Outcome, Subject,
};

/// Clocks run by up to a twentieth faster: a time to live ends that much earlier.
const TTL_PERCENT_MIN: u64 = 95;
/// How much later than its time an item may be found: what replication and a failover may add, and a slow clock (C12).
const TTL_LATE_US_MAX: u64 = 6_000_000;
/// How old what a copy answers may be. A copy that counts was heard half a second ago, or is let go by a ring that it hears of
/// late: a slow etcd and a freeze are what may keep it, and its node's lease, which ends meanwhile.
const COPY_LATE_US_MAX: u64 = 10_000_000;

/// A session is woken at the microsecond after its deadline.
const DEADLINE_LATE_US_MAX: u64 = 1;

/// Everything in the history that can't be; with the key.
pub(super) fn check(history: &History) -> Vec<(Subject, String)> {
    let keys = 0..history.executions.len();
    let found =
        keys.flat_map(|key| Key::new(history, key).check().into_iter().map(move |text| (Subject::Key(key), text)));
    found.chain(missed_by_flushes(history)).chain(broken_words(history)).collect()
}

/// What a client is told ends in time, and what it was told had not been carried out never is.
fn broken_words(history: &History) -> Vec<(Subject, String)> {
    let mut found = Vec::new();
    for (number, operation) in history.operations.iter().enumerate() {
        let Operation { client, key, ask, mode, invoked_us, finished_us, outcome } = operation;
        let text = || format!("operation {number} ({ask:?}, {mode:?}, client {client})");
        let subject = if *key == EVERY_KEY { Subject::Vnode(0) } else { Subject::Key(*key) };
        let time_us = finished_us.saturating_sub(*invoked_us);
        if *outcome != Outcome::Pending && time_us > DEADLINE.as_micros() as u64 + DEADLINE_LATE_US_MAX {
            found.push((subject, format!("{} ended after {} ms", text(), time_us / 1000)));
        }
        let executed = || history.executions.iter().flatten().find(|it| it.operation == number);
        if let Outcome::Refused(why) = outcome
            && let Some(execution) = executed()
        {
            found.push((subject, format!("{} was refused ({why}), and carried out: {execution:?}", text())));
        }
    }
    found
}

/// A flush that was carried out has emptied every vnode.
fn missed_by_flushes(history: &History) -> Vec<(Subject, String)> {
    let is_done = |operation: &Operation| operation.ask == Ask::Flush && operation.told().is_some();
    let mut found = Vec::new();
    for (number, operation) in history.operations.iter().enumerate().filter(|(_, operation)| is_done(operation)) {
        let emptied = |vnode: usize| history.flushed.iter().any(|it| it.operation == number && it.vnode == vnode);
        if let Some(vnode) = history.vnodes.iter().find(|vnode| !emptied(**vnode)) {
            let Operation { mode, client, invoked_us, finished_us, .. } = operation;
            let (from, to) = (*invoked_us as f64 / 1e6, *finished_us as f64 / 1e6);
            let text =
                format!("flush {number} ({mode:?}, client {client}, {from:.3} s to {to:.3} s) missed vnode {vnode}");
            found.push((Subject::Vnode(*vnode), text));
        }
    }
    found
}

struct Key<'a> {
    history: &'a History,
    key: usize,
    /// In the order of versions.
    executions: Vec<Execution>,
    excuses: Excuses,
    /// Versions that a client was told of by a write that waits for copies, or by a read of one.
    durable: Vec<Version>,
    violations: Vec<String>,
}

/// What an operation's place in the order is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    Wrote(Version),
    Read(Version),
    Missed,
}

impl<'a> Key<'a> {
    fn new(history: &'a History, key: usize) -> Self {
        let mut executions = history.executions[key].clone();
        executions.sort_by_key(|execution| execution.version);
        let excuses = history.excuses(history.vnodes[key]);
        let mut this = Self { history, key, executions, excuses, durable: Vec::new(), violations: Vec::new() };
        let sure = this.operations().filter(|(_, operation)| !operation.is_stale());
        let told = sure.filter_map(|(_, operation)| match point(operation)? {
            Point::Wrote(version) | Point::Read(version) => Some(version),
            Point::Missed => None,
        });
        let flushed = this.flushed().map(|it| it.version);
        let mut durable: Vec<Version> = told.filter(|version| this.waited(*version)).chain(flushed).collect();
        durable.sort();
        durable.dedup();
        this.durable = durable;
        this
    }

    fn check(mut self) -> Vec<String> {
        // The points of what has ended, with when; those of async writes bind nobody.
        let mut ended: Vec<(u64, Version)> = self.flushed().map(|it| (it.told_us, it.version)).collect();
        for (number, operation) in self.history.operations.iter().enumerate() {
            if operation.key != self.key {
                continue;
            }
            let Some(point) = point(operation) else { continue };
            let since_us = self.bound_from(number, operation);
            // The latest are last, more or less: few are looked at twice.
            let mut floor = Version::NONE;
            for (finished_us, version) in ended.iter().rev() {
                if *version > floor && *finished_us < since_us && !self.is_excused(*version, operation) {
                    floor = *version;
                }
            }
            let at = match point {
                Point::Wrote(version) => self.check_write(number, operation, version, floor),
                Point::Read(version) => self.check_read(number, operation, version, floor),
                Point::Missed => self.check_miss(number, operation, floor),
            };
            // A miss has waited for the delete that it rests on, if that waits for copies.
            let binds = self.durable.binary_search(&at).is_ok() || point == Point::Missed && self.waited(at);
            if at > Version::NONE && binds && !operation.is_stale() {
                ended.push((operation.finished_us, at));
            }
        }
        self.check_counters();
        self.check_primaries();
        self.check_expiries();
        self.violations
    }

    /// What had ended before this moment binds the operation: before it was asked, or so much earlier as its answer, which
    /// says that it may be stale, may be old.
    fn bound_from(&mut self, number: usize, operation: &Operation) -> u64 {
        match (operation.is_stale(), operation.ask) {
            (false, _) => operation.invoked_us,
            (true, Ask::Get | Ask::GetAny) if self.history.serves_stale => 0,
            (true, Ask::GetAny) => operation.invoked_us.saturating_sub(COPY_LATE_US_MAX),
            (true, _) => {
                self.fail(number, operation, "was answered with what may be stale, though nobody may".to_owned());
                operation.invoked_us
            }
        }
    }

    fn check_write(&mut self, number: usize, operation: &Operation, version: Version, floor: Version) -> Version {
        if version <= floor {
            self.fail(number, operation, format!("made {version}, but {floor} was there before it was asked"));
        }
        match operation.ask {
            Ask::SetIfAbsent if !self.can_be_gone(version, operation, false) => {
                let item = self.last_put(version, operation, false);
                self.fail(number, operation, format!("made {version} where {item:?} was"));
            }
            Ask::SetIfVersion(wanted) => {
                let between = |it: &&Version| wanted < **it && **it < version && !self.is_excused(**it, operation);
                if let Some(other) = self.durable.iter().find(between).copied() {
                    self.fail(number, operation, format!("made {version} on top of {wanted}, but {other} was there"));
                }
            }
            _ => {}
        }
        version
    }

    fn check_read(&mut self, number: usize, operation: &Operation, version: Version, floor: Version) -> Version {
        if version < floor {
            self.fail(number, operation, format!("found {version}, but {floor} was known before it was asked"));
        }
        let Some(execution) = self.execution(version) else {
            self.fail(number, operation, format!("found {version}, which nobody made"));
            return version;
        };
        let times = self.times_to_live(version, operation.finished_us);
        let is_over = |(ttl_ms, since_us): &(u64, u64)| {
            *ttl_ms > 0 && operation.invoked_us > since_us + ttl_ms * 1000 + TTL_LATE_US_MAX
        };
        if !times.is_empty() && times.iter().all(is_over) {
            self.fail(number, operation, format!("found {version}, whose time to live was long over"));
        }
        if operation.ask.is_get()
            && let Outcome::Answered { value, .. } = &operation.outcome
            && self.writer(&execution).ask != Ask::Increment
            && let Err(text) = self.check_list(operation, version, &execution, value)
        {
            self.fail(number, operation, text);
        }
        version
    }

    /// Whether the list that was read is what the writes up to `version` leave.
    fn check_list(
        &self,
        operation: &Operation,
        version: Version,
        made_by: &Execution,
        value: &[u8],
    ) -> Result<(), String> {
        let numbers: Vec<usize> =
            value.as_chunks::<4>().0.iter().map(|chunk| u32::from_le_bytes(*chunk) as usize).collect();
        let (filling, numbers): (Vec<usize>, Vec<usize>) =
            numbers.into_iter().partition(|number| *number == FILLING as usize);
        let Some(first) = numbers.first() else { return Err("found an empty list".to_owned()) };
        if let Some(twice) = numbers.iter().enumerate().find(|(at, number)| numbers[..*at].contains(number)) {
            return Err(format!("found {numbers:?}: {} was carried out twice", twice.1));
        }
        let is_touch = matches!(self.writer(made_by).ask, Ask::Touch { .. });
        if !is_touch && numbers.last() != Some(&made_by.operation) {
            return Err(format!("found {numbers:?} under {version}, which {} made", made_by.operation));
        }
        let bases = self.executions.iter().filter(|it| it.operation == *first && it.version <= version);
        let Some(base) = bases.map(|it| it.version).max() else {
            return Err(format!("found {numbers:?}, but nothing up to {version} began with {first}"));
        };
        let is_large = self.history.operations[*first].ask == Ask::SetLarge;
        if filling.len() != if is_large { FILLING_WORDS } else { 0 } {
            return Err(format!("found {numbers:?} under {version} with {} words of filling", filling.len()));
        }
        for execution in self.executions.iter().filter(|it| base < it.version && it.version < version) {
            let is_binding = self.durable.binary_search(&execution.version).is_ok()
                && !self.is_excused(execution.version, operation);
            let is_missing = match self.writer(execution).ask {
                Ask::Append => !numbers.contains(&execution.operation),
                Ask::Touch { .. } => false,
                _ => true,
            };
            if is_binding && is_missing {
                let Execution { operation, version: lost, .. } = execution;
                return Err(format!("found {numbers:?} under {version}: {operation}, which made {lost}, is not in it"));
            }
        }
        let gone = self.history.causes[self.key].iter().find(|(at, cause)| match cause {
            Cause::VnodeLost => base < *at && *at <= version,
        });
        match gone {
            Some((at, cause)) => Err(format!("found {numbers:?} under {version}, but at {at}: {cause:?}")),
            None => Ok(()),
        }
    }

    /// The earliest point from `floor` on at which the key can have been gone.
    fn check_miss(&mut self, number: usize, operation: &Operation, floor: Version) -> Version {
        if self.can_be_gone(floor, operation, true) {
            return floor;
        }
        if let Some(at) = self.ends(operation).into_iter().map(|(at, _)| at).filter(|at| *at > floor).min() {
            return at;
        }
        let item = self.last_put(floor, operation, true);
        self.fail(number, operation, format!("found nothing where {item:?} was, and nothing says why"));
        floor
    }

    /// Whether the key can have been gone at `at` (or just before it).
    fn can_be_gone(&self, at: Version, operation: &Operation, is_inclusive: bool) -> bool {
        let item = self.last_put(at, operation, is_inclusive);
        self.ends(operation).into_iter().any(|(end, takes_own)| {
            let is_in_time = if is_inclusive { end <= at } else { end < at };
            is_in_time && item.is_none_or(|item| end > item || (takes_own && end == item))
        })
    }

    /// The last version up to `at` that surely left an item.
    fn last_put(&self, at: Version, operation: &Operation, is_inclusive: bool) -> Option<Version> {
        let puts = self.executions.iter().filter(|it| self.writer(it).ask.puts());
        let versions = puts.map(|it| it.version).filter(|it| if is_inclusive { *it <= at } else { *it < at });
        versions.filter(|it| self.durable.binary_search(it).is_ok() && !self.is_excused(*it, operation)).max()
    }

    /// Where the key may have gone, as far as that can have happened before `operation` ended; and whether it is the item of
    /// that very version that went.
    fn ends(&self, operation: &Operation) -> Vec<(Version, bool)> {
        let mut ends = vec![(Version::NONE, false)];
        for execution in self.executions.iter().filter(|it| it.at_us <= operation.finished_us) {
            if matches!(self.writer(execution).ask, Ask::Delete | Ask::Flush) {
                ends.push((execution.version, false));
            } else if self.may_have_ended(execution.version, operation.finished_us) {
                ends.push((execution.version, true));
            }
        }
        // The latest version's own eviction, by whoever leads: that of an older one explains nothing.
        let evicted = self.history.gone[self.key].iter().filter(|gone| {
            gone.cause == DepartureCause::Evicted && !gone.follows && gone.at_us <= operation.finished_us
        });
        ends.extend(evicted.map(|gone| (gone.version, true)));
        ends
    }

    /// Nothing ends before its time.
    fn check_expiries(&mut self) {
        for gone in self.history.gone[self.key].iter().filter(|gone| gone.cause == DepartureCause::Expired) {
            if !self.may_have_ended(gone.version, gone.at_us) {
                let times = self.times_to_live(gone.version, gone.at_us);
                self.violations.push(format!("key {}: ended before its time ({times:?}): {gone:?}", self.key));
            }
        }
    }

    /// The times to live that the item of `version` may have, each with since when it counts at the latest: the one that it was
    /// given last, and earlier ones where what gave it that may be lost by `by_us`.
    fn times_to_live(&self, version: Version, by_us: u64) -> Vec<(u64, u64)> {
        let mut found = Vec::new();
        for execution in self.executions.iter().rev().skip_while(|it| it.version > version) {
            let Some(ttl_ms) = self.writer(execution).ask.ttl_ms() else { continue };
            found.push((ttl_ms, execution.at_us));
            let is_kept = self.durable.binary_search(&execution.version).is_ok();
            if execution.version == version || is_kept && !self.may_be_lost(execution.version, by_us) {
                break;
            }
        }
        found
    }

    /// Whether the time to live of the item of `version` can have ended by `at_us`.
    fn may_have_ended(&self, version: Version, at_us: u64) -> bool {
        let is_over = |(ttl_ms, since_us): (u64, u64)| ttl_ms > 0 && at_us >= since_us + ttl_ms * 10 * TTL_PERCENT_MIN;
        self.times_to_live(version, at_us).into_iter().any(is_over)
    }

    /// Counters rise by one with each increment, no more and no less.
    fn check_counters(&mut self) {
        let mut seen: Vec<(Version, i64)> = Vec::new();
        for (_, operation) in self.operations() {
            let Outcome::Answered { status: Status::Ok, version, value, .. } = &operation.outcome else { continue };
            match operation.ask {
                Ask::Increment => seen.extend(value.first_chunk().map(|bytes| (*version, i64::from_le_bytes(*bytes)))),
                Ask::Get | Ask::GetAny
                    if self.execution(*version).is_some_and(|it| self.writer(&it).ask == Ask::Increment) =>
                {
                    let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                    seen.extend(number.map(|number| (*version, number)));
                }
                _ => {}
            }
        }
        seen.sort();
        seen.dedup();
        for pair in seen.windows(2) {
            let [(before, from), (after, to)] = [pair[0], pair[1]];
            if before == after {
                self.violations.push(format!("key {}: {before} was {from} and {to}", self.key));
            }
            if from / COUNTER_BASE != to / COUNTER_BASE {
                continue;
            }
            let between = self.executions.iter().filter(|it| before < it.version && it.version <= after);
            let between = between.filter(|it| self.writer(it).ask == Ask::Increment);
            let mut writers: Vec<usize> = between.map(|it| it.operation).collect();
            writers.sort_unstable();
            writers.dedup();
            let most = writers.len() as i64;
            if to - from > most {
                self.violations.push(format!(
                    "key {}: {from} under {before} became {to} under {after} by {most} increments: {writers:?}",
                    self.key
                ));
            }
        }
    }

    /// At most one core accepts writes under one term (C2).
    fn check_primaries(&mut self) {
        for pair in self.executions.windows(2) {
            let [one, next] = [pair[0], pair[1]];
            if one.version.term() == next.version.term() && one.by != next.by {
                self.violations.push(format!("key {}: two primaries under one term: {one:?}, {next:?}", self.key));
            }
        }
    }

    fn operations(&self) -> impl Iterator<Item = (usize, &'a Operation)> + use<'a> {
        let key = self.key;
        self.history.operations.iter().enumerate().filter(move |(_, operation)| operation.key == key)
    }

    /// What flushes that wait for copies have emptied this key's vnode, as far as their clients were told.
    fn flushed(&self) -> impl Iterator<Item = Flushed> + use<'a> {
        let (history, vnode) = (self.history, self.history.vnodes[self.key]);
        let waits = |flushed: &Flushed| history.operations[flushed.operation].waits_for_copies();
        history.flushed.iter().copied().filter(move |it| it.vnode == vnode && waits(it))
    }

    fn execution(&self, version: Version) -> Option<Execution> {
        let place = self.executions.binary_search_by_key(&version, |it| it.version).ok()?;
        Some(self.executions[place])
    }

    fn writer(&self, execution: &Execution) -> &'a Operation {
        &self.history.operations[execution.operation]
    }

    /// Whether the write of this version waited for copies.
    fn waited(&self, version: Version) -> bool {
        self.execution(version).is_some_and(|it| self.writer(&it).waits_for_copies())
    }

    /// Whether the write of `version` may be lost by the end of `operation`: more than one node was.
    fn is_excused(&self, version: Version, operation: &Operation) -> bool {
        self.may_be_lost(version, operation.finished_us)
    }

    fn may_be_lost(&self, version: Version, by_us: u64) -> bool {
        let written_us = self.execution(version).map(|it| self.writer(&it).invoked_us);
        written_us.is_some_and(|written_us| self.excuses.may_be_lost(written_us, by_us))
    }

    fn fail(&mut self, number: usize, operation: &Operation, text: String) {
        let Operation { client, key, ask, mode, invoked_us, finished_us, .. } = operation;
        let (from, to) = (*invoked_us as f64 / 1e6, *finished_us as f64 / 1e6);
        self.violations.push(format!(
            "key {key}: operation {number} ({ask:?}, {mode:?}, client {client}, {from:.3} s to {to:.3} s) {text}"
        ));
    }
}

fn point(operation: &Operation) -> Option<Point> {
    let (status, version) = operation.told()?;
    Some(match status {
        Status::Ok if operation.ask.is_write() => Point::Wrote(version),
        Status::Ok => Point::Read(version),
        Status::ConditionFailed if version != Version::NONE => Point::Read(version),
        _ => Point::Missed,
    })
}
