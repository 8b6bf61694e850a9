//! Requests that span cores: one part per core out, one reply back when the last part is in.
//!
//! Multi operations over several owners, flush and stats. The part of a core is an ordinary frame of the same operation
//! over the mesh, so no core knows that its part is one; here the parts' replies are put together in the order asked.

use quoit_wire::stats::{CoreStats, Stats};
use quoit_wire::{MultiResult, Operation, Reply, Status, Version};

use crate::shard::Output;

/// One request waiting for its parts.
#[derive(Debug)]
pub(super) struct Gather {
    /// The asking connection's slot and its generation.
    pub slot: u32,
    pub generation: u32,
    /// The request's id.
    pub id: u32,
    pub operation: Operation,
    /// For each key of a multi operation the core that answers it, in the order asked.
    pub order: Vec<u16>,
    /// The reply frame of each core that was asked.
    pub parts: Vec<Part>,
    /// Bytes of the parts that are in.
    pub part_bytes: usize,
}

/// What one core was asked for and has answered.
#[derive(Debug)]
pub(super) struct Part {
    pub core: u16,
    pub reply: Option<Vec<u8>>,
}

impl Gather {
    /// Whether every part is in.
    pub(super) fn is_complete(&self) -> bool {
        self.parts.iter().all(|part| part.reply.is_some())
    }

    /// Keeps the reply frame of `core`.
    pub(super) fn answer(&mut self, core: u16, frame: &[u8]) {
        if let Some(part) = self.parts.iter_mut().find(|part| part.core == core && part.reply.is_none()) {
            part.reply = Some(frame.to_vec());
            self.part_bytes += frame.len();
        }
    }

    /// Appends the reply, once complete, and returns its status: of what isn't asked of each key by itself, all that the first
    /// core says which could not do its part. `stats` is the node's part of a stats body.
    pub(super) fn finish(&self, stats: impl FnOnce(Vec<CoreStats>) -> Stats, output: &mut Output) -> Status {
        let replies = || self.parts.iter().filter_map(|part| Reply::decode(part.reply.as_deref()?).ok().flatten());
        if let Some((failed, _)) = replies().find(|(reply, _)| reply.status != Status::Ok)
            && !matches!(self.operation, Operation::MultiGet | Operation::MultiSet)
        {
            output.reply(&Reply { id: self.id, ..failed });
            return failed.status;
        }
        let body = match self.operation {
            Operation::MultiGet | Operation::MultiSet => self.interleave(),
            Operation::Stats => {
                let cores = replies().filter_map(|(reply, _)| Stats::from_bytes(reply.value));
                stats(cores.flat_map(|part| part.cores).collect()).to_bytes()
            }
            _ => Vec::new(),
        };
        output.reply(&Reply { value: &body, ..Reply::status(self.id, Status::Ok) });
        Status::Ok
    }

    /// The results of all parts in the order the keys were asked. A part that failed whole gives its status to each key.
    fn interleave(&self) -> Vec<u8> {
        let mut bodies: Vec<(u16, Status, &[u8])> = self
            .parts
            .iter()
            .filter_map(|part| {
                let (reply, _) = Reply::decode(part.reply.as_deref()?).ok().flatten()?;
                Some((part.core, reply.status, reply.value))
            })
            .collect();
        let mut body = Vec::new();
        for core in &self.order {
            let failed = |status| MultiResult {
                status,
                version: Version::NONE,
                client_flags: 0,
                retry_after_ms: super::limits::OVERLOADED_RETRY_MS,
                is_stale: false,
                value: &[],
            };
            match bodies.iter_mut().find(|(part, _, _)| part == core) {
                Some((_, Status::Ok, rest)) => match MultiResult::take(rest) {
                    Some((result, after)) => {
                        // The parts are bounded one by one; the whole is bounded here.
                        if body.len() + result.value.len() > quoit_wire::limits::MULTI_REPLY_BYTES_MAX {
                            MultiResult { status: Status::TooLarge, value: &[], ..result }.push(&mut body);
                        } else {
                            result.push(&mut body);
                        }
                        *rest = after;
                    }
                    None => failed(Status::Malformed).push(&mut body),
                },
                Some((_, status, _)) => failed(*status).push(&mut body),
                None => failed(Status::Overloaded).push(&mut body),
            }
        }
        body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_core_could_not_do_is_told_with_all_that_it_says_of_it() {
        let version = Version::from_u64(9);
        for refusal in [
            Reply { retry_after_ms: 7, ..Reply::status(1, Status::Overloaded) },
            Reply { version, ..Reply::status(1, Status::Moved) },
        ] {
            let parts = [0, 1].map(|core| Part { core, reply: None }).into();
            let operation = Operation::Flush;
            let mut gather =
                Gather { slot: 0, generation: 0, id: 5, operation, order: Vec::new(), parts, part_bytes: 0 };
            for (core, reply) in [(1, refusal), (0, Reply::status(1, Status::Ok))] {
                assert!(!gather.is_complete());
                let mut frame = Vec::new();
                reply.encode(&mut frame);
                gather.answer(core, &frame);
            }
            let mut output = Output::default();
            assert_eq!(gather.finish(|_| unreachable!("no stats were asked for"), &mut output), refusal.status);
            let (reply, _) = Reply::decode(&output.bytes).unwrap().unwrap();
            assert_eq!(reply, Reply { id: 5, ..refusal });
        }
    }
}
