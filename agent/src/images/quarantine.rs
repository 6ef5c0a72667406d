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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn only_young_parts_of_fetches_outlive_a_start(
            names in proptest::collection::btree_set("[^/\\x00.]{1,20}(\\.part|\\.part\\.json|\\.qcow2|\\.new)?", 0..8),
            days in 0_u64..4,
        ) {
            let home = tempfile::tempdir().unwrap();
            let images = home.path().join("images");
            open(&images).unwrap();
            let now = std::time::UNIX_EPOCH + Duration::from_millis(u64::try_from(clock::now().unix_ms()).unwrap());
            for name in &names {
                let path = folder(&images).join(name);
                fs::write(&path, name).unwrap();
                fs::File::open(&path).unwrap().set_modified(now - Duration::from_secs(days * 25 * 3600)).unwrap();
            }
            open(&images).unwrap();
            let left: std::collections::BTreeSet<String> =
                fs::read_dir(folder(&images)).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            let is_part = |name: &&String| name.ends_with(".part") || name.ends_with(".part.json");
            let wanted = if days == 0 { names.iter().filter(is_part).cloned().collect() } else { Default::default() };
            prop_assert_eq!(left, wanted);
        }
    }
}
