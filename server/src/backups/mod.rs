//! Backups: images of a server's disk that are taken once a day by themselves.
//!
//! Words. A server's *plan* says that it is backed up, in which *window* of four hours (UTC), and when the next
//! backup is *due*. A *backup* is an image of that kind, bound to its server: the newest [`KEPT`] stay, and all go
//! with the server or its plan, unless they were made snapshots.
//!
//! ```text
//!   enable_backup ─▶ due ──(its time comes, nothing holds the server, a place is free)──▶ create_image begun
//!                     ▲  ▲                   │ else: again in a minute                         │ due a day later
//!                     │  └───────────────────┘                                                 │
//!                     └────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! A backup holds its server, so none is begun that would wait for a place in its queue.
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
use crate::jobs::Places;
use crate::servers::imaging::{self, NewImage};
use crate::{clock, images, servers};

/// Backups of one server that are kept.
pub const KEPT: i64 = 7;
/// How often is looked for what is due and for free places.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// When a backup that could not begin is tried again, in seconds.
const AGAIN_S: i64 = 60;

/// Begins what is due, until `stop`, as `line` has places. Every control plane looks.
pub async fn keep(db: PgPool, line: Places, stop: CancellationToken) {
    let mut tick = interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.cancelled() => return,
        }
        let begun = async { begin_due(&db, clock::now(), line.free(&mut *db.acquire().await?).await?).await };
        if let Err(error) = begun.await {
            tracing::warn!("Backups could not be begun; it is tried again soon: {error}");
        }
    }
}

/// Begins the backups that are due at `now`, the longest due first, and at most `free`; says how many. One that cannot
/// begin is put off, and holds up no other.
///
/// # Errors
/// When the database fails.
pub async fn begin_due(db: &PgPool, now: Timestamp, free: usize) -> sqlx::Result<usize> {
    let mut begun = 0;
    while begun < free {
        let Some((server, project)) = queries::due(&mut *db.acquire().await?, now).await? else { break };
        match begin_one(db, project, server, now).await {
            Ok(true) => {
                begun += 1;
                continue;
            }
            Ok(false) => {}
            Err(problem) => tracing::error!(%server, ?problem, "a backup cannot be begun"),
        }
        queries::put_off(&mut *db.acquire().await?, server, now.plus_seconds(AGAIN_S)).await?;
    }
    Ok(begun)
}

async fn begin_one(db: &PgPool, project: ProjectId, server: ServerId, now: Timestamp) -> ApiResult<bool> {
    let mut tx = db.begin().await?;
    let begun = begin(&mut tx, project, server, now).await?;
    if begun {
        tx.commit().await?;
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
