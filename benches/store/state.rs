//! Saving and loading without a disk: what the processor can do, which a disk should be slower than.

use std::hint::black_box;

use quoit::store::state::{CHUNK_BYTES, ChunkKind, ChunkPlace, ChunkWriter, Piece, Pieces, Record, open_chunk};
use quoit::store::{PolicyKind, Store, Write};
use quoit::time::{Instant, WallClock};

use crate::clock;
use crate::workload;

const CLOCK: WallClock = WallClock { now: Instant::from_millis(1_000), wall_ms: 1_700_000_000_000 };
/// Items whose index lines are fetched ahead, as a shard does.
const WINDOW_ITEMS: usize = 32;
const ROUNDS: usize = 5;

/// Prints the rates at `items` small items, and at as many bytes in larger ones.
pub(crate) fn state(items: u64) {
    println!("one core, medians of {ROUNDS} rounds");
    for (items, value_bytes) in [(items, 64), (items / 8, 1 << 10), (items / 800, 100 << 10)] {
        let mut store = fresh(items, value_bytes);
        let value = vec![7; value_bytes];
        for number in 0..items {
            let key = key(number);
            store.set(CLOCK.now, workload::hash(&key), &key, Write { value: &value, ..Write::default() });
        }
        assert_eq!(store.items() as u64, items, "everything fits");
        let (mut saves, mut loads) = ([0.0; ROUNDS], [0.0; ROUNDS]);
        let mut chunks = vec![];
        for round in 0..ROUNDS {
            let start = clock::busy_secs();
            chunks = save(&store, chunks);
            saves[round] = clock::busy_secs() - start;
            let mut loaded = fresh(items, value_bytes);
            let start = clock::busy_secs();
            load(&mut loaded, &chunks);
            loads[round] = clock::busy_secs() - start;
            assert_eq!(loaded.items() as u64, items, "everything is there");
        }
        let mebibytes = ((chunks.len() * CHUNK_BYTES) >> 20) as f64;
        println!("{items} items of 16 + {value_bytes} bytes, {mebibytes} MiB");
        for (name, mut secs) in [("saved", saves), ("loaded", loads)] {
            secs.sort_by(f64::total_cmp);
            let [least, median, most] = [secs[0], secs[ROUNDS / 2], secs[ROUNDS - 1]];
            println!(
                "  {name:6} {:6.0} MiB/s ({:.0} to {:.0})  {:6.2} M items/s",
                mebibytes / median,
                mebibytes / most,
                mebibytes / least,
                items as f64 / median / 1e6
            );
        }
    }
}

fn fresh(items: u64, value_bytes: usize) -> Store {
    workload::store(PolicyKind::S3Fifo, items as usize * (value_bytes + 60) * 5 / 4 + (64 << 20))
}

fn key(number: u64) -> [u8; 16] {
    let mut key = *b"key-000000000000";
    key[8..].copy_from_slice(&number.to_le_bytes());
    key
}

/// Into the memory of `chunks`, so that the kernel's giving it is not measured but in the first round.
fn save(store: &Store, mut chunks: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut saver = store.begin_save(CLOCK);
    for number in 0.. {
        if number == chunks.len() {
            chunks.push(vec![1; CHUNK_BYTES]);
        }
        let mut chunk = ChunkWriter::new(&mut chunks[number]);
        store.save(&mut saver, &mut chunk);
        if chunk.is_empty() {
            chunks.truncate(number);
            break;
        }
        chunk.seal(ChunkPlace { save: 1, file: 0, number: number as u32 }, ChunkKind::Items);
    }
    black_box(chunks)
}

fn load(store: &mut Store, chunks: &[Vec<u8>]) {
    let mut loader = store.begin_load(CLOCK, PolicyKind::S3Fifo);
    let mut pieces = Pieces::default();
    let mut window: Vec<(u64, Record<'_>)> = Vec::with_capacity(WINDOW_ITEMS);
    for (number, bytes) in chunks.iter().enumerate() {
        let place = ChunkPlace { save: 1, file: 0, number: number as u32 };
        let (_, mut payload) = open_chunk(bytes, place).expect("an intact chunk");
        while let Some(piece) = pieces.next(&mut payload).expect("an intact chunk") {
            match piece {
                Piece::Item(record, _) => {
                    let hash = workload::hash(record.key);
                    store.prefetch_bucket(hash);
                    window.push((hash, record));
                }
                Piece::More(bytes) => store.load_more(&mut loader, bytes),
            }
            if window.len() == WINDOW_ITEMS {
                window.drain(..).for_each(|(hash, record)| store.load_item(&mut loader, hash, &record));
            }
        }
        window.drain(..).for_each(|(hash, record)| store.load_item(&mut loader, hash, &record));
    }
    store.end_load(loader);
}
