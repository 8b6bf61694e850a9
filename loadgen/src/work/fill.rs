//! Filling: every key is written exactly once.

use std::ops::Range;

use super::keys::{KeySpace, write_digits};
use super::random::Random;
use super::routes::Routes;
use super::values::{SizeRange, Values};
use super::{Ask, Op, Work};
use crate::engine::Waiting;
use crate::protocol::{Answered, Request};

/// What is written.
#[derive(Clone, Debug)]
pub(crate) struct FillOptions {
    /// The keys.
    pub(crate) keys: KeySpace,
    /// The first of them that is written: those before it are there already.
    pub(crate) first_key: u64,
    /// Lengths of values.
    pub(crate) value_bytes: SizeRange,
    /// Milliseconds to live; zero is for ever.
    pub(crate) ttl_ms: u64,
    /// Kept with every item.
    pub(crate) client_flags: u32,
    /// Everything random follows from it.
    pub(crate) seed: u64,
}

/// The share of one generator thread: a range of keys, each written by a connection of the one class that its route names.
#[derive(Debug)]
pub(crate) struct Fill {
    options: FillOptions,
    routes: Routes,
    random: Random,
    values: Values,
    key: Box<[u8]>,
    /// The keys that each class of connections has not looked at yet.
    cursors: Vec<Range<u64>>,
    /// The class of each connection.
    classes: Vec<usize>,
    unwritten: u64,
}

impl Fill {
    /// The keys of thread `thread` of `threads`.
    pub(crate) fn new(options: FillOptions, routes: Routes, thread: u64, threads: u64) -> Self {
        let mut random = Random::new(options.seed, thread);
        let unwritten = options.keys.len().saturating_sub(options.first_key);
        let start = options.first_key + unwritten * thread / threads;
        let end = options.first_key + unwritten * (thread + 1) / threads;
        let classes = routes.classes();
        let cursors = vec![start..end; classes.iter().max().map_or(0, |last| last + 1)];
        Self {
            values: Values::new(options.value_bytes.most, &mut random),
            random,
            key: options.keys.blank(),
            options,
            cursors,
            classes,
            routes,
            unwritten: end - start,
        }
    }
}

impl Work for Fill {
    fn next(&mut self, connection: usize, _now_ns: u64) -> Option<Ask> {
        let class = self.classes[connection];
        for key in self.cursors[class].by_ref() {
            write_digits(key, &mut self.key);
            if self.routes.writing_class(&self.key) == class {
                self.unwritten -= 1;
                let value_bytes = self.options.value_bytes.draw(&mut self.random);
                return Some(Ask { value_bytes, ttl_ms: self.options.ttl_ms, ..Ask::of(Op::Set, key) });
            }
        }
        None
    }

    fn request(&mut self, _connection: usize, ask: &Ask) -> Request<'_> {
        let value = self.values.of(ask.key, ask.value_bytes);
        Request::Set { key: &self.key, value, ttl_ms: ask.ttl_ms, client_flags: self.options.client_flags }
    }

    fn done(&mut self, _connection: usize, _waiting: &Waiting, _answered: Answered<'_>, _now_ns: u64) {}

    fn reads_values(&self) -> bool {
        false
    }

    fn is_exhausted(&self) -> bool {
        self.unwritten == 0
    }
}
