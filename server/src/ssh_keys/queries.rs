//! All SQL of `ssh_keys`.

use berth_model::label::Labels;
use berth_model::server::NameOrId;
use berth_model::ssh_key::SshKey;
use berth_model::{ProjectId, SshKeyId, Timestamp};
use serde_json::Value;
use sqlx::{PgConnection, Postgres, QueryBuilder};

use super::rules::Key;
use crate::http::{Filter, Page};
use crate::labels;

#[derive(sqlx::FromRow)]
struct Row {
    id: SshKeyId,
    name: String,
    fingerprint: String,
    public_key: String,
    labels: Value,
    created: Timestamp,
}

impl From<Row> for SshKey {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            name: row.name,
            fingerprint: row.fingerprint,
            public_key: row.public_key,
            labels: labels::from_json(row.labels),
            created: row.created,
        }
    }
}

/// Adds a key to the project.
///
/// # Errors
/// When the database fails; the constraints `ssh_keys_name_key` and `ssh_keys_fingerprint_key`.
pub async fn insert(
    conn: &mut PgConnection,
    project: ProjectId,
    (name, key, labels): (&str, &Key, &Labels),
    now: Timestamp,
) -> sqlx::Result<SshKey> {
    sqlx::query_as!(
        Row,
        r#"insert into ssh_keys (project_id, name, fingerprint, public_key, labels, created)
           values ($1, $2, $3, $4, $5, $6)
           returning id as "id: SshKeyId", name, fingerprint, public_key, labels, created as "created: Timestamp""#,
        project.0,
        name,
        key.fingerprint,
        key.line,
        labels::to_json(labels),
        now as Timestamp
    )
    .fetch_one(conn)
    .await
    .map(SshKey::from)
}

/// One key of the project.
///
/// # Errors
/// When the database fails.
pub async fn get(conn: &mut PgConnection, project: ProjectId, id: SshKeyId) -> sqlx::Result<Option<SshKey>> {
    let row = sqlx::query_as!(
        Row,
        r#"select id as "id: SshKeyId", name, fingerprint, public_key, labels, created as "created: Timestamp"
           from ssh_keys where project_id = $1 and id = $2"#,
        project.0,
        id.0
    );
    Ok(row.fetch_optional(conn).await?.map(SshKey::from))
}

/// A page of the project's keys, of those with this fingerprint if one is given, and how many there are on all pages.
///
/// # Errors
/// When the database fails.
pub async fn list(
    conn: &mut PgConnection,
    project: ProjectId,
    (filter, fingerprint): (&Filter, Option<&str>),
    page: Page,
) -> sqlx::Result<(Vec<SshKey>, i64)> {
    let select = "select id, name, fingerprint, public_key, labels, created";
    let push_from = |sql: &mut QueryBuilder<Postgres>| {
        sql.push(" from ssh_keys where project_id = ").push_bind(project);
        if let Some(fingerprint) = fingerprint {
            sql.push(" and fingerprint = ").push_bind(fingerprint.to_owned());
        }
    };
    let (rows, total) = filter.page_of::<Row>(conn, select, push_from, page).await?;
    Ok((rows.into_iter().map(SshKey::from).collect(), total))
}

/// Changes name and labels; what is `None` stays. `None` when the project has no such key.
///
/// # Errors
/// When the database fails; the constraint `ssh_keys_name_key`.
pub async fn update(
    conn: &mut PgConnection,
    project: ProjectId,
    id: SshKeyId,
    name: Option<&str>,
    labels: Option<&Labels>,
) -> sqlx::Result<Option<SshKey>> {
    let labels: Option<Value> = labels.map(labels::to_json);
    let row = sqlx::query_as!(
        Row,
        r#"update ssh_keys set name = coalesce($3, name), labels = coalesce($4, labels)
           where project_id = $1 and id = $2
           returning id as "id: SshKeyId", name, fingerprint, public_key, labels, created as "created: Timestamp""#,
        project.0,
        id.0,
        name,
        labels
    );
    Ok(row.fetch_optional(conn).await?.map(SshKey::from))
}

/// Removes a key; `false` when the project has no such key.
///
/// # Errors
/// When the database fails.
pub async fn delete(conn: &mut PgConnection, project: ProjectId, id: SshKeyId) -> sqlx::Result<bool> {
    let gone = sqlx::query!("delete from ssh_keys where project_id = $1 and id = $2", project.0, id.0);
    Ok(gone.execute(conn).await?.rows_affected() > 0)
}

/// The line of each key that is named, in the order of the names; `None` where the project has no
/// such key. A number wins over a name.
///
/// # Errors
/// When the database fails.
pub async fn lines(
    conn: &mut PgConnection,
    project: ProjectId,
    named: &[NameOrId],
) -> sqlx::Result<Vec<Option<String>>> {
    if named.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<i64> = named.iter().filter_map(NameOrId::id).collect();
    let names: Vec<String> = named.iter().map(NameOrId::text).collect();
    let rows = sqlx::query!(
        "select id, name, public_key from ssh_keys where project_id = $1 and (id = any ($2) or name = any ($3))",
        project.0,
        &ids,
        &names
    )
    .fetch_all(conn)
    .await?;
    let line = |one: &NameOrId| {
        let by_id = rows.iter().find(|row| Some(row.id) == one.id());
        let found = by_id.or_else(|| rows.iter().find(|row| row.name == one.text()));
        found.map(|row| row.public_key.clone())
    };
    Ok(named.iter().map(line).collect())
}
