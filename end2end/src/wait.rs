//! Waiting for a condition, never for a time.

use std::future::Future;
use std::time::{Duration, Instant};

/// How long a condition may take before the test fails. Generous: a loaded machine is no fault.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Asks again and again until `condition` gives something; an error names `what` did not happen.
///
/// # Errors
/// When [`PATIENCE`] has passed, or the condition itself fails.
pub async fn until<T, F, Fut>(what: &str, mut condition: F) -> anyhow::Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = anyhow::Result<Option<T>>>,
{
    let begun = Instant::now();
    loop {
        if let Some(value) = condition().await? {
            return Ok(value);
        }
        anyhow::ensure!(begun.elapsed() < PATIENCE, "{what}: not within {} s", PATIENCE.as_secs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
