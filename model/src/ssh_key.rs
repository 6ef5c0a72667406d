//! SSH keys (Hetzner Cloud API v1, `/ssh_keys`).

use serde::{Deserialize, Serialize};

use crate::label::Labels;
use crate::page::Meta;
use crate::{SshKeyId, Timestamp};

/// A public key that can be put on new servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SshKey {
    /// Stable for life.
    pub id: SshKeyId,
    /// Unique in the project.
    pub name: String,
    /// MD5 in colon form, `b7:2f:…`.
    pub fingerprint: String,
    /// One line of `authorized_keys`.
    pub public_key: String,
    /// The customer's own marks.
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::BTreeMap<String, String>))]
    pub labels: Labels,
    /// When it was added.
    pub created: Timestamp,
}

/// `POST /v1/ssh_keys`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SshKeyCreate {
    /// 1 to 100 characters, unique in the project.
    pub name: String,
    /// One line of `authorized_keys`: ed25519, ECDSA or RSA of 2048 bits and more.
    pub public_key: String,
    /// The customer's own marks.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::BTreeMap<String, String>))]
    pub labels: Labels,
}

/// `PUT /v1/ssh_keys/{id}`: what is left out stays.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SshKeyUpdate {
    /// The new name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// All labels anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<std::collections::BTreeMap<String, String>>))]
    pub labels: Option<Labels>,
}

/// `GET /v1/ssh_keys`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SshKeyList {
    /// This page's keys.
    pub ssh_keys: Vec<SshKey>,
    /// The page.
    pub meta: Meta,
}

/// One key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SshKeyReply {
    /// The key.
    pub ssh_key: SshKey,
}
