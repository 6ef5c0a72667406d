//! Backups: images of a server's disk that are taken once a day by themselves.
//!
//! Words. A server's *plan* says that it is backed up, in which *window* of four hours (UTC), and when the next
//! backup is *due*. A *backup* is an image of that kind, bound to its server: the newest [`KEPT`] stay, and all go
//! with the server or its plan, unless they were made snapshots.
//!
//! ```text
//!   enable_backup ─▶ due ──(its time comes, nothing holds the server)──▶ create_image begun, due a day later
//!                     ▲                                                         │
//!                     └─────────────────────────────────────────────────────────┘
//! ```
//!
//! The next due time, the action and its job are written in one transaction: whichever control planes look, and
//! whenever one is killed, a backup is begun once. A due time that has passed stays until it was seen to.

pub mod http;
mod queries;
pub mod rules;

use std::time::Duration;

use berth_model::image::ImageKind;
use berth_model::label::Labels;
use berth_model::server::ServerStatus;
use berth_model::{ProjectId, ServerId, Timestamp};
use sqlx::{PgConnection, PgPool};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

pub use http::router;

use crate::http::ApiResult;
use crate::servers::imaging::{self, NewImage};
use crate::{clock, images, servers};

/// Backups of one server that are kept.
pub const KEPT: i64 = 7;
/// How often is looked for what is due.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Begins what is due, until `stop`. Every control plane looks.
pub async fn keep(db: PgPool, stop: CancellationToken) {
    let mut tick = interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.cancelled() => return,
        }
        if let Err(problem) = begin_due(&db, clock::now()).await {
            tracing::warn!(?problem, "backups could not be begun; it is tried again soon");
        }
    }
}

/// Begins all backups that are due at `now`; says how many.
///
/// # Errors
/// When the database fails.
pub async fn begin_due(db: &PgPool, now: Timestamp) -> ApiResult<usize> {
    let due = queries::due(&mut *db.acquire().await?, now).await?;
    let mut begun = 0;
    for (server, project) in due {
        let mut tx = db.begin().await?;
        if begin(&mut tx, project, server, now).await? {
            tx.commit().await?;
            begun += 1;
        }
    }
    Ok(begun)
}

/// Begins a backup, unless another control plane did, or something holds the server: then it is due still.
async fn begin(conn: &mut PgConnection, project: ProjectId, id: ServerId, now: Timestamp) -> ApiResult<bool> {
    let Some(server) = servers::queries::hold(conn, project, id).await? else { return Ok(false) };
    let is_still = matches!(server.status, ServerStatus::Running | ServerStatus::Off);
    if server.locked_by.is_some() || !is_still {
        return Ok(false);
    }
    let Some(first_hour) = queries::hold_due(conn, id, now).await? else { return Ok(false) };
    queries::set_due(conn, id, rules::next_due(id, first_hour, now)).await?;
    let labels = Labels::default();
    // It is begun now, whenever it was due.
    let now = clock::now();
    let new = NewImage { kind: ImageKind::Backup, description: None, labels: &labels, now };
    imaging::begin(conn, project, &server, &new).await?;
    Ok(true)
}

/// Is this server backed up?
///
/// # Errors
/// When the database fails.
pub async fn is_enabled(conn: &mut PgConnection, server: ServerId) -> sqlx::Result<bool> {
    queries::has_plan(conn, server).await
}

/// Removes the backups of a server but the newest `kept`.
///
/// # Errors
/// When the database fails.
pub async fn remove_beyond(
    conn: &mut PgConnection,
    server: ServerId,
    kept: i64,
    now: Timestamp,
) -> sqlx::Result<()> {
    for sha256 in images::queries::delete_backups_beyond(conn, server, kept, now).await? {
        images::jobs::remove::when_unused(conn, &sha256, now).await?;
    }
    Ok(())
}
