//! From events to deliveries.

use std::time::Duration;

use berth_model::ProjectId;
use berth_model::webhook::WebhookEvent;
use sqlx::PgPool;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::queries::{self, Ear, NewDelivery};
use super::rules;
use crate::clock;
use crate::live::outbox;

/// Events turned into deliveries in one transaction.
const BATCH: i64 = 200;
/// How often it looks when nobody wakes it.
const POLL: Duration = Duration::from_secs(2);
/// Between two looks at the least, so that a burst of events is one look.
const BREATH: Duration = Duration::from_millis(50);
/// After the database did not answer.
const TROUBLE_PAUSE: Duration = Duration::from_secs(1);

/// Turns events into deliveries until `stop`. Every control plane does; one at a time works.
pub async fn fan_out(db: PgPool, mut published: watch::Receiver<u64>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        published.borrow_and_update();
        match round(&db).await {
            Ok(true) => {}
            Ok(false) => {
                tokio::select! {
                    _ = timeout(POLL, published.changed()) => sleep(BREATH).await,
                    () = stop.cancelled() => {}
                }
            }
            Err(error) => {
                tracing::warn!("Webhooks cannot be told of events; it is tried again: {error}");
                sleep(TROUBLE_PAUSE).await;
            }
        }
    }
}

/// Takes the next events; says whether there may be more.
async fn round(db: &PgPool) -> sqlx::Result<bool> {
    let mut tx = db.begin().await?;
    let Some(after) = queries::head_hold(&mut tx).await? else { return Ok(false) };
    let newest = outbox::newest(&mut tx).await?;
    if newest <= after {
        return Ok(false);
    }
    let ears = queries::ears(&mut tx).await?;
    let projects: Vec<ProjectId> = ears.iter().map(|ear| ear.project).collect();
    let events = if projects.is_empty() {
        Vec::new()
    } else {
        outbox::read(&mut tx, after, newest, &projects, BATCH).await?
    };
    let is_full = events.len() as i64 == BATCH;
    let until = events.last().filter(|_| is_full).map_or(newest, |event| event.seq);
    let deliveries: Vec<_> = events.iter().flat_map(|event| of(event, &ears)).collect();
    queries::deliveries_add(&mut tx, &deliveries, clock::now()).await?;
    queries::head_move(&mut tx, until).await?;
    tx.commit().await?;
    Ok(is_full)
}

/// An event's deliveries: to every webhook of its project that listens for its kind.
fn of(event: &outbox::Written, ears: &[Ear]) -> Vec<NewDelivery> {
    let of_project: Vec<_> =
        ears.iter().filter(|ear| ear.project == event.project && ear.since < event.seq).collect();
    if of_project.is_empty() {
        return Vec::new();
    }
    let Some((kind, data)) = rules::event(event.change.0.get()) else { return Vec::new() };
    let body = WebhookEvent {
        id: event.seq,
        kind: kind.to_owned(),
        created: event.at,
        project: event.project,
        data,
    };
    let body = serde_json::to_string(&body).expect("numbers, times and JSON can be written as JSON");
    let listens = |ear: &&&Ear| ear.kinds.is_empty() || ear.kinds.iter().any(|wanted| wanted == kind);
    let to = |ear: &&Ear| NewDelivery { webhook: ear.webhook, event: event.seq, kind, body: body.clone() };
    of_project.iter().filter(listens).map(to).collect()
}
