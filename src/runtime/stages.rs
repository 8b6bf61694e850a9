//! The stages of a node's life that its cores pass together: loaded, serving, saved.
//!
//! A core tells of each by an event to the thread that has started the node, and waits at one gate: between loading and
//! serving, because whether what it has loaded is used depends on what the others have found. Without a state folder a
//! core serves as soon as it is made, and ends when it has answered.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::clock::Reading;
use super::core::Core;
use super::node::{Node, StartError};
use super::state::{LoadFault, Loaded, NodeState, Parcel, SavedCore, StatePlan, load, save};
use crate::store::state::{CHUNK_BYTES, LoadReport};
use crate::units::DisplayRoughly;

/// Time between two looks whether the node is told to end, or a core has failed, while it loads.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Time between two lines in the log about a state that is being loaded or saved.
const TELL_INTERVAL: Duration = Duration::from_secs(2);
/// A core that is let go on serves after this time, or has failed.
const SERVING_TIME_MAX: Duration = Duration::from_secs(5);
/// Parcels that may wait for a core. More would be memory beside the buffers' share; fewer make cores wait for each other.
const PARCELS_WAITING: usize = 2;
/// Events that a core sends in its life, at most.
const EVENTS_PER_CORE: usize = 3;

/// What a core tells the thread that has started the node.
#[derive(Debug)]
pub(super) enum CoreEvent {
    /// It has loaded its part of the saved state, or could not.
    Loaded(Result<Loaded, LoadFault>),
    /// It takes requests.
    Serving,
    /// It has saved its part of the state, or could not.
    Saved(u16, io::Result<SavedCore>),
}

/// How a core goes on after loading.
#[derive(Clone, Copy, Debug)]
enum Go {
    /// With what it has loaded.
    Loaded,
    /// Without.
    Empty,
}

/// The node's side.
#[derive(Debug)]
pub(super) struct Stages {
    events: flume::Receiver<CoreEvent>,
    gates: Vec<flume::Sender<Go>>,
    state: Option<NodeState>,
    /// Requests were taken: what is in the cores is what there is, and worth saving.
    has_served: bool,
}

/// A core's side.
#[derive(Debug)]
pub(super) struct CoreStages {
    core: u16,
    events: flume::Sender<CoreEvent>,
    gate: flume::Receiver<Go>,
    plan: Option<Arc<StatePlan>>,
    outlets: Vec<Option<flume::Sender<Parcel>>>,
    inlet: Option<flume::Receiver<Parcel>>,
}

impl Stages {
    /// Both sides, for a node of `cores` cores with what it has found in its state folder, if it has one.
    pub(super) fn new(cores: usize, state: Option<NodeState>) -> (Self, Vec<CoreStages>) {
        let (sender, events) = flume::bounded(EVENTS_PER_CORE * cores);
        let plan = state.as_ref().map(NodeState::plan);
        let is_redivided = plan.and_then(|plan| plan.load.as_ref()).is_some_and(|load| load.is_redivided);
        let mut lanes: Vec<_> = (0..cores).map(|_| is_redivided.then(|| flume::bounded(PARCELS_WAITING))).collect();
        let ways: Vec<_> = lanes.iter().map(|lane| lane.as_ref().map(|lane| lane.0.clone())).collect();
        let mut gates = Vec::new();
        let sides = (0..cores).map(|core| {
            let (gate_sender, gate) = flume::bounded(1);
            gates.push(gate_sender);
            let mut outlets = ways.clone();
            outlets[core] = None;
            let inlet = lanes[core].take().map(|lane| lane.1);
            CoreStages { core: core as u16, events: sender.clone(), gate, plan: plan.cloned(), outlets, inlet }
        });
        let sides = sides.collect();
        let has_served = plan.is_none_or(|plan| plan.load.is_none());
        (Self { events, gates, state, has_served }, sides)
    }
}

impl CoreStages {
    /// Everything before the first request; false when there will be none.
    pub(super) async fn begin(&mut self, core: &Rc<RefCell<Core>>) -> bool {
        let Some(plan) = self.plan.as_ref().filter(|plan| plan.load.is_some()) else { return true };
        let loaded = load(core, plan, std::mem::take(&mut self.outlets), self.inlet.take()).await;
        // There is room for every event of every core.
        let _ = self.events.try_send(CoreEvent::Loaded(loaded));
        match self.gate.recv_async().await {
            Ok(Go::Loaded) => true,
            Ok(Go::Empty) => {
                core.borrow_mut().shard.forget_loaded(Reading::now().instant());
                true
            }
            Err(flume::RecvError::Disconnected) => false,
        }
    }

    /// The core takes requests from now on.
    pub(super) fn serving(&self) {
        let _ = self.events.try_send(CoreEvent::Serving);
    }

    /// Everything after the last request.
    pub(super) async fn end(&self, core: &RefCell<Core>) {
        if let Some(plan) = &self.plan {
            let saved = save(core, plan).await;
            let _ = self.events.try_send(CoreEvent::Saved(self.core, saved));
        }
    }
}

impl Node {
    /// Waits until the saved state, if there is one, is loaded or refused, and every core serves; false when `shall_stop`
    /// has said so before: then the state is as it was.
    pub fn restore(&mut self, mut shall_stop: impl FnMut() -> bool) -> Result<bool, StartError> {
        if self.stages.has_served {
            return Ok(true);
        }
        let start = Reading::now();
        let mut told = start;
        let (mut sum, mut fault) = (Loaded::default(), None);
        let mut waiting = self.handles().len();
        while waiting > 0 {
            match self.stages.events.recv_timeout(LOOK_INTERVAL) {
                Ok(CoreEvent::Loaded(Ok(loaded))) => {
                    sum.chunks += loaded.chunks;
                    sum.report = added(sum.report, loaded.report);
                    waiting -= 1;
                }
                Ok(CoreEvent::Loaded(Err(met))) => {
                    // The first that met damage says what there is; those that gave up because of it don't.
                    if !matches!((&fault, &met), (Some(_), LoadFault::GivenUp)) {
                        fault = Some(met);
                    }
                    waiting -= 1;
                }
                Ok(CoreEvent::Serving | CoreEvent::Saved(..)) => {}
                Err(_) => {
                    if let Some(gone) = self.handles().iter().find(|handle| handle.commands.is_disconnected()) {
                        let message = "it ended while it loaded the saved state".to_owned();
                        return Err(StartError::Executor { core: gone.core, cpu: gone.cpu, message });
                    }
                }
            }
            if shall_stop() {
                self.begin_shutdown();
                self.stages.gates.clear();
                return Ok(false);
            }
            if Reading::now().is_past(told, TELL_INTERVAL) {
                told = Reading::now();
                self.stages.tell("loading the saved state");
            }
        }
        self.stages.go(start, sum, fault)?;
        Ok(true)
    }
}

impl Stages {
    /// Lets the cores go on, with what they have loaded unless there was a fault. Before the first serves, the folder
    /// says that there is nothing to load any more.
    fn go(&mut self, start: Reading, sum: Loaded, fault: Option<LoadFault>) -> Result<(), StartError> {
        let Some(state) = &self.state else { return Ok(()) };
        let go = match fault {
            None => {
                state.begin_serving()?;
                let bytes = sum.chunks * CHUNK_BYTES as u64;
                let millis = (Reading::now().nanos_since(start) / 1_000_000).max(1);
                tracing::info!(
                    items = sum.report.items,
                    expired = sum.report.expired,
                    refused = sum.report.refused,
                    size = %DisplayRoughly(bytes),
                    seconds = %format_args!("{}.{:03}", millis / 1000, millis % 1000),
                    per_second = %DisplayRoughly(bytes * 1000 / millis),
                    "the saved state is loaded"
                );
                Go::Loaded
            }
            Some(fault) => {
                state.refuse()?;
                tracing::error!(
                    "the saved state is refused: {fault}. The node starts empty; the manifest is set aside as \
                     quoit.manifest.refused"
                );
                Go::Empty
            }
        };
        self.has_served = true;
        for gate in self.gates.drain(..) {
            let _ = gate.send(go);
            // A core that does not go on is noticed by the control thread, and no reason to wait for ever.
            let _ = self.events.recv_timeout(SERVING_TIME_MAX);
        }
        state.remove_items();
        state.plan().progress.reset();
        Ok(())
    }

    /// Waits until every core has ended or told what it has saved.
    pub(super) fn collect_saved(&self) -> Vec<SavedCore> {
        let mut saved = Vec::new();
        let Some(_) = self.state.as_ref().filter(|_| self.has_served) else { return saved };
        loop {
            match self.events.recv_timeout(TELL_INTERVAL) {
                Ok(CoreEvent::Saved(_, Ok(core))) => saved.push(core),
                Ok(CoreEvent::Saved(core, Err(error))) => {
                    tracing::error!(core, %error, "can't save this core's items");
                }
                Ok(CoreEvent::Loaded(..) | CoreEvent::Serving) => {}
                Err(flume::RecvTimeoutError::Timeout) => self.tell("saving the state"),
                Err(flume::RecvTimeoutError::Disconnected) => return saved,
            }
        }
    }

    /// Makes what the cores have saved the state that is found next, if it is whole; else nothing of it stays.
    pub(super) fn finish(&self, saved: Vec<SavedCore>, cores: usize) {
        let Some(state) = self.state.as_ref().filter(|_| self.has_served) else { return };
        let is_whole = saved.len() == cores;
        let items: u64 = saved.iter().map(|core| core.file.items).sum();
        let bytes = saved.iter().map(|core| u64::from(core.file.chunks)).sum::<u64>() * CHUNK_BYTES as u64;
        let millis = saved.iter().map(|core| core.nanos / 1_000_000).max().unwrap_or(0).max(1);
        let committed = if is_whole { state.commit(saved).map_err(|error| error.to_string()) } else { Ok(()) };
        let why = match (is_whole, committed) {
            (true, Ok(())) => {
                tracing::info!(
                    items,
                    size = %DisplayRoughly(bytes),
                    seconds = %format_args!("{}.{:03}", millis / 1000, millis % 1000),
                    per_second = %DisplayRoughly(bytes * 1000 / millis),
                    "the state is saved"
                );
                return;
            }
            (true, Err(error)) => error,
            (false, _) => "not every core could save its items; is the disk full?".to_owned(),
        };
        state.remove_items();
        tracing::error!("the state is not saved, and the next start will be empty: {why}");
    }

    fn tell(&self, what: &str) {
        if let Some(progress) = self.state.as_ref().and_then(NodeState::progress) {
            tracing::info!(done = %DisplayRoughly(progress), "{what}");
        }
    }
}

fn added(sum: LoadReport, report: LoadReport) -> LoadReport {
    LoadReport {
        items: sum.items + report.items,
        expired: sum.expired + report.expired,
        refused: sum.refused + report.refused,
    }
}
