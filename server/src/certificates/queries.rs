//! All SQL of `certificates`.

use berth_model::certificate::{Certificate, CertificateType};
use berth_model::label::{Labels, Selector};
use berth_model::{CertificateId, ProjectId, Timestamp};
use serde_json::Value;
use sqlx::{PgConnection, Postgres, QueryBuilder};

use super::rules::Uploaded;
use crate::http::{Page, Sort};
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

/// Which of a project's certificates a list shows.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// With this name.
    pub name: Option<String>,
    /// Of one of these types; empty for any.
    pub kinds: Vec<CertificateType>,
    /// With labels that fit.
    pub selector: Selector,
    /// First by the first; ties by id.
    pub sort: Vec<Sort>,
}

const SELECT: &str =
    "select id, name, certificate, fingerprint, not_valid_before, not_valid_after, domain_names,
    labels, created";

fn push_where(sql: &mut QueryBuilder<Postgres>, project: ProjectId, filter: &Filter) {
    sql.push(" from certificates where project_id = ").push_bind(project);
    if let Some(name) = &filter.name {
        sql.push(" and name = ").push_bind(name.clone());
    }
    // All are uploaded.
    if !filter.kinds.is_empty() && !filter.kinds.contains(&CertificateType::Uploaded) {
        sql.push(" and false");
    }
    labels::push_selector(sql, &filter.selector);
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
    push_where(&mut sql, project, &Filter::default());
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

/// A page of the project's certificates, and how many there are on all pages.
///
/// # Errors
/// When the database fails.
pub async fn list(
    conn: &mut PgConnection,
    project: ProjectId,
    filter: &Filter,
    page: Page,
) -> sqlx::Result<(Vec<Certificate>, i64)> {
    let mut sql = QueryBuilder::new("select count(*)");
    push_where(&mut sql, project, filter);
    let total: i64 = sql.build_query_scalar().fetch_one(&mut *conn).await?;
    let mut sql = QueryBuilder::new(SELECT);
    push_where(&mut sql, project, filter);
    page.push_to(&mut sql, &filter.sort);
    let rows: Vec<Row> = sql.build_query_as().fetch_all(conn).await?;
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
