//! Samples into the database, in batches.

use std::time::Duration;

use berth_model::ServerId;
use berth_model::load::LoadSample;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{Load, held, queries};

/// How often samples are written.
const WRITE_EVERY: Duration = Duration::from_secs(2);
/// Most samples in one statement.
const BATCH_MAX: usize = 5_000;
/// Most samples that wait while the database is away; then the oldest are dropped.
const BUFFER_MAX: usize = 200_000;

impl Load {
    /// Keeps samples for the next batch.
    pub(super) fn store(&self, samples: &[(ServerId, LoadSample)]) {
        let mut buffer = held(&self.0.buffer);
        buffer.extend_from_slice(samples);
        let over = buffer.len().saturating_sub(BUFFER_MAX);
        if over > 0 {
            buffer.drain(..over);
            metrics::counter!("berth_load_samples_dropped_total", "reason" => "full").increment(over as u64);
        }
    }

    /// Writes a batch every few seconds until `stop`, and then what is left.
    pub(super) async fn write_samples(self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(WRITE_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let stopped = tokio::select! {
                _ = tick.tick() => false,
                () = stop.cancelled() => true,
            };
            if let Err(error) = self.flush().await {
                tracing::warn!(%error, "samples of load were not written; they are tried again soon");
            }
            if stopped {
                return;
            }
        }
    }

    /// Writes everything that waits. What fails to be written waits on.
    pub async fn flush(&self) -> sqlx::Result<()> {
        loop {
            let batch: Vec<_> = {
                let mut buffer = held(&self.0.buffer);
                let length = buffer.len().min(BATCH_MAX);
                buffer.drain(..length).collect()
            };
            if batch.is_empty() {
                return Ok(());
            }
            let written = async {
                let mut conn = self.0.db.acquire().await?;
                queries::insert(&mut conn, &batch).await
            };
            match written.await {
                Ok(rows) => metrics::counter!("berth_load_samples_written_total").increment(rows),
                Err(error) => {
                    held(&self.0.buffer).splice(..0, batch);
                    return Err(error);
                }
            }
        }
    }
}
