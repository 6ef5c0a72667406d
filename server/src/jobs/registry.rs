//! Which kinds of job a worker knows.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::queries::Claimed;
use super::run::{self, Shared};
use super::{Queue, Saga, StepName as _};

/// The sagas a worker can work on. A job of another kind is left to workers that know it, such as
/// a newer version's.
#[derive(Clone, Default)]
pub struct Registry {
    kinds: BTreeMap<&'static str, (Queue, Arc<dyn Kind>)>,
}

impl Registry {
    /// One that knows nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, knowing `S` too.
    ///
    /// # Panics
    /// When another saga has the same kind, or `S` has no steps.
    #[must_use]
    pub fn with<S: Saga>(mut self) -> Self {
        assert!(!S::Step::ALL.is_empty(), "saga {} has no steps", S::KIND);
        let before = self.kinds.insert(S::KIND, (S::QUEUE, Arc::new(Of::<S>(PhantomData))));
        assert!(before.is_none(), "two sagas are called {}", S::KIND);
        self
    }

    /// The kinds in `queue`.
    pub(super) fn kinds(&self, queue: Queue) -> Vec<String> {
        let in_queue = self.kinds.iter().filter(|(_, (its, _))| *its == queue);
        in_queue.map(|(kind, _)| (*kind).to_owned()).collect()
    }

    pub(super) fn kind(&self, kind: &str) -> Option<Arc<dyn Kind>> {
        self.kinds.get(kind).map(|(_, kind)| kind.clone())
    }
}

/// A saga's type, forgotten.
pub(super) trait Kind: Send + Sync {
    /// Works on a job that was claimed at `since`.
    fn work<'a>(&'a self, shared: &'a Shared, job: Claimed, since: Instant) -> BoxFuture<'a, ()>;
}

struct Of<S>(PhantomData<fn() -> S>);

impl<S: Saga> Kind for Of<S> {
    fn work<'a>(&'a self, shared: &'a Shared, job: Claimed, since: Instant) -> BoxFuture<'a, ()> {
        Box::pin(run::work::<S>(shared, job, since))
    }
}
