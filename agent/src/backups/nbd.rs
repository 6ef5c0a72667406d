//! A client of the Network Block Device protocol over a unix socket: how QEMU lends a disk to others.
//!
//! As much of it as backups need: the fixed newstyle handshake, structured replies, the contexts
//! `base:allocation` (where zeros are) and `qemu:dirty-bitmap:…` (what changed), and one request at a time, but
//! for long reads.
//! Names and numbers: the NBD project's `doc/proto.md`.

use std::collections::VecDeque;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::disk::{Content, Extent, Source, Target};
use crate::hypervisor::HypervisorError;

/// Longest silence of a server that was asked something: a node's disk may be very busy.
const PATIENCE: Duration = Duration::from_secs(120);
/// Longest answer of a handshake.
const OPTION_MAX: u32 = 64 << 10;
/// Longest chunk of a reply beside the data of a read.
const CHUNK_MAX: u32 = 1 << 20;
/// What is read in one request. Of a longer read the server looks for one part while it sends another.
const READ_MAX: usize = 1 << 20;
/// Most that is asked for in one question on extents, or zeroed in one request.
const SPAN_MAX: u64 = 1 << 30;

const OPTION_MAGIC: u64 = 0x4948_4156_454F_5054;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

const OPTION_GO: u32 = 7;
const OPTION_STRUCTURED_REPLY: u32 = 8;
const OPTION_SET_META_CONTEXT: u32 = 10;

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;
const WRITE_ZEROES: u16 = 6;
const BLOCK_STATUS: u16 = 7;

/// A disk that a server lends.
pub struct Nbd {
    stream: BufReader<UnixStream>,
    size: u64,
    allocation: u32,
    bitmap: Option<u32>,
    /// What the server said last of extents, from the front on.
    known: VecDeque<Extent>,
}

impl Nbd {
    /// Opens the export `name`. With a `bitmap`, its clean stretches are [`Content::Unchanged`].
    pub fn open(socket: &Path, name: &str, bitmap: Option<&str>) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let stream = BufReader::new(stream);
        let mut nbd = Self { stream, size: 0, allocation: 0, bitmap: None, known: VecDeque::new() };
        nbd.shake_hands(name, bitmap)?;
        Ok(nbd)
    }

    /// Everything that was written is on the disk then.
    pub fn flush(&mut self) -> io::Result<()> {
        self.ask(FLUSH, 0, 0, &[])?;
        self.answer(&mut [], 0)
    }

    fn shake_hands(&mut self, name: &str, bitmap: Option<&str>) -> io::Result<()> {
        let mut hello = [0; 18];
        self.stream.read_exact(&mut hello)?;
        if &hello[..16] != b"NBDMAGICIHAVEOPT" || hello[17] & 3 != 3 {
            return Err(wrong("it is no NBD server of today"));
        }
        self.send(&3_u32.to_be_bytes())?;
        self.option(OPTION_STRUCTURED_REPLY, &[], |_, _| Ok(()))?;

        let contexts: Vec<String> = [Some("base:allocation".to_owned())]
            .into_iter()
            .chain([bitmap.map(|bitmap| format!("qemu:dirty-bitmap:{bitmap}"))])
            .flatten()
            .collect();
        let mut data = sized(name);
        data.extend((contexts.len() as u32).to_be_bytes());
        contexts.iter().for_each(|context| data.extend(sized(context)));
        let mut ids = Vec::new();
        self.option(OPTION_SET_META_CONTEXT, &data, |kind, reply| {
            if kind == 4 {
                let id = take::<4>(reply, 0)?;
                ids.push((u32::from_be_bytes(id), String::from_utf8_lossy(&reply[4..]).into_owned()));
            }
            Ok(())
        })?;
        let id = |context: &String| ids.iter().find(|(_, name)| name == context).map(|(id, _)| *id);
        self.allocation = id(&contexts[0]).ok_or_else(|| wrong("it does not tell where zeros are"))?;
        if let Some(context) = contexts.get(1) {
            self.bitmap = Some(id(context).ok_or_else(|| wrong("it does not have the bitmap"))?);
        }

        let mut data = sized(name);
        data.extend(0_u16.to_be_bytes());
        let mut size = None;
        self.option(OPTION_GO, &data, |kind, reply| {
            if kind == 3 && take::<2>(reply, 0)? == [0, 0] {
                size = Some(u64::from_be_bytes(take::<8>(reply, 2)?));
            }
            Ok(())
        })?;
        self.size = size.ok_or_else(|| wrong("it does not tell the disk's size"))?;
        Ok(())
    }

    /// Sends an option, and reads its replies up to the last.
    fn option(
        &mut self,
        option: u32,
        data: &[u8],
        mut each: impl FnMut(u32, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut words = OPTION_MAGIC.to_be_bytes().to_vec();
        words.extend(option.to_be_bytes());
        words.extend((data.len() as u32).to_be_bytes());
        words.extend(data);
        self.send(&words)?;
        loop {
            let (magic, _option) = (self.u64()?, self.u32()?);
            let (kind, length) = (self.u32()?, self.u32()?);
            if magic != OPTION_REPLY_MAGIC || length > OPTION_MAX {
                return Err(wrong("its handshake makes no sense"));
            }
            let mut reply = vec![0; length as usize];
            self.stream.read_exact(&mut reply)?;
            match kind {
                1 => return Ok(()),
                kind if kind >> 31 == 1 => {
                    let words = String::from_utf8_lossy(&reply).into_owned();
                    return Err(wrong(&format!("it refuses (error {:#x}) {words}", kind & 0x7fff_ffff)));
                }
                kind => each(kind, &reply)?,
            }
        }
    }

    fn ask(&mut self, command: u16, offset: u64, length: u32, payload: &[u8]) -> io::Result<()> {
        let mut words = REQUEST_MAGIC.to_be_bytes().to_vec();
        words.extend(0_u16.to_be_bytes());
        words.extend(command.to_be_bytes());
        words.extend(0_u64.to_be_bytes());
        words.extend(offset.to_be_bytes());
        words.extend(length.to_be_bytes());
        self.send(&words)?;
        self.send(payload)
    }

    /// Reads the answer to a request; what is read from `offset` on goes to `bytes`.
    fn answer(&mut self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.chunks(bytes, offset, |_, _| Ok(()))
    }

    fn chunks(
        &mut self,
        bytes: &mut [u8],
        offset: u64,
        mut status: impl FnMut(u32, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        loop {
            match self.u32()? {
                SIMPLE_REPLY_MAGIC => {
                    let (error, _cookie) = (self.u32()?, self.u64()?);
                    return if error == 0 { Ok(()) } else { Err(refused(error)) };
                }
                STRUCTURED_REPLY_MAGIC => {}
                _ => return Err(wrong("its reply makes no sense")),
            }
            let (flags, kind) = (self.u16()?, self.u16()?);
            let (_cookie, length) = (self.u64()?, self.u32()?);
            match kind {
                1 => {
                    let at = self.u64()?;
                    let length = length.checked_sub(8).ok_or_else(|| wrong("a chunk is too short"))?;
                    self.stream.read_exact(part(bytes, at, offset, length)?)?;
                }
                2 => {
                    let (at, length) = (self.u64()?, self.u32()?);
                    part(bytes, at, offset, length)?.fill(0);
                }
                _ if length > CHUNK_MAX => return Err(wrong("a chunk is too long")),
                kind => {
                    let mut chunk = vec![0; length as usize];
                    self.stream.read_exact(&mut chunk)?;
                    match kind {
                        5 => status(u32::from_be_bytes(take::<4>(&chunk, 0)?), &chunk[4..])?,
                        kind if kind >> 15 == 1 => {
                            return Err(refused(u32::from_be_bytes(take::<4>(&chunk, 0)?)));
                        }
                        _ => {}
                    }
                }
            }
            if flags & 1 == 1 {
                return Ok(());
            }
        }
    }

    /// Asks what is in the `length` bytes from `offset` on, and remembers it.
    fn learn(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.ask(BLOCK_STATUS, offset, length.min(SPAN_MAX) as u32, &[])?;
        let (mut allocation, mut bitmap) = (Vec::new(), Vec::new());
        let (allocation_id, bitmap_id) = (self.allocation, self.bitmap);
        self.chunks(&mut [], offset, |context, descriptors| {
            let descriptors = descriptors.chunks_exact(8).map(|descriptor| {
                let (length, flags) = descriptor.split_at(4);
                let word = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap_or_default());
                (u64::from(word(length)), word(flags))
            });
            match context {
                context if context == allocation_id => allocation.extend(descriptors),
                context if Some(context) == bitmap_id => bitmap.extend(descriptors),
                _ => {}
            }
            Ok(())
        })?;
        self.known = merge(offset, length, &allocation, self.bitmap.map(|_| &bitmap[..])).into();
        if self.known.is_empty() { Err(wrong("it told of no extent")) } else { Ok(()) }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    fn u16(&mut self) -> io::Result<u16> {
        let mut bytes = [0; 2];
        self.stream.read_exact(&mut bytes).map(|()| u16::from_be_bytes(bytes))
    }

    fn u32(&mut self) -> io::Result<u32> {
        let mut bytes = [0; 4];
        self.stream.read_exact(&mut bytes).map(|()| u32::from_be_bytes(bytes))
    }

    fn u64(&mut self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.stream.read_exact(&mut bytes).map(|()| u64::from_be_bytes(bytes))
    }
}

impl Drop for Nbd {
    fn drop(&mut self) {
        // A server that is gone need not be told.
        let _ = self.ask(DISCONNECT, 0, 0, &[]);
    }
}

impl Source for Nbd {
    fn size(&self) -> u64 {
        self.size
    }

    fn extent(&mut self, offset: u64, length: u64) -> Result<Extent, HypervisorError> {
        while self.known.front().is_some_and(|first| first.offset + first.length <= offset) {
            self.known.pop_front();
        }
        if self.known.front().is_none_or(|first| first.offset > offset) {
            self.learn(offset, self.size - offset).map_err(|e| failed(&e))?;
        }
        let first = self.known.front().ok_or_else(|| failed(&wrong("it told of no extent")))?;
        let end = (first.offset + first.length).min(offset + length);
        Ok(Extent { offset, length: end - offset, content: first.content })
    }

    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), HypervisorError> {
        let mut read = || {
            let mut at = offset;
            for part in bytes.chunks(READ_MAX) {
                self.ask(READ, at, part.len() as u32, &[])?;
                at += part.len() as u64;
            }
            // They come in any order; each chunk says where it belongs.
            (0..bytes.len().div_ceil(READ_MAX)).try_for_each(|_| self.answer(bytes, offset))
        };
        read().map_err(|e| failed(&e))
    }
}

impl Target for Nbd {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), HypervisorError> {
        self.known.clear();
        let asked = self.ask(WRITE, offset, bytes.len() as u32, bytes);
        asked.and_then(|()| self.answer(&mut [], 0)).map_err(|e| failed(&e))
    }

    fn zero(&mut self, offset: u64, length: u64) -> Result<(), HypervisorError> {
        self.known.clear();
        let (mut at, end) = (offset, offset + length);
        while at < end {
            let step = (end - at).min(SPAN_MAX);
            let asked = self.ask(WRITE_ZEROES, at, step as u32, &[]);
            asked.and_then(|()| self.answer(&mut [], 0)).map_err(|e| failed(&e))?;
            at += step;
        }
        Ok(())
    }
}

/// One list of extents from two of `(length, flags)`, as far as both reach.
fn merge(offset: u64, length: u64, allocation: &[(u64, u32)], bitmap: Option<&[(u64, u32)]>) -> Vec<Extent> {
    const ZERO: u32 = 2;
    const DIRTY: u32 = 1;
    let everything = [(length, DIRTY)];
    let bitmap = bitmap.unwrap_or(&everything);
    let (mut extents, mut at) = (Vec::new(), 0);
    let (mut allocations, mut bitmaps) = (ends(allocation).peekable(), ends(bitmap).peekable());
    while let (Some((zero_end, allocation)), Some((dirty_end, dirty))) =
        (allocations.peek().copied(), bitmaps.peek().copied())
    {
        let end = zero_end.min(dirty_end).min(length);
        let content = match (dirty & DIRTY != 0, allocation & ZERO != 0) {
            (false, _) => Content::Unchanged,
            (true, true) => Content::Zeros,
            (true, false) => Content::Data,
        };
        if end > at {
            extents.push(Extent { offset: offset + at, length: end - at, content });
        }
        at = end;
        if at == length {
            break;
        }
        allocations.next_if(|(end, _)| *end <= at);
        bitmaps.next_if(|(end, _)| *end <= at);
    }
    extents
}

/// Where each ends, instead of how long it is.
fn ends(extents: &[(u64, u32)]) -> impl Iterator<Item = (u64, u32)> {
    extents.iter().scan(0, |end, (length, flags)| {
        *end += length;
        Some((*end, *flags))
    })
}

/// The part of `bytes`, which begin at `offset`, that lies at `at`.
fn part(bytes: &mut [u8], at: u64, offset: u64, length: u32) -> io::Result<&mut [u8]> {
    let from = at.checked_sub(offset).and_then(|from| usize::try_from(from).ok());
    let part = from.and_then(|from| bytes.get_mut(from..from.checked_add(length as usize)?));
    part.ok_or_else(|| wrong("it sent what was not asked for"))
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> io::Result<[u8; N]> {
    let part = bytes.get(at..).and_then(|rest| rest.first_chunk::<N>());
    part.copied().ok_or_else(|| wrong("a reply is too short"))
}

fn sized(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u32).to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// An error number of the server, which are Linux's.
fn refused(error: u32) -> io::Error {
    io::Error::from_raw_os_error(error.cast_signed())
}

fn failed(e: &io::Error) -> HypervisorError {
    match e.kind() {
        io::ErrorKind::StorageFull => {
            HypervisorError::Lacking("The node has no room for this disk.".to_owned())
        }
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
            HypervisorError::Conflict("The VM's disk went away: was the VM switched off or on?".to_owned())
        }
        _ => HypervisorError::Failed(format!("QEMU could not lend the VM's disk: {e}.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn contents(extents: &[Extent]) -> Vec<(u64, u64, Content)> {
        extents.iter().map(|e| (e.offset, e.length, e.content)).collect()
    }

    #[test]
    fn zeros_and_changes_are_told_together() {
        let extents = merge(100, 60, &[(10, 0), (20, 3), (100, 0)], Some(&[(20, 1), (20, 0), (20, 1)]));
        assert_eq!(
            contents(&extents),
            [
                (100, 10, Content::Data),
                (110, 10, Content::Zeros),
                (120, 10, Content::Unchanged),
                (130, 10, Content::Unchanged),
                (140, 20, Content::Data),
            ]
        );
        // No further than both reach.
        assert_eq!(contents(&merge(0, 60, &[(10, 0)], Some(&[(20, 1)]))), [(0, 10, Content::Data)]);
        assert_eq!(contents(&merge(0, 60, &[(90, 2)], None)), [(0, 60, Content::Zeros)]);
    }

    #[test]
    fn what_was_not_asked_for_goes_nowhere() {
        let mut bytes = [0; 10];
        assert!(part(&mut bytes, 102, 100, 8).is_ok());
        for (at, length) in [(99, 1), (102, 9), (u64::MAX, 1), (100, u32::MAX)] {
            assert!(part(&mut bytes, at, 100, length).is_err());
        }
    }

    proptest! {
        #[test]
        fn extents_follow_one_another(
            a in proptest::collection::vec((0_u64..50, 0_u32..4), 0..10),
            b in proptest::collection::vec((0_u64..50, 0_u32..2), 0..10),
            length in 1_u64..200,
        ) {
            let mut at = 7;
            for extent in merge(7, length, &a, Some(&b)) {
                prop_assert_eq!(extent.offset, at);
                prop_assert!(extent.length > 0);
                at += extent.length;
            }
            prop_assert!(at <= 7 + length);
        }
    }

    /// What a server of QEMU's kind says up to where a disk may be read.
    fn greeting() -> Vec<u8> {
        let mut said = b"NBDMAGICIHAVEOPT\0\x03".to_vec();
        let mut reply = |option: u32, kind: u32, data: &[u8]| {
            said.extend(OPTION_REPLY_MAGIC.to_be_bytes());
            for word in [option, kind, data.len() as u32] {
                said.extend(word.to_be_bytes());
            }
            said.extend(data);
        };
        reply(OPTION_STRUCTURED_REPLY, 1, &[]);
        reply(OPTION_SET_META_CONTEXT, 4, &[&[0, 0, 0, 5], &b"base:allocation"[..]].concat());
        reply(OPTION_SET_META_CONTEXT, 1, &[]);
        reply(OPTION_GO, 3, &[&[0, 0][..], &(1_u64 << 20).to_be_bytes(), &[0, 0]].concat());
        reply(OPTION_GO, 1, &[]);
        said
    }

    /// Everything that is asked of a server which says `said`, whatever it is asked, and then hangs up.
    fn ask_all(said: &[u8]) -> bool {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("nbd.sock");
        let server = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = server.accept().unwrap();
                let _ = stream.write_all(said);
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let _ = std::io::copy(&mut stream, &mut std::io::sink());
            });
            let Ok(mut nbd) = Nbd::open(&socket, "vda", None) else { return false };
            let mut bytes = [0; 4096];
            if let Ok(extent) = nbd.extent(0, 4096) {
                assert!(extent.offset == 0 && (1..=4096).contains(&extent.length), "{extent:?}");
            }
            let _ = nbd.read(0, &mut bytes);
            let _ = nbd.write(0, &bytes);
            let _ = nbd.flush();
            true
        })
    }

    #[test]
    fn a_server_that_says_what_it_should_is_understood() {
        assert!(ask_all(&greeting()));
    }

    proptest! {
        #[test]
        fn no_server_breaks_the_agent(
            good in any::<bool>(), at in any::<prop::sample::Index>(), new in proptest::collection::vec(any::<u8>(), 0..40),
            rest in proptest::collection::vec(any::<u8>(), 0..200), magic in any::<bool>(), kind in 0_u16..8, length in 0_u32..64,
        ) {
            let mut said = greeting();
            if !good {
                let at = at.index(said.len());
                let end = (at + new.len()).min(said.len());
                said.splice(at..end, new);
            }
            if magic {
                said.extend(STRUCTURED_REPLY_MAGIC.to_be_bytes());
                said.extend(1_u16.to_be_bytes());
                said.extend(kind.to_be_bytes());
                said.extend(0_u64.to_be_bytes());
                said.extend(length.to_be_bytes());
            }
            said.extend(rest);
            ask_all(&said);
        }
    }
}
