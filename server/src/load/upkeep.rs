//! Keeping the tables: partitions made ahead and dropped, minutes computed.

use std::time::Duration;

use berth_model::Timestamp;
use sqlx::PgPool;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::partitions::{FINE, MINUTE};
use super::{Load, held, queries};
use crate::clock;

/// How often the tables are looked after.
const EVERY: Duration = Duration::from_secs(20);
/// How long after its end a minute is computed: samples are written a few seconds late.
const LATE_S: i64 = 45;
/// How long a sample counts as the latest.
const LATEST_S: i64 = 120;

impl Load {
    pub(super) async fn keep_tables(self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = stop.cancelled() => return,
            }
            let now = clock::now();
            if let Err(error) = upkeep(&self.0.db, now).await {
                tracing::error!(%error, "the tables of load could not be looked after");
            }
            held(&self.0.latest).retain(|_, sample| sample.at.plus_seconds(LATEST_S) > now);
        }
    }
}

/// Looks after the tables as of `now`: makes and drops partitions, and computes the minutes that
/// are over. Only one control plane does so at a time; the others find nothing to do.
///
/// # Errors
/// When the database fails.
pub async fn upkeep(db: &PgPool, now: Timestamp) -> sqlx::Result<()> {
    let mut tx = db.begin().await?;
    if !queries::try_lock_upkeep(&mut tx).await? {
        return Ok(());
    }
    let mut outdated = Vec::new();
    for table in [FINE, MINUTE] {
        let there = queries::partitions(&mut tx, &table).await?;
        for new in table.needed(now).iter().filter(|new| !there.contains(&new.name)) {
            queries::create_partition(&mut tx, &table, new).await?;
        }
        outdated.extend(table.outdated(&there, now).into_iter().map(str::to_owned));
    }
    queries::roll_up(&mut tx, now.plus_seconds(-LATE_S), FINE.kept_s as f64).await?;
    queries::forget_watches(&mut tx).await?;
    tx.commit().await?;

    for name in outdated {
        if let Err(error) = drop_partition(db, &name).await {
            tracing::debug!(%error, name, "this partition is dropped later: somebody uses the table");
        }
    }
    Ok(())
}

/// In a transaction of its own: the whole table is locked until it ends.
async fn drop_partition(db: &PgPool, name: &str) -> sqlx::Result<()> {
    let mut tx = db.begin().await?;
    queries::drop_partition(&mut tx, name).await?;
    tx.commit().await
}
