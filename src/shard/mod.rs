//! Floor 4: one core's whole state, and the one dispatch of operations.
