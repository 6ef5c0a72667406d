//! A VM's folder, `{data_dir}/vms/{id}/`: all there is of a VM outside libvirt.
//!
//! | file | holds |
//! | --- | --- |
//! | `disk.qcow2` | what the guest wrote over its image |
//! | `disk.image` | the image the disk is a copy of; without it the disk says that itself |
//! | `seed.iso` | what cloud-init reads |
//! | `console.log` | what the guest said on its serial port; libvirt rolls it over at 2 MiB, three times |
//! | `frozen` | nothing: the guest is frozen by a function under way |
//! | `reverting` | the snapshot that a VM which ran is being brought back to |
//! | `serial.sock` | its serial port, while it runs |
//! | `nvram.fd` | what UEFI remembers |
//! | `rescue.qcow2`, `rescue-seed.iso` | the rescue system, while the VM is in rescue |
//! | `disk.wipe` | a disk that is being overwritten before it goes |
//! | `*.new` | something that is being made; worthless after a cut |
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
pub struct Folders(PathBuf);

impl Folders {
    /// Makes the place for folders under `data_dir`.
    pub fn open(data_dir: &Path) -> io::Result<Self> {
        let place = data_dir.join("vms");
        DirBuilder::new().recursive(true).mode(MODE).create(&place)?;
        // libvirt opens what we name, from its own working directory.
        Ok(Self(place.canonicalize()?))
    }

    /// A VM's folder, whether it is there or not.
    pub fn of(&self, id: VmId) -> Folder {
        Folder(self.0.join(id.to_string()))
    }

    /// The VMs that have a folder.
    pub fn list(&self) -> io::Result<Vec<VmId>> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            ids.extend(entry?.file_name().to_str().and_then(vm_id));
        }
        Ok(ids)
    }
}

/// One VM's folder.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

impl Folder {
    /// A folder at `path`, which need not be there.
    #[cfg(test)]
    pub fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The disk.
    pub fn disk(&self) -> PathBuf {
        self.0.join("disk.qcow2")
    }

    /// The seed.
    pub fn seed(&self) -> PathBuf {
        self.0.join("seed.iso")
    }

    /// What UEFI remembers.
    pub fn nvram(&self) -> PathBuf {
        self.0.join("nvram.fd")
    }

    /// The rescue system.
    pub fn rescue_disk(&self) -> PathBuf {
        self.0.join("rescue.qcow2")
    }

    /// The rescue system's seed.
    pub fn rescue_seed(&self) -> PathBuf {
        self.0.join("rescue-seed.iso")
    }

    /// A disk that is being overwritten.
    pub fn wipe(&self) -> PathBuf {
        self.0.join("disk.wipe")
    }

    /// The console's log.
    pub fn console(&self) -> PathBuf {
        self.0.join("console.log")
    }

    /// The serial port's socket.
    pub fn serial(&self) -> PathBuf {
        self.0.join("serial.sock")
    }

    /// Is it there?
    pub fn exists(&self) -> io::Result<bool> {
        self.0.try_exists()
    }

    /// Makes it, unless it is there; then what a cut left half-made in it is removed.
    pub fn create(&self) -> io::Result<()> {
        match DirBuilder::new().mode(MODE).create(&self.0) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => self.remove_unfinished(),
            Err(e) => Err(e),
            Ok(()) => sync(self.0.parent().unwrap_or(&self.0)),
        }
    }

    fn remove_unfinished(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            if entry.path().extension().is_some_and(|extension| extension == "new") {
                let is_folder = entry.file_type()?.is_dir();
                gone(if is_folder {
                    fs::remove_dir_all(entry.path())
                } else {
                    fs::remove_file(entry.path())
                })?;
            }
        }
        Ok(())
    }

    /// Removes it with all that is in it, unless it is gone.
    pub fn remove(&self) -> io::Result<()> {
        gone(fs::remove_dir_all(&self.0))
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
        sync(&self.0)?;
        Ok(())
    }
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
        let folders = Folders::open(data.path()).unwrap();
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
    fn a_file_is_there_whole_or_not_at_all() {
        let data = tempfile::tempdir().unwrap();
        let folder = Folders::open(data.path()).unwrap().of(VmId(1));
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
