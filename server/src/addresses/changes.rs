//! `assign_primary_ip`, `unassign_primary_ip`: a server that is off gets a primary IP, or loses it. Nobody else gets
//! one that a server loses before the server's node has lost it: the action holds both.

use berth_model::action::{Action, ResourceKind};
use berth_model::address::IpFamily;
use berth_model::{ErrorCode, ProjectId, ServerId, Timestamp};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::PublicIpId;
use super::jobs::releasing::LeavingIp;
use super::queries::{self, HeldIp};
use crate::http::{ApiResult, Problem};
use crate::servers::change::{self, Change};
use crate::servers::jobs::losing;
use crate::servers::queries::Held;

/// A server gets this primary IP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignPrimaryIp {
    ip: PublicIpId,
}

impl Change for AssignPrimaryIp {
    const COMMAND: &'static str = "assign_primary_ip";
    const TITLES: &'static [&'static str] = &["Give the server the address"];

    async fn done(&self, conn: &mut PgConnection, _: ServerId, _: Timestamp) -> sqlx::Result<()> {
        queries::lock(conn, self.ip, None).await
    }

    /// The machine may have it all the same: it stays held until that has lost it.
    async fn revert(&self, conn: &mut PgConnection, server: ServerId, now: Timestamp) -> sqlx::Result<()> {
        queries::set_server(conn, self.ip, None, Some(server)).await?;
        losing::free_once_lost(conn, server, LeavingIp::new(self.ip), now).await
    }
}

/// A server loses this primary IP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnassignPrimaryIp {
    ip: PublicIpId,
}

impl Change for UnassignPrimaryIp {
    const COMMAND: &'static str = "unassign_primary_ip";
    const TITLES: &'static [&'static str] = &["Take the address from the server"];

    async fn done(&self, conn: &mut PgConnection, _: ServerId, _: Timestamp) -> sqlx::Result<()> {
        queries::lock(conn, self.ip, None).await
    }

    async fn revert(&self, conn: &mut PgConnection, server: ServerId, _: Timestamp) -> sqlx::Result<()> {
        queries::set_server(conn, self.ip, Some(server), None).await?;
        queries::lock(conn, self.ip, None).await
    }
}

/// Gives the server a primary IP that no server has. Both are held.
///
/// # Errors
/// `server_not_stopped`; `primary_ip_already_assigned`; `server_has_ipv4` or `server_has_ipv6` when it has another of
/// this family; `invalid_input` when it is in another location.
pub async fn assign(
    conn: &mut PgConnection,
    project: ProjectId,
    server: &Held,
    ip: &HeldIp,
) -> ApiResult<Action> {
    change::refuse_unless_off(server)?;
    if ip.server.is_some() {
        let message = "A server has this primary IP already. Unassign it first.";
        return Err(Problem::new(ErrorCode::PrimaryIpAlreadyAssigned, message));
    }
    super::http::refuse_elsewhere(conn, server.id, ip).await?;
    if queries::has_primary(conn, server.id, ip.family).await? {
        let code = match ip.family {
            IpFamily::Ipv4 => ErrorCode::ServerHasIpv4,
            IpFamily::Ipv6 => ErrorCode::ServerHasIpv6,
        };
        let noun = ip.family.noun();
        let message = format!("The server has another {noun} primary IP. Unassign that first.");
        return Err(Problem::new(code, message));
    }
    queries::set_server(conn, ip.id, Some(server.id), None).await?;
    let beside = [(ResourceKind::PrimaryIp, ip.id.0)];
    let action = change::begin(conn, project, server, &beside, AssignPrimaryIp { ip: ip.id }).await?;
    queries::lock(conn, ip.id, Some(action.id)).await?;
    Ok(action)
}

/// Takes a primary IP from the server that has it. Both are held.
///
/// # Errors
/// `server_not_stopped`.
pub async fn unassign(
    conn: &mut PgConnection,
    project: ProjectId,
    server: &Held,
    ip: &HeldIp,
) -> ApiResult<Action> {
    change::refuse_unless_off(server)?;
    queries::set_server(conn, ip.id, None, None).await?;
    let beside = [(ResourceKind::PrimaryIp, ip.id.0)];
    let action = change::begin(conn, project, server, &beside, UnassignPrimaryIp { ip: ip.id }).await?;
    queries::lock(conn, ip.id, Some(action.id)).await?;
    Ok(action)
}
