//! What the machine behind a server is made of, where it stands, and what its node was told of it.

use berth_model::server::ServerStatus;
use berth_model::{ByteSize, ImageId, IsoId, LocationId, NodeId, ProjectId, ServerId, ServerTypeId};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::servers::rules::Need;

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

/// An ISO in a server's drive: with the file that it had when it was put there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// Its number.
    pub id: IsoId,
    /// SHA-256 of the file.
    pub sha256: String,
}

/// The ISO in a server's drive.
///
/// # Errors
/// When the database fails.
pub async fn iso(conn: &mut PgConnection, id: ServerId) -> sqlx::Result<Option<Loaded>> {
    sqlx::query_as!(
        Loaded,
        r#"select iso_id as "id!: IsoId", iso_sha256 as "sha256!" from servers where id = $1 and iso_id is not null"#,
        id.0
    )
    .fetch_optional(conn)
    .await
}

/// Puts an ISO into a server's drive, or takes it out.
///
/// # Errors
/// When the database fails.
pub async fn set_iso(conn: &mut PgConnection, id: ServerId, iso: Option<&Loaded>) -> sqlx::Result<()> {
    sqlx::query!(
        "update servers set iso_id = $2, iso_sha256 = $3 where id = $1",
        id.0,
        iso.map(|iso| iso.id.0),
        iso.map(|iso| iso.sha256.as_str())
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
        r#"select s.status as "status: ServerStatus", s.node_id as "node: NodeId", s.revision, s.name, s.cores, s.memory_mib, s.disk_gib,
                  s.image_sha256, s.mac::text as "mac!", s.ssh_public_keys, s.root_password_hash, s.user_data,
                  l.name as location, l.network_zone
           from servers s join locations l on l.id = s.location_id where s.id = $1"#,
        id.0
    );
    let machine = row.fetch_optional(conn).await?.map(|row| Machine {
        status: row.status,
        node: row.node,
        revision: row.revision,
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
/// What was told of an older revision may have been heard after what was told of a newer one, so the node may know
/// no more than the older.
///
/// # Errors
/// When the database fails.
pub async fn set_told(conn: &mut PgConnection, id: ServerId, revision: i64) -> sqlx::Result<Option<bool>> {
    sqlx::query_scalar!(
        r#"update servers set revision_told = case when $2 < revision then least($2, revision_told) else $2 end
           where id = $1 returning revision = $2 as "all!""#,
        id.0,
        revision
    )
    .fetch_optional(conn)
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
