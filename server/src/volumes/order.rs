//! The volumes that the order of a server names.

use berth_model::error::ApiError;
use berth_model::volume::VOLUMES_OF_SERVER_MAX;
use berth_model::{ActionId, ErrorCode, FieldError, LocationId, ProjectId, ServerId, VolumeId};
use sqlx::PgConnection;

use super::queries::{self, HeldVolume};
use crate::http::{ApiResult, Problem};
use crate::servers::rules::fault;

/// The volumes that are named, held in the order of locks until the transaction ends; what is wrong with them goes
/// to `faults`.
///
/// # Errors
/// When the database fails.
pub async fn named(
    conn: &mut PgConnection,
    project: ProjectId,
    ids: &[VolumeId],
    faults: &mut Vec<FieldError>,
) -> sqlx::Result<Vec<HeldVolume>> {
    if ids.len() > VOLUMES_OF_SERVER_MAX {
        faults.push(fault("volumes", format!("A server has at most {VOLUMES_OF_SERVER_MAX} volumes.")));
        return Ok(Vec::new());
    }
    let mut places: Vec<(VolumeId, usize)> = ids.iter().copied().zip(0..).collect();
    places.sort_unstable();
    let mut volumes: Vec<HeldVolume> = Vec::with_capacity(ids.len());
    for (id, at) in places {
        let found = queries::hold(conn, project, id).await?;
        let message = match &found {
            None => format!("There is no volume {id} in this project."),
            Some(volume) if volume.server.is_some() => format!("A server has volume {id} already."),
            Some(volume) if volume.locked => format!("Volume {id} is busy. Try again when that has ended."),
            Some(_) if volumes.iter().any(|other| other.id == id) => "Name each volume once.".to_owned(),
            Some(volume) if elsewhere(&volumes, volume) => {
                format!(
                    "Volume {id} lies on another node than the others. Attach it when the server is made."
                )
            }
            Some(_) => {
                volumes.extend(found);
                continue;
            }
        };
        faults.push(fault(format!("volumes[{at}]"), message));
    }
    Ok(volumes)
}

fn elsewhere(volumes: &[HeldVolume], volume: &HeldVolume) -> bool {
    let is_other = |other: &HeldVolume| other.node.is_some() && other.node != volume.node;
    volume.node.is_some() && volumes.iter().any(is_other)
        || volumes.iter().any(|other| other.location != volume.location)
}

/// What is wrong with these volumes for a server of this location.
pub fn location_fault(volumes: &[HeldVolume], location: LocationId) -> Option<FieldError> {
    let wrong = volumes.iter().find(|volume| volume.location != location)?;
    Some(fault("volumes", format!("Volume {} is in another location than the server.", wrong.id)))
}

/// Gives the volumes of an order to the server that the action makes. They were looked at before, but not held since.
///
/// # Errors
/// `conflict` when somebody was faster.
pub async fn assign(
    conn: &mut PgConnection,
    project: ProjectId,
    (server, action): (ServerId, ActionId),
    ids: &[VolumeId],
    automount: bool,
) -> ApiResult<()> {
    let mut faults = Vec::new();
    let volumes = named(conn, project, ids, &mut faults).await?;
    if !faults.is_empty() {
        let message = "A volume of the order was just taken or deleted. Order again.";
        return Err(Problem::from(ApiError::new(ErrorCode::Conflict, message)));
    }
    for volume in volumes {
        queries::give(conn, volume.id, (server, None), automount).await?;
        queries::lock(conn, volume.id, Some(action)).await?;
    }
    Ok(())
}
