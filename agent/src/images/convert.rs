//! Images made on the node: converted from another form, or from a VM's disk. And images read back.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use berth_model::agent::{ImageFile, ImageFormat, ImageVerdict};
use berth_model::{ByteSize, ErrorCode};
use sha2::{Digest, Sha256};
use tempfile::TempPath;

use super::{Images, inside, quarantine, write_failed};
use crate::error::Refusal;
use crate::faults;
use crate::hypervisor::HypervisorError;
use crate::program::{Confinement, NOBODY, Program};
use crate::runs::Cx;

impl Images {
    /// Makes a compressed qcow2 of an image file; that one stays.
    pub fn convert(&self, cx: &Cx, sha256: &str) -> Result<ImageFile, Refusal> {
        let _held = self.hold(sha256)?;
        let from = self.wanted(sha256)?;
        if from.format == ImageFormat::Iso {
            return Err(Refusal::conflict("An ISO is no disk; attach it to a VM as it is."));
        }
        let path = self.path(sha256, from.format);
        if let Err(why) = inside::look(&path, from.format)? {
            return Err(Refusal::field("sha256", why));
        }
        // A compressed copy of what a file holds is not much larger than the file.
        self.check_space(from.file_size.bytes())?;
        let new = self.new_file()?;
        cx.phase("Convert the image", from.disk_size.bytes());
        let limits = Confinement {
            cpu_s: 24 * 3600,
            file_bytes: ByteSize::gib(self.settings.max_gib).bytes(),
            ..inside::LIMITS
        };
        let args = ["convert", "-p", "-c", "-f", from.format.word(), "-O", "qcow2"];
        let convert =
            Program::qemu_img(args).args(["-o", "compression_type=zstd"]).args([path.as_path(), &new]);
        lend(&new, NOBODY)?;
        let converted = convert.confined(limits, &path).run_in(cx);
        lend(&new, rustix::process::geteuid().as_raw())?;
        converted?;
        self.adopt(cx, new)
    }

    /// Makes an image from what `export` writes to the path it is given.
    pub fn make(
        &self,
        cx: &Cx,
        export: impl FnOnce(&Path) -> Result<(), HypervisorError>,
    ) -> Result<ImageFile, Refusal> {
        self.check_space(0)?;
        let new = self.new_file()?;
        export(&new)?;
        self.adopt(cx, new)
    }

    /// Reads an image back.
    pub fn verify(&self, cx: &Cx, sha256: &str) -> Result<ImageVerdict, Refusal> {
        let _held = self.hold(sha256)?;
        let image = self.wanted(sha256)?;
        let path = self.path(sha256, image.format);
        let mut problems = Vec::new();
        let (found, _) = checksums(cx, &path)?;
        if found != sha256 {
            problems.push(format!("The file's SHA-256 is {found} now; it has changed since it was stored."));
        }
        let head = inside::Head::read(&path).map_err(|e| Refusal::own("The image could not be read", &e))?;
        problems.extend(head.check(image.format).err());
        if !matches!(image.format, ImageFormat::Iso | ImageFormat::Raw) {
            problems.extend(inside::check_tables(cx, &path, image.format)?);
        }
        Ok(ImageVerdict { sha256: sha256.to_owned(), sound: problems.is_empty(), problems })
    }

    /// A new file in the quarantine, which goes with the path unless it is kept.
    fn new_file(&self) -> Result<TempPath, Refusal> {
        let folder = quarantine::folder(&self.folder);
        let file = tempfile::Builder::new().prefix("new-").suffix(".new").tempfile_in(folder);
        file.map(tempfile::NamedTempFile::into_temp_path).map_err(|e| write_failed(&e))
    }

    /// Takes a qcow2 file that was made here into the store.
    fn adopt(&self, cx: &Cx, new: TempPath) -> Result<ImageFile, Refusal> {
        let (sha256, _) = checksums(cx, &new)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o644)).map_err(|e| write_failed(&e))?;
        if let Err(why) = inside::look(&new, ImageFormat::Qcow2)? {
            return Err(Refusal::new(ErrorCode::ServiceError, format!("The new image is not sound: {why}")));
        }
        faults::point("image.after_check").map_err(HypervisorError::from)?;
        let _held = self.uses.hold(&sha256)?;
        self.keep(&new, &sha256, ImageFormat::Qcow2)?;
        // It has another name now.
        let _gone = new.keep();
        self.wanted(&sha256)
    }

    /// Gives a file of the quarantine, which was looked at, its name in the store.
    pub(super) fn keep(&self, part: &Path, sha256: &str, format: ImageFormat) -> Result<(), Refusal> {
        let kept = || -> std::io::Result<()> {
            fs::set_permissions(part, fs::Permissions::from_mode(0o644))?;
            File::open(part)?.sync_all()?;
            fs::rename(part, self.path(sha256, format))?;
            File::open(&self.folder)?.sync_all()
        };
        kept().map_err(|e| write_failed(&e))?;
        faults::point("image.after_keep").map_err(HypervisorError::from)?;
        Ok(())
    }
}

/// SHA-256 and SHA-512 of a file.
pub(super) fn checksums(cx: &Cx, path: &Path) -> Result<(String, String), Refusal> {
    let unread = |e: std::io::Error| Refusal::own("The file could not be read", &e);
    let mut file = File::open(path).map_err(unread)?;
    cx.phase("Read the file back", file.metadata().map_err(unread)?.size());
    let (mut sha256, mut sha512) = (Sha256::new(), sha2::Sha512::new());
    let (mut buffer, mut done) = (vec![0; 1 << 20], 0);
    loop {
        cx.check()?;
        match file.read(&mut buffer).map_err(unread)? {
            0 => return Ok((hex::encode(sha256.finalize()), hex::encode(sha512.finalize()))),
            n => {
                sha256.update(&buffer[..n]);
                sha512.update(&buffer[..n]);
                done += n as u64;
                cx.done(done);
            }
        }
    }
}

/// Lets another user write a file, if that is ours to do.
fn lend(path: &Path, to: u32) -> Result<(), Refusal> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    std::os::unix::fs::chown(path, Some(to), None).map_err(|e| write_failed(&e))
}
