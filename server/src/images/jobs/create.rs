//! `create_image`: writes a server's disk into an image and brings that to the control plane, from where it can go
//! to any node. The server is held meanwhile; given up, there is no image.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;
use berth_model::agent::Nothing;
use berth_model::agent::function::image;
use berth_model::image::ImageKind;
use berth_model::{ByteSize, ImageId, NodeId, ServerId};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::images::{file_path, queries, travel};
use crate::jobs::{Queue, Saga, StepContext, StepError, StepName};
use crate::{World, backups, servers};

/// The job's data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageCreate {
    server: ServerId,
    node: NodeId,
    image: ImageId,
    /// It is one of the server's backups.
    #[serde(default)]
    backup: bool,
    /// SHA-256 of the file on the node, once written.
    sha256: Option<String>,
    /// The file here and its size, for as long as the step takes.
    #[serde(skip)]
    kept: Option<(PathBuf, ByteSize)>,
}

impl ImageCreate {
    /// Makes this image of this kind from the disk of this server, which stands on this node.
    pub fn new(server: ServerId, node: NodeId, (image, kind): (ImageId, ImageKind)) -> Self {
        let backup = kind == ImageKind::Backup;
        Self { server, node, image, backup, sha256: None, kept: None }
    }

    fn sha256(&self) -> Result<&str, StepError> {
        let why = || StepError::Retry(anyhow!("the file of image {} is not known", self.image));
        self.sha256.as_deref().ok_or_else(why)
    }
}

/// The steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "titles say it")]
pub enum Step {
    Write,
    Fetch,
}

impl StepName for Step {
    const ALL: &'static [Self] = &[Self::Write, Self::Fetch];

    fn word(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Fetch => "fetch",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Write => "Write the disk into an image",
            Self::Fetch => "Keep the image",
        }
    }
}

impl Saga for ImageCreate {
    const KIND: &'static str = "create_image";
    const QUEUE: Queue = Queue::Image;
    const DEADLINE: Duration = Duration::from_secs(6 * 60 * 60);
    type Step = Step;

    fn queue(&self) -> Queue {
        if self.backup { Queue::Backup } else { Self::QUEUE }
    }

    async fn run(&mut self, step: Step, _: &StepContext, world: &World) -> Result<(), StepError> {
        match step {
            Step::Write => {
                let agent = world.agents.node(self.node);
                let file = agent.call::<image::FromDisk>(&self.server.into(), &Nothing {}).await?;
                self.sha256 = Some(file.sha256);
            }
            Step::Fetch => {
                let size = travel::fetch(world, self.node, self.sha256()?).await?;
                self.kept = Some((file_path(&world.config.data_dir, self.sha256()?), size));
            }
        }
        Ok(())
    }

    async fn record(
        &mut self,
        step: Step,
        cx: &StepContext,
        conn: &mut PgConnection,
    ) -> Result<(), StepError> {
        if step == Step::Write {
            return Ok(());
        }
        queries::lock_file(conn, self.sha256()?).await?;
        // Another image with this very file may just have gone, and the file with it.
        let Some((_, size)) = self.kept.as_ref().filter(|(file, _)| file.exists()) else {
            return Err(StepError::NotYet(Duration::ZERO));
        };
        queries::set_made(conn, self.image, (self.sha256()?, *size)).await?;
        backups::remove_beyond(conn, self.server, backups::KEPT, cx.now).await?;
        Ok(servers::let_go(conn, self.server, cx.now).await?)
    }

    async fn undo(&mut self, _: Step, _: &StepContext, _: &World) -> Result<(), StepError> {
        Ok(())
    }

    async fn record_undo(
        &mut self,
        step: Step,
        cx: &StepContext,
        conn: &mut PgConnection,
    ) -> Result<(), StepError> {
        if step == Step::Fetch {
            return Ok(());
        }
        queries::discard(conn, self.image).await?;
        if let Some(sha256) = &self.sha256 {
            super::remove::when_unused(conn, sha256, cx.now).await?;
        }
        Ok(servers::let_go(conn, self.server, cx.now).await?)
    }
}
