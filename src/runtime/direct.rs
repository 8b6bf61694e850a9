//! Large values: received where they will lie.
//!
//! ```text
//! set of a large value ──▶ its first bytes, in provided buffers ──copied──▶ reserved space in the arena
//!        │                                                                            ▲
//!        └─ the receive into buffers is cancelled ──▶ receives into the space itself ─┘
//!                                                       the last one done: into buffers again
//! ```
//! The value's length is known, so no receive takes more than is its own.

use super::connection::{Connection, Intake, Phase};
use super::core::Core;
use super::limits::{DIRECT_BYTES_MIN, DIRECT_RECEIVE_BYTES};
use super::ring::Purpose;

impl Core {
    /// Whether the next bytes of a connection are to be received into the arena.
    pub(super) fn goes_direct(connection: &Connection) -> bool {
        let Intake::Large(set) = &connection.intake else { return false };
        let is_worth_it = connection.was_direct || set.missing_bytes() >= DIRECT_BYTES_MIN;
        // What has arrived and lies elsewhere comes before.
        let is_next = connection.carry.is_empty() && connection.deferred.is_empty();
        matches!(connection.phase, Phase::Open | Phase::Draining)
            && is_worth_it
            && is_next
            && connection.stall.is_none()
    }

    /// Ends a receive into buffers where the arena is to be received into.
    pub(super) fn turn_direct(&mut self, slot: u32, connection: &mut Connection) {
        if connection.is_receiving
            && connection.direct.is_none()
            && !connection.is_cancelling
            && Self::goes_direct(connection)
        {
            connection.is_cancelling = true;
            self.ring.cancel(Purpose::Receive, slot);
        }
    }

    /// Receives the next bytes of a large value into the arena; false where there is no memory for it any more.
    pub(super) fn receive_direct(&mut self, slot: u32, connection: &mut Connection) -> bool {
        let Intake::Large(set) = &mut connection.intake else { return false };
        let mut vector = self.spare_vectors.take();
        self.shard.unfilled_pieces(set, DIRECT_RECEIVE_BYTES, |piece| {
            let is_added = vector.add(piece.as_mut_ptr(), piece.len());
            debug_assert!(is_added, "a vector has room for the blocks of one receive");
        });
        if vector.is_empty() {
            self.spare_vectors.give(vector);
            return false;
        }
        // SAFETY: the vector stays in its box, and the space stays the set's, until the receive has completed: before that,
        // the connection is not freed (`put_or_free`), and nothing else fills or ends the set of a connection with `direct`.
        unsafe { self.ring.receive_message(connection.ring_socket(slot), slot, vector.message()) };
        connection.direct = Some(vector);
        connection.was_direct = true;
        true
    }

    /// A receive into the arena has brought `bytes` bytes.
    pub(super) fn on_direct(&mut self, slot: u32, bytes: usize) {
        let Some(Some(connection)) = self.connections.get_mut(slot as usize) else { return };
        let Intake::Large(set) = &mut connection.intake else { return };
        self.shard.advance_large_set(set, bytes);
        if set.missing_bytes() == 0 {
            self.execute_ready();
            self.publish_large(slot);
        }
    }
}
