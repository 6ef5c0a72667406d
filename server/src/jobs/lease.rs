//! A lease that renews itself while it is held.

use std::time::Duration;

use sqlx::PgPool;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::queries::{self, Ticket};

/// A job's lease. Dropped, it is no longer renewed.
pub(super) struct Lease {
    lost: CancellationToken,
    renewing: JoinHandle<()>,
}

impl Lease {
    /// Keeps the lease that was claimed at `since`.
    pub(super) fn keep(db: PgPool, ticket: Ticket, length: Duration, since: Instant) -> Self {
        let lost = CancellationToken::new();
        let renewing = tokio::spawn({
            let lost = lost.clone();
            async move {
                renew(&db, ticket, length, since).await;
                lost.cancel();
            }
        });
        Self { lost, renewing }
    }

    /// Waits until somebody else may hold the job.
    pub(super) async fn lost(&self) {
        self.lost.cancelled().await;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

/// Renews until the lease is lost, or ran out because the database could not be asked.
async fn renew(db: &PgPool, ticket: Ticket, length: Duration, since: Instant) {
    let mut ends = since + length;
    let mut pause = length / 3;
    loop {
        sleep(pause).await;
        let asked = Instant::now();
        let renewed = async { queries::renew(&mut *db.acquire().await?, ticket, length).await };
        match timeout_at(ends, renewed).await {
            Ok(Ok(true)) => (ends, pause) = (asked + length, length / 3),
            Ok(Ok(false)) | Err(_) => return,
            Ok(Err(error)) => {
                tracing::warn!(job = ticket.id.0, "The lease could not be renewed: {error}");
                pause = length / 10;
            }
        }
    }
}
