//! Floor 5: executors, socket rings, connections, mesh. Only here are glommio and io-uring.
//!
//! ```text
//! node.rs ── starts one executor per core ──► core.rs: the turn
//!                                              ├ ring.rs, buffers.rs     the private io_uring
//!                                              ├ intake.rs, scan.rs      bytes → frames → their way
//!                                              ├ ready.rs                this core's requests → the shard
//!                                              ├ receiving.rs            who is read, who waits
//!                                              ├ direct.rs               large values, received into the arena
//!                                              ├ budget.rs, spare.rs     the account of the buffers
//!                                              ├ mesh.rs, mesh_serve.rs  other cores' requests and replies, gather.rs
//!                                              ├ egress.rs, vectored.rs  replies → sends
//!                                              ├ lifecycle.rs            accept, hello, hand-over, close, drain
//!                                              ├ news.rs                 a topology that changes
//!                                              ├ cluster.rs              the turn of a cluster's core: copies, orders
//!                                              ├ held.rs                 replies that wait for a commit
//!                                              ├ together.rs             replies of one connection that leave together
//!                                              ├ waiting.rs              requests that wait for their vnode
//!                                              ├ peers.rs                links to other nodes' cores
//!                                              ├ commands.rs             what the control thread asks
//!                                              ├ park.rs, clock.rs       sleeping, time
//!                                              ├ stages.rs, state/       warm restarts: before the turns, and after
//!                                              └ report.rs               counters
//! ```
//! Every limit stands in `limits.rs`.

mod budget;
mod buffers;
mod clock;
mod cluster;
mod commands;
mod connection;
mod core;
mod direct;
mod egress;
mod gather;
mod held;
mod intake;
mod lifecycle;
pub mod limits;
mod listen;
pub mod machine;
mod mesh;
mod mesh_serve;
mod news;
mod node;
mod park;
mod peers;
pub mod preflight;
mod ready;
mod receiving;
mod report;
mod ring;
mod scan;
mod spare;
mod stages;
mod state;
#[cfg(test)]
mod stepped;
mod together;
mod vectored;
mod waiting;

pub use clock::boot_time;
pub use cluster::ClusterNews;
pub use commands::{Command, CoreHandle, SignOfLife};
pub use node::{ClusterPlace, CoreFailure, MemorySplit, Node, RuntimeOptions, StartError};
pub use park::Idle;
pub use peers::{CoreEvent, PeerAddress};
pub use state::StateFolderError;
