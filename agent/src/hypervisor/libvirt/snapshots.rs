//! Snapshots of a VM's disk: qcow2's own, inside the disk's file. Why so: `docs/decisions/0007-snapshots.md`.
//!
//! ```text
//! create: freeze ─► snapshot in the file ─► thaw        revert: note ─► power off ─► disk ─► start
//! delete: drop it from the file                         export: snapshot ─► copy ─► drop it
//! ```
//!
//! QEMU has the file of a running VM, so it is asked; otherwise `qemu-img` does the work. In the file a
//! snapshot is named `f.NAME` if the file systems were frozen, `c.NAME` if not: the name and what is said of it
//! come and go together.

use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_model::agent::{Name, Snapshot, Vm, VmState};
use berth_model::{ByteSize, Timestamp, VmId};
use serde::Deserialize;
use serde_json::{Value, json};
use virt::domain::Domain;

use super::folder::{self, Folder};
use super::ops::{is, on_disk, power_off, refused, state};
use super::{Libvirt, disk, mend};
use crate::faults;
use crate::hypervisor::HypervisorError;
use crate::program::Program;
use crate::runs::Cx;

/// Most snapshots of one disk.
const SNAPSHOTS_MAX: usize = 64;
/// The snapshot that a copy is made from. No caller's: their names have no dot.
const EXPORT: &str = "x.export";
/// Patience with what `qemu-img` does to a file's tables.
const TABLES: Duration = Duration::from_secs(90);

/// What `qemu-img info` says of a disk.
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

/// A VM's disk, and who has its file.
struct Disk<'a> {
    folder: &'a Folder,
    path: PathBuf,
    /// QEMU has it.
    running: Option<&'a Domain>,
}

impl Disk<'_> {
    fn take(&self, in_file: &str) -> Result<(), HypervisorError> {
        match self.running {
            Some(domain) => self.ask(domain, "take the snapshot", "blockdev-snapshot-internal-sync", in_file),
            None => self.tables(&["snapshot", "-q", "-c", in_file]),
        }
    }

    fn drop_one(&self, in_file: &str) -> Result<(), HypervisorError> {
        match self.running {
            Some(domain) => {
                self.ask(domain, "delete the snapshot", "blockdev-snapshot-delete-internal-sync", in_file)
            }
            None => self.tables(&["snapshot", "-q", "-d", in_file]),
        }
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
    fn take_frozen(&self, named: impl Fn(bool) -> String) -> Result<bool, HypervisorError> {
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
    fn with_disk<T>(
        &self,
        id: VmId,
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
        work(&domain, &Disk { folder: &folder, path: folder.disk(), running })
    }

    pub(super) fn list_snapshots(&self, id: VmId) -> Result<Vec<Snapshot>, HypervisorError> {
        self.whole_domain(&self.connection.get()?, id)?;
        let info = Info::read(&self.folders.of(id).disk())?;
        Ok(info.snapshots().into_iter().map(|(snapshot, _)| snapshot).collect())
    }

    pub(super) fn take_snapshot(&self, id: VmId, name: &Name) -> Result<Snapshot, HypervisorError> {
        self.with_disk(id, |_, disk| {
            let info = Info::read(&disk.path)?;
            if let Some((there, _)) = info.find(name) {
                return Ok(there);
            }
            if info.snapshots().len() >= SNAPSHOTS_MAX {
                let message = format!("VM {id} has {SNAPSHOTS_MAX} snapshots already; delete one first.");
                return Err(HypervisorError::Conflict(message));
            }
            disk::check_room(&self.config.data_dir, ByteSize(info.virtual_size))?;
            disk.take_frozen(|frozen| format!("{}.{name}", if frozen { "f" } else { "c" }))?;
            faults::point("snapshot.after_taken")?;
            let taken = Info::read(&disk.path)?.find(name).map(|(snapshot, _)| snapshot);
            taken.ok_or_else(|| HypervisorError::Failed(format!("The snapshot {name} is not in the disk.")))
        })
    }

    pub(super) fn drop_snapshot(&self, id: VmId, name: &Name) -> Result<(), HypervisorError> {
        self.with_disk(id, |_, disk| match Info::read(&disk.path)?.find(name) {
            None => Ok(()),
            Some((_, in_file)) => disk.drop_one(in_file),
        })
    }

    pub(super) fn revert_to(&self, id: VmId, name: &Name) -> Result<Vm, HypervisorError> {
        let connect = self.connection.get()?;
        let domain = self.whole_domain(&connect, id)?;
        let folder = self.folders.of(id);
        let info = Info::read(&folder.disk())?;
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
        let disk = Disk { folder: &folder, path: folder.disk(), running: None };
        // What was written since the last backup is no longer what these say, and none is brought back with them.
        // They are read anew: QEMU wrote them as it ended.
        for bitmap in &Info::read(&disk.path)?.specific.data.bitmaps {
            let args = ["bitmap".as_ref(), "--remove".as_ref(), disk.path.as_os_str(), bitmap.name.as_ref()];
            Program::qemu_img(args).patience(TABLES).run()?;
        }
        super::backup::forget_marks(&domain);
        disk.tables(&["snapshot", "-q", "-a", in_file])?;
        faults::point("revert.after_disk")?;
        if Info::read(&disk.path)?.virtual_size < info.virtual_size {
            disk::grow(&disk.path, None, ByteSize(info.virtual_size))?;
        }
        if runs {
            self.start(&connect, id, &domain)?;
            folder::gone(std::fs::remove_file(&note)).map_err(on_disk)?;
        }
        self.show(id, Some(&domain))
    }

    pub(super) fn export_disk(&self, cx: &Cx, id: VmId, to: &Path) -> Result<(), HypervisorError> {
        self.with_disk(id, |_, disk| {
            let info = Info::read(&disk.path)?;
            if info.has(EXPORT) {
                disk.drop_one(EXPORT)?;
            }
            cx.phase("Copy the disk", info.virtual_size);
            let mut convert = Program::qemu_img(["convert", "-p", "-c", "-f", "qcow2"]);
            if disk.running.is_some() {
                // What a snapshot holds is written by nobody, so it may be read beside QEMU.
                disk.take_frozen(|_| EXPORT.to_owned())?;
                convert = convert.args(["-U", "-l", &format!("snapshot.name={EXPORT}")]);
            }
            let made = faults::point("export.after_snapshot").map_err(HypervisorError::from).and_then(|()| {
                let form = ["-T", self.cache.name(), "-O", "qcow2", "-o", "compression_type=zstd"];
                convert.args(form).args([&disk.path, to]).run_in(cx)?;
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
