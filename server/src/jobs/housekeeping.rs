//! What is done beside the work: how the queues stand, and removing what is long over.

use std::time::Duration;

use sqlx::PgPool;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{Queue, queries};

/// How often the queues are measured.
const MEASURE_EVERY: Duration = Duration::from_secs(15);
/// Jobs are removed in batches: one with each measuring, so that they never hold up the work.
const PRUNE_MAX: i64 = 1_000;
/// How long a job that is over is kept.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// Measures and prunes until told to stop.
pub(super) async fn keep(db: PgPool, stopping: CancellationToken) {
    let mut tick = interval(MEASURE_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stopping.cancelled() => return,
        }
        if let Err(error) = round(&db).await {
            tracing::warn!("The queues cannot be measured: {error}");
        }
    }
}

async fn round(db: &PgPool) -> sqlx::Result<()> {
    let mut conn = db.acquire().await?;
    let depths = queries::depths(&mut conn).await?;
    for queue in Queue::ALL {
        let word = queue.word();
        let depth = depths.iter().find(|depth| depth.queue == queue);
        let (open, overdue_s, staff_told) =
            depth.map_or((0, 0.0, 0), |depth| (depth.open, depth.overdue_s, depth.staff_told));
        metrics::gauge!("berth_jobs_open", "queue" => word).set(open as f64);
        metrics::gauge!("berth_jobs_overdue_seconds", "queue" => word).set(overdue_s);
        metrics::gauge!("berth_jobs_staff_told", "queue" => word).set(staff_told as f64);
    }
    queries::prune(&mut conn, KEPT, PRUNE_MAX).await?;
    Ok(())
}
