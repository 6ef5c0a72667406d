//! All SQL of `images`.

use berth_model::image::{Image, ImageKind, ImageProtection, ImageStatus};
use berth_model::label::Selector;
use berth_model::server::NameOrId;
use berth_model::{ByteSize, ImageId, ProjectId, Timestamp};
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
    file_bytes: i64,
    disk_bytes: i64,
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
            image_size: Some(gib(row.file_bytes)),
            disk_size: gib(row.disk_bytes),
            created: row.created,
            created_from: None,
            bound_to: None,
            os_flavor: row.os_flavor,
            os_version: row.os_version,
            architecture: ARCHITECTURE.to_owned(),
            rapid_deploy: false,
            protection: ImageProtection::default(),
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
                  description, file_bytes, disk_bytes, os_flavor, os_version, labels,
                  created as "created: Timestamp", deprecated as "deprecated: Timestamp",
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
        r#"select id as "id: ImageId", status as "status: ImageStatus", description, sha256, disk_bytes,
                  deprecated as "deprecated: Timestamp"
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
    /// SHA-256 of its file.
    pub sha256: String,
    /// Size of the disk in it.
    pub disk_bytes: i64,
    /// Since when it should no longer be chosen.
    pub deprecated: Option<Timestamp>,
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
