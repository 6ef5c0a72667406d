//! `berth-agent`: the agent, and its command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    berth_agent::cli::main()
}
