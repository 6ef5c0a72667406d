//! Which servers a list shows, and in which order.

use berth_model::label::Selector;
use berth_model::quota::QuotaKind;
use berth_model::server::{Server, ServerStatus};
use berth_model::{ProjectId, ServerId};
use sqlx::{PgConnection, Postgres, QueryBuilder};

use super::render;
use crate::http::{Page, Sort};
use crate::{labels, quotas};

/// Which of a project's servers a list shows, and in which order.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// With this name.
    pub name: Option<String>,
    /// In one of these; empty for any.
    pub statuses: Vec<ServerStatus>,
    /// With labels that fit.
    pub selector: Selector,
    /// First by the first; ties by id.
    pub sort: Vec<Sort>,
}

impl Filter {
    fn is_everything(&self) -> bool {
        self.name.is_none() && self.statuses.is_empty() && self.selector.0.is_empty()
    }
}

/// One server of the project.
///
/// # Errors
/// When the database fails.
pub async fn get(conn: &mut PgConnection, project: ProjectId, id: ServerId) -> sqlx::Result<Option<Server>> {
    let rendered = render(conn, &[id]).await?.pop();
    Ok(rendered.filter(|(owner, _)| *owner == project).map(|(_, server)| server))
}

/// A page of the project's servers, and how many there are on all pages.
///
/// # Errors
/// When the database fails.
pub async fn list(
    conn: &mut PgConnection,
    project: ProjectId,
    filter: &Filter,
    page: Page,
) -> sqlx::Result<(Vec<Server>, i64)> {
    let total = if filter.is_everything() {
        quotas::queries::used(conn, project, QuotaKind::Servers).await?
    } else {
        let mut sql = QueryBuilder::new("select count(*) from servers");
        push_where(&mut sql, project, filter);
        sql.build_query_scalar().fetch_one(&mut *conn).await?
    };
    let mut sql = QueryBuilder::new("select id from servers");
    push_where(&mut sql, project, filter);
    page.push_to(&mut sql, &filter.sort);
    let ids: Vec<ServerId> = sql.build_query_scalar().fetch_all(&mut *conn).await?;
    let servers = render(conn, &ids).await?.into_iter().map(|(_, server)| server).collect();
    Ok((servers, total))
}

fn push_where(sql: &mut QueryBuilder<Postgres>, project: ProjectId, filter: &Filter) {
    sql.push(" where project_id = ").push_bind(project);
    if let Some(name) = &filter.name {
        sql.push(" and name = ").push_bind(name.clone());
    }
    if !filter.statuses.is_empty() {
        let words: Vec<String> = filter.statuses.iter().map(|status| status.word().to_owned()).collect();
        sql.push(" and status = any (").push_bind(words).push(")");
    }
    labels::push_selector(sql, &filter.selector);
}
