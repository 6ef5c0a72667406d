//! Images of a server's disk, begun by a customer or by the server's plan of backups.

use berth_model::action::{Action, ResourceKind};
use berth_model::image::ImageKind;
use berth_model::label::Labels;
use berth_model::{ImageId, ProjectId, Timestamp};
use sqlx::PgConnection;

use super::queries::{self, Held};
use super::{change, start};
use crate::http::{ApiResult, Problem};
use crate::images;
use crate::images::jobs::create::ImageCreate;

/// An image to be made.
#[derive(Debug, Clone, Copy)]
pub struct NewImage<'a> {
    /// A snapshot or a backup.
    pub kind: ImageKind,
    /// For people; made from the server's name if not given.
    pub description: Option<&'a str>,
    /// The customer's own marks.
    pub labels: &'a Labels,
    /// When it was asked for.
    pub now: Timestamp,
}

/// Begins to make an image of a server's disk; the action holds the server.
///
/// # Errors
/// `not_found` when the server is gone.
pub async fn begin(
    conn: &mut PgConnection,
    project: ProjectId,
    server: &Held,
    new: &NewImage<'_>,
) -> ApiResult<(ImageId, Action)> {
    let node = change::placed(server)?;
    let (system, machine) =
        (queries::system(conn, server.id).await?, queries::machine(conn, server.id).await?);
    let (Some(system), Some(machine)) = (system, machine) else { return Err(Problem::not_found("server")) };
    let described = images::rules::description_of(new.kind, &machine.name);
    let image = images::queries::NewOwn {
        project,
        kind: new.kind,
        description: new.description.map_or(described.as_str(), str::trim),
        server: (server.id, &machine.name),
        made_from: system.image,
        disk: machine.need.disk,
        labels: new.labels,
        now: new.now,
    };
    let image = images::queries::insert_own(conn, &image).await?;
    let saga = ImageCreate::new(server.id, node, (image, new.kind));
    let beside = [(ResourceKind::Image, image.0)];
    let action = start(conn, project, (server.id, server.status), &beside, &saga, new.now).await?;
    Ok((image, action))
}
