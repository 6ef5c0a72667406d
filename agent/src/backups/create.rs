//! Making a backup.

use std::sync::mpsc::{Receiver, SendError, SyncSender, sync_channel};

use berth_model::agent::{Backup, BackupCreate, Name};
use berth_model::{Timestamp, VmId};

use super::catalog::Catalog;
use super::disk::{Content, Source, Taking, Wish};
use super::manifest::{Base, Entry, FORMAT, Index, Manifest, names};
use super::piece::Piece;
use super::seal::{AccountKey, BackupKeys};
use super::store::{self, Store};
use super::{INCREMENTALS, account, sweep};
use crate::error::Refusal;
use crate::hypervisor::{Hypervisor, HypervisorError};
use crate::runs::Cx;
use crate::{clock, entropy, faults};

/// How many of the newest backups are looked at for one to build on: the last may have been taken of a VM
/// that was off, and leaves the mark of the one before.
const BASES_TRIED: usize = 8;
/// Pieces that are sealed at once: that takes longest, and each more takes its memory.
const LANES: usize = 2;
/// Pieces of a lane that wait to be sealed, so that reading, sealing and storing go on side by side.
const WAITING: usize = 1;

/// Backs up a VM's disk, unless that backup is there.
pub fn create(
    hypervisor: &dyn Hypervisor,
    cx: &Cx,
    vm: VmId,
    name: &Name,
    request: &BackupCreate,
) -> Result<Backup, Refusal> {
    let account = account(&request.key)?;
    let store = store::open(&request.store)?;
    let store = &*store;
    cx.phase("Look at the store", 0);
    let catalog = Catalog::read(store, vm)?;
    if catalog.has(name) {
        let manifest = &catalog.find(name)?.manifest;
        return Ok(manifest.shown(catalog.problem(manifest)));
    }
    sweep(store, vm)?;
    let bases = bases(store, &catalog, &account, request)?;
    let salt = entropy::salt();
    let mark = format!("berth-{}", hex::encode(&salt[..8]));
    let marks: Vec<String> = bases.usable.iter().filter_map(|base| base.mark.clone()).collect();
    cx.check()?;
    let mut taking = hypervisor.backup_begin(vm, &Wish { since: &marks, mark: &mark })?;
    let at = clock::now();
    faults::point("backup.after_begin").map_err(HypervisorError::from)?;
    let new = New { vm, name, at, salt, keys: account.of_backup(&salt), account, bases };
    let made = new.store(store, cx, &mut *taking);
    let manifest = match made {
        Ok(manifest) => manifest,
        Err(e) => {
            drop(taking);
            // What cannot be deleted now is swept away by the next backup.
            let _ = store.delete_folder(&names::pieces(vm, name));
            return Err(e);
        }
    };
    faults::point("backup.after_manifest").map_err(HypervisorError::from)?;
    taking.keep()?;
    Ok(manifest.shown(None))
}

/// What a backup may build on.
struct Bases<'a> {
    /// The newest first.
    usable: Vec<&'a Manifest>,
    /// Why the newest is none of them.
    newest_problem: Option<String>,
}

/// Whole chains that are not too long.
fn bases<'a>(
    store: &dyn Store,
    catalog: &'a Catalog,
    account: &AccountKey,
    request: &BackupCreate,
) -> Result<Bases<'a>, Refusal> {
    let mut bases = Bases { usable: Vec::new(), newest_problem: None };
    if request.full {
        return Ok(bases);
    }
    let most = request.incrementals_max.unwrap_or(INCREMENTALS) as usize;
    for manifest in catalog.manifests().rev().take(BASES_TRIED) {
        let problem = match (catalog.problem(manifest), catalog.chain(manifest, account)) {
            (Some(problem), _) => Some(problem),
            (None, Err(broken)) => Some(broken.to_string()),
            (None, Ok(chain)) if chain.len() > most => {
                Some(format!("{} backups build on the last full one.", chain.len() - 1))
            }
            (None, Ok(chain)) => {
                let mut missing = None;
                for (manifest, _) in &chain {
                    missing = missing.or(pieces_missing(store, manifest)?);
                }
                missing
            }
        };
        match problem {
            None => bases.usable.push(manifest),
            Some(problem) if bases.usable.is_empty() && bases.newest_problem.is_none() => {
                bases.newest_problem = Some(problem);
            }
            Some(_) => {}
        }
    }
    Ok(bases)
}

/// Are all pieces there, as long as they were together? What is in them is not looked at.
fn pieces_missing(store: &dyn Store, manifest: &Manifest) -> Result<Option<String>, Refusal> {
    let name = &manifest.name;
    let objects = store.objects(&names::pieces(manifest.vm, name))?;
    if !objects.iter().any(|object| object.name == names::INDEX) {
        return Ok(Some(format!("The index of {name} is missing.")));
    }
    let pieces: Vec<_> = objects.iter().filter(|object| object.name != names::INDEX).collect();
    let missing = (0..manifest.pieces)
        .find(|number| pieces.get(*number as usize).is_none_or(|piece| piece.name != format!("{number:08}")));
    if let Some(number) = missing {
        return Ok(Some(format!("Piece {number} of {name} is missing.")));
    }
    let stored: u64 = pieces.iter().map(|piece| piece.bytes).sum();
    Ok((stored != manifest.stored_bytes).then(|| format!("A piece of {name} is cut off.")))
}

/// A backup that is being made.
struct New<'a> {
    vm: VmId,
    name: &'a Name,
    at: Timestamp,
    salt: [u8; 32],
    keys: BackupKeys,
    account: AccountKey,
    bases: Bases<'a>,
}

impl New<'_> {
    fn store(&self, store: &dyn Store, cx: &Cx, taking: &mut dyn Taking) -> Result<Manifest, Refusal> {
        let taken = taking.taken().clone();
        let source = taking.source();
        let disk_bytes = source.size();
        let is_full = taken.since.is_none();
        cx.phase("Back up the disk", disk_bytes);
        let (read_bytes, index, stored_bytes) = self.copy(store, cx, source, is_full)?;
        taking.close()?;
        cx.check()?;
        store.put(&names::index(self.vm, self.name), index.bytes().to_vec())?;
        store.settle()?;
        faults::point("backup.after_pieces").map_err(HypervisorError::from)?;
        let base = |mark: &String| self.bases.usable.iter().find(|base| base.mark.as_ref() == Some(mark));
        let builds_on = taken.since.as_ref().and_then(base);
        let manifest = Manifest {
            format: FORMAT,
            vm: self.vm,
            name: self.name.clone(),
            salt: hex::encode(self.salt),
            key: self.account.id(),
            taken: self.at,
            builds_on: builds_on.map(|base| Base { name: base.name.clone(), salt: base.salt.clone() }),
            full_because: if is_full {
                self.bases.newest_problem.clone().or(taken.full_because)
            } else {
                None
            },
            mark: taken.mark,
            image: taken.image,
            disk_bytes,
            read_bytes,
            frozen: taken.frozen,
            pieces: index.pieces(),
            stored_bytes,
            index_sha256: index.sha256(),
        };
        let text = manifest.sealed(&self.keys).map_err(|e| Refusal::own("The manifest", &e))?;
        store.put(&names::manifest(self.vm, self.name), text)?;
        store.settle()?;
        Ok(manifest)
    }

    /// Copies what is to be copied: how much was read, the index, and how much is stored.
    fn copy(
        &self,
        store: &dyn Store,
        cx: &Cx,
        source: &mut dyn Source,
        is_full: bool,
    ) -> Result<(u64, Index, u64), Refusal> {
        std::thread::scope(|scope| {
            let (mut lanes, mut sealing, mut to_store) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..LANES {
                let (pieces, to_seal) = sync_channel(WAITING);
                let (sealed, sealed_ones) = sync_channel(0);
                lanes.push(pieces);
                to_store.push(sealed_ones);
                sealing.push(scope.spawn(move || seal(&self.keys, &to_seal, &sealed)));
            }
            let reading = scope.spawn(move || read(source, cx, is_full, &mut Lanes { lanes, next: 0 }));
            let stored = self.put_all(store, &to_store);
            drop(to_store);
            // Who stores gives up first of all, and the others with it: its reason is the one that counts.
            let read = reading.join().map_err(|_| broke_off())?;
            let sealed: Result<Vec<_>, _> = sealing.into_iter().map(|lane| lane.join()).collect();
            let sealed: std::io::Result<()> = sealed.map_err(|_| broke_off())?.into_iter().collect();
            let (index, stored) = stored?;
            sealed.map_err(|e| Refusal::own("A piece could not be compressed", &e))?;
            Ok((read?, index, stored))
        })
    }

    /// Takes from each lane in its turn, up to the first that has no more.
    fn put_all(&self, store: &dyn Store, lanes: &[Receiver<Sealed>]) -> Result<(Index, u64), Refusal> {
        let (mut index, mut stored) = (Index::default(), 0);
        while let Ok(piece) = lanes[index.pieces() as usize % LANES].recv() {
            let name = names::piece(self.vm, self.name, index.pieces());
            stored += piece.bytes.len() as u64;
            store.put(&name, piece.bytes)?;
            index.push(&piece.entry);
        }
        Ok((index, stored))
    }
}

/// Hands out pieces to be sealed, numbered, to one after the other.
struct Lanes {
    lanes: Vec<SyncSender<(u32, Piece)>>,
    next: u32,
}

impl Lanes {
    fn send(&mut self, piece: Piece) -> Result<(), SendError<(u32, Piece)>> {
        self.lanes[self.next as usize % LANES].send((self.next, piece))?;
        // 32 PiB.
        self.next = self.next.checked_add(1).expect("no disk is so large");
        Ok(())
    }
}

/// A piece as it is stored.
struct Sealed {
    bytes: Vec<u8>,
    entry: Entry,
}

/// Cuts a disk into pieces. Ends early, and well, when nobody takes them any more.
fn read(source: &mut dyn Source, cx: &Cx, is_full: bool, pieces: &mut Lanes) -> Result<u64, HypervisorError> {
    let (size, mut at, mut read) = (source.size(), 0, 0);
    let mut piece = Piece::default();
    while at < size {
        cx.check()?;
        if piece.room() == 0 && pieces.send(std::mem::take(&mut piece)).is_err() {
            return Ok(read);
        }
        let extent = source.extent(at, size - at)?;
        let mut length = extent.length;
        match extent.content {
            Content::Unchanged => {}
            // A full backup says where data is; the rest is zeros.
            Content::Zeros if is_full => {}
            Content::Zeros => piece.zeros(at, length),
            Content::Data => {
                length = length.min(piece.room() as u64);
                piece.data(at, length as usize, |bytes| source.read(at, bytes))?;
                read += length;
            }
        }
        at += length;
        cx.done(at);
    }
    if !piece.is_empty() {
        // Nobody takes it: that is told by who should have.
        let _ = pieces.send(piece);
    }
    Ok(read)
}

fn seal(
    keys: &BackupKeys,
    pieces: &Receiver<(u32, Piece)>,
    sealed: &SyncSender<Sealed>,
) -> std::io::Result<()> {
    for (number, piece) in pieces {
        let bytes = piece.seal(keys, number)?;
        drop(piece);
        let entry = Entry::of(&bytes);
        if sealed.send(Sealed { bytes, entry }).is_err() {
            break;
        }
    }
    Ok(())
}

pub(super) fn broke_off() -> Refusal {
    Refusal::new(berth_model::ErrorCode::ServerError, "The backup broke off; the agent's log says more.")
}
