//! Requests by operation and status, as plain integers.

use quoit_wire::{Operation, Status};

const OPERATIONS: usize = 32;
const STATUSES: usize = 32;

/// How many requests of each operation ended with each status.
#[derive(Clone, Debug)]
pub struct RequestCounters {
    counts: Box<[[u64; STATUSES]; OPERATIONS]>,
}

impl Default for RequestCounters {
    fn default() -> Self {
        const { assert!(Operation::ALL.len() < OPERATIONS && (Status::ShuttingDown as usize) < STATUSES) };
        Self { counts: Box::new([[0; STATUSES]; OPERATIONS]) }
    }
}

impl RequestCounters {
    /// Counts one request.
    #[inline]
    pub fn count(&mut self, operation: Operation, status: Status) {
        self.counts[operation as usize % OPERATIONS][status as usize % STATUSES] += 1;
    }

    /// Every pair that occurred.
    pub fn list(&self) -> Vec<(Operation, Status, u64)> {
        let pairs =
            Operation::ALL.iter().flat_map(|&operation| Status::ALL.iter().map(move |&status| (operation, status)));
        pairs
            .map(|(operation, status)| (operation, status, self.counts[operation as usize][status as usize]))
            .filter(|&(_, _, count)| count > 0)
            .collect()
    }
}
