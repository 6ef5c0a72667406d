//! Gives committed events their place in the order. Every control plane runs one; the lock on the
//! head's row lets one work at a time.

use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::queries;

/// Events numbered in one transaction.
const BATCH: i64 = 1_000;
/// How often it looks when nobody wakes it.
const POLL: Duration = Duration::from_secs(2);
/// After the database did not answer.
const TROUBLE_PAUSE: Duration = Duration::from_millis(500);

/// Publishes for ever.
pub(super) async fn publish(db: PgPool, mut woken: watch::Receiver<u64>) {
    loop {
        woken.borrow_and_update();
        match round(&db).await {
            Ok(numbered) if numbered == BATCH as u64 => {}
            Ok(_) => {
                let _ = timeout(POLL, woken.changed()).await;
            }
            Err(error) => {
                tracing::warn!("Events cannot be published: {error}");
                sleep(TROUBLE_PAUSE).await;
            }
        }
    }
}

async fn round(db: &PgPool) -> sqlx::Result<u64> {
    let mut tx = db.begin().await?;
    let numbered = queries::number(&mut tx, BATCH).await?;
    tx.commit().await?;
    metrics::counter!("berth_live_events_published_total").increment(numbered);
    Ok(numbered)
}
