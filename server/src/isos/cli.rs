//! `berth iso add`: offers an ISO.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use anyhow::{Context as _, ensure};
use berth_model::{IsoId, Timestamp};
use sqlx::PgPool;

use super::{file_path, queries};
use crate::images::cli::{keep, name_fault};

/// Where ISO 9660 has its mark, and which.
const MARK: (u64, &[u8; 5]) = (32_769, b"CD001");

/// Copies the file into the data folder under its checksum, and offers it under its name. Done again, it changes
/// nothing; done with another file, that one is put into drives from now on.
///
/// # Errors
/// When the file is no ISO, cannot be copied, or a word is wrong.
pub async fn add(
    db: &PgPool,
    data_dir: &Path,
    (name, description): (&str, &str),
    file: &Path,
    now: Timestamp,
) -> anyhow::Result<IsoId> {
    name_fault(name)?;
    ensure!((1..=200).contains(&description.chars().count()), "the description: 1 to 200 characters");
    ensure!(
        is_iso(file).with_context(|| format!("cannot read {}", file.display()))?,
        "{} is no ISO",
        file.display()
    );
    let (source, folder) = (file.to_owned(), data_dir.to_owned());
    let (sha256, bytes) = tokio::task::spawn_blocking(move || keep(&source, &folder, file_path)).await??;
    let mut conn = db.acquire().await?;
    Ok(queries::put_public(&mut conn, (name, description), (&sha256, i64::try_from(bytes)?), now).await?)
}

fn is_iso(file: &Path) -> std::io::Result<bool> {
    let (at, mark) = MARK;
    let mut file = std::fs::File::open(file)?;
    file.seek(SeekFrom::Start(at))?;
    let mut found = Vec::new();
    file.take(mark.len() as u64).read_to_end(&mut found)?;
    Ok(found == mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_iso_is_known_by_its_mark() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.iso");
        let (at, mark) = MARK;
        let mut content = vec![0; usize::try_from(at).unwrap()];
        std::fs::write(&file, &content).unwrap();
        assert!(!is_iso(&file).unwrap());
        content.extend(mark);
        std::fs::write(&file, &content).unwrap();
        assert!(is_iso(&file).unwrap());
    }
}
