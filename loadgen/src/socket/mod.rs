//! Sockets on a private io_uring ring, for the generator and for the echo: one thread, one ring, one enter per turn.

mod buffers;
mod ring;

pub(crate) use buffers::{BufferPool, GROUP as BUFFER_GROUP};
pub(crate) use ring::{Completion, Ring, Token, TokenKind};
