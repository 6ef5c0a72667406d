//! All SQL of `actions` and `action_resources`. Every write puts the action into the outbox, in
//! the same transaction.

use berth_model::action::{Action, ActionError, ActionResource, ActionStatus, ActionStep, ResourceKind};
use berth_model::event::Change;
use berth_model::{ActionId, ErrorCode, ProjectId, Timestamp};
use sqlx::types::Json;
use sqlx::{PgConnection, Postgres, QueryBuilder};

use super::{Filter, NewAction, rules};
use crate::http::Page;
use crate::live::outbox;

/// Starts an action; it is running from now on.
pub async fn start(conn: &mut PgConnection, new: &NewAction<'_>) -> sqlx::Result<Action> {
    let steps = rules::first_steps(new.steps);
    let id = sqlx::query_scalar!(
        r#"insert into actions (project_id, command, status, progress, steps, started)
           values ($1, $2, 'running', 0, $3, $4) returning id as "id: ActionId""#,
        new.project as ProjectId,
        new.command,
        Json(&steps) as _,
        new.now as Timestamp,
    )
    .fetch_one(&mut *conn)
    .await?;
    let (kinds, ids): (Vec<String>, Vec<i64>) =
        new.resources.iter().map(|&(kind, id)| (kind.word().to_owned(), id)).unzip();
    sqlx::query!(
        "insert into action_resources (action_id, kind, id)
         select $1, kind, id from unnest($2::text[], $3::bigint[]) as works_on (kind, id)",
        id as ActionId,
        &kinds,
        &ids,
    )
    .execute(&mut *conn)
    .await?;
    let action = Action {
        id,
        command: new.command.to_owned(),
        status: ActionStatus::Running,
        progress: 0,
        started: new.now,
        finished: None,
        resources: new.resources.iter().map(|&(kind, id)| ActionResource { id, kind }).collect(),
        error: None,
        steps,
    };
    outbox::publish(conn, new.project, &Change::Action { action: Box::new(action.clone()) }, new.now).await?;
    Ok(action)
}

/// Writes an action that was done at once, in the caller's transaction.
pub async fn done(conn: &mut PgConnection, new: &NewAction<'_>) -> sqlx::Result<Action> {
    let mut action = start(conn, new).await?;
    finish(conn, action.id, Ok(()), new.now).await?;
    action.status = ActionStatus::Success;
    action.progress = 100;
    action.finished = Some(new.now);
    action.steps = rules::last_steps(action.steps, true);
    Ok(action)
}

/// Writes how far a running action is. Nothing happens to one that has ended.
pub async fn progress(
    conn: &mut PgConnection,
    id: ActionId,
    steps: &[ActionStep],
    percent: u8,
    now: Timestamp,
) -> sqlx::Result<()> {
    let changed = sqlx::query!(
        "update actions set steps = $2, progress = $3 where id = $1 and status = 'running'",
        id as ActionId,
        Json(steps) as _,
        i16::from(percent.min(100)),
    )
    .execute(&mut *conn)
    .await?;
    if changed.rows_affected() == 0 {
        return Ok(());
    }
    publish(conn, id, now).await
}

/// Ends a running action. Nothing happens to one that has ended.
pub async fn finish(
    conn: &mut PgConnection,
    id: ActionId,
    end: Result<(), ActionError>,
    now: Timestamp,
) -> sqlx::Result<()> {
    let Some(before) = steps(conn, id).await? else { return Ok(()) };
    let steps = rules::last_steps(before, end.is_ok());
    let error = end.err();
    let status = if error.is_none() { ActionStatus::Success } else { ActionStatus::Error };
    sqlx::query!(
        "update actions set status = $2, progress = case when $2 = 'success' then 100 else progress end,
                steps = $3, error_code = $4, error_message = $5, finished = $6
         where id = $1 and status = 'running'",
        id as ActionId,
        status as ActionStatus,
        Json(&steps) as _,
        error.as_ref().map(|e| e.code) as Option<ErrorCode>,
        error.as_ref().map(|e| e.message.as_str()),
        now as Timestamp,
    )
    .execute(&mut *conn)
    .await?;
    publish(conn, id, now).await
}

/// The steps of a running action, its row locked until the transaction ends; `None` when it has ended.
pub async fn steps(conn: &mut PgConnection, id: ActionId) -> sqlx::Result<Option<Vec<ActionStep>>> {
    let row = sqlx::query_scalar!(
        r#"select steps as "steps: Json<Vec<ActionStep>>" from actions
           where id = $1 and status = 'running' for update"#,
        id as ActionId,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|steps| steps.0))
}

/// The one action of a project that fits, if any.
pub async fn find(
    conn: &mut PgConnection,
    project: ProjectId,
    filter: &Filter,
) -> sqlx::Result<Option<Action>> {
    let mut query = QueryBuilder::new(SELECT);
    filter_by(&mut query, project, filter);
    let row: Option<Row> = query.build_query_as().fetch_optional(conn).await?;
    Ok(row.map(Action::from))
}

/// An action of a project.
pub async fn get(conn: &mut PgConnection, project: ProjectId, id: ActionId) -> sqlx::Result<Option<Action>> {
    find(conn, project, &Filter { ids: Some(vec![id]), ..Filter::default() }).await
}

/// A page of a project's actions, and how many there are on all pages.
pub async fn list(
    conn: &mut PgConnection,
    project: ProjectId,
    filter: &Filter,
    page: Page,
) -> sqlx::Result<(Vec<Action>, i64)> {
    let mut count = QueryBuilder::new("select count(*) from actions a");
    filter_by(&mut count, project, filter);
    let total: i64 = count.build_query_scalar().fetch_one(&mut *conn).await?;

    let mut query = QueryBuilder::new(SELECT);
    filter_by(&mut query, project, filter);
    page.push_to(&mut query, &filter.sort);
    let rows: Vec<Row> = query.build_query_as().fetch_all(conn).await?;
    Ok((rows.into_iter().map(Action::from).collect(), total))
}

/// Whether any action of the project works or worked on this resource.
pub async fn exists_for(
    conn: &mut PgConnection,
    project: ProjectId,
    (kind, id): (ResourceKind, i64),
) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from action_resources r join actions a on a.id = r.action_id
                          where r.kind = $2 and r.id = $3 and a.project_id = $1) as "exists!""#,
        project as ProjectId,
        kind as ResourceKind,
        id,
    )
    .fetch_one(conn)
    .await
}

async fn publish(conn: &mut PgConnection, id: ActionId, now: Timestamp) -> sqlx::Result<()> {
    let mut query = QueryBuilder::new(SELECT);
    query.push(" where a.id = ").push_bind(id);
    let row: Row = query.build_query_as().fetch_one(&mut *conn).await?;
    let project = row.project_id;
    outbox::publish(conn, project, &Change::Action { action: Box::new(row.into()) }, now).await
}

const SELECT: &str = "select a.id, a.project_id, a.command, a.status, a.progress, a.steps, a.error_code,
    a.error_message, a.started, a.finished,
    coalesce((select jsonb_agg(jsonb_build_object('id', r.id, 'type', r.kind) order by r.kind, r.id)
              from action_resources r where r.action_id = a.id), '[]') as resources
    from actions a";

#[derive(sqlx::FromRow)]
struct Row {
    id: ActionId,
    project_id: ProjectId,
    command: String,
    status: ActionStatus,
    progress: i16,
    steps: Json<Vec<ActionStep>>,
    error_code: Option<ErrorCode>,
    error_message: Option<String>,
    started: Timestamp,
    finished: Option<Timestamp>,
    resources: Json<Vec<ActionResource>>,
}

impl From<Row> for Action {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            command: row.command,
            status: row.status,
            progress: u8::try_from(row.progress).unwrap_or(100),
            started: row.started,
            finished: row.finished,
            resources: row.resources.0,
            error: row
                .error_code
                .map(|code| ActionError { code, message: row.error_message.unwrap_or_default() }),
            steps: row.steps.0,
        }
    }
}

fn filter_by(query: &mut QueryBuilder<Postgres>, project: ProjectId, filter: &Filter) {
    query.push(" where a.project_id = ").push_bind(project);
    if let Some(ids) = &filter.ids {
        query.push(" and a.id = any(").push_bind(ids.iter().map(|id| id.0).collect::<Vec<_>>()).push(")");
    }
    if !filter.statuses.is_empty() {
        let words: Vec<_> = filter.statuses.iter().map(|status| status.word().to_owned()).collect();
        query.push(" and a.status = any(").push_bind(words).push(")");
    }
    if let Some((kind, id)) = filter.resource {
        query
            .push(" and exists (select from action_resources r where r.action_id = a.id and r.kind = ")
            .push_bind(kind);
        if let Some(id) = id {
            query.push(" and r.id = ").push_bind(id);
        }
        query.push(")");
    }
}
