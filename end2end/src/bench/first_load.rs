//! What the browser loads first, and when it first paints, on a slow phone.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Deserialize;

use super::Row;
use crate::{Installation, Options};

/// What `browser/first-load.mjs` prints.
#[derive(Debug, Deserialize)]
struct FirstLoad {
    /// Bytes over the wire until the page is idle.
    transferred_bytes: f64,
    /// Of these, the document, which is what any page must load at least.
    document_bytes: f64,
    /// First paint with 4× CPU slowdown and Slow 4G.
    first_paint_ms: f64,
    /// First paint of the smallest page there is, a few lines of text, under the same conditions.
    empty_first_paint_ms: f64,
}

/// Opens the sign-in page in Chromium.
///
/// # Errors
/// When the app has not been built, or Chromium fails.
pub async fn measure() -> anyhow::Result<Vec<Row>> {
    let installation = Installation::start(Options::default()).await?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the crate stands in the workspace")?;
    let script: PathBuf = root.join("end2end/browser/first-load.mjs");
    let command =
        tokio::process::Command::new("node").arg(script).env("BERTH_URL", installation.base(0)).output();
    let output = command.await.context("starting node")?;
    anyhow::ensure!(output.status.success(), "first-load.mjs: {}", String::from_utf8_lossy(&output.stderr));
    let out = String::from_utf8(output.stdout)?;
    let load: FirstLoad = serde_json::from_str(out.lines().last().unwrap_or_default())?;
    Ok(vec![
        Row {
            what: "first load, brotli".into(),
            value: load.transferred_bytes / 1000.0,
            unit: "kB",
            beside: "its document alone".into(),
            peer: load.document_bytes / 1000.0,
            aim: "< 350".into(),
        },
        Row {
            what: "first paint, 4x slower CPU, Slow 4G".into(),
            value: load.first_paint_ms,
            unit: "ms",
            beside: "robots.txt".into(),
            peer: load.empty_first_paint_ms,
            aim: String::new(),
        },
    ])
}
