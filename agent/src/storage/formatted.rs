//! A file system, made in a file of its own and then copied to a volume. So it comes to every pool in the same way,
//! and nothing that was cut off half-way is ever taken for a volume.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use berth_model::ByteSize;
use berth_model::agent::{CloneMode, FileSystem, VolumeFormat};

use super::pool::From;
use crate::hypervisor::HypervisorError;
use crate::program::Program;
use crate::runs::Cx;

/// Smallest volume for XFS (xfsprogs since 5.19).
pub const XFS_MIN: ByteSize = ByteSize::mib(300);

/// A file system in a file that has no name, and goes with its owner. Of what is in it only what was written takes
/// room.
pub struct Formatted(File);

/// Makes a file system of this size. The file is in `folder`.
pub fn make(
    cx: &Cx,
    file_system: FileSystem,
    size: ByteSize,
    folder: &Path,
) -> Result<Formatted, HypervisorError> {
    let file = tempfile::tempfile_in(folder)?;
    file.set_len(size.bytes())?;
    let made = Formatted(file);
    cx.phase("Make the file system", size.bytes());
    let program = match file_system {
        // The guest's kernel fills the tables of inodes by and by, as it does after any installation.
        FileSystem::Ext4 => Program::new("mkfs.ext4", "e2fsprogs").args([
            "-q",
            "-F",
            "-m",
            "0",
            "-E",
            "lazy_itable_init=1,lazy_journal_init=1,nodiscard",
        ]),
        FileSystem::Xfs => Program::new("mkfs.xfs", "xfsprogs").args(["-q", "-K"]),
    };
    program.args([made.path()]).run_in(cx)?;
    Ok(made)
}

impl Formatted {
    /// Its path, for other programs while this one runs.
    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()))
    }

    /// What a volume is made from.
    pub fn from(&self) -> From {
        From { file: self.path(), format: VolumeFormat::Raw, mode: CloneMode::Copy }
    }
}
