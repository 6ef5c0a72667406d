//! All SQL of `networks` and the tables beside it.

mod members;
mod select;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use berth_model::label::Labels;
use berth_model::{ActionId, NetworkId, NodeId, PrivateNetworkId, ProjectId, ServerId, Timestamp};
use ipnet::Ipv4Net;
use serde_json::Value;
use sqlx::PgConnection;

pub use members::*;
pub use select::{get, list};

use super::rules::Shape;
use crate::labels;

fn read<T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>>(text: &str) -> sqlx::Result<T> {
    text.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

/// Writes a new network.
///
/// # Errors
/// When the database fails; the constraint `networks_name_key` when the name is taken, `networks_vni_key` when all
/// numbers are.
pub async fn insert(
    conn: &mut PgConnection,
    project: ProjectId,
    (name, marks, shape): (&str, &Labels, &Shape),
    now: Timestamp,
) -> sqlx::Result<NetworkId> {
    let id = sqlx::query_scalar!(
        r#"insert into networks (project_id, name, labels, ip_range, created)
           values ($1, $2, $3, $4::text::cidr, $5) returning id as "id: NetworkId""#,
        project.0,
        name,
        labels::to_json(marks),
        shape.range.to_string(),
        now as Timestamp
    )
    .fetch_one(&mut *conn)
    .await?;
    for (range, zone) in &shape.subnets {
        add_subnet(conn, id, *range, zone).await?;
    }
    for (to, via) in &shape.routes {
        add_route(conn, id, *to, *via).await?;
    }
    Ok(id)
}

/// What a handler must know of a network before it changes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its number.
    pub id: NetworkId,
    /// Its range, subnets and routes.
    pub shape: Shape,
    /// It cannot be deleted.
    pub protect_delete: bool,
}

/// A network of the project, its row locked until the transaction ends.
///
/// # Errors
/// When the database fails.
pub async fn hold(conn: &mut PgConnection, project: ProjectId, id: NetworkId) -> sqlx::Result<Option<Held>> {
    let row = sqlx::query!(
        r#"select ip_range::text as "range!", protect_delete from networks
           where project_id = $1 and id = $2 and not gone for no key update"#,
        project.0,
        id.0
    );
    let Some(row) = row.fetch_optional(&mut *conn).await? else { return Ok(None) };
    let subnets = sqlx::query!(
        r#"select ip_range::text as "range!", network_zone from network_subnets
           where network_id = $1 order by network_subnets.ip_range"#,
        id.0
    );
    let subnets = subnets.fetch_all(&mut *conn).await?;
    let subnets = subnets.into_iter().map(|row| Ok((read(&row.range)?, row.network_zone)));
    let shape = Shape {
        range: read(&row.range)?,
        subnets: subnets.collect::<sqlx::Result<_>>()?,
        routes: routes(conn, id).await?,
    };
    Ok(Some(Held { id, shape, protect_delete: row.protect_delete }))
}

/// The routes of a network, by what they lead to.
///
/// # Errors
/// When the database fails.
pub async fn routes(conn: &mut PgConnection, id: NetworkId) -> sqlx::Result<Vec<(Ipv4Net, Ipv4Addr)>> {
    let rows = sqlx::query!(
        r#"select destination::text as "to!", host(gateway) as "via!" from network_routes
           where network_id = $1 order by network_routes.destination"#,
        id.0
    );
    rows.fetch_all(conn).await?.into_iter().map(|row| Ok((read(&row.to)?, read(&row.via)?))).collect()
}

/// Has the project a network of this number?
///
/// # Errors
/// When the database fails.
pub async fn exists(conn: &mut PgConnection, project: ProjectId, id: NetworkId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from networks where project_id = $1 and id = $2 and not gone) as "exists!""#,
        project.0,
        id.0
    )
    .fetch_one(conn)
    .await
}

/// Changes name, labels and protection; what is `None` stays.
///
/// # Errors
/// When the database fails; the constraint `networks_name_key` when the name is taken.
pub async fn update(
    conn: &mut PgConnection,
    id: NetworkId,
    (name, marks, protect_delete): (Option<&str>, Option<&Labels>, Option<bool>),
) -> sqlx::Result<()> {
    let marks: Option<Value> = marks.map(labels::to_json);
    sqlx::query!(
        "update networks set name = coalesce($2, name), labels = coalesce($3, labels),
                protect_delete = coalesce($4, protect_delete) where id = $1",
        id.0,
        name,
        marks,
        protect_delete
    )
    .execute(conn)
    .await
    .map(drop)
}

/// Gives a network another range.
///
/// # Errors
/// When the database fails.
pub async fn set_range(conn: &mut PgConnection, id: NetworkId, range: Ipv4Net) -> sqlx::Result<()> {
    sqlx::query!("update networks set ip_range = $2::text::cidr where id = $1", id.0, range.to_string())
        .execute(conn)
        .await
        .map(drop)
}

/// Adds a subnet.
///
/// # Errors
/// When the database fails.
pub async fn add_subnet(
    conn: &mut PgConnection,
    id: NetworkId,
    range: Ipv4Net,
    zone: &str,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into network_subnets (network_id, ip_range, network_zone) values ($1, $2::text::cidr, $3)",
        id.0,
        range.to_string(),
        zone
    )
    .execute(conn)
    .await
    .map(drop)
}

/// Removes a subnet.
///
/// # Errors
/// When the database fails.
pub async fn remove_subnet(conn: &mut PgConnection, id: NetworkId, range: Ipv4Net) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from network_subnets where network_id = $1 and ip_range = $2::text::cidr",
        id.0,
        range.to_string()
    )
    .execute(conn)
    .await
    .map(drop)
}

/// Adds a route.
///
/// # Errors
/// When the database fails.
pub async fn add_route(
    conn: &mut PgConnection,
    id: NetworkId,
    to: Ipv4Net,
    via: Ipv4Addr,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into network_routes (network_id, destination, gateway) values ($1, $2::text::cidr, $3::text::inet)",
        id.0,
        to.to_string(),
        via.to_string()
    )
    .execute(conn)
    .await
    .map(drop)
}

/// Removes a route.
///
/// # Errors
/// When the database fails.
pub async fn remove_route(conn: &mut PgConnection, id: NetworkId, to: Ipv4Net) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from network_routes where network_id = $1 and destination = $2::text::cidr",
        id.0,
        to.to_string()
    )
    .execute(conn)
    .await
    .map(drop)
}

/// Something of which nodes are told has changed: what they were told is no longer all.
///
/// # Errors
/// When the database fails.
pub async fn touch(conn: &mut PgConnection, id: NetworkId) -> sqlx::Result<()> {
    sqlx::query!("update networks set revision = revision + 1 where id = $1", id.0)
        .execute(conn)
        .await
        .map(drop)
}

/// All nodes were told what the network was at `revision`. Is that all there is to tell? `None` when it is gone.
/// What was told of an older revision may have been heard after what was told of a newer one.
///
/// # Errors
/// When the database fails.
pub async fn set_told(conn: &mut PgConnection, id: NetworkId, revision: i64) -> sqlx::Result<Option<bool>> {
    sqlx::query_scalar!(
        r#"update networks set revision_told = case when $2 < revision then least($2, revision_told) else $2 end
           where id = $1 returning revision = $2 as "all!""#,
        id.0,
        revision
    )
    .fetch_optional(conn)
    .await
}

/// The customer deleted a network: nobody sees it any more, all its servers are leaving it, and the action ends when
/// nothing of it is left.
///
/// # Errors
/// When the database fails.
pub async fn set_gone(conn: &mut PgConnection, id: NetworkId, action: ActionId) -> sqlx::Result<()> {
    sqlx::query!("update networks set gone = true, removed_by = $2 where id = $1", id.0, action.0)
        .execute(&mut *conn)
        .await?;
    sqlx::query!("update network_members set leaving = true where network_id = $1", id.0)
        .execute(conn)
        .await
        .map(drop)
}

/// The action that deletes a network in which no server is any more.
///
/// # Errors
/// When the database fails.
pub async fn removed_by(conn: &mut PgConnection, id: NetworkId) -> sqlx::Result<Option<ActionId>> {
    let action = sqlx::query_scalar!(
        r#"select removed_by as "action: ActionId" from networks
           where id = $1 and not exists (select from network_members where network_id = $1)"#,
        id.0
    );
    Ok(action.fetch_optional(conn).await?.flatten())
}

/// Is anything of the network left, though the customer may have deleted it?
///
/// # Errors
/// When the database fails.
pub async fn is_there(conn: &mut PgConnection, id: NetworkId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(r#"select exists (select from networks where id = $1) as "is!""#, id.0)
        .fetch_one(conn)
        .await
}

/// Removes the row of a network that no node has any more.
///
/// # Errors
/// When the database fails.
pub async fn delete(conn: &mut PgConnection, id: NetworkId) -> sqlx::Result<()> {
    sqlx::query!("delete from networks where id = $1 and gone", id.0).execute(conn).await.map(drop)
}

/// A node is, or will be, told of the network.
///
/// # Errors
/// When the database fails.
pub async fn add_node(conn: &mut PgConnection, id: NetworkId, node: NodeId) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into network_nodes (network_id, node_id) values ($1, $2) on conflict do nothing",
        id.0,
        node.0
    )
    .execute(conn)
    .await
    .map(drop)
}

/// What nodes are to be told of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Its number on the nodes.
    pub vni: PrivateNetworkId,
    /// Grows with every change.
    pub revision: i64,
    /// The nodes that have it.
    pub nodes: BTreeSet<NodeId>,
    /// The MAC addresses of its cards, by node.
    pub macs: BTreeMap<NodeId, Vec<String>>,
}

/// What nodes are to be told of a network; `None` when nothing of it is left.
///
/// # Errors
/// When the database fails.
pub async fn plan(conn: &mut PgConnection, id: NetworkId) -> sqlx::Result<Option<Plan>> {
    // The revision first: what changes after that is told again.
    let row = sqlx::query!("select vni, revision from networks where id = $1", id.0);
    let Some(row) = row.fetch_optional(&mut *conn).await? else { return Ok(None) };
    let nodes = sqlx::query_scalar!(
        r#"select node_id as "node: NodeId" from network_nodes where network_id = $1"#,
        id.0
    );
    let mut nodes: BTreeSet<NodeId> = nodes.fetch_all(&mut *conn).await?.into_iter().collect();
    let cards = sqlx::query!(
        r#"select server_id as "server: ServerId", mac::text as "mac!" from network_members
           where network_id = $1 order by mac"#,
        id.0
    );
    let cards = cards.fetch_all(&mut *conn).await?;
    let servers: Vec<ServerId> = cards.iter().map(|card| card.server).collect();
    let placed: BTreeMap<ServerId, NodeId> =
        crate::servers::queries::nodes_of(conn, &servers).await?.into_iter().collect();
    let mut macs: BTreeMap<NodeId, Vec<String>> = BTreeMap::new();
    for card in cards {
        if let Some(node) = placed.get(&card.server) {
            macs.entry(*node).or_default().push(card.mac);
        }
    }
    nodes.extend(macs.keys());
    Ok(Some(Plan { vni: PrivateNetworkId(row.vni.into()), revision: row.revision, nodes, macs }))
}
