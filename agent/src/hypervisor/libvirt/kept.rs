//! Disks that outlived their VM, `{data_dir}/kept/{name}.qcow2`, each with a note `{name}.json` beside it.
//!
//! ```text
//! copy ──► NAME.qcow2.new ──► NAME.qcow2 ──► NAME.json: from here on it is kept
//! ```

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use berth_model::agent::{KeptDisk, Name};
use berth_model::{ByteSize, VmId};
use serde::{Deserialize, Serialize};

use super::disk::{self, Overlay};
use super::folder::{gone, sync};
use super::ops::on_disk;
use super::tool;
use crate::clock;
use crate::hypervisor::HypervisorError;
use crate::runs::Cx;
use crate::storage::pool::InPool;

/// Of others' data: for root alone.
const MODE: u32 = 0o700;

/// Where kept disks stand.
#[derive(Debug)]
pub struct Shelf(PathBuf);

/// What is noted of a kept disk.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    vm: VmId,
    /// Which disk it was copied from, so that a copy that is told again is not made twice.
    source: String,
    kept: berth_model::Timestamp,
}

impl Shelf {
    /// Makes the place under `data_dir`, and clears away what a cut left in it.
    pub fn open(data_dir: &Path) -> io::Result<Self> {
        let place = data_dir.join("kept");
        DirBuilder::new().recursive(true).mode(MODE).create(&place)?;
        for entry in fs::read_dir(&place)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "new") {
                gone(fs::remove_file(path))?;
            }
        }
        Ok(Self(place.canonicalize()?))
    }

    /// All of them, by name.
    pub fn list(&self) -> Result<Vec<KeptDisk>, HypervisorError> {
        let mut disks = Vec::new();
        for entry in fs::read_dir(&self.0).map_err(on_disk)? {
            let path = entry.map_err(on_disk)?.path();
            let is_note = path.extension().is_some_and(|extension| extension == "json");
            let name = path.file_stem().and_then(|stem| Name::new(stem.to_str()?)).filter(|_| is_note);
            disks.extend(name.map(|name| self.read(&name)).transpose()?.flatten());
        }
        disks.sort_by(|a: &KeptDisk, b| a.name.cmp(&b.name));
        Ok(disks)
    }

    /// One of them, if it is there.
    fn read(&self, name: &Name) -> Result<Option<KeptDisk>, HypervisorError> {
        let Some(note) = self.noted(name)? else { return Ok(None) };
        let path = self.disk(name);
        let head = fs::File::open(&path).and_then(crate::qcow2::read_head).map_err(on_disk)?;
        let size = crate::qcow2::disk_size(&head)
            .map_err(|e| HypervisorError::Failed(format!("the kept disk {name}: {e}")))?;
        let file_size = ByteSize(fs::metadata(&path).map_err(on_disk)?.blocks() * 512);
        let path = path.to_string_lossy().into_owned();
        Ok(Some(KeptDisk { name: name.clone(), vm: note.vm, size, file_size, kept: note.kept, path }))
    }

    /// Copies a disk, with what it takes from its image. Told twice, it copies once.
    pub fn keep(
        &self,
        name: &Name,
        vm: VmId,
        from: Option<&Original>,
        cx: &Cx,
    ) -> Result<(), HypervisorError> {
        if self.has(name, vm, from)? {
            return Ok(());
        }
        let Some(from) = from else { return Ok(()) };
        disk::check_room(&self.0, from.used)?;
        cx.phase("Copy the disk", from.used.bytes());
        let new = self.0.join(format!("{name}.qcow2.new"));
        let args = ["convert", "-q", "-O", "qcow2", "-f", from.format].map(AsRef::as_ref);
        let args = args.into_iter().chain([from.place.as_os_str(), new.as_os_str()]);
        let copied = tool::run_watched("qemu-img", "qemu-utils", args, || {
            cx.done(used(&new).min(from.used.bytes()));
            cx.check()
        });
        if let Err(e) = copied {
            gone(fs::remove_file(&new)).map_err(on_disk)?;
            return Err(e);
        }
        fs::File::open(&new).and_then(|file| file.sync_all()).map_err(on_disk)?;
        fs::rename(&new, self.disk(name)).map_err(on_disk)?;
        let note = Note { vm, source: from.birth.clone(), kept: clock::now() };
        self.write(name, &note).map_err(on_disk)
    }

    /// Was a disk kept under this name already? A name that another disk has is refused.
    pub fn has(&self, name: &Name, vm: VmId, from: Option<&Original>) -> Result<bool, HypervisorError> {
        let Some(note) = self.noted(name)? else { return Ok(false) };
        match from {
            None if note.vm == vm => Ok(true),
            Some(from) if note.vm == vm && note.source == from.birth => Ok(true),
            _ => Err(taken(name, note.vm)),
        }
    }

    /// The note of a disk that is there.
    fn noted(&self, name: &Name) -> Result<Option<Note>, HypervisorError> {
        let note = match fs::read(self.note(name)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            note => note.map_err(on_disk)?,
        };
        let note = serde_json::from_slice(&note)
            .map_err(|e| HypervisorError::Failed(format!("the note of the kept disk {name}: {e}")))?;
        Ok(self.disk(name).try_exists().map_err(on_disk)?.then_some(note))
    }

    /// Deletes one; fine if there is none.
    pub fn delete(&self, name: &Name) -> Result<(), HypervisorError> {
        // The note last: until it is gone the disk is found.
        gone(fs::remove_file(self.disk(name))).map_err(on_disk)?;
        gone(fs::remove_file(self.note(name))).map_err(on_disk)
    }

    fn write(&self, name: &Name, note: &Note) -> io::Result<()> {
        let mut file = tempfile::Builder::new().suffix(".new").tempfile_in(&self.0)?;
        io::Write::write_all(&mut file, &serde_json::to_vec(note)?)?;
        file.as_file().sync_all()?;
        file.persist(self.note(name))?;
        sync(&self.0)
    }

    fn disk(&self, name: &Name) -> PathBuf {
        self.0.join(format!("{name}.qcow2"))
    }

    fn note(&self, name: &Name) -> PathBuf {
        self.0.join(format!("{name}.json"))
    }
}

fn taken(name: &Name, vm: VmId) -> HypervisorError {
    HypervisorError::Conflict(format!("The disk of a VM {vm} is kept as {name} already; say another name."))
}

/// A disk that can be kept.
#[derive(Debug)]
pub struct Original {
    /// What tells it from another that takes its place later.
    birth: String,
    format: &'static str,
    /// What `qemu-img` calls it.
    place: OsString,
    /// What it takes up.
    used: ByteSize,
}

impl Original {
    /// The file at `path`, if it is there.
    pub fn file(path: &Path) -> Result<Option<Self>, HypervisorError> {
        let Some(overlay) = Overlay::read(path)? else { return Ok(None) };
        let file = fs::metadata(path).map_err(on_disk)?;
        Ok(Some(Self {
            birth: format!("{}-{}.{}", file.ino(), file.mtime(), file.mtime_nsec()),
            format: "qcow2",
            place: path.into(),
            used: ByteSize(used(path) + used(&overlay.backing)),
        }))
    }

    /// What lies in a pool, if it does.
    pub fn in_pool(disk: &InPool) -> Result<Option<Self>, HypervisorError> {
        let Some(birth) = disk.shots().birth(&disk.data)? else { return Ok(None) };
        Ok(Some(Self {
            birth,
            format: "raw",
            place: disk.shots().readable(&disk.data, None)?.into(),
            used: disk.pool.allocated(&disk.data)?.unwrap_or_default(),
        }))
    }
}

fn used(path: &Path) -> u64 {
    fs::metadata(path).map(|file| file.blocks() * 512).unwrap_or(0)
}
