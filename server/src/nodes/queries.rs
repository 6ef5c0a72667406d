//! All SQL of `nodes` and `certificate_authority`.

mod lease;
mod staff;

use berth_model::agent::NodeFacts;
use berth_model::{ByteSize, LocationId, NodeId, Timestamp};
use sqlx::PgConnection;
use sqlx::types::Json;

pub use lease::*;
pub use staff::{list, update};

/// A node of a location, and what it has promised to the servers placed on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub id: NodeId,
    /// It answers and is healthy.
    pub up: bool,
    /// Staff let it take new servers.
    pub accepts_servers: bool,
    /// Logical processors.
    pub cores: u32,
    /// Memory installed.
    pub memory: ByteSize,
    /// Room for disks in all.
    pub storage: ByteSize,
    /// Servers placed on it.
    pub servers: i64,
    /// Virtual CPUs of these.
    pub promised_cores: i64,
    /// Memory of these.
    pub promised_memory: ByteSize,
    /// Disks of these.
    pub promised_storage: ByteSize,
}

impl Candidate {
    /// Disk that is not promised yet.
    pub fn storage_free(&self) -> ByteSize {
        ByteSize(self.storage.bytes().saturating_sub(self.promised_storage.bytes()))
    }
}

/// All nodes of a location of which it is known what they are, by number. Their room is locked until the
/// transaction ends: two placements at once would promise it twice. Not their rows: whoever keeps a node holds its
/// row while it writes of the node's servers.
pub async fn candidates(conn: &mut PgConnection, location: LocationId) -> sqlx::Result<Vec<Candidate>> {
    // Locked in a statement of its own: the sums must see what those committed who were waited for.
    let room = format!("room in location {location}");
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended($1, 0))", room).execute(&mut *conn).await?;
    let rows = sqlx::query!(
        r#"
        select nodes.id as "id: NodeId", state = 'up' as "up!", accepts_servers,
               facts as "facts!: Json<NodeFacts>", p.servers as "servers!", p.cores as "cores!",
               p.memory_mib as "memory_mib!", p.disk_gib + v.gib as "disk_gib!"
        from nodes, lateral (
            select count(*) as servers, coalesce(sum(cores), 0) as cores,
                   coalesce(sum(memory_mib), 0) as memory_mib, coalesce(sum(disk_gib), 0) as disk_gib
            from servers where node_id = nodes.id
        ) p, lateral (
            select coalesce(sum(size_gib), 0) as gib from volumes
            where node_id = nodes.id or other_node_id = nodes.id
        ) v
        where location_id = $1 and facts is not null
        order by nodes.id"#,
        location as LocationId,
    )
    .fetch_all(conn)
    .await?;
    // Sums of positive numbers.
    let positive = |n: i64| u64::try_from(n).unwrap_or_default();
    let candidate = rows.into_iter().map(|row| Candidate {
        id: row.id,
        up: row.up,
        accepts_servers: row.accepts_servers,
        cores: row.facts.cores,
        memory: row.facts.memory,
        storage: row.facts.storage,
        servers: row.servers,
        promised_cores: row.cores,
        promised_memory: ByteSize::mib(positive(row.memory_mib)),
        promised_storage: ByteSize::gib(positive(row.disk_gib)),
    });
    Ok(candidate.collect())
}

/// Does a node of the location answer and take new servers?
pub async fn any_ready(conn: &mut PgConnection, location: LocationId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from nodes where location_id = $1 and state = 'up' and accepts_servers) as "any!""#,
        location as LocationId,
    )
    .fetch_one(conn)
    .await
}

/// All nodes that have enrolled, by number.
pub async fn all_enrolled(conn: &mut PgConnection) -> sqlx::Result<Vec<NodeId>> {
    sqlx::query_scalar!(r#"select id as "id: NodeId" from nodes where address is not null order by id"#)
        .fetch_all(conn)
        .await
}

/// How to reach a node's agent.
#[derive(Debug, Clone)]
pub struct Contact {
    /// `https://host:port`.
    pub address: String,
    /// Is it known not to answer?
    pub down: bool,
}

/// How to reach a node's agent; `None` until it has enrolled.
pub async fn contact(conn: &mut PgConnection, node: NodeId) -> sqlx::Result<Option<Contact>> {
    sqlx::query_as!(
        Contact,
        r#"select address as "address!", state = 'down' as "down!"
           from nodes where id = $1 and address is not null"#,
        node as NodeId,
    )
    .fetch_optional(conn)
    .await
}

/// The CA as it is kept.
pub struct KeptAuthority {
    /// PEM.
    pub certificate_pem: String,
    /// Its key, sealed.
    pub key_sealed: Vec<u8>,
}

/// The installation's CA, once it was made.
pub async fn authority(conn: &mut PgConnection) -> sqlx::Result<Option<KeptAuthority>> {
    sqlx::query_as!(KeptAuthority, "select certificate_pem, key_sealed from certificate_authority")
        .fetch_optional(conn)
        .await
}

/// Keeps a new CA, unless another control plane was first.
pub async fn insert_authority(
    conn: &mut PgConnection,
    certificate_pem: &str,
    key_sealed: &[u8],
    now: Timestamp,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into certificate_authority (certificate_pem, key_sealed, created) values ($1, $2, $3)
         on conflict do nothing",
        certificate_pem,
        key_sealed,
        now as Timestamp,
    )
    .execute(conn)
    .await
    .map(drop)
}

/// Adds a node.
pub async fn insert(
    conn: &mut PgConnection,
    name: &str,
    location: LocationId,
    now: Timestamp,
) -> sqlx::Result<NodeId> {
    sqlx::query_scalar!(
        r#"insert into nodes (name, location_id, created) values ($1, $2, $3) returning id as "id: NodeId""#,
        name,
        location as LocationId,
        now as Timestamp,
    )
    .fetch_one(conn)
    .await
}

/// The node of this name.
pub async fn by_name(conn: &mut PgConnection, name: &str) -> sqlx::Result<Option<NodeId>> {
    sqlx::query_scalar!(r#"select id as "id: NodeId" from nodes where name = $1"#, name)
        .fetch_optional(conn)
        .await
}

/// Notes the only token with which the node's agent may enrol.
pub async fn set_token(
    conn: &mut PgConnection,
    node: NodeId,
    hash: &[u8; 32],
    expires: Timestamp,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update nodes set enrol_token_hash = $2, enrol_expires = $3 where id = $1",
        node as NodeId,
        &hash[..],
        expires as Timestamp,
    )
    .execute(conn)
    .await
    .map(drop)
}

/// An enrolment that is waited for.
pub struct PendingEnrolment {
    /// SHA-256 of the token's secret.
    pub token_hash: Vec<u8>,
    /// Until when it may be used.
    pub expires: Timestamp,
}

/// The enrolment that is waited for, if one is; locked, so that a token is used once.
pub async fn pending_enrolment(
    conn: &mut PgConnection,
    node: NodeId,
) -> sqlx::Result<Option<PendingEnrolment>> {
    sqlx::query_as!(
        PendingEnrolment,
        r#"select enrol_token_hash as "token_hash!", enrol_expires as "expires!: Timestamp"
           from nodes where id = $1 and enrol_token_hash is not null for no key update"#,
        node as NodeId,
    )
    .fetch_optional(conn)
    .await
}

/// Notes that a node has enrolled, and uses its token up.
pub async fn enrolled(
    conn: &mut PgConnection,
    node: NodeId,
    address: &str,
    certificate_expires: Timestamp,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update nodes set address = $2, certificate_expires = $3, enrol_token_hash = null,
            enrol_expires = null where id = $1",
        node as NodeId,
        address,
        certificate_expires as Timestamp,
    )
    .execute(conn)
    .await
    .map(drop)
}
