//! Webhooks: where a project is told of events. Berth's own, in the conventions of the Hetzner Cloud API.
//!
//! A delivery is a POST whose body is JSON, [`WebhookEvent`], with these headers:
//!
//! | header | holds |
//! | --- | --- |
//! | `Berth-Event` | the event's number: the same for every try and every replay |
//! | `Berth-Delivery` | the delivery's number |
//! | `Berth-Timestamp` | when it was sent, seconds since 1970 |
//! | `Berth-Signature` | `v1=` and HMAC-SHA-256, in hex, of the timestamp, a dot and the body; the key is the secret's text |
//!
//! A receiver computes the signature over the body as it came, compares it in constant time, refuses a timestamp
//! older than a few minutes, answers 2xx within ten seconds, and ignores an event number it has had.

use serde::{Deserialize, Serialize};

use crate::page::Meta;
use crate::{ProjectId, Timestamp, WebhookDeliveryId, WebhookId};

/// The kinds of events there are.
pub const EVENT_KINDS: [&str; 5] =
    ["server.changed", "server.deleted", "action.running", "action.success", "action.error"];

/// Where a project is told of events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Webhook {
    /// Stable for life.
    pub id: WebhookId,
    /// Unique in the project.
    pub name: String,
    /// Where the events are sent.
    pub url: String,
    /// Of these kinds; empty: of all.
    pub kinds: Vec<String>,
    /// Whether events are sent.
    pub enabled: bool,
    /// Why it was disabled, if not by the project.
    pub note: Option<String>,
    /// The first failed try since the last that worked.
    pub failing_since: Option<Timestamp>,
    /// When it was made.
    pub created: Timestamp,
}

/// `POST /v1/webhooks`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct WebhookCreate {
    /// 1 to 64 characters, unique in the project.
    pub name: String,
    /// `https://…` or `http://…`, at a public address, at most 2048 characters.
    pub url: String,
    /// Only of these kinds: `server.changed`, `server.deleted`, `action.running`, `action.success`,
    /// `action.error`. Empty: of all, also of kinds that come later.
    #[serde(default)]
    pub kinds: Vec<String>,
}

/// `PUT /v1/webhooks/{id}`: what is left out stays.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct WebhookUpdate {
    /// The new name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The new address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The new kinds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kinds: Option<Vec<String>>,
    /// Whether events are sent. Enabled again, it starts with the next event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

/// The answer to `POST /v1/webhooks`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WebhookCreated {
    /// The webhook.
    pub webhook: Webhook,
    /// What deliveries are signed with. Not shown again.
    pub secret: String,
}

/// One webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WebhookReply {
    /// The webhook.
    pub webhook: Webhook,
}

/// `GET /v1/webhooks`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WebhookList {
    /// This page's webhooks, by number.
    pub webhooks: Vec<Webhook>,
    /// The page.
    pub meta: Meta,
}

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "sqlx", derive(sqlx::Type), sqlx(type_name = "text", rename_all = "snake_case"))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum DeliveryStatus {
    /// It will be tried, or tried again.
    Pending,
    /// The receiver answered 2xx.
    Delivered,
    /// Given up after 24 hours, or because the webhook was disabled.
    Failed,
}

/// One event on its way to one webhook. Kept for a week.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WebhookDelivery {
    /// Stable for life.
    pub id: WebhookDeliveryId,
    /// The event's number.
    pub event: i64,
    /// The event's kind.
    pub kind: String,
    /// The body as it is sent: [`WebhookEvent`].
    pub body: String,
    /// What became of it.
    pub status: DeliveryStatus,
    /// Tries so far, since it was made or replayed.
    pub attempts: i32,
    /// When it is tried next, at the earliest.
    pub next_attempt: Option<Timestamp>,
    /// The status of the last answer.
    pub http_status: Option<i16>,
    /// Why the last try failed.
    pub error: Option<String>,
    /// When the event came.
    pub created: Timestamp,
    /// When it was delivered, or given up.
    pub finished: Option<Timestamp>,
}

/// `GET /v1/webhooks/{id}/deliveries`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WebhookDeliveryList {
    /// This page's deliveries, newest first.
    pub deliveries: Vec<WebhookDelivery>,
    /// The page.
    pub meta: Meta,
}

/// One delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WebhookDeliveryReply {
    /// The delivery.
    pub delivery: WebhookDelivery,
}

/// The body of a delivery.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WebhookEvent<D> {
    /// The event's number: unique in the installation, growing.
    pub id: i64,
    /// What happened: one of [`EVENT_KINDS`], or one that came later.
    pub kind: String,
    /// When.
    pub created: Timestamp,
    /// In which project.
    pub project: ProjectId,
    /// The whole resource as it was then, `{"server": {…}}` or `{"action": {…}}`; `{"id": 7}` of one that is gone.
    pub data: D,
}
