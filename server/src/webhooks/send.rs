//! From deliveries to receivers.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use berth_model::Timestamp;
use rustls::{ClientConfig, RootCertStore};
use sqlx::Acquire as _;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::http::PURPOSE;
use super::queries::{self, Claimed, Due, Outcome};
use super::rules;
use crate::{World, clock};

/// Webhooks that are sent to at once.
const SENDERS: usize = 32;
/// How often it is looked for webhooks that are due.
const POLL: Duration = Duration::from_millis(500);
/// After the database did not answer.
const TROUBLE_PAUSE: Duration = Duration::from_secs(1);
/// One try, from resolving the name to the head of the answer.
const TRY_MAX: Duration = Duration::from_secs(10);
/// Until the connection is there.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// A webhook is let go after so long, so that others get their turn, and before its lease ends.
const TURN_MAX: Duration = Duration::from_secs(20);
/// Deliveries read at once.
const BATCH: i64 = 20;
/// After so long without a success a webhook is disabled.
const DISABLED_AFTER: Duration = Duration::from_secs(3 * 24 * 3600);

/// How long a webhook belongs to a sender: longer than its turn with one more try.
pub(super) const LEASE: Duration = Duration::from_secs(45);

/// Sends what is due until `stop`. Tries under way are cut off then, and made again elsewhere.
pub async fn send(world: World, stop: CancellationToken) {
    let tls = tls();
    let mut senders = JoinSet::new();
    while !stop.is_cancelled() {
        while senders.try_join_next().is_some() {}
        let pause = if senders.len() >= SENDERS {
            POLL
        } else {
            match claim(&world).await {
                Ok(Some(webhook)) => {
                    let (world, tls) = (world.clone(), tls.clone());
                    senders.spawn(async move {
                        if let Err(error) = turn(&world, &tls, &webhook).await {
                            tracing::warn!(
                                webhook = webhook.id.0,
                                "Its deliveries wait for the lease's end: {error:#}"
                            );
                        }
                    });
                    continue;
                }
                Ok(None) => POLL,
                Err(error) => {
                    tracing::warn!("Webhooks cannot be looked for: {error}");
                    TROUBLE_PAUSE
                }
            }
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = stop.cancelled() => {}
        }
    }
}

async fn claim(world: &World) -> sqlx::Result<Option<Claimed>> {
    queries::claim(world.db.acquire().await?.acquire().await?, LEASE).await
}

fn tls() -> ClientConfig {
    let roots = RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// Sends what is due to one webhook, oldest first, until a try fails or its turn is over.
async fn turn(world: &World, tls: &ClientConfig, webhook: &Claimed) -> anyhow::Result<()> {
    let secret = world.secret_key.open(PURPOSE, &webhook.secret_sealed)?;
    let began = Instant::now();
    let mut rest = Duration::ZERO;
    'turn: loop {
        let due = queries::due(&mut *world.db.acquire().await?, webhook.id, BATCH).await?;
        let is_last = (due.len() as i64) < BATCH;
        for delivery in due {
            if began.elapsed() > TURN_MAX {
                break 'turn;
            }
            let outcome = attempt(world, tls, webhook, &secret, &delivery).await;
            let failed = outcome.error.is_some();
            let mut tx = world.db.begin().await?;
            let failures = queries::note(&mut tx, webhook.id, &delivery, &outcome, clock::now()).await?;
            if failed {
                queries::disable_if_failing_for(&mut tx, webhook.id, DISABLED_AFTER).await?;
            }
            tx.commit().await?;
            if failed {
                rest = rules::rest(failures);
                break 'turn;
            }
        }
        if is_last {
            break;
        }
    }
    let mut tx = world.db.begin().await?;
    queries::let_go(&mut tx, webhook.id, rest).await?;
    tx.commit().await?;
    Ok(())
}

async fn attempt(
    world: &World,
    tls: &ClientConfig,
    webhook: &Claimed,
    secret: &[u8],
    delivery: &Due,
) -> Outcome {
    let tried = timeout(TRY_MAX, post(world, tls, webhook, secret, delivery, clock::now())).await;
    match tried {
        Ok(Ok(status)) if (200..300).contains(&status) => Outcome { http_status: Some(status), error: None },
        Ok(Ok(status)) => {
            let error = Some(format!("It answered {status}; 2xx is expected."));
            Outcome { http_status: Some(status), error }
        }
        Ok(Err(error)) => Outcome { http_status: None, error: Some(format!("{error:#}")) },
        Err(_) => {
            let error = Some(format!("It did not answer within {} seconds.", TRY_MAX.as_secs()));
            Outcome { http_status: None, error }
        }
    }
}

/// Resolves, checks, sends; answers the status. The body of the answer is not read.
async fn post(
    world: &World,
    tls: &ClientConfig,
    webhook: &Claimed,
    secret: &[u8],
    delivery: &Due,
    now: Timestamp,
) -> anyhow::Result<i16> {
    let url = reqwest::Url::parse(&webhook.url)?;
    let (host, port) = rules::target(&url).context("The address has no host.")?;
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), port))
        .await
        .with_context(|| format!("The name {host} cannot be resolved"))?
        .collect();
    // One that is not public among others is no mistake but a try: nothing is sent.
    if addresses.iter().any(|address| !rules::may_reach(address.ip(), &world.config.webhook_networks)) {
        bail!("{host} has an address that is not public.");
    }
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls.clone())
        .resolve_to_addrs(&host, &addresses)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .pool_max_idle_per_host(0)
        .connect_timeout(CONNECT_MAX)
        .user_agent("Berth-Webhook/1")
        .build()?;
    let timestamp = now.unix_ms() / 1000;
    let sent = client
        .post(url)
        .header("content-type", "application/json")
        .header("berth-event", delivery.event)
        .header("berth-delivery", delivery.id.0)
        .header("berth-timestamp", timestamp)
        .header("berth-signature", rules::signature(secret, timestamp, &delivery.body))
        .body(delivery.body.clone())
        .send()
        .await;
    // The address stands in reqwest's own words; the customer knows it.
    let answer = sent.map_err(|error| anyhow::Error::new(error.without_url()))?;
    Ok(i16::try_from(answer.status().as_u16()).unwrap_or(i16::MAX))
}
