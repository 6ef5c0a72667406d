//! A folder with a file for each volume: `{path}/volumes/{id}/volume.qcow2`, or `.raw`; VMs' own disks stand
//! under `{path}/disks`.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use berth_model::agent::function::TargetValue as _;
use berth_model::agent::{CloneMode, Name, PoolKind, VolumeFormat};
use berth_model::{ByteSize, VolumeId};

use super::pool::{Data, Fill, From, Item, Pool, Source, Space, word};
use super::shared;
use crate::faults;
use crate::hypervisor::HypervisorError;
use crate::orphans::is_old;
use crate::program::Program;
use crate::runs::Cx;

/// QEMU runs as another user, and must pass through; who may list is the agent alone.
const MODE: u32 = 0o711;

/// A folder as a pool.
#[derive(Debug)]
pub struct Directory {
    name: Name,
    path: PathBuf,
    /// What the storage below is called, where other nodes have it, too.
    shared: Option<String>,
}

impl Directory {
    /// The pool in `path`, which is made if it is not there; do other nodes have it, too?
    pub fn open(name: Name, path: &Path, shared: bool) -> Result<Self, HypervisorError> {
        make_folder(&path.join("volumes"))?;
        // libvirt opens what we name, from its own working directory.
        let shared = shared.then(|| shared::name_of(path)).transpose()?;
        Ok(Self { name, path: path.canonicalize()?, shared })
    }

    fn folder(&self, data: &Data) -> PathBuf {
        match data.item {
            Item::Volume(id) => self.path.join("volumes").join(id.to_string()),
            Item::Disk(id) => self.path.join("disks").join(id.to_string()),
        }
    }

    fn file(&self, data: &Data) -> PathBuf {
        self.folder(data).join(format!("volume.{}", word(data.format)))
    }

    fn fill(&self, cx: &Cx, data: &Data, from: Option<&From>, new: &Path) -> Result<(), HypervisorError> {
        let (size, format) = (data.size.bytes().to_string(), word(data.format));
        let Some(From { file, format: of, mode }) = from else {
            return qemu_img(
                ["create", "-q", "-f", format].map(OsStr::new),
                [new.as_os_str(), size.as_ref()],
            );
        };
        match mode {
            CloneMode::Backing => qemu_img(
                ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"].map(OsStr::new),
                [file.as_os_str(), new.as_os_str(), size.as_ref()],
            ),
            CloneMode::Copy => {
                cx.phase("Copy the image", data.size.bytes());
                Program::qemu_img(["convert", "-p", "-f", word(*of), "-O", format])
                    .args([file.as_os_str(), new.as_os_str()])
                    .run_in(cx)?;
                let args = ["resize", "-q", "-f", format].map(OsStr::new);
                qemu_img(args, [new.as_os_str(), size.as_ref()])
            }
        }
    }
}

impl Pool for Directory {
    fn name(&self) -> &Name {
        &self.name
    }

    fn kind(&self) -> PoolKind {
        PoolKind::Directory
    }

    fn formats(&self) -> &'static [VolumeFormat] {
        &[VolumeFormat::Qcow2, VolumeFormat::Raw]
    }

    fn shared_folder(&self) -> Option<&Path> {
        self.shared.is_some().then_some(&*self.path)
    }

    fn can_stand_on_image(&self, format: VolumeFormat) -> bool {
        format == VolumeFormat::Qcow2
    }

    fn shared(&self) -> Result<Option<String>, HypervisorError> {
        Ok(self.shared.clone())
    }

    fn space(&self) -> Result<Space, HypervisorError> {
        let stat = rustix::fs::statvfs(&self.path).map_err(std::io::Error::from)?;
        let bytes = |blocks: u64| ByteSize(blocks.saturating_mul(stat.f_frsize));
        Ok(Space { size: bytes(stat.f_blocks), free: bytes(stat.f_bavail) })
    }

    fn create(&self, cx: &Cx, data: &Data, from: Option<&From>) -> Result<(), HypervisorError> {
        self.take(data, &mut |new| self.fill(cx, data, from, new))
    }

    fn take(&self, data: &Data, fill: &mut Fill<'_>) -> Result<(), HypervisorError> {
        let file = self.file(data);
        if file.try_exists()? {
            return Ok(());
        }
        make_folder(&self.folder(data))?;
        let new = file.with_extension("new");
        let made = fill(&new).and_then(|()| {
            faults::point("volume.after_fill")?;
            File::open(&new)?.sync_all()?;
            fs::rename(&new, &file)?;
            File::open(self.folder(data))?.sync_all()?;
            Ok(())
        });
        if made.is_err() {
            gone(fs::remove_file(&new))?;
        }
        made
    }

    fn grow(&self, data: &Data) -> Result<(), HypervisorError> {
        let size = data.size.bytes().to_string();
        let args = ["resize", "-q", "-f", word(data.format)].map(OsStr::new);
        qemu_img(args, [self.file(data).as_os_str(), size.as_ref()])
    }

    fn remove(&self, data: &Data) -> Result<(), HypervisorError> {
        let file = self.file(data);
        for file in [file.with_extension("new"), file] {
            gone(fs::remove_file(file))?;
        }
        // The folder stays while the volume's record is in it.
        match fs::remove_dir(self.folder(data)) {
            Err(e) if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) => {
                Err(e.into())
            }
            _ => Ok(()),
        }
    }

    fn allocated(&self, data: &Data) -> Result<Option<ByteSize>, HypervisorError> {
        match fs::metadata(self.file(data)) {
            Ok(meta) => Ok(Some(ByteSize(meta.blocks() * 512))),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn strays(&self, known: &[Item]) -> Result<Vec<Data>, HypervisorError> {
        // Other nodes' volumes lie there too, and their records do not.
        if self.shared.is_some() {
            return Ok(Vec::new());
        }
        let volumes = self.path.join("volumes");
        let mut strays = Vec::new();
        for entry in fs::read_dir(&volumes)? {
            let path = entry?.path();
            let id = path.file_name().and_then(|name| name.to_str()).and_then(VolumeId::read);
            let Some(item) = id.map(Item::Volume).filter(|item| !known.contains(item)) else { continue };
            let has = |format: &VolumeFormat| path.join(format!("volume.{}", word(*format))).exists();
            let found = self.formats().iter().copied().filter(has).filter(|_| is_old(&path));
            strays.extend(found.map(|format| Data { item, format, size: ByteSize(0) }));
        }
        Ok(strays)
    }

    fn source(&self, data: &Data) -> Source {
        Source::File(self.file(data))
    }
}

fn qemu_img<'a>(
    args: impl IntoIterator<Item = &'a OsStr>,
    more: impl IntoIterator<Item = &'a OsStr>,
) -> Result<(), HypervisorError> {
    Program::qemu_img(args).args(more).run().map(drop)
}

fn gone(removed: std::io::Result<()>) -> std::io::Result<()> {
    match removed {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Makes a folder that QEMU can pass through; fine if it is there.
pub(super) fn make_folder(folder: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(MODE).create(folder)
}
