//! `berth`: the control plane, and its command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    berth_server::cli::main()
}
