//! `delete_server`: removes the machine, then the server.
//!
//! It only goes forward: what was deleted cannot be given back, and a customer who deletes a server
//! must not find it again later. While the node does not answer, the server stays `deleting` and
//! keeps its address, since its machine may still answer there; staff are told, and the job goes on
//! when the node is back.

use std::time::Duration;

use berth_model::address::IpFamily;
use berth_model::{NodeId, ServerId};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::jobs::{Queue, Saga, StepContext, StepError, StepName};
use crate::servers::{self, queries};
use crate::{World, addresses};

/// The job's data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerDelete {
    server: ServerId,
    /// Where it stands.
    node: Option<NodeId>,
}

impl ServerDelete {
    /// Removes this server.
    pub fn new(server: ServerId, node: Option<NodeId>) -> Self {
        Self { server, node }
    }
}

/// The steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "titles say it")]
pub enum Step {
    Machine,
    Server,
}

impl StepName for Step {
    const ALL: &'static [Self] = &[Self::Machine, Self::Server];

    fn word(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::Server => "server",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Machine => "Remove the machine and its disk",
            Self::Server => "Release the addresses",
        }
    }
}

impl Saga for ServerDelete {
    const KIND: &'static str = "delete_server";
    const QUEUE: Queue = Queue::Interactive;
    const DEADLINE: Duration = Duration::from_secs(15 * 60);
    const UNDOABLE: bool = false;
    type Step = Step;

    async fn run(&mut self, step: Step, _: &StepContext, world: &World) -> Result<(), StepError> {
        match (step, self.node) {
            (Step::Machine, Some(node)) => Ok(world.agents.node(node).delete_vm(self.server.into()).await?),
            _ => Ok(()),
        }
    }

    async fn record(
        &mut self,
        step: Step,
        cx: &StepContext,
        conn: &mut PgConnection,
    ) -> Result<(), StepError> {
        match step {
            // Its room on the node is free again.
            Step::Machine => queries::place(conn, self.server, None).await?,
            Step::Server => {
                // Whoever changes what a server has holds its row first.
                queries::hold_observed(conn, self.server).await?;
                let both = [IpFamily::Ipv4, IpFamily::Ipv6];
                addresses::queries::release(conn, self.server, &both, cx.now).await?;
                servers::remove(conn, self.server, cx.now).await?;
            }
        }
        Ok(())
    }

    async fn undo(&mut self, _: Step, _: &StepContext, _: &World) -> Result<(), StepError> {
        Ok(())
    }

    async fn record_undo(&mut self, _: Step, _: &StepContext, _: &mut PgConnection) -> Result<(), StepError> {
        Ok(())
    }
}
