//! Warm restarts: a node that ends leaves its items in a folder, and the node that starts there goes on with them.
//!
//! ```text
//! start   lock the folder ─► manifest ─┬ saved ────► every core loads ─┬► all whole ─► manifest: serving ─► serve
//!                                      │                               └► damaged: all forget, manifest set aside
//!                                      ├ serving: it had crashed ─► empty, terms one higher
//!                                      └ none, or none of ours ───► empty, a new node
//! end     every core has answered ─► each writes its file ─► all on the disk ─► manifest: saved
//! ```
//! A state is used once: before the first request is served the manifest says that a node is serving, so a node that
//! crashes later does not find what it had long ago. It is used as a whole or not at all: one damaged chunk, and the node
//! starts empty. Nobody is served before that is known.
//!
//! The files are as many as there were cores. Where cores or vnodes are others now, each core reads some of the files
//! and passes on what belongs to others. Files are written and read past the page cache (`O_DIRECT`, by glommio): the
//! page cache would take memory that nobody has granted, and give nothing back, for everything is read once.
//! `manifest.rs` and `folder.rs` are the small file and the folder; `save.rs` and `load.rs` are a core's part.

mod folder;
mod load;
mod manifest;
mod save;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use quoit_wire::Version;

pub use self::folder::StateFolderError;
use self::folder::{Found, StateFolder};
pub(super) use self::load::{LoadFault, Loaded, Parcel, load};
use self::manifest::{Identity, Manifest, Saved, VnodeState};
pub(super) use self::save::{SavedCore, save};
use super::clock::Reading;
use crate::store::PolicyKind;
use crate::store::state::CHUNK_BYTES;
use crate::time::WallClock;
use crate::units::DisplayRoughly;

/// A node's state folder, from its start to its end.
#[derive(Debug)]
pub(super) struct NodeState {
    folder: StateFolder,
    identity: Identity,
    plan: Arc<StatePlan>,
}

/// What the cores need to know of it.
#[derive(Debug)]
pub(super) struct StatePlan {
    folder: PathBuf,
    /// The save that this life of the node ends with.
    next_save: u64,
    policy: PolicyKind,
    /// Number of the last write of every vnode.
    pub sequences: Vec<u64>,
    /// `None`: there is nothing to load.
    pub load: Option<LoadPlan>,
    pub progress: Progress,
}

/// What there is to load.
#[derive(Debug)]
pub(super) struct LoadPlan {
    saved: Saved,
    clock: WallClock,
    /// Cores or vnodes are not what they were: items go to where they belong now.
    pub is_redivided: bool,
}

/// How far the cores have come, together.
#[derive(Debug, Default)]
pub(super) struct Progress {
    chunks: AtomicU64,
    /// One core has met damage: the others need not go on.
    has_failed: AtomicBool,
}

impl NodeState {
    /// Takes possession of `folder` for a node of `cores` cores and `2^vnode_bits` vnodes, and looks what is in it. When
    /// there is nothing to load, the folder says from now on that a node is serving.
    pub(super) fn open(
        folder: &std::path::Path,
        cores: usize,
        vnode_bits: u8,
        policy: PolicyKind,
        node_id: Option<u64>,
    ) -> Result<Self, StateFolderError> {
        let folder = StateFolder::open(folder)?;
        let path = folder.path().to_owned();
        let vnodes = 1usize << vnode_bits;
        let (mut identity, saved) = match folder.read_manifest() {
            Found::Manifest(Manifest { identity, saved: Some(saved) }) => (identity, Some(saved)),
            Found::Manifest(Manifest { identity, saved: None }) => {
                tracing::warn!(
                    state_dir = %path.display(),
                    "the node before was not ended by SIGTERM, or could not save its items: this one starts empty"
                );
                (reborn(&identity, vnodes), None)
            }
            Found::Nothing => {
                tracing::info!(state_dir = %path.display(), "no saved state: the node starts empty");
                (newborn(vnodes), None)
            }
            Found::Unusable(why) => {
                folder.set_manifest_aside()?;
                tracing::error!(
                    state_dir = %path.display(),
                    "the saved state is refused: quoit.manifest: {why}. The node starts empty; the file is set aside as \
                     quoit.manifest.refused"
                );
                (newborn(vnodes), None)
            }
        };
        let is_redivided =
            saved.as_ref().is_some_and(|saved| saved.files.len() != cores || identity.vnodes.len() != vnodes);
        identity.vnodes = identity.recut(vnode_bits);
        identity.node_id = node_id.unwrap_or(identity.node_id);
        let load = saved.map(|saved| {
            let clock = wall_clock();
            // A wall clock that was set back would give items time that they have had.
            let clock = WallClock { wall_ms: clock.wall_ms.max(saved.wall_ms), ..clock };
            let bytes = saved.files.iter().map(|file| u64::from(file.chunks)).sum::<u64>() * CHUNK_BYTES as u64;
            tracing::info!(
                state_dir = %path.display(),
                items = saved.files.iter().map(|file| file.items).sum::<u64>(),
                size = %DisplayRoughly(bytes),
                cores_then = saved.files.len(),
                seconds_ago = (clock.wall_ms - saved.wall_ms) / 1000,
                "loading the saved state"
            );
            LoadPlan { saved, clock, is_redivided }
        });
        let sequences = identity.vnodes.iter().map(|vnode| vnode.sequence).collect();
        let (next_save, progress) = (random(), Progress::default());
        let plan = Arc::new(StatePlan { folder: path, next_save, policy, sequences, load, progress });
        let state = Self { folder, identity, plan };
        if state.plan.load.is_none() {
            state.begin_serving()?;
            // What a crash in the middle of saving has left.
            state.remove_items();
        }
        Ok(state)
    }

    pub(super) fn plan(&self) -> &Arc<StatePlan> {
        &self.plan
    }

    pub(super) fn node_id(&self) -> u64 {
        self.identity.node_id
    }

    pub(super) fn seed(&self) -> u64 {
        self.identity.seed
    }

    /// The term of every vnode.
    pub(super) fn terms(&self) -> impl Iterator<Item = u32> {
        self.identity.vnodes.iter().map(|vnode| vnode.term)
    }

    /// From here on the folder has nothing to load any more.
    pub(super) fn begin_serving(&self) -> Result<(), StateFolderError> {
        let manifest = Manifest { identity: self.identity.clone(), saved: None };
        self.folder.write_manifest(&manifest)
    }

    /// The same, where what there was is damaged: its manifest is kept under another name.
    pub(super) fn refuse(&self) -> Result<(), StateFolderError> {
        self.folder.set_manifest_aside()?;
        self.begin_serving()
    }

    /// Gives back the disk that items of before take.
    pub(super) fn remove_items(&self) {
        if let Err(error) = self.folder.remove_items() {
            tracing::warn!(%error, "can't remove the files of a state that is not needed any more");
        }
    }

    /// Bytes that are loaded, or saved; `None` before the first.
    pub(super) fn progress(&self) -> Option<u64> {
        let chunks = self.plan.progress.chunks.load(Ordering::Relaxed);
        (chunks > 0).then_some(chunks * CHUNK_BYTES as u64)
    }

    /// All cores have saved: makes it the state that the next node finds.
    pub(super) fn commit(&self, mut cores: Vec<SavedCore>) -> Result<(), StateFolderError> {
        cores.sort_by_key(|core| core.core);
        let mut identity = self.identity.clone();
        for (vnode, sequence) in cores.iter().flat_map(|core| &core.sequences) {
            identity.vnodes[*vnode].sequence = *sequence;
        }
        let saved = Saved {
            save: self.plan.next_save,
            wall_ms: cores.iter().map(|core| core.wall_ms).max().unwrap_or(0),
            policy: self.plan.policy,
            files: cores.iter().map(|core| core.file).collect(),
        };
        self.folder.write_manifest(&Manifest { identity, saved: Some(saved) })
    }
}

impl Progress {
    /// Loading is over; what is counted next is saved.
    pub(super) fn reset(&self) {
        self.chunks.store(0, Ordering::Relaxed);
    }
}

/// A node that nobody has met.
fn newborn(vnodes: usize) -> Identity {
    // A random term: a version from before a restart is never taken for one from after it.
    let term = (random() as u32 % Version::TERM_MAX) + 1;
    Identity { node_id: random(), seed: random(), vnodes: vec![VnodeState { term, sequence: 0 }; vnodes] }
}

/// The node of before without its items.
fn reborn(before: &Identity, vnodes: usize) -> Identity {
    match before.next_term() {
        Some(term) => Identity { vnodes: vec![VnodeState { term, sequence: 0 }; vnodes], ..before.clone() },
        None => newborn(vnodes),
    }
}

/// The time now by both clocks.
fn wall_clock() -> WallClock {
    WallClock { now: Reading::now().instant(), wall_ms: super::clock::wall_ms() }
}

fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
