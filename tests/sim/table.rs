//! The table of faults by phases: how often each fault began in each phase.

use std::collections::BTreeMap;
use std::fmt;

use super::faults::{AMBIENT, Fault, HARD, PHASES, Phase};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    counts: BTreeMap<(Fault, Phase), u64>,
}

impl Table {
    pub(super) fn count(&mut self, fault: Fault, phase: Phase) {
        *self.counts.entry((fault, phase)).or_default() += 1;
    }

    pub(super) fn add(&mut self, other: &Self) {
        other.counts.iter().for_each(|(cell, count)| *self.counts.entry(*cell).or_default() += count);
    }

    /// Cells without a fault.
    pub(super) fn empty(&self) -> Vec<(Fault, Phase)> {
        let cells = AMBIENT.into_iter().chain(HARD).flat_map(|fault| PHASES.map(|phase| (fault, phase)));
        cells.filter(|cell| !self.counts.contains_key(cell)).collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<20}", "fault \\ phase")?;
        for phase in PHASES {
            write!(f, "{:>12}", format!("{phase:?}"))?;
        }
        writeln!(f)?;
        for fault in AMBIENT.into_iter().chain(HARD) {
            write!(f, "{:<20}", format!("{fault:?}"))?;
            for phase in PHASES {
                write!(f, "{:>12}", self.counts.get(&(fault, phase)).copied().unwrap_or(0))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
