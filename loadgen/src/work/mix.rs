//! The everyday workload: keys drawn by popularity, gets mixed with sets, deletes and increments.

use super::keys::{KeySpace, write_digits};
use super::random::Random;
use super::routes::Routes;
use super::values::{SizeRange, Values};
use super::zipf::Zipf;
use super::{Ask, Op, Work, set_of};
use crate::engine::Waiting;
use crate::protocol::{Answered, Request};

/// Draws for one request before a connection waits for its next turn: a thread may hold no connection for most keys.
const DRAWS_MAX: usize = 4096;

/// What is mixed.
#[derive(Clone, Debug)]
pub(crate) struct MixOptions {
    /// The keys.
    pub(crate) keys: KeySpace,
    /// Their popularity: Zipf's exponent, zero for all alike.
    pub(crate) zipf: f64,
    /// Lengths of values.
    pub(crate) value_bytes: SizeRange,
    /// Shares of the requests; what remains are gets.
    pub(crate) set_ratio: f64,
    /// Share of deletes.
    pub(crate) delete_ratio: f64,
    /// Share of increments, of counters beside the keys.
    pub(crate) increment_ratio: f64,
    /// Milliseconds that sets give an item; zero is for ever.
    pub(crate) ttl_ms: u64,
    /// Keys of one get.
    pub(crate) multi_get: u16,
    /// Everything random follows from it.
    pub(crate) seed: u64,
}

/// The workload of one generator thread.
#[derive(Debug)]
pub(crate) struct Mix {
    options: MixOptions,
    zipf: Option<Zipf>,
    routes: Routes,
    random: Random,
    values: Values,
    /// Of 2^32 draws, those below are sets, below the next deletes, below the last increments.
    below_sets: u64,
    below_deletes: u64,
    below_increments: u64,
    /// The key of the request at hand, that of its counter, and the keys of a multi-get.
    key: Box<[u8]>,
    counter_key: Box<[u8]>,
    many_keys: Vec<u8>,
}

impl Mix {
    /// The mix of thread `thread`.
    pub(crate) fn new(options: MixOptions, routes: Routes, thread: u64) -> Self {
        let mut random = Random::new(options.seed, thread);
        let share = |ratio: f64| (ratio * (1u64 << 32) as f64) as u64;
        let below_sets = share(options.set_ratio);
        let below_deletes = below_sets + share(options.delete_ratio);
        let below_increments = below_deletes + share(options.increment_ratio);
        Self {
            zipf: (options.zipf > 0.0).then(|| Zipf::new(options.keys.len(), options.zipf)),
            values: Values::new(options.value_bytes.most, &mut random),
            key: options.keys.blank(),
            counter_key: options.keys.blank(),
            many_keys: Vec::with_capacity(options.keys.key_bytes() * usize::from(options.multi_get)),
            options,
            routes,
            random,
            below_sets,
            below_deletes,
            below_increments,
        }
    }

    /// Draws a key that the connection may ask for and leaves its bytes in `self.key`.
    #[inline]
    fn draw_key(&mut self, connection: usize) -> Option<u64> {
        for _ in 0..DRAWS_MAX {
            let key = match &self.zipf {
                Some(zipf) => self.options.keys.at_rank(zipf.draw(&mut self.random)),
                None => self.random.below(self.options.keys.len()),
            };
            write_digits(key, &mut self.key);
            if self.routes.allows(connection, &self.key) {
                return Some(key);
            }
        }
        None
    }
}

impl Work for Mix {
    #[inline]
    fn next(&mut self, connection: usize, _now_ns: u64) -> Option<Ask> {
        let key = self.draw_key(connection)?;
        let draw = if self.below_increments == 0 { u64::MAX } else { self.random.next_u64() >> 32 };
        if draw < self.below_sets {
            let value_bytes = self.options.value_bytes.draw(&mut self.random);
            return Some(Ask { value_bytes, ttl_ms: self.options.ttl_ms, ..Ask::of(Op::Set, key) });
        }
        Some(match draw {
            _ if draw < self.below_deletes => Ask::of(Op::Delete, key),
            _ if draw < self.below_increments => Ask::of(Op::Increment, key),
            _ if self.options.multi_get > 1 => Ask { keys: self.options.multi_get, ..Ask::of(Op::MultiGet, key) },
            _ => Ask::of(Op::Get, key),
        })
    }

    #[inline]
    fn request(&mut self, connection: usize, ask: &Ask) -> Request<'_> {
        match ask.op {
            // `next` has left the key's bytes behind.
            Op::Get => Request::Get { key: &self.key },
            Op::Set => set_of(&self.key, &self.values, ask),
            Op::Delete => Request::Delete { key: &self.key },
            Op::Increment => {
                write_counter_key(&self.key, &mut self.counter_key);
                Request::Increment { key: &self.counter_key }
            }
            Op::MultiGet => {
                self.many_keys.clear();
                for index in 0..ask.keys {
                    if index > 0 && self.draw_key(connection).is_none() {
                        write_digits(ask.key, &mut self.key);
                    }
                    self.many_keys.extend_from_slice(&self.key);
                }
                Request::MultiGet { keys: &self.many_keys, key_bytes: self.options.keys.key_bytes() }
            }
        }
    }

    #[inline]
    fn done(&mut self, _connection: usize, _waiting: &Waiting, _answered: Answered<'_>, _now_ns: u64) {}

    fn reads_values(&self) -> bool {
        false
    }

    fn is_exhausted(&self) -> bool {
        false
    }
}

/// The key of the counter beside `key`: another first letter, so that sets and increments never meet.
pub(super) fn write_counter_key(key: &[u8], counter_key: &mut [u8]) {
    counter_key.copy_from_slice(key);
    counter_key[0] = b'#';
}
