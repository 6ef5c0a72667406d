//! Snapshots of a VM's disk: qcow2's own, inside the disk's file, or Ceph's own, where the disk lies there. Why so:
//! `docs/decisions/0007-snapshots.md`.
//!
//! ```text
//! create: freeze ─► snapshot ─► thaw        revert: note ─► power off ─► disk ─► start
//! delete: drop it                           export: snapshot ─► copy ─► drop it
//! ```
//!
//! QEMU has the file of a running VM, so it is asked; otherwise `qemu-img` does the work. Ceph does it whoever has
//! the disk. There and in the file a snapshot is named `f.NAME` if the file systems were frozen, `c.NAME` if not: the name and what is said of it
//! come and go together.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_model::agent::{Name, Snapshot, Vm, VmState};
use berth_model::{ByteSize, Timestamp, VmId};
use serde::Deserialize;
use serde_json::{Value, json};
use virt::domain::Domain;

use super::disk::Cache;
use super::folder::{self, Folder};
use super::ops::{is, on_disk, power_off, refused, state};
use super::{Libvirt, disk, mend};
use crate::faults;
use crate::hypervisor::HypervisorError;
use crate::program::Program;
use crate::runs::Cx;
use crate::storage::pool::{InPool, Shot};

/// Most snapshots of one disk.
const SNAPSHOTS_MAX: usize = 64;
/// The snapshot that a copy is made from. No caller's: their names have no dot.
const EXPORT: &str = "x.export";
/// Patience with what `qemu-img` does to a file's tables.
const TABLES: Duration = Duration::from_secs(90);

/// What `qemu-img info` says of a disk, or its pool.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Info {
    /// Its size for the guest.
    #[serde(rename = "virtual-size")]
    pub virtual_size: u64,
    /// Its snapshots, those of callers and others.
    #[serde(default)]
    snapshots: Vec<InFile>,
    #[serde(rename = "format-specific", default)]
    specific: Specific,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
struct Specific {
    #[serde(default)]
    data: SpecificData,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
struct SpecificData {
    #[serde(default)]
    bitmaps: Vec<Bitmap>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Bitmap {
    name: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct InFile {
    name: String,
    #[serde(rename = "date-sec")]
    date_sec: i64,
    #[serde(rename = "date-nsec", default)]
    date_nsec: i64,
}

impl From<Shot> for InFile {
    fn from(shot: Shot) -> Self {
        Self { name: shot.name, date_sec: shot.created.unix_ms().div_euclid(1000), date_nsec: 0 }
    }
}

impl Info {
    /// Reads the disk's head, also under a running guest.
    fn read(disk: &Path) -> Result<Self, HypervisorError> {
        let args = ["info", "-U", "--output=json", "-f", "qcow2"];
        let text = Program::qemu_img(args).args([disk]).patience(TABLES).run()?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self, HypervisorError> {
        serde_json::from_str(text)
            .map_err(|e| HypervisorError::Failed(format!("The answer of qemu-img makes no sense: {e}.")))
    }

    /// Those of callers, the oldest first.
    fn snapshots(&self) -> Vec<(Snapshot, &str)> {
        let mut all: Vec<_> =
            self.snapshots.iter().filter_map(|s| Some((s.show()?, s.name.as_str()))).collect();
        all.sort_by_key(|(snapshot, _)| snapshot.created.unix_ms());
        all
    }

    fn find(&self, name: &Name) -> Option<(Snapshot, &str)> {
        self.snapshots().into_iter().find(|(snapshot, _)| snapshot.name == *name)
    }

    fn has(&self, in_file: &str) -> bool {
        self.snapshots.iter().any(|snapshot| snapshot.name == in_file)
    }
}

impl InFile {
    fn show(&self) -> Option<Snapshot> {
        let (kind, name) = self.name.split_once('.')?;
        let frozen = match kind {
            "f" => true,
            "c" => false,
            _ => return None,
        };
        let created = Timestamp::from_unix_ms(
            self.date_sec.checked_mul(1000)?.checked_add(self.date_nsec / 1_000_000)?,
        )?;
        Some(Snapshot { name: Name::new(name)?, created, frozen })
    }
}

/// A VM's disk, and who has it.
pub(super) struct Disk<'a> {
    folder: &'a Folder,
    /// Its file, unless it lies in a pool.
    path: PathBuf,
    in_pool: Option<InPool>,
    /// QEMU has it.
    pub running: Option<&'a Domain>,
}

impl Disk<'_> {
    fn info(&self) -> Result<Info, HypervisorError> {
        let Some(disk) = &self.in_pool else { return Info::read(&self.path) };
        Ok(Info {
            virtual_size: disk.data.size.bytes(),
            snapshots: disk.shots().all(&disk.data)?.into_iter().map(InFile::from).collect(),
            specific: Specific::default(),
        })
    }

    fn take(&self, in_file: &str) -> Result<(), HypervisorError> {
        match (&self.in_pool, self.running) {
            (Some(disk), _) => disk.shots().take(&disk.data, in_file),
            (None, Some(domain)) => {
                self.ask(domain, "take the snapshot", "blockdev-snapshot-internal-sync", in_file)
            }
            (None, None) => self.tables(&["snapshot", "-q", "-c", in_file]),
        }
    }

    pub fn drop_one(&self, in_file: &str) -> Result<(), HypervisorError> {
        match (&self.in_pool, self.running) {
            (Some(disk), _) => disk.shots().drop_one(&disk.data, in_file),
            (None, Some(domain)) => {
                self.ask(domain, "delete the snapshot", "blockdev-snapshot-delete-internal-sync", in_file)
            }
            (None, None) => self.tables(&["snapshot", "-q", "-d", in_file]),
        }
    }

    /// Brings a disk that nobody has back to a snapshot; it keeps its size.
    fn rewind(&self, domain: &Domain, in_file: &str) -> Result<(), HypervisorError> {
        if let Some(disk) = &self.in_pool {
            disk.shots().rewind(&disk.data, in_file)?;
            faults::point("revert.after_disk")?;
            return disk.pool.grow(&disk.data);
        }
        let before = self.info()?;
        // What was written since the last backup is no longer what these say, and none is brought back with them.
        for bitmap in &before.specific.data.bitmaps {
            let args = ["bitmap".as_ref(), "--remove".as_ref(), self.path.as_os_str(), bitmap.name.as_ref()];
            Program::qemu_img(args).patience(TABLES).run()?;
        }
        super::backup::forget_marks(domain);
        self.tables(&["snapshot", "-q", "-a", in_file])?;
        faults::point("revert.after_disk")?;
        if self.info()?.virtual_size < before.virtual_size {
            disk::grow(&self.path, None, ByteSize(before.virtual_size))?;
        }
        Ok(())
    }

    /// How `qemu-img` reads the disk, or the snapshot `in_file` of one that QEMU has.
    fn readable(&self, in_file: Option<&str>) -> Result<Vec<OsString>, HypervisorError> {
        if let Some(disk) = &self.in_pool {
            return Ok(vec!["-f".into(), "raw".into(), disk.shots().readable(&disk.data, in_file)?.into()]);
        }
        let mut args: Vec<OsString> = vec!["-f".into(), "qcow2".into()];
        if let Some(name) = in_file {
            // What a snapshot holds is written by nobody, so it may be read beside QEMU.
            args.extend(["-U".into(), "-l".into(), format!("snapshot.name={name}").into()]);
        }
        args.push(self.path.clone().into());
        Ok(args)
    }

    fn tables(&self, args: &[&str]) -> Result<(), HypervisorError> {
        Program::qemu_img(args).args([&self.path]).patience(TABLES).run().map(drop)
    }

    fn ask(&self, domain: &Domain, what: &str, command: &str, in_file: &str) -> Result<(), HypervisorError> {
        let nodes = monitor(
            domain,
            what,
            &json!({"execute": "query-named-block-nodes", "arguments": {"flat": true}}),
        )?;
        let node = node_of(&nodes, &self.path).ok_or_else(|| {
            HypervisorError::Failed(format!(
                "QEMU could not {what}: it does not have {}.",
                self.path.display()
            ))
        })?;
        let arguments = json!({"device": node, "name": in_file});
        monitor(domain, what, &json!({"execute": command, "arguments": arguments})).map(drop)
    }

    /// Takes a snapshot with the guest's file systems frozen if its agent answers; says whether they were.
    pub fn take_frozen(&self, named: impl Fn(bool) -> String) -> Result<bool, HypervisorError> {
        let Some(domain) = self.running else {
            self.take(&named(true))?;
            return Ok(true);
        };
        let frozen = mend::freeze(domain, self.folder)?;
        let taken = faults::point("snapshot.after_freeze")
            .map_err(HypervisorError::from)
            .and_then(|()| self.take(&named(frozen)));
        let thawed = if frozen { mend::thaw(domain, self.folder) } else { Ok(()) };
        taken.and(thawed).map(|()| frozen)
    }
}

/// The name of the node in QEMU that holds the qcow2 file `path`.
fn node_of(nodes: &Value, path: &Path) -> Option<String> {
    let is_it = |node: &&Value| {
        node["drv"] == "qcow2" && node["file"].as_str().is_some_and(|file| Path::new(file) == path)
    };
    nodes.as_array()?.iter().find(is_it)?["node-name"].as_str().map(str::to_owned)
}

/// Asks QEMU.
fn monitor(domain: &Domain, what: &str, command: &Value) -> Result<Value, HypervisorError> {
    let reply = domain.qemu_monitor_command(&command.to_string(), 0).map_err(|e| refused(what, &e))?;
    let mut reply: Value = serde_json::from_str(&reply)
        .map_err(|e| HypervisorError::Failed(format!("QEMU's answer makes no sense: {e}.")))?;
    match reply["error"]["desc"].as_str() {
        Some(why) if why.contains("No space left") => {
            Err(HypervisorError::Lacking(format!("QEMU could not {what}: {why}")))
        }
        Some(why) => Err(HypervisorError::Failed(format!("QEMU could not {what}: {why}"))),
        None => Ok(reply["return"].take()),
    }
}

/// What a revert under way is to end with: the snapshot, of a VM that ran.
fn revert_note(folder: &Folder) -> PathBuf {
    folder.path().join("reverting")
}

impl Libvirt {
    /// Works on a VM's disk as the only one that does; `what` is refused in pools that take no snapshots.
    fn with_disk<T>(
        &self,
        id: VmId,
        what: &str,
        work: impl FnOnce(&Domain, &Disk<'_>) -> Result<T, HypervisorError>,
    ) -> Result<T, HypervisorError> {
        let domain = self.whole_domain(&self.connection.get()?, id)?;
        let folder = self.folders.of(id);
        let on = matches!(state(&domain)?, VmState::Running | VmState::Paused);
        // The test driver runs nothing: nobody has the file.
        let running = (on && !self.is_test_driver()).then_some(&domain);
        let _work = self.at_work.begin(id);
        if running.is_some() {
            mend::mend_frozen(&domain, &folder)?;
        }
        work(&domain, &self.disk(id, &folder, what, running)?)
    }

    pub(super) fn disk<'a>(
        &'a self,
        id: VmId,
        folder: &'a Folder,
        what: &str,
        running: Option<&'a Domain>,
    ) -> Result<Disk<'a>, HypervisorError> {
        let in_pool = self.storage.disk_in_pool(id, what)?;
        Ok(Disk { folder, path: folder.disk(), in_pool, running })
    }

    pub(super) fn list_snapshots(&self, id: VmId) -> Result<Vec<Snapshot>, HypervisorError> {
        self.whole_domain(&self.connection.get()?, id)?;
        // None are refused where none can be.
        let Ok(in_pool) = self.storage.disk_in_pool(id, "") else { return Ok(Vec::new()) };
        let folder = self.folders.of(id);
        let info = Disk { folder: &folder, path: folder.disk(), in_pool, running: None }.info()?;
        Ok(info.snapshots().into_iter().map(|(snapshot, _)| snapshot).collect())
    }

    pub(super) fn take_snapshot(&self, id: VmId, name: &Name) -> Result<Snapshot, HypervisorError> {
        self.with_disk(id, "snapshots are taken", |_, disk| {
            let info = disk.info()?;
            if let Some((there, _)) = info.find(name) {
                return Ok(there);
            }
            if info.snapshots().len() >= SNAPSHOTS_MAX {
                let message = format!("VM {id} has {SNAPSHOTS_MAX} snapshots already; delete one first.");
                return Err(HypervisorError::Conflict(message));
            }
            match &disk.in_pool {
                Some(in_pool) => self.storage.check_room_for_snapshot(in_pool)?,
                None => disk::check_room(&self.config.data_dir, ByteSize(info.virtual_size))?,
            }
            disk.take_frozen(|frozen| format!("{}.{name}", if frozen { "f" } else { "c" }))?;
            faults::point("snapshot.after_taken")?;
            let taken = disk.info()?.find(name).map(|(snapshot, _)| snapshot);
            taken.ok_or_else(|| HypervisorError::Failed(format!("The snapshot {name} is not in the disk.")))
        })
    }

    pub(super) fn drop_snapshot(&self, id: VmId, name: &Name) -> Result<(), HypervisorError> {
        self.with_disk(id, "there are snapshots", |_, disk| match disk.info()?.find(name) {
            None => Ok(()),
            Some((_, in_file)) => disk.drop_one(in_file),
        })
    }

    pub(super) fn revert_to(&self, id: VmId, name: &Name) -> Result<Vm, HypervisorError> {
        let connect = self.connection.get()?;
        let domain = self.whole_domain(&connect, id)?;
        let folder = self.folders.of(id);
        let disk = self.disk(id, &folder, "there are snapshots", None)?;
        let info = disk.info()?;
        let Some((_, in_file)) = info.find(name) else {
            return Err(HypervisorError::Unknown(format!("VM {id} has no snapshot {name}.")));
        };
        let note = revert_note(&folder);
        let told_before = std::fs::read(&note).is_ok_and(|noted| noted == name.as_str().as_bytes());
        let runs = matches!(state(&domain)?, VmState::Running | VmState::Paused) || told_before;
        if runs {
            folder.put(&note, |new| std::fs::write(new, name.as_str()))?;
        }
        power_off(&domain)?;
        match domain.managed_save_remove(0) {
            Err(e) if !is(&e, virt::error::ErrorNumber::NoSupport) => {
                tracing::debug!(vm = id.0, error = e.message(), "no saved memory was removed");
            }
            _ => {}
        }
        faults::point("revert.after_off")?;
        disk.rewind(&domain, in_file)?;
        if runs {
            self.start(&connect, id, &domain)?;
            folder::gone(std::fs::remove_file(&note)).map_err(on_disk)?;
        }
        self.show(id, Some(&domain))
    }

    pub(super) fn export_disk(&self, cx: &Cx, id: VmId, to: &Path) -> Result<(), HypervisorError> {
        self.with_disk(id, "images are made", |_, disk| {
            let info = disk.info()?;
            if info.has(EXPORT) {
                disk.drop_one(EXPORT)?;
            }
            cx.phase("Copy the disk", info.virtual_size);
            if disk.running.is_some() {
                disk.take_frozen(|_| EXPORT.to_owned())?;
            }
            let made = faults::point("export.after_snapshot").map_err(HypervisorError::from).and_then(|()| {
                let cache = if disk.in_pool.is_some() { Cache::Writeback } else { self.cache };
                let form = ["-T", cache.name(), "-O", "qcow2", "-o", "compression_type=zstd"];
                let from = disk.readable(disk.running.map(|_| EXPORT))?;
                Program::qemu_img(["convert", "-p", "-c"]).args(form).args(from).args([to]).run_in(cx)?;
                faults::point("export.after_copy")?;
                Ok(())
            });
            if disk.running.is_some() {
                disk.drop_one(EXPORT)?;
            }
            if made.is_err() {
                folder::gone(std::fs::remove_file(to)).map_err(on_disk)?;
            }
            made
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_snapshots_of_callers_are_read_and_others_are_not_shown() {
        let _proof =
            crate::proof::pure(&["snapshot.list", "snapshot.create", "snapshot.revert", "snapshot.delete"]);
        let text = r#"{"virtual-size": 1048576, "filename": "a", "format": "qcow2", "snapshots": [
            {"id": "2", "name": "c.later", "date-sec": 1700000100, "date-nsec": 500000000, "vm-state-size": 0},
            {"id": "1", "name": "f.first", "date-sec": 1700000000, "vm-state-size": 0},
            {"id": "3", "name": "x.export", "date-sec": 1700000000},
            {"id": "4", "name": "by hand", "date-sec": 1700000000},
            {"id": "5", "name": "f.far", "date-sec": 9223372036854775807}],
            "format-specific": {"type": "qcow2", "data": {"bitmaps": [{"name": "b1", "flags": []}]}}}"#;
        let info = Info::parse(text).unwrap();
        let shown: Vec<_> =
            info.snapshots().into_iter().map(|(s, _)| (s.name.to_string(), s.frozen)).collect();
        assert_eq!(shown, [("first".to_owned(), true), ("later".to_owned(), false)]);
        assert!(info.has(EXPORT));
        assert_eq!(info.find(&Name::new("later").unwrap()).unwrap().1, "c.later");
        assert_eq!(info.specific.data.bitmaps[0].name, "b1");
    }

    #[test]
    fn the_node_of_a_disk_is_found_by_its_file() {
        let nodes = json!([
            {"node-name": "s", "drv": "file", "file": "/vms/7/disk.qcow2"},
            {"node-name": "libvirt-3-format", "drv": "qcow2", "file": "/images/a.qcow2"},
            {"node-name": "libvirt-2-format", "drv": "qcow2", "file": "/vms/7/disk.qcow2"},
        ]);
        assert_eq!(node_of(&nodes, Path::new("/vms/7/disk.qcow2")).as_deref(), Some("libvirt-2-format"));
        assert_eq!(node_of(&nodes, Path::new("/vms/8/disk.qcow2")), None);
    }

    proptest! {
        #[test]
        fn no_answer_of_qemu_img_breaks_the_agent(
            text in "\\PC{0,100}", name in "[fcx]?\\.?\\PC{0,60}", seconds in any::<i64>(), nanos in any::<i64>(),
        ) {
            let _read = Info::parse(&text);
            let snapshot = json!({"name": name, "date-sec": seconds, "date-nsec": nanos});
            let text = json!({"virtual-size": 1, "snapshots": [snapshot]}).to_string();
            let info = Info::parse(&text).unwrap();
            let _shown = info.snapshots();
        }
    }
}
