//! Reading backups back: to a disk, or only to see that they can be.

use std::sync::mpsc::{SyncSender, sync_channel};

use berth_model::agent::{BackupRestore, BackupVerified, BackupVerify, Name, RestoredDisk};
use berth_model::{ByteSize, VmId};

use super::catalog::{Catalog, Chain};
use super::disk::{Content, Restoring, Target};
use super::manifest::{Index, Manifest, names};
use super::piece::Piece;
use super::seal::BackupKeys;
use super::store::{self, Store, StoreError};
use super::{account, create::broke_off};
use crate::error::Refusal;
use crate::faults;
use crate::hypervisor::{Hypervisor, HypervisorError};
use crate::runs::Cx;

/// Pieces that wait to be written.
const WAITING: usize = 1;

/// Reads a backup and all it builds on.
pub fn verify(cx: &Cx, name: &Name, request: &BackupVerify) -> Result<BackupVerified, Refusal> {
    let account = account(&request.key)?;
    let store = store::open(&request.store)?;
    let catalog = Catalog::read(&*store, request.vm)?;
    let chain = catalog.chain(&catalog.find(name)?.manifest, &account)?;
    cx.phase("Read the backup", stored(&chain));
    let (mut pieces, mut bytes) = (0, 0);
    for (manifest, keys) in &chain {
        let note = names::damaged(manifest.vm, &manifest.name);
        let read = each_piece(&*store, manifest, keys, |_, length| {
            cx.check()?;
            pieces += 1;
            bytes += length;
            cx.done(bytes);
            Ok(())
        });
        match read {
            Ok(()) => store.delete(&note)?,
            Err(Unreadable::Damaged(problem)) => {
                store.put(&note, problem.clone().into_bytes())?;
                return Err(Refusal::conflict(format!("The backup cannot be read back: {problem}")));
            }
            Err(Unreadable::Other(e)) => return Err(e),
        }
    }
    Ok(BackupVerified {
        chain: chain.iter().map(|(manifest, _)| manifest.name.clone()).collect(),
        pieces,
        stored: ByteSize(bytes),
    })
}

/// Makes the disk of a VM what a backup holds.
pub fn restore(
    hypervisor: &dyn Hypervisor,
    cx: &Cx,
    vm: VmId,
    request: &BackupRestore,
) -> Result<RestoredDisk, Refusal> {
    let account = account(&request.key)?;
    let store = store::open(&request.store)?;
    let catalog = Catalog::read(&*store, request.of_vm.unwrap_or(vm))?;
    let last = &catalog.find(&request.backup)?.manifest;
    let chain = catalog.chain(last, &account)?;
    let size = ByteSize(last.disk_bytes);
    cx.phase("Restore the disk", stored(&chain));
    let mut making = hypervisor.restore_begin(vm, &Restoring { size, image: last.image.clone() })?;
    let mut writing = Writing { target: making.target(), written: 0, at: 0 };
    let mut read = 0;
    for (n, (manifest, keys)) in chain.iter().enumerate() {
        let is_base = n == 0;
        std::thread::scope(|scope| {
            let (pieces, to_write) = sync_channel::<(Piece, u64)>(WAITING);
            let store = &*store;
            let reading = scope.spawn(move || send_pieces(store, manifest, keys, &pieces));
            let write = || -> Result<(), HypervisorError> {
                for (piece, length) in to_write {
                    cx.check()?;
                    writing.piece(&piece, is_base)?;
                    read += length;
                    cx.done(read);
                }
                Ok(())
            };
            write()?;
            reading.join().map_err(|_| broke_off())?
        })?;
        if is_base {
            writing.zeros_up_to(size.bytes())?;
        }
    }
    let written = ByteSize(writing.written);
    cx.check()?;
    faults::point("restore.after_write").map_err(HypervisorError::from)?;
    making.finish()?;
    Ok(RestoredDisk { disk: size, image: last.image.clone(), written })
}

fn stored(chain: &Chain<'_>) -> u64 {
    chain.iter().map(|(manifest, _)| manifest.stored_bytes).sum()
}

fn send_pieces(
    store: &dyn Store,
    manifest: &Manifest,
    keys: &BackupKeys,
    pieces: &SyncSender<(Piece, u64)>,
) -> Result<(), Refusal> {
    // When nobody takes them any more, there is a reason that is told there.
    let stop = || Unreadable::Other(broke_off());
    let sent =
        each_piece(store, manifest, keys, |piece, length| pieces.send((piece, length)).map_err(|_| stop()));
    sent.map_err(|unreadable| match unreadable {
        Unreadable::Damaged(problem) => {
            Refusal::conflict(format!("The backup cannot be read back: {problem}"))
        }
        Unreadable::Other(e) => e,
    })
}

/// Why pieces cannot be read.
enum Unreadable {
    /// The backup is damaged: a sentence that names the piece.
    Damaged(String),
    /// Something else.
    Other(Refusal),
}

impl From<HypervisorError> for Unreadable {
    fn from(e: HypervisorError) -> Self {
        Self::Other(e.into())
    }
}

/// Opens one piece after the other; each comes with its stored length.
fn each_piece(
    store: &dyn Store,
    manifest: &Manifest,
    keys: &BackupKeys,
    mut each: impl FnMut(Piece, u64) -> Result<(), Unreadable>,
) -> Result<(), Unreadable> {
    let (vm, name) = (manifest.vm, &manifest.name);
    let get = |object: &str, what: &str| {
        store.get(object).map_err(|e| match e {
            StoreError::Missing(_) => Unreadable::Damaged(format!("{what} of {name} is missing.")),
            e => Unreadable::Other(e.into()),
        })
    };
    let index = get(&names::index(vm, name), "The index")?;
    let index = Index::parse(index, manifest)
        .ok_or_else(|| Unreadable::Damaged(format!("The index of {name} is damaged.")))?;
    for number in 0..manifest.pieces {
        let what = format!("Piece {number}");
        let sealed = get(&names::piece(vm, name, number), &what)?;
        let damaged = || Unreadable::Damaged(format!("{what} of {name} is damaged."));
        if !index.is(number, &sealed) {
            return Err(damaged());
        }
        let stored = sealed.len() as u64;
        let piece = Piece::open(keys, number, sealed, manifest.disk_bytes).map_err(|_| damaged())?;
        each(piece, stored)?;
    }
    Ok(())
}

/// A disk that is being written.
struct Writing<'a> {
    target: &'a mut dyn Target,
    written: u64,
    /// Up to here the full backup has been written.
    at: u64,
}

impl Writing<'_> {
    fn piece(&mut self, piece: &Piece, is_base: bool) -> Result<(), HypervisorError> {
        for (extent, bytes) in piece.parts() {
            if is_base {
                // What the full backup does not hold is zeros, whatever the image has there.
                self.zeros_up_to(extent.offset)?;
                self.at = self.at.max(extent.offset + extent.length);
            }
            match extent.content {
                Content::Data if is_base => self.differing(extent.offset, bytes)?,
                Content::Data => self.data(extent.offset, bytes)?,
                _ => self.target.zero(extent.offset, extent.length)?,
            }
        }
        Ok(())
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<(), HypervisorError> {
        self.written += bytes.len() as u64;
        self.target.write(offset, bytes)
    }

    /// Writes what the image does not hold already: so the disk stays as thin as it was.
    fn differing(&mut self, offset: u64, bytes: &[u8]) -> Result<(), HypervisorError> {
        let mut at = 0;
        let mut there = Vec::new();
        while at < bytes.len() {
            let extent = self.target.extent(offset + at as u64, (bytes.len() - at) as u64)?;
            let part = &bytes[at..at + extent.length as usize];
            at += part.len();
            if extent.content == Content::Data {
                there.resize(part.len(), 0);
                self.target.read(extent.offset, &mut there)?;
                if there == part {
                    continue;
                }
            }
            self.data(extent.offset, part)?;
        }
        Ok(())
    }

    fn zeros_up_to(&mut self, end: u64) -> Result<(), HypervisorError> {
        while self.at < end {
            let extent = self.target.extent(self.at, end - self.at)?;
            if extent.content != Content::Zeros {
                self.target.zero(extent.offset, extent.length)?;
            }
            self.at = extent.offset + extent.length;
        }
        Ok(())
    }
}
