//! Which test proves which function, and how: `agent/README.md` is made from it.
//!
//! A test takes a [`Proof`] first; when it passes, a line is written to the file that `BERTH_PROOFS`
//! names (`cargo xtask test` sets it): `function<TAB>column<TAB>test`. Without the variable nothing
//! is written.

use std::io::Write;

/// How a function is proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// By its rules alone: XML, sizes, tables.
    Pure,
    /// On libvirt's test driver, or what stands for the node's other parts without a guest.
    Driver,
    /// On a real guest, seen from inside it or from its network.
    Guest,
}

/// Notes at its end what the test proved, unless the test failed.
#[derive(Debug)]
#[must_use = "it notes the proof when it is dropped"]
pub struct Proof {
    functions: &'static [&'static str],
    column: Column,
}

/// These functions' rules are proved by this test.
pub fn pure(functions: &'static [&'static str]) -> Proof {
    Proof { functions, column: Column::Pure }
}

/// These functions are proved on the test driver by this test.
pub fn driver(functions: &'static [&'static str]) -> Proof {
    Proof { functions, column: Column::Driver }
}

/// These functions are proved on a real guest by this test.
pub fn guest(functions: &'static [&'static str]) -> Proof {
    Proof { functions, column: Column::Guest }
}

impl Drop for Proof {
    fn drop(&mut self) {
        let Some(path) = std::env::var_os("BERTH_PROOFS").filter(|_| !std::thread::panicking()) else {
            return;
        };
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("main").rsplit("::").next().unwrap_or_default();
        let column = format!("{:?}", self.column).to_lowercase();
        let lines: String =
            self.functions.iter().map(|function| format!("{function}\t{column}\t{test}\n")).collect();
        // One write: tests of several processes append to the same file.
        let file = std::fs::File::options().create(true).append(true).open(path);
        if let Err(e) = file.and_then(|mut file| file.write_all(lines.as_bytes())) {
            tracing::warn!(error = %e, "a proof could not be noted");
        }
    }
}
