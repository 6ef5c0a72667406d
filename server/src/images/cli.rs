//! `berth image add` and `berth image rescue`: offer a system image, and the rescue system.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, bail, ensure};
use berth_model::{ImageId, Timestamp};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use sqlx::PgPool;

use super::{file_path, queries};

/// What the operator says of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Add<'a> {
    /// By it customers order: lower-case letters, digits, dots and hyphens; at most 64.
    pub name: &'a str,
    /// For customers: `Debian 12`.
    pub description: &'a str,
    /// `debian`
    pub os_flavor: &'a str,
    /// `12`
    pub os_version: Option<&'a str>,
    /// A qcow2 file that stands on no other.
    pub file: &'a Path,
}

/// Copies the file into the data folder under its checksum, and offers it under its name. Done
/// again, it changes nothing; done with another file, that one is used for servers made from now on.
///
/// # Errors
/// When the file is not a qcow2 that stands alone, cannot be copied, or a word is wrong.
pub async fn add(db: &PgPool, data_dir: &Path, image: &Add<'_>, now: Timestamp) -> anyhow::Result<ImageId> {
    check_words(image)?;
    let disk_bytes = inspect(image.file).await?;
    let (source, folder) = (image.file.to_owned(), data_dir.to_owned());
    let (sha256, file_bytes) =
        tokio::task::spawn_blocking(move || keep(&source, &folder, file_path)).await??;
    let row = queries::SystemImage {
        name: image.name,
        description: image.description,
        sha256: &sha256,
        file_bytes: i64::try_from(file_bytes)?,
        disk_bytes: i64::try_from(disk_bytes)?,
        os_flavor: image.os_flavor,
        os_version: image.os_version,
    };
    Ok(queries::put_system(&mut *db.acquire().await?, &row, now).await?)
}

/// Offers a rescue system, in place of the one before: a qcow2 file that stands on no other. Its file is sent to
/// nodes as that of an image.
///
/// # Errors
/// When the file is not such a qcow2, or cannot be copied.
pub async fn add_rescue(db: &PgPool, data_dir: &Path, file: &Path) -> anyhow::Result<()> {
    let disk_bytes = i64::try_from(inspect(file).await?)?;
    let (source, folder) = (file.to_owned(), data_dir.to_owned());
    let (sha256, bytes) = tokio::task::spawn_blocking(move || keep(&source, &folder, file_path)).await??;
    Ok(queries::put_rescue(&mut *db.acquire().await?, (&sha256, i64::try_from(bytes)?, disk_bytes)).await?)
}

/// Refuses a name that customers could not order by.
///
/// # Errors
/// What is wrong with it.
pub fn name_fault(name: &str) -> anyhow::Result<()> {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    ensure!(
        (1..=64).contains(&name.len()) && name.bytes().all(good),
        "the name “{name}”: 1 to 64 lower-case letters, digits, dots and hyphens"
    );
    // It would be taken for the number.
    ensure!(name.parse::<i64>().is_err(), "the name “{name}” is a number");
    Ok(())
}

fn check_words(image: &Add<'_>) -> anyhow::Result<()> {
    name_fault(image.name)?;
    ensure!((1..=200).contains(&image.description.chars().count()), "the description: 1 to 200 characters");
    ensure!(!image.os_flavor.is_empty(), "the flavor of the system is missing");
    Ok(())
}

/// What `qemu-img info` says, as far as we ask.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Info {
    format: String,
    virtual_size: u64,
    backing_filename: Option<String>,
    full_backing_filename: Option<String>,
    #[serde(default)]
    format_specific: FormatSpecific,
}

#[derive(Deserialize, Default)]
struct FormatSpecific {
    #[serde(default)]
    data: FormatData,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
struct FormatData {
    data_file: Option<String>,
}

/// The size of the disk in the file, in bytes; refuses what is not a qcow2 that stands alone: a
/// name in its header would be opened on the nodes.
async fn inspect(file: &Path) -> anyhow::Result<u64> {
    let file = file.canonicalize().with_context(|| format!("cannot read {}", file.display()))?;
    let output = tokio::process::Command::new("qemu-img")
        .args(["info", "--output=json", "--"])
        .arg(&file)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("cannot run qemu-img (Debian: qemu-utils)")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "qemu-img does not understand {}: {}", file.display(), said.trim());
    let info: Info =
        serde_json::from_slice(&output.stdout).context("qemu-img info said something unknown")?;
    ensure!(info.format == "qcow2", "{} is of the format {}, not qcow2", file.display(), info.format);
    if let Some(other) =
        info.backing_filename.or(info.full_backing_filename).or(info.format_specific.data.data_file)
    {
        bail!(
            "{} stands on another file, {other}; flatten it with `qemu-img convert -O qcow2`",
            file.display()
        );
    }
    Ok(info.virtual_size)
}

/// Copies the file to its `path` by its checksum; says the checksum and the size. A crash leaves nothing
/// under the final name that is not whole.
///
/// # Errors
/// When it cannot be read or written.
pub fn keep(
    source: &Path,
    data_dir: &Path,
    path: fn(&Path, &str) -> PathBuf,
) -> anyhow::Result<(String, u64)> {
    let folder = data_dir.join("images");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    // In a name of its own, so that two at once do not meet.
    let unfinished = folder.join(format!("unfinished-{}", crate::entropy::uuid().simple()));
    let kept = copy(source, &unfinished).and_then(|(sha256, bytes)| {
        std::fs::rename(&unfinished, path(data_dir, &sha256))?;
        File::open(&folder)?.sync_all()?;
        Ok((sha256, bytes))
    });
    kept.inspect_err(|_| drop(std::fs::remove_file(&unfinished)))
        .with_context(|| format!("cannot copy {} to {}", source.display(), folder.display()))
}

fn copy(source: &Path, target: &Path) -> std::io::Result<(String, u64)> {
    let (mut source, mut target) = (File::open(source)?, File::create_new(target)?);
    let (mut sha256, mut bytes) = (Sha256::new(), 0u64);
    let mut buffer = vec![0; 1024 * 1024];
    loop {
        let read = source.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        sha256.update(&buffer[..read]);
        target.write_all(&buffer[..read])?;
        bytes += read as u64;
    }
    target.sync_all()?;
    Ok((hex::encode(sha256.finalize()), bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn qemu_img(args: &[&str], folder: &Path) {
        let made = std::process::Command::new("qemu-img").args(args).current_dir(folder).output().unwrap();
        assert!(made.status.success(), "{made:?}");
    }

    #[test]
    fn a_kept_file_lies_under_its_checksum_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("a");
        std::fs::write(&source, "abc").unwrap();
        let (sha256, bytes) = keep(&source, folder.path(), file_path).unwrap();
        assert_eq!(sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!((bytes, keep(&source, folder.path(), file_path).unwrap().0), (3, sha256.clone()));
        let names: Vec<_> = std::fs::read_dir(folder.path().join("images")).unwrap().collect();
        assert_eq!(names.len(), 1);
        assert!(file_path(folder.path(), &sha256).exists());
        assert!(keep(&folder.path().join("missing"), folder.path(), file_path).is_err());
        assert_eq!(std::fs::read_dir(folder.path().join("images")).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn only_a_qcow2_that_stands_alone_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        qemu_img(&["create", "-q", "-f", "qcow2", "base.qcow2", "5M"], folder.path());
        assert_eq!(inspect(&at("base.qcow2")).await.unwrap(), 5 * 1024 * 1024);
        let above = ["create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "above.qcow2"];
        qemu_img(&above, folder.path());
        let said = inspect(&at("above.qcow2")).await.unwrap_err().to_string();
        assert!(said.contains("stands on another file"), "{said}");
        let outside = ["create", "-q", "-f", "qcow2", "-o", "data_file=data.raw", "outside.qcow2", "5M"];
        qemu_img(&outside, folder.path());
        let said = inspect(&at("outside.qcow2")).await.unwrap_err().to_string();
        assert!(said.contains("stands on another file"), "{said}");
        qemu_img(&["create", "-q", "-f", "raw", "plain.raw", "5M"], folder.path());
        assert!(inspect(&at("plain.raw")).await.unwrap_err().to_string().contains("format raw"));
        assert!(inspect(&at("missing")).await.is_err());
    }
}
