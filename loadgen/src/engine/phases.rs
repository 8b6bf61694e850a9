//! Where a run stands: warming up, measuring, or waiting for the last replies.

use super::EngineOptions;

/// A part of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    WarmingUp,
    Measuring,
    /// Nothing more is asked; replies are waited for.
    Draining,
}

/// The parts of one thread's run, by the clock.
#[derive(Debug)]
pub(super) struct Phases {
    pub(super) current: Phase,
    /// When measuring begins.
    pub(super) measure_ns: u64,
    end_ns: u64,
}

impl Phases {
    pub(super) fn new(start_ns: u64, options: &EngineOptions) -> Self {
        let measure_ns = start_ns + options.warmup_ns;
        let current = if options.warmup_ns > 0 { Phase::WarmingUp } else { Phase::Measuring };
        let end_ns = options.duration_ns.map_or(u64::MAX, |duration| measure_ns.saturating_add(duration));
        Self { current, measure_ns, end_ns }
    }

    /// The phase that begins now, if one does; `is_to_stop` ends the run early.
    #[inline]
    pub(super) fn advance(&mut self, now_ns: u64, is_to_stop: bool) -> Option<Phase> {
        let next = match self.current {
            Phase::WarmingUp if now_ns >= self.measure_ns => Phase::Measuring,
            Phase::WarmingUp | Phase::Measuring if now_ns >= self.end_ns || is_to_stop => Phase::Draining,
            _ => return None,
        };
        self.current = next;
        Some(next)
    }
}
