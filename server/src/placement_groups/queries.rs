//! All SQL of `placement_groups`, and of the column by which servers are in them.

use berth_model::label::Labels;
use berth_model::placement_group::{PlacementGroup, PlacementGroupType};
use berth_model::{NodeId, PlacementGroupId, ProjectId, ServerId, Timestamp};
use serde_json::Value;
use sqlx::{PgConnection, Postgres, QueryBuilder};

use crate::http::{Filter, Page};
use crate::labels;

#[derive(sqlx::FromRow)]
struct Row {
    id: PlacementGroupId,
    name: String,
    labels: Value,
    created: Timestamp,
    servers: Vec<i64>,
}

impl From<Row> for PlacementGroup {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            name: row.name,
            kind: PlacementGroupType::Spread,
            servers: row.servers.into_iter().map(ServerId).collect(),
            labels: labels::from_json(row.labels),
            created: row.created,
        }
    }
}

const SELECT: &str = "select g.id, g.name, g.labels, g.created,
    array(select s.id from servers s where s.placement_group_id = g.id order by s.id) as servers";

fn push_from(sql: &mut QueryBuilder<Postgres>, project: ProjectId) {
    sql.push(" from placement_groups g where project_id = ").push_bind(project);
}

/// Adds a group to the project.
///
/// # Errors
/// When the database fails; the constraint `placement_groups_name_key`.
pub async fn insert(
    conn: &mut PgConnection,
    project: ProjectId,
    (name, labels): (&str, &Labels),
    now: Timestamp,
) -> sqlx::Result<PlacementGroupId> {
    sqlx::query_scalar!(
        r#"insert into placement_groups (project_id, name, labels, created) values ($1, $2, $3, $4)
           returning id as "id: PlacementGroupId""#,
        project.0,
        name,
        labels::to_json(labels),
        now as Timestamp
    )
    .fetch_one(conn)
    .await
}

/// One group of the project.
///
/// # Errors
/// When the database fails.
pub async fn get(
    conn: &mut PgConnection,
    project: ProjectId,
    id: PlacementGroupId,
) -> sqlx::Result<Option<PlacementGroup>> {
    let mut sql = QueryBuilder::new(SELECT);
    push_from(&mut sql, project);
    sql.push(" and g.id = ").push_bind(id);
    let row: Option<Row> = sql.build_query_as().fetch_optional(conn).await?;
    Ok(row.map(PlacementGroup::from))
}

/// A page of the project's groups, and how many there are on all pages.
///
/// # Errors
/// When the database fails.
pub async fn list(
    conn: &mut PgConnection,
    project: ProjectId,
    filter: &Filter,
    page: Page,
) -> sqlx::Result<(Vec<PlacementGroup>, i64)> {
    let (rows, total) = filter.page_of::<Row>(conn, SELECT, |sql| push_from(sql, project), page).await?;
    Ok((rows.into_iter().map(PlacementGroup::from).collect(), total))
}

/// The groups of these numbers.
///
/// # Errors
/// When the database fails.
pub async fn by_ids(conn: &mut PgConnection, ids: &[PlacementGroupId]) -> sqlx::Result<Vec<PlacementGroup>> {
    let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
    let mut sql = QueryBuilder::new(SELECT);
    sql.push(" from placement_groups g where g.id = any (").push_bind(ids).push(")");
    let rows: Vec<Row> = sql.build_query_as().fetch_all(conn).await?;
    Ok(rows.into_iter().map(PlacementGroup::from).collect())
}

/// Changes name and labels; what is `None` stays. `false` when the project has no such group.
///
/// # Errors
/// When the database fails; the constraint `placement_groups_name_key`.
pub async fn update(
    conn: &mut PgConnection,
    project: ProjectId,
    id: PlacementGroupId,
    (name, labels): (Option<&str>, Option<&Labels>),
) -> sqlx::Result<bool> {
    let labels: Option<Value> = labels.map(labels::to_json);
    let changed = sqlx::query!(
        "update placement_groups set name = coalesce($3, name), labels = coalesce($4, labels)
         where project_id = $1 and id = $2",
        project.0,
        id.0,
        name,
        labels
    );
    Ok(changed.execute(conn).await?.rows_affected() > 0)
}

/// Removes a group; `false` when the project has no such group.
///
/// # Errors
/// When the database fails; the constraint `servers_placement_group_fk` while servers are in it.
pub async fn delete(conn: &mut PgConnection, project: ProjectId, id: PlacementGroupId) -> sqlx::Result<bool> {
    let gone =
        sqlx::query!("delete from placement_groups where project_id = $1 and id = $2", project.0, id.0);
    Ok(gone.execute(conn).await?.rows_affected() > 0)
}

/// The group that a server is in. The server's row is held.
///
/// # Errors
/// When the database fails.
pub async fn of_server(conn: &mut PgConnection, server: ServerId) -> sqlx::Result<Option<PlacementGroupId>> {
    let group = sqlx::query_scalar!(
        r#"select placement_group_id as "group: PlacementGroupId" from servers where id = $1"#,
        server.0
    );
    Ok(group.fetch_optional(conn).await?.flatten())
}

/// Puts a server into a group, or into none.
///
/// # Errors
/// When the database fails; the constraint `servers_spread_key` when another server of the group stands on its node,
/// `servers_placement_group_fk` when the group is gone.
pub async fn join(
    conn: &mut PgConnection,
    server: ServerId,
    group: Option<PlacementGroupId>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update servers set placement_group_id = $2 where id = $1",
        server.0,
        group.map(|group| group.0)
    )
    .execute(conn)
    .await
    .map(drop)
}

/// The nodes where other servers of this server's group stand.
///
/// # Errors
/// When the database fails.
pub async fn taken(conn: &mut PgConnection, server: ServerId) -> sqlx::Result<Vec<NodeId>> {
    sqlx::query_scalar!(
        r#"select other.node_id as "node!: NodeId"
           from servers s join servers other on other.placement_group_id = s.placement_group_id
           where s.id = $1 and other.id <> s.id and other.node_id is not null"#,
        server.0
    )
    .fetch_all(conn)
    .await
}
