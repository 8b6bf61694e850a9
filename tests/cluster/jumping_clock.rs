//! A wall clock that jumps, for nodes: a library that is loaded before the C library and answers in its place.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Seconds by which the clock is wrong, one way or the other.
pub(crate) const JUMP_SECS: u64 = 86_400;

/// The library, built for one test and removed with it.
pub(crate) struct JumpingClock(PathBuf);

impl JumpingClock {
    /// Builds it, with the compiler that Rust links with.
    pub(crate) fn build() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("quoit-clock-{}-{}.so", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let library = std::env::temp_dir().join(name);
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/jumping_clock.c");
        let built = Command::new("cc").args(["-shared", "-fPIC", "-O2", "-o"]).arg(&library).arg(source).status();
        assert!(built.expect("cc runs: .ci/setup installs it").success());
        Self(library)
    }

    /// Has a program go by it.
    pub(crate) fn give_to(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &self.0);
    }
}

impl Drop for JumpingClock {
    fn drop(&mut self) {
        // Whoever was preloaded with it has it still.
        let _ = std::fs::remove_file(&self.0);
    }
}
