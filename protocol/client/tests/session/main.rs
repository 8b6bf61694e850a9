//! The session under a seeded network: bytes arrive late, in pieces, or not at all, and time is a number.
//!
//! Each run is one thread and one seed; a run that fails prints it. What must hold whatever happens:
//! every request ends once and in time; a write that is not idempotent is applied at most once, exactly once if it was
//! acknowledged, and not at all if the client says so; a read after an acknowledged write sees it.

mod changes;
mod copies;
mod losses;
mod model;
mod refusals;
mod weather;
mod world;
