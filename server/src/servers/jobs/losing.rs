//! Frees a thing that a server's machine may still have, though the rows say otherwise: an address, a card in a
//! network, a volume. Nobody else gets it before the machine has lost it, so the job only goes forward.
//!
//! ```text
//!   the row says whose machine may still have it ─▶ that machine told what it is to be ─▶ cleared ─▶ free
//! ```

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use berth_model::{ServerId, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::follow::{self, Heard};
use crate::World;
use crate::jobs::{self, Queue, Saga, StepContext, StepError, StepName};
use crate::servers::queries;

/// Pause between looks at a server that comes or goes.
pub const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// A thing that is free once a server's machine has lost it. `self` is kept as JSON until then.
pub trait Thing: Serialize + DeserializeOwned + Debug + Send + Sync + 'static {
    /// The job's word.
    const KIND: &'static str;
    /// What is done, as people read it.
    const TITLE: &'static str;

    /// Removes what else a node has of it, now that the machine has lost it. May run twice.
    fn clear(&mut self, _world: &World) -> impl Future<Output = Result<(), StepError>> + Send {
        async { Ok(()) }
    }

    /// Frees it, in the rows. The server's row is held, if there still is one.
    fn free(
        &self,
        conn: &mut PgConnection,
        server: ServerId,
        now: Timestamp,
    ) -> impl Future<Output = sqlx::Result<()>> + Send;
}

/// The job's data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Losing<T> {
    thing: T,
    server: ServerId,
    /// What the node was told, by its revision; none when there was nobody to tell.
    #[serde(skip)]
    told: Option<i64>,
}

/// The rows say, from the caller's transaction on, that this server has the thing no more: its machine is told, and
/// then the thing is free. The server's row is locked until the transaction ends.
///
/// # Errors
/// When the database fails.
pub async fn free_once_lost<T: Thing>(
    conn: &mut PgConnection,
    server: ServerId,
    thing: T,
    now: Timestamp,
) -> sqlx::Result<()> {
    queries::touch(conn, server).await?;
    jobs::enqueue(conn, &Losing { thing, server, told: None }, None, now).await.map(drop)
}

/// The only step, whatever the thing is.
#[derive(Debug)]
pub struct Step<T>(std::marker::PhantomData<fn() -> T>);

impl<T> Clone for Step<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Step<T> {}

impl<T> PartialEq for Step<T> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<T: Thing> StepName for Step<T> {
    const ALL: &'static [Self] = &[Self(std::marker::PhantomData)];

    fn word(self) -> &'static str {
        "lose"
    }

    fn title(self) -> &'static str {
        T::TITLE
    }
}

impl<T: Thing> Saga for Losing<T> {
    const KIND: &'static str = T::KIND;
    const QUEUE: Queue = Queue::Follow;
    const DEADLINE: Duration = Duration::from_secs(15 * 60);
    const UNDOABLE: bool = false;
    type Step = Step<T>;

    async fn run(&mut self, _: Step<T>, _: &StepContext, world: &World) -> Result<(), StepError> {
        self.told = match follow::tell(world, self.server).await? {
            Heard::ComesOrGoes => return Err(StepError::NotYet(LOOK_AGAIN)),
            Heard::Nobody => None,
            Heard::Told(revision) => Some(revision),
        };
        self.thing.clear(world).await
    }

    async fn record(
        &mut self,
        _: Step<T>,
        cx: &StepContext,
        conn: &mut PgConnection,
    ) -> Result<(), StepError> {
        if let Some(told) = self.told
            && queries::set_told(conn, self.server, told).await? == Some(false)
        {
            return Err(StepError::NotYet(Duration::ZERO));
        }
        Ok(self.thing.free(conn, self.server, cx.now).await?)
    }

    async fn undo(&mut self, _: Step<T>, _: &StepContext, _: &World) -> Result<(), StepError> {
        Ok(())
    }

    async fn record_undo(
        &mut self,
        _: Step<T>,
        _: &StepContext,
        _: &mut PgConnection,
    ) -> Result<(), StepError> {
        Ok(())
    }
}
