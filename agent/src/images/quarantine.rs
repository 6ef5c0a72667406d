//! Where files stand that nobody has looked at yet: the folder `quarantine` beside that of images.
//!
//! A part of a fetch is kept there to go on from; what was not touched for a day is removed as the agent starts.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::clock;

/// How long a part of a fetch is kept.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// How the names of parts of fetches end; all else is worthless after a crash.
const KEPT_NAMES: [&str; 2] = [".part", ".part.json"];

/// The folder.
pub(super) fn folder(images: &Path) -> PathBuf {
    images.with_file_name("quarantine")
}

/// Makes the folder, and clears away what nobody comes back for.
pub(super) fn open(images: &Path) -> std::io::Result<()> {
    let folder = folder(images);
    DirBuilder::new().recursive(true).mode(0o711).create(&folder)?;
    let now = clock::now().unix_ms();
    for entry in fs::read_dir(&folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_part = KEPT_NAMES.iter().any(|end| name.to_string_lossy().ends_with(end));
        let changed = entry.metadata()?.modified()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let age = u128::try_from(now).unwrap_or_default().saturating_sub(changed.as_millis());
        if !is_part || age > KEPT.as_millis() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
