//! Quoit's native client.
