//! A core's part of loading: its files chunk after chunk, several on their way from the disk at a time; its own items
//! into its shard, the others' to their cores.
//!
//! ```text
//! core 0   core-0.items ─► chunks ─┬─► shard 0              each core reads the files whose numbers are its own,
//!                                  └─► parcels ─► core 1    modulo the number of cores
//! core 1   core-1.items ─► …                     shard 1 ◄┘
//! ```
//! A core takes in parcels while it reads, in a task of their own: two cores that wait for each other's room can't be.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use glommio::io::{DmaFile, ReadResult};
use glommio::{GlommioError, Task, spawn_local};

use super::folder::items_path;
use super::save::CHUNKS_UNDER_WAY;
use super::{LoadPlan, StatePlan};
use crate::runtime::core::Core;
use crate::shard::ShardLoader;
use crate::store::state::{CHUNK_BYTES, ChunkKind, ChunkPlace, Damage, LoadReport, open_chunk};

/// Items of one file on their way to the core that owns them, or the results it keeps for repeats.
#[derive(Debug)]
pub(in crate::runtime) struct Parcel {
    file: usize,
    kind: ChunkKind,
    bytes: Arc<[u8]>,
}

/// Why a core has not loaded its part.
#[derive(Debug, thiserror::Error)]
pub(in crate::runtime) enum LoadFault {
    #[error("{}: chunk {chunk}: {damage}", .path.display())]
    Damaged { path: PathBuf, chunk: u32, damage: Damage },
    #[error("{}: it has {found} bytes instead of {expected}", .path.display())]
    Length { path: PathBuf, found: u64, expected: u64 },
    #[error("{}: {source}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    /// Another core has met damage, or the node is told to end: what was loaded is not used.
    #[error("the others have not loaded theirs")]
    GivenUp,
}

/// What a core has loaded.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::runtime) struct Loaded {
    pub report: LoadReport,
    pub chunks: u64,
}

/// Bytes for another core.
type Batch = (usize, Arc<[u8]>);

/// Ways to the other cores; of its own core there is none.
pub(in crate::runtime) type Outlets = Vec<Option<flume::Sender<Parcel>>>;

/// Loads the core's files, and what other cores find for it.
pub(in crate::runtime) async fn load(
    core: &Rc<RefCell<Core>>,
    plan: &Arc<StatePlan>,
    outlets: Outlets,
    inlet: Option<flume::Receiver<Parcel>>,
) -> Result<Loaded, LoadFault> {
    let Some(load_plan) = &plan.load else { return Ok(Loaded::default()) };
    core.borrow_mut().shard.continue_sequences(&plan.sequences);
    let receiving = inlet.map(|inlet| spawn_local(receive(Rc::clone(core), Arc::clone(plan), inlet)));
    let mut sent = read_files(core, plan, load_plan, &outlets).await;
    if sent.is_err() {
        plan.progress.has_failed.store(true, Ordering::Relaxed);
    }
    // Others wait for the last of what comes from here.
    drop(outlets);
    if let Some(receiving) = receiving {
        let received = receiving.await;
        sent = sent.and_then(|mut loaded| {
            add(&mut loaded.report, received?);
            Ok(loaded)
        });
    }
    sent
}

async fn read_files(
    core: &RefCell<Core>,
    plan: &StatePlan,
    load_plan: &LoadPlan,
    outlets: &Outlets,
) -> Result<Loaded, LoadFault> {
    let (own, cores) = {
        let core = core.borrow();
        (usize::from(core.options.core), usize::from(core.options.cores))
    };
    let mut loaded = Loaded::default();
    for file in (own..load_plan.saved.files.len()).step_by(cores) {
        let report = read_file(core, plan, load_plan, outlets, file).await?;
        add(&mut loaded.report, report);
        loaded.chunks += u64::from(load_plan.saved.files[file].chunks);
    }
    Ok(loaded)
}

/// Loads one file.
async fn read_file(
    core: &RefCell<Core>,
    plan: &StatePlan,
    load_plan: &LoadPlan,
    outlets: &Outlets,
    file: usize,
) -> Result<LoadReport, LoadFault> {
    let path = items_path(&plan.folder, file);
    let chunks = load_plan.saved.files[file].chunks;
    let unreadable = |source: GlommioError<()>| LoadFault::Read { path: path.clone(), source: source.into() };
    let opened = Rc::new(DmaFile::open(&path).await.map_err(unreadable)?);
    let (found, expected) = (opened.file_size().await.map_err(unreadable)?, u64::from(chunks) * CHUNK_BYTES as u64);
    if found != expected {
        return Err(LoadFault::Length { path, found, expected });
    }
    let mut loader = core.borrow().shard.begin_load(load_plan.clock, load_plan.saved.policy);
    let read = read_chunks(core, plan, load_plan, outlets, file, &opened, &mut loader).await;
    let ended = end(core, loader);
    read?;
    opened.close_rc().await.map_err(unreadable)?;
    ended.map_err(|damage| LoadFault::Damaged { path: path.clone(), chunk: chunks, damage })
}

/// Loads the chunks of a file that is open.
async fn read_chunks(
    core: &RefCell<Core>,
    plan: &StatePlan,
    load_plan: &LoadPlan,
    outlets: &Outlets,
    file: usize,
    opened: &Rc<DmaFile>,
    loader: &mut ShardLoader,
) -> Result<(), LoadFault> {
    let chunks = load_plan.saved.files[file].chunks;
    let path = || items_path(&plan.folder, file);
    let mut reads: VecDeque<Task<Result<ReadResult, GlommioError<()>>>> = VecDeque::new();
    let mut next = 0;
    for chunk in 0..chunks {
        while next < chunks && reads.len() < CHUNKS_UNDER_WAY {
            let (opened, position) = (Rc::clone(opened), u64::from(next) * CHUNK_BYTES as u64);
            reads.push_back(spawn_local(async move { opened.read_at_aligned(position, CHUNK_BYTES).await }));
            next += 1;
        }
        let Some(read) = reads.pop_front() else { break };
        let bytes = read.await.map_err(|source| LoadFault::Read { path: path(), source: source.into() })?;
        if plan.progress.has_failed.load(Ordering::Relaxed) || core.borrow().draining_since.is_some() {
            return Err(LoadFault::GivenUp);
        }
        let place = ChunkPlace { save: load_plan.saved.save, file: file as u32, number: chunk };
        let damaged = |damage| LoadFault::Damaged { path: path(), chunk, damage };
        let (kind, payload) = open_chunk(&bytes, place).map_err(damaged)?;
        let parcels = take_in(core, load_plan, loader, kind, payload, outlets).map_err(damaged)?;
        for (target, bytes) in parcels {
            let Some(outlet) = &outlets[target] else { continue };
            let parcel = Parcel { file, kind, bytes };
            // The other core has given up: so it has failed, or the node ends.
            outlet.send_async(parcel).await.map_err(|_| LoadFault::GivenUp)?;
        }
        core.borrow_mut().counters.state_loaded_bytes += CHUNK_BYTES as u64;
        plan.progress.chunks.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Gives a chunk's payload to the shard; what is others' comes back, by core.
fn take_in(
    core: &RefCell<Core>,
    load_plan: &LoadPlan,
    loader: &mut ShardLoader,
    kind: ChunkKind,
    payload: &[u8],
    outlets: &Outlets,
) -> Result<Vec<Batch>, Damage> {
    let shard = &mut core.borrow_mut().shard;
    match kind {
        ChunkKind::Items => {
            let mut batches = vec![Vec::new(); outlets.len()];
            shard.load_items(loader, payload, |target, bytes| {
                // Only a state that is divided anew has items for others.
                if let Some(batch) = batches.get_mut(usize::from(target)) {
                    batch.extend_from_slice(bytes);
                }
            })?;
            let filled = batches.into_iter().enumerate().filter(|(_, batch)| !batch.is_empty());
            Ok(filled.map(|(target, batch)| (target, batch.into())).collect())
        }
        ChunkKind::Retries => {
            shard.load_retries(load_plan.clock.now, payload)?;
            // A result does not tell its key: where keys have moved, any core may be asked for it.
            let everyone = outlets.iter().enumerate().filter(|(_, outlet)| outlet.is_some());
            let bytes: Arc<[u8]> = payload.into();
            Ok(everyone.map(|(target, _)| (target, Arc::clone(&bytes))).collect())
        }
    }
}

/// Takes in what other cores find for this one, until none has any more.
async fn receive(
    core: Rc<RefCell<Core>>,
    plan: Arc<StatePlan>,
    inlet: flume::Receiver<Parcel>,
) -> Result<LoadReport, LoadFault> {
    let Some(load_plan) = &plan.load else { return Ok(LoadReport::default()) };
    let mut loaders = BTreeMap::new();
    let mut result = Ok(LoadReport::default());
    while let Ok(Parcel { file, kind, bytes }) = inlet.recv_async().await {
        let shard = &mut core.borrow_mut().shard;
        let loader = loaders.entry(file).or_insert_with(|| shard.begin_load(load_plan.clock, load_plan.saved.policy));
        let taken = match kind {
            // What is neither this core's nor the sender's can't be: all route by one topology.
            ChunkKind::Items => shard.load_items(loader, &bytes, |_, _| {}),
            ChunkKind::Retries => shard.load_retries(load_plan.clock.now, &bytes),
        };
        // The chunk was whole, so this is not to be expected; what comes after it is taken, so that nobody waits for room.
        if let Err(damage) = taken {
            result = Err(LoadFault::Damaged { path: items_path(&plan.folder, file), chunk: 0, damage });
            plan.progress.has_failed.store(true, Ordering::Relaxed);
        }
    }
    for (file, loader) in loaders {
        let ended = end(&core, loader);
        let ended =
            ended.map_err(|damage| LoadFault::Damaged { path: items_path(&plan.folder, file), chunk: 0, damage });
        result = result.and_then(|mut sum| {
            add(&mut sum, ended?);
            Ok(sum)
        });
    }
    result
}

fn end(core: &RefCell<Core>, loader: ShardLoader) -> Result<LoadReport, Damage> {
    let mut core = core.borrow_mut();
    let report = core.shard.end_load(loader)?;
    core.counters.state_loaded_items += report.items;
    core.counters.state_expired_items += report.expired;
    core.counters.state_refused_items += report.refused;
    Ok(report)
}

fn add(sum: &mut LoadReport, report: LoadReport) {
    sum.items += report.items;
    sum.expired += report.expired;
    sum.refused += report.refused;
}
