//! A VM's disk: a thin qcow2 overlay on its image, or a copy of it. The image is shared by all VMs made
//! from it and is never written to.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use berth_model::agent::{CloneMode, VmSpec};
use berth_model::{ByteSize, FieldError, VmId};
use rustix::fs::OFlags;
use virt::domain::Domain;

use super::folder::{Folder, Folders};
use super::ops::not_done;
use super::tool;
use crate::hypervisor::HypervisorError;
use crate::program::Program;
use crate::qcow2;

/// What must stay free on the node after a disk was made or grown. Disks are thin: how far their sizes
/// may add up to more than there is room for, the control plane decides when it places them.
const FREE_MIN: ByteSize = ByteSize::gib(1);

/// Longest name of a backing file (QEMU's limit).
const BACKING_MAX_BYTES: u32 = 1023;

/// How QEMU treats a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    /// Past the node's page cache: a VM's disk does not fill the node's memory beside its own, and a disk
    /// can be handed to another node without doubt about what it holds.
    None,
    /// Through the page cache, with the guest's flushes obeyed: for filesystems that know no direct I/O.
    Writeback,
}

impl Cache {
    /// libvirt's word.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Writeback => "writeback",
        }
    }

    /// How requests are handed to the kernel: `native` needs direct I/O.
    pub fn io(self) -> Option<&'static str> {
        (self == Self::None).then_some("native")
    }

    /// What the filesystem of `folder` can do.
    pub fn of(folder: &Path) -> std::io::Result<Self> {
        let probe = tempfile::NamedTempFile::new_in(folder)?;
        let flags = i32::try_from(OFlags::DIRECT.bits()).expect("O_DIRECT is a flag of open(2)");
        match File::options().read(true).custom_flags(flags).open(probe.path()) {
            Ok(_) => Ok(Self::None),
            Err(e) if e.kind() == ErrorKind::InvalidInput => Ok(Self::Writeback),
            Err(e) => Err(e),
        }
    }
}

/// Where image files stand.
#[derive(Debug, Clone)]
pub struct Images(PathBuf);

impl Images {
    /// Those in `folder`.
    pub fn new(folder: PathBuf) -> Self {
        Self(folder)
    }

    /// The file of an image, which is there and holds a disk of at most `disk`.
    pub fn find(&self, sha256: &str, disk: ByteSize) -> Result<PathBuf, HypervisorError> {
        let path = self.path(sha256);
        let file = File::open(&path).map_err(|e| match e.kind() {
            ErrorKind::NotFound => {
                HypervisorError::Lacking(format!("The image {sha256} is not on this node."))
            }
            _ => not_done("could not open the image", &e),
        })?;
        let head = qcow2::read_head(file).map_err(|e| not_done("could not read the image", &e))?;
        let size = qcow2::disk_size(&head)
            .map_err(|e| HypervisorError::Lacking(format!("The image {sha256} cannot be used: {e}")))?;
        if disk < size {
            return Err(invalid_disk(format!("The image needs a disk of at least {size}.")));
        }
        Ok(path)
    }

    /// Where they stand, as QEMU and libvirt are told.
    pub fn folder(&self) -> PathBuf {
        self.0.canonicalize().unwrap_or_else(|_| self.0.clone())
    }

    fn path(&self, sha256: &str) -> PathBuf {
        self.folder().join(format!("{sha256}.qcow2"))
    }
}

/// A disk that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// Its size for the guest.
    pub size: ByteSize,
    /// The image it stands on, or was copied from.
    pub backing: PathBuf,
}

impl Overlay {
    /// Reads the head of the disk at `path`, if there is one.
    pub fn read(path: &Path) -> Result<Option<Self>, HypervisorError> {
        let head = match head(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            head => head.map_err(|e| not_done("could not read the disk", &e))?,
        };
        let copied = || {
            let size = qcow2::disk_size(&head).ok()?;
            let sha256 = std::fs::read_to_string(image_note(path)).ok()?;
            Some(Self { size, backing: PathBuf::from(format!("{}.qcow2", sha256.trim())) })
        };
        match Self::parse(&head).or_else(copied) {
            Some(overlay) => Ok(Some(overlay)),
            None => Err(HypervisorError::Failed(format!("{} is not a disk of this agent.", path.display()))),
        }
    }

    /// Layout: QEMU's `docs/interop/qcow2.txt`, "Header".
    fn parse(head: &[u8]) -> Option<Self> {
        let bytes = |at: usize, len: usize| head.get(at..at.checked_add(len)?);
        let u32_at = |at| Some(u32::from_be_bytes(bytes(at, 4)?.try_into().ok()?));
        let u64_at = |at| Some(u64::from_be_bytes(bytes(at, 8)?.try_into().ok()?));
        let name_bytes = u32_at(16).filter(|len| (1..=BACKING_MAX_BYTES).contains(len))?;
        let name = bytes(usize::try_from(u64_at(8)?).ok()?, name_bytes as usize)?;
        let backing = PathBuf::from(std::str::from_utf8(name).ok()?);
        head.starts_with(b"QFI\xfb").then_some(Self { size: ByteSize(u64_at(24)?), backing })
    }

    /// Was it made from this image?
    pub fn is_of(&self, sha256: &str) -> bool {
        self.backing.file_name().is_some_and(|name| name == format!("{sha256}.qcow2").as_str())
    }
}

/// Which VMs' disks stand on which images, as their files say: image by SHA-256.
pub fn standing_on(folders: &Folders) -> std::io::Result<Vec<(VmId, String)>> {
    let below = |id: VmId| {
        let overlay = Overlay::parse(&head(&folders.of(id).disk()).ok()?)?;
        Some((id, overlay.backing.file_stem()?.to_str()?.to_owned()))
    };
    Ok(folders.list()?.into_iter().filter_map(below).collect())
}

/// The first cluster of a disk: the backing file's name follows the header and its extensions there.
fn head(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut head = Vec::new();
    File::open(path)?.take(64 * 1024).read_to_end(&mut head)?;
    Ok(head)
}

/// Refuses a change that a disk cannot follow.
pub fn check_change(overlay: &Overlay, sha256: &str, size: ByteSize) -> Result<(), HypervisorError> {
    if !overlay.is_of(sha256) {
        return Err(HypervisorError::Conflict(
            "The disk was made from another image; delete the VM first.".to_owned(),
        ));
    }
    if size < overlay.size {
        return Err(invalid_disk(format!("The disk has {} already, and never shrinks.", overlay.size)));
    }
    Ok(())
}

/// Refuses when the node has no room for `more` bytes of disk in `folder`.
pub fn check_room(folder: &Path, more: ByteSize) -> Result<(), HypervisorError> {
    let stat = rustix::fs::statvfs(folder).map_err(|e| not_done("could not look for room", &e.into()))?;
    room(ByteSize(stat.f_bavail.saturating_mul(stat.f_frsize)), more)
}

fn room(free: ByteSize, more: ByteSize) -> Result<(), HypervisorError> {
    let needed = more.min(FREE_MIN);
    if free >= needed {
        return Ok(());
    }
    Err(HypervisorError::Lacking(format!(
        "The node has no room for this disk: {} MiB are free, and {} MiB must be.",
        free.as_mib(),
        needed.as_mib()
    )))
}

/// Makes a VM's disk in its folder as its specification says, in place of one that is there.
pub fn put(folder: &Folder, image: &Path, spec: &VmSpec) -> Result<(), HypervisorError> {
    if spec.disk_mode == CloneMode::Copy {
        note_image(folder, &spec.image.sha256)?;
    }
    folder.put(&folder.disk(), |new| make(new, image, spec.disk, spec.disk_mode))
}

/// Makes a disk on an image, or as a copy of it.
pub fn make(path: &Path, image: &Path, size: ByteSize, mode: CloneMode) -> Result<(), HypervisorError> {
    match mode {
        CloneMode::Backing => create(path, image, size),
        CloneMode::Copy => copy(path, image, size),
    }
}

/// Makes the overlay `path` of `size` on `image`.
pub fn create(path: &Path, image: &Path, size: ByteSize) -> Result<(), HypervisorError> {
    let size = size.bytes().to_string();
    let args = ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"].map(AsRef::as_ref);
    qemu_img(args.into_iter().chain([image.as_os_str(), path.as_os_str(), size.as_ref()]))
}

/// Makes the overlay `path` on `image`, of its size.
pub fn overlay(path: &Path, image: &Path) -> Result<(), HypervisorError> {
    let args = ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"].map(AsRef::as_ref);
    qemu_img(args.into_iter().chain([image.as_os_str(), path.as_os_str()]))
}

/// Makes the disk `path` of `size` with all of `image` in it.
pub fn copy(path: &Path, image: &Path, size: ByteSize) -> Result<(), HypervisorError> {
    let args = ["convert", "-f", "qcow2", "-O", "qcow2"];
    Program::qemu_img(args).args([image, path]).run()?;
    grow(path, None, size)
}

/// Notes which image the disk of a folder is made from: a copy does not say so itself.
pub fn note_image(folder: &Folder, sha256: &str) -> Result<(), HypervisorError> {
    folder.put(&image_note(&folder.disk()), |new| std::fs::write(new, sha256).map_err(HypervisorError::from))
}

fn image_note(disk: &Path) -> PathBuf {
    disk.with_extension("image")
}

/// The sum of all VMs' disks: what they may grow to, and what they take up now, in bytes.
pub fn sizes(folders: &Folders) -> std::io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let (mut promised, mut allocated) = (0, 0);
    for id in folders.list()? {
        let disk = folders.of(id).disk();
        promised += Overlay::read(&disk).ok().flatten().map_or(0, |overlay| overlay.size.bytes());
        allocated += std::fs::metadata(&disk).map_or(0, |file| file.blocks() * 512);
    }
    Ok((promised, allocated))
}

/// Grows the disk of a VM that runs.
pub fn grow_live(domain: &Domain, size: ByteSize) -> Result<(), HypervisorError> {
    domain
        .block_resize("vda", size.bytes(), virt::sys::VIR_DOMAIN_BLOCK_RESIZE_BYTES)
        .map_err(|e| super::ops::refused("grow the disk", &e))
}

/// Grows the disk `path` of a VM to `size`; through QEMU when it runs, which holds the file.
pub fn grow(path: &Path, running: Option<&Domain>, size: ByteSize) -> Result<(), HypervisorError> {
    if let Some(domain) = running {
        return grow_live(domain, size);
    }
    let size = size.bytes().to_string();
    let args = ["resize", "-q", "-f", "qcow2"].map(AsRef::as_ref);
    qemu_img(args.into_iter().chain([path.as_os_str(), size.as_ref()]))
}

fn qemu_img<'a>(args: impl Iterator<Item = &'a std::ffi::OsStr>) -> Result<(), HypervisorError> {
    tool::run("qemu-img", "qemu-utils", args).map(drop)
}

fn invalid_disk(message: String) -> HypervisorError {
    HypervisorError::Invalid(FieldError { name: "disk".to_owned(), messages: vec![message] })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(folder: &Path, sha256: &str, size: ByteSize) -> PathBuf {
        let path = folder.join(format!("{sha256}.qcow2"));
        let args = ["create", "-q", "-f", "qcow2", path.to_str().unwrap(), &size.bytes().to_string()];
        tool::run("qemu-img", "qemu-utils", args).unwrap();
        path
    }

    #[test]
    fn an_overlay_is_made_grown_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let sha256 = "a".repeat(64);
        let image = image(folder.path(), &sha256, ByteSize::mib(64));
        let disk = folder.path().join("disk.qcow2");
        assert_eq!(Overlay::read(&disk).unwrap(), None);
        create(&disk, &image, ByteSize::mib(64)).unwrap();
        grow(&disk, None, ByteSize::gib(2)).unwrap();
        let overlay = Overlay::read(&disk).unwrap().unwrap();
        assert_eq!(overlay, Overlay { size: ByteSize::gib(2), backing: image });
        assert!(overlay.is_of(&sha256) && !overlay.is_of(&"b".repeat(64)));
    }

    #[test]
    fn a_disk_never_shrinks_and_never_changes_its_image() {
        let _proof = crate::proof::pure(&["vm.put"]);
        let overlay = Overlay { size: ByteSize::gib(2), backing: PathBuf::from("/images/aa.qcow2") };
        assert!(check_change(&overlay, "aa", ByteSize::gib(2)).is_ok());
        assert!(check_change(&overlay, "aa", ByteSize::gib(3)).is_ok());
        assert!(matches!(check_change(&overlay, "bb", ByteSize::gib(2)), Err(HypervisorError::Conflict(_))));
        let Err(HypervisorError::Invalid(fault)) = check_change(&overlay, "aa", ByteSize::gib(1)) else {
            panic!()
        };
        assert_eq!(fault.name, "disk");
        assert_eq!(fault.messages, ["The disk has 2 GiB already, and never shrinks."]);
    }

    #[test]
    fn an_image_must_be_there_stand_alone_and_fit() {
        let folder = tempfile::tempdir().unwrap();
        let images = Images::new(folder.path().to_owned());
        let (good, backed) = ("a".repeat(64), "b".repeat(64));
        let path = image(folder.path(), &good, ByteSize::mib(64));
        create(&images.path(&backed), &path, ByteSize::mib(64)).unwrap();
        assert!(images.find(&good, ByteSize::mib(64)).is_ok());
        assert!(
            matches!(images.find(&good, ByteSize::mib(63)), Err(HypervisorError::Invalid(f)) if f.name == "disk")
        );
        for bad in [backed, "c".repeat(64)] {
            assert!(matches!(images.find(&bad, ByteSize::gib(1)), Err(HypervisorError::Lacking(_))));
        }
    }

    #[test]
    fn a_full_node_is_said_so() {
        assert!(room(ByteSize::gib(1), ByteSize::gib(40)).is_ok());
        assert!(room(ByteSize::mib(10), ByteSize::mib(10)).is_ok());
        assert!(matches!(room(ByteSize::mib(1023), ByteSize::gib(40)), Err(HypervisorError::Lacking(_))));
    }

    proptest::proptest! {
        #[test]
        fn no_head_of_a_disk_breaks_the_agent(
            mut head in proptest::collection::vec(proptest::num::u8::ANY, 0..300), at in 0_u64..400, len in 0_u32..2000,
        ) {
            let _read = Overlay::parse(&head);
            // And one that is nearly a disk.
            if head.len() >= 80 {
                head[..4].copy_from_slice(b"QFI\xfb");
                head[8..16].copy_from_slice(&at.to_be_bytes());
                head[16..20].copy_from_slice(&len.to_be_bytes());
                let _read = Overlay::parse(&head);
            }
        }
    }

    #[test]
    fn garbage_is_no_disk() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.qcow2");
        for garbage in [&b""[..], b"QFI\xfb", &[0xff; 200]] {
            std::fs::write(&path, garbage).unwrap();
            assert!(Overlay::read(&path).is_err());
        }
    }
}
