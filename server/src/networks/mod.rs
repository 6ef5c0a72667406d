//! Private networks between servers of a project.
//!
//! Words. A server in a network is a *member*: it has a card there, with an address of one of the network's *subnets*
//! and perhaps *aliases*. A member, or an address, that is *leaving* is kept until the server's node has lost it. On the
//! nodes a network has another number, its VXLAN network identifier (`vni`).
//!
//! ```text
//!   attach ─▶ member, addresses ─▶ network put on the server's node ─▶ card plugged in ─▶ done
//!   detach ─▶ leaving ──────────▶ card taken out ─▶ member and addresses gone
//!
//!   members by node change ─▶ revision + 1 ─▶ every node that has members is told of all others (jobs)
//! ```
//!
//! Invariants. An address belongs to one server at most, a VNI to one network, a MAC address to one card
//! (constraints). Whoever changes members, subnets or the range of a network holds its row; a server's row is locked
//! before it. The ranges of a server's networks lie beside each other. A node keeps its part of a network until the
//! network is deleted: then all its servers are leaving, and when the last has left it is removed everywhere, and only
//! after that the row.

pub mod changes;
pub mod http;
pub mod jobs;
pub mod queries;
pub mod rules;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::anyhow;
use berth_model::agent::function::network;
use berth_model::agent::{Nic, NicAddress, NicRoute, Peer, PrivateNetwork};
use berth_model::network::AttachToNetwork;
use berth_model::{ErrorCode, FieldError, NetworkId, NodeId, ProjectId, ServerId, Timestamp};
use ipnet::IpNet;
use sqlx::PgConnection;

pub use http::router;

use crate::agents::AgentAddress;
use crate::http::{ApiResult, Problem};
use crate::jobs::StepError;
use crate::servers::rules::{fault, just_gone};
use crate::{World, entropy, nodes};
use queries::Held;
use rules::NoAddress;

/// Draws of a MAC address before we give up. Of 16 million few are taken, so one is nearly always enough.
const MAC_DRAWS_MAX: usize = 16;

/// The cards of a server in private networks, by network. What routes lead to the server may come from it, and it is
/// told of the others; of the way to everywhere only when it has no other (`has_way_out`).
///
/// # Errors
/// When the database fails.
pub async fn of_machine(
    conn: &mut PgConnection,
    server: ServerId,
    has_way_out: bool,
) -> sqlx::Result<Vec<Nic>> {
    let mut nics = Vec::new();
    for card in queries::cards(conn, server).await? {
        let routes = queries::routes(conn, card.network).await?;
        let is_own = |via: &Ipv4Addr| *via == card.ip || card.aliases.contains(via);
        let (own, others): (Vec<_>, Vec<_>) = routes.into_iter().partition(|(_, via)| is_own(via));
        let behind = own.into_iter().flat_map(|(to, _)| rules::halves_of_everything(to)).map(IpNet::V4);
        let told = others.into_iter().filter(|(to, _)| to.prefix_len() > 0 || !has_way_out);
        nics.push(Nic {
            mac: card.mac,
            addresses: vec![NicAddress {
                ip: card.ip.into(),
                prefix: card.range.prefix_len(),
                gateway: None,
            }],
            networks: card
                .aliases
                .into_iter()
                .map(|ip| IpNet::from(IpAddr::from(ip)))
                .chain(behind)
                .collect(),
            routes: told.map(|(to, via)| NicRoute { to, via }).collect(),
            private: Some(card.vni),
            ..Nic::default()
        });
    }
    Ok(nics)
}

/// The networks that an order names, each once, and what is wrong with them.
///
/// # Errors
/// When the database fails.
pub async fn named(
    conn: &mut PgConnection,
    project: ProjectId,
    named: &[NetworkId],
    faults: &mut Vec<FieldError>,
) -> sqlx::Result<Vec<NetworkId>> {
    let mut found = Vec::new();
    for (at, id) in named.iter().enumerate() {
        if queries::exists(conn, project, *id).await? {
            found.push(*id);
        } else {
            faults
                .push(fault(format!("networks[{at}]"), format!("There is no network {id} in this project.")));
        }
    }
    found.sort_unstable();
    found.dedup();
    if found.len() > rules::OF_SERVER_MAX {
        faults.push(fault("networks", too_many()));
    }
    Ok(found)
}

fn too_many() -> String {
    format!("A server is in at most {} networks.", rules::OF_SERVER_MAX)
}

/// Makes a server that was just written a member of the networks that its order names.
///
/// # Errors
/// `conflict` when one was just deleted; others as [`join`].
pub async fn join_ordered(
    conn: &mut PgConnection,
    project: ProjectId,
    server: ServerId,
    networks: &[NetworkId],
) -> ApiResult<()> {
    for id in networks {
        let network = queries::hold(conn, project, *id).await?.ok_or_else(|| just_gone("network"))?;
        let asked = AttachToNetwork { network: *id, ip: None, alias_ips: Vec::new(), ip_range: None };
        join(conn, &network, server, &asked).await?;
    }
    Ok(())
}

/// Makes a server a member of a network that is held: a card, an address, aliases.
///
/// # Errors
/// `server_already_attached`, `no_subnet_available`, `ip_not_available`, `resource_limit_exceeded`; `networks_overlap`
/// when the server is in another network with the same addresses; `conflict` while it is leaving this one;
/// `invalid_input` for an address that no server can have.
async fn join(
    conn: &mut PgConnection,
    network: &Held,
    server: ServerId,
    asked: &AttachToNetwork,
) -> ApiResult<()> {
    let mut cards = queries::all_cards(conn, server).await?;
    match cards.iter().find(|card| card.network == network.id) {
        Some(card) if card.leaving => {
            let message = "The server is just leaving this network. Try again when it has.";
            return Err(Problem::new(ErrorCode::Conflict, message));
        }
        Some(_) => {
            let message = "The server is in this network already.";
            return Err(Problem::new(ErrorCode::ServerAlreadyAttached, message));
        }
        None => cards.retain(|card| !card.leaving),
    }
    if let Some(card) = cards.iter().find(|card| rules::overlap(&card.range, &network.shape.range)) {
        let message = format!("The server is in another network with the range {}.", card.range);
        return Err(Problem::new(ErrorCode::NetworksOverlap, message));
    }
    if cards.len() >= rules::OF_SERVER_MAX {
        return Err(Problem::new(ErrorCode::ResourceLimitExceeded, too_many()));
    }
    if queries::servers_in(conn, network.id).await?.len() >= rules::MEMBERS_MAX {
        let message = format!("A network has at most {} servers.", rules::MEMBERS_MAX);
        return Err(Problem::new(ErrorCode::ResourceLimitExceeded, message));
    }
    let zone = crate::servers::queries::network_zone(conn, server).await?;
    let mut taken = queries::taken(conn, network.id).await?;
    let within = (asked.ip, asked.ip_range.as_deref());
    let ip =
        rules::address(&network.shape, &zone, within, &taken).map_err(|why| refused(why, "ip", &zone))?;
    taken.insert(ip);
    add_member(conn, network.id, server).await?;
    queries::add_address(conn, network.id, server, ip, false).await?;
    add_aliases(conn, network, (server, &zone), &asked.alias_ips, taken).await
}

/// Gives a member further addresses; none of them is `taken`.
async fn add_aliases(
    conn: &mut PgConnection,
    network: &Held,
    (server, zone): (ServerId, &str),
    asked: &[Ipv4Addr],
    mut taken: BTreeSet<Ipv4Addr>,
) -> ApiResult<()> {
    if asked.len() > rules::ALIASES_MAX {
        let message = format!("A server has at most {} alias addresses in a network.", rules::ALIASES_MAX);
        return Err(Problem::field("alias_ips", message));
    }
    for (at, ip) in asked.iter().enumerate() {
        let given = rules::address(&network.shape, zone, (Some(*ip), None), &taken);
        let ip = given.map_err(|why| refused(why, &format!("alias_ips[{at}]"), zone))?;
        taken.insert(ip);
        queries::add_address(conn, network.id, server, ip, true).await?;
    }
    Ok(())
}

fn refused(why: NoAddress, field: &str, zone: &str) -> Problem {
    match why {
        NoAddress::NoSubnet => {
            let message = format!("The network has no such subnet in the server's network zone, {zone}.");
            Problem::new(ErrorCode::NoSubnetAvailable, message)
        }
        NoAddress::Unusable => {
            Problem::field(field, "No server can have this address: it is in no subnet, or reserved.")
        }
        NoAddress::Taken => Problem::new(ErrorCode::IpNotAvailable, "This address is taken, or all are."),
    }
}

async fn add_member(conn: &mut PgConnection, network: NetworkId, server: ServerId) -> ApiResult<()> {
    for _ in 0..MAC_DRAWS_MAX {
        if queries::add_member(conn, network, server, &rules::mac(entropy::bytes())).await? {
            return Ok(());
        }
    }
    Err(Problem::internal(anyhow!("{MAC_DRAWS_MAX} MAC addresses drawn in a row are taken")))
}

/// A server's cards are, or will be, on this node: all nodes with members are told.
///
/// # Errors
/// When the database fails.
pub async fn placed(
    conn: &mut PgConnection,
    server: ServerId,
    node: NodeId,
    now: Timestamp,
) -> sqlx::Result<()> {
    for card in queries::all_cards(conn, server).await? {
        queries::add_node(conn, card.network, node).await?;
        jobs::told_anew(conn, card.network, now).await?;
    }
    Ok(())
}

/// A server is no member any more; its addresses are free. Its machine has no card there.
///
/// # Errors
/// When the database fails.
async fn left(
    conn: &mut PgConnection,
    network: NetworkId,
    server: ServerId,
    now: Timestamp,
) -> sqlx::Result<()> {
    queries::remove_member(conn, network, server).await?;
    jobs::told_anew(conn, network, now).await?;
    jobs::remove::when_left(conn, network, now).await
}

/// A server that goes is in no network any more.
///
/// # Errors
/// When the database fails.
pub async fn leave_all(conn: &mut PgConnection, server: ServerId, now: Timestamp) -> sqlx::Result<()> {
    for card in queries::all_cards(conn, server).await? {
        left(conn, card.network, server, now).await?;
    }
    Ok(())
}

/// Brings the networks of a server to the node that is to get its cards.
///
/// # Errors
/// When the node does not answer, or refuses.
pub async fn bring(world: &World, server: ServerId, node: NodeId) -> Result<(), StepError> {
    let cards = queries::cards(&mut *world.db.acquire().await?, server).await?;
    for card in cards {
        let Some(plan) = queries::plan(&mut *world.db.acquire().await?, card.network).await? else {
            continue;
        };
        put(world, &plan, node).await?;
    }
    Ok(())
}

/// Tells a node its part of a network: what the others have.
async fn put(world: &World, plan: &queries::Plan, node: NodeId) -> Result<(), StepError> {
    let local = address_of(world, node, None).await?;
    let mut peers = Vec::new();
    for (other, macs) in plan.macs.iter().filter(|(other, _)| **other != node) {
        peers.push(Peer { node: address_of(world, *other, Some(local)).await?, macs: macs.clone() });
    }
    let told = PrivateNetwork { local, peers };
    world.agents.node(node).call::<network::Put>(&plan.vni, &told).await?;
    Ok(())
}

/// A node's address towards the others, of the same family as another's.
async fn address_of(world: &World, node: NodeId, like: Option<IpAddr>) -> Result<IpAddr, StepError> {
    let contact = nodes::queries::contact(&mut *world.db.acquire().await?, node).await?;
    let contact = contact.ok_or_else(|| StepError::Retry(anyhow!("node {node} has not enrolled yet")))?;
    let address =
        AgentAddress::parse(node, &contact.address).map_err(|why| StepError::Retry(anyhow!(why)))?;
    let found = address.resolve().await.map_err(|error| StepError::Retry(error.into()))?;
    let mut found: Vec<IpAddr> = found.into_iter().map(|socket| socket.ip()).collect();
    found.sort_unstable();
    let fits = |ip: &IpAddr| like.is_none_or(|like| like.is_ipv4() == ip.is_ipv4());
    let none = || StepError::Retry(anyhow!("node {node} has no address of the family of its peers"));
    found.into_iter().find(fits).ok_or_else(none)
}
