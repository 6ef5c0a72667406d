//! The head of a qcow2 file: enough to know how large the disk is, and that opening the file opens
//! no other. Read here, and not by a tool that would follow what the file names.
//!
//! Layout: QEMU's `docs/interop/qcow2.txt`, "Header".

use std::io::Read;

use berth_model::ByteSize;

/// Bytes that are read: the head of version 3 up to its feature bits.
pub const HEAD_BYTES: usize = 80;

const MAGIC: [u8; 4] = *b"QFI\xfb";
/// The guest's data stands in another file.
const EXTERNAL_DATA: u64 = 1 << 2;
/// The file was not closed, or found broken.
const DIRTY_OR_CORRUPT: u64 = 0b11;
/// It was found broken, and is opened for writing no more.
const CORRUPT: u64 = 1 << 1;

/// Why a file is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// It is too short, or something else.
    #[error("The file is not a qcow2 image.")]
    NotQcow2,
    /// It stands on another file.
    #[error("The image stands on another file; convert it to one that stands alone.")]
    Backed,
    /// Its data stands in another file.
    #[error("The image keeps its data in another file; convert it to one that stands alone.")]
    ExternalData,
    /// It is encrypted.
    #[error("The image is encrypted, and the node has no key for it.")]
    Encrypted,
    /// It was not closed, or is broken.
    #[error("The image was not closed cleanly; repair it with qemu-img check.")]
    Unclean,
}

/// Size of the disk that the file holds.
pub fn disk_size(head: &[u8]) -> Result<ByteSize, HeadError> {
    let u32_at = |at: usize| head.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
    let u64_at = |at: usize| head.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes);
    let known = || {
        let version = u32_at(4).filter(|version| head.starts_with(&MAGIC) && matches!(version, 2 | 3))?;
        Some((u64_at(8)?, u64_at(24)?, u32_at(32)?, if version == 3 { u64_at(72)? } else { 0 }))
    };
    let (backing, size, crypt, features) = known().ok_or(HeadError::NotQcow2)?;
    match () {
        () if backing != 0 => Err(HeadError::Backed),
        () if features & EXTERNAL_DATA != 0 => Err(HeadError::ExternalData),
        () if crypt != 0 => Err(HeadError::Encrypted),
        () if features & DIRTY_OR_CORRUPT != 0 => Err(HeadError::Unclean),
        () if size == 0 => Err(HeadError::NotQcow2),
        () => Ok(ByteSize(size)),
    }
}

/// Did QEMU mark the file as corrupt?
pub fn is_corrupt(head: &[u8]) -> bool {
    let features = head.get(72..80).and_then(|b| b.try_into().ok()).map_or(0, u64::from_be_bytes);
    // Version 2 has no marks.
    head.starts_with(&MAGIC) && head.get(4..8) == Some(&[0, 0, 0, 3]) && features & CORRUPT != 0
}

/// Reads the head of a file, as much as there is of it.
pub fn read_head(file: impl Read) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    file.take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(version: u32) -> Vec<u8> {
        let mut head = vec![0; HEAD_BYTES];
        head[..4].copy_from_slice(&MAGIC);
        head[4..8].copy_from_slice(&version.to_be_bytes());
        head[24..32].copy_from_slice(&(10_u64 << 30).to_be_bytes());
        head
    }

    #[test]
    fn the_disk_is_as_large_as_the_head_says() {
        let _proof = crate::proof::pure(&["image.list"]);
        assert_eq!(disk_size(&head(3)), Ok(ByteSize::gib(10)));
        assert_eq!(disk_size(&head(2)[..72]), Ok(ByteSize::gib(10)));
    }

    #[test]
    fn what_qemu_found_broken_is_known() {
        let mark = |version, mark| {
            let mut head = head(version);
            head[79] = mark;
            is_corrupt(&head)
        };
        assert!(mark(3, 2) && mark(3, 3));
        assert!(!mark(3, 1) && !mark(2, 2) && !is_corrupt(&[]));
    }

    #[test]
    fn a_file_that_opens_another_is_refused() {
        let with = |at: usize| {
            let mut head = head(3);
            head[at] = 4;
            disk_size(&head)
        };
        assert_eq!(with(15), Err(HeadError::Backed));
        assert_eq!(with(79), Err(HeadError::ExternalData));
        assert_eq!(with(35), Err(HeadError::Encrypted));
        let mut dirty = head(3);
        dirty[79] = 1;
        assert_eq!(disk_size(&dirty), Err(HeadError::Unclean));
    }

    #[test]
    fn anything_else_is_refused() {
        let mut empty = head(3);
        empty[24..32].fill(0);
        for not in [&b""[..], b"QFI\xfb", &head(3)[..79], &head(4), &empty, &[0; 80]] {
            assert_eq!(disk_size(not), Err(HeadError::NotQcow2));
        }
    }
}
