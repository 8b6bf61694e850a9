//! Exact simulations of two policies, with queues of single objects and bytes of objects alone: what the store, which
//! keeps segments, is held against.

use std::collections::VecDeque;

use hashbrown::HashMap;

use crate::workload::Request;

/// Misses of LRU with `capacity_bytes` of objects.
pub(crate) fn lru(requests: &[Request], capacity_bytes: u64) -> u64 {
    // An object stands in the queue once for each time it was used; only the last counts.
    let mut queue: VecDeque<(u64, usize)> = VecDeque::new();
    let mut objects: HashMap<u64, (u64, usize)> = HashMap::new();
    let (mut used_bytes, mut misses) = (0, 0);
    for (time, request) in requests.iter().enumerate() {
        queue.push_back((request.object, time));
        if let Some((_, last)) = objects.get_mut(&request.object) {
            *last = time;
            continue;
        }
        misses += 1;
        let bytes = u64::from(request.value_bytes);
        objects.insert(request.object, (bytes, time));
        used_bytes += bytes;
        while used_bytes > capacity_bytes
            && let Some((object, time)) = queue.pop_front()
        {
            if let Some((bytes, _)) = objects.get(&object).copied().filter(|(_, last)| *last == time) {
                objects.remove(&object);
                used_bytes -= bytes;
            }
        }
    }
    misses
}

/// An object in one of S3-FIFO's queues.
struct Kept {
    bytes: u64,
    hits: u8,
}

/// S3-FIFO as libCacheSim has it: a tenth for the small queue, ghosts of nine tenths, two hits to move on.
#[derive(Default)]
struct S3Fifo {
    objects: HashMap<u64, Kept>,
    small: VecDeque<u64>,
    main: VecDeque<u64>,
    small_bytes: u64,
    main_bytes: u64,
    ghosts: HashMap<u64, (u64, u64)>,
    ghost_queue: VecDeque<(u64, u64)>,
    ghost_bytes: u64,
    evictions: u64,
}

/// Misses of S3-FIFO with `capacity_bytes` of objects.
pub(crate) fn s3_fifo(requests: &[Request], capacity_bytes: u64) -> u64 {
    let mut cache = S3Fifo::default();
    let mut misses = 0;
    for request in requests {
        if let Some(kept) = cache.objects.get_mut(&request.object) {
            kept.hits = (kept.hits + 1).min(3);
            continue;
        }
        misses += 1;
        cache.admit(request.object, u64::from(request.value_bytes), capacity_bytes);
    }
    misses
}

impl S3Fifo {
    fn admit(&mut self, object: u64, bytes: u64, capacity_bytes: u64) {
        let was_ghost = self.ghosts.remove(&object).inspect(|(bytes, _)| self.ghost_bytes -= bytes).is_some();
        while self.small_bytes + self.main_bytes + bytes > capacity_bytes {
            self.evict(capacity_bytes);
        }
        let fills_up = self.evictions == 0 && self.small_bytes >= capacity_bytes / 10;
        if was_ghost || fills_up {
            self.main.push_back(object);
            self.main_bytes += bytes;
        } else {
            self.small.push_back(object);
            self.small_bytes += bytes;
        }
        self.objects.insert(object, Kept { bytes, hits: 0 });
    }

    fn evict(&mut self, capacity_bytes: u64) {
        self.evictions += 1;
        if self.main_bytes > capacity_bytes - capacity_bytes / 10 || self.small.is_empty() {
            while let Some(object) = self.main.pop_front() {
                let Some(kept) = self.objects.get_mut(&object) else { continue };
                if kept.hits == 0 {
                    self.main_bytes -= kept.bytes;
                    self.objects.remove(&object);
                    return;
                }
                kept.hits -= 1;
                self.main.push_back(object);
            }
            return;
        }
        while let Some(object) = self.small.pop_front() {
            let Some(kept) = self.objects.get_mut(&object) else { continue };
            self.small_bytes -= kept.bytes;
            if kept.hits >= 2 {
                kept.hits = 0;
                self.main_bytes += kept.bytes;
                self.main.push_back(object);
                continue;
            }
            let bytes = kept.bytes;
            self.objects.remove(&object);
            self.ghosts.insert(object, (bytes, self.evictions));
            self.ghost_queue.push_back((object, self.evictions));
            self.ghost_bytes += bytes;
            while self.ghost_bytes > capacity_bytes / 10 * 9
                && let Some((ghost, since)) = self.ghost_queue.pop_front()
            {
                if let Some((bytes, _)) = self.ghosts.get(&ghost).copied().filter(|(_, known)| *known == since) {
                    self.ghosts.remove(&ghost);
                    self.ghost_bytes -= bytes;
                }
            }
            return;
        }
    }
}
