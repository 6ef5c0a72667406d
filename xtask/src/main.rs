//! `cargo xtask …`: everything a developer or a newcomer runs.
//!
//! ```text
//! up ──┬─ install   Debian packages that are missing
//!      ├─ tools     wasm target, trunk, wasm-bindgen, wasm-opt, playwright: a cache folder
//!      ├─ images    guest images, by the recipes in guests/: a cache folder
//!      ├─ build     berth, berth-agent, the web app
//!      └─ instance  libvirt's daemons, control plane, agent, demo people; target/up
//! down ── instance
//! test ── install, tools, images, then stages; the browser's on an instance of its own
//! ```
#![allow(clippy::print_stdout, reason = "a command line's output is what it is for")]

mod app;
mod daemon;
mod demo;
mod generate;
mod images;
mod install;
mod instance;
mod libvirt;
mod place;
mod postgres;
mod preflight;
mod progress;
mod readme;
mod report;
mod shell;
mod stop;
mod test;
mod tools;
mod up;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::place::Place;

/// Everything a developer or a newcomer runs.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a whole Berth from this checkout: installs what is missing, builds, and prints the
    /// address and the sign-ins. Ctrl-C ends it.
    Up(up::Options),
    /// End what `up --detach` left running.
    Down,
    /// Run all tests, or some parts.
    Test {
        /// Which parts; all of them when none is named.
        #[arg(value_enum)]
        parts: Vec<test::Part>,
    },
    /// Build the guest images, unless they are there.
    Images,
    /// Install the build tools, unless they are there.
    Tools,
    /// Write what machines write: sqlx's checked queries, the OpenAPI document, the settings.
    Generate {
        /// Only say whether they are as they should be.
        #[arg(long)]
        check: bool,
        /// Only write the agent's README, as the last `cargo xtask test agent` proved.
        #[arg(long, conflicts_with = "check")]
        readme: bool,
    },
    /// Run benchmarks; prints a table and writes target/bench.json.
    Bench {
        /// Which ones; all of them when none is named.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            // Each cause is a sentence of its own.
            error.chain().for_each(|cause| eprintln!("{cause}"));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    let place = Place::find()?;
    stop::listen()?;
    match command {
        Command::Up(options) => up::up(&place, &options)?,
        Command::Down => up::down(&place)?,
        Command::Test { parts } => return test::run(&place, &parts),
        Command::Images => up::prepare(&place, &[up::Need::Packages, up::Need::Images])?,
        Command::Tools => up::prepare(&place, &[up::Need::Packages, up::Need::Tools])?,
        Command::Generate { readme: true, .. } => readme::take(&place)?,
        Command::Generate { check, .. } => generate::command(&place, check)?,
        Command::Bench { arguments } => test::bench(&place, &arguments)?,
    }
    Ok(ExitCode::SUCCESS)
}
