//! Limits: how much of each kind a project and its account have, and may have. The Hetzner Cloud API shows
//! these only in its console; the routes follow its conventions.

use serde::{Deserialize, Serialize};

use crate::page::Meta;
use crate::{AccountId, LimitRequestId, ProjectId, Timestamp};

macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $name:ident $word:literal $things:literal,)+) => {
        /// What is counted and limited.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "sqlx", derive(sqlx::Type), sqlx(type_name = "text", rename_all = "snake_case"))]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        #[serde(rename_all = "snake_case")]
        pub enum QuotaKind {
            $($(#[doc = $doc])+ $name,)+
        }

        impl QuotaKind {
            /// All of them, in the order in which they are shown.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// Its word on the wire.
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)+
                }
            }

            /// How much of what, in a sentence: `servers`, `MiB of memory`.
            pub const fn things(self) -> &'static str {
                match self {
                    $(Self::$name => $things,)+
                }
            }
        }
    };
}

kinds! {
    /// Servers.
    Servers "servers" "servers",
    /// Cores of all servers.
    Cores "cores" "cores",
    /// Memory of all servers, in MiB.
    MemoryMib "memory_mib" "MiB of memory",
    /// Volumes.
    Volumes "volumes" "volumes",
    /// Size of all volumes, in GiB.
    VolumeGib "volume_gib" "GiB of volumes",
    /// Primary IPs.
    PrimaryIps "primary_ips" "primary IPs",
    /// Floating IPs.
    FloatingIps "floating_ips" "floating IPs",
    /// Snapshots. Backups are not counted.
    Snapshots "snapshots" "snapshots",
    /// Private networks.
    Networks "networks" "networks",
    /// Firewalls.
    Firewalls "firewalls" "firewalls",
    /// Placement groups.
    PlacementGroups "placement_groups" "placement groups",
    /// Certificates.
    Certificates "certificates" "certificates",
    /// SSH keys.
    SshKeys "ssh_keys" "SSH keys",
    /// Webhooks.
    Webhooks "webhooks" "webhooks",
}

impl core::str::FromStr for QuotaKind {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let words = || Self::ALL.iter().map(|kind| kind.word()).collect::<Vec<_>>().join(", ");
        let found = Self::ALL.iter().copied().find(|kind| kind.word() == s);
        found.ok_or_else(|| format!("“{s}” is not limited; limited are {}.", words()))
    }
}

/// How a project stands with one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Limit {
    /// Of what.
    pub kind: QuotaKind,
    /// What the project has.
    pub used: i64,
    /// What the project may have.
    pub limit: i64,
    /// What all projects of the account have.
    pub account_used: i64,
    /// What all projects of the account may have together.
    pub account_limit: i64,
}

/// `GET /v1/limits`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LimitList {
    /// One of each kind.
    pub limits: Vec<Limit>,
}

/// `PUT /v1/staff/projects/{id}/limits` and `PUT /v1/staff/accounts/{id}/limits`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct LimitSet {
    /// Of what.
    pub kind: QuotaKind,
    /// The limit, 0 or more; `null`: the installation's again.
    pub limit: Option<i64>,
}

/// What became of a request for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "sqlx", derive(sqlx::Type), sqlx(type_name = "text", rename_all = "snake_case"))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum LimitRequestStatus {
    /// Staff have not answered.
    Open,
    /// The project has its new limit.
    Granted,
    /// It has not; `note` may say why.
    Declined,
}

/// A request for a higher limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LimitRequest {
    /// Stable for life.
    pub id: LimitRequestId,
    /// The project that asks.
    pub project: ProjectId,
    /// Whose project.
    pub account: AccountId,
    /// Of what.
    pub kind: QuotaKind,
    /// The limit that is asked for.
    pub limit: i64,
    /// What for.
    pub reason: String,
    /// What became of it.
    pub status: LimitRequestStatus,
    /// What staff answered.
    pub note: Option<String>,
    /// When it was made.
    pub created: Timestamp,
    /// When it was answered.
    pub answered: Option<Timestamp>,
}

/// `POST /v1/limit_requests`. A project has one open request of a kind at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct LimitRequestCreate {
    /// Of what.
    pub kind: QuotaKind,
    /// The limit that is asked for: more than now.
    pub limit: i64,
    /// What for, 1 to 1000 characters.
    pub reason: String,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LimitRequestReply {
    /// The request.
    pub limit_request: LimitRequest,
}

/// `GET /v1/limit_requests` and `GET /v1/staff/limit_requests`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LimitRequestList {
    /// This page's requests.
    pub limit_requests: Vec<LimitRequest>,
    /// The page.
    pub meta: Meta,
}

/// `POST /v1/staff/limit_requests/{id}/grant` and `…/decline`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct LimitRequestAnswer {
    /// For the customer, up to 1000 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}
