//! A core's part of saving: chunk after chunk into its own file, several on their way to the disk at a time.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use glommio::io::OpenOptions;
use glommio::{GlommioError, Task, spawn_local};

use super::folder::{FILE_MODE, items_path};
use super::manifest::SavedFile;
use super::{StatePlan, wall_clock};
use crate::runtime::clock::Reading;
use crate::runtime::core::Core;
use crate::store::state::CHUNK_BYTES;

/// Chunks of a core on their way to or from the disk. Fewer leave a fast disk waiting; each is a MiB of memory, which
/// the buffers of connections have when nobody is served.
pub(super) const CHUNKS_UNDER_WAY: usize = 4;

/// What a core has saved.
#[derive(Debug)]
pub(in crate::runtime) struct SavedCore {
    pub core: u16,
    pub file: SavedFile,
    /// When the items were as they are saved, by the wall clock.
    pub wall_ms: u64,
    /// How long it took.
    pub nanos: u64,
    /// Vnodes and the numbers of their last writes.
    pub sequences: Vec<(usize, u64)>,
}

/// Saves what the core holds. The file is on the disk when this is over; it counts for nothing until the manifest names it.
pub(in crate::runtime) async fn save(core: &RefCell<Core>, plan: &StatePlan) -> io::Result<SavedCore> {
    let start = Reading::now();
    let number = core.borrow().options.core;
    let path = items_path(&plan.folder, usize::from(number));
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(FILE_MODE).dma_open(&path).await?;
    let file = Rc::new(file);
    let clock = wall_clock();
    let mut saver = core.borrow().shard.begin_save(clock, plan.next_save, u32::from(number));
    let mut writes = VecDeque::new();
    loop {
        let position = u64::from(saver.chunks()) * CHUNK_BYTES as u64;
        let mut buffer = file.alloc_dma_buffer(CHUNK_BYTES);
        if !core.borrow().shard.save_chunk(&mut saver, buffer.as_bytes_mut()) {
            break;
        }
        if writes.len() == CHUNKS_UNDER_WAY {
            end_write(writes.pop_front(), plan).await?;
        }
        let file = Rc::clone(&file);
        writes.push_back(spawn_local(async move { file.write_at(buffer, position).await }));
    }
    while !writes.is_empty() {
        end_write(writes.pop_front(), plan).await?;
    }
    file.fdatasync().await?;
    file.close_rc().await?;
    let sequences = core.borrow().shard.sequences();
    let file = SavedFile { chunks: saver.chunks(), items: saver.items() };
    let nanos = Reading::now().nanos_since(start);
    Ok(SavedCore { core: number, file, wall_ms: clock.wall_ms, nanos, sequences })
}

async fn end_write(write: Option<Task<Result<usize, GlommioError<()>>>>, plan: &StatePlan) -> io::Result<()> {
    let Some(write) = write else { return Ok(()) };
    if write.await? < CHUNK_BYTES {
        // Direct writes are cut short when the disk is full.
        return Err(io::Error::from(io::ErrorKind::StorageFull));
    }
    plan.progress.chunks.fetch_add(1, Ordering::Relaxed);
    Ok(())
}
