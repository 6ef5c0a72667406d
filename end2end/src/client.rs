//! A customer's program: the public API with a token.

use anyhow::Context as _;
use berth_model::action::{Action, ActionReply, ActionStatus};
use berth_model::server::{Server, ServerCreate, ServerCreated, ServerReply};
use berth_model::{ActionId, ErrorBody, ServerId};
use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::wait;

/// A plain HTTP client.
pub fn http() -> reqwest::Client {
    builder().build().expect("a client without settings can be made")
}

/// The beginning of one.
pub fn builder() -> reqwest::ClientBuilder {
    // reqwest wants one also where no TLS is spoken; somebody may have been here before.
    let _first_one_wins = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
}

/// Speaks to one control plane.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: String,
}

impl Client {
    /// A client of `base` (`http://127.0.0.1:7700`) with a token of a project.
    pub fn new(base: &str, token: &str) -> Self {
        Self { http: http(), base: base.to_owned(), token: token.to_owned() }
    }

    /// One request; the status and the body, whatever they are.
    ///
    /// # Errors
    /// When the control plane does not answer, or not in JSON.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<(StatusCode, Value)> {
        let mut request =
            self.http.request(method, format!("{}/v1{path}", self.base)).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let reply = request.send().await?;
        let status = reply.status();
        let text = reply.text().await?;
        let value = if text.is_empty() { Value::Null } else { serde_json::from_str(&text)? };
        Ok((status, value))
    }

    /// One request that must succeed.
    ///
    /// # Errors
    /// With the API's own sentence when it does not.
    pub async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<T> {
        let (status, value) = self.send(method.clone(), path, body).await?;
        if !status.is_success() {
            let error: ErrorBody = serde_json::from_value(value)?;
            anyhow::bail!("{method} {path}: {status}: {:?}", error.error);
        }
        serde_json::from_value(value).with_context(|| format!("{method} {path}"))
    }

    /// Orders a server.
    ///
    /// # Errors
    /// When the API refuses.
    pub async fn server_create(&self, order: &ServerCreate) -> anyhow::Result<ServerCreated> {
        self.call(Method::POST, "/servers", Some(&serde_json::to_value(order)?)).await
    }

    /// The server, or `None` when there is no such server.
    ///
    /// # Errors
    /// When the control plane does not answer.
    pub async fn server(&self, id: ServerId) -> anyhow::Result<Option<Server>> {
        let (status, value) = self.send(Method::GET, &format!("/servers/{id}"), None).await?;
        match status {
            StatusCode::NOT_FOUND => Ok(None),
            _ => Ok(Some(serde_json::from_value::<ServerReply>(value)?.server)),
        }
    }

    /// Starts deleting a server.
    ///
    /// # Errors
    /// When the API refuses.
    pub async fn server_delete(&self, id: ServerId) -> anyhow::Result<Action> {
        Ok(self.call::<ActionReply>(Method::DELETE, &format!("/servers/{id}"), None).await?.action)
    }

    /// Starts a power action: `poweron`, `poweroff`, `shutdown`, `reboot`, `reset`.
    ///
    /// # Errors
    /// When the API refuses.
    pub async fn power(&self, id: ServerId, verb: &str) -> anyhow::Result<Action> {
        Ok(self
            .call::<ActionReply>(Method::POST, &format!("/servers/{id}/actions/{verb}"), None)
            .await?
            .action)
    }

    /// Waits until an action has ended, however it ends. A control plane that is away is waited for.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn settled(&self, id: ActionId) -> anyhow::Result<Action> {
        wait::until(&format!("the end of action {id}"), || async move {
            let reply = self.call::<ActionReply>(Method::GET, &format!("/actions/{id}"), None).await;
            Ok(reply.ok().map(|r| r.action).filter(|a| a.status != ActionStatus::Running))
        })
        .await
    }
}
