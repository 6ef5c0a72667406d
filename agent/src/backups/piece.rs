//! Pieces: what a backup is stored as. A piece holds stretches of the disk of up to [`DATA_MAX`] bytes.
//!
//! ```text
//! piece = seal(number, zstd(head, data))
//! head  = u32 count, count × (u64 offset, u64 length, u8 what)      little endian; what: 0 zeros, 1 data
//! data  = the bytes of all stretches with data, one after the other
//! ```

use std::io::Write as _;

use super::disk::{Content, Extent};
use super::seal::{BackupKeys, Broken, SEAL_BYTES};

/// Most bytes of a disk in one piece. What a backup keeps in memory is a few of these.
pub const DATA_MAX: usize = 8 << 20;
/// Most stretches in one piece.
const EXTENTS_MAX: usize = 1 << 16;
/// What is looked at for zeros as a whole: the cluster of a qcow2 file.
const BLOCK: usize = 64 << 10;
/// zstd's level: disks are compressed as fast as they are read.
const LEVEL: i32 = 1;
/// Bytes of a stretch in the head.
const EXTENT_BYTES: usize = 17;

/// A piece, open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Piece {
    extents: Vec<(u64, u64, bool)>,
    data: Vec<u8>,
}

impl Piece {
    /// How many bytes of data still go in.
    pub fn room(&self) -> usize {
        if self.extents.len() >= EXTENTS_MAX { 0 } else { DATA_MAX - self.data.len() }
    }

    /// Is nothing in it?
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    /// Takes in a stretch of zeros.
    pub fn zeros(&mut self, offset: u64, length: u64) {
        self.push(offset, length, false);
    }

    /// Takes in the `length` bytes at `offset`, at most [`Piece::room`], as `read` gives them; blocks of zeros as
    /// such.
    pub fn data<E>(
        &mut self,
        offset: u64,
        length: usize,
        read: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let begin = self.data.len();
        let end = begin + length;
        self.data.resize(end, 0);
        read(&mut self.data[begin..])?;
        let mut kept = begin;
        for from in (begin..end).step_by(BLOCK) {
            let block = from..end.min(from + BLOCK);
            let is_data = !is_zero(&self.data[block.clone()]);
            self.push(offset + (from - begin) as u64, block.len() as u64, is_data);
            if is_data {
                if kept < from {
                    self.data.copy_within(block.clone(), kept);
                }
                kept += block.len();
            }
        }
        self.data.truncate(kept);
        Ok(())
    }

    fn push(&mut self, offset: u64, length: u64, is_data: bool) {
        match self.extents.last_mut() {
            Some(last) if last.0 + last.1 == offset && last.2 == is_data => last.1 += length,
            _ => self.extents.push((offset, length, is_data)),
        }
    }

    /// The stretches, each with its bytes; those of zeros without.
    pub fn parts(&self) -> impl Iterator<Item = (Extent, &[u8])> {
        let mut data = &self.data[..];
        self.extents.iter().map(move |(offset, length, is_data)| {
            let content = if *is_data { Content::Data } else { Content::Zeros };
            let (bytes, rest) = data.split_at(if *is_data { *length as usize } else { 0 });
            data = rest;
            (Extent { offset: *offset, length: *length, content }, bytes)
        })
    }

    /// As it is stored.
    pub fn seal(&self, keys: &BackupKeys, number: u32) -> std::io::Result<Vec<u8>> {
        let mut head = Vec::with_capacity(4 + self.extents.len() * EXTENT_BYTES);
        head.extend_from_slice(&(self.extents.len() as u32).to_le_bytes());
        for (offset, length, is_data) in &self.extents {
            head.extend_from_slice(&offset.to_le_bytes());
            head.extend_from_slice(&length.to_le_bytes());
            head.push(u8::from(*is_data));
        }
        let length = head.len() + self.data.len();
        let room = zstd::zstd_safe::compress_bound(length) + SEAL_BYTES;
        let mut packed = zstd::Encoder::new(Vec::with_capacity(room), LEVEL)?;
        packed.set_pledged_src_size(Some(length as u64))?;
        packed.write_all(&head)?;
        packed.write_all(&self.data)?;
        Ok(keys.seal(number, packed.finish()?))
    }

    /// From what is stored. `disk` is the size of the disk it is of.
    pub fn open(keys: &BackupKeys, number: u32, sealed: Vec<u8>, disk: u64) -> Result<Self, Broken> {
        // A block may be counted into the piece after its room was asked for.
        let most = 4 + (EXTENTS_MAX + DATA_MAX / BLOCK + 1) * EXTENT_BYTES + DATA_MAX;
        let plain = zstd::bulk::decompress(&keys.open(number, sealed)?, most).map_err(|_| Broken)?;
        Self::parse(&plain, disk).ok_or(Broken)
    }

    fn parse(plain: &[u8], disk: u64) -> Option<Self> {
        let (count, rest) = plain.split_first_chunk::<4>()?;
        let count = u32::from_le_bytes(*count) as usize;
        let (head, data) = rest.split_at_checked(count.checked_mul(EXTENT_BYTES)?)?;
        let mut piece = Self { extents: Vec::with_capacity(count), data: data.to_vec() };
        let mut expected = 0_u64;
        for extent in head.chunks_exact(EXTENT_BYTES) {
            let offset = u64::from_le_bytes(extent[..8].try_into().ok()?);
            let length = u64::from_le_bytes(extent[8..16].try_into().ok()?);
            let is_data = extent[16] == 1;
            if length == 0 || offset.checked_add(length)? > disk {
                return None;
            }
            expected = expected.checked_add(if is_data { length } else { 0 })?;
            piece.extents.push((offset, length, is_data));
        }
        (expected == data.len() as u64).then_some(piece)
    }
}

/// Looked at in parts that the compiler makes wide instructions of, and no further than the first that is not.
fn is_zero(block: &[u8]) -> bool {
    block.chunks(1024).all(|part| part.iter().fold(0, |all, byte| all | byte) == 0)
}

#[cfg(test)]
mod tests {
    use super::super::seal::AccountKey;
    use super::*;
    use proptest::prelude::*;

    fn keys() -> BackupKeys {
        AccountKey::parse(&"5c".repeat(32)).unwrap().of_backup(&[9; 32])
    }

    fn put(piece: &mut Piece, offset: u64, bytes: &[u8]) {
        let read = |to: &mut [u8]| -> Result<(), Broken> {
            to.copy_from_slice(bytes);
            Ok(())
        };
        piece.data(offset, bytes.len(), read).unwrap();
    }

    #[test]
    fn a_piece_comes_back_and_zeros_take_no_room() {
        let mut piece = Piece::default();
        assert!(piece.is_empty());
        let mut bytes = vec![0; 3 * BLOCK];
        bytes[BLOCK + 5] = 7;
        put(&mut piece, BLOCK as u64, &bytes);
        piece.zeros(4 * BLOCK as u64, 1 << 30);
        assert_eq!(piece.room(), DATA_MAX - BLOCK);
        let sealed = piece.seal(&keys(), 3).unwrap();
        assert!(sealed.len() < 500, "{}", sealed.len());
        let back = Piece::open(&keys(), 3, sealed.clone(), 2 << 30).unwrap();
        assert_eq!(back, piece);
        let parts: Vec<_> = back.parts().map(|(e, bytes)| (e.offset, e.length, bytes.len())).collect();
        let block = BLOCK as u64;
        assert_eq!(parts, [(block, block, 0), (2 * block, block, BLOCK), (3 * block, (1 << 30) + block, 0)]);
        assert_eq!(Piece::open(&keys(), 3, sealed, 1 << 20), Err(Broken), "it lies past the disk's end");
    }

    #[test]
    fn a_full_piece_takes_no_more() {
        let mut piece = Piece::default();
        put(&mut piece, 0, &vec![1; DATA_MAX]);
        assert_eq!(piece.room(), 0);
        let sealed = piece.seal(&keys(), 0).unwrap();
        assert_eq!(Piece::open(&keys(), 0, sealed, DATA_MAX as u64), Ok(piece));
    }

    proptest! {
        #[test]
        fn garbage_is_refused_and_harms_nobody(plain in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _piece = Piece::parse(&plain, 1 << 30);
        }

        #[test]
        fn what_goes_in_comes_out(stretches in proptest::collection::vec((0_u64..64, 1_u64..4, any::<bool>()), 0..20)) {
            let mut piece = Piece::default();
            for (at, length, is_data) in &stretches {
                let (offset, length) = (at * 4096, length * 4096);
                if *is_data {
                    put(&mut piece, offset, &vec![0xaa; length as usize]);
                } else {
                    piece.zeros(offset, length);
                }
            }
            let sealed = piece.seal(&keys(), 1).unwrap();
            prop_assert_eq!(Piece::open(&keys(), 1, sealed, 1 << 30), Ok(piece));
        }
    }
}
