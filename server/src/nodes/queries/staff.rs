//! Nodes as staff see them.

use berth_model::agent::NodeFacts;
use berth_model::node::{Node, NodeState, NodeUpdate, Promised};
use berth_model::{ByteSize, LocationId, NodeId, Timestamp};
use sqlx::PgConnection;
use sqlx::types::Json;

struct Row {
    id: NodeId,
    name: String,
    location: LocationId,
    address: Option<String>,
    state: NodeState,
    faults: Json<Vec<String>>,
    accepts_servers: bool,
    facts: Option<Json<NodeFacts>>,
    servers: i64,
    cores: i64,
    memory_mib: i64,
    disk_gib: i64,
    last_seen: Option<Timestamp>,
    certificate_expires: Option<Timestamp>,
    created: Timestamp,
}

impl From<Row> for Node {
    fn from(row: Row) -> Self {
        // Counts and sums of positive numbers.
        let positive = |n: i64| u64::try_from(n).unwrap_or_default();
        Self {
            id: row.id,
            name: row.name,
            location: row.location,
            address: row.address,
            state: row.state,
            faults: row.faults.0,
            accepts_servers: row.accepts_servers,
            facts: row.facts.map(|facts| facts.0),
            promised: Promised {
                servers: positive(row.servers),
                cores: positive(row.cores),
                memory: ByteSize::mib(positive(row.memory_mib)),
                storage: ByteSize::gib(positive(row.disk_gib)),
            },
            last_seen: row.last_seen,
            certificate_expires: row.certificate_expires,
            created: row.created,
        }
    }
}

/// A page of all nodes, by number, and how many there are.
pub async fn list(conn: &mut PgConnection, limit: i64, offset: i64) -> sqlx::Result<(Vec<Node>, i64)> {
    let total = sqlx::query_scalar!(r#"select count(*) as "n!" from nodes"#).fetch_one(&mut *conn).await?;
    let ids = sqlx::query_scalar!("select id from nodes order by id limit $1 offset $2", limit, offset)
        .fetch_all(&mut *conn)
        .await?;
    Ok((with_ids(conn, &ids).await?, total))
}

/// Changes what the owner may change; what is left out stays. `None`: there is no such node.
pub async fn update(
    conn: &mut PgConnection,
    node: NodeId,
    update: &NodeUpdate,
) -> sqlx::Result<Option<Node>> {
    sqlx::query!(
        "update nodes set accepts_servers = coalesce($2, accepts_servers) where id = $1",
        node as NodeId,
        update.accepts_servers,
    )
    .execute(&mut *conn)
    .await?;
    Ok(with_ids(conn, &[node.0]).await?.pop())
}

async fn with_ids(conn: &mut PgConnection, ids: &[i64]) -> sqlx::Result<Vec<Node>> {
    let rows = sqlx::query_as!(
        Row,
        r#"
        select nodes.id as "id: NodeId", name, location_id as "location: LocationId", address,
               state as "state: NodeState", faults as "faults: Json<Vec<String>>", accepts_servers,
               facts as "facts: Json<NodeFacts>", p.servers as "servers!", p.cores as "cores!",
               p.memory_mib as "memory_mib!", p.disk_gib as "disk_gib!",
               last_seen as "last_seen: Timestamp",
               certificate_expires as "certificate_expires: Timestamp", created as "created: Timestamp"
        from nodes, lateral (
            select count(*) as servers, coalesce(sum(cores), 0) as cores,
                   coalesce(sum(memory_mib), 0) as memory_mib, coalesce(sum(disk_gib), 0) as disk_gib
            from servers where node_id = nodes.id
        ) p
        where nodes.id = any($1)
        order by nodes.id"#,
        ids,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(Node::from).collect())
}
