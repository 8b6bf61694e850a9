//! Floor 5: executors, socket rings, connections, mesh.

pub mod machine;
pub mod preflight;
