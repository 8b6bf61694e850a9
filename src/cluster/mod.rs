//! The cluster: who owns which vnode, who holds copies of it, and how both change without losing what was promised.
//!
//! Floor 3: no I/O and no clock. Events come in through `handle_*` with `now`, effects go out through `poll_*`, so the same
//! code runs against etcd and sockets, and against simulated ones. The contract is C1 to C15 of the design; the comments
//! name the line that they keep. `README.md` beside this file shows how the parts fit.

pub mod agent;
mod bytes;
pub mod copies;
pub mod etcd;
pub mod events;
pub mod leader;
pub mod load;
pub mod messages;
pub mod overview;
#[doc(hidden)]
pub mod planted;
pub mod records;
pub mod retries;
pub mod ring;

pub use messages::{ControlMessage, Election, Order, Report};
pub use ring::{
    COPIES_MAX, CopySeat, CopyState, Member, NAME_BYTES_MAX, NodeRef, Registration, Ring, RingError, Roles,
};
