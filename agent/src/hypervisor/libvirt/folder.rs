//! A VM's folder, `{data_dir}/vms/{id}/`: all there is of a VM outside libvirt.
//!
//! | file | holds |
//! | --- | --- |
//! | `disk.qcow2` | what the guest wrote over its image |
//! | `disk.image` | the image the disk is a copy of; without it the disk says that itself |
//! | `seed.iso` | what cloud-init reads |
//! | `console.log` | what the guest said on its serial port; libvirt rolls it over at 2 MiB, three times |
//! | `frozen` | nothing: the guest is frozen by a function under way |
//! | `failover` | nothing: the VM is marked for failover |
//! | `owner` | the node whose the disk is, where nodes share the storage that it stands on |
//! | `rebooting` | nothing: once it is off, it is started over |
//! | `reverting` | the snapshot that a VM which ran is being brought back to |
//! | `serial.sock` | its serial port, while it runs |
//! | `nvram.fd` | what UEFI remembers |
//! | `rescue.qcow2`, `rescue-seed.iso` | the rescue system, while the VM is in rescue |
//! | `disk.wipe` | a disk that is being overwritten before it goes |
//! | `*.new` | something that is being made; worthless after a cut |
//!
//! Where nodes share a place for disks (`storage.disks`), the disk, its note and its wipe stand there, in a
//! folder of the same name.
//!
//! The folder is made before everything else of a VM and removed after everything else, so whoever
//! lists folders finds half-made and half-deleted VMs too.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use berth_model::VmId;

use super::names::vm_id;

/// QEMU runs as another user, and must pass through; who may list is the agent alone.
const MODE: u32 = 0o711;

/// Where all VMs' folders stand.
#[derive(Debug, Clone)]
pub struct Folders {
    place: PathBuf,
    disks: Option<PathBuf>,
}

impl Folders {
    /// Makes the place for folders under `data_dir`; disks stand in `disks`, if that is given.
    pub fn open(data_dir: &Path, disks: Option<&Path>) -> io::Result<Self> {
        let make = |place: &Path| {
            DirBuilder::new().recursive(true).mode(MODE).create(place)?;
            // libvirt opens what we name, from its own working directory.
            place.canonicalize()
        };
        Ok(Self { place: make(&data_dir.join("vms"))?, disks: disks.map(make).transpose()? })
    }

    /// A VM's folder, whether it is there or not.
    pub fn of(&self, id: VmId) -> Folder {
        let disks = self.disks.as_ref().map(|disks| disks.join(id.to_string()));
        Folder { path: self.place.join(id.to_string()), disks }
    }

    /// Where disks stand.
    pub fn disks(&self) -> &Path {
        self.disks.as_ref().unwrap_or(&self.place)
    }

    /// The VMs that have a folder.
    pub fn list(&self) -> io::Result<Vec<VmId>> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.place)? {
            ids.extend(entry?.file_name().to_str().and_then(vm_id));
        }
        Ok(ids)
    }
}

/// One VM's folder.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
    disks: Option<PathBuf>,
}

impl Folder {
    /// A folder at `path`, which need not be there.
    #[cfg(test)]
    pub fn at(path: PathBuf) -> Self {
        Self { path, disks: None }
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder with the disk.
    pub fn disk_folder(&self) -> &Path {
        self.disks.as_ref().unwrap_or(&self.path)
    }

    /// The disk.
    pub fn disk(&self) -> PathBuf {
        self.disk_folder().join("disk.qcow2")
    }

    /// Beside a disk that other nodes see as well: the node whose it is.
    pub fn owner(&self) -> PathBuf {
        self.disk_folder().join("owner")
    }

    /// The seed.
    pub fn seed(&self) -> PathBuf {
        self.path.join("seed.iso")
    }

    /// What UEFI remembers.
    pub fn nvram(&self) -> PathBuf {
        self.path.join("nvram.fd")
    }

    /// The rescue system.
    pub fn rescue_disk(&self) -> PathBuf {
        self.path.join("rescue.qcow2")
    }

    /// The rescue system's seed.
    pub fn rescue_seed(&self) -> PathBuf {
        self.path.join("rescue-seed.iso")
    }

    /// A disk that is being overwritten.
    pub fn wipe(&self) -> PathBuf {
        self.disk_folder().join("disk.wipe")
    }

    /// There while it is off only to be started over.
    pub fn rebooting(&self) -> PathBuf {
        self.path.join("rebooting")
    }

    /// There when it is marked for failover.
    pub fn failover(&self) -> PathBuf {
        self.path.join("failover")
    }

    /// The console's log.
    pub fn console(&self) -> PathBuf {
        self.path.join("console.log")
    }

    /// The serial port's socket.
    pub fn serial(&self) -> PathBuf {
        self.path.join("serial.sock")
    }

    /// Is it there?
    pub fn exists(&self) -> io::Result<bool> {
        self.path.try_exists()
    }

    /// Makes it, unless it is there; then what a cut left half-made in it is removed.
    pub fn create(&self) -> io::Result<()> {
        make(&self.path)?;
        self.disks.as_deref().map_or(Ok(()), make)
    }

    /// Removes it with all that is in it, unless it is gone.
    pub fn remove(&self) -> io::Result<()> {
        if let Some(disks) = &self.disks {
            gone(fs::remove_dir_all(disks))?;
        }
        self.remove_but_disk()
    }

    /// Removes it, but for a disk that stands elsewhere.
    pub fn remove_but_disk(&self) -> io::Result<()> {
        gone(fs::remove_dir_all(&self.path))
    }

    /// Makes the file `name` as a whole or not at all: `make` makes it under another name, and once it
    /// is on the disk it gets its own.
    pub fn put<E: From<io::Error>>(
        &self,
        path: &Path,
        make: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        let new = PathBuf::from(new);
        let made = make(&new).and_then(|()| {
            File::open(&new)?.sync_all()?;
            fs::rename(&new, path)?;
            Ok(())
        });
        if made.is_err() {
            // Where a full disk was the reason, this makes room.
            gone(fs::remove_file(&new))?;
        }
        made?;
        sync(path.parent().unwrap_or(&self.path))?;
        Ok(())
    }
}

fn make(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(MODE).create(folder) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => remove_unfinished(folder),
        Err(e) => Err(e),
        Ok(()) => sync(folder.parent().unwrap_or(folder)),
    }
}

fn remove_unfinished(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|extension| extension == "new") {
            let is_folder = entry.file_type()?.is_dir();
            gone(if is_folder { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) })?;
        }
    }
    Ok(())
}

/// What is gone already need not be removed.
pub fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Sees that a folder's names are on the disk.
pub fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_found_again_and_other_names_are_not() {
        let _proof = crate::proof::pure(&["vm.list", "vm.delete"]);
        let data = tempfile::tempdir().unwrap();
        let folders = Folders::open(data.path(), None).unwrap();
        for id in [3, 11] {
            folders.of(VmId(id)).create().unwrap();
            folders.of(VmId(id)).create().unwrap();
        }
        fs::create_dir(data.path().join("vms/007")).unwrap();
        fs::create_dir(data.path().join("vms/lost+found")).unwrap();
        let mut found = folders.list().unwrap();
        found.sort();
        assert_eq!(found, [VmId(3), VmId(11)]);
        fs::create_dir(folders.of(VmId(11)).path().join("seed-x.new")).unwrap();
        folders.of(VmId(11)).create().unwrap();
        assert_eq!(fs::read_dir(folders.of(VmId(11)).path()).unwrap().count(), 0);
        folders.of(VmId(3)).remove().unwrap();
        folders.of(VmId(3)).remove().unwrap();
        assert_eq!(folders.list().unwrap(), [VmId(11)]);
    }

    #[test]
    fn a_disk_on_a_place_that_nodes_share_stays_when_its_folder_goes() {
        let _proof = crate::proof::pure(&["moving.send"]);
        let data = tempfile::tempdir().unwrap();
        let shared = data.path().join("shared");
        let folder = Folders::open(&data.path().join("a"), Some(&shared)).unwrap().of(VmId(3));
        folder.create().unwrap();
        folder.create().unwrap();
        folder.put(&folder.disk(), |new| fs::write(new, b"disk")).unwrap();
        folder.put(&folder.seed(), |new| fs::write(new, b"seed")).unwrap();
        folder.remove_but_disk().unwrap();
        assert!(!folder.exists().unwrap() && folder.disk().exists());
        let there = Folders::open(&data.path().join("b"), Some(&shared)).unwrap().of(VmId(3));
        assert_eq!(there.disk(), folder.disk());
        there.create().unwrap();
        there.remove().unwrap();
        assert!(!folder.disk().exists() && fs::read_dir(shared).unwrap().count() == 0);
    }

    #[test]
    fn a_file_is_there_whole_or_not_at_all() {
        let data = tempfile::tempdir().unwrap();
        let folder = Folders::open(data.path(), None).unwrap().of(VmId(1));
        folder.create().unwrap();
        let cut = folder.put(&folder.seed(), |new| {
            fs::write(new, b"half")?;
            Err(io::Error::other("cut off"))
        });
        assert!(cut.is_err() && !folder.seed().exists());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "what failed leaves nothing");
        folder.put(&folder.seed(), |new| fs::write(new, b"whole")).unwrap();
        assert_eq!(fs::read(folder.seed()).unwrap(), b"whole");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
