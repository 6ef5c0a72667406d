//! All SQL of `servers`. Functions take a connection; whoever changes a server in a transaction
//! calls [`publish`] in the same one.

mod awaited;
mod machine;
mod render;
mod select;
mod state;

use berth_model::event::Change;
use berth_model::label::Labels;
use berth_model::server::Server;
use berth_model::{ImageId, LocationId, ProjectId, ServerId, ServerTypeId, Timestamp};
use serde_json::Value;
use sqlx::PgConnection;

pub use awaited::{await_told, heard, is_told};
pub use machine::{
    Loaded, Machine, Rescue, Size, System, Wish, any_made_from, begin_rescue, end_rescue, iso, machine,
    place, rescue, set_iso, set_size, set_system, set_told, size, system, touch, wish,
};
pub use render::render;
pub use select::{all_labels, among, exists, get, labels_of, list, network_zone, nodes_of, on_node};
pub use state::{
    Held, Known, hold, hold_observed, lock, observed, set_observed, set_starting, set_unknown, unlock,
};

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

/// Tells everybody who may see the server how it is now; nothing when it is gone.
///
/// # Errors
/// When the database fails.
pub async fn publish(conn: &mut PgConnection, id: ServerId, now: Timestamp) -> sqlx::Result<()> {
    publish_all(conn, &[id], now).await
}

/// [`publish`] that says how the server is shown; `None` when it is gone.
///
/// # Errors
/// When the database fails.
pub async fn published(
    conn: &mut PgConnection,
    id: ServerId,
    now: Timestamp,
) -> sqlx::Result<Option<Server>> {
    let Some((project, server)) = render(conn, &[id]).await?.pop() else { return Ok(None) };
    let change = Change::Server { server: Box::new(server) };
    outbox::publish(conn, project, &change, now).await?;
    let Change::Server { server } = change else { return Ok(None) };
    Ok(Some(*server))
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
