//! The image files of a node, each named by its SHA-256 and never changed.
//!
//! ```text
//! upload ──► .XXXX.part ──checksum, head, fsync──► {sha256}.qcow2 ──not used──► deleted
//!               └─ anything wrong, or cut off: nothing is left (after a crash: at the next start)
//! fetch ───► ../quarantine/{checksum}.part ──checksum, look inside──► {sha256}.qcow2
//!               └─ anything wrong: nothing is left; cut off: kept for a day, and the next fetch goes on
//! ```
//!
//! What is in the quarantine is used by nothing, and looked at only by a program with limits (see [`inside`]).

use std::collections::HashMap;
use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use berth_model::agent::{CloneMode, ImageFile, ImageFormat, Vm, VmSpec, Volume};
use berth_model::{ByteSize, ErrorCode, VmId, VolumeId};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;

use crate::config::ImagesSection;
use crate::error::Refusal;
use crate::hypervisor::HypervisorError;
use crate::limits::Limits;
use crate::orphans::{Found, is_old};
use crate::{qcow2, spec};

mod convert;
mod fetch;
pub mod inside;
mod quarantine;

pub use self::fetch::faults as fetch_faults;

/// What an unfinished upload's name ends with.
const PART: &str = ".part";
/// What stays free on the node's disk, whatever is uploaded.
const FREE_MIN: ByteSize = ByteSize::gib(1);
/// Bytes of an upload between looks at the free space.
const SPACE_CHECK_BYTES: usize = 64 * 1024 * 1024;

/// The image store.
pub struct Images {
    folder: PathBuf,
    uses: Arc<ImageUses>,
    imports: Semaphore,
    silence: Duration,
    settings: ImagesSection,
}

impl Images {
    /// Opens the store, and clears away what a crash left of uploads.
    pub fn open(folder: PathBuf, limits: &Limits, settings: ImagesSection) -> std::io::Result<Self> {
        fs::create_dir_all(&folder)?;
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().ends_with(PART) {
                fs::remove_file(entry.path())?;
            }
        }
        quarantine::open(&folder)?;
        let imports = Semaphore::new(limits.imports);
        Ok(Self { folder, uses: Arc::default(), imports, silence: limits.upload_silence, settings })
    }

    /// All image files, by name; `vms` and `volumes` tell who uses them.
    pub fn list(&self, vms: &[Vm], volumes: &[Volume]) -> Result<Vec<ImageFile>, Refusal> {
        let files = read_folder(&self.folder);
        let mut files = files.map_err(|e| Refusal::own("The images could not be listed", &e))?;
        for file in &mut files {
            file.used_by = users(&file.sha256, vms);
            file.used_by_volumes = volumes_on(&file.sha256, volumes);
        }
        Ok(files)
    }

    /// One image file, if it is there.
    pub fn find(&self, sha256: &str) -> Result<Option<ImageFile>, Refusal> {
        check_name(sha256)?;
        for format in ImageFormat::ALL {
            if let Some(known) = self.known(&self.path(sha256, format), sha256, format)? {
                return Ok(Some(known));
            }
        }
        Ok(None)
    }

    /// The same, which must be there.
    fn wanted(&self, sha256: &str) -> Result<ImageFile, Refusal> {
        self.find(sha256)?.ok_or_else(|| {
            Refusal::new(ErrorCode::NotFound, format!("The image {sha256} is not on this node."))
        })
    }

    /// The file of an ISO that is on the node.
    pub fn iso_path(&self, sha256: &str) -> Option<PathBuf> {
        let path = spec::is_sha256(sha256).then(|| self.path(sha256, ImageFormat::Iso))?;
        path.is_file().then_some(path)
    }

    /// An image's file, opened, with its length in bytes. It is not deleted as long as it is held.
    pub fn open_file(&self, sha256: &str) -> Result<(ImageHold, fs::File, u64), Refusal> {
        check_name(sha256)?;
        let held = self.hold(sha256)?;
        let image = self.wanted(sha256)?;
        let own = |e: std::io::Error| Refusal::own("The image could not be read", &e);
        let file = fs::File::open(self.path(sha256, image.format)).map_err(own)?;
        let length = file.metadata().map_err(own)?.len();
        Ok((held, file, length))
    }

    /// Keeps an image from being deleted while something is made from it.
    pub fn hold(&self, sha256: &str) -> Result<ImageHold, Refusal> {
        self.uses.hold(sha256)
    }

    /// Takes a file in. `length` is how long the upload says it is, `format` what it is if not a qcow2 or an ISO.
    pub async fn import<E>(
        &self,
        sha256: &str,
        format: Option<ImageFormat>,
        length: Option<u64>,
        upload: impl Stream<Item = Result<Bytes, E>> + Send,
    ) -> Result<ImageFile, Refusal> {
        check_name(sha256)?;
        // Not while it is being deleted: the answer would be true for a moment only.
        let _held = self.uses.hold(sha256)?;
        let mut upload = std::pin::pin!(upload);
        if let Some(known) = self.find(sha256)? {
            // Read to its end: a sender that is cut off would not see the answer.
            while self.next_chunk(&mut upload).await?.is_some() {}
            return Ok(known);
        }
        let Ok(_slot) = self.imports.try_acquire() else {
            return Err(Refusal::unavailable(
                "Other images are being imported; try again when they are done.",
            ));
        };
        self.check_space(length.unwrap_or(0))?;
        let own = |e: std::io::Error| write_failed(&e);
        let part =
            tempfile::Builder::new().prefix(".").suffix(PART).tempfile_in(&self.folder).map_err(own)?;
        let (file, part) = part.into_parts();
        let mut file = tokio::fs::File::from_std(file);
        let mut hash = Sha256::new();
        let mut unchecked_bytes = 0;
        while let Some(chunk) = self.next_chunk(&mut upload).await? {
            hash.update(&chunk);
            file.write_all(&chunk).await.map_err(own)?;
            // Other imports and guests write meanwhile, and an upload need not say its length.
            unchecked_bytes += chunk.len();
            if unchecked_bytes >= SPACE_CHECK_BYTES {
                unchecked_bytes = 0;
                self.check_space(0)?;
            }
        }
        let found = hex::encode(hash.finalize());
        if found != sha256 {
            let message =
                format!("The file's SHA-256 is {found}; it was damaged on its way, or is another file.");
            return Err(Refusal::field("sha256", message));
        }
        file.sync_all().await.map_err(own)?;
        let finish = {
            let (folder, sha256) = (self.folder.clone(), sha256.to_owned());
            move || finish(part, &folder, &sha256, format)
        };
        let finished = tokio::task::spawn_blocking(finish).await;
        finished.map_err(|e| Refusal::own("The import broke off", &e))??;
        let imported = self.find(sha256)?;
        imported.ok_or_else(|| Refusal::conflict("The image was deleted right after its import."))
    }

    /// Deletes an image file; fine if there is none. `users_of` is asked once nobody can begin to use it.
    pub fn delete(
        &self,
        sha256: &str,
        users_of: impl FnOnce() -> Result<(Vec<Vm>, Vec<Volume>), Refusal>,
    ) -> Result<(), Refusal> {
        check_name(sha256)?;
        let _alone = self.uses.take_away(sha256)?;
        let (vms, volumes) = users_of()?;
        if let Some(volume) = volumes_on(sha256, &volumes).first() {
            return Err(Refusal::conflict(format!("Volume {volume} stands on this image.")));
        }
        if let Some(vm) = users(sha256, &vms).first() {
            return Err(Refusal::conflict(format!("The disk of VM {vm} stands on this image.")));
        }
        // What a half-made VM stands on is not known.
        if let Some(vm) = vms.iter().find(|vm| vm.spec.is_none()) {
            let message =
                format!("VM {} is half made and may stand on this image; finish or delete it first.", vm.id);
            return Err(Refusal::conflict(message));
        }
        for format in ImageFormat::ALL {
            match fs::remove_file(self.path(sha256, format)) {
                Err(e) if e.kind() != ErrorKind::NotFound => {
                    return Err(Refusal::own("The image could not be deleted", &e));
                }
                _ => {}
            }
        }
        self.forget_sha512(sha256).map_err(|e| Refusal::own("The image could not be deleted", &e))
    }

    /// Uploads that nobody goes on with.
    pub fn orphans(&self) -> Result<Vec<Found<'_>>, HypervisorError> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.to_string_lossy().ends_with(PART) && is_old(&path) {
                let name = path.to_string_lossy().into_owned();
                let why = "The upload was cut off.";
                found.push(Found::new("unfinished image", name, why, move || Ok(fs::remove_file(&path)?)));
            }
        }
        for entry in fs::read_dir(quarantine::folder(&self.folder))? {
            let path = entry?.path();
            if is_old(&path) {
                let name = path.to_string_lossy().into_owned();
                let why = "A fetch, a conversion or a copy was cut off; a fetch told again goes on from it.";
                found.push(Found::new("quarantined file", name, why, move || Ok(fs::remove_file(&path)?)));
            }
        }
        Ok(found)
    }

    fn path(&self, sha256: &str, format: ImageFormat) -> PathBuf {
        self.folder.join(format!("{sha256}.{}", format.word()))
    }

    fn known(&self, path: &Path, sha256: &str, format: ImageFormat) -> Result<Option<ImageFile>, Refusal> {
        read_file(path, sha256, format).map_err(|e| Refusal::own("The image could not be read", &e))
    }

    async fn next_chunk<E>(
        &self,
        upload: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin),
    ) -> Result<Option<Bytes>, Refusal> {
        match tokio::time::timeout(self.silence, upload.next()).await {
            Ok(None) => Ok(None),
            Ok(Some(Ok(chunk))) => Ok(Some(chunk)),
            Ok(Some(Err(_))) => Err(Refusal::field("file", "The upload was cut off.")),
            Err(_) => Err(Refusal::field("file", "The upload stood still for too long.")),
        }
    }

    fn check_space(&self, wanted: u64) -> Result<(), Refusal> {
        let room =
            rustix::fs::statvfs(&self.folder).map_err(|e| Refusal::own("The disk does not answer", &e))?;
        let free = room.f_bavail.saturating_mul(room.f_frsize);
        if free < wanted.saturating_add(FREE_MIN.0) {
            let message =
                format!("The node has no room for this image: {} MiB are free.", ByteSize(free).as_mib());
            return Err(Refusal::new(ErrorCode::ResourceUnavailable, message));
        }
        Ok(())
    }
}

/// Gives a file whose content is right and on disk its name, if it is what is expected.
fn finish(
    part: tempfile::TempPath,
    folder: &Path,
    sha256: &str,
    format: Option<ImageFormat>,
) -> Result<(), Refusal> {
    let own = |e: std::io::Error| write_failed(&e);
    let head = inside::Head::read(&part).map_err(own)?;
    let format = match format {
        Some(format) => format,
        None if head.is_iso() => ImageFormat::Iso,
        None => ImageFormat::Qcow2,
    };
    head.check(format).map_err(|why| Refusal::field("file", why))?;
    // QEMU may run as another user.
    fs::set_permissions(&part, fs::Permissions::from_mode(0o644)).map_err(own)?;
    part.persist(folder.join(format!("{sha256}.{}", format.word()))).map_err(|e| own(e.error))?;
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(own)
}

fn write_failed(error: &std::io::Error) -> Refusal {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            Refusal::new(ErrorCode::ResourceUnavailable, "The node has no room for this image.")
        }
        _ => Refusal::own("The image could not be written", error),
    }
}

fn check_name(sha256: &str) -> Result<(), Refusal> {
    if spec::is_sha256(sha256) { Ok(()) } else { Err(Refusal::field("sha256", spec::SHA256_RULE)) }
}

fn users(sha256: &str, vms: &[Vm]) -> Vec<VmId> {
    let uses = |vm: &&Vm| {
        let uses = |spec: &VmSpec| {
            let stands = spec.image.sha256 == sha256 && spec.disk_mode == CloneMode::Backing;
            let rescue = spec.rescue.as_ref().is_some_and(|rescue| rescue.image == sha256);
            stands || rescue || spec.iso.as_deref() == Some(sha256)
        };
        vm.spec.as_ref().is_some_and(uses)
    };
    vms.iter().filter(uses).map(|vm| vm.id).collect()
}

fn volumes_on(sha256: &str, volumes: &[Volume]) -> Vec<VolumeId> {
    let stands = |volume: &&Volume| volume.stands_on_image && volume.image.as_deref() == Some(sha256);
    volumes.iter().filter(stands).map(|volume| volume.id).collect()
}

fn read_folder(folder: &Path) -> std::io::Result<Vec<ImageFile>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let Some((sha256, word)) = name.and_then(|name| name.split_once('.')) else { continue };
        let format = ImageFormat::ALL.into_iter().find(|format| format.word() == word);
        if let Some(format) = format.filter(|_| spec::is_sha256(sha256)) {
            files.extend(read_file(&path, sha256, format)?);
        }
    }
    files.sort_by(|a, b| a.sha256.cmp(&b.sha256));
    Ok(files)
}

/// What is known of an image file; `None` if it is gone.
fn read_file(path: &Path, sha256: &str, format: ImageFormat) -> std::io::Result<Option<ImageFile>> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let file_size = ByteSize(file.metadata()?.len());
    let disk_size = match format {
        ImageFormat::Qcow2 => qcow2::disk_size(&qcow2::read_head(file)?).unwrap_or_default(),
        ImageFormat::Iso | ImageFormat::Raw => file_size,
        ImageFormat::Vmdk | ImageFormat::Vdi => inside::Head::of(file)?.disk_size(format).unwrap_or_default(),
    };
    let (sha256, used_by, used_by_volumes) = (sha256.to_owned(), Vec::new(), Vec::new());
    Ok(Some(ImageFile { sha256, file_size, disk_size, format, used_by, used_by_volumes }))
}

/// Which images are about to be stood on, or to go. It closes the gap between looking whether an
/// image is used and deleting it.
#[derive(Debug, Default)]
pub struct ImageUses(Mutex<HashMap<String, Use>>);

#[derive(Debug)]
enum Use {
    Held(usize),
    GoingAway,
}

/// Lets go of an image when dropped.
#[derive(Debug)]
pub struct ImageHold {
    uses: Arc<ImageUses>,
    sha256: String,
}

impl ImageUses {
    /// Keeps an image from being deleted.
    pub fn hold(self: &Arc<Self>, sha256: &str) -> Result<ImageHold, Refusal> {
        match self.map().entry(sha256.to_owned()).or_insert(Use::Held(0)) {
            Use::Held(n) => *n += 1,
            Use::GoingAway => return Err(Refusal::conflict("This image is being deleted.")),
        }
        Ok(ImageHold { uses: Arc::clone(self), sha256: sha256.to_owned() })
    }

    /// Keeps an image from being used.
    fn take_away(self: &Arc<Self>, sha256: &str) -> Result<ImageHold, Refusal> {
        let mut map = self.map();
        match map.get(sha256) {
            Some(Use::Held(_)) => {
                Err(Refusal::conflict("This image is being imported, or a VM is being made from it."))
            }
            Some(Use::GoingAway) => Err(Refusal::conflict("This image is being deleted already.")),
            None => {
                map.insert(sha256.to_owned(), Use::GoingAway);
                Ok(ImageHold { uses: Arc::clone(self), sha256: sha256.to_owned() })
            }
        }
    }

    fn map(&self) -> MutexGuard<'_, HashMap<String, Use>> {
        // Each change is a single one: whole after any panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ImageHold {
    fn drop(&mut self) {
        let mut map = self.uses.map();
        match map.get_mut(&self.sha256) {
            Some(Use::Held(n)) if *n > 1 => *n -= 1,
            _ => {
                map.remove(&self.sha256);
            }
        }
    }
}

/// The SHA-256 of a file, in hexadecimal.
pub fn checksum(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex::encode(hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}
