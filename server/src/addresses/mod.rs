//! Public addresses: what the operator has, and who holds it.
//!
//! Words. An *address* is one row of `addresses`: an IPv4 address, or an IPv6 /64 known by its first address. A
//! [*pool*](pool) is a network of the operator's and the ranges of it that are handed out, from the catalog file or
//! `berth addresses`. Who *holds* an address is a row of `public_ips`, of a project: a *primary IP* is a server's own,
//! and changes hands while the server is off; a *floating IP* is moved between servers of its location while they
//! run. The *card* of a server is what of this its public network card has.
//!
//! ```text
//!   free, offered ──take──▶ held ──▶ of a server ◀──▶ of none
//!        ▲                   │
//!        │ cooled down       │ deleted, or gone with its server
//!        └───── released ◀───┘     (without its reverse names; the longest free is handed out first)
//! ```
//!
//! A floating IP moves in two steps, so that two nodes never answer for it: the node of the server that had it loses
//! it (`leaving_id` names that server as long), then the node of the other gets it. If the first node does not
//! answer, nobody can know that it has lost it: a move is refused while the node is down, and given up, with
//! everything as before, if it does not answer within [`jobs::moving::DEADLINE`].
//!
//! Invariants, held by the database: an address exists once (`addresses_ip_key`) and has at most one holder
//! (`public_ips_address_key`); a server has at most one primary IP of each family (`public_ips_primary_key`); names
//! are unique in a project (`public_ips_name_key`).
//!
//! Order of locks: servers first, by number, then `public_ips`, then `addresses`.

pub mod changes;
pub mod cli;
pub mod http;
pub mod jobs;
pub mod pool;
pub mod queries;
pub mod rules;

mod order;

pub use http::router;
pub use order::{Order, assign_ordered, has_room, named, resolve};

use berth_model::address::IpFamily;
use berth_model::error::ApiError;
use berth_model::{ErrorCode, FloatingIpId, PrimaryIpId};
use serde::{Deserialize, Serialize};

/// The number of a holder: a primary IP's or a floating IP's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type)]
#[sqlx(transparent)]
#[serde(transparent)]
pub struct PublicIpId(pub i64);

impl From<PrimaryIpId> for PublicIpId {
    fn from(id: PrimaryIpId) -> Self {
        Self(id.0)
    }
}

impl From<FloatingIpId> for PublicIpId {
    fn from(id: FloatingIpId) -> Self {
        Self(id.0)
    }
}

/// How an address is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::Type, serde::Deserialize)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// As a server's own.
    Primary,
    /// To be moved between servers.
    Floating,
}

impl Kind {
    /// The word in a sentence.
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Primary => "primary IP",
            Self::Floating => "floating IP",
        }
    }
}

/// What to say when a location has no address left.
pub fn none_left(family: IpFamily) -> ApiError {
    let message = match family {
        IpFamily::Ipv4 => "All addresses in this location are taken. Choose another.",
        IpFamily::Ipv6 => "All IPv6 networks in this location are taken. Choose another.",
    };
    ApiError::new(ErrorCode::ResourceUnavailable, message)
}
