//! All SQL of `volumes`.

use std::collections::HashMap;

use berth_model::agent::{FileSystem, VolumeAttachment};
use berth_model::label::Labels;
use berth_model::location::Location;
use berth_model::volume::{Volume, VolumeProtection, VolumeStatus};
use berth_model::{ActionId, ByteSize, LocationId, NodeId, ProjectId, ServerId, Timestamp, VolumeId};
use serde_json::Value;
use sqlx::{PgConnection, Postgres, QueryBuilder};

use crate::http::{Filter, Page};
use crate::{catalog, labels};

/// A volume to be written.
#[derive(Debug, Clone)]
pub struct NewVolume<'a> {
    /// Whose.
    pub project: ProjectId,
    /// Its name.
    pub name: &'a str,
    /// In GiB.
    pub size_gib: i32,
    /// That it is made with.
    pub file_system: Option<FileSystem>,
    /// Where its servers are.
    pub location: LocationId,
    /// The customer's own marks.
    pub labels: &'a Labels,
    /// When it was ordered.
    pub now: Timestamp,
}

/// Writes a new volume.
///
/// # Errors
/// When the database fails; the constraint `volumes_name_key` when the name is taken.
pub async fn insert(conn: &mut PgConnection, new: &NewVolume<'_>) -> sqlx::Result<VolumeId> {
    sqlx::query_scalar!(
        r#"insert into volumes (project_id, name, size_gib, file_system, location_id, labels, created)
           values ($1, $2, $3, $4, $5, $6, $7) returning id as "id: VolumeId""#,
        new.project.0,
        new.name,
        new.size_gib,
        new.file_system as Option<FileSystem>,
        new.location.0,
        labels::to_json(new.labels),
        new.now as Timestamp
    )
    .fetch_one(conn)
    .await
}

/// What a handler must know of a volume before it changes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldVolume {
    /// Its number.
    pub id: VolumeId,
    /// In GiB.
    pub size_gib: i32,
    /// Where its servers are.
    pub location: LocationId,
    /// Where it lies.
    pub node: Option<NodeId>,
    /// The server that has it.
    pub server: Option<ServerId>,
    /// An action holds it.
    pub locked: bool,
    /// It cannot be deleted.
    pub protect_delete: bool,
    /// Another node may have a copy of it still.
    pub has_copy: bool,
}

/// A volume of the project, its row locked until the transaction ends.
///
/// # Errors
/// When the database fails.
pub async fn hold(
    conn: &mut PgConnection,
    project: ProjectId,
    id: VolumeId,
) -> sqlx::Result<Option<HeldVolume>> {
    sqlx::query_as!(
        HeldVolume,
        r#"select id as "id: VolumeId", size_gib, location_id as "location: LocationId",
                  node_id as "node: NodeId", server_id as "server: ServerId", locked_by is not null as "locked!",
                  protect_delete, other_node_id is not null as "has_copy!"
           from volumes where project_id = $1 and id = $2 and not gone for no key update"#,
        project.0,
        id.0
    )
    .fetch_optional(conn)
    .await
}

/// The server that has the volume now, without a lock; `None` when the project has no such volume.
///
/// # Errors
/// When the database fails.
pub async fn server_of(
    conn: &mut PgConnection,
    project: ProjectId,
    id: VolumeId,
) -> sqlx::Result<Option<Option<ServerId>>> {
    sqlx::query_scalar!(
        r#"select server_id as "server: ServerId" from volumes where project_id = $1 and id = $2 and not gone"#,
        project.0,
        id.0
    )
    .fetch_optional(conn)
    .await
}

/// Has the project a volume of this number?
///
/// # Errors
/// When the database fails.
pub async fn exists(conn: &mut PgConnection, project: ProjectId, id: VolumeId) -> sqlx::Result<bool> {
    Ok(server_of(conn, project, id).await?.is_some())
}

/// Changes what the customer may change; what is `None` stays.
///
/// # Errors
/// When the database fails; the constraint `volumes_name_key` when the name is taken.
pub async fn update(
    conn: &mut PgConnection,
    id: VolumeId,
    (name, labels): (Option<&str>, Option<&Labels>),
    protect_delete: Option<bool>,
) -> sqlx::Result<()> {
    let labels: Option<Value> = labels.map(labels::to_json);
    sqlx::query!(
        "update volumes set name = coalesce($2, name), labels = coalesce($3, labels),
                protect_delete = coalesce($4, protect_delete) where id = $1",
        id.0,
        name,
        labels,
        protect_delete
    )
    .execute(conn)
    .await
    .map(drop)
}

/// From now on the action holds the volume, or none does.
///
/// # Errors
/// When the database fails.
pub async fn lock(conn: &mut PgConnection, id: VolumeId, action: Option<ActionId>) -> sqlx::Result<()> {
    sqlx::query!("update volumes set locked_by = $2 where id = $1", id.0, action.map(|action| action.0))
        .execute(conn)
        .await
        .map(drop)
}

/// Gives a volume to a server. One that was never made comes to `node`, where there is one already.
///
/// # Errors
/// When the database fails.
pub async fn give(
    conn: &mut PgConnection,
    id: VolumeId,
    (server, node): (ServerId, Option<NodeId>),
    automount: bool,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update volumes set server_id = $2, node_id = coalesce(node_id, $3), automount = $4 where id = $1",
        id.0,
        server.0,
        node.map(|node| node.0),
        automount
    )
    .execute(conn)
    .await
    .map(drop)
}

/// Sets the server that has the volume, and nothing else.
///
/// # Errors
/// When the database fails.
pub async fn set_server(conn: &mut PgConnection, id: VolumeId, server: Option<ServerId>) -> sqlx::Result<()> {
    sqlx::query!("update volumes set server_id = $2 where id = $1", id.0, server.map(|server| server.0))
        .execute(conn)
        .await
        .map(drop)
}

/// Sets where the volume lies, and which node may have a copy of it.
///
/// # Errors
/// When the database fails.
pub async fn set_places(
    conn: &mut PgConnection,
    id: VolumeId,
    lies: NodeId,
    other: Option<NodeId>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update volumes set node_id = $2, other_node_id = $3 where id = $1",
        id.0,
        lies.0,
        other.map(|node| node.0)
    )
    .execute(conn)
    .await
    .map(drop)
}

/// That node has no copy of the volume any more.
///
/// # Errors
/// When the database fails.
pub async fn copy_removed(conn: &mut PgConnection, id: VolumeId, node: NodeId) -> sqlx::Result<()> {
    sqlx::query!("update volumes set other_node_id = null where id = $1 and other_node_id = $2", id.0, node.0)
        .execute(conn)
        .await
        .map(drop)
}

/// The volume is on its node, and nothing holds it any more.
///
/// # Errors
/// When the database fails.
pub async fn attached(conn: &mut PgConnection, id: VolumeId) -> sqlx::Result<()> {
    sqlx::query!("update volumes set made = true, locked_by = null where id = $1", id.0)
        .execute(conn)
        .await
        .map(drop)
}

/// [`attached`] of all volumes of a server that was made.
///
/// # Errors
/// When the database fails.
pub async fn attached_to(conn: &mut PgConnection, server: ServerId) -> sqlx::Result<()> {
    sqlx::query!("update volumes set made = true, locked_by = null where server_id = $1", server.0)
        .execute(conn)
        .await
        .map(drop)
}

/// The volumes of a server that is placed on this node come there, those that lie nowhere yet.
///
/// # Errors
/// When the database fails.
pub async fn place(conn: &mut PgConnection, server: ServerId, node: NodeId) -> sqlx::Result<()> {
    sqlx::query!("update volumes set node_id = $2 where server_id = $1 and node_id is null", server.0, node.0)
        .execute(conn)
        .await
        .map(drop)
}

/// What a server's volumes mean for its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bond {
    /// The node where some of them lie.
    pub node: Option<NodeId>,
    /// Room for those that lie nowhere yet.
    pub more: ByteSize,
}

/// What the server's volumes mean for its place.
///
/// # Errors
/// When the database fails.
pub async fn bond(conn: &mut PgConnection, server: ServerId) -> sqlx::Result<Bond> {
    let row = sqlx::query!(
        r#"select max(node_id) as "node: NodeId", coalesce(sum(size_gib) filter (where node_id is null), 0) as "gib!"
           from volumes where server_id = $1"#,
        server.0
    )
    .fetch_one(conn)
    .await?;
    Ok(Bond { node: row.node, more: ByteSize::gib(row.gib.unsigned_abs()) })
}

/// A server loses all its volumes. What held them for it lets go, except of those that were being made for it: which
/// they are.
///
/// # Errors
/// When the database fails.
pub async fn leave(conn: &mut PgConnection, server: ServerId) -> sqlx::Result<Vec<VolumeId>> {
    let left = sqlx::query!(
        r#"update volumes v set server_id = null,
               locked_by = case when made and v.locked_by = s.locked_by then null else v.locked_by end
           from servers s where s.id = $1 and v.server_id = s.id
           returning v.id as "id: VolumeId", v.made"#,
        server.0
    )
    .fetch_all(conn)
    .await?;
    Ok(left.into_iter().filter(|volume| !volume.made).map(|volume| volume.id).collect())
}

/// The node where a volume lies, and whether it was made; `None` when it is gone.
///
/// # Errors
/// When the database fails.
pub async fn lies(conn: &mut PgConnection, id: VolumeId) -> sqlx::Result<Option<(Option<NodeId>, bool)>> {
    let row = sqlx::query!(r#"select node_id as "node: NodeId", made from volumes where id = $1"#, id.0);
    Ok(row.fetch_optional(conn).await?.map(|row| (row.node, row.made)))
}

/// Nothing of an attachment that was given up is left: one that was not made before lies nowhere again.
///
/// # Errors
/// When the database fails.
pub async fn settled(conn: &mut PgConnection, id: VolumeId) -> sqlx::Result<()> {
    sqlx::query!(
        "update volumes set node_id = case when made then node_id end, locked_by = null where id = $1",
        id.0
    )
    .execute(conn)
    .await
    .map(drop)
}

/// Sets a volume's size.
///
/// # Errors
/// When the database fails.
pub async fn set_size(conn: &mut PgConnection, id: VolumeId, size_gib: i32) -> sqlx::Result<()> {
    sqlx::query!("update volumes set size_gib = $2 where id = $1", id.0, size_gib)
        .execute(conn)
        .await
        .map(drop)
}

/// The customer deleted it: nobody sees it any more.
///
/// # Errors
/// When the database fails.
pub async fn set_gone(conn: &mut PgConnection, id: VolumeId) -> sqlx::Result<()> {
    sqlx::query!("update volumes set gone = true where id = $1", id.0).execute(conn).await.map(drop)
}

/// Removes a volume's row.
///
/// # Errors
/// When the database fails.
pub async fn delete(conn: &mut PgConnection, id: VolumeId) -> sqlx::Result<()> {
    sqlx::query!("delete from volumes where id = $1", id.0).execute(conn).await.map(drop)
}

/// The volumes of a server, by number.
///
/// # Errors
/// When the database fails.
pub async fn of_server(conn: &mut PgConnection, server: ServerId) -> sqlx::Result<Vec<VolumeId>> {
    Ok(of_servers(conn, &[server.0]).await?.remove(&server).unwrap_or_default())
}

/// The volumes of each of these servers, by number; those without any are left out.
///
/// # Errors
/// When the database fails.
pub async fn of_servers(
    conn: &mut PgConnection,
    servers: &[i64],
) -> sqlx::Result<HashMap<ServerId, Vec<VolumeId>>> {
    let rows = sqlx::query!(
        r#"select id as "id: VolumeId", server_id as "server!: ServerId" from volumes
           where server_id = any ($1) order by id"#,
        servers
    );
    let mut volumes: HashMap<ServerId, Vec<VolumeId>> = HashMap::new();
    for row in rows.fetch_all(conn).await? {
        volumes.entry(row.server).or_default().push(row.id);
    }
    Ok(volumes)
}

/// What the machine of a server has of its volumes, of those that lie on its node, and which of them its next system mounts.
///
/// # Errors
/// When the database fails.
pub async fn of_machine(
    conn: &mut PgConnection,
    server: ServerId,
) -> sqlx::Result<(Vec<VolumeAttachment>, Vec<VolumeId>)> {
    let rows = sqlx::query!(
        r#"select v.id as "id: VolumeId", v.automount from volumes v join servers s on s.id = v.server_id
           where v.server_id = $1 and v.node_id = s.node_id order by v.id"#,
        server.0
    );
    let rows = rows.fetch_all(conn).await?;
    let mounts = rows.iter().filter(|row| row.automount).map(|row| row.id).collect();
    let all = rows.iter().map(|row| VolumeAttachment { volume: row.id, read_only: false }).collect();
    Ok((all, mounts))
}

/// Those of these volumes that were not made yet: what they are to be.
///
/// # Errors
/// When the database fails.
pub async fn unmade(
    conn: &mut PgConnection,
    ids: &[VolumeId],
) -> sqlx::Result<Vec<(VolumeId, ByteSize, Option<FileSystem>)>> {
    let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
    let rows = sqlx::query!(
        r#"select id as "id: VolumeId", size_gib, file_system as "file_system: FileSystem" from volumes
           where id = any ($1) and not made order by id"#,
        &ids
    );
    let size = |gib: i32| ByteSize::gib(u64::from(gib.unsigned_abs()));
    let rows = rows.fetch_all(conn).await?;
    Ok(rows.into_iter().map(|row| (row.id, size(row.size_gib), row.file_system)).collect())
}

#[derive(sqlx::FromRow)]
struct Row {
    id: VolumeId,
    name: String,
    size_gib: i32,
    file_system: Option<FileSystem>,
    location_id: LocationId,
    server_id: Option<ServerId>,
    creating: bool,
    labels: Value,
    protect_delete: bool,
    created: Timestamp,
}

impl Row {
    fn shown(self, locations: &[Location]) -> sqlx::Result<Volume> {
        // A location with volumes is never deleted.
        let location = locations.iter().find(|l| l.id == self.location_id).cloned();
        Ok(Volume {
            linux_device: Volume::linux_device_of(self.id),
            id: self.id,
            name: self.name,
            size: self.size_gib.unsigned_abs(),
            server: self.server_id,
            status: if self.creating { VolumeStatus::Creating } else { VolumeStatus::Available },
            location: location.ok_or(sqlx::Error::RowNotFound)?,
            format: self.file_system,
            protection: VolumeProtection { delete: self.protect_delete },
            labels: labels::from_json(self.labels),
            created: self.created,
        })
    }
}

const SELECT: &str =
    "select id, name, size_gib, file_system, location_id, server_id, labels, protect_delete, created,
    node_id is not null and not made as creating";

fn push_from(sql: &mut QueryBuilder<Postgres>, project: ProjectId) {
    sql.push(" from volumes where project_id = ").push_bind(project).push(" and not gone");
}

/// One volume of the project.
///
/// # Errors
/// When the database fails.
pub async fn get(conn: &mut PgConnection, project: ProjectId, id: VolumeId) -> sqlx::Result<Option<Volume>> {
    let mut sql = QueryBuilder::new(SELECT);
    push_from(&mut sql, project);
    sql.push(" and id = ").push_bind(id);
    let row: Option<Row> = sql.build_query_as().fetch_optional(&mut *conn).await?;
    let locations = catalog::queries::locations(conn).await?;
    row.map(|row| row.shown(&locations)).transpose()
}

/// A page of the project's volumes in one of these states, or in any, and how many there are on all pages.
///
/// # Errors
/// When the database fails.
pub async fn list(
    conn: &mut PgConnection,
    project: ProjectId,
    (filter, statuses): (&Filter, &[VolumeStatus]),
    page: Page,
) -> sqlx::Result<(Vec<Volume>, i64)> {
    let push_from = |sql: &mut QueryBuilder<Postgres>| {
        push_from(sql, project);
        if !statuses.is_empty() {
            let creating: Vec<bool> = statuses.iter().map(|s| *s == VolumeStatus::Creating).collect();
            sql.push(" and (node_id is not null and not made) = any (").push_bind(creating).push(")");
        }
    };
    let (rows, total) = filter.page_of::<Row>(conn, SELECT, push_from, page).await?;
    let locations = catalog::queries::locations(conn).await?;
    let volumes = rows.into_iter().map(|row| row.shown(&locations)).collect::<sqlx::Result<_>>()?;
    Ok((volumes, total))
}
