//! All SQL of `servers`. Functions take a connection; whoever changes a server in a transaction
//! calls [`publish`] in the same one.

mod render;
mod select;

use berth_model::agent::{VmEvent, VmState};
use berth_model::event::Change;
use berth_model::label::Labels;
use berth_model::server::ServerStatus;
use berth_model::{
    ActionId, ByteSize, ImageId, IsoId, LocationId, NodeId, ProjectId, ServerId, ServerTypeId, Timestamp,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgConnection;

pub use render::render;
pub use select::{Filter, get, list};

use super::jobs::Look;
use super::rules::{self, Need};
use crate::labels;
use crate::live::outbox;

/// A server to be written.
#[derive(Debug, Clone)]
pub struct NewServer<'a> {
    /// Whose.
    pub project: ProjectId,
    /// Its host name.
    pub name: &'a str,
    /// Its type.
    pub server_type: ServerTypeId,
    /// Virtual CPUs.
    pub cores: i32,
    /// Memory in MiB.
    pub memory_mib: i32,
    /// Disk in GiB.
    pub disk_gib: i32,
    /// What it is made from.
    pub image: ImageId,
    /// SHA-256 of that image's file now.
    pub image_sha256: &'a str,
    /// Where it will stand.
    pub location: LocationId,
    /// Lines of `authorized_keys`.
    pub ssh_public_keys: &'a [String],
    /// crypt(3) SHA-512; none with an SSH key.
    pub root_password_hash: Option<&'a str>,
    /// cloud-init user data.
    pub user_data: Option<&'a str>,
    /// The customer's own marks.
    pub labels: &'a Labels,
    /// When it was ordered.
    pub now: Timestamp,
}

/// Writes a new server, `initializing`; `None` when another server has this MAC address.
///
/// # Errors
/// When the database fails; the constraint `servers_name_key` when the name is taken.
pub async fn insert(
    conn: &mut PgConnection,
    new: &NewServer<'_>,
    mac: &str,
) -> sqlx::Result<Option<ServerId>> {
    sqlx::query_scalar!(
        r#"insert into servers (project_id, name, status, server_type_id, image_id, location_id, mac, cores,
               memory_mib, disk_gib, ssh_public_keys, root_password_hash, user_data, labels, created,
               image_sha256)
           values ($1, $2, 'initializing', $3, $4, $5, $6::text::macaddr, $7, $8, $9, $10, $11, $12, $13, $14, $15)
           on conflict on constraint servers_mac_key do nothing
           returning id as "id: ServerId""#,
        new.project.0,
        new.name,
        new.server_type.0,
        new.image.0,
        new.location.0,
        mac,
        new.cores,
        new.memory_mib,
        new.disk_gib,
        new.ssh_public_keys,
        new.root_password_hash,
        new.user_data,
        labels::to_json(new.labels),
        new.now as Timestamp,
        new.image_sha256,
    )
    .fetch_optional(conn)
    .await
}

/// What a handler must know of a server before it changes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its number.
    pub id: ServerId,
    /// What it does now.
    pub status: ServerStatus,
    /// Where it stands.
    pub node: Option<NodeId>,
    /// It cannot be deleted.
    pub protect_delete: bool,
    /// It cannot be rebuilt.
    pub protect_rebuild: bool,
    /// The command of the action that holds it.
    pub locked_by: Option<String>,
}

/// A server of the project, its row locked until the transaction ends.
///
/// # Errors
/// When the database fails.
pub async fn hold(conn: &mut PgConnection, project: ProjectId, id: ServerId) -> sqlx::Result<Option<Held>> {
    // Locked in a statement of its own: one that had to wait reads the locked row anew, but not the
    // action joined to it, and a server that somebody just locked would look free.
    let locked = sqlx::query_scalar!(
        "select id from servers where project_id = $1 and id = $2 for no key update",
        project.0,
        id.0
    );
    if locked.fetch_optional(&mut *conn).await?.is_none() {
        return Ok(None);
    }
    sqlx::query_as!(
        Held,
        r#"select s.id as "id: ServerId", s.status as "status: ServerStatus", s.node_id as "node: NodeId",
                  s.protect_delete, s.protect_rebuild, a.command as "locked_by?"
           from servers s left join actions a on a.id = s.locked_by
           where s.project_id = $1 and s.id = $2"#,
        project.0,
        id.0
    )
    .fetch_optional(conn)
    .await
}

/// What is known of a server of which there is news.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// What it does now.
    pub status: ServerStatus,
    /// Where it stands.
    pub node: Option<NodeId>,
    /// An action holds it.
    pub locked: bool,
    /// When the last news was seen.
    pub observed: Option<Timestamp>,
    /// What its machine did then.
    pub seen: Option<VmState>,
}

/// A server of which there is news, its row locked until the transaction ends.
///
/// # Errors
/// When the database fails.
pub async fn hold_observed(conn: &mut PgConnection, id: ServerId) -> sqlx::Result<Option<Known>> {
    sqlx::query_as!(
        Known,
        r#"select status as "status: ServerStatus", node_id as "node: NodeId",
                  locked_by is not null as "locked!", observed as "observed: Timestamp",
                  seen as "seen: VmState"
           from servers where id = $1 for no key update"#,
        id.0
    )
    .fetch_optional(conn)
    .await
}

/// Notes what was seen of a server, and when.
///
/// # Errors
/// When the database fails.
pub async fn set_observed(
    conn: &mut PgConnection,
    id: ServerId,
    status: ServerStatus,
    news: &VmEvent,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update servers set status = $2, observed = $3, seen = $4 where id = $1",
        id.0,
        status as ServerStatus,
        news.at as Timestamp,
        news.state as Option<VmState>
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The servers that stand on a node, by number.
///
/// # Errors
/// When the database fails.
pub async fn on_node(conn: &mut PgConnection, node: NodeId) -> sqlx::Result<Vec<ServerId>> {
    sqlx::query_scalar!(r#"select id as "id: ServerId" from servers where node_id = $1 order by id"#, node.0)
        .fetch_all(conn)
        .await
}

/// Notes that nothing is seen of the node's servers any more: their status is `unknown`, except of
/// those that an action holds. Says which may have changed.
///
/// # Errors
/// When the database fails.
pub async fn set_unknown(conn: &mut PgConnection, node: NodeId) -> sqlx::Result<Vec<ServerId>> {
    // Not the time of now: the next news carry the node's own clock, which may be behind.
    sqlx::query_scalar!(
        r#"update servers set observed = null, seen = null,
               status = case when locked_by is null then 'unknown' else status end
           where id in (select id from servers where node_id = $1 and status <> 'unknown'
                        order by id for no key update)
           returning id as "id: ServerId""#,
        node.0
    )
    .fetch_all(conn)
    .await
}

/// From now on the action holds the server, and it does this.
///
/// # Errors
/// When the database fails.
pub async fn lock(
    conn: &mut PgConnection,
    id: ServerId,
    action: ActionId,
    status: ServerStatus,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update servers set locked_by = $2, status = $3 where id = $1",
        id.0,
        action.0,
        status as ServerStatus
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// When the last news of a server was seen.
///
/// # Errors
/// When the database fails.
pub async fn observed(conn: &mut PgConnection, id: ServerId) -> sqlx::Result<Option<Timestamp>> {
    let observed =
        sqlx::query_scalar!(r#"select observed as "observed: Timestamp" from servers where id = $1"#, id.0);
    Ok(observed.fetch_optional(conn).await?.flatten())
}

/// No action holds the server any more. It does what its machine did at the action's last look, or
/// by the news, when some came since or there was no look.
///
/// # Errors
/// When the database fails.
pub async fn unlock(conn: &mut PgConnection, id: ServerId, look: Option<Look>) -> sqlx::Result<()> {
    let Some(known) = hold_observed(conn, id).await? else { return Ok(()) };
    let look = look.filter(|look| look.observed == known.observed);
    let status = rules::status_of(look.map_or(known.seen, |look| look.state));
    sqlx::query!(
        "update servers set locked_by = null, status = $2 where id = $1",
        id.0,
        status as ServerStatus
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A machine stands for a server of this number that nobody knows: the number is not given to
/// another. Only within reason: what a node says must not use up the numbers.
///
/// # Errors
/// When the database fails.
pub async fn pass_over(conn: &mut PgConnection, id: ServerId) -> sqlx::Result<()> {
    sqlx::query!(
        "select setval('servers_id_seq', $1) from servers_id_seq
         where last_value < $1 and $1 < last_value + 1000000",
        id.0
    )
    .fetch_optional(conn)
    .await
    .map(drop)
}

/// A server that is being made was told to start. Its agent may have been faster to say that it runs.
///
/// # Errors
/// When the database fails.
pub async fn set_starting(conn: &mut PgConnection, id: ServerId) -> sqlx::Result<()> {
    sqlx::query!("update servers set status = 'starting' where id = $1 and status = 'initializing'", id.0)
        .execute(conn)
        .await?;
    Ok(())
}

/// Changes what the customer may change; what is `None` stays.
///
/// # Errors
/// When the database fails; the constraint `servers_name_key` when the name is taken.
pub async fn update(
    conn: &mut PgConnection,
    id: ServerId,
    name: Option<&str>,
    labels: Option<&Labels>,
) -> sqlx::Result<()> {
    let labels: Option<Value> = labels.map(labels::to_json);
    sqlx::query!(
        "update servers set name = coalesce($2, name), labels = coalesce($3, labels) where id = $1",
        id.0,
        name,
        labels
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Where a server wants to stand, and what it needs there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Whose it is.
    pub project: ProjectId,
    /// The location.
    pub location: LocationId,
    /// The node, once chosen.
    pub node: Option<NodeId>,
    /// What it needs.
    pub need: Need,
}

/// Where a server wants to stand; `None` when it is gone.
///
/// # Errors
/// When the database fails.
pub async fn wish(conn: &mut PgConnection, id: ServerId) -> sqlx::Result<Option<Wish>> {
    let Some(size) = size(&mut *conn, id).await? else { return Ok(None) };
    let row = sqlx::query!(
        r#"select project_id as "project: ProjectId", location_id as "location: LocationId", node_id as "node: NodeId"
           from servers where id = $1"#,
        id.0
    );
    let row = row.fetch_optional(conn).await?;
    Ok(row.map(|row| Wish {
        project: row.project,
        location: row.location,
        node: row.node,
        need: size.need(),
    }))
}

/// Places a server on a node, or on none. What was seen on another node counts no more: every
/// agent has a clock of its own.
///
/// # Errors
/// When the database fails.
pub async fn place(conn: &mut PgConnection, id: ServerId, node: Option<NodeId>) -> sqlx::Result<()> {
    sqlx::query!(
        "update servers set node_id = $2, observed = null, seen = null, revision_told = 0 where id = $1",
        id.0,
        node.map(|node| node.0)
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A server's type, and what was copied from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// The type.
    pub server_type: ServerTypeId,
    /// Virtual CPUs.
    pub cores: i32,
    /// Memory in MiB.
    pub memory_mib: i32,
    /// Disk in GiB; what it grew to, which may be more than the type's.
    pub disk_gib: i32,
}

impl Size {
    /// What it takes from a node.
    pub fn need(&self) -> Need {
        Need {
            cores: self.cores.unsigned_abs(),
            memory: ByteSize::mib(u64::from(self.memory_mib.unsigned_abs())),
            disk: ByteSize::gib(u64::from(self.disk_gib.unsigned_abs())),
        }
    }
}

/// The size of a server; `None` when it is gone.
///
/// # Errors
/// When the database fails.
pub async fn size(conn: &mut PgConnection, id: ServerId) -> sqlx::Result<Option<Size>> {
    sqlx::query_as!(
        Size,
        r#"select server_type_id as "server_type: ServerTypeId", cores, memory_mib, disk_gib
           from servers where id = $1"#,
        id.0
    )
    .fetch_optional(conn)
    .await
}

/// Gives a server another size.
///
/// # Errors
/// When the database fails.
pub async fn set_size(conn: &mut PgConnection, id: ServerId, size: &Size) -> sqlx::Result<()> {
    sqlx::query!(
        "update servers set server_type_id = $2, cores = $3, memory_mib = $4, disk_gib = $5 where id = $1",
        id.0,
        size.server_type.0,
        size.cores,
        size.memory_mib,
        size.disk_gib
    )
    .execute(conn)
    .await
    .map(drop)
}

/// What is on a server's disk, and what its system is told.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct System {
    /// What it was made from.
    pub image: ImageId,
    /// SHA-256 of the file.
    pub image_sha256: String,
    /// crypt(3) SHA-512; none with an SSH key.
    pub root_password_hash: Option<String>,
    /// cloud-init user data.
    pub user_data: Option<String>,
}

impl std::fmt::Debug for System {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("System").field("image", &self.image).finish_non_exhaustive()
    }
}

/// The system of a server; `None` when the server is gone.
///
/// # Errors
/// When the database fails.
pub async fn system(conn: &mut PgConnection, id: ServerId) -> sqlx::Result<Option<System>> {
    sqlx::query_as!(
        System,
        r#"select image_id as "image: ImageId", image_sha256, root_password_hash, user_data
           from servers where id = $1"#,
        id.0
    )
    .fetch_optional(conn)
    .await
}

/// Gives a server another system.
///
/// # Errors
/// When the database fails.
pub async fn set_system(conn: &mut PgConnection, id: ServerId, system: &System) -> sqlx::Result<()> {
    sqlx::query!(
        "update servers set image_id = $2, image_sha256 = $3, root_password_hash = $4, user_data = $5 where id = $1",
        id.0,
        system.image.0,
        system.image_sha256,
        system.root_password_hash,
        system.user_data
    )
    .execute(conn)
    .await
    .map(drop)
}

/// The rescue system that a server boots next.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rescue {
    /// SHA-256 of its file.
    pub sha256: String,
    /// crypt(3) SHA-512.
    pub root_password_hash: String,
    /// Lines of `authorized_keys`.
    pub ssh_keys: Vec<String>,
}

/// The rescue system that a server boots next, if it does.
///
/// # Errors
/// When the database fails.
pub async fn rescue(conn: &mut PgConnection, id: ServerId) -> sqlx::Result<Option<Rescue>> {
    sqlx::query_as!(
        Rescue,
        r#"select rescue_sha256 as "sha256!", rescue_password_hash as "root_password_hash!",
                  rescue_ssh_keys as ssh_keys
           from servers where id = $1 and rescue_sha256 is not null"#,
        id.0
    )
    .fetch_optional(conn)
    .await
}

/// The next start of a server is to boot this; false when it is to boot one already.
///
/// # Errors
/// When the database fails.
pub async fn begin_rescue(conn: &mut PgConnection, id: ServerId, rescue: &Rescue) -> sqlx::Result<bool> {
    let begun = sqlx::query!(
        "update servers set rescue_sha256 = $2, rescue_password_hash = $3, rescue_ssh_keys = $4
         where id = $1 and rescue_sha256 is null",
        id.0,
        rescue.sha256,
        rescue.root_password_hash,
        &rescue.ssh_keys
    );
    Ok(begun.execute(conn).await?.rows_affected() == 1)
}

/// The next start of a server is its own system's; false when it is that already.
///
/// # Errors
/// When the database fails.
pub async fn end_rescue(conn: &mut PgConnection, id: ServerId) -> sqlx::Result<bool> {
    let ended = sqlx::query!(
        "update servers set rescue_sha256 = null, rescue_password_hash = null, rescue_ssh_keys = '{}'
         where id = $1 and rescue_sha256 is not null",
        id.0
    );
    Ok(ended.execute(conn).await?.rows_affected() == 1)
}

/// The ISO in a server's drive.
///
/// # Errors
/// When the database fails.
pub async fn iso(conn: &mut PgConnection, id: ServerId) -> sqlx::Result<Option<IsoId>> {
    let iso = sqlx::query_scalar!(r#"select iso_id as "iso: IsoId" from servers where id = $1"#, id.0);
    Ok(iso.fetch_optional(conn).await?.flatten())
}

/// Puts an ISO into a server's drive, or takes it out.
///
/// # Errors
/// When the database fails.
pub async fn set_iso(conn: &mut PgConnection, id: ServerId, iso: Option<IsoId>) -> sqlx::Result<()> {
    sqlx::query!("update servers set iso_id = $2 where id = $1", id.0, iso.map(|iso| iso.0))
        .execute(conn)
        .await
        .map(drop)
}

/// Protects a server, or no longer; what is `None` stays.
///
/// # Errors
/// When the database fails.
pub async fn protect(
    conn: &mut PgConnection,
    id: ServerId,
    delete: Option<bool>,
    rebuild: Option<bool>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update servers set protect_delete = coalesce($2, protect_delete),
                protect_rebuild = coalesce($3, protect_rebuild) where id = $1",
        id.0,
        delete,
        rebuild
    )
    .execute(conn)
    .await
    .map(drop)
}

/// What a server's own row says of the machine behind it.
#[derive(Debug, Clone)]
pub struct Machine {
    /// What the server does now.
    pub status: ServerStatus,
    /// Where it stands.
    pub node: Option<NodeId>,
    /// Grows with every change of what the machine is made of.
    pub revision: i64,
    /// The revision that its node was told last.
    pub told: i64,
    /// Its host name.
    pub name: String,
    /// What it takes.
    pub need: Need,
    /// SHA-256 of the file that its disk is made from.
    pub image_sha256: String,
    /// `52:54:00:…`
    pub mac: String,
    /// Lines of `authorized_keys`.
    pub ssh_public_keys: Vec<String>,
    /// crypt(3) SHA-512.
    pub root_password_hash: Option<String>,
    /// cloud-init user data.
    pub user_data: Option<String>,
    /// `rtm1`
    pub location: String,
    /// `eu-west`
    pub network_zone: String,
}

/// What a server's own row says of the machine behind it; `None` when the server is gone.
///
/// # Errors
/// When the database fails.
pub async fn machine(conn: &mut PgConnection, id: ServerId) -> sqlx::Result<Option<Machine>> {
    let row = sqlx::query!(
        r#"select s.status as "status: ServerStatus", s.node_id as "node: NodeId", s.revision, s.revision_told, s.name, s.cores, s.memory_mib, s.disk_gib,
                  s.image_sha256, s.mac::text as "mac!", s.ssh_public_keys, s.root_password_hash, s.user_data,
                  l.name as location, l.network_zone
           from servers s join locations l on l.id = s.location_id where s.id = $1"#,
        id.0
    );
    let machine = row.fetch_optional(conn).await?.map(|row| Machine {
        status: row.status,
        node: row.node,
        revision: row.revision,
        told: row.revision_told,
        name: row.name,
        need: Need {
            cores: row.cores.unsigned_abs(),
            memory: ByteSize::mib(u64::from(row.memory_mib.unsigned_abs())),
            disk: ByteSize::gib(u64::from(row.disk_gib.unsigned_abs())),
        },
        image_sha256: row.image_sha256,
        mac: row.mac,
        ssh_public_keys: row.ssh_public_keys,
        root_password_hash: row.root_password_hash,
        user_data: row.user_data,
        location: row.location,
        network_zone: row.network_zone,
    });
    Ok(machine)
}

/// Something that the server's machine is made of has changed: what its node was told is no longer all.
/// In the transaction of the change; the row stays locked until its end.
///
/// # Errors
/// When the database fails.
pub async fn touch(conn: &mut PgConnection, id: ServerId) -> sqlx::Result<()> {
    sqlx::query!("update servers set revision = revision + 1 where id = $1", id.0)
        .execute(conn)
        .await
        .map(drop)
}

/// Its node was told what the server's machine was made of at `revision`. Is that all there is to tell?
/// `None` when the server is gone. The row stays locked until the transaction ends.
///
/// # Errors
/// When the database fails.
pub async fn set_told(conn: &mut PgConnection, id: ServerId, revision: i64) -> sqlx::Result<Option<bool>> {
    sqlx::query_scalar!(
        r#"update servers set revision_told = greatest(revision_told, least($2, revision)) where id = $1
           returning revision = $2 as "all!""#,
        id.0,
        revision
    )
    .fetch_optional(conn)
    .await
}

/// Removes a server's row and tells everybody who may see it; says which file its disk was made from, and nothing
/// when it is gone already. Its addresses must have been released.
///
/// # Errors
/// When the database fails.
pub async fn delete(conn: &mut PgConnection, id: ServerId, now: Timestamp) -> sqlx::Result<Option<String>> {
    let gone = sqlx::query!(
        r#"delete from servers where id = $1 returning project_id as "project: ProjectId", image_sha256"#,
        id.0
    );
    let Some(gone) = gone.fetch_optional(&mut *conn).await? else { return Ok(None) };
    outbox::publish(conn, gone.project, &Change::ServerGone { id }, now).await?;
    Ok(Some(gone.image_sha256))
}

/// Does an ended action say that this server is gone: a deletion that succeeded, or a creation
/// that was given up?
///
/// # Errors
/// When the database fails.
pub async fn was_removed(conn: &mut PgConnection, id: ServerId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select not exists (select from servers where id = $1) and exists (
               select from action_resources r join actions a on a.id = r.action_id
               where r.kind = 'server' and r.id = $1
                 and (a.command, a.status) in (('delete_server', 'success'), ('create_server', 'error')))
           as "removed!""#,
        id.0
    )
    .fetch_one(conn)
    .await
}

/// The network zone of a server's location.
///
/// # Errors
/// When the database fails.
pub async fn network_zone(conn: &mut PgConnection, id: ServerId) -> sqlx::Result<String> {
    sqlx::query_scalar!(
        "select l.network_zone from servers s join locations l on l.id = s.location_id where s.id = $1",
        id.0
    )
    .fetch_one(conn)
    .await
}

/// Where these servers stand; those that stand nowhere are left out.
///
/// # Errors
/// When the database fails.
pub async fn nodes_of(conn: &mut PgConnection, ids: &[ServerId]) -> sqlx::Result<Vec<(ServerId, NodeId)>> {
    let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
    let rows = sqlx::query!(
        r#"select id as "id: ServerId", node_id as "node!: NodeId" from servers
           where id = any ($1) and node_id is not null"#,
        &ids
    );
    Ok(rows.fetch_all(conn).await?.into_iter().map(|row| (row.id, row.node)).collect())
}

/// The labels of these servers.
///
/// # Errors
/// When the database fails.
pub async fn labels_of(
    conn: &mut PgConnection,
    ids: &[ServerId],
) -> sqlx::Result<Vec<(ProjectId, ServerId, Labels)>> {
    let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
    let rows = sqlx::query!(
        r#"select id as "id: ServerId", project_id as "project: ProjectId", labels from servers
           where id = any($1) order by id"#,
        &ids
    );
    let rows = rows.fetch_all(conn).await?;
    Ok(rows.into_iter().map(|row| (row.project, row.id, labels::from_json(row.labels))).collect())
}

/// The project's servers with their labels, by number.
///
/// # Errors
/// When the database fails.
pub async fn all_labels(
    conn: &mut PgConnection,
    project: ProjectId,
) -> sqlx::Result<Vec<(ServerId, Labels)>> {
    let rows = sqlx::query!(
        r#"select id as "id: ServerId", labels from servers where project_id = $1 order by id"#,
        project.0
    );
    let rows = rows.fetch_all(conn).await?;
    Ok(rows.into_iter().map(|row| (row.id, labels::from_json(row.labels))).collect())
}

/// Those of `ids` that are servers of the project.
///
/// # Errors
/// When the database fails.
pub async fn among(
    conn: &mut PgConnection,
    project: ProjectId,
    ids: &[ServerId],
) -> sqlx::Result<Vec<ServerId>> {
    let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
    sqlx::query_scalar!(
        r#"select id as "id: ServerId" from servers where project_id = $1 and id = any($2)"#,
        project as ProjectId,
        &ids,
    )
    .fetch_all(conn)
    .await
}

/// Was the disk of any server made from this file, or is any about to boot it?
///
/// # Errors
/// When the database fails.
pub async fn any_made_from(conn: &mut PgConnection, sha256: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from servers where image_sha256 = $1)
               or exists (select from servers where rescue_sha256 = $1) as "any!""#,
        sha256
    )
    .fetch_one(conn)
    .await
}

/// Has the project a server of this number?
///
/// # Errors
/// When the database fails.
pub async fn exists(conn: &mut PgConnection, project: ProjectId, id: ServerId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from servers where project_id = $1 and id = $2) as "exists!""#,
        project.0,
        id.0
    )
    .fetch_one(conn)
    .await
}

/// Tells everybody who may see the server how it is now; nothing when it is gone.
///
/// # Errors
/// When the database fails.
pub async fn publish(conn: &mut PgConnection, id: ServerId, now: Timestamp) -> sqlx::Result<()> {
    publish_all(conn, &[id], now).await
}

/// [`publish`] for many.
///
/// # Errors
/// When the database fails.
pub async fn publish_all(conn: &mut PgConnection, ids: &[ServerId], now: Timestamp) -> sqlx::Result<()> {
    for (project, server) in render(conn, ids).await? {
        outbox::publish(conn, project, &Change::Server { server: Box::new(server) }, now).await?;
    }
    Ok(())
}
