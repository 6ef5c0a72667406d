//! A clock of a process that a test moves.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::text;

/// Debian's place for the library that fakes clocks.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// Lets a program see the clock that [`set`] moves; that which nobody sets, it sees as it is.
pub fn show(command: &mut Command, clock: &Path) {
    assert!(Path::new(FAKETIME).exists(), "{FAKETIME} is missing: install the package libfaketime");
    command.envs([
        ("LD_PRELOAD", FAKETIME),
        ("FAKETIME_TIMESTAMP_FILE", text(clock)),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("NO_FAKE_STAT", "1"),
    ]);
}

/// Moves it by so many seconds.
pub fn set(clock: &Path, ahead_s: i64) {
    let new = clock.with_extension("new");
    fs::write(&new, format!("{ahead_s:+}")).unwrap();
    fs::rename(new, clock).unwrap();
}
