//! Overwriting a disk before it goes.
//!
//! Only what the file holds is overwritten: a hole holds nothing. A filesystem or a drive that writes
//! elsewhere than where it was told keeps what it wrote before; against those, only encryption helps.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::SeekFrom;

use crate::runs::Cx;

/// What is written at once.
const PIECE_BYTES: usize = 1024 * 1024;

/// Overwrites all that the file holds with zeros, and sees that they are on the disk.
pub fn wipe(path: &Path, cx: &Cx) -> io::Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let length = file.metadata()?.len();
    cx.phase("Wipe the disk", length);
    let zeros = vec![0; PIECE_BYTES];
    let mut at = 0;
    while let Some((from, to)) = next_data(&file, at)? {
        at = from;
        while at < to {
            let piece = usize::try_from(to - at).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
            file.write_all_at(&zeros[..piece], at)?;
            at += piece as u64;
            cx.done(at);
        }
    }
    (&file).flush()?;
    file.sync_all()
}

/// Where the next data begin and end.
fn next_data(file: &File, at: u64) -> io::Result<Option<(u64, u64)>> {
    let from = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Err(rustix::io::Errno::NXIO) => return Ok(None),
        from => from?,
    };
    Ok(Some((from, rustix::fs::seek(file, SeekFrom::Hole(from))?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_in_a_wiped_file_and_its_holes_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let file = File::create(&path).unwrap();
        file.set_len(64 * 1024 * 1024).unwrap();
        for at in [0, 5 * 1024 * 1024 + 17, 40 * 1024 * 1024] {
            file.write_all_at(b"a customer's secret", at).unwrap();
        }
        wipe(&path, &Cx::unwatched()).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes.len() == 64 * 1024 * 1024 && bytes.iter().all(|byte| *byte == 0));
        let blocks = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&path).unwrap());
        assert!(blocks * 512 < 4 * 1024 * 1024, "{blocks} blocks");
    }
}
