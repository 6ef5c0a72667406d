//! What leaves a network once the server's machine has lost it: a card, or alias addresses of one.

use std::net::Ipv4Addr;

use berth_model::{NetworkId, ServerId, Timestamp};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::networks::{self, queries};
use crate::servers::jobs::losing::Thing;

/// A member of a network that is leaving it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeavingMember {
    network: NetworkId,
}

impl LeavingMember {
    /// Of this network.
    pub fn new(network: NetworkId) -> Self {
        Self { network }
    }
}

impl Thing for LeavingMember {
    const KIND: &'static str = "leave_network";
    const TITLE: &'static str = "Take the card out";

    async fn free(&self, conn: &mut PgConnection, server: ServerId, now: Timestamp) -> sqlx::Result<()> {
        networks::left(conn, self.network, server, now).await
    }
}

/// Alias addresses that a member of a network did not get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeavingAliases {
    network: NetworkId,
    ips: Vec<Ipv4Addr>,
}

impl LeavingAliases {
    /// These of this network.
    pub fn new(network: NetworkId, ips: Vec<Ipv4Addr>) -> Self {
        Self { network, ips }
    }
}

impl Thing for LeavingAliases {
    const KIND: &'static str = "leave_alias_ips";
    const TITLE: &'static str = "Take the alias addresses back";

    async fn free(&self, conn: &mut PgConnection, server: ServerId, _: Timestamp) -> sqlx::Result<()> {
        queries::remove_leaving(conn, self.network, server, &self.ips).await
    }
}
