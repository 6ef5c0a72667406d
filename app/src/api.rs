//! The one client of the API. Typed in and out by the model; a request whose future is dropped
//! is aborted.

use berth_model::action::{Action, ActionList, ActionReply};
use berth_model::error::{ApiError, ErrorBody, ErrorCode};
use berth_model::image::ImageList;
use berth_model::load::{LoadReply, LoadSpan};
use berth_model::location::LocationList;
use berth_model::people::{Session, SignIn, SignUp};
use berth_model::server::{ServerCreate, ServerCreated, ServerList, ServerReply};
use berth_model::server_type::ServerTypeList;
use berth_model::ssh_key::{SshKey, SshKeyCreate, SshKeyList, SshKeyReply};
use berth_model::{ProjectId, ServerId};
use futures_util::future::{Either, select};
use gloo_net::http::{Method, RequestBuilder};
use gloo_timers::future::TimeoutFuture;
use leptos::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::browser;
use crate::words::Verb;

/// How long an answer may take.
const TIMEOUT_MS: u32 = 20_000;
/// How long to wait before a write is sent once more, with the same idempotency key.
const RETRY_AFTER_MS: u32 = 1_000;
/// Entries of a page of servers.
pub const SERVERS_PER_PAGE: u32 = 50;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// The API said no.
    Refused(ApiError),
    /// The network, or nobody behind it in time.
    NoAnswer,
    /// Something else than the API answered.
    Strange(u16),
}

impl Fault {
    /// A sentence for the person at the screen.
    pub fn message(&self) -> String {
        match self {
            Self::Refused(error) => error.message.clone(),
            Self::NoAnswer => "Berth does not answer. Check your connection and try again.".to_owned(),
            Self::Strange(status) => {
                format!("Something between you and Berth answered with {status}. Try again.")
            }
        }
    }

    /// Is it this kind of refusal?
    pub fn is(&self, code: ErrorCode) -> bool {
        matches!(self, Self::Refused(error) if error.code == code)
    }

    /// The fields that are wrong: their paths and what is said of them.
    pub fn fields(&self) -> Vec<(String, String)> {
        let Self::Refused(error) = self else { return Vec::new() };
        let fields = error.details.as_ref().map(|details| details.fields.as_slice()).unwrap_or_default();
        fields.iter().map(|field| (field.name.clone(), field.messages.join(" "))).collect()
    }
}

/// Aborts its request when it is dropped.
struct AbortOnDrop(Option<web_sys::AbortController>);

impl AbortOnDrop {
    fn new() -> Self {
        Self(web_sys::AbortController::new().ok())
    }

    fn signal(&self) -> Option<web_sys::AbortSignal> {
        self.0.as_ref().map(web_sys::AbortController::signal)
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        if let Some(controller) = &self.0 {
            controller.abort();
        }
    }
}

/// A request, ready to be sent more than once.
struct Request<'a> {
    method: Method,
    path: &'a str,
    body: Option<String>,
    project: Option<ProjectId>,
    key: Option<String>,
}

impl Request<'_> {
    /// Status and body of the answer.
    async fn send(&self) -> Option<(u16, String)> {
        let abort = AbortOnDrop::new();
        let mut builder = RequestBuilder::new(self.path)
            .method(self.method.clone())
            .abort_signal(abort.signal().as_ref())
            .header("accept", "application/json");
        if let Some(project) = self.project {
            builder = builder.header("berth-project", &project.to_string());
        }
        if let Some(key) = &self.key {
            builder = builder.header("idempotency-key", key);
        }
        let request = match &self.body {
            Some(body) => builder.header("content-type", "application/json").body(body.clone()),
            None => builder.build(),
        };
        let request = request.ok()?;
        let answer = Box::pin(async {
            let response = request.send().await.ok()?;
            let status = response.status();
            Some((status, response.text().await.ok()?))
        });
        match select(answer, TimeoutFuture::new(TIMEOUT_MS)).await {
            Either::Left((answer, _)) => answer,
            Either::Right(_) => None,
        }
    }

    async fn answer<T: DeserializeOwned>(self) -> Result<T, Fault> {
        let mut answer = self.send().await;
        if answer.is_none() && self.key.is_some() {
            TimeoutFuture::new(RETRY_AFTER_MS).await;
            answer = self.send().await;
        }
        let (status, body) = answer.ok_or(Fault::NoAnswer)?;
        if (200..300).contains(&status) {
            // An answer without a body stands for `null`.
            let body = if body.is_empty() { "null" } else { &body };
            return serde_json::from_str(body).map_err(|_| Fault::Strange(status));
        }
        match serde_json::from_str::<ErrorBody>(&body) {
            Ok(body) => Err(Fault::Refused(body.error)),
            Err(_) => Err(Fault::Strange(status)),
        }
    }
}

/// Who is signed in; asked once, before anything is on the screen.
pub async fn session() -> Result<Option<Session>, Fault> {
    let request = Request { method: Method::GET, path: "/v1/session", body: None, project: None, key: None };
    match request.answer().await {
        Ok(session) => Ok(Some(session)),
        Err(fault) if fault.is(ErrorCode::Unauthorized) => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// The client. Requests go to the project that is entered.
#[derive(Clone, Copy)]
pub struct Api {
    project: StoredValue<Option<ProjectId>>,
    expired: RwSignal<bool>,
}

/// What a list of servers is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerQuery {
    /// From 1.
    pub page: u32,
    /// The word of a status, or nothing for all.
    pub status: Option<&'static str>,
    /// An exact name, or nothing for all.
    pub name: String,
}

impl Api {
    /// A client that has entered no project yet.
    pub fn new() -> Self {
        Self { project: StoredValue::new(None), expired: RwSignal::new(false) }
    }

    /// Enters a project, or leaves it.
    pub fn enter(self, project: Option<ProjectId>) {
        self.project.set_value(project);
        self.expired.set(false);
    }

    /// The project that is entered.
    pub fn project(self) -> Option<ProjectId> {
        self.project.get_value()
    }

    /// Has the session ended under us?
    pub fn expired(self) -> Signal<bool> {
        self.expired.into()
    }

    async fn call<T: DeserializeOwned>(
        self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<T, Fault> {
        let key = (method == Method::POST).then(browser::uuid);
        let answer = Request { method, path, body, project: self.project(), key }.answer().await;
        // Wrong credentials at the door are no end of a session.
        if let Err(fault) = &answer
            && fault.is(ErrorCode::Unauthorized)
            && path != "/v1/session"
        {
            self.expired.set(true);
        }
        answer
    }

    async fn get<T: DeserializeOwned>(self, path: &str) -> Result<T, Fault> {
        self.call(Method::GET, path, None).await
    }

    async fn post<T: DeserializeOwned>(self, path: &str, body: &impl Serialize) -> Result<T, Fault> {
        let body = serde_json::to_string(body).expect("types of the model are JSON");
        self.call(Method::POST, path, Some(body)).await
    }

    /// Signs in.
    pub async fn session_create(self, body: &SignIn) -> Result<Session, Fault> {
        self.post("/v1/session", body).await
    }

    /// Signs out.
    pub async fn session_delete(self) -> Result<Option<serde_json::Value>, Fault> {
        self.call(Method::DELETE, "/v1/session", None).await
    }

    /// Signs up, and in.
    pub async fn user_create(self, body: &SignUp) -> Result<Session, Fault> {
        self.post("/v1/users", body).await
    }

    /// A page of servers, by name.
    pub async fn servers(self, query: &ServerQuery) -> Result<ServerList, Fault> {
        let page = query.page.max(1);
        let mut path = format!("/v1/servers?page={page}&per_page={SERVERS_PER_PAGE}&sort=name:asc");
        if let Some(status) = query.status {
            path.push_str(&format!("&status={status}"));
        }
        if !query.name.is_empty() {
            path.push_str(&format!("&name={}", js_sys::encode_uri_component(&query.name)));
        }
        self.get(&path).await
    }

    /// A server.
    pub async fn server(self, id: ServerId) -> Result<ServerReply, Fault> {
        self.get(&format!("/v1/servers/{id}")).await
    }

    /// Orders a server.
    pub async fn server_create(self, body: &ServerCreate) -> Result<ServerCreated, Fault> {
        self.post("/v1/servers", body).await
    }

    /// Does something to a server that exists.
    pub async fn act(self, id: ServerId, verb: Verb) -> Result<Action, Fault> {
        let reply: ActionReply = match verb.path() {
            Some(path) => {
                let path = format!("/v1/servers/{id}/actions/{path}");
                self.call(Method::POST, &path, None).await?
            }
            None => self.call(Method::DELETE, &format!("/v1/servers/{id}"), None).await?,
        };
        Ok(reply.action)
    }

    /// What happened to a server, newest first.
    pub async fn server_actions(self, id: ServerId) -> Result<ActionList, Fault> {
        self.get(&format!("/v1/servers/{id}/actions?sort=id:desc&per_page=25")).await
    }

    /// What is under way in the project.
    pub async fn running_actions(self) -> Result<ActionList, Fault> {
        self.get("/v1/actions?status=running&sort=id:desc&per_page=50").await
    }

    /// The load of a server.
    pub async fn load(self, id: ServerId, span: LoadSpan) -> Result<LoadReply, Fault> {
        self.get(&format!("/v1/servers/{id}/load?span={}", span.word())).await
    }

    /// The system images.
    pub async fn images(self) -> Result<ImageList, Fault> {
        self.get("/v1/images?per_page=50").await
    }

    /// The server types.
    pub async fn server_types(self) -> Result<ServerTypeList, Fault> {
        self.get("/v1/server_types?per_page=50").await
    }

    /// The locations.
    pub async fn locations(self) -> Result<LocationList, Fault> {
        self.get("/v1/locations?per_page=50").await
    }

    /// The project's SSH keys.
    pub async fn ssh_keys(self) -> Result<SshKeyList, Fault> {
        self.get("/v1/ssh_keys?per_page=50").await
    }

    /// Adds an SSH key.
    pub async fn ssh_key_create(self, body: &SshKeyCreate) -> Result<SshKey, Fault> {
        let reply: SshKeyReply = self.post("/v1/ssh_keys", body).await?;
        Ok(reply.ssh_key)
    }
}
