//! All SQL of what projects have, their limits, and requests for more. What they have is written by triggers.

use std::collections::BTreeMap;

use berth_model::quota::{Limit, LimitRequest, LimitRequestCreate, LimitRequestStatus, QuotaKind};
use berth_model::{AccountId, LimitRequestId, ProjectId, Timestamp};
use sqlx::{PgConnection, query, query_as, query_scalar};

use crate::config::Config;
use crate::http::Page;

/// Holds the account of a project until the transaction ends: what its projects have together grows for one
/// at a time. Not against those who only refer to it. What the transaction has written so far is counted.
pub(super) async fn hold_account(conn: &mut PgConnection, project: ProjectId) -> sqlx::Result<()> {
    query!("set constraints usage_settled immediate").execute(&mut *conn).await?;
    query!(
        "select a.id from accounts a join projects p on p.account_id = a.id where p.id = $1 for no key update of a",
        project as ProjectId
    )
    .fetch_optional(conn)
    .await?;
    Ok(())
}

/// What a project has of one kind.
///
/// # Errors
/// When the database fails.
pub async fn used(conn: &mut PgConnection, project: ProjectId, kind: QuotaKind) -> sqlx::Result<i64> {
    let used = query_scalar!(
        "select used from usage where project_id = $1 and kind = $2",
        project as ProjectId,
        kind as QuotaKind
    );
    Ok(used.fetch_optional(conn).await?.unwrap_or(0))
}

/// How a project stands with every kind.
///
/// # Errors
/// When the database fails.
pub async fn standing(
    conn: &mut PgConnection,
    config: &Config,
    project: ProjectId,
) -> sqlx::Result<Vec<Limit>> {
    let rows = query!(
        r#"with siblings as (select id, account_id from projects
                             where account_id = (select account_id from projects where id = $1)),
           counted as (select kind, sum(used)::bigint as account_used,
                              coalesce(sum(used) filter (where project_id = $1), 0)::bigint as used
                       from usage where project_id in (select id from siblings) group by kind),
           limited as (select kind, max(most) filter (where project_id is not null) as project_most,
                              max(most) filter (where account_id is not null) as account_most
                       from quota_limits
                       where project_id = $1 or account_id = (select account_id from siblings limit 1) group by kind)
           select coalesce(counted.kind, limited.kind) as "kind!", coalesce(used, 0) as "used!",
                  coalesce(account_used, 0) as "account_used!", project_most, account_most
           from counted full join limited on limited.kind = counted.kind"#,
        project as ProjectId
    )
    .fetch_all(conn)
    .await?;
    let rows: BTreeMap<_, _> = rows.iter().map(|row| (row.kind.as_str(), row)).collect();
    let limit = |kind: &QuotaKind| {
        let row = rows.get(kind.word());
        Limit {
            kind: *kind,
            used: row.map_or(0, |row| row.used),
            limit: row
                .and_then(|row| row.project_most)
                .unwrap_or_else(|| config.project_limits.of_project(*kind)),
            account_used: row.map_or(0, |row| row.account_used),
            account_limit: row
                .and_then(|row| row.account_most)
                .unwrap_or_else(|| config.account_limits.of_account(*kind, &config.project_limits)),
        }
    };
    Ok(QuotaKind::ALL.iter().map(limit).collect())
}

/// Whether there is such a project.
pub(super) async fn project_exists(conn: &mut PgConnection, id: ProjectId) -> sqlx::Result<bool> {
    query_scalar!(r#"select exists (select from projects where id = $1) as "exists!""#, id as ProjectId)
        .fetch_one(conn)
        .await
}

/// Whose limit is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// Of all projects of an account together.
    Account(AccountId),
    /// Of one project.
    Project(ProjectId),
}

impl Whose {
    fn ids(self) -> (Option<AccountId>, Option<ProjectId>) {
        match self {
            Self::Account(id) => (Some(id), None),
            Self::Project(id) => (None, Some(id)),
        }
    }
}

/// Those who set limits do it one after another, until their transactions end.
pub(super) async fn take_turns(conn: &mut PgConnection) -> sqlx::Result<()> {
    let turn = query!("select pg_advisory_xact_lock(hashtextextended('quota_limits', 0))");
    turn.execute(conn).await.map(drop)
}

/// Sets a limit, or takes it back to the installation's. False when there is no such account or project.
///
/// # Errors
/// When the database fails.
pub async fn set(
    conn: &mut PgConnection,
    whose: Whose,
    kind: QuotaKind,
    most: Option<i64>,
) -> sqlx::Result<bool> {
    let (account, project) = whose.ids();
    let exists = query_scalar!(
        r#"select (exists (select from accounts where id = $1) or exists (select from projects where id = $2)) as "exists!""#,
        account as Option<AccountId>,
        project as Option<ProjectId>
    );
    if !exists.fetch_one(&mut *conn).await? {
        return Ok(false);
    }
    take_turns(&mut *conn).await?;
    query!(
        "delete from quota_limits where kind = $3 and (account_id = $1 or project_id = $2)",
        account as Option<AccountId>,
        project as Option<ProjectId>,
        kind as QuotaKind
    )
    .execute(&mut *conn)
    .await?;
    if let Some(most) = most {
        query!(
            "insert into quota_limits (account_id, project_id, kind, most) values ($1, $2, $3, $4)",
            account as Option<AccountId>,
            project as Option<ProjectId>,
            kind as QuotaKind,
            most
        )
        .execute(conn)
        .await?;
    }
    Ok(true)
}

/// Notes a request for more.
///
/// # Errors
/// `limit_requests_open_key` when one of this kind is open.
pub async fn request(
    conn: &mut PgConnection,
    project: ProjectId,
    asked: &LimitRequestCreate,
    now: Timestamp,
) -> sqlx::Result<LimitRequestId> {
    query_scalar!(
        r#"insert into limit_requests (project_id, kind, asked, reason, status, created)
           values ($1, $2, $3, $4, 'open', $5) returning id as "id: LimitRequestId""#,
        project as ProjectId,
        asked.kind as QuotaKind,
        asked.limit,
        asked.reason.trim(),
        now as Timestamp
    )
    .fetch_one(conn)
    .await
}

/// Answers an open request; false when it is not open.
pub(super) async fn answer(
    conn: &mut PgConnection,
    id: LimitRequestId,
    status: LimitRequestStatus,
    note: Option<&str>,
    now: Timestamp,
) -> sqlx::Result<bool> {
    let done = query!(
        "update limit_requests set status = $2, note = $3, answered = $4 where id = $1 and status = 'open'",
        id as LimitRequestId,
        status as LimitRequestStatus,
        note,
        now as Timestamp
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Which requests are asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Filter {
    /// With this number.
    pub id: Option<LimitRequestId>,
    /// Of this project.
    pub project: Option<ProjectId>,
    /// In this state.
    pub status: Option<LimitRequestStatus>,
}

/// A page of requests, newest first, and how many there are.
///
/// # Errors
/// When the database fails.
pub async fn requests(
    conn: &mut PgConnection,
    filter: Filter,
    page: Page,
) -> sqlx::Result<(Vec<LimitRequest>, i64)> {
    let total = query_scalar!(
        r#"select count(*) as "count!" from limit_requests
           where ($1::bigint is null or project_id = $1) and ($2::text is null or status = $2)"#,
        filter.project as Option<ProjectId>,
        filter.status as Option<LimitRequestStatus>
    );
    let total = total.fetch_one(&mut *conn).await?;
    Ok((read(conn, filter, page.limit(), page.offset()).await?, total))
}

/// The request with this number, if it is of this project where one is named.
///
/// # Errors
/// When the database fails.
pub async fn request_get(
    conn: &mut PgConnection,
    id: LimitRequestId,
    project: Option<ProjectId>,
) -> sqlx::Result<Option<LimitRequest>> {
    let filter = Filter { id: Some(id), project, status: None };
    Ok(read(conn, filter, 1, 0).await?.pop())
}

async fn read(
    conn: &mut PgConnection,
    filter: Filter,
    limit: i64,
    offset: i64,
) -> sqlx::Result<Vec<LimitRequest>> {
    query_as!(
        LimitRequest,
        r#"select r.id as "id: LimitRequestId", r.project_id as "project: ProjectId",
                  p.account_id as "account: AccountId", r.kind as "kind: QuotaKind", r.asked as "limit",
                  r.reason, r.status as "status: LimitRequestStatus", r.note,
                  r.created as "created: Timestamp", r.answered as "answered: Timestamp"
           from limit_requests r join projects p on p.id = r.project_id
           where ($1::bigint is null or r.id = $1) and ($2::bigint is null or r.project_id = $2)
             and ($3::text is null or r.status = $3)
           order by r.id desc limit $4 offset $5"#,
        filter.id as Option<LimitRequestId>,
        filter.project as Option<ProjectId>,
        filter.status as Option<LimitRequestStatus>,
        limit,
        offset
    )
    .fetch_all(conn)
    .await
}
