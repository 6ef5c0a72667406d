//! `reset_password`: gives root another password through the guest's agent. Nothing is kept of it.

use std::time::Duration;

use berth_model::agent::GuestPassword;
use berth_model::agent::function::guest;
use berth_model::{ErrorCode, NodeId, ServerId};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::agents::AgentError;
use crate::jobs::{Queue, Saga, StepContext, StepError, StepName};
use crate::{World, servers};

/// The job's data.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PasswordReset {
    server: ServerId,
    node: NodeId,
    /// crypt(3) SHA-512.
    hash: String,
}

impl std::fmt::Debug for PasswordReset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PasswordReset").field("server", &self.server).finish_non_exhaustive()
    }
}

impl PasswordReset {
    /// Gives root of this server the password with this hash.
    pub fn new(server: ServerId, node: NodeId, hash: String) -> Self {
        Self { server, node, hash }
    }
}

/// The only step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step;

impl StepName for Step {
    const ALL: &'static [Self] = &[Self];

    fn word(self) -> &'static str {
        "guest"
    }

    fn title(self) -> &'static str {
        "Set the password in the system"
    }
}

impl Saga for PasswordReset {
    const KIND: &'static str = "reset_password";
    const QUEUE: Queue = Queue::Interactive;
    const DEADLINE: Duration = Duration::from_secs(60);
    type Step = Step;

    async fn run(&mut self, _: Step, _: &StepContext, world: &World) -> Result<(), StepError> {
        let wanted = GuestPassword { user: "root".to_owned(), password_hash: self.hash.clone() };
        let agent = world.agents.node(self.node);
        match agent.call::<guest::SetPassword>(&self.server.into(), &wanted).await {
            // Its system may still be booting.
            Err(AgentError::Refused(why)) if why.code != ErrorCode::Conflict => {
                let customer = "The system in the server did not take the password: its guest agent does not \
                                answer. Is qemu-guest-agent installed, and does it run?";
                Err(StepError::fail(ErrorCode::ServiceError, customer, AgentError::Refused(why)))
            }
            set => Ok(set.map(drop)?),
        }
    }

    async fn record(&mut self, _: Step, cx: &StepContext, conn: &mut PgConnection) -> Result<(), StepError> {
        Ok(servers::let_go(conn, self.server, cx.now).await?)
    }

    async fn undo(&mut self, _: Step, _: &StepContext, _: &World) -> Result<(), StepError> {
        Ok(())
    }

    async fn record_undo(
        &mut self,
        _: Step,
        cx: &StepContext,
        conn: &mut PgConnection,
    ) -> Result<(), StepError> {
        Ok(servers::let_go(conn, self.server, cx.now).await?)
    }
}
