//! The sagas of servers, one file each.

pub mod change;
pub mod create;
pub mod delete;
pub mod follow;
pub mod leftover;
pub mod losing;
pub mod password;
pub mod power;

use std::time::Duration;

use berth_model::agent::VmState;
use berth_model::{NodeId, ServerId, Timestamp};

use super::{changes, queries};
use crate::agents::AgentError;
use crate::jobs::Registry;
use crate::{World, addresses, networks, volumes};

/// How long a last look at a machine may take when an action is given up.
pub(super) const LAST_LOOK: Duration = Duration::from_secs(5);

/// What an action saw when it looked at a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// What it did; `None` when it was not there.
    pub state: Option<VmState>,
    /// When the newest news from before the look was seen: what came after may be newer than the look.
    pub observed: Option<Timestamp>,
}

impl Look {
    async fn at(world: &World, node: NodeId, server: ServerId) -> Result<Self, AgentError> {
        let observed = queries::observed(&mut *world.db.acquire().await?, server).await?;
        let vm = world.agents.node(node).get_vm(server.into()).await?;
        Ok(Self { state: vm.map(|vm| vm.state), observed })
    }
}

/// The registry, knowing all sagas of servers.
#[must_use]
pub fn register(registry: Registry) -> Registry {
    let registry = volumes::jobs::register(addresses::jobs::register(registry));
    changes::register(networks::jobs::register(registry))
        .with::<create::ServerCreate>()
        .with::<delete::ServerDelete>()
        .with::<follow::ServerFollow>()
        .with::<password::PasswordReset>()
        .with::<leftover::LeftoverRemove>()
        .with::<power::Power<power::Start>>()
        .with::<power::Power<power::PowerOff>>()
        .with::<power::Power<power::Shutdown>>()
        .with::<power::Power<power::Reboot>>()
        .with::<power::Power<power::Reset>>()
}
