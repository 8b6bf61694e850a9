//! Floor 2: one core's items. See `README.md` beside this file.
