//! Quoit's load generator.

fn main() {}
