//! Actions: what an API call started (Hetzner Cloud API v1, `/actions`).

use serde::{Deserialize, Serialize};

use crate::error::ErrorCode;
use crate::page::Meta;
use crate::{ActionId, Timestamp};

/// How far an action is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "sqlx", derive(sqlx::Type), sqlx(type_name = "text", rename_all = "snake_case"))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ActionStatus {
    /// Under way.
    Running,
    /// Done.
    Success,
    /// Given up; `error` says why. What it began is undone.
    Error,
}

impl ActionStatus {
    /// The word on the wire.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Success => "success",
            Self::Error => "error",
        }
    }
}

impl core::str::FromStr for ActionStatus {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "running" => Ok(Self::Running),
            "success" => Ok(Self::Success),
            "error" => Ok(Self::Error),
            _ => Err(format!("“{s}” is not a status of an action.")),
        }
    }
}

/// What kind of resource an action works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "sqlx", derive(sqlx::Type), sqlx(type_name = "text", rename_all = "snake_case"))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ResourceKind {
    /// A server.
    Server,
    /// An image.
    Image,
    /// An ISO.
    Iso,
    /// A volume.
    Volume,
    /// A private network.
    Network,
    /// A firewall.
    Firewall,
    /// A floating IP.
    FloatingIp,
    /// A primary IP.
    PrimaryIp,
    /// A certificate.
    Certificate,
    /// A placement group.
    PlacementGroup,
    /// A load balancer.
    LoadBalancer,
    /// A DNS zone.
    Zone,
}

impl ResourceKind {
    /// The word on the wire.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Image => "image",
            Self::Iso => "iso",
            Self::Volume => "volume",
            Self::Network => "network",
            Self::Firewall => "firewall",
            Self::FloatingIp => "floating_ip",
            Self::PrimaryIp => "primary_ip",
            Self::Certificate => "certificate",
            Self::PlacementGroup => "placement_group",
            Self::LoadBalancer => "load_balancer",
            Self::Zone => "zone",
        }
    }

    /// The word in a sentence: `floating IP`.
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Iso => "ISO",
            Self::FloatingIp => "floating IP",
            Self::PrimaryIp => "primary IP",
            Self::PlacementGroup => "placement group",
            Self::LoadBalancer => "load balancer",
            kind => kind.word(),
        }
    }
}

/// A resource an action works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ActionResource {
    /// Its number.
    pub id: i64,
    /// Its kind.
    #[serde(rename = "type")]
    pub kind: ResourceKind,
}

/// Why an action was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ActionError {
    /// What kind.
    pub code: ErrorCode,
    /// A sentence for the customer.
    pub message: String,
}

/// What an API call started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Action {
    /// Stable for life.
    pub id: ActionId,
    /// What: `create_server`, `attach_volume`.
    pub command: String,
    /// How far.
    pub status: ActionStatus,
    /// Percent, 0 to 100.
    pub progress: u8,
    /// When it was asked for.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Option<Timestamp>,
    /// What it works on.
    pub resources: Vec<ActionResource>,
    /// Why it was given up.
    pub error: Option<ActionError>,
    /// Berth's own: the step under way and those before it. Empty for an action of one step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<ActionStep>,
}

/// One step of an action, as the customer sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ActionStep {
    /// What it does, in words: `Reserve an address`.
    pub title: String,
    /// How far.
    pub state: StepState,
    /// How long it took, or has taken until the action was last written, in milliseconds.
    pub took_ms: Option<u64>,
}

/// How far a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// To come.
    Waiting,
    /// Under way.
    Now,
    /// Done.
    Done,
    /// Given up.
    Failed,
}

/// A list of actions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ActionList {
    /// This page's actions.
    pub actions: Vec<Action>,
    /// The page.
    pub meta: Meta,
}

/// One action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ActionReply {
    /// The action.
    pub action: Action,
}
