//! `attach_to_network`, `detach_from_network`, `change_alias_ips`: a server's card in a network.

use std::net::Ipv4Addr;

use berth_model::network::{AttachToNetwork, ChangeAliasIps, DetachFromNetwork};
use berth_model::{ErrorCode, NetworkId, NodeId, ProjectId, ServerId, Timestamp};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::jobs::leaving::{LeavingAliases, LeavingMember};
use super::queries::{self, Held};
use super::{jobs, rules};
use crate::World;
use crate::http::{ApiResult, Problem};
use crate::jobs::StepError;
use crate::servers;
use crate::servers::change::Change;
use crate::servers::jobs::losing;

/// A server gets a card in this network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    network: NetworkId,
}

impl Change for Attach {
    const COMMAND: &'static str = "attach_to_network";
    const TITLES: &'static [&'static str] = &["Bring the network to the node", "Plug the card in"];

    async fn prepare(&mut self, server: ServerId, node: NodeId, world: &World) -> Result<(), StepError> {
        super::bring(world, server, node).await
    }

    /// What the node was told on the way may be older than what the others know: all hear it again.
    async fn done(&self, conn: &mut PgConnection, _: ServerId, now: Timestamp) -> sqlx::Result<()> {
        jobs::told_anew(conn, self.network, now).await
    }

    /// The machine may have the card all the same: its addresses are kept until it has lost that.
    async fn revert(&self, conn: &mut PgConnection, server: ServerId, now: Timestamp) -> sqlx::Result<()> {
        queries::set_leaving(conn, self.network, server, true).await?;
        losing::free_once_lost(conn, server, LeavingMember::new(self.network), now).await
    }
}

/// A server loses its card in this network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detach {
    network: NetworkId,
}

impl Change for Detach {
    const COMMAND: &'static str = "detach_from_network";
    const TITLES: &'static [&'static str] = &["Take the card out"];

    async fn done(&self, conn: &mut PgConnection, server: ServerId, now: Timestamp) -> sqlx::Result<()> {
        super::left(conn, self.network, server, now).await
    }

    async fn revert(&self, conn: &mut PgConnection, server: ServerId, _: Timestamp) -> sqlx::Result<()> {
        queries::set_leaving(conn, self.network, server, false).await
    }
}

/// A server's alias addresses in this network become others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aliases {
    network: NetworkId,
    /// Those that it gets.
    added: Vec<Ipv4Addr>,
    /// Those that it loses.
    removed: Vec<Ipv4Addr>,
}

impl Change for Aliases {
    const COMMAND: &'static str = "change_alias_ips";
    const TITLES: &'static [&'static str] = &["Change the alias addresses"];

    async fn done(&self, conn: &mut PgConnection, server: ServerId, _: Timestamp) -> sqlx::Result<()> {
        queries::remove_leaving(conn, self.network, server, &self.removed).await
    }

    /// The machine may have the new ones all the same: nobody else gets them until it has lost them.
    async fn revert(&self, conn: &mut PgConnection, server: ServerId, now: Timestamp) -> sqlx::Result<()> {
        queries::let_leave(conn, self.network, server, &self.removed, false).await?;
        queries::let_leave(conn, self.network, server, &self.added, true).await?;
        let added = LeavingAliases::new(self.network, self.added.clone());
        losing::free_once_lost(conn, server, added, now).await
    }
}

async fn hold(conn: &mut PgConnection, project: ProjectId, id: NetworkId) -> ApiResult<Held> {
    let held = queries::hold(conn, project, id).await?;
    held.ok_or_else(|| Problem::field("network", "There is no such network."))
}

fn refuse_stranger(is_member: bool) -> ApiResult<()> {
    if is_member {
        return Ok(());
    }
    Err(Problem::new(ErrorCode::ServerNotAttachedToNetwork, "The server is not in this network."))
}

/// Makes a server that is held a member of a network, in the rows.
///
/// # Errors
/// As [`super::join`].
pub async fn attach(
    conn: &mut PgConnection,
    project: ProjectId,
    (server, node): (&servers::queries::Held, NodeId),
    asked: &AttachToNetwork,
    now: Timestamp,
) -> ApiResult<Attach> {
    let network = hold(conn, project, asked.network).await?;
    super::join(conn, &network, server.id, asked).await?;
    queries::add_node(conn, network.id, node).await?;
    jobs::told_anew(conn, network.id, now).await?;
    Ok(Attach { network: network.id })
}

/// Lets a server that is held leave a network, in the rows.
///
/// # Errors
/// `server_not_attached_to_network` unless it is a member.
pub async fn detach(
    conn: &mut PgConnection,
    project: ProjectId,
    server: &servers::queries::Held,
    asked: &DetachFromNetwork,
) -> ApiResult<Detach> {
    let network = hold(conn, project, asked.network).await?;
    refuse_stranger(queries::is_member(conn, network.id, server.id).await?)?;
    queries::set_leaving(conn, network.id, server.id, true).await?;
    Ok(Detach { network: network.id })
}

/// Gives a server that is held other alias addresses, in the rows.
///
/// # Errors
/// `server_not_attached_to_network` unless it is a member; `ip_not_available`, `invalid_input`.
pub async fn change_aliases(
    conn: &mut PgConnection,
    project: ProjectId,
    server: &servers::queries::Held,
    asked: &ChangeAliasIps,
) -> ApiResult<Aliases> {
    if asked.alias_ips.len() > rules::ALIASES_MAX {
        let message = format!("A server has at most {} alias addresses in a network.", rules::ALIASES_MAX);
        return Err(Problem::field("alias_ips", message));
    }
    let network = hold(conn, project, asked.network).await?;
    let cards = queries::cards(conn, server.id).await?;
    let card = cards.into_iter().find(|card| card.network == network.id);
    refuse_stranger(card.is_some())?;
    let before = card.map(|card| card.aliases).unwrap_or_default();
    let added: Vec<Ipv4Addr> = asked.alias_ips.iter().copied().filter(|ip| !before.contains(ip)).collect();
    let removed: Vec<Ipv4Addr> = before.into_iter().filter(|ip| !asked.alias_ips.contains(ip)).collect();
    queries::let_leave(conn, network.id, server.id, &removed, true).await?;
    let (zone, taken) =
        (servers::queries::network_zone(conn, server.id).await?, queries::taken(conn, network.id).await?);
    super::add_aliases(conn, &network, (server.id, &zone), &added, taken).await?;
    Ok(Aliases { network: network.id, added, removed })
}
