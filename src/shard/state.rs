//! A shard's state: its store's items, and the results it keeps for repeats, as chunks that go out and come back in.
//!
//! Loading asks for each item who owns it now. What belongs to another core is passed on byte for byte, so a state that
//! was saved by four cores is loaded by two, or eight, like any other.

use quoit_wire::topology::vnode_of;

use super::{Route, Shard};
use crate::cluster::retries::RETRY_ENTRY_BYTES;
use crate::store::PolicyKind;
use crate::store::state::{
    CHUNK_PAYLOAD_BYTES_MAX, ChunkKind, ChunkPlace, ChunkWriter, Damage, LoadReport, Loader, Piece, Pieces, Record,
    Saver,
};
use crate::time::{Instant, WallClock};

/// Items whose index lines are fetched ahead of their being stored.
const WINDOW_ITEMS: usize = 32;

/// Where the saving of a shard stands.
#[derive(Debug)]
pub struct ShardSaver {
    /// Of the next chunk.
    place: ChunkPlace,
    /// What is left of the retry table's entries.
    retries: std::vec::IntoIter<[u8; RETRY_ENTRY_BYTES]>,
    items: Saver,
}

/// One file of a state on its way into a shard.
#[derive(Debug)]
pub struct ShardLoader {
    pieces: Pieces,
    /// Whose the last item was: the rest of its value goes there too.
    route: Route,
    /// Items of vnodes that this node does not own.
    foreign: u64,
    items: Loader,
}

impl ShardSaver {
    /// Items saved so far.
    pub fn items(&self) -> u64 {
        self.items.items()
    }

    /// Chunks filled so far.
    pub fn chunks(&self) -> u32 {
        self.place.number
    }
}

impl Shard {
    /// Begins to save the shard as it is at `clock`, as `file` of a save. It must not change until that is through.
    pub fn begin_save(&self, clock: WallClock, save: u64, file: u32) -> ShardSaver {
        ShardSaver {
            place: ChunkPlace { save, file, number: 0 },
            retries: self.retries.entries().into_iter(),
            items: self.store.begin_save(clock),
        }
    }

    /// Fills `bytes` with the next chunk; false when there is none.
    pub fn save_chunk(&self, saver: &mut ShardSaver, bytes: &mut [u8]) -> bool {
        let mut chunk = ChunkWriter::new(bytes);
        let entries = saver.retries.by_ref().take(CHUNK_PAYLOAD_BYTES_MAX / RETRY_ENTRY_BYTES);
        entries.for_each(|entry| chunk.put(&entry));
        let mut kind = ChunkKind::Retries;
        if chunk.is_empty() {
            kind = ChunkKind::Items;
            self.store.save(&mut saver.items, &mut chunk);
        }
        if chunk.is_empty() {
            return false;
        }
        chunk.seal(saver.place, kind);
        saver.place.number += 1;
        true
    }

    /// Begins to load one file of a state that was saved under `policy`; `clock` is now.
    pub fn begin_load(&self, clock: WallClock, policy: PolicyKind) -> ShardLoader {
        let items = self.store.begin_load(clock, policy);
        ShardLoader { pieces: Pieces::default(), route: Route::Here, foreign: 0, items }
    }

    /// Stores the items in `payload` that this shard owns, and hands `elsewhere` the bytes of those that another core of
    /// this node owns.
    pub fn load_items(
        &mut self,
        loader: &mut ShardLoader,
        mut payload: &[u8],
        mut elsewhere: impl FnMut(u16, &[u8]),
    ) -> Result<(), Damage> {
        let mut window = [(0, Record::default()); WINDOW_ITEMS];
        let mut filled = 0;
        while let Some(piece) = loader.pieces.next(&mut payload)? {
            match piece {
                Piece::Item(record, bytes) => {
                    let hash = self.hash(record.key);
                    loader.route = self.route(hash);
                    match loader.route {
                        Route::Here => {
                            self.store.prefetch_bucket(hash);
                            window[filled] = (hash, record);
                            filled += 1;
                        }
                        Route::Core(core) => elsewhere(core, bytes),
                        Route::Moved { .. } => loader.foreign += 1,
                    }
                }
                Piece::More(bytes) => match loader.route {
                    Route::Here => self.store.load_more(&mut loader.items, bytes),
                    Route::Core(core) => elsewhere(core, bytes),
                    Route::Moved { .. } => {}
                },
            }
            if filled == WINDOW_ITEMS {
                self.store_window(loader, &window);
                filled = 0;
            }
        }
        self.store_window(loader, &window[..filled]);
        Ok(())
    }

    /// Keeps the results in `payload` for repeats.
    pub fn load_retries(&mut self, now: Instant, payload: &[u8]) -> Result<(), Damage> {
        let (entries, rest) = payload.as_chunks::<RETRY_ENTRY_BYTES>();
        let is_sound = rest.is_empty() && entries.iter().all(|entry| self.retries.take_in(now, entry));
        if is_sound { Ok(()) } else { Err(Damage::Content("a kept result that is none")) }
    }

    /// Ends the load of a file; tells what became of the items that this shard owns.
    pub fn end_load(&mut self, loader: ShardLoader) -> Result<LoadReport, Damage> {
        let mut report = self.store.end_load(loader.items);
        report.refused += loader.foreign;
        if loader.pieces.is_cut() { Err(Damage::Content("an item without its end")) } else { Ok(report) }
    }

    /// Lets go of everything that was loaded.
    pub fn forget_loaded(&mut self, now: Instant) {
        self.store.flush(now);
        self.retries.forget_all();
    }

    /// The shard's vnodes go on from these numbers of writes, one for each vnode of the topology.
    pub fn continue_sequences(&mut self, sequences: &[u64]) {
        let owned: Vec<usize> = self.store.vnode_sequences().map(|(vnode, _)| vnode).collect();
        for vnode in owned {
            self.store.continue_vnode(vnode, sequences[vnode]);
        }
    }

    /// The vnodes this shard owns, each with the number of its last write.
    pub fn sequences(&self) -> Vec<(usize, u64)> {
        self.store.vnode_sequences().collect()
    }

    fn store_window(&mut self, loader: &mut ShardLoader, window: &[(u64, Record<'_>)]) {
        for (hash, record) in window {
            debug_assert!(self.store.owns(*hash), "vnode {}", vnode_of(*hash, self.topology.vnode_bits));
            self.store.load_item(&mut loader.items, *hash, record);
        }
    }
}
