//! `release_public_ip`: an address that a server's machine may still have is free once that has lost it, or its holder
//! is: after it was deleted while a server had it, and after an assignment that was given up.

use berth_model::{ServerId, Timestamp};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::addresses::{PublicIpId, queries};
use crate::servers::jobs::losing::Thing;

/// A primary or floating IP that leaves a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeavingIp {
    ip: PublicIpId,
}

impl LeavingIp {
    /// This one, whose row says which server it leaves.
    pub fn new(ip: PublicIpId) -> Self {
        Self { ip }
    }
}

impl Thing for LeavingIp {
    const KIND: &'static str = "release_public_ip";
    const TITLE: &'static str = "Take the address from the server";

    async fn free(&self, conn: &mut PgConnection, _: ServerId, now: Timestamp) -> sqlx::Result<()> {
        queries::settle(conn, self.ip, now).await
    }
}
