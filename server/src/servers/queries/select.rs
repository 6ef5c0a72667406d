//! Which servers there are: those that a list shows, in its order, and what others ask about many.

use berth_model::label::Labels;
use berth_model::quota::QuotaKind;
use berth_model::server::{Server, ServerStatus};
use berth_model::{NodeId, ProjectId, ServerId};
use sqlx::{PgConnection, Postgres, QueryBuilder};

use super::render;
use crate::http::{Filter, Page};
use crate::{labels, quotas};

/// One server of the project.
///
/// # Errors
/// When the database fails.
pub async fn get(conn: &mut PgConnection, project: ProjectId, id: ServerId) -> sqlx::Result<Option<Server>> {
    let rendered = render(conn, &[id]).await?.pop();
    Ok(rendered.filter(|(owner, _)| *owner == project).map(|(_, server)| server))
}

/// A page of the project's servers in one of these states, or in any, and how many there are on all pages.
///
/// # Errors
/// When the database fails.
pub async fn list(
    conn: &mut PgConnection,
    project: ProjectId,
    (filter, statuses): (&Filter, &[ServerStatus]),
    page: Page,
) -> sqlx::Result<(Vec<Server>, i64)> {
    let narrowed = |select| {
        let mut sql = QueryBuilder::<Postgres>::new(select);
        sql.push(" from servers where project_id = ").push_bind(project);
        if !statuses.is_empty() {
            let words: Vec<String> = statuses.iter().map(|status| status.word().to_owned()).collect();
            sql.push(" and status = any (").push_bind(words).push(")");
        }
        filter.push_to(&mut sql);
        sql
    };
    let total = if filter.is_everything() && statuses.is_empty() {
        quotas::queries::used(conn, project, QuotaKind::Servers).await?
    } else {
        narrowed("select count(*)").build_query_scalar().fetch_one(&mut *conn).await?
    };
    let mut sql = narrowed("select id");
    page.push_to(&mut sql, &filter.sort);
    let ids: Vec<ServerId> = sql.build_query_scalar().fetch_all(&mut *conn).await?;
    let servers = render(conn, &ids).await?.into_iter().map(|(_, server)| server).collect();
    Ok((servers, total))
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
