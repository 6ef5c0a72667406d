//! Socket files of a move: `/run/berth-moves/{domain}/`, at the same place on both nodes, since libvirt
//! uses one path for both.

use std::fs::{self, DirBuilder};
use std::io;
use std::ops::Deref;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Where moves have their folders.
const PLACE: &str = "/run/berth-moves";
/// Belongs to QEMU's user, whoever that is on this node.
const OF_QEMU: &str = "/var/lib/libvirt/qemu";

/// A move's folder; removed when this is dropped.
#[derive(Debug)]
pub struct SocketsFolder(Sockets);

impl SocketsFolder {
    /// Makes the folder anew.
    pub fn make(domain: &str) -> io::Result<Self> {
        let folder = Path::new(PLACE).join(domain);
        DirBuilder::new().recursive(true).mode(0o711).create(PLACE)?;
        remove(&folder)?;
        let make = |path: &Path, mode| DirBuilder::new().mode(mode).create(path);
        make(&folder, 0o711)?;
        let made = Self(Sockets(folder.clone()));
        make(&folder.join("libvirt"), 0o700)?;
        make(&folder.join("qemu"), 0o700)?;
        own(&folder.join("qemu"))?;
        Ok(made)
    }
}

impl Deref for SocketsFolder {
    type Target = Sockets;
    fn deref(&self) -> &Sockets {
        &self.0
    }
}

/// Where a move's sockets stand.
#[derive(Debug, Clone)]
pub struct Sockets(PathBuf);

impl Sockets {
    /// Removes the folder of a move that an agent did not live to end.
    pub fn clear(domain: &str) -> io::Result<()> {
        remove(&Path::new(PLACE).join(domain))
    }

    /// libvirt of the other node; for root alone.
    pub fn driver(&self) -> PathBuf {
        self.0.join("libvirt/driver")
    }

    /// Memory between the two QEMUs.
    pub fn memory(&self) -> PathBuf {
        self.0.join("qemu/memory")
    }

    /// Disks between the two QEMUs.
    pub fn disks(&self) -> PathBuf {
        self.0.join("qemu/disks")
    }
}

impl Drop for SocketsFolder {
    fn drop(&mut self) {
        let folder = &self.0.0;
        if let Err(e) = remove(folder) {
            tracing::warn!(error = %e, folder = %folder.display(), "a move's sockets could not be removed");
        }
    }
}

/// Gives a file to QEMU's user.
pub fn own(path: &Path) -> io::Result<()> {
    let of_qemu = fs::metadata(OF_QEMU)?;
    std::os::unix::fs::chown(path, Some(of_qemu.uid()), Some(of_qemu.gid()))
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
