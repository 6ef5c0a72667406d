//! What the owner does to nodes from the command line.

use anyhow::{Context as _, bail};
use berth_model::Timestamp;
use sqlx::PgPool;

use super::enrol::{TOKEN_S, Token};
use super::queries;
use crate::catalog;
use crate::secret::SecretKey;

/// `berth node add NAME --location LOCATION`: adds a node and makes the token with which its agent
/// enrols, once and within an hour.
///
/// # Errors
/// A sentence: the name is taken or not allowed, there is no such location, the database fails.
pub async fn add(
    db: &PgPool,
    key: &SecretKey,
    name: &str,
    location: &str,
    now: Timestamp,
) -> anyhow::Result<String> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-');
    if !(1..=63).contains(&name.len()) || !name.bytes().all(allowed) {
        bail!("“{name}” cannot be the name of a node: it has 1 to 63 of a-z, 0-9, dot and hyphen.");
    }
    let authority = super::authority(db, key, now).await?;
    let mut tx = db.begin().await?;
    let locations = catalog::queries::locations(&mut tx).await?;
    let Some(location) = locations.iter().find(|l| l.name == location) else {
        let names: Vec<_> = locations.iter().map(|l| l.name.as_str()).collect();
        bail!("There is no location “{location}”. There are: {}.", names.join(", "));
    };
    let node = match queries::insert(&mut tx, name, location.id, now).await {
        Err(error) if crate::http::constraint(&error) == Some("nodes_name_key") => {
            bail!("There is a node “{name}” already. For a new token run: berth node token {name}");
        }
        node => node.context("The node could not be written")?,
    };
    let token = Token::new(node, &authority);
    queries::set_token(&mut tx, node, &token.hash(), now.plus_seconds(TOKEN_S)).await?;
    tx.commit().await?;
    Ok(token.to_string())
}

/// `berth node token NAME`: a new token for a node that is there, because the first was lost or
/// the machine was installed anew. A token made before no longer works.
///
/// # Errors
/// A sentence: there is no such node, the database fails.
pub async fn token(db: &PgPool, key: &SecretKey, name: &str, now: Timestamp) -> anyhow::Result<String> {
    let authority = super::authority(db, key, now).await?;
    let mut tx = db.begin().await?;
    let Some(node) = queries::by_name(&mut tx, name).await? else {
        bail!("There is no node “{name}”.");
    };
    let token = Token::new(node, &authority);
    queries::set_token(&mut tx, node, &token.hash(), now.plus_seconds(TOKEN_S)).await?;
    tx.commit().await?;
    Ok(token.to_string())
}
