//! What the operator does to people from the command line.

use anyhow::{Context as _, bail};
use berth_model::error::ApiError;
use berth_model::people::{Role, TokenAccess};
use berth_model::{Timestamp, UserId};
use sqlx::PgPool;

use super::access::secret_hash;
use super::rules::{TOKEN_CHARS, check, email_fault, name_fault, password_fault};
use super::{passwords, queries};
use crate::entropy;
use crate::http::constraint;
use crate::secret::Secret;

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
    now: Timestamp,
) -> anyhow::Result<Secret<String>> {
    if let Some(fault) = name_fault(name.trim()) {
        bail!("{fault}");
    }
    let mut tx = db.begin().await?;
    let Some((user, _)) = queries::user_by_email(&mut tx, email.trim()).await? else {
        bail!("There is no user with the address {email}.");
    };
    let projects = queries::projects_of_user(&mut tx, user.id).await?;
    let project = projects
        .first()
        .with_context(|| format!("{email} has no project. Tokens belong to the projects of customers."))?;
    let secret = entropy::alphanumeric(TOKEN_CHARS);
    queries::token_create(&mut tx, project.id, name.trim(), access, &secret_hash(&secret), now).await?;
    tx.commit().await?;
    Ok(Secret::new(secret))
}
