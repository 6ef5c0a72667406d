//! How long a guest stands still while it moves from one node to the other, each with a libvirt of its own.
//!
//! Two such nodes are made by the agent's own tests of moving, which tell what they measured.

use std::path::Path;

use anyhow::Context as _;

use super::Row;
use crate::process::run;

const TESTS: [&str; 2] = [
    "a_guest_moves_with_its_volumes_while_it_works_and_back_while_it_is_off",
    "a_guest_on_storage_that_nodes_share_moves_without_a_copy_and_uefi_goes_along",
];

/// The switch-over pause as libvirt measured it, with the disks copied and on storage that both nodes have.
///
/// # Errors
/// When a move fails.
pub fn measure() -> anyhow::Result<Vec<Row>> {
    let program = std::env::var("BERTH_TEST_MOVES")
        .context("BERTH_TEST_MOVES is not set: run this through `cargo xtask bench agent-move`")?;
    let mut rows = Vec::new();
    for test in TESTS {
        let said = run(Path::new(&program), &["--exact", "--nocapture", test], None)?;
        rows.push(said.lines().find_map(row).with_context(|| format!("{test} tells no figures:\n{said}"))?);
    }
    Ok(rows)
}

/// `measured: copied PAUSE_MS SILENCE_MS` or `measured: shared PAUSE_MS SENDING_MS`; the test's name may stand
/// before it.
fn row(line: &str) -> Option<Row> {
    let mut words = line.split_once("measured: ")?.1.split_whitespace();
    let how = words.next()?;
    let (value, peer) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let (what, beside) = match how {
        "copied" => ("live move with disks copied: pause", "longest silence of a stream from the guest"),
        _ => ("live move on shared storage: pause", "the whole move"),
    };
    Some(Row {
        what: what.to_owned(),
        value,
        unit: "ms",
        beside: beside.to_owned(),
        peer,
        aim: "shorter than a second".to_owned(),
    })
}
