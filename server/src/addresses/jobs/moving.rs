//! `assign_floating_ip`, `unassign_floating_ip`: a floating IP goes from one server, or none, to another, or none,
//! while both run. Neither server is held: their machines are told anew, see [`follow::tell`].
//!
//! ```text
//!   asked:  of `to`, leaving `from`     neither card has it, but the node of `from` may still
//!   take:   of `to`                     the node of `from` has lost it; the card of `to` has it
//!   give:   of `to`                     the node of `to` has it
//! ```
//!
//! Given up at `give`, it leaves `to` in the same way, and is of `from` again. A request to a node that was under way
//! when another changed the rows may be heard there late; whoever sent it finds that out as it records, and tells the
//! node again ([`crate::servers::machine`]).

use std::time::Duration;

use berth_model::ServerId;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::World;
use crate::addresses::{PublicIpId, queries};
use crate::jobs::{Queue, Saga, StepContext, StepError, StepName};
use crate::servers;
use crate::servers::jobs::follow::{self, Heard};
use crate::servers::jobs::losing::LOOK_AGAIN;

/// A move that takes longer is given up: nobody should wonder for long which server answers.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The job's data. `ASSIGNS`: in the end a server has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moving<const ASSIGNS: bool> {
    ip: PublicIpId,
    from: Option<ServerId>,
    to: Option<ServerId>,
    /// Which server's node was told, and what, by its revision.
    #[serde(skip)]
    told: Option<(ServerId, i64)>,
}

/// The steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "titles say it")]
pub enum Step<const ASSIGNS: bool> {
    Take,
    Give,
}

impl<const ASSIGNS: bool> StepName for Step<ASSIGNS> {
    const ALL: &'static [Self] = if ASSIGNS { &[Self::Take, Self::Give] } else { &[Self::Take] };

    fn word(self) -> &'static str {
        match self {
            Self::Take => "take",
            Self::Give => "give",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Take => "Take the address from the server that has it",
            Self::Give => "Give the address to the server",
        }
    }
}

impl<const ASSIGNS: bool> Moving<ASSIGNS> {
    /// Moves this floating IP, whose rows say so already.
    pub fn new(ip: PublicIpId, from: Option<ServerId>, to: Option<ServerId>) -> Self {
        Self { ip, from, to, told: None }
    }

    /// Tells the node of a server. One that is being removed has its addresses until it is gone.
    async fn tell(&mut self, world: &World, server: ServerId) -> Result<(), StepError> {
        self.told = match follow::tell(world, server).await? {
            Heard::ComesOrGoes => return Err(StepError::NotYet(LOOK_AGAIN)),
            Heard::Nobody => None,
            Heard::Told(revision) => Some((server, revision)),
        };
        Ok(())
    }

    /// Writes that the node was told; both servers' rows are locked from here on, in their order.
    async fn record_told(&mut self, conn: &mut PgConnection) -> Result<(), StepError> {
        let mut servers: Vec<ServerId> = self.from.into_iter().chain(self.to).collect();
        servers.sort_unstable();
        for server in servers {
            servers::queries::hold_observed(conn, server).await?;
        }
        let Some((server, revision)) = self.told else { return Ok(()) };
        match servers::queries::set_told(conn, server, revision).await? {
            Some(false) => Err(StepError::NotYet(Duration::ZERO)),
            Some(true) | None => Ok(()),
        }
    }

    async fn publish(&self, conn: &mut PgConnection, cx: &StepContext) -> sqlx::Result<()> {
        let servers: Vec<ServerId> = self.from.into_iter().chain(self.to).collect();
        servers::queries::publish_all(conn, &servers, cx.now).await
    }
}

impl<const ASSIGNS: bool> Saga for Moving<ASSIGNS> {
    const KIND: &'static str = if ASSIGNS { "assign_floating_ip" } else { "unassign_floating_ip" };
    const QUEUE: Queue = Queue::Interactive;
    const DEADLINE: Duration = DEADLINE;
    type Step = Step<ASSIGNS>;

    async fn run(&mut self, step: Self::Step, _: &StepContext, world: &World) -> Result<(), StepError> {
        self.told = None;
        match (step, self.from, self.to) {
            (Step::Take, Some(from), _) => self.tell(world, from).await,
            (Step::Give, _, Some(to)) => match self.tell(world, to).await {
                // Asked for after this was: it goes with what it has.
                Err(StepError::NotYet(_)) => Ok(()),
                told => told,
            },
            _ => Ok(()),
        }
    }

    async fn record(
        &mut self,
        step: Self::Step,
        _: &StepContext,
        conn: &mut PgConnection,
    ) -> Result<(), StepError> {
        self.record_told(conn).await?;
        if step == Step::Take {
            queries::set_left(conn, self.ip).await?;
            if let Some(to) = self.to {
                servers::queries::touch(conn, to).await?;
            }
        }
        if Some(&step) == Step::ALL.last() {
            queries::lock(conn, self.ip, None).await?;
        }
        Ok(())
    }

    async fn undo(&mut self, step: Self::Step, _: &StepContext, world: &World) -> Result<(), StepError> {
        self.told = None;
        if step == Step::Give {
            return Ok(());
        }
        let leaving = queries::leaving(&mut *world.db.acquire().await?, self.ip).await?;
        match self.to.filter(|to| leaving == Some(*to)) {
            Some(to) => self.tell(world, to).await,
            None => Ok(()),
        }
    }

    async fn record_undo(
        &mut self,
        step: Self::Step,
        cx: &StepContext,
        conn: &mut PgConnection,
    ) -> Result<(), StepError> {
        self.record_told(conn).await?;
        if step == Step::Give {
            queries::set_server(conn, self.ip, self.from, self.to).await?;
            if let Some(to) = self.to {
                servers::queries::touch(conn, to).await?;
            }
            return Ok(());
        }
        queries::set_server(conn, self.ip, self.from, None).await?;
        if let Some(from) = self.from {
            follow::told_anew(conn, from, cx.now).await?;
        }
        queries::lock(conn, self.ip, None).await?;
        Ok(self.publish(conn, cx).await?)
    }
}
