//! Disks that are full.

use std::fs::File;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// Fills a disk to its last block, by a file.
pub fn fill(file: &Path) {
    let ballast = File::options().create(true).append(true).open(file).unwrap();
    let room = statvfs(file).unwrap();
    let (mut at, mut step) = (0, room.f_bavail * room.f_frsize);
    // The last blocks go to the file's own tables.
    while step >= 512 {
        match fallocate(&ballast, FallocateFlags::empty(), at, step) {
            Ok(()) => at += step,
            Err(_) => step /= 2,
        }
    }
}
