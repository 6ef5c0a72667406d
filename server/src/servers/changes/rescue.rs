//! `enable_rescue` and `disable_rescue`: the next start boots a rescue system, with the server's own disk beside it;
//! the one after that is the server's own again.

use berth_model::{ErrorCode, NodeId, ServerId, Timestamp};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::World;
use crate::http::{ApiResult, Problem};
use crate::images::{self, travel};
use crate::jobs::StepError;
use crate::servers::change::Change;
use crate::servers::queries::{self, Held, Rescue};

/// The rescue that the server gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnableRescue {
    sha256: String,
}

impl Change for EnableRescue {
    const COMMAND: &'static str = "enable_rescue";
    const TITLES: &'static [&'static str] = &["Bring the rescue system", "Make it the next to boot"];

    async fn prepare(&mut self, _: ServerId, node: NodeId, world: &World) -> Result<(), StepError> {
        travel::bring(world, node, &self.sha256).await
    }

    async fn revert(&self, conn: &mut PgConnection, server: ServerId, _: Timestamp) -> sqlx::Result<()> {
        queries::end_rescue(conn, server).await.map(drop)
    }
}

/// Writes that the server is to boot the rescue system, where root has this password and these keys.
///
/// # Errors
/// `conflict` when that is so already; `resource_unavailable` when the operator offers none.
pub async fn enable(
    conn: &mut PgConnection,
    server: &Held,
    root_password_hash: String,
    ssh_keys: Vec<String>,
) -> ApiResult<EnableRescue> {
    let Some(sha256) = images::queries::rescue(conn).await? else {
        let message = "The operator of this installation offers no rescue system.";
        return Err(Problem::new(ErrorCode::ResourceUnavailable, message));
    };
    let rescue = Rescue { sha256: sha256.clone(), root_password_hash, ssh_keys };
    if !queries::begin_rescue(conn, server.id, &rescue).await? {
        let message = "The server boots the rescue system at its next start already.";
        return Err(Problem::new(ErrorCode::UnsupportedError, message));
    }
    Ok(EnableRescue { sha256 })
}

/// The rescue that the server had.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DisableRescue {
    before: Rescue,
}

impl std::fmt::Debug for DisableRescue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DisableRescue").finish_non_exhaustive()
    }
}

impl Change for DisableRescue {
    const COMMAND: &'static str = "disable_rescue";
    const TITLES: &'static [&'static str] = &["Make its own system the next to boot"];

    async fn revert(&self, conn: &mut PgConnection, server: ServerId, _: Timestamp) -> sqlx::Result<()> {
        queries::begin_rescue(conn, server, &self.before).await.map(drop)
    }
}

/// Writes that the server is to boot its own system.
///
/// # Errors
/// `conflict` when that is so already.
pub async fn disable(conn: &mut PgConnection, server: &Held) -> ApiResult<DisableRescue> {
    let Some(before) = queries::rescue(conn, server.id).await? else {
        let message = "The server boots its own system at its next start already.";
        return Err(Problem::new(ErrorCode::UnsupportedError, message));
    };
    queries::end_rescue(conn, server.id).await?;
    Ok(DisableRescue { before })
}
