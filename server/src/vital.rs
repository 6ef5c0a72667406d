//! Tasks without which a control plane is half dead.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Watches over tasks that must not end before the control plane does. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Vital {
    stop: CancellationToken,
    lost: watch::Sender<Option<&'static str>>,
}

impl Vital {
    /// For tasks that may end once `stop` is cancelled.
    pub fn until(stop: CancellationToken) -> Self {
        Self { stop, lost: watch::Sender::new(None) }
    }

    /// When the tasks are to end.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// The same work, missed when it panics or ends too early. `what` is its name, for the operator.
    pub fn watch(
        &self,
        what: &'static str,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        let vital = self.clone();
        let work = AssertUnwindSafe(Box::pin(work)).catch_unwind();
        async move {
            // The panic has told its own story in the log.
            let _ = work.await;
            if !vital.stop.is_cancelled() {
                vital.lost.send_replace(Some(what));
            }
        }
    }

    /// Waits until one is missed, and names it.
    pub async fn lost(&self) -> &'static str {
        let mut lost = self.lost.subscribe();
        // We hold the sender, so it is not closed.
        let lost = lost.wait_for(Option::is_some).await;
        lost.ok().and_then(|what| *what).unwrap_or("a task")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_or_ends_is_missed() {
        let vital = Vital::until(CancellationToken::new());
        tokio::spawn(vital.watch("lives", std::future::pending()));
        tokio::spawn(vital.watch("panics", async { panic!("on purpose") }));
        assert_eq!(vital.lost().await, "panics");

        let vital = Vital::until(CancellationToken::new());
        tokio::spawn(vital.watch("ends", async {}));
        assert_eq!(vital.lost().await, "ends");
    }

    #[tokio::test]
    async fn a_task_that_ends_when_it_should_is_not_missed() {
        let vital = Vital::until(CancellationToken::new());
        let task = tokio::spawn(vital.watch("listens", vital.stop().clone().cancelled_owned()));
        vital.stop().cancel();
        task.await.unwrap();
        assert_eq!(vital.lost().now_or_never(), None);
    }
}
