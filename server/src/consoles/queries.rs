//! All SQL of `console_tickets`.

use berth_model::{ProjectId, ServerId, Timestamp, TokenId};
use sqlx::PgConnection;

use crate::accounts::Key;

/// Tickets of one server that may wait to be used; the oldest goes first.
const WAITING_MAX: i64 = 10;

/// What a ticket was made for.
#[derive(Debug)]
pub(super) struct Ticket {
    /// The server whose console it opens.
    pub(super) server: ServerId,
    /// The server's project.
    pub(super) project: ProjectId,
    /// What it was asked for with.
    pub(super) key: Key,
    /// What is asked for inside.
    pub(super) password_sealed: Vec<u8>,
    /// Until when it can be used.
    pub(super) expires: Timestamp,
}

/// Writes a ticket; those that ran out go.
pub(super) async fn insert(
    conn: &mut PgConnection,
    hash: &[u8; 32],
    ticket: &Ticket,
    now: Timestamp,
) -> sqlx::Result<()> {
    sqlx::query!("delete from console_tickets where expires <= $1", now as Timestamp)
        .execute(&mut *conn)
        .await?;
    sqlx::query!(
        "delete from console_tickets where hash in (
             select hash from console_tickets where server_id = $1 order by expires desc, hash offset $2)",
        ticket.server.0,
        WAITING_MAX - 1
    )
    .execute(&mut *conn)
    .await?;
    let (token, session) = match &ticket.key {
        Key::Token(id) => (Some(id.0), None),
        Key::Session(hash) => (None, Some(&hash[..])),
    };
    sqlx::query!(
        "insert into console_tickets (hash, server_id, project_id, token_id, session_hash, password_sealed, expires)
         values ($1, $2, $3, $4, $5, $6, $7)",
        &hash[..],
        ticket.server.0,
        ticket.project.0,
        token,
        session,
        ticket.password_sealed,
        ticket.expires as Timestamp
    )
    .execute(conn)
    .await
    .map(drop)
}

/// Takes a ticket: whoever asks again finds none.
pub(super) async fn take(conn: &mut PgConnection, hash: &[u8; 32]) -> sqlx::Result<Option<Ticket>> {
    let taken = sqlx::query!(
        r#"delete from console_tickets where hash = $1
           returning server_id as "server: ServerId", project_id as "project: ProjectId", password_sealed,
                     token_id as "token: TokenId", session_hash, expires as "expires: Timestamp""#,
        &hash[..]
    );
    let taken = taken.fetch_optional(conn).await?;
    Ok(taken.and_then(|row| {
        let session = row.session_hash.and_then(|hash| hash.try_into().ok());
        let key = row.token.map(Key::Token).or(session.map(Key::Session))?;
        let (server, project, password_sealed) = (row.server, row.project, row.password_sealed);
        Some(Ticket { server, project, key, password_sealed, expires: row.expires })
    }))
}
