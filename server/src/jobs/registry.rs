//! Which kinds of job a worker knows.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::queries::Claimed;
use super::run::{self, Shared};
use super::{Saga, StepName as _};

/// The sagas a worker can work on. A job of another kind is left to workers that know it, such as
/// a newer version's.
#[derive(Clone, Default)]
pub struct Registry {
    kinds: BTreeMap<&'static str, Arc<dyn Kind>>,
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
        let before = self.kinds.insert(S::KIND, Arc::new(Of::<S>(PhantomData)));
        assert!(before.is_none(), "two sagas are called {}", S::KIND);
        self
    }

    /// Their words.
    pub(super) fn kinds(&self) -> Vec<String> {
        self.kinds.keys().map(|kind| (*kind).to_owned()).collect()
    }

    pub(super) fn kind(&self, kind: &str) -> Option<Arc<dyn Kind>> {
        self.kinds.get(kind).cloned()
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
