//! A store's state as bytes: what a node leaves behind when it ends, and finds again when it starts.
//!
//! ```text
//! queues, oldest item first         chunks of 1 MiB, each with its checksum (chunk.rs)
//! main   ■──■──■──■──□   ─ save.rs ─►  ┌────────┬────────┬────────┐
//! small  ■──■──□                       │ items  │ items  │ items  │ ─ the runtime ─► disk
//!                        ◄─ load.rs ─  └────────┴────────┴────────┘
//! ```
//! Items are written one by one (`record.rs`) in the order in which their policy would let them go, not as the segments
//! they lie in. So the format knows nothing of index and arena; dead bytes and whatever has ended stay behind; and a state
//! is as good for another number of cores, less memory or another policy as for the same: each item is put where it
//! belongs now, and what does not fit is evicted, oldest first. Writing and reading cost one walk in memory's order with
//! index lines prefetched, some tens of nanoseconds an item, and no second copy: a chunk is all there is beside the
//! arena.
//!
//! Deadlines are kept by the wall clock. What is not kept: ghosts, the place of a policy's hand, counters.
//!
//! As everything below the runtime this does no I/O: chunks come in and go out as slices, in order.

mod chunk;
mod load;
mod record;
mod save;
#[cfg(test)]
pub(in crate::store) mod tests;

pub use self::chunk::{CHUNK_BYTES, CHUNK_PAYLOAD_BYTES_MAX, ChunkKind, ChunkPlace, ChunkWriter, Damage, open_chunk};
pub use self::load::{LoadReport, Loader};
pub use self::record::{Piece, Pieces, Record};
pub use self::save::Saver;
