//! Asks the cores for their counters, and what they have of the cluster.
//!
//! One round at a time: however many scrapers and probes there are, a core has at most one answer to make. A core that
//! does not answer in time is reported as silent, and the others' answers are used.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use crate::cluster::copies::VnodeStatus;
use crate::cluster::load::Load;
use crate::runtime::{Command, CoreHandle};
use crate::samples::CoreSnapshot;

/// Time a core has for its answer. Commands are served within 5 ms even at saturation; a hundred times that is a core
/// that hangs, and still well inside the ten seconds that scrapers wait.
const ANSWER_TIME_MAX: Duration = Duration::from_millis(500);

/// The cores' command channels.
#[derive(Debug)]
pub(super) struct Cores {
    handles: Mutex<Vec<CoreHandle>>,
}

/// What one round of questions brought.
#[derive(Debug)]
pub(super) struct Round {
    /// The answers, in the order of the cores.
    pub snapshots: Vec<CoreSnapshot>,
    /// Cores that did not answer in time.
    pub silent: Vec<u16>,
}

impl Cores {
    pub(super) fn new(handles: Vec<CoreHandle>) -> Self {
        Self { handles: Mutex::new(handles) }
    }

    /// Asks every core for its vnodes one by one, with the core's number; cores that do not answer in time are left out.
    pub(super) async fn ask_vnodes(&self) -> Vec<(u16, Vec<VnodeStatus>)> {
        let answers = self.ask_each(Command::Vnodes).await.into_iter();
        answers.filter_map(|(core, vnodes)| Some((core, vnodes?))).collect()
    }

    /// Asks every core what it has of the cluster and has still to do: all of them together, as far as they answer in time.
    pub(super) async fn ask_load(&self) -> Load {
        let mut all = Load::default();
        let answers = self.ask_each(Command::Load).await.into_iter();
        answers.filter_map(|(_, load)| load).for_each(|load| all.add(&load));
        all
    }

    /// Asks every core for a snapshot.
    pub(super) async fn ask(&self) -> Round {
        let mut round = Round { snapshots: Vec::new(), silent: Vec::new() };
        for (core, snapshot) in self.ask_each(Command::Snapshot).await {
            match snapshot {
                Some(snapshot) => round.snapshots.push(snapshot),
                None => round.silent.push(core),
            }
        }
        round
    }

    /// Asks every core the same, and waits at most [`ANSWER_TIME_MAX`] once it is this call's turn.
    async fn ask_each<T>(&self, command: impl Fn(flume::Sender<T>) -> Command) -> Vec<(u16, Option<T>)> {
        let handles = self.handles.lock().await;
        let deadline = Instant::now() + ANSWER_TIME_MAX;
        // All are asked before the first answer is awaited: the round takes as long as the slowest core.
        let questions: Vec<_> = handles
            .iter()
            .map(|handle| {
                let (answer_sender, answer) = flume::bounded(1);
                let asked = handle.commands.try_send(command(answer_sender)).is_ok();
                (handle.core, asked.then_some(answer))
            })
            .collect();
        let mut answers = Vec::with_capacity(questions.len());
        for (core, answer) in questions {
            let answer = match answer {
                Some(answer) => timeout_at(deadline, answer.into_recv_async()).await.ok().and_then(Result::ok),
                None => None,
            };
            answers.push((core, answer));
        }
        answers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A core whose commands the test reads.
    fn core(number: u16) -> (CoreHandle, flume::Receiver<Command>) {
        let (commands, inbox) = flume::bounded(1);
        (CoreHandle { core: number, cpu: usize::from(number), commands }, inbox)
    }

    /// Answers one snapshot command.
    async fn answer(number: u16, inbox: &flume::Receiver<Command>) {
        let Ok(Command::Snapshot(sender)) = inbox.recv_async().await else { panic!("a snapshot is asked for") };
        let snapshot = CoreSnapshot {
            core: number,
            cpu: usize::from(number),
            requests: Vec::new(),
            samples: Vec::new(),
            histograms: Vec::new(),
        };
        sender.send(snapshot).expect("the asker waits");
    }

    #[tokio::test(start_paused = true)]
    async fn every_core_answers_in_one_round() {
        let ((first, first_inbox), (second, second_inbox)) = (core(0), core(1));
        let cores = Cores::new(vec![first, second]);
        let (round, (), ()) = tokio::join!(cores.ask(), answer(0, &first_inbox), answer(1, &second_inbox));
        assert_eq!(round.snapshots.iter().map(|snapshot| snapshot.core).collect::<Vec<_>>(), [0, 1]);
        assert!(round.silent.is_empty(), "{round:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_core_that_hangs_or_has_gone_is_silent_and_the_others_count() {
        let ((hanging, _hanging_inbox), (well, well_inbox), (gone, gone_inbox)) = (core(0), core(1), core(2));
        drop(gone_inbox);
        let cores = Cores::new(vec![hanging, well, gone]);
        let (round, ()) = tokio::join!(cores.ask(), answer(1, &well_inbox));
        assert_eq!(round.snapshots.iter().map(|snapshot| snapshot.core).collect::<Vec<_>>(), [1]);
        assert_eq!(round.silent, [0, 2]);
        // The hanging core's channel is full now: it is silent without a wait.
        let before = Instant::now();
        let (round, ()) = tokio::join!(cores.ask(), answer(1, &well_inbox));
        assert_eq!((round.silent, before.elapsed()), (vec![0, 2], Duration::ZERO));
    }
}
