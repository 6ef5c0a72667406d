//! All SQL of `images`.

use berth_model::image::{Image, ImageKind, ImageProtection, ImageSource, ImageStatus};
use berth_model::label::{Labels, Selector};
use berth_model::server::NameOrId;
use berth_model::{ByteSize, ImageId, ProjectId, ServerId, Timestamp};
use serde_json::Value;
use sqlx::{Encode, PgConnection, Postgres, QueryBuilder, Type};

use crate::http::{Page, Sort};
use crate::labels;

/// What runs on the processors of this installation's nodes.
pub const ARCHITECTURE: &str = "x86";

struct Row {
    id: ImageId,
    kind: ImageKind,
    status: ImageStatus,
    name: Option<String>,
    description: String,
    file_bytes: Option<i64>,
    disk_bytes: i64,
    created_from: Option<i64>,
    created_from_name: Option<String>,
    bound_to: Option<i64>,
    protect_delete: bool,
    os_flavor: String,
    os_version: Option<String>,
    labels: Value,
    created: Timestamp,
    deprecated: Option<Timestamp>,
    deleted: Option<Timestamp>,
}

impl From<Row> for Image {
    fn from(row: Row) -> Self {
        // Shown to people only; sums are made of bytes.
        let gib = |bytes: i64| (bytes as f64 / ByteSize::gib(1).bytes() as f64 * 1000.0).ceil() / 1000.0;
        Self {
            id: row.id,
            kind: row.kind,
            status: row.status,
            name: row.name,
            description: row.description,
            image_size: row.file_bytes.map(gib),
            disk_size: gib(row.disk_bytes),
            created: row.created,
            created_from: row
                .created_from
                .map(|id| ImageSource { id, name: row.created_from_name.unwrap_or_default() }),
            bound_to: row.bound_to,
            os_flavor: row.os_flavor,
            os_version: row.os_version,
            architecture: ARCHITECTURE.to_owned(),
            rapid_deploy: false,
            protection: ImageProtection { delete: row.protect_delete },
            deprecated: row.deprecated,
            deleted: row.deleted,
            labels: labels::from_json(row.labels),
        }
    }
}

/// Which images a list shows.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of one of these kinds; empty for any.
    pub kinds: Vec<ImageKind>,
    /// In one of these; empty for any.
    pub statuses: Vec<ImageStatus>,
    /// With one of these names; empty for any.
    pub names: Vec<String>,
    /// Belonging to one of these servers; empty for any.
    pub bound_to: Vec<i64>,
    /// With labels that fit.
    pub selector: Selector,
    /// Also those that should no longer be chosen.
    pub include_deprecated: bool,
    /// First by the first; ties by id.
    pub sort: Vec<Sort>,
}

/// A page of the images that the project may use, and how many there are on all pages.
///
/// # Errors
/// When the database fails.
pub async fn list(
    conn: &mut PgConnection,
    project: ProjectId,
    filter: &Filter,
    page: Page,
) -> sqlx::Result<(Vec<Image>, i64)> {
    let mut sql = QueryBuilder::new("select count(*) from images");
    push_where(&mut sql, project, filter);
    let total: i64 = sql.build_query_scalar().fetch_one(&mut *conn).await?;

    let mut sql = QueryBuilder::new("select id from images");
    push_where(&mut sql, project, filter);
    page.push_to(&mut sql, &filter.sort);
    let ids: Vec<ImageId> = sql.build_query_scalar().fetch_all(&mut *conn).await?;
    Ok((by_ids(conn, &ids).await?, total))
}

fn push_where(sql: &mut QueryBuilder<Postgres>, project: ProjectId, filter: &Filter) {
    sql.push(" where deleted is null and (project_id is null or project_id = ").push_bind(project).push(")");
    push_in(sql, "kind", &filter.kinds);
    push_in(sql, "status", &filter.statuses);
    push_in(sql, "name", &filter.names);
    push_in(sql, "bound_to", &filter.bound_to);
    if !filter.include_deprecated {
        sql.push(" and deprecated is null");
    }
    labels::push_selector(sql, &filter.selector);
}

fn push_in<'a, T>(sql: &mut QueryBuilder<Postgres>, column: &str, values: &'a [T])
where
    T: Clone + Encode<'a, Postgres> + Type<Postgres>,
{
    if values.is_empty() {
        return;
    }
    sql.push(" and ").push(column).push(" in (");
    let mut list = sql.separated(", ");
    for value in values {
        list.push_bind(value.clone());
    }
    sql.push(")");
}

/// These images, in the order given; those that do not exist are left out.
///
/// # Errors
/// When the database fails.
pub async fn by_ids(conn: &mut PgConnection, ids: &[ImageId]) -> sqlx::Result<Vec<Image>> {
    let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
    let rows = sqlx::query_as!(
        Row,
        r#"select i.id as "id: ImageId", kind as "kind: ImageKind", status as "status: ImageStatus", name,
                  description, file_bytes, disk_bytes, os_flavor, os_version, labels, created_from,
                  created_from_name, bound_to, protect_delete, created as "created: Timestamp", deprecated as "deprecated: Timestamp",
                  deleted as "deleted: Timestamp"
           from unnest($1::bigint[]) with ordinality as asked (id, place) join images i on i.id = asked.id
           order by asked.place"#,
        &ids
    );
    Ok(rows.fetch_all(conn).await?.into_iter().map(Image::from).collect())
}

/// One image, if the project may use it.
///
/// # Errors
/// When the database fails.
pub async fn get(conn: &mut PgConnection, project: ProjectId, id: ImageId) -> sqlx::Result<Option<Image>> {
    let seen = sqlx::query_scalar!(
        r#"select id as "id: ImageId" from images where id = $1 and (project_id is null or project_id = $2)"#,
        id.0,
        project.0
    );
    match seen.fetch_optional(&mut *conn).await? {
        Some(id) => Ok(by_ids(conn, &[id]).await?.pop()),
        None => Ok(None),
    }
}

/// Has the project an image of its own of this number?
///
/// # Errors
/// When the database fails.
pub async fn exists(conn: &mut PgConnection, project: ProjectId, id: ImageId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from images where project_id = $1 and id = $2) as "exists!""#,
        project.0,
        id.0
    )
    .fetch_one(conn)
    .await
}

/// The image that a customer names, among those that the project may use. A name is a system image's.
///
/// # Errors
/// When the database fails.
pub async fn find(
    conn: &mut PgConnection,
    project: ProjectId,
    named: &NameOrId,
) -> sqlx::Result<Option<Found>> {
    sqlx::query_as!(
        Found,
        r#"select id as "id: ImageId", status as "status: ImageStatus", description,
                  coalesce(sha256, '') as "sha256!", disk_bytes, deprecated as "deprecated: Timestamp"
           from images
           where deleted is null and (project_id is null or project_id = $1)
             and (id = $2 or (name = $3 and project_id is null))
           order by id = $2 desc limit 1"#,
        project.0,
        named.id(),
        named.text()
    )
    .fetch_optional(conn)
    .await
}

/// An image, as an order must know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its number.
    pub id: ImageId,
    /// Can it be used?
    pub status: ImageStatus,
    /// For customers.
    pub description: String,
    /// SHA-256 of its file; empty while it is being made.
    pub sha256: String,
    /// Size of the disk in it.
    pub disk_bytes: i64,
    /// Since when it should no longer be chosen.
    pub deprecated: Option<Timestamp>,
}

/// An image to be made from a server's disk.
#[derive(Debug, Clone)]
pub struct NewOwn<'a> {
    /// Whose.
    pub project: ProjectId,
    /// A snapshot, or a backup, which belongs to the server.
    pub kind: ImageKind,
    /// For people.
    pub description: &'a str,
    /// The server's number and name.
    pub server: (ServerId, &'a str),
    /// What the server was made from: the system is its.
    pub made_from: ImageId,
    /// Size of the server's disk.
    pub disk: ByteSize,
    /// The customer's own marks.
    pub labels: &'a Labels,
    /// When it was asked for.
    pub now: Timestamp,
}

/// Writes a snapshot or a backup, `creating`.
///
/// # Errors
/// When the database fails.
pub async fn insert_own(conn: &mut PgConnection, new: &NewOwn<'_>) -> sqlx::Result<ImageId> {
    sqlx::query_scalar!(
        r#"insert into images (kind, status, project_id, description, disk_bytes, os_flavor, os_version, labels,
                               created, created_from, created_from_name, bound_to)
           select $9, 'creating', $1, $2, $3, os_flavor, os_version, $4, $5, $6, $7,
                  case $9 when 'backup' then $6::bigint end
           from images where id = $8
           returning id as "id: ImageId""#,
        new.project.0,
        new.description,
        new.disk.bytes().cast_signed(),
        labels::to_json(new.labels),
        new.now as Timestamp,
        new.server.0.0,
        new.server.1,
        new.made_from.0,
        new.kind as ImageKind
    )
    .fetch_one(conn)
    .await
}

/// An image that was being made has this file.
///
/// # Errors
/// When the database fails.
pub async fn set_made(
    conn: &mut PgConnection,
    id: ImageId,
    (sha256, file): (&str, ByteSize),
) -> sqlx::Result<()> {
    sqlx::query!(
        "update images set status = 'available', sha256 = $2, file_bytes = $3 where id = $1 and status = 'creating'",
        id.0,
        sha256,
        file.bytes().cast_signed()
    )
    .execute(conn)
    .await
    .map(drop)
}

/// Removes an image that was never made.
///
/// # Errors
/// When the database fails.
pub async fn discard(conn: &mut PgConnection, id: ImageId) -> sqlx::Result<()> {
    sqlx::query!("delete from images where id = $1 and status = 'creating'", id.0)
        .execute(conn)
        .await
        .map(drop)
}

/// What a handler must know of a project's own image before it changes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its number.
    pub id: ImageId,
    /// What made it.
    pub kind: ImageKind,
    /// Can it be used?
    pub status: ImageStatus,
    /// SHA-256 of its file.
    pub sha256: Option<String>,
    /// It cannot be deleted.
    pub protect_delete: bool,
    /// Is it offered to everybody?
    pub is_system: bool,
}

/// Keeps an image with this file until the transaction ends: who deletes it then finds what was made from it. False
/// when it is gone, or has another file by now.
///
/// # Errors
/// When the database fails.
pub async fn keep(conn: &mut PgConnection, id: ImageId, sha256: &str) -> sqlx::Result<bool> {
    let kept = sqlx::query_scalar!(
        "select id from images where id = $1 and sha256 = $2 and deleted is null for share",
        id.0,
        sha256
    );
    Ok(kept.fetch_optional(conn).await?.is_some())
}

/// An image that the project may use, its row locked until the transaction ends.
///
/// # Errors
/// When the database fails.
pub async fn hold(conn: &mut PgConnection, project: ProjectId, id: ImageId) -> sqlx::Result<Option<Held>> {
    sqlx::query_as!(
        Held,
        r#"select id as "id: ImageId", kind as "kind: ImageKind", status as "status: ImageStatus", sha256,
                  protect_delete, project_id is null as "is_system!"
           from images where id = $2 and deleted is null and (project_id is null or project_id = $1)
           for no key update"#,
        project.0,
        id.0
    )
    .fetch_optional(conn)
    .await
}

/// Changes what a customer may change; what is `None` stays.
///
/// # Errors
/// When the database fails.
pub async fn update(
    conn: &mut PgConnection,
    id: ImageId,
    description: Option<&str>,
    kind: Option<ImageKind>,
    labels: Option<&Labels>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update images set description = coalesce($2, description), kind = coalesce($3, kind),
                labels = coalesce($4, labels), bound_to = case $3 when 'snapshot' then null else bound_to end
         where id = $1",
        id.0,
        description,
        kind as Option<ImageKind>,
        labels.map(labels::to_json)
    )
    .execute(conn)
    .await
    .map(drop)
}

/// Protects an image from deletion, or no longer.
///
/// # Errors
/// When the database fails.
pub async fn protect(conn: &mut PgConnection, id: ImageId, delete: bool) -> sqlx::Result<()> {
    sqlx::query!("update images set protect_delete = $2 where id = $1", id.0, delete)
        .execute(conn)
        .await
        .map(drop)
}

/// An image is deleted: nothing new is made from it.
///
/// # Errors
/// When the database fails.
pub async fn delete(conn: &mut PgConnection, id: ImageId, now: Timestamp) -> sqlx::Result<()> {
    sqlx::query!("update images set deleted = $2 where id = $1", id.0, now as Timestamp)
        .execute(conn)
        .await
        .map(drop)
}

/// Backups of a server are deleted, but the newest `kept`; says the checksums of their files.
///
/// # Errors
/// When the database fails.
pub async fn delete_backups_beyond(
    conn: &mut PgConnection,
    server: ServerId,
    kept: i64,
    now: Timestamp,
) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"update images set deleted = $3 where id in (
               select id from images
               where bound_to = $1 and deleted is null and status <> 'creating'
               order by created desc, id desc offset $2)
           returning sha256 as "sha256!""#,
        server.0,
        kept,
        now as Timestamp
    )
    .fetch_all(conn)
    .await
}

/// Until the transaction ends, nobody else begins or ends to count on the file with this checksum.
///
/// # Errors
/// When the database fails.
pub async fn lock_file(conn: &mut PgConnection, sha256: &str) -> sqlx::Result<()> {
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended($1, 0))", sha256)
        .fetch_one(conn)
        .await
        .map(drop)
}

/// Does any image that is not deleted have this file?
///
/// # Errors
/// When the database fails.
pub async fn is_used(conn: &mut PgConnection, sha256: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from images where sha256 = $1 and deleted is null)
               or exists (select from rescue_systems where sha256 = $1) as "used!""#,
        sha256
    )
    .fetch_one(conn)
    .await
}

/// Offers a rescue system, in place of the one before.
///
/// # Errors
/// When the database fails.
pub async fn put_rescue(
    conn: &mut PgConnection,
    (sha256, file_bytes, disk_bytes): (&str, i64, i64),
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into rescue_systems (kind, sha256, file_bytes, disk_bytes) values ('linux64', $1, $2, $3)
         on conflict (kind) do update set sha256 = excluded.sha256, file_bytes = excluded.file_bytes,
             disk_bytes = excluded.disk_bytes",
        sha256,
        file_bytes,
        disk_bytes
    )
    .execute(conn)
    .await
    .map(drop)
}

/// SHA-256 of the rescue system's file; `None` when none is offered.
///
/// # Errors
/// When the database fails.
pub async fn rescue(conn: &mut PgConnection) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar!("select sha256 from rescue_systems where kind = 'linux64'").fetch_optional(conn).await
}

/// A system image to be offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemImage<'a> {
    /// Its name.
    pub name: &'a str,
    /// For customers.
    pub description: &'a str,
    /// SHA-256 of its file.
    pub sha256: &'a str,
    /// Size of its file.
    pub file_bytes: i64,
    /// Size of the disk in it.
    pub disk_bytes: i64,
    /// `debian`
    pub os_flavor: &'a str,
    /// `12`
    pub os_version: Option<&'a str>,
}

/// Offers a system image under its name, in place of the one before. The number stays.
///
/// # Errors
/// When the database fails.
pub async fn put_system(
    conn: &mut PgConnection,
    image: &SystemImage<'_>,
    now: Timestamp,
) -> sqlx::Result<ImageId> {
    sqlx::query_scalar!(
        r#"insert into images
               (kind, status, name, description, sha256, file_bytes, disk_bytes, os_flavor, os_version, created)
           values ('system', 'available', $1, $2, $3, $4, $5, $6, $7, $8)
           on conflict (name) where project_id is null and deleted is null do update set
               status = 'available', description = excluded.description, sha256 = excluded.sha256,
               file_bytes = excluded.file_bytes, disk_bytes = excluded.disk_bytes,
               os_flavor = excluded.os_flavor, os_version = excluded.os_version
           returning id as "id: ImageId""#,
        image.name,
        image.description,
        image.sha256,
        image.file_bytes,
        image.disk_bytes,
        image.os_flavor,
        image.os_version,
        now as Timestamp
    )
    .fetch_one(conn)
    .await
}
