//! Networks: public addresses and who has them.
//!
//! Words. An *address* is one row; a server has it, or nobody. It is *reserved* for a server that
//! is being made, and *released* when the server is gone. A *pool* is the range of addresses that
//! the operator writes into the catalog; its rows are made once.
//!
//! ```text
//!   free ──reserve──▶ of a server
//!    ▲                    │
//!    └──────release───────┘   (free since then: the longest free is given out first)
//! ```
//!
//! Invariants, held by the database: an address exists once (`addresses_ip_key`); a server has at
//! most one of each family (`addresses_server_key`).

pub mod queries;

use std::net::IpAddr;

use berth_model::AddressId;

/// An address that a server has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Its number.
    pub id: AddressId,
    /// The address.
    pub ip: IpAddr,
    /// Length of its network's prefix.
    pub prefix: u8,
    /// Where everything else goes.
    pub gateway: IpAddr,
}
