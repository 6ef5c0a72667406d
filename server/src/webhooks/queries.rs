//! All SQL of webhooks, their deliveries, and how far events were turned into deliveries.

use std::time::Duration;

use berth_model::webhook::{DeliveryStatus, Webhook, WebhookDelivery};
use berth_model::{ProjectId, Timestamp, WebhookDeliveryId, WebhookId};
use sqlx::{PgConnection, query, query_as, query_scalar};

use crate::http::Page;

/// Deliveries are tried for so long.
const TRIED_FOR_SECONDS: i64 = 24 * 3600;
/// Deliveries are kept for so long.
const KEPT_SECONDS: i64 = 7 * 24 * 3600;

/// Makes a webhook; it is told of what is published from now on.
///
/// # Errors
/// `webhooks_name_key` when the project has one of this name.
pub async fn insert(
    conn: &mut PgConnection,
    project: ProjectId,
    (name, url, kinds): (&str, &str, &[String]),
    secret_sealed: &[u8],
    now: Timestamp,
) -> sqlx::Result<WebhookId> {
    let since = crate::live::outbox::newest(conn).await?;
    query_scalar!(
        r#"insert into webhooks (project_id, name, url, kinds, secret_sealed, since, created)
           values ($1, $2, $3, $4, $5, $6, $7) returning id as "id: WebhookId""#,
        project as ProjectId,
        name,
        url,
        kinds,
        secret_sealed,
        since,
        now as Timestamp
    )
    .fetch_one(conn)
    .await
}

/// A webhook of the project.
///
/// # Errors
/// When the database fails.
pub async fn get(
    conn: &mut PgConnection,
    project: ProjectId,
    id: WebhookId,
) -> sqlx::Result<Option<Webhook>> {
    query_as!(
        Webhook,
        r#"select id as "id: WebhookId", name, url, kinds, enabled, note,
                  failing_since as "failing_since: Timestamp", created as "created: Timestamp"
           from webhooks where project_id = $1 and id = $2"#,
        project as ProjectId,
        id as WebhookId
    )
    .fetch_optional(conn)
    .await
}

/// A page of the project's webhooks, by number, and how many there are.
///
/// # Errors
/// When the database fails.
pub async fn list(
    conn: &mut PgConnection,
    project: ProjectId,
    name: Option<&str>,
    page: Page,
) -> sqlx::Result<(Vec<Webhook>, i64)> {
    let total = query_scalar!(
        r#"select count(*) as "count!" from webhooks where project_id = $1 and ($2::text is null or name = $2)"#,
        project as ProjectId,
        name
    );
    let total = total.fetch_one(&mut *conn).await?;
    let webhooks = query_as!(
        Webhook,
        r#"select id as "id: WebhookId", name, url, kinds, enabled, note,
                  failing_since as "failing_since: Timestamp", created as "created: Timestamp"
           from webhooks where project_id = $1 and ($2::text is null or name = $2)
           order by id limit $3 offset $4"#,
        project as ProjectId,
        name,
        page.limit(),
        page.offset()
    );
    Ok((webhooks.fetch_all(conn).await?, total))
}

/// Changes a webhook; what is `None` stays. Enabled again, it starts anew with the next event. False when the
/// project has none of this number.
///
/// # Errors
/// `webhooks_name_key` when the project has another of this name.
pub async fn update(
    conn: &mut PgConnection,
    project: ProjectId,
    id: WebhookId,
    (name, url, kinds): (Option<&str>, Option<&str>, Option<&[String]>),
    enabled: Option<bool>,
) -> sqlx::Result<bool> {
    let newest = crate::live::outbox::newest(conn).await?;
    let done = query!(
        "update webhooks
         set name = coalesce($3, name), url = coalesce($4, url), kinds = coalesce($5, kinds),
             enabled = coalesce($6, enabled), note = case when $6 then null else note end,
             failing_since = case when $6 then null else failing_since end,
             failures = case when $6 then 0 else failures end,
             since = case when $6 and not enabled then $7 else since end,
             next_due = case when $6 and not enabled then clock_timestamp() else next_due end
         where project_id = $1 and id = $2",
        project as ProjectId,
        id as WebhookId,
        name,
        url,
        kinds,
        enabled,
        newest
    )
    .execute(&mut *conn)
    .await?;
    if enabled == Some(false) {
        fail_pending(conn, id, "The webhook was disabled.").await?;
    }
    Ok(done.rows_affected() == 1)
}

async fn fail_pending(conn: &mut PgConnection, id: WebhookId, error: &str) -> sqlx::Result<()> {
    query!(
        "update webhook_deliveries set status = 'failed', finished = clock_timestamp(), error = $2
         where webhook_id = $1 and status = 'pending'",
        id as WebhookId,
        error
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Deletes a webhook with its deliveries; false when the project has none of this number.
///
/// # Errors
/// When the database fails.
pub async fn delete(conn: &mut PgConnection, project: ProjectId, id: WebhookId) -> sqlx::Result<bool> {
    let done = query!(
        "delete from webhooks where project_id = $1 and id = $2",
        project as ProjectId,
        id as WebhookId
    );
    Ok(done.execute(conn).await?.rows_affected() == 1)
}

/// A page of a webhook's deliveries, newest first, and how many there are; or the one with this number.
///
/// # Errors
/// When the database fails.
pub async fn deliveries(
    conn: &mut PgConnection,
    webhook: WebhookId,
    only: Option<WebhookDeliveryId>,
    status: Option<DeliveryStatus>,
    page: Page,
) -> sqlx::Result<(Vec<WebhookDelivery>, i64)> {
    let total = query_scalar!(
        r#"select count(*) as "count!" from webhook_deliveries
           where webhook_id = $1 and ($2::bigint is null or id = $2) and ($3::text is null or status = $3)"#,
        webhook as WebhookId,
        only as Option<WebhookDeliveryId>,
        status as Option<DeliveryStatus>
    );
    let total = total.fetch_one(&mut *conn).await?;
    let deliveries = query_as!(
        WebhookDelivery,
        r#"select id as "id: WebhookDeliveryId", event, kind, body, status as "status: DeliveryStatus", attempts,
                  case when status = 'pending' then next_attempt end as "next_attempt: Timestamp", http_status,
                  error, created as "created: Timestamp", finished as "finished: Timestamp"
           from webhook_deliveries
           where webhook_id = $1 and ($2::bigint is null or id = $2) and ($3::text is null or status = $3)
           order by id desc limit $4 offset $5"#,
        webhook as WebhookId,
        only as Option<WebhookDeliveryId>,
        status as Option<DeliveryStatus>,
        page.limit(),
        page.offset()
    );
    Ok((deliveries.fetch_all(conn).await?, total))
}

/// Lets a delivery that is over be made again.
///
/// # Errors
/// When the database fails.
pub async fn replay(
    conn: &mut PgConnection,
    webhook: WebhookId,
    id: WebhookDeliveryId,
    now: Timestamp,
) -> sqlx::Result<()> {
    // The webhook first, as everybody does, or two could wait for each other.
    wake(conn, &[webhook.0]).await?;
    query!(
        "update webhook_deliveries
         set status = 'pending', attempts = 0, next_attempt = $3, give_up = $4, finished = null
         where webhook_id = $1 and id = $2 and status <> 'pending'",
        webhook as WebhookId,
        id as WebhookDeliveryId,
        now as Timestamp,
        now.plus_seconds(TRIED_FOR_SECONDS) as Timestamp
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Webhooks with new deliveries are due, unless they are already, or somebody sends to them: who does looks
/// again when it lets go.
async fn wake(conn: &mut PgConnection, webhooks: &[i64]) -> sqlx::Result<()> {
    query!(
        "update webhooks set next_due = coalesce(next_due, clock_timestamp())
         where id in (select id from webhooks where id = any($1) order by id for update)",
        webhooks
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A webhook that listens.
#[derive(Debug)]
pub(super) struct Ear {
    pub(super) webhook: WebhookId,
    pub(super) project: ProjectId,
    /// Of these kinds; empty: of all.
    pub(super) kinds: Vec<String>,
    /// Only to events after this one.
    pub(super) since: i64,
}

/// Up to which event deliveries were made, held until the transaction ends; `None` while another holds it.
pub(super) async fn head_hold(conn: &mut PgConnection) -> sqlx::Result<Option<i64>> {
    query_scalar!("select last_seq from webhook_head for update skip locked").fetch_optional(conn).await
}

pub(super) async fn head_move(conn: &mut PgConnection, seq: i64) -> sqlx::Result<()> {
    query!("update webhook_head set last_seq = $1", seq).execute(conn).await?;
    Ok(())
}

/// All webhooks that listen.
pub(super) async fn ears(conn: &mut PgConnection) -> sqlx::Result<Vec<Ear>> {
    query_as!(
        Ear,
        r#"select id as "webhook: WebhookId", project_id as "project: ProjectId", kinds, since
           from webhooks where enabled"#
    )
    .fetch_all(conn)
    .await
}

/// A delivery to be written.
#[derive(Debug)]
pub(super) struct NewDelivery {
    pub(super) webhook: WebhookId,
    pub(super) event: i64,
    pub(super) kind: &'static str,
    pub(super) body: String,
}

/// Writes deliveries, due now. A webhook that was deleted meanwhile gets none.
pub(super) async fn deliveries_add(
    conn: &mut PgConnection,
    deliveries: &[NewDelivery],
    now: Timestamp,
) -> sqlx::Result<()> {
    if deliveries.is_empty() {
        return Ok(());
    }
    let webhooks: Vec<_> = deliveries.iter().map(|new| new.webhook.0).collect();
    // First, so that none of them can be deleted any more, nor let go without a look at what is new.
    wake(conn, &webhooks).await?;
    query!(
        "insert into webhook_deliveries (webhook_id, event, kind, body, status, next_attempt, give_up, created)
         select webhook, event, kind, body, 'pending', $5, $6, $5
         from unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[]) as new (webhook, event, kind, body)
         where exists (select from webhooks where id = webhook) order by event, webhook",
        &webhooks,
        &deliveries.iter().map(|new| new.event).collect::<Vec<_>>(),
        &deliveries.iter().map(|new| new.kind.to_owned()).collect::<Vec<_>>(),
        &deliveries.iter().map(|new| new.body.clone()).collect::<Vec<_>>(),
        now as Timestamp,
        now.plus_seconds(TRIED_FOR_SECONDS) as Timestamp
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A webhook that is sent to.
#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) id: WebhookId,
    pub(super) url: String,
    pub(super) secret_sealed: Vec<u8>,
}

/// Takes a webhook that is due, for so long.
pub(super) async fn claim(conn: &mut PgConnection, lease: Duration) -> sqlx::Result<Option<Claimed>> {
    query_as!(
        Claimed,
        r#"update webhooks set next_due = clock_timestamp() + make_interval(secs => $1)
           where id = (select id from webhooks where enabled and next_due <= clock_timestamp()
                       order by next_due limit 1 for update skip locked)
           returning id as "id: WebhookId", url, secret_sealed"#,
        lease.as_secs_f64()
    )
    .fetch_optional(conn)
    .await
}

/// A delivery that is due.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) id: WebhookDeliveryId,
    pub(super) event: i64,
    pub(super) body: String,
    pub(super) attempts: i32,
}

/// The webhook's deliveries that are due, oldest first.
pub(super) async fn due(conn: &mut PgConnection, webhook: WebhookId, limit: i64) -> sqlx::Result<Vec<Due>> {
    query_as!(
        Due,
        r#"select id as "id: WebhookDeliveryId", event, body, attempts from webhook_deliveries
           where webhook_id = $1 and status = 'pending' and next_attempt <= clock_timestamp()
           order by next_attempt, id limit $2"#,
        webhook as WebhookId,
        limit
    )
    .fetch_all(conn)
    .await
}

/// How a try ended.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) http_status: Option<i16>,
    /// Why it failed, if it did.
    pub(super) error: Option<String>,
}

/// Notes a try; answers how many have failed in a row.
pub(super) async fn note(
    conn: &mut PgConnection,
    webhook: WebhookId,
    delivery: &Due,
    outcome: &Outcome,
    now: Timestamp,
) -> sqlx::Result<i32> {
    let again = super::rules::pause(delivery.attempts + 1).as_secs().cast_signed();
    let failed = outcome.error.is_some();
    let failures = query_scalar!(
        "update webhooks set failures = case when $2 then failures + 1 else 0 end,
                             failing_since = case when $2 then coalesce(failing_since, $3) end
         where id = $1 returning failures",
        webhook as WebhookId,
        failed,
        now as Timestamp
    );
    let failures = failures.fetch_optional(&mut *conn).await?.unwrap_or(0);
    query!(
        "update webhook_deliveries
         set attempts = attempts + 1, http_status = $2, error = $3, next_attempt = $5,
             status = case when not $6 then 'delivered' when $5 >= give_up then 'failed' else 'pending' end,
             finished = case when not $6 or $5 >= give_up then $4::timestamptz end
         where id = $1 and status = 'pending'",
        delivery.id as WebhookDeliveryId,
        outcome.http_status,
        outcome.error,
        now as Timestamp,
        now.plus_seconds(again) as Timestamp,
        failed
    )
    .execute(conn)
    .await?;
    Ok(failures)
}

/// Disables a webhook of which nothing arrived for so long, with a note.
pub(super) async fn disable_if_failing_for(
    conn: &mut PgConnection,
    webhook: WebhookId,
    most: Duration,
) -> sqlx::Result<()> {
    let note = "Disabled: no delivery arrived for three days. Mend the receiver, then enable it again.";
    let disabled = query!(
        "update webhooks set enabled = false, note = $3
         where id = $1 and enabled and failing_since < clock_timestamp() - make_interval(secs => $2)",
        webhook as WebhookId,
        most.as_secs_f64(),
        note
    )
    .execute(&mut *conn)
    .await?;
    if disabled.rows_affected() == 1 {
        fail_pending(conn, webhook, note).await?;
    }
    Ok(())
}

/// Lets go of a webhook: it is due again with its next delivery, and not before it has rested.
pub(super) async fn let_go(conn: &mut PgConnection, webhook: WebhookId, rest: Duration) -> sqlx::Result<()> {
    // A statement of its own: the next one must see deliveries that were committed while this one waited.
    query!("select id from webhooks where id = $1 for update", webhook as WebhookId)
        .fetch_optional(&mut *conn)
        .await?;
    query!(
        "update webhooks set next_due = (
             select greatest(min(next_attempt), clock_timestamp() + make_interval(secs => $2))
             from webhook_deliveries where webhook_id = $1 and status = 'pending' having count(*) > 0)
         where id = $1",
        webhook as WebhookId,
        rest.as_secs_f64()
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Deletes deliveries that are kept no longer, a bounded number at a time.
///
/// # Errors
/// When the database fails.
pub async fn prune(conn: &mut PgConnection, now: Timestamp) -> sqlx::Result<u64> {
    let done = query!(
        "delete from webhook_deliveries where id in
         (select id from webhook_deliveries where created <= $1 and status <> 'pending' limit 10000)",
        now.plus_seconds(-KEPT_SECONDS) as Timestamp
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}
