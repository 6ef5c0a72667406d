//! All SQL of `console_tickets`.

use berth_model::{ServerId, Timestamp};
use sqlx::PgConnection;

/// Tickets of one server that may wait to be used; the oldest goes first.
const WAITING_MAX: i64 = 10;

/// What a ticket was made for.
#[derive(Debug)]
pub(super) struct Ticket {
    /// The server whose console it opens.
    pub(super) server: ServerId,
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
    sqlx::query!(
        "insert into console_tickets (hash, server_id, password_sealed, expires) values ($1, $2, $3, $4)",
        &hash[..],
        ticket.server.0,
        ticket.password_sealed,
        ticket.expires as Timestamp
    )
    .execute(conn)
    .await
    .map(drop)
}

/// Takes a ticket: whoever asks again finds none.
pub(super) async fn take(conn: &mut PgConnection, hash: &[u8; 32]) -> sqlx::Result<Option<Ticket>> {
    sqlx::query_as!(
        Ticket,
        r#"delete from console_tickets where hash = $1
           returning server_id as "server: ServerId", password_sealed, expires as "expires: Timestamp""#,
        &hash[..]
    )
    .fetch_optional(conn)
    .await
}
