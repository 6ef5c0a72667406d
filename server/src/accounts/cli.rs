//! What the operator does to people from the command line.

use anyhow::{Context as _, bail, ensure};
use berth_model::error::ApiError;
use berth_model::people::{Role, TokenAccess};
use berth_model::{AccountId, ProjectId, Timestamp, UserId};
use sqlx::{PgConnection, PgPool};

use super::access::secret_hash;
use super::rules::{TOKEN_CHARS, check, email_fault, name_fault, password_fault, reason_fault};
use super::{passwords, queries};
use crate::entropy;
use crate::http::constraint;
use crate::secret::Secret;

/// Most accounts of one user.
const ACCOUNTS_MAX: i64 = 1000;

/// `berth user add`: adds a user; for a customer an account and a project `default` too.
///
/// # Errors
/// A sentence: the address is taken, a word is wrong, the database fails.
pub async fn user_add(
    db: &PgPool,
    email: &str,
    name: &str,
    role: Role,
    password: &str,
    now: Timestamp,
) -> anyhow::Result<UserId> {
    let (email, name) = (email.trim(), name.trim());
    check(&[
        ("email", email_fault(email)),
        ("name", name_fault(name)),
        ("password", password_fault(password, email)),
    ])
    .map_err(|error: ApiError| anyhow::anyhow!("{error}"))?;
    let hash = passwords::hash(password)?;
    let mut tx = db.begin().await?;
    let user = match queries::user_create(&mut tx, email, name, role, &hash, now).await {
        Err(error) if constraint(&error) == Some("users_email_key") => {
            bail!("There is a user with the address {email} already.");
        }
        user => user.context("The user could not be written")?,
    };
    if role == Role::Customer {
        queries::account_create(&mut tx, name, "default", user.id, now).await?;
    }
    tx.commit().await?;
    Ok(user.id)
}

/// `berth token create`: makes a token of the first project of a user.
///
/// # Errors
/// A sentence: there is no such user, they have no project, the database fails.
pub async fn token_create(
    db: &PgPool,
    email: &str,
    name: &str,
    access: TokenAccess,
    expires: Option<Timestamp>,
    now: Timestamp,
) -> anyhow::Result<Secret<String>> {
    if expires.is_some_and(|expires| expires <= now) {
        bail!("A token ends in the future, or never by itself.");
    }
    if let Some(fault) = name_fault(name.trim()) {
        bail!("{fault}");
    }
    let mut tx = db.begin().await?;
    let project = project_of(&mut tx, email).await?;
    let secret = entropy::alphanumeric(TOKEN_CHARS);
    queries::token_create(&mut tx, project, name.trim(), access, expires, &secret_hash(&secret), now).await?;
    tx.commit().await?;
    Ok(Secret::new(secret))
}

/// `berth account suspend` and `resume`: with a reason, the accounts of a user may only read from now on;
/// without, they write again. Answers the accounts.
///
/// # Errors
/// A sentence: there is no such user, they have no account, the reason is too long, the database fails.
pub async fn account_suspend(
    db: &PgPool,
    email: &str,
    reason: Option<&str>,
    now: Timestamp,
) -> anyhow::Result<Vec<AccountId>> {
    let reason = reason.map(str::trim);
    if let Some(fault) = reason.and_then(reason_fault) {
        bail!("{fault}");
    }
    let mut tx = db.begin().await?;
    let accounts = accounts_of(&mut tx, email).await?;
    for account in &accounts {
        queries::account_suspend(&mut tx, *account, reason, now).await?;
    }
    tx.commit().await?;
    Ok(accounts)
}

/// The first project of a user.
///
/// # Errors
/// A sentence: there is no such user, they have no project, the database fails.
pub async fn project_of(conn: &mut PgConnection, email: &str) -> anyhow::Result<ProjectId> {
    let Some((user, _)) = queries::user_by_email(conn, email.trim()).await? else {
        bail!("There is no user with the address {email}.");
    };
    let projects = queries::projects_of_user(conn, user.id).await?;
    let project = projects.first();
    let project =
        project.with_context(|| format!("{email} has no project. Only customers have projects."))?;
    Ok(project.id)
}

/// The accounts of a user, at least one.
///
/// # Errors
/// A sentence: there is none.
pub async fn accounts_of(conn: &mut PgConnection, email: &str) -> anyhow::Result<Vec<AccountId>> {
    let email = email.trim();
    let filter = queries::AccountFilter { email: Some(email.to_owned()), suspended: None };
    let (accounts, _) = queries::accounts(conn, &filter, ACCOUNTS_MAX, 0).await?;
    ensure!(!accounts.is_empty(), "There is no account of a user with the address {email}.");
    Ok(accounts.into_iter().map(|account| account.id).collect())
}
