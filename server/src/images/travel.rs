//! Image files on their way between the control plane and nodes.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use berth_model::{ByteSize, ErrorCode, NodeId};
use futures_util::TryStreamExt as _;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;

use super::file_path;
use crate::jobs::StepError;
use crate::{World, entropy};

/// Pause before an image is offered again while others are on their way.
const AGAIN: Duration = Duration::from_secs(2);

/// Sees that the image's file lies on the node.
///
/// # Errors
/// [`StepError::NotYet`] while it cannot be sent.
pub async fn bring(world: &World, node: NodeId, sha256: &str) -> Result<(), StepError> {
    bring_file(world, node, sha256, &file_path(&world.config.data_dir, sha256)).await
}

/// [`bring`] of this file, which may be an ISO.
///
/// # Errors
/// [`StepError::NotYet`] while it cannot be sent.
pub async fn bring_file(world: &World, node: NodeId, sha256: &str, file: &Path) -> Result<(), StepError> {
    let agent = world.agents.node(node);
    // Taken before the look: whoever had it may have brought this image.
    let upload = world.agents.begin_upload(node, sha256, world.config.uploads_max());
    if agent.images().await?.iter().any(|image| image.sha256 == sha256) {
        return Ok(());
    }
    let _upload = upload.ok_or(StepError::NotYet(AGAIN))?;
    if !tokio::fs::try_exists(file).await.unwrap_or(false) {
        let why = anyhow!("the image file {} is missing", file.display());
        return Err(StepError::fail(ErrorCode::ResourceUnavailable, "The image cannot be used now.", why));
    }
    match agent.put_image(sha256, file).await {
        // Others are being imported there, perhaps this one: no failure.
        Err(error) if error.code() == Some(ErrorCode::Unavailable) => Err(StepError::NotYet(AGAIN)),
        brought => Ok(brought.map(drop)?),
    }
}

/// Fetches an image's file from the node that made it; says its size. Fine when it is here already.
///
/// # Errors
/// When the node does not answer, or what came is not that file.
pub async fn fetch(world: &World, node: NodeId, sha256: &str) -> Result<ByteSize, StepError> {
    let kept = file_path(&world.config.data_dir, sha256);
    if let Ok(known) = tokio::fs::metadata(&kept).await {
        return Ok(ByteSize(known.len()));
    }
    let folder = kept.parent().unwrap_or(&world.config.data_dir).to_owned();
    tokio::fs::create_dir_all(&folder).await.context("the folder of images").map_err(StepError::Retry)?;
    let unfinished = folder.join(format!("unfinished-{}", entropy::uuid().simple()));
    let came = receive(world, node, sha256, &unfinished).await;
    if came.is_err() {
        let _gone = tokio::fs::remove_file(&unfinished).await;
    }
    let size = came?;
    let renamed = async {
        tokio::fs::rename(&unfinished, &kept).await?;
        tokio::fs::File::open(&folder).await?.sync_all().await
    };
    renamed.await.context("an image's file").map_err(StepError::Retry)?;
    Ok(size)
}

async fn receive(world: &World, node: NodeId, sha256: &str, to: &Path) -> Result<ByteSize, StepError> {
    let mut body = std::pin::pin!(world.agents.node(node).image_file(sha256).await?);
    let retry = |e: std::io::Error| StepError::Retry(anyhow!(e).context("an image's file"));
    let mut file = tokio::fs::File::create_new(to).await.map_err(retry)?;
    let (mut hash, mut length) = (Sha256::new(), 0);
    while let Some(chunk) = body.try_next().await? {
        hash.update(&chunk);
        length += chunk.len() as u64;
        file.write_all(&chunk).await.map_err(retry)?;
    }
    file.sync_all().await.map_err(retry)?;
    let is = hex::encode(hash.finalize());
    if is != sha256 {
        return Err(StepError::Retry(anyhow!("node {node} sent {is} instead of the image {sha256}")));
    }
    Ok(ByteSize(length))
}
