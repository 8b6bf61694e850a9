//! How a core with nothing to do sleeps, and what wakes it.
//!
//! A parked core waits in its own ring for a completion, for a limited time (`Core::sleep`). Who else has something for it,
//! another core or a control command, sees its sleeping flag and rings its eventfd, which the ring watches.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::Duration;

use super::clock::Reading;

/// Longest time an adaptive core looks again before it sleeps: about what a sleep and its wake-up cost, so that spinning in
/// vain at most doubles the cost of one (ski rental). Longer: more processor time for a core with little to do.
pub(super) const ADAPTIVE_SPIN_MAX: Duration = Duration::from_micros(50);
/// Spinning for less than this is given up.
const ADAPTIVE_SPIN_MIN_NANOS: u64 = 5_000;

/// What a core does when a turn found nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Sleep at once: no CPU while idle, a wake-up (tens of microseconds) before the next reply. For cores that share their
    /// processor: while replies wait for other nodes, it is offered to others after each turn.
    Park,
    /// Never sleep: the core is always busy, replies leave at once.
    Spin,
    /// Look again for this long, then sleep.
    SpinThenPark(Duration),
    /// Look again for as long as it has paid lately, at most 50 µs, then sleep: an idle core sleeps at
    /// once, and one that has something to do every few microseconds doesn't sleep.
    Adaptive,
}

/// How long a core waits for work awake: [`Idle`], and what it has learnt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    idle: Idle,
    /// For [`Idle::Adaptive`]: how long to look again now.
    spin_nanos: u64,
    /// When the core was first found without work; none while it has some.
    idle_since: Option<Reading>,
    /// When the last turn began, if it found nothing and the core stayed awake.
    spins_since: Option<Reading>,
}

impl Patience {
    pub(super) fn new(idle: Idle) -> Self {
        Self { idle, spin_nanos: 0, idle_since: None, spins_since: None }
    }

    /// A turn that began at `now` found nothing; whether to sleep.
    pub(super) fn shall_park(&mut self, now: Reading) -> bool {
        let idle_since = *self.idle_since.get_or_insert(now);
        let shall_park = match self.idle {
            Idle::Park => true,
            Idle::Spin => false,
            Idle::SpinThenPark(time) => now.is_past(idle_since, time),
            Idle::Adaptive => now.nanos_since(idle_since) >= self.spin_nanos,
        };
        self.spins_since = (!shall_park).then_some(now);
        shall_park
    }

    /// A turn has begun at `now`; how long the core was awake for nothing before it.
    pub(super) fn spun_nanos(&mut self, now: Reading) -> u64 {
        self.spins_since.take().map_or(0, |since| now.nanos_since(since))
    }

    /// A turn that began at `now` found work. Had it come within the time a core may spin, it pays to spin; had it come
    /// later, spinning was for nothing. (KVM polls for its halted guests by the same rule.)
    pub(super) fn found_work(&mut self, now: Reading) {
        let Some(idle_since) = self.idle_since.take() else { return };
        let (waited_nanos, spin_nanos_max) = (now.nanos_since(idle_since), ADAPTIVE_SPIN_MAX.as_nanos() as u64);
        if waited_nanos > spin_nanos_max {
            self.spin_nanos = if self.spin_nanos > ADAPTIVE_SPIN_MIN_NANOS { self.spin_nanos / 2 } else { 0 };
        } else if waited_nanos > self.spin_nanos {
            self.spin_nanos = (2 * self.spin_nanos).clamp(2 * ADAPTIVE_SPIN_MIN_NANOS, spin_nanos_max);
        }
    }
}

/// A fresh eventfd.
pub(super) fn new_eventfd() -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed; a non-negative result is a descriptor that nobody else owns.
    unsafe {
        match libc::eventfd(0, libc::EFD_CLOEXEC) {
            -1 => Err(io::Error::last_os_error()),
            descriptor => Ok(OwnedFd::from_raw_fd(descriptor)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets a core wait `wait_nanos` for its next work; returns how long of it it was awake.
    fn wait(patience: &mut Patience, start: Reading, wait_nanos: u64) -> u64 {
        let mut spun_nanos = 0;
        let awake = (0..wait_nanos).step_by(1000).find(|nanos| {
            let now = start.plus_nanos(*nanos);
            spun_nanos += patience.spun_nanos(now);
            patience.shall_park(now)
        });
        let end = start.plus_nanos(wait_nanos);
        spun_nanos += patience.spun_nanos(end);
        patience.found_work(end);
        let awake_nanos = awake.unwrap_or(wait_nanos);
        assert_eq!(spun_nanos, awake_nanos, "all of it was for nothing, and no sleep is counted");
        awake_nanos
    }

    #[test]
    fn an_adaptive_core_stays_awake_while_work_comes_often_and_sleeps_at_once_when_it_comes_seldom() {
        let mut patience = Patience::new(Idle::Adaptive);
        let start = Reading::default();
        assert_eq!(wait(&mut patience, start, 20_000), 0, "nothing is known yet");
        for _ in 0..4 {
            wait(&mut patience, start, 20_000);
        }
        assert_eq!(wait(&mut patience, start, 20_000), 20_000, "work came every 20 µs");
        for _ in 0..8 {
            wait(&mut patience, start, 1_000_000);
        }
        assert_eq!(wait(&mut patience, start, 1_000_000), 0, "work came every millisecond");
    }

    #[test]
    fn the_other_kinds_of_idle_learn_nothing() {
        for (idle, awake_nanos) in
            [(Idle::Park, 0), (Idle::Spin, 90_000), (Idle::SpinThenPark(Duration::from_micros(30)), 30_000)]
        {
            let mut patience = Patience::new(idle);
            for _ in 0..3 {
                assert_eq!(wait(&mut patience, Reading::default(), 90_000), awake_nanos, "{idle:?}");
            }
        }
    }
}
