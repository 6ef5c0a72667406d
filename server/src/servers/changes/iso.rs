//! `attach_iso` and `detach_iso`: what is in the server's CD drive. It is seen at once, and the first to boot from
//! at the next start.

use berth_model::error::ApiError;
use berth_model::server::AttachIso;
use berth_model::{NodeId, ProjectId, ServerId, Timestamp};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::World;
use crate::http::{ApiResult, Problem};
use crate::images::travel;
use crate::isos;
use crate::jobs::StepError;
use crate::servers::change::Change;
use crate::servers::order;
use crate::servers::queries::{self, Held, Loaded};

/// The ISO that the server gets, by its file, and the one that it had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    sha256: String,
    before: Option<Loaded>,
}

impl Change for Attach {
    const COMMAND: &'static str = "attach_iso";
    const TITLES: &'static [&'static str] = &["Bring the ISO", "Put it into the drive"];
    const DEADLINE: std::time::Duration = std::time::Duration::from_secs(40 * 60);

    async fn prepare(&mut self, _: ServerId, node: NodeId, world: &World) -> Result<(), StepError> {
        let file = isos::file_path(&world.config.data_dir, &self.sha256);
        travel::bring_file(world, node, &self.sha256, &file).await
    }

    async fn revert(&self, conn: &mut PgConnection, server: ServerId, _: Timestamp) -> sqlx::Result<()> {
        queries::set_iso(conn, server, self.before.as_ref()).await
    }
}

/// Puts an ISO into the server's drive, in the rows, in place of one that is there.
///
/// # Errors
/// `invalid_input` for an ISO that is not there.
pub async fn attach(
    conn: &mut PgConnection,
    (project, server): (ProjectId, &Held),
    asked: &AttachIso,
) -> ApiResult<Attach> {
    let Some(iso) = isos::queries::find(conn, project, &asked.iso).await? else {
        return Err(ApiError::field("iso", format!("There is no ISO {}.", order::quote(&asked.iso))).into());
    };
    let before = queries::iso(conn, server.id).await?;
    queries::set_iso(conn, server.id, Some(&iso)).await?;
    Ok(Attach { sha256: iso.sha256, before })
}

/// The ISO that the server had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detach {
    before: Loaded,
}

impl Change for Detach {
    const COMMAND: &'static str = "detach_iso";
    const TITLES: &'static [&'static str] = &["Empty the drive"];

    async fn revert(&self, conn: &mut PgConnection, server: ServerId, _: Timestamp) -> sqlx::Result<()> {
        queries::set_iso(conn, server, Some(&self.before)).await
    }
}

/// Empties the server's drive, in the rows.
///
/// # Errors
/// `conflict` when it is empty.
pub async fn detach(conn: &mut PgConnection, server: &Held) -> ApiResult<Detach> {
    let Some(before) = queries::iso(conn, server.id).await? else {
        return Err(Problem::new(
            berth_model::ErrorCode::UnsupportedError,
            "There is no ISO in the server's drive.",
        ));
    };
    queries::set_iso(conn, server.id, None).await?;
    Ok(Detach { before })
}
