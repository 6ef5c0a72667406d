//! All SQL of `firewalls`, `firewall_servers` and `firewall_selectors`.

use std::collections::{BTreeSet, HashMap};

use berth_model::firewall::{
    Firewall, FirewallResource, FirewallRule, FirewallTarget, FirewallTargetKind, SelectorText, ServerNumber,
};
use berth_model::label::{Labels, Selector};
use berth_model::{FirewallId, ProjectId, ServerId, Timestamp};
use serde_json::Value;
use sqlx::types::Json;
use sqlx::{PgConnection, Postgres, QueryBuilder};

use super::rules;
use crate::http::{Filter, Page};
use crate::{labels, servers};

/// Until the transaction ends, nobody adds servers to the project or changes their labels while its firewalls are
/// being applied or removed (`applies`), and the other way round. Taken before any server's row is locked.
///
/// # Errors
/// When the database fails.
pub async fn take_turns(conn: &mut PgConnection, project: ProjectId, applies: bool) -> sqlx::Result<()> {
    let name = format!("firewalls of project {project}");
    if applies {
        sqlx::query!("select pg_advisory_xact_lock(hashtextextended($1, 0))", name).execute(conn).await?;
    } else {
        sqlx::query!("select pg_advisory_xact_lock_shared(hashtextextended($1, 0))", name)
            .execute(conn)
            .await?;
    }
    Ok(())
}

/// Writes a new firewall, applied to nothing.
///
/// # Errors
/// When the database fails; the constraint `firewalls_name_key` when the name is taken.
pub async fn insert(
    conn: &mut PgConnection,
    project: ProjectId,
    (name, marks, rules): (&str, &Labels, &[FirewallRule]),
    now: Timestamp,
) -> sqlx::Result<FirewallId> {
    sqlx::query_scalar!(
        r#"insert into firewalls (project_id, name, labels, rules, created) values ($1, $2, $3, $4, $5)
           returning id as "id: FirewallId""#,
        project.0,
        name,
        labels::to_json(marks),
        Json(rules) as _,
        now as Timestamp
    )
    .fetch_one(conn)
    .await
}

/// A firewall of the project is there; its row is locked until the transaction ends.
///
/// # Errors
/// When the database fails.
pub async fn hold(conn: &mut PgConnection, project: ProjectId, id: FirewallId) -> sqlx::Result<bool> {
    let row = sqlx::query_scalar!(
        "select id from firewalls where project_id = $1 and id = $2 for no key update",
        project.0,
        id.0
    );
    Ok(row.fetch_optional(conn).await?.is_some())
}

/// Has the project a firewall of this number?
///
/// # Errors
/// When the database fails.
pub async fn exists(conn: &mut PgConnection, project: ProjectId, id: FirewallId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from firewalls where project_id = $1 and id = $2) as "exists!""#,
        project.0,
        id.0
    )
    .fetch_one(conn)
    .await
}

/// Changes name and labels; what is `None` stays.
///
/// # Errors
/// When the database fails; the constraint `firewalls_name_key` when the name is taken.
pub async fn update(
    conn: &mut PgConnection,
    id: FirewallId,
    name: Option<&str>,
    marks: Option<&Labels>,
) -> sqlx::Result<()> {
    let marks: Option<Value> = marks.map(labels::to_json);
    sqlx::query!(
        "update firewalls set name = coalesce($2, name), labels = coalesce($3, labels) where id = $1",
        id.0,
        name,
        marks
    )
    .execute(conn)
    .await
    .map(drop)
}

/// Gives a firewall these rules.
///
/// # Errors
/// When the database fails.
pub async fn set_rules(conn: &mut PgConnection, id: FirewallId, rules: &[FirewallRule]) -> sqlx::Result<()> {
    sqlx::query!("update firewalls set rules = $2 where id = $1", id.0, Json(rules) as _)
        .execute(conn)
        .await
        .map(drop)
}

/// Removes a firewall.
///
/// # Errors
/// When the database fails.
pub async fn delete(conn: &mut PgConnection, id: FirewallId) -> sqlx::Result<()> {
    sqlx::query!("delete from firewalls where id = $1", id.0).execute(conn).await.map(drop)
}

/// Is a firewall applied to anything, be it a selector that no server fits?
///
/// # Errors
/// When the database fails.
pub async fn is_applied(conn: &mut PgConnection, id: FirewallId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from firewall_servers where firewall_id = $1)
               or exists (select from firewall_selectors where firewall_id = $1) as "is!""#,
        id.0
    )
    .fetch_one(conn)
    .await
}

/// Applies a firewall to a server; `false` when it was.
///
/// # Errors
/// When the database fails.
pub async fn add_server(conn: &mut PgConnection, id: FirewallId, server: ServerId) -> sqlx::Result<bool> {
    let added = sqlx::query!(
        "insert into firewall_servers (firewall_id, server_id) values ($1, $2) on conflict do nothing",
        id.0,
        server.0
    );
    Ok(added.execute(conn).await?.rows_affected() == 1)
}

/// To how many servers, and how many selectors, a firewall is applied.
///
/// # Errors
/// When the database fails.
pub async fn applied_to(conn: &mut PgConnection, id: FirewallId) -> sqlx::Result<(i64, i64)> {
    let counts = sqlx::query!(
        r#"select (select count(*) from firewall_servers where firewall_id = $1) as "servers!",
                  (select count(*) from firewall_selectors where firewall_id = $1) as "selectors!""#,
        id.0
    );
    let counts = counts.fetch_one(conn).await?;
    Ok((counts.servers, counts.selectors))
}

/// Takes a firewall from a server; `false` when it was not applied to it by its number.
///
/// # Errors
/// When the database fails.
pub async fn remove_server(conn: &mut PgConnection, id: FirewallId, server: ServerId) -> sqlx::Result<bool> {
    let removed = sqlx::query!(
        "delete from firewall_servers where firewall_id = $1 and server_id = $2",
        id.0,
        server.0
    );
    Ok(removed.execute(conn).await?.rows_affected() == 1)
}

/// Applies a firewall to whom a selector fits; `false` when it was.
///
/// # Errors
/// When the database fails.
pub async fn add_selector(conn: &mut PgConnection, id: FirewallId, selector: &str) -> sqlx::Result<bool> {
    let added = sqlx::query!(
        "insert into firewall_selectors (firewall_id, selector) values ($1, $2) on conflict do nothing",
        id.0,
        selector
    );
    Ok(added.execute(conn).await?.rows_affected() == 1)
}

/// Takes a firewall from whom a selector fits; `false` when it was not applied by it.
///
/// # Errors
/// When the database fails.
pub async fn remove_selector(conn: &mut PgConnection, id: FirewallId, selector: &str) -> sqlx::Result<bool> {
    let removed = sqlx::query!(
        "delete from firewall_selectors where firewall_id = $1 and selector = $2",
        id.0,
        selector
    );
    Ok(removed.execute(conn).await?.rows_affected() == 1)
}

/// The servers that have a firewall.
///
/// # Errors
/// When the database fails.
pub async fn servers_with(
    conn: &mut PgConnection,
    project: ProjectId,
    id: FirewallId,
) -> sqlx::Result<BTreeSet<ServerId>> {
    let by_number = sqlx::query_scalar!(
        r#"select server_id as "id: ServerId" from firewall_servers where firewall_id = $1"#,
        id.0
    );
    let mut found: BTreeSet<ServerId> = by_number.fetch_all(&mut *conn).await?.into_iter().collect();
    let selectors =
        sqlx::query_scalar!("select selector from firewall_selectors where firewall_id = $1", id.0);
    let selectors = selectors.fetch_all(&mut *conn).await?;
    let marked = labels_for(conn, project, &selectors).await?;
    for selector in selectors {
        found.extend(fitting(&selector, &marked)?);
    }
    Ok(found)
}

/// The firewalls that a server has, by number.
///
/// # Errors
/// When the database fails.
pub async fn of_server(conn: &mut PgConnection, server: ServerId) -> sqlx::Result<Vec<FirewallId>> {
    let marked = servers::queries::labels_of(conn, &[server]).await?;
    Ok(of_servers(conn, &marked).await?.remove(&server).unwrap_or_default())
}

/// The firewalls that each of these servers has, by number; those without any are left out.
///
/// # Errors
/// When the database fails.
pub async fn of_servers(
    conn: &mut PgConnection,
    servers: &[(ProjectId, ServerId, Labels)],
) -> sqlx::Result<HashMap<ServerId, Vec<FirewallId>>> {
    let ids: Vec<i64> = servers.iter().map(|(_, id, _)| id.0).collect();
    let mut projects: Vec<i64> = servers.iter().map(|(project, ..)| project.0).collect();
    projects.dedup();
    let rows = sqlx::query!(
        r#"select firewall_id as "firewall!: FirewallId", server_id as "server: ServerId",
                  null::bigint as "project: ProjectId", null::text as selector
           from firewall_servers where server_id = any ($1)
           union all
           select f.id, null, f.project_id, s.selector
           from firewall_selectors s join firewalls f on f.id = s.firewall_id where f.project_id = any ($2)"#,
        &ids,
        &projects
    );
    let mut has: HashMap<ServerId, BTreeSet<FirewallId>> = HashMap::new();
    for row in rows.fetch_all(conn).await? {
        if let Some(server) = row.server {
            has.entry(server).or_default().insert(row.firewall);
        }
        let Some(selector) = row.selector.as_deref().map(read).transpose()? else { continue };
        for (project, server, marks) in servers {
            if Some(*project) == row.project && selector.matches(marks) {
                has.entry(*server).or_default().insert(row.firewall);
            }
        }
    }
    Ok(has.into_iter().map(|(server, firewalls)| (server, firewalls.into_iter().collect())).collect())
}

/// The rules of these firewalls, by number.
///
/// # Errors
/// When the database fails.
pub async fn rules_of(conn: &mut PgConnection, ids: &[FirewallId]) -> sqlx::Result<Vec<Vec<FirewallRule>>> {
    let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
    let rows = sqlx::query_scalar!(
        r#"select rules as "rules: Json<Vec<FirewallRule>>" from firewalls where id = any ($1) order by id"#,
        &ids
    );
    Ok(rows.fetch_all(conn).await?.into_iter().map(|rules| rules.0).collect())
}

#[derive(sqlx::FromRow)]
struct Row {
    id: FirewallId,
    name: String,
    labels: Value,
    rules: Json<Vec<FirewallRule>>,
    created: Timestamp,
    servers: Vec<i64>,
    selectors: Vec<String>,
}

const SELECT: &str = "select id, name, labels, rules, created,
    array(select s.server_id from firewall_servers s where s.firewall_id = firewalls.id order by 1) as servers,
    array(select s.selector from firewall_selectors s where s.firewall_id = firewalls.id order by 1) as selectors";

fn push_from(sql: &mut QueryBuilder<Postgres>, project: ProjectId) {
    sql.push(" from firewalls where project_id = ").push_bind(project);
}

/// One firewall of the project.
///
/// # Errors
/// When the database fails.
pub async fn get(
    conn: &mut PgConnection,
    project: ProjectId,
    id: FirewallId,
) -> sqlx::Result<Option<Firewall>> {
    let mut sql = QueryBuilder::new(SELECT);
    push_from(&mut sql, project);
    sql.push(" and id = ").push_bind(id);
    let rows: Vec<Row> = sql.build_query_as().fetch_all(&mut *conn).await?;
    Ok(render(conn, project, rows).await?.pop())
}

/// A page of the project's firewalls, and how many there are on all pages.
///
/// # Errors
/// When the database fails.
pub async fn list(
    conn: &mut PgConnection,
    project: ProjectId,
    filter: &Filter,
    page: Page,
) -> sqlx::Result<(Vec<Firewall>, i64)> {
    let (rows, total) = filter.page_of(conn, SELECT, |sql| push_from(sql, project), page).await?;
    Ok((render(conn, project, rows).await?, total))
}

async fn render(conn: &mut PgConnection, project: ProjectId, rows: Vec<Row>) -> sqlx::Result<Vec<Firewall>> {
    let selectors: Vec<String> = rows.iter().flat_map(|row| row.selectors.clone()).collect();
    let marked = labels_for(conn, project, &selectors).await?;
    let mut firewalls = Vec::with_capacity(rows.len());
    for row in rows {
        let server = |id: i64| FirewallResource {
            kind: FirewallTargetKind::Server,
            server: Some(ServerNumber { id: ServerId(id) }),
            label_selector: None,
            applied_to_resources: None,
        };
        let mut applied_to: Vec<_> = row.servers.into_iter().map(server).collect();
        for selector in row.selectors {
            let fit = fitting(&selector, &marked)?.into_iter().map(FirewallTarget::from).collect();
            applied_to.push(FirewallResource {
                kind: FirewallTargetKind::LabelSelector,
                server: None,
                label_selector: Some(SelectorText { selector }),
                applied_to_resources: Some(fit),
            });
        }
        firewalls.push(Firewall {
            id: row.id,
            name: row.name,
            labels: labels::from_json(row.labels),
            rules: row.rules.0,
            applied_to,
            created: row.created,
        });
    }
    Ok(firewalls)
}

/// The labels of the project's servers, if there is a selector that they may fit.
async fn labels_for(
    conn: &mut PgConnection,
    project: ProjectId,
    selectors: &[String],
) -> sqlx::Result<Vec<(ServerId, Labels)>> {
    if selectors.is_empty() {
        return Ok(Vec::new());
    }
    servers::queries::all_labels(conn, project).await
}

fn fitting(selector: &str, marked: &[(ServerId, Labels)]) -> sqlx::Result<Vec<ServerId>> {
    let selector = read(selector)?;
    Ok(marked.iter().filter(|(_, marks)| selector.matches(marks)).map(|(id, _)| *id).collect())
}

/// A selector that was found good when it was written.
fn read(selector: &str) -> sqlx::Result<Selector> {
    rules::selector(selector).map_err(|message| sqlx::Error::Decode(message.into()))
}
