//! `GET /v1/live`: the WebSocket of [`berth_model::event`].
//!
//! ```text
//!   open ──hello──▶ welcome ─▶ replay, or reset ─▶ live ──▶ closed
//!     └──────── says nothing for 10 s, or something else ─────┘
//! ```
//!
//! One task per socket. While it waits for the reader to take a message it takes nothing else, so
//! what a slow reader costs is the hub's queue and one message.

use std::time::Duration;

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequestParts as _, State};
use axum::response::Response;
use berth_model::event::{CLOSE_ENDED, CLOSE_TOO_SLOW, LiveCommand, LiveHello, LiveMessage, WATCH_MAX};
use berth_model::load::LoadSample;
use berth_model::{ErrorCode, ServerId};
use futures_util::stream::{BoxStream, SelectAll, StreamExt as _, unfold};
use http::request::Parts;
use http::{HeaderMap, Method, Uri};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::hub::{Published, Subscription, text};
use super::queries;
use crate::accounts::{JustAsking, ProjectAccess, Reader};
use crate::http::{ApiResult, Errors, Problem};
use crate::load::WatchGuard;
use crate::{World, servers};

/// How long the client may take to say hello.
const HELLO_MAX: Duration = Duration::from_secs(10);
/// How long the client may take to read one message.
const WRITE_MAX: Duration = Duration::from_secs(20);
/// How long the farewell may take. Nothing waits for a client by then.
const CLOSE_MAX: Duration = Duration::from_secs(20);
/// How often a sign of life is asked for.
const PING_EVERY: Duration = Duration::from_secs(20);
/// A client that gave no sign of life for so long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// When somebody for whom there was no place may try again.
const SEAT_PAUSE: Duration = Duration::from_secs(30);
/// Commands between two rechecks.
const COMMANDS_MAX: u32 = 120;
/// Longest message of a client.
const MESSAGE_MAX_BYTES: usize = 16 * 1024;
/// Events read at once for a client that resumes.
const REPLAY_PAGE: i64 = 200;

/// The routes of this subject, below `/v1`.
pub fn router() -> OpenApiRouter<World> {
    OpenApiRouter::new().routes(routes!(live))
}

/// Changes as they happen, through a WebSocket.
///
/// The client says first which event it saw last: `{"last_seq": 41}`, or `null`. The messages are
/// described in `berth_model::event`. Close codes: 4008 the client read too slowly and may resume;
/// 4001 the session or token has ended; 1008 the client said what it may not; 1001 this server stops.
#[utoipa::path(get, path = "/live", tag = "live",
    params(("project" = Option<i64>, Query, description = "The project to listen to, with a session; the first unless named.")),
    responses((status = 101, description = "A WebSocket."), Errors))]
async fn live(
    State(world): State<World>,
    Reader(access): Reader,
    parts: Parts,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> ApiResult<Response> {
    let upgrade = upgrade.map_err(|_| Problem::new(ErrorCode::InvalidInput, "Open this as a WebSocket."))?;
    let seat = world.live.seats().take(&access).ok_or_else(|| {
        Problem::new(ErrorCode::RateLimitExceeded, "Too many pages or programs listen already. Close some.")
            .retry_after(SEAT_PAUSE)
    })?;
    let credentials = Credentials { uri: parts.uri, headers: parts.headers };
    Ok(upgrade.max_message_size(MESSAGE_MAX_BYTES).max_frame_size(MESSAGE_MAX_BYTES).on_upgrade(
        move |socket| async move {
            let mut conversation = Conversation { socket, world, access, credentials };
            let end = Box::pin(conversation.run()).await;
            conversation.close(end).await;
            drop(seat);
        },
    ))
}

/// What the request showed, to be shown again from time to time.
struct Credentials {
    uri: Uri,
    headers: HeaderMap,
}

impl Credentials {
    /// Whether they still open the same project. An answer that could not be had is no refusal.
    async fn are_good(&self, access: &ProjectAccess, world: &World) -> bool {
        let mut request = http::Request::new(());
        (*request.method_mut(), *request.uri_mut()) = (Method::GET, self.uri.clone());
        *request.headers_mut() = self.headers.clone();
        // A page left open is no use of the session: it must end in its time.
        request.extensions_mut().insert(JustAsking);
        let (mut parts, ()) = request.into_parts();
        match Reader::from_request_parts(&mut parts, world).await {
            Ok(Reader(now)) => now.project == access.project,
            Err(problem) => !matches!(
                problem.error().code,
                ErrorCode::Unauthorized | ErrorCode::Forbidden | ErrorCode::NotFound
            ),
        }
    }
}

/// Why a conversation is over.
enum End {
    /// The client is gone, or said good-bye.
    Gone,
    TooSlow,
    /// The session or token has ended.
    NotAllowed,
    /// The client said what it may not.
    Misused(&'static str),
    /// This control plane stops.
    Stopping,
    /// Something failed on our side.
    Failed(sqlx::Error),
}

impl From<sqlx::Error> for End {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(error)
    }
}

struct Conversation {
    socket: WebSocket,
    world: World,
    access: ProjectAccess,
    credentials: Credentials,
}

/// The servers whose samples the client wants.
#[derive(Default)]
struct Watching {
    samples: SelectAll<BoxStream<'static, (ServerId, LoadSample)>>,
    /// Held for what its end does.
    _guard: Option<WatchGuard>,
}

impl Conversation {
    async fn run(&mut self) -> End {
        match self.talk().await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn talk(&mut self) -> Result<std::convert::Infallible, End> {
        let mut doubts = self.world.live.doubts();
        let hello = self.hello().await?;
        let mut subscription = self.world.live.subscribe(self.access.project);
        let mut seen = self.catch_up(hello, &subscription).await?;

        let mut watching = Watching::default();
        let mut ping = interval(PING_EVERY);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let mut commands = 0;
        let stop = self.world.live.stop().clone();
        loop {
            tokio::select! {
                () = stop.cancelled() => return Err(End::Stopping),
                () = subscription.too_slow.cancelled() => return Err(End::TooSlow),
                event = subscription.events.recv() => {
                    let Published { seq, text } = event.ok_or(End::TooSlow)?;
                    // One that resumed here may have seen more than this control plane had.
                    if seq > seen {
                        seen = seq;
                        self.send(Message::Text(text), Some(&subscription)).await?;
                    }
                }
                Some((server, sample)) = watching.samples.next(), if !watching.samples.is_empty() => {
                    self.say(&LiveMessage::Load { server, sample }, Some(&subscription)).await?;
                }
                message = self.socket.recv() => {
                    heard = Instant::now();
                    match message {
                        Some(Ok(Message::Text(text))) => {
                            commands += 1;
                            if commands > COMMANDS_MAX {
                                return Err(End::Misused("Too many commands."));
                            }
                            watching = self.command(&text).await?;
                        }
                        Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                        Some(Ok(Message::Binary(_))) => return Err(End::Misused("Speak JSON in text messages.")),
                        Some(Ok(Message::Close(_)) | Err(_)) | None => return Err(End::Gone),
                    }
                }
                _ = ping.tick() => {
                    if heard.elapsed() > SILENCE_MAX {
                        return Err(End::Gone);
                    }
                    self.send(Message::Ping(bytes::Bytes::new()), Some(&subscription)).await?;
                }
                () = doubts.next(&self.access) => {
                    commands = 0;
                    if !self.credentials.are_good(&self.access, &self.world).await {
                        return Err(End::NotAllowed);
                    }
                }
            }
        }
    }

    async fn hello(&mut self) -> Result<LiveHello, End> {
        let stop = self.world.live.stop().clone();
        let first = async {
            loop {
                match self.socket.recv().await {
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(Message::Text(text))) => return Ok(text),
                    Some(Ok(Message::Binary(_))) => return Err(End::Misused("Speak JSON in text messages.")),
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return Err(End::Gone),
                }
            }
        };
        let first = tokio::select! {
            () = stop.cancelled() => return Err(End::Stopping),
            first = timeout(HELLO_MAX, first) => first,
        };
        let text = first.map_err(|_| End::Misused("Say hello first: {\"last_seq\": null}."))??;
        serde_json::from_str(&text).map_err(|_| End::Misused("That is no hello: {\"last_seq\": null}."))
    }

    /// Sends what was missed, or a reset. Answers up to which event the client is served.
    async fn catch_up(&mut self, hello: LiveHello, subscription: &Subscription) -> Result<i64, End> {
        let until = subscription.since;
        self.say(&LiveMessage::Welcome { seq: until }, None).await?;
        let Some(last) = hello.last_seq else { return Ok(until) };
        let project = self.access.project;
        let replay_max = self.world.live.settings().replay_max;

        let mut conn = self.world.db.acquire().await.map_err(End::Failed)?;
        let kept = queries::kept(&mut conn).await?;
        let known = (kept.after..=kept.last.max(until)).contains(&last);
        if !known || queries::count(&mut conn, project, last, until, replay_max + 1).await? > replay_max {
            drop(conn);
            return self.reset(until).await;
        }
        drop(conn);

        let mut seen = last;
        while seen < until {
            // No connection is held while the client reads.
            let mut conn = self.world.db.acquire().await.map_err(End::Failed)?;
            let rows = queries::of_project(&mut conn, project, seen, until, REPLAY_PAGE).await?;
            let kept = queries::kept(&mut conn).await?;
            drop(conn);
            if kept.after > seen {
                // Removed while it was being read: the page may have a gap.
                return self.reset(until).await;
            }
            seen = if rows.len() < REPLAY_PAGE as usize {
                until
            } else {
                rows.last().map_or(until, |row| row.seq)
            };
            for row in &rows {
                self.send(Message::Text(text(row)), Some(subscription)).await?;
            }
        }
        Ok(seen)
    }

    async fn reset(&mut self, seq: i64) -> Result<i64, End> {
        metrics::counter!("berth_live_resets_total").increment(1);
        self.say(&LiveMessage::Reset { seq }, None).await?;
        Ok(seq)
    }

    async fn command(&mut self, text: &str) -> Result<Watching, End> {
        let command = serde_json::from_str(text).map_err(|_| End::Misused("That is no command."))?;
        let LiveCommand::Watch { servers } = command;
        if servers.len() > WATCH_MAX {
            return Err(End::Misused("That is more servers than one may watch."));
        }
        let mut conn = self.world.db.acquire().await?;
        // What is not theirs does not exist for them: it is left out without a word.
        let servers = servers::queries::among(&mut conn, self.access.project, &servers).await?;
        drop(conn);
        let load = &self.world.load;
        let samples = servers.iter().map(|&server| samples(server, load.subscribe(server))).collect();
        Ok(Watching { samples, _guard: Some(load.watch(&servers)) })
    }

    async fn say(&mut self, message: &LiveMessage, subscription: Option<&Subscription>) -> Result<(), End> {
        let text = serde_json::to_string(message).expect("the model's types can be written as JSON");
        self.send(Message::Text(Utf8Bytes::from(text)), subscription).await
    }

    /// Sends, unless the client does not read, or its queue has run over meanwhile.
    async fn send(&mut self, message: Message, subscription: Option<&Subscription>) -> Result<(), End> {
        let too_slow = async {
            match subscription {
                Some(subscription) => subscription.too_slow.cancelled().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            sent = timeout(WRITE_MAX, self.socket.send(message)) => match sent {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) => Err(End::Gone),
                Err(_) => Err(End::TooSlow),
            },
            () = too_slow => Err(End::TooSlow),
        }
    }

    async fn close(mut self, end: End) {
        let (code, reason) = match end {
            End::Gone => return,
            End::TooSlow => (CLOSE_TOO_SLOW, "Read faster, or resume."),
            End::NotAllowed => (CLOSE_ENDED, "The session or token has ended."),
            End::Misused(what) => (1008, what),
            End::Stopping => (1001, "This server stops. Connect again."),
            End::Failed(error) => {
                tracing::warn!("A live socket had to be closed: {error}");
                (1011, "Something failed on our side. Connect again.")
            }
        };
        let farewell = Message::Close(Some(CloseFrame { code, reason: Utf8Bytes::from_static(reason) }));
        let _ = timeout(CLOSE_MAX, async {
            if self.socket.send(farewell).await.is_ok() {
                // Until the client has answered: what is dropped earlier may not arrive.
                while let Some(Ok(_)) = self.socket.recv().await {}
            }
        })
        .await;
    }
}

/// A server's samples as they come; those a slow reader missed are left out.
fn samples(
    server: ServerId,
    samples: broadcast::Receiver<LoadSample>,
) -> BoxStream<'static, (ServerId, LoadSample)> {
    unfold(samples, move |mut samples| async move {
        loop {
            match samples.recv().await {
                Ok(sample) => return Some(((server, sample), samples)),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    })
    .boxed()
}
