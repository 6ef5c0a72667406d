//! `berth limits`: what staff do with limits from the command line.

use std::fmt::Write as _;

use anyhow::{Context as _, ensure};
use berth_model::LimitRequestId;
use berth_model::quota::{LimitRequestStatus, QuotaKind};
use sqlx::PgPool;

use super::queries::{self, Filter, Whose};
use crate::accounts;
use crate::config::Config;
use crate::http::Page;

/// `berth limits show`: one line for each kind.
///
/// # Errors
/// A sentence: there is no such user, they have no project, the database fails.
pub async fn show(db: &PgPool, config: &Config, email: &str) -> anyhow::Result<String> {
    let mut conn = db.acquire().await?;
    let project = accounts::cli::project_of(&mut conn, email).await?;
    let mut text = String::new();
    for limit in queries::standing(&mut conn, config, project).await? {
        let (word, used, most) = (limit.kind.word(), limit.used, limit.limit);
        let (account_used, account_most) = (limit.account_used, limit.account_limit);
        writeln!(text, "{word}: {used} of {most}; account {account_used} of {account_most}")?;
    }
    Ok(text)
}

/// `berth limits set`: the limit of a user's first project, or of their account; `None`: the installation's.
///
/// # Errors
/// A sentence: there is no such user, they have no project, the database fails.
pub async fn set(
    db: &PgPool,
    email: &str,
    of_account: bool,
    kind: QuotaKind,
    most: Option<u32>,
) -> anyhow::Result<()> {
    let mut tx = db.begin().await?;
    let project = accounts::cli::project_of(&mut tx, email).await?;
    let whose = if of_account {
        let accounts = accounts::cli::accounts_of(&mut tx, email).await?;
        Whose::Account(*accounts.first().context("they have no account")?)
    } else {
        Whose::Project(project)
    };
    ensure!(queries::set(&mut tx, whose, kind, most.map(i64::from)).await?, "It is gone.");
    tx.commit().await?;
    Ok(())
}

/// `berth limits requests`: the newest open ones, one on a line.
///
/// # Errors
/// The database fails.
pub async fn requests(db: &PgPool) -> anyhow::Result<String> {
    let filter = Filter { status: Some(LimitRequestStatus::Open), ..Filter::default() };
    let (requests, total) = queries::requests(&mut *db.acquire().await?, filter, Page::LARGEST).await?;
    let mut text = String::new();
    for request in &requests {
        let (id, project, kind, limit) = (request.id, request.project, request.kind.word(), request.limit);
        writeln!(
            text,
            "{id}: project {project} asks for {limit} {kind}: {}",
            request.reason.replace('\n', " ")
        )?;
    }
    if total > requests.len() as i64 {
        writeln!(text, "… and {} older ones", total - requests.len() as i64)?;
    }
    Ok(text)
}

/// `berth limits grant` and `decline`.
///
/// # Errors
/// A sentence: there is no such request, it was answered before, the database fails.
pub async fn answer(
    db: &PgPool,
    config: &Config,
    id: LimitRequestId,
    status: LimitRequestStatus,
    note: Option<&str>,
) -> anyhow::Result<()> {
    let mut tx = db.begin().await?;
    let answered = super::answer(&mut tx, config, id, status, note).await;
    answered.map_err(|problem| anyhow::anyhow!("{}", problem.error().message))?;
    tx.commit().await?;
    Ok(())
}
