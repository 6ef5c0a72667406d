//! The measurements behind `cargo xtask bench`.

pub mod agent;
pub mod agent_samples;
pub mod api;
pub mod backup;
pub mod create;
pub mod event;
pub mod first_load;
pub mod list;
pub mod moves;

use std::fmt::Write as _;

use berth_model::server::{Server, ServerCreate};
use serde::Serialize;

use crate::{Hypervisor, Installation, Options};

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// The figure, in `unit`.
    pub value: f64,
    /// `ms`, `kB`, `MB`, `%`.
    pub unit: &'static str,
    /// What it stands beside, measured in the same run.
    pub beside: String,
    /// That figure, in `unit`.
    pub peer: f64,
    /// What we aim at, in words.
    pub aim: String,
}

impl Row {
    /// The table as people read it.
    pub fn table(rows: &[Self]) -> String {
        let mut out = String::new();
        let line = |out: &mut String, cells: [&str; 6]| {
            let [what, value, beside, peer, ratio, aim] = cells;
            let _infallible =
                writeln!(out, "{what:<44} {value:>12}  {beside:<34} {peer:>12} {ratio:>7}  {aim}");
        };
        line(&mut out, ["what", "value", "beside", "value", "ratio", "aim"]);
        for row in rows {
            let figure = |v: f64| format!("{v:.1} {}", row.unit);
            let ratio =
                if row.peer > 0.0 { format!("{:.2}", row.value / row.peer) } else { "–".to_owned() };
            line(&mut out, [&row.what, &figure(row.value), &row.beside, &figure(row.peer), &ratio, &row.aim]);
        }
        out
    }
}

/// An installation on real QEMU, with one server that runs the tiny guest.
async fn with_server(name: &str) -> anyhow::Result<(Installation, Server)> {
    let installation =
        Installation::start(Options { hypervisor: Hypervisor::Libvirt, ..Options::default() }).await?;
    installation.node_up().await?;
    let client = installation.client(0);
    let order = ServerCreate {
        name: name.to_owned(),
        server_type: "t1".into(),
        image: "tiny".into(),
        ..ServerCreate::default()
    };
    let created = client.server_create(&order).await?;
    client.settled(created.action.id).await?;
    Ok((installation, created.server))
}

/// The value below which `percent` of the values lie; nearest rank.
pub fn percentile(values: &[f64], percent: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::percentile;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let values: Vec<f64> = (1..=100).map(f64::from).rev().collect();
        assert_eq!(percentile(&values, 50.0), 50.0);
        assert_eq!(percentile(&values, 99.0), 99.0);
        assert_eq!(percentile(&[7.0], 99.0), 7.0);
    }
}
