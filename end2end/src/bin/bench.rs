//! `cargo xtask bench [PART…]`: a table and `target/bench.json`.
//!
//! Every figure stands beside a peer or a physical limit measured in the same run, so that it means
//! something on any machine.
#![allow(clippy::print_stdout, reason = "the table is what this program is for")]

use std::path::PathBuf;

use berth_end2end::bench::{Row, agent, agent_samples, api, backup, create, event, first_load, list, moves};

/// Parts, by name.
const PARTS: [&str; 11] = [
    "agent-backup",
    "create",
    "event",
    "list",
    "api",
    "first-load",
    "agent-start",
    "agent-creates",
    "agent-memory",
    "agent-samples",
    "agent-move",
];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = wanted.iter().find(|w| !PARTS.contains(&w.as_str())) {
        anyhow::bail!("there is no benchmark “{unknown}”; there are {}", PARTS.join(", "));
    }
    let runs = |part: &str| wanted.is_empty() || wanted.iter().any(|w| w == part);
    let mut rows: Vec<Row> = Vec::new();
    if runs("agent-backup") {
        rows.extend(backup::measure().await?);
    }
    if runs("create") {
        rows.extend(create::measure().await?);
    }
    if runs("event") {
        rows.extend(event::measure().await?);
    }
    if runs("list") {
        rows.extend(list::measure().await?);
    }
    if runs("api") {
        rows.extend(api::measure().await?);
    }
    if runs("first-load") {
        rows.extend(first_load::measure().await?);
    }
    if runs("agent-start") {
        rows.extend(agent::start().await?);
    }
    if runs("agent-creates") {
        rows.extend(agent::creates().await?);
    }
    if runs("agent-memory") {
        rows.extend(agent::memory().await?);
    }
    if runs("agent-samples") {
        rows.extend(agent_samples::measure().await?);
    }
    if runs("agent-move") {
        rows.extend(moves::measure()?);
    }
    print!("{}", Row::table(&rows));
    let file = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    std::fs::write(file.join("bench.json"), serde_json::to_vec_pretty(&rows)?)?;
    Ok(())
}
