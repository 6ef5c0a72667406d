//! `rebuild_server`: a new disk from an image, in place of the old one with all that is on it. The number, the
//! addresses and the sizes stay.

use berth_model::agent::function::vm;
use berth_model::agent::{Vm, VmRebuild, VmRename, VmSpec, WantedPower};
use berth_model::error::ApiError;
use berth_model::server::RebuildRequest;
use berth_model::{ErrorCode, NodeId, ServerId, Timestamp};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::World;
use crate::agents::{AgentClient, AgentError};
use crate::http::{ApiResult, Problem};
use crate::images::{self, travel};
use crate::jobs::StepError;
use crate::servers::change::Change;
use crate::servers::queries::{self, Held, System};
use crate::servers::{order, rules};

/// The system that the server had, and the one that it gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebuild {
    before: System,
    after: System,
}

impl Change for Rebuild {
    const COMMAND: &'static str = "rebuild_server";
    const TITLES: &'static [&'static str] = &["Bring the image", "Make the disk anew"];
    /// An image of 20 GB may have to travel to the node first.
    const DEADLINE: std::time::Duration = std::time::Duration::from_secs(40 * 60);

    async fn prepare(&mut self, _: ServerId, node: NodeId, world: &World) -> Result<(), StepError> {
        travel::bring(world, node, &self.after.image_sha256).await
    }

    async fn tell(&mut self, server: ServerId, spec: &VmSpec, agent: &AgentClient) -> Result<Vm, AgentError> {
        let rebuild = VmRebuild {
            image: spec.image.sha256.clone(),
            seed: Some(spec.seed.clone()),
            power: WantedPower::On,
        };
        agent.call::<vm::Rebuild>(&server.into(), &rebuild).await?;
        agent.put_vm(server.into(), spec).await
    }

    /// Its disk may be the new one already: then that is what it has. The node is asked by a change that changes
    /// nothing, since that is not answered while the disk is being made.
    async fn given_up(&mut self, server: ServerId, agent: &AgentClient) -> Result<(), StepError> {
        let nothing = VmRename { hostname: None, title: None };
        let vm = match agent.call::<vm::Rename>(&server.into(), &nothing).await {
            Err(error) if error.is_not_found() => return Ok(()),
            vm => vm?,
        };
        if vm.spec.is_some_and(|spec| spec.image.sha256 == self.after.image_sha256) {
            self.before = self.after.clone();
        }
        Ok(())
    }

    async fn done(&self, conn: &mut PgConnection, _: ServerId, now: Timestamp) -> sqlx::Result<()> {
        images::jobs::remove::when_unused(conn, &self.before.image_sha256, now).await
    }

    async fn revert(&self, conn: &mut PgConnection, server: ServerId, now: Timestamp) -> sqlx::Result<()> {
        queries::set_system(conn, server, &self.before).await?;
        images::jobs::remove::when_unused(conn, &self.after.image_sha256, now).await
    }
}

/// Gives the server its new system, in the rows. `root_password_hash`: of the password that root gets where no SSH
/// key lets root in.
///
/// # Errors
/// `protected`; `invalid_input` for an image that cannot be used.
pub async fn write(
    conn: &mut PgConnection,
    (project, server): (berth_model::ProjectId, &Held),
    asked: &RebuildRequest,
    root_password_hash: Option<&str>,
    now: Timestamp,
) -> ApiResult<Rebuild> {
    if server.protect_rebuild {
        let message = "The server is protected from rebuilding. Take the protection off first.";
        return Err(Problem::new(ErrorCode::Protected, message));
    }
    let (before, size) = (queries::system(conn, server.id).await?, queries::size(conn, server.id).await?);
    let (Some(before), Some(size)) = (before, size) else { return Err(Problem::not_found("server")) };
    let mut faults = Vec::new();
    let wrong = |message: &str| rules::fault("user_data", message);
    faults.extend(asked.user_data.as_deref().and_then(rules::user_data_fault).map(wrong));
    let disk = (size.need().disk, "the server");
    let image = order::usable_image(conn, project, &asked.image, Some(disk), now, &mut faults).await?;
    let (Some(image), true) = (image, faults.is_empty()) else { return Err(ApiError::fields(faults).into()) };
    if !images::queries::keep(conn, image.id, &image.sha256).await? {
        return Err(rules::just_gone("image").into());
    }
    let after = System {
        image: image.id,
        image_sha256: image.sha256,
        root_password_hash: root_password_hash
            .map(str::to_owned)
            .or_else(|| before.root_password_hash.clone()),
        user_data: asked.user_data.clone().or_else(|| before.user_data.clone()),
    };
    queries::set_system(conn, server.id, &after).await?;
    Ok(Rebuild { before, after })
}
