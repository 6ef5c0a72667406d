//! The error every endpoint answers with, in the shape of the Hetzner Cloud API v1:
//! `{"error": {"code", "message", "details"}}`.

use serde::{Deserialize, Serialize};

/// What kind of error, for programs. The wire words are the Hetzner Cloud API's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "sqlx", derive(sqlx::Type), sqlx(type_name = "text", rename_all = "snake_case"))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// 403: signed in, but this is not for you to do.
    Forbidden,
    /// 401: no token or session, or one that no longer works.
    Unauthorized,
    /// 422: a field is wrong; `details.fields` names it.
    InvalidInput,
    /// 400: the body is not JSON.
    JsonError,
    /// 404: it does not exist, or not for you.
    NotFound,
    /// 409: another one with this name or key exists.
    UniquenessError,
    /// 409: the resource changed meanwhile, or is in a state that will pass: the same request may work later.
    Conflict,
    /// 423: another action holds the resource.
    Locked,
    /// 423: the resource is protected.
    Protected,
    /// 403: a quota is used up.
    ResourceLimitExceeded,
    /// 409: others still use the resource.
    ResourceInUse,
    /// 409: the firewall is applied to it already.
    FirewallAlreadyApplied,
    /// 409: the firewall is not applied to it.
    FirewallAlreadyRemoved,
    /// 409: the server is in this network, or in a placement group, already.
    ServerAlreadyAttached,
    /// 409: the server is not in this network.
    ServerNotAttachedToNetwork,
    /// 409: the server is in another network with addresses of this one.
    NetworksOverlap,
    /// 409: the server must be off.
    ServerNotStopped,
    /// 409: the server has an IPv4 address already.
    ServerHasIpv4,
    /// 409: the server has an IPv6 network already.
    ServerHasIpv6,
    /// 409: a server has this primary IP.
    PrimaryIpAlreadyAssigned,
    /// 409: a server has this volume.
    VolumeAlreadyAttached,
    /// 409: the address is taken, or all are.
    IpNotAvailable,
    /// 409: the network has no subnet for the server.
    NoSubnetAvailable,
    /// 422: the resource cannot be used now, say sold out.
    ResourceUnavailable,
    /// 429: too many requests.
    RateLimitExceeded,
    /// 500: something behind the API failed.
    ServiceError,
    /// 500: our mistake.
    ServerError,
    /// 503: not now, try again.
    Unavailable,
    /// 503: closed for maintenance.
    Maintenance,
    /// 422: this installation does not offer it, or the resource does not allow it as it is now.
    UnsupportedError,
    /// 503: no node has room.
    PlacementError,
    /// 403: the token may only read.
    TokenReadonly,
    /// 410: the endpoint is gone.
    DeprecatedApiEndpoint,
    /// The guest did not do what was asked in time; only in an action's error.
    Timeout,
}

impl ErrorCode {
    /// The HTTP status it is answered with.
    pub const fn status(self) -> u16 {
        match self {
            Self::JsonError => 400,
            Self::Unauthorized => 401,
            Self::Forbidden | Self::ResourceLimitExceeded | Self::TokenReadonly => 403,
            Self::NotFound => 404,
            Self::UniquenessError
            | Self::Conflict
            | Self::ResourceInUse
            | Self::FirewallAlreadyApplied
            | Self::FirewallAlreadyRemoved
            | Self::ServerAlreadyAttached
            | Self::ServerNotAttachedToNetwork
            | Self::NetworksOverlap
            | Self::ServerNotStopped
            | Self::ServerHasIpv4
            | Self::ServerHasIpv6
            | Self::PrimaryIpAlreadyAssigned
            | Self::VolumeAlreadyAttached
            | Self::IpNotAvailable
            | Self::NoSubnetAvailable => 409,
            Self::DeprecatedApiEndpoint => 410,
            Self::InvalidInput | Self::ResourceUnavailable | Self::UnsupportedError => 422,
            Self::Locked | Self::Protected => 423,
            Self::RateLimitExceeded => 429,
            Self::ServiceError | Self::ServerError => 500,
            Self::Unavailable | Self::Maintenance | Self::PlacementError => 503,
            Self::Timeout => 504,
        }
    }
}

/// What is wrong with one field of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FieldError {
    /// The path of the field: `name`, `labels.env`, `ssh_keys[1]`.
    pub name: String,
    /// Sentences for the person who filled it in.
    pub messages: Vec<String>,
}

/// Facts beside the message.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ErrorDetails {
    /// The fields that are wrong, for `invalid_input` and `uniqueness_error`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldError>,
}

/// An error of the API: a code for programs, a sentence for people, facts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[error("{message}")]
pub struct ApiError {
    /// What kind.
    pub code: ErrorCode,
    /// A sentence that says what is wrong and what to do.
    pub message: String,
    /// Facts beside the message.
    #[serde(default)]
    pub details: Option<ErrorDetails>,
}

impl ApiError {
    /// An error without details.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: None }
    }

    /// `invalid_input` that names one field.
    pub fn field(name: impl Into<String>, message: impl Into<String>) -> Self {
        let message = message.into();
        let fields = vec![FieldError { name: name.into(), messages: vec![message.clone()] }];
        Self { code: ErrorCode::InvalidInput, message, details: Some(ErrorDetails { fields }) }
    }

    /// `invalid_input` that names several fields; the message is the first field's.
    pub fn fields(fields: Vec<FieldError>) -> Self {
        let first = fields.iter().flat_map(|f| f.messages.first()).next().cloned();
        let message = first.unwrap_or_else(|| "A field is wrong.".to_owned());
        Self { code: ErrorCode::InvalidInput, message, details: Some(ErrorDetails { fields }) }
    }

    /// What is said of the field `name`, if anything.
    pub fn for_field(&self, name: &str) -> Option<&str> {
        let fields = &self.details.as_ref()?.fields;
        fields.iter().find(|f| f.name == name)?.messages.first().map(String::as_str)
    }
}

/// The body of an error answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ErrorBody {
    /// The error.
    pub error: ApiError,
}
