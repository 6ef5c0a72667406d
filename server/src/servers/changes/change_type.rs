//! `change_server_type`: a server that is off gets the cores and the memory of another type, and its disk if that
//! is asked for. A disk never shrinks: a server whose disk grew cannot go back to a type with a smaller one, and
//! when the change is given up, the disk keeps its new size if it may have grown by then.

use berth_model::action::Action;
use berth_model::error::ApiError;
use berth_model::quota::QuotaKind;
use berth_model::server::ChangeTypeRequest;
use berth_model::{ErrorCode, ProjectId, ServerId, Timestamp};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::agents::AgentClient;
use crate::catalog;
use crate::config::Config;
use crate::http::{ApiResult, Problem};
use crate::jobs::StepError;
use crate::servers::change::{self, Change};
use crate::servers::jobs::LAST_LOOK;
use crate::servers::queries::{self, Held, Size};
use crate::servers::{order, rules};
use crate::{nodes, quotas};

/// The size that the server gets back if the change is given up, and the disk that it was to get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeType {
    back: Size,
    disk_gib: i32,
}

impl Change for ChangeType {
    const COMMAND: &'static str = "change_server_type";
    const TITLES: &'static [&'static str] = &["Change the machine"];

    /// Where the node does not say, the disk may have grown.
    async fn given_up(&mut self, server: ServerId, agent: &AgentClient) -> Result<(), StepError> {
        let vm = tokio::time::timeout(LAST_LOOK, agent.get_vm(server.into())).await;
        let spec = vm.ok().and_then(Result::ok).flatten().and_then(|vm| vm.spec);
        if spec.is_none_or(|spec| spec.disk > self.back.need().disk) {
            self.back.disk_gib = self.disk_gib;
        }
        Ok(())
    }

    async fn revert(&self, conn: &mut PgConnection, server: ServerId, _: Timestamp) -> sqlx::Result<()> {
        queries::set_size(conn, server, &self.back).await
    }
}

/// Gives the server its new size, and starts the action that brings its machine to it.
///
/// # Errors
/// `server_not_stopped`; `invalid_input` for a type that cannot be had; `resource_unavailable` when its node
/// has no room for it; `resource_limit_exceeded`.
pub async fn begin(
    conn: &mut PgConnection,
    config: &Config,
    (project, server): (ProjectId, &Held),
    asked: &ChangeTypeRequest,
) -> ApiResult<Action> {
    change::refuse_unless_off(server)?;
    let before = queries::size(conn, server.id).await?;
    let wish = queries::wish(conn, server.id).await?;
    let (Some(before), Some(wish)) = (before, wish) else { return Err(Problem::not_found("server")) };
    let wrong = |message: String| Err(ApiError::field("server_type", message).into());
    let Some(shape) = catalog::queries::shape(conn, &asked.server_type).await? else {
        return wrong(format!("There is no server type {}.", order::quote(&asked.server_type)));
    };
    if shape.id == before.server_type {
        return wrong(format!("The server has the type {} already.", shape.name));
    }
    if shape.deprecated || !shape.offered.contains(&wish.location.0) {
        return wrong(format!("The server type {} is not offered where the server stands.", shape.name));
    }
    if shape.disk_gib < before.disk_gib {
        let (name, has, gets) = (&shape.name, before.disk_gib, shape.disk_gib);
        return wrong(format!("The server's disk has {has} GB and cannot shrink; {name} has {gets}."));
    }
    let after = Size {
        server_type: shape.id,
        cores: shape.cores,
        memory_mib: shape.memory_mib,
        disk_gib: if asked.upgrade_disk { shape.disk_gib } else { before.disk_gib },
    };
    let nodes = nodes::queries::candidates(conn, wish.location).await?;
    let node = nodes.iter().find(|node| Some(node.id) == server.node);
    if !node.is_some_and(|node| rules::has_room(node, before.need(), after.need())) {
        let message =
            "The server's node has no room for this type now. Choose a smaller one, or try again later.";
        return Err(Problem::new(ErrorCode::ResourceUnavailable, message));
    }
    queries::set_size(conn, server.id, &after).await?;
    let change = ChangeType { back: before, disk_gib: after.disk_gib };
    let action = change::begin(conn, project, server, &[], change).await?;
    if after.cores > before.cores || after.memory_mib > before.memory_mib {
        quotas::check(conn, config, project, &[QuotaKind::Cores, QuotaKind::MemoryMib]).await?;
    }
    Ok(action)
}
