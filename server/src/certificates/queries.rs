//! All SQL of `certificates`.

use berth_model::certificate::{Certificate, CertificateType};
use berth_model::label::Labels;
use berth_model::{CertificateId, ProjectId, Timestamp};
use serde_json::Value;
use sqlx::{PgConnection, Postgres, QueryBuilder};

use super::rules::Uploaded;
use crate::http::{Filter, Page};
use crate::labels;

#[derive(sqlx::FromRow)]
struct Row {
    id: CertificateId,
    name: String,
    certificate: String,
    fingerprint: String,
    not_valid_before: Timestamp,
    not_valid_after: Timestamp,
    domain_names: Vec<String>,
    labels: Value,
    created: Timestamp,
}

impl From<Row> for Certificate {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            name: row.name,
            kind: CertificateType::Uploaded,
            certificate: row.certificate,
            fingerprint: row.fingerprint,
            not_valid_before: row.not_valid_before,
            not_valid_after: row.not_valid_after,
            domain_names: row.domain_names,
            status: None,
            used_by: Vec::new(),
            labels: labels::from_json(row.labels),
            created: row.created,
        }
    }
}

const SELECT: &str =
    "select id, name, certificate, fingerprint, not_valid_before, not_valid_after, domain_names,
    labels, created";

fn push_from(sql: &mut QueryBuilder<Postgres>, project: ProjectId) {
    sql.push(" from certificates where project_id = ").push_bind(project);
}

/// Adds a certificate to the project, with its key sealed.
///
/// # Errors
/// When the database fails; the constraint `certificates_name_key`.
pub async fn insert(
    conn: &mut PgConnection,
    project: ProjectId,
    (name, labels): (&str, &Labels),
    (uploaded, key_sealed): (&Uploaded, &[u8]),
    now: Timestamp,
) -> sqlx::Result<CertificateId> {
    sqlx::query_scalar!(
        r#"insert into certificates (project_id, name, labels, certificate, key_sealed, fingerprint,
               not_valid_before, not_valid_after, domain_names, created)
           values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) returning id as "id: CertificateId""#,
        project.0,
        name,
        labels::to_json(labels),
        uploaded.certificate,
        key_sealed,
        uploaded.fingerprint,
        uploaded.not_valid_before as Timestamp,
        uploaded.not_valid_after as Timestamp,
        &uploaded.domain_names,
        now as Timestamp
    )
    .fetch_one(conn)
    .await
}

/// One certificate of the project.
///
/// # Errors
/// When the database fails.
pub async fn get(
    conn: &mut PgConnection,
    project: ProjectId,
    id: CertificateId,
) -> sqlx::Result<Option<Certificate>> {
    let mut sql = QueryBuilder::new(SELECT);
    push_from(&mut sql, project);
    sql.push(" and id = ").push_bind(id);
    let row: Option<Row> = sql.build_query_as().fetch_optional(conn).await?;
    Ok(row.map(Certificate::from))
}

/// Has the project a certificate of this number?
///
/// # Errors
/// When the database fails.
pub async fn exists(conn: &mut PgConnection, project: ProjectId, id: CertificateId) -> sqlx::Result<bool> {
    Ok(get(conn, project, id).await?.is_some())
}

/// A page of the project's certificates of one of these types, or of any, and how many there are on all pages.
///
/// # Errors
/// When the database fails.
pub async fn list(
    conn: &mut PgConnection,
    project: ProjectId,
    (filter, kinds): (&Filter, &[CertificateType]),
    page: Page,
) -> sqlx::Result<(Vec<Certificate>, i64)> {
    let push_from = |sql: &mut QueryBuilder<Postgres>| {
        push_from(sql, project);
        // All are uploaded.
        if !kinds.is_empty() && !kinds.contains(&CertificateType::Uploaded) {
            sql.push(" and false");
        }
    };
    let (rows, total) = filter.page_of::<Row>(conn, SELECT, push_from, page).await?;
    Ok((rows.into_iter().map(Certificate::from).collect(), total))
}

/// Changes name and labels; what is `None` stays.
///
/// # Errors
/// When the database fails; the constraint `certificates_name_key`.
pub async fn update(
    conn: &mut PgConnection,
    project: ProjectId,
    id: CertificateId,
    (name, labels): (Option<&str>, Option<&Labels>),
) -> sqlx::Result<()> {
    let labels: Option<Value> = labels.map(labels::to_json);
    sqlx::query!(
        "update certificates set name = coalesce($3, name), labels = coalesce($4, labels)
         where project_id = $1 and id = $2",
        project.0,
        id.0,
        name,
        labels
    )
    .execute(conn)
    .await
    .map(drop)
}

/// Removes a certificate and its key; `false` when the project has no such certificate.
///
/// # Errors
/// When the database fails.
pub async fn delete(conn: &mut PgConnection, project: ProjectId, id: CertificateId) -> sqlx::Result<bool> {
    let gone = sqlx::query!("delete from certificates where project_id = $1 and id = $2", project.0, id.0);
    Ok(gone.execute(conn).await?.rows_affected() > 0)
}
