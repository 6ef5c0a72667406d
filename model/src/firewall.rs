//! Firewalls (Hetzner Cloud API v1, `/firewalls`).

use serde::{Deserialize, Serialize};

use crate::action::Action;
use crate::agent::FirewallProtocol;
use crate::label::Labels;
use crate::page::Meta;
use crate::{FirewallId, ServerId, Timestamp};

/// Which way packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum FirewallDirection {
    /// To the server.
    In,
    /// From the server.
    Out,
}

/// Lets packets through. What comes in and no rule lets through is dropped; what goes out only if there are rules
/// for that way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct FirewallRule {
    /// Which way.
    pub direction: FirewallDirection,
    /// From where, if it is about what comes in: `10.0.0.0/8`, `::/0`. 1 to 100.
    #[serde(default)]
    pub source_ips: Vec<String>,
    /// To where, if it is about what goes out. 1 to 100.
    #[serde(default)]
    pub destination_ips: Vec<String>,
    /// Of which protocol.
    pub protocol: FirewallProtocol,
    /// To which ports: `80` or `8000-8999`. With tcp and udp, and only with them.
    #[serde(default)]
    pub port: Option<String>,
    /// The customer's own words, at most 255 characters.
    #[serde(default)]
    pub description: Option<String>,
}

/// What a firewall is applied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum FirewallTargetKind {
    /// A server.
    Server,
    /// All servers whose labels fit, also those that come to fit later.
    LabelSelector,
}

/// A server, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ServerNumber {
    /// Its number.
    pub id: ServerId,
}

/// A label selector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SelectorText {
    /// `env=prod,!old`
    pub selector: String,
}

/// What a firewall is to be applied to, or taken from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct FirewallTarget {
    /// Which of the two.
    #[serde(rename = "type")]
    pub kind: FirewallTargetKind,
    /// The server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerNumber>,
    /// The selector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_selector: Option<SelectorText>,
}

impl From<ServerId> for FirewallTarget {
    fn from(id: ServerId) -> Self {
        let server = Some(ServerNumber { id });
        Self { kind: FirewallTargetKind::Server, server, label_selector: None }
    }
}

/// What a firewall is applied to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FirewallResource {
    /// Which of the two.
    #[serde(rename = "type")]
    pub kind: FirewallTargetKind,
    /// The server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerNumber>,
    /// The selector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_selector: Option<SelectorText>,
    /// The servers whose labels fit the selector now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_to_resources: Option<Vec<FirewallTarget>>,
}

/// What may come to servers and go from them. With several on a server, each lets through what its rules say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Firewall {
    /// Stable for life.
    pub id: FirewallId,
    /// Unique in the project.
    pub name: String,
    /// The customer's own marks.
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::BTreeMap<String, String>))]
    pub labels: Labels,
    /// What is let through.
    pub rules: Vec<FirewallRule>,
    /// Whom it protects.
    pub applied_to: Vec<FirewallResource>,
    /// When it was made.
    pub created: Timestamp,
}

/// `POST /v1/firewalls`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct FirewallCreate {
    /// 1 to 64 characters, unique in the project.
    pub name: String,
    /// The customer's own marks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<std::collections::BTreeMap<String, String>>))]
    pub labels: Option<Labels>,
    /// What is let through, at most 50.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<FirewallRule>,
    /// Whom it is applied to from the beginning.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub apply_to: Vec<FirewallTarget>,
}

/// `PUT /v1/firewalls/{id}`: what is left out stays.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct FirewallUpdate {
    /// The new name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// All labels anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<std::collections::BTreeMap<String, String>>))]
    pub labels: Option<Labels>,
}

/// `POST /v1/firewalls/{id}/actions/set_rules`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct FirewallSetRules {
    /// All rules anew, at most 50.
    pub rules: Vec<FirewallRule>,
}

/// `POST /v1/firewalls/{id}/actions/apply_to_resources`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct FirewallApply {
    /// Whom it is applied to.
    pub apply_to: Vec<FirewallTarget>,
}

/// `POST /v1/firewalls/{id}/actions/remove_from_resources`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct FirewallRemove {
    /// Whom it is taken from.
    pub remove_from: Vec<FirewallTarget>,
}

/// `GET /v1/firewalls`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FirewallList {
    /// This page's firewalls.
    pub firewalls: Vec<Firewall>,
    /// The page.
    pub meta: Meta,
}

/// One firewall.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FirewallReply {
    /// The firewall.
    pub firewall: Firewall,
}

/// A firewall that was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FirewallCreated {
    /// The firewall.
    pub firewall: Firewall,
    /// One for each server that it is applied to; each ends when the server's node filters.
    pub actions: Vec<Action>,
}

/// What a change of a firewall began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FirewallActions {
    /// One for each server; each ends when the server's node filters as it should.
    pub actions: Vec<Action>,
}
