//! Quotas: how much of each kind a project and its account may have.
//!
//! Words. A *kind* is what is counted: servers, cores of servers, …. What a project has of it is its *use*,
//! kept by triggers on the tables themselves (`count_usage_of`, `server/migrations/0011_platform.sql`), so
//! whoever adds or removes rows cannot forget it. A *limit* is the installation's, from the settings, unless
//! staff set another for the project or for the account.
//!
//! Invariant: use grows past a limit for nobody, however many try at once. Whoever adds calls [`check`]
//! as the last thing before its transaction commits:
//!
//! ```text
//!   insert ─▶ trigger: notes + 1 ─▶ … ─▶ check: account held, use + 1 ≤ limit? ─▶ commit, or all is undone
//! ```
//!
//! The second of two in one account waits at the account's row, and then sees what the first committed. Who only
//! removes is counted at its commit.
//!
//! The account's row is the last lock that a transaction takes, so nobody who holds it waits for anybody
//! (`ARCHITECTURE.md` has the order of all).

pub mod cli;
pub mod http;
pub mod queries;
pub mod rules;

use berth_model::quota::{LimitRequestStatus, QuotaKind};
use berth_model::{ErrorCode, LimitRequestId, ProjectId};
use sqlx::PgConnection;

use queries::Whose;
pub use rules::Limits;

use crate::clock;
use crate::config::Config;
use crate::http::{ApiResult, Problem};

/// Refuses what was just written if the project, or its account, now has more of these kinds than it may. The last
/// thing in the transaction that wrote it: nothing that others hold may be waited for after it.
///
/// # Errors
/// `resource_limit_exceeded`, with a sentence that names the kind.
pub async fn check(
    conn: &mut PgConnection,
    config: &Config,
    project: ProjectId,
    kinds: &[QuotaKind],
) -> ApiResult<()> {
    check_with(conn, config, project, kinds, None).await
}

/// [`check`] with so many of a kind that are to come, and are checked again when they do.
///
/// # Errors
/// As [`check`].
pub async fn check_with(
    conn: &mut PgConnection,
    config: &Config,
    project: ProjectId,
    kinds: &[QuotaKind],
    to_come: Option<(QuotaKind, i64)>,
) -> ApiResult<()> {
    queries::hold_account(conn, project).await?;
    let mut standing = queries::standing(conn, config, project).await?;
    if let Some((kind, more)) = to_come {
        for limit in standing.iter_mut().filter(|limit| limit.kind == kind) {
            limit.used += more;
            limit.account_used += more;
        }
    }
    let kinds: Vec<QuotaKind> = kinds.iter().copied().chain(to_come.map(|(kind, _)| kind)).collect();
    match standing.iter().filter(|limit| kinds.contains(&limit.kind)).find_map(rules::exceeded) {
        Some(message) => Err(Problem::new(ErrorCode::ResourceLimitExceeded, message)),
        None => Ok(()),
    }
}

/// Answers a request for more. Granted, the project has the limit it asked for, and so has its account; what is
/// higher by now stays.
///
/// # Errors
/// `not_found`; `conflict` when it was answered before.
pub async fn answer(
    conn: &mut PgConnection,
    config: &Config,
    id: LimitRequestId,
    status: LimitRequestStatus,
    note: Option<&str>,
) -> ApiResult<()> {
    let request =
        queries::request_get(conn, id, None).await?.ok_or_else(|| Problem::not_found("limit request"))?;
    if !queries::answer(conn, id, status, note, clock::now()).await? {
        return Err(Problem::new(ErrorCode::Conflict, "This request was answered already."));
    }
    if status == LimitRequestStatus::Granted {
        queries::take_turns(conn).await?;
        let standing = queries::standing(conn, config, request.project).await?;
        for limit in standing.iter().filter(|limit| limit.kind == request.kind) {
            let project = (Whose::Project(request.project), limit.limit);
            let account = (Whose::Account(request.account), limit.account_limit);
            for (whose, _) in [project, account].into_iter().filter(|(_, has)| *has < request.limit) {
                queries::set(conn, whose, request.kind, Some(request.limit)).await?;
            }
        }
    }
    Ok(())
}
