//! What a server's node has not been told yet, and the actions that end when it was: the table `follow_actions`.

use berth_model::{ActionId, ServerId};
use sqlx::PgConnection;

/// This action ends when the server's node was told; false when the server is gone.
///
/// # Errors
/// When the database fails.
pub async fn await_told(conn: &mut PgConnection, server: ServerId, action: ActionId) -> sqlx::Result<bool> {
    let waits = sqlx::query!(
        "insert into follow_actions (action_id, server_id) select $1, id from servers where id = $2",
        action.0,
        server.0
    );
    Ok(waits.execute(conn).await?.rows_affected() == 1)
}

/// The server's node was told, or there is none any more: no action waits for that longer. Says which did.
///
/// # Errors
/// When the database fails.
pub async fn heard(conn: &mut PgConnection, server: ServerId) -> sqlx::Result<Vec<ActionId>> {
    sqlx::query_scalar!(
        r#"delete from follow_actions where server_id = $1 returning action_id as "action: ActionId""#,
        server.0
    )
    .fetch_all(conn)
    .await
}

/// Was its node told all that there is to tell of the server's machine? Yes, when the server is gone.
///
/// # Errors
/// When the database fails.
pub async fn is_told(conn: &mut PgConnection, server: ServerId) -> sqlx::Result<bool> {
    let told = sqlx::query_scalar!(
        r#"select revision_told = revision as "told!" from servers where id = $1"#,
        server.0
    );
    Ok(told.fetch_optional(conn).await?.unwrap_or(true))
}
