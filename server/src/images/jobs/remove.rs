//! `remove_image_file`: removes a file that no image has any more, here and on the nodes. A disk that stands on it
//! keeps it on its node, and here as well: the disk may have to go to another node. A node that is away hears of it
//! when it is back: the job stays until all have lost the file.

use std::path::PathBuf;
use std::time::Duration;

use berth_model::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::images::{file_path, queries};
use crate::jobs::{self, Queue, Saga, StepContext, StepError, StepName};
use crate::{World, nodes, servers};

/// Pause before nodes are asked again that still have the file, or do not answer.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// The job's data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRemove {
    sha256: String,
    /// The file here, for as long as the step takes.
    #[serde(skip)]
    file: PathBuf,
}

/// The only step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step;

impl StepName for Step {
    const ALL: &'static [Self] = &[Self];

    fn word(self) -> &'static str {
        "remove"
    }

    fn title(self) -> &'static str {
        "Remove the image's file"
    }
}

/// Has a file removed if nothing uses it; to be called when an image or a server that had it is gone.
///
/// # Errors
/// When the database fails.
pub async fn when_unused(conn: &mut PgConnection, sha256: &str, now: Timestamp) -> sqlx::Result<()> {
    if is_used(conn, sha256).await? {
        return Ok(());
    }
    let job = ImageRemove { sha256: sha256.to_owned(), file: PathBuf::new() };
    jobs::enqueue(conn, &job, None, now).await.map(drop)
}

async fn is_used(conn: &mut PgConnection, sha256: &str) -> sqlx::Result<bool> {
    Ok(queries::is_used(conn, sha256).await? || servers::queries::any_made_from(conn, sha256).await?)
}

impl Saga for ImageRemove {
    const KIND: &'static str = "remove_image_file";
    const QUEUE: Queue = Queue::Background;
    /// Longer than a node is repaired, and than anything stands on the file that was begun before it had no image.
    const DEADLINE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
    const UNDOABLE: bool = false;
    type Step = Step;

    async fn run(&mut self, _: Step, _: &StepContext, world: &World) -> Result<(), StepError> {
        let mut conn = world.db.acquire().await?;
        if is_used(&mut conn, &self.sha256).await? {
            return Ok(());
        }
        let nodes = nodes::queries::all_enrolled(&mut conn).await?;
        drop(conn);
        let mut kept = 0;
        for node in nodes {
            match world.agents.node(node).delete_image(&self.sha256).await {
                Err(e) if !e.is_not_found() => {
                    kept += 1;
                    tracing::info!(%node, image = self.sha256, "a deleted image's file stays on a node for now: {e}");
                }
                _ => {}
            }
        }
        if kept > 0 {
            return Err(StepError::NotYet(ASK_AGAIN));
        }
        self.file = file_path(&world.config.data_dir, &self.sha256);
        Ok(())
    }

    /// The file goes here, because nobody else may find it and count on it meanwhile.
    async fn record(&mut self, _: Step, _: &StepContext, conn: &mut PgConnection) -> Result<(), StepError> {
        queries::lock_file(conn, &self.sha256).await?;
        if self.file.as_os_str().is_empty() || is_used(conn, &self.sha256).await? {
            return Ok(());
        }
        match std::fs::remove_file(&self.file) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(StepError::Retry(e.into())),
            _ => Ok(()),
        }
    }

    async fn undo(&mut self, _: Step, _: &StepContext, _: &World) -> Result<(), StepError> {
        Ok(())
    }

    async fn record_undo(&mut self, _: Step, _: &StepContext, _: &mut PgConnection) -> Result<(), StepError> {
        Ok(())
    }
}
