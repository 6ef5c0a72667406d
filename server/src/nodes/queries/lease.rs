//! Who keeps which node's stream, and what it notes of the node. Leases run by the database's
//! clock: control planes need not agree on the time.

use berth_model::agent::NodeFacts;
use berth_model::node::NodeState;
use berth_model::{NodeId, Timestamp};
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

/// A node's stream, ours to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Which node.
    pub node: NodeId,
    /// Where its agent is.
    pub address: String,
    /// Grows with each lease; what is written under an older one is refused.
    pub fence: i64,
}

/// Says that a control plane is alive, and renews its leases. Those it still holds.
pub async fn renew(conn: &mut PgConnection, owner: Uuid, lease_s: f64) -> sqlx::Result<Vec<Lease>> {
    sqlx::query!(
        "with gone as (delete from control_planes where alive_until < now() - interval '1 hour')
         insert into control_planes (id, alive_until) values ($1, now() + make_interval(secs => $2))
         on conflict (id) do update set alive_until = excluded.alive_until",
        owner,
        lease_s,
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query_as!(
        Lease,
        r#"update nodes set lease_until = now() + make_interval(secs => $2)
           where id in (
               select id from nodes where lease_owner = $1 and lease_until > now() and address is not null
               order by id for no key update)
           returning id as "node: NodeId", address as "address!", lease_fence as fence"#,
        owner,
        lease_s,
    )
    .fetch_all(conn)
    .await
}

/// How many nodes have enrolled, and how many control planes are alive to share them.
pub async fn shared(conn: &mut PgConnection) -> sqlx::Result<(u64, u64)> {
    let row = sqlx::query!(
        r#"select (select count(*) from nodes where address is not null) as "nodes!",
                  (select count(*) from control_planes where alive_until > now()) as "planes!""#
    )
    .fetch_one(conn)
    .await?;
    Ok((row.nodes.unsigned_abs(), row.planes.unsigned_abs()))
}

/// Takes up to `most` nodes that nobody keeps.
pub async fn claim(
    conn: &mut PgConnection,
    owner: Uuid,
    most: u64,
    lease_s: f64,
) -> sqlx::Result<Vec<Lease>> {
    sqlx::query_as!(
        Lease,
        r#"update nodes set lease_owner = $1, lease_until = now() + make_interval(secs => $3),
                  lease_fence = lease_fence + 1
           where id in (
               select id from nodes
               where address is not null and (lease_until is null or lease_until <= now())
               order by id limit $2 for no key update skip locked)
           returning id as "node: NodeId", address as "address!", lease_fence as fence"#,
        owner,
        i64::try_from(most).unwrap_or(i64::MAX),
        lease_s,
    )
    .fetch_all(conn)
    .await
}

/// Gives nodes back.
pub async fn release(conn: &mut PgConnection, owner: Uuid, nodes: &[NodeId]) -> sqlx::Result<()> {
    let nodes: Vec<i64> = nodes.iter().map(|n| n.0).collect();
    sqlx::query!(
        "update nodes set lease_owner = null, lease_until = null where lease_owner = $1 and id = any($2)",
        owner,
        &nodes,
    )
    .execute(conn)
    .await
    .map(drop)
}

/// Says that a control plane ends: the others share what it kept.
pub async fn leave(conn: &mut PgConnection, owner: Uuid) -> sqlx::Result<()> {
    sqlx::query!("update nodes set lease_owner = null, lease_until = null where lease_owner = $1", owner)
        .execute(&mut *conn)
        .await?;
    sqlx::query!("delete from control_planes where id = $1", owner).execute(conn).await.map(drop)
}

/// Is this lease still the newest? If so it stays so until the transaction ends, and the time is
/// told: one after another, whoever holds the lease hears a later one.
pub async fn hold(conn: &mut PgConnection, owner: Uuid, lease: &Lease) -> sqlx::Result<Option<Timestamp>> {
    let held = sqlx::query_scalar!(
        "select id from nodes where id = $1 and lease_owner = $2 and lease_fence = $3 for no key update",
        lease.node as NodeId,
        owner,
        lease.fence,
    );
    if held.fetch_optional(&mut *conn).await?.is_none() {
        return Ok(None);
    }
    // In a statement of its own: the one before may have waited.
    let now = sqlx::query_scalar!(r#"select clock_timestamp() as "now!: Timestamp""#);
    now.fetch_one(conn).await.map(Some)
}

/// Notes how a node is. Call it under [`hold`].
pub async fn set_state(
    conn: &mut PgConnection,
    node: NodeId,
    state: NodeState,
    faults: &[String],
    seen: Option<Timestamp>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update nodes set state = $2, faults = $3, last_seen = coalesce($4, last_seen) where id = $1",
        node as NodeId,
        state as NodeState,
        Json(faults) as _,
        seen as Option<Timestamp>,
    )
    .execute(conn)
    .await
    .map(drop)
}

/// Notes when a node's VMs that are marked for failover are off at the latest. Call it under [`hold`].
pub async fn set_fenced_by(conn: &mut PgConnection, node: NodeId, at: Timestamp) -> sqlx::Result<()> {
    sqlx::query!(
        "update nodes set fenced_by = greatest(fenced_by, $2) where id = $1",
        node as NodeId,
        at as Timestamp,
    )
    .execute(conn)
    .await
    .map(drop)
}

/// Notes that a node fences itself no more. Call it under [`hold`].
pub async fn clear_fenced_by(conn: &mut PgConnection, node: NodeId) -> sqlx::Result<()> {
    sqlx::query!("update nodes set fenced_by = null where id = $1", node as NodeId)
        .execute(conn)
        .await
        .map(drop)
}

/// Notes what a node is. Call it under [`hold`].
pub async fn set_facts(
    conn: &mut PgConnection,
    node: NodeId,
    facts: &NodeFacts,
    certificate_expires: Option<Timestamp>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update nodes set facts = $2, certificate_expires = coalesce($3, certificate_expires) where id = $1",
        node as NodeId,
        Json(facts) as _,
        certificate_expires as Option<Timestamp>,
    )
    .execute(conn)
    .await
    .map(drop)
}

/// How many nodes are in each state.
pub async fn count_by_state(conn: &mut PgConnection) -> sqlx::Result<Vec<(NodeState, i64)>> {
    let rows =
        sqlx::query!(r#"select state as "state: NodeState", count(*) as "nodes!" from nodes group by state"#);
    Ok(rows.fetch_all(conn).await?.into_iter().map(|row| (row.state, row.nodes)).collect())
}
