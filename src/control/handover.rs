//! The last task of a node of a cluster: handing over what it has, while that goes on and no longer.
//!
//! The control thread says how much is left and what stands in the way ([`Handover`]); the main thread waits, and tells the
//! log. It waits for `--drain-timeout` at most, and not for what can't be: no etcd, or nobody who would take anything.

use std::time::Duration;

use crate::cluster::agent::Trouble;

/// Between two lines that tell how much is left.
const TOLD_EVERY: Duration = Duration::from_secs(2);

/// What stands in the way may go away for so long. Shorter: an etcd that restarts or elects another leader costs what has no
/// copy elsewhere. Longer: whoever stops a node waits for nothing.
const TROUBLE_TIME_MAX: Duration = Duration::from_secs(4);

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Handover {
    /// Vnodes that are still to be given away.
    pub vnodes_left: usize,
    /// Whether another node would take them.
    pub has_taker: bool,
    /// What keeps this node from its cluster.
    pub trouble: Option<Trouble>,
}

/// Waits until everything is handed over, or it is plain that it won't be; `passed` is the time since the beginning.
pub(super) fn wait(news: &flume::Receiver<Handover>, time_max: Duration, passed: impl Fn() -> Duration) {
    let mut wait = Wait::new(time_max);
    loop {
        match news.recv_timeout(wait.until().saturating_sub(passed())) {
            Ok(handover) => {
                if !wait.hear(passed(), handover) {
                    return;
                }
            }
            Err(flume::RecvTimeoutError::Timeout) => return wait.give_up(),
            // The control thread has ended, which it does not by itself.
            Err(flume::RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// The wait for the end of it. Times count from its beginning.
#[derive(Debug)]
struct Wait {
    time_max: Duration,
    vnodes_left: Option<usize>,
    /// What stands in the way, and since when something does.
    trouble: Option<(Trouble, Duration)>,
    told: Option<Duration>,
}

impl Wait {
    const fn new(time_max: Duration) -> Self {
        Self { time_max, vnodes_left: None, trouble: None, told: None }
    }

    /// When to give up, unless something is heard before.
    fn until(&self) -> Duration {
        let for_trouble = self.trouble.as_ref().map(|(_, since)| *since + TROUBLE_TIME_MAX);
        for_trouble.map_or(self.time_max, |until| until.min(self.time_max))
    }

    /// How far it is now; false when there is nothing to wait for any more.
    fn hear(&mut self, now: Duration, handover: Handover) -> bool {
        let Handover { vnodes_left, has_taker, trouble } = handover;
        if vnodes_left == 0 {
            tracing::info!("the cluster goes on without this node");
            return false;
        }
        if !has_taker {
            tracing::warn!(vnodes_left, "nothing is handed over: there is no other node that takes anything");
            return false;
        }
        self.vnodes_left = Some(vnodes_left);
        match (trouble, &mut self.trouble) {
            (Some(trouble), None) => {
                let seconds_left = (now + TROUBLE_TIME_MAX).min(self.time_max).saturating_sub(now).as_secs();
                tracing::warn!(vnodes_left, seconds_left, %trouble, "nothing can be handed over while this lasts");
                self.trouble = Some((trouble, now));
            }
            (Some(trouble), Some((known, _))) => *known = trouble,
            (None, _) => self.trouble = None,
        }
        if self.trouble.is_none() && self.told.is_none_or(|told| now >= told + TOLD_EVERY) {
            self.told = Some(now);
            tracing::info!(vnodes_left, seconds_left = self.time_max.saturating_sub(now).as_secs(), "handing over");
        }
        true
    }

    fn give_up(self) {
        let vnodes_left = self.vnodes_left;
        match self.trouble {
            Some((trouble, _)) => tracing::warn!(
                vnodes_left,
                %trouble,
                "not everything could be handed over: what has copies on other nodes goes on there"
            ),
            None => tracing::warn!(
                vnodes_left,
                "not everything could be handed over within --drain-timeout: what has copies on other nodes goes on there \
                 (`quoit cluster drain` before a node is stopped takes as long as it takes)"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    fn left(vnodes_left: usize, trouble: Option<Trouble>) -> Handover {
        Handover { vnodes_left, has_taker: true, trouble }
    }

    const fn second(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    #[test]
    fn it_ends_when_nothing_is_left_or_nobody_takes_anything() {
        let mut wait = Wait::new(LONG);
        assert!(wait.hear(second(0), left(2, None)));
        assert!(!wait.hear(second(1), left(0, Some(Trouble::Unanswered))));
        assert!(!Wait::new(LONG).hear(second(0), Handover { has_taker: false, ..left(2, None) }));
    }

    #[test]
    fn it_waits_for_its_whole_time_while_it_goes_on_and_a_little_while_it_can_not() {
        let mut wait = Wait::new(LONG);
        assert!(wait.hear(second(1), left(3, None)));
        assert_eq!(wait.until(), LONG);
        assert!(wait.hear(second(2), left(3, Some(Trouble::Unanswered))));
        assert_eq!(wait.until(), second(2) + TROUBLE_TIME_MAX);
        // Another trouble is no reason to wait longer.
        assert!(wait.hear(second(4), left(2, Some(Trouble::Refused("not now".to_owned())))));
        assert_eq!(wait.until(), second(2) + TROUBLE_TIME_MAX);
        assert!(wait.hear(second(5), left(2, None)));
        assert_eq!(wait.until(), LONG);
        let mut hasty = Wait::new(second(1));
        assert!(hasty.hear(second(0), left(2, Some(Trouble::Unanswered))));
        assert_eq!(hasty.until(), second(1), "never longer than --drain-timeout");
    }
}
