//! `berth addresses …`: what the operator does to pools from the command line.

use anyhow::{Context as _, bail};
use ipnet::IpNet;
use sqlx::PgPool;

use super::pool::{Pool, Written};
use super::queries::{self, Standing};
use crate::catalog;

/// Makes what of a network is handed out in a location what is written; as often as one likes. Says how many
/// addresses are new.
///
/// # Errors
/// A sentence: a key that is wrong, there is no such location, an address stands elsewhere, the database fails.
pub async fn put(db: &PgPool, location: &str, written: &Written<'_>) -> anyhow::Result<u64> {
    let pool = Pool::read(written)?;
    let mut tx = db.begin().await?;
    let locations = catalog::queries::locations(&mut tx).await?;
    let Some(location) = locations.iter().find(|l| l.name == location) else {
        let names: Vec<_> = locations.iter().map(|l| l.name.as_str()).collect();
        bail!("There is no location “{location}”. There are: {}.", names.join(", "));
    };
    let new = queries::put(&mut tx, location.id, pool.network, &[&pool]).await?;
    tx.commit().await?;
    Ok(new)
}

/// Hands out nothing of a network any more; who holds an address keeps it. Says how many addresses that stops.
///
/// # Errors
/// A sentence: this is not a network, the database fails.
pub async fn withdraw(db: &PgPool, cidr: &str) -> anyhow::Result<u64> {
    let network: IpNet = cidr.parse().with_context(|| format!("“{cidr}” is not a network"))?;
    Ok(queries::withdraw(&mut *db.acquire().await?, network).await?)
}

/// A table of all networks.
///
/// # Errors
/// When the database fails.
pub async fn list(db: &PgPool) -> anyhow::Result<String> {
    let standing = queries::standing(&mut *db.acquire().await?).await?;
    let head = ["location", "network", "gateway", "held", "free", "withdrawn"].map(str::to_owned);
    let row = |s: &Standing| {
        [
            s.location.clone(),
            s.network.clone(),
            s.gateway.to_string(),
            s.held.to_string(),
            s.free.to_string(),
            s.withdrawn.to_string(),
        ]
    };
    let rows: Vec<_> = std::iter::once(head).chain(standing.iter().map(row)).collect();
    let widths: [usize; 6] =
        std::array::from_fn(|at| rows.iter().map(|row| row[at].len()).max().unwrap_or(0));
    let line = |row: &[String; 6]| {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    Ok(rows.iter().map(line).collect())
}
