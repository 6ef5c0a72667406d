//! Lending a VM's disk for a backup, as it is at one moment.
//!
//! | the VM is | the disk is lent by | the moment is kept by | changes are known by |
//! | --- | --- | --- | --- |
//! | on | its QEMU, in a backup job in pull mode | old content moved to a scratch file before a write | a checkpoint, made at that moment |
//! | off | `qemu-nbd` | nobody writes | a bitmap in the qcow2 file, and a checkpoint that names it |
//!
//! A mark is a checkpoint and the bitmap of its name. All marks of a disk count side by side; only that of
//! the last finished backup is kept. A backup of a VM that is off and has a mark leaves it as it is: the
//! next one builds on the same backup again.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use berth_model::{ByteSize, VmId};
use serde::{Deserialize, Serialize};
use virt::domain::Domain;
use virt::error::{Error, ErrorNumber};

use super::disk::Overlay;
use super::folder::{Folder, gone};
use super::lender::{EXPORT, Lend, Lender};
use super::mend::{Work, freeze, mend_frozen, thaw};
use super::ops::{is, on_disk, refused};
use super::{Libvirt, ffi, tool, xml};
use crate::backups::disk::{Extent, Source, Taken, Taking, Wish};
use crate::backups::nbd::Nbd;
use crate::hypervisor::HypervisorError;
use crate::{clock, faults};

/// All our marks begin with it.
const MARK: &str = "berth-";
/// The bitmap under which QEMU lends the changes.
const CHANGES: &str = "changes";
/// How long a job may take to end.
const JOB_PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked at.
const JOB_STEP: Duration = Duration::from_millis(20);
/// How long a job may take to begin.
const BEGIN_PATIENCE: Duration = Duration::from_secs(5);
/// How often that is tried.
const BEGIN_STEP: Duration = Duration::from_millis(200);
/// Below this the job is given up: where its scratch file cannot grow, the guest's own writes fail.
const FREE_MIN: ByteSize = ByteSize::mib(256);
/// How often that is looked at, in reads.
const LOOK_EVERY: u32 = 16;

/// Lends a VM's disk.
pub fn begin(libvirt: &Libvirt, id: VmId, wish: &Wish<'_>) -> Result<Box<dyn Taking>, HypervisorError> {
    let connect = libvirt.connection.get()?;
    let domain = libvirt.whole_domain(&connect, id)?;
    let folder = libvirt.folders.of(id);
    let image = image(&folder)?;
    let is_on = !libvirt.is_test_driver() && domain.is_active().map_err(|e| refused("look at the VM", &e))?;
    let work = libvirt.at_work.begin(id);
    if is_on {
        check_scratch(folder.path())?;
        mend_frozen(&domain, &folder)?;
        end_job(&domain)?;
    }
    let place = Place::make(&folder, work)?;
    let taken = Taken { since: None, mark: None, full_because: None, frozen: false, image };
    if is_on { live(domain, &folder, place, wish, taken) } else { still(domain, &folder, place, wish, taken) }
}

/// Where a backup has what it needs on the node.
pub fn place(folder: &Folder) -> PathBuf {
    folder.path().join("backup.new")
}

/// Ends the job of a backup that was cut off.
pub fn mend(domain: &Domain, folder: &Folder) -> Result<(), HypervisorError> {
    if !place(folder).try_exists()? {
        return Ok(());
    }
    if domain.is_active().map_err(|e| refused("look at the VM", &e))? {
        end_job(domain)?;
    }
    gone(fs::remove_dir_all(place(folder))).map_err(on_disk)
}

/// Refuses where a guest's writes might soon find no room.
fn check_scratch(folder: &Path) -> Result<(), HypervisorError> {
    let room = rustix::fs::statvfs(folder).map_err(|e| on_disk(e.into()))?;
    if room.f_bavail.saturating_mul(room.f_frsize) >= FREE_MIN.bytes() {
        return Ok(());
    }
    Err(HypervisorError::Lacking(
        "The node's disk is nearly full; the backup was given up for the guest's sake.".to_owned(),
    ))
}

/// The image that a disk stands on.
fn image(folder: &Folder) -> Result<String, HypervisorError> {
    let overlay = Overlay::read(&folder.disk())?;
    let overlay = overlay.ok_or_else(|| HypervisorError::Conflict("The VM has no disk.".to_owned()))?;
    let name = overlay.backing.file_stem().and_then(|name| name.to_str());
    Ok(name.unwrap_or_default().to_owned())
}

/// A folder for what a backup needs on the node, gone with it: `backup.new` in the VM's. It stays where a job
/// may still use it, and tells of that.
pub struct Place {
    path: PathBuf,
    stays: bool,
    /// Ends when the folder is gone.
    _work: Work,
}

impl Place {
    /// Makes it.
    pub fn make(folder: &Folder, work: Work) -> Result<Self, HypervisorError> {
        let path = place(folder);
        gone(fs::remove_dir_all(&path)).map_err(on_disk)?;
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(on_disk)?;
        let place = Self { path, stays: false, _work: work };
        // QEMU makes its socket and its scratch file there, as the user that has the disk.
        match fs::metadata(folder.disk()) {
            // It lies in a pool, and QEMU has no part in its backup.
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            disk => {
                let disk = disk.map_err(on_disk)?;
                chown(&place.path, Some(disk.uid()), Some(disk.gid())).map_err(on_disk)?;
            }
        }
        Ok(place)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn socket(&self) -> PathBuf {
        self.path.join("nbd.sock")
    }

    fn scratch(&self) -> PathBuf {
        self.path.join("scratch.qcow2")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.stays {
            return;
        }
        if let Err(e) = gone(fs::remove_dir_all(&self.path)) {
            tracing::warn!(error = %e, path = %self.path.display(), "a backup's folder could not be removed");
        }
    }
}

/// The disk of a VM that is on.
struct Live {
    // Its order is the order of the end: the client goes before the job.
    nbd: Option<Watched>,
    job: Job,
    taken: Taken,
}

/// A backup job with a new mark, and its files. Unless it is kept, the mark goes.
struct Job {
    domain: Domain,
    mark: String,
    is_kept: bool,
    is_over: bool,
    place: Place,
}

impl Job {
    fn end(&mut self) -> Result<(), HypervisorError> {
        self.is_over = true;
        end_job(&self.domain).inspect_err(|_| self.place.stays = true)
    }
}

/// Why a job was not begun.
enum NotBegun {
    /// libvirt's reason; another try may help.
    Refused(Error),
    /// Another.
    Failed(HypervisorError),
}

impl From<HypervisorError> for NotBegun {
    fn from(e: HypervisorError) -> Self {
        Self::Failed(e)
    }
}

fn live(
    domain: Domain,
    folder: &Folder,
    place: Place,
    wish: &Wish<'_>,
    mut taken: Taken,
) -> Result<Box<dyn Taking>, HypervisorError> {
    let there = ffi::checkpoints(&domain).map_err(|e| refused("list the VM's checkpoints", &e))?;
    // What an agent that died had marked: its bitmap would be in the way of the changes since before it.
    let unknown =
        |mark: &&String| !wish.since.is_empty() && mark.starts_with(MARK) && !wish.since.contains(mark);
    there.iter().filter(unknown).for_each(|mark| drop_mark(&domain, mark));
    taken.since = wish.since.iter().find(|mark| there.contains(mark)).cloned();
    if taken.since.is_none() && !wish.since.is_empty() {
        taken.full_because = Some("The disk's changes since the last backup are not known.".to_owned());
    }
    // What ends it from here on ends the job, too.
    let mark = wish.mark.to_owned();
    let mut job = Job { domain, mark, is_kept: false, is_over: false, place };
    let mut begun = start(&job, folder, &mut taken);
    if let Err(NotBegun::Refused(e)) = &begun
        && let Some(mark) = taken.since.take()
    {
        taken.full_because =
            Some(format!("The disk's changes since the last backup are lost: {}.", e.message()));
        drop_mark(&job.domain, &mark);
        begun = start(&job, folder, &mut taken);
    }
    if let Err(NotBegun::Refused(_)) = begun {
        // Marks without their bitmaps can be in the way of new ones.
        there.iter().filter(|mark| mark.starts_with(MARK)).for_each(|mark| drop_mark(&job.domain, mark));
        begun = start(&job, folder, &mut taken);
    }
    begun.map_err(|e| match e {
        NotBegun::Refused(e) => {
            // A libvirt that is gone may have begun it.
            let error = refused("begin the backup", &e);
            job.is_over = !matches!(error, HypervisorError::Unavailable(_));
            error
        }
        NotBegun::Failed(e) => e,
    })?;
    taken.mark = Some(wish.mark.to_owned());
    let changes = taken.since.as_ref().map(|_| CHANGES);
    let nbd = Nbd::open(&job.place.socket(), EXPORT, changes)
        .map_err(|e| HypervisorError::Failed(format!("QEMU does not lend the VM's disk: {e}.")))?;
    let nbd = Watched { nbd, folder: job.place.path.clone(), reads: 0 };
    Ok(Box::new(Live { nbd: Some(nbd), job, taken }))
}

/// Begins the job. One that has just ended may still be in the way for a moment.
fn start(job: &Job, folder: &Folder, taken: &mut Taken) -> Result<(), NotBegun> {
    let until = Instant::now() + BEGIN_PATIENCE;
    loop {
        match start_once(job, folder, taken) {
            Err(NotBegun::Refused(e))
                if !is(&e, ErrorNumber::CheckpointInconsistent) && Instant::now() < until =>
            {
                tracing::debug!(error = e.message(), "a backup job does not begin yet");
                std::thread::sleep(BEGIN_STEP);
            }
            begun => return begun,
        }
    }
}

/// Begins it, with the guest frozen for that moment.
fn start_once(job: &Job, folder: &Folder, taken: &mut Taken) -> Result<(), NotBegun> {
    let Job { domain, mark, place, .. } = job;
    let backup = backup_xml(place, taken.since.as_deref());
    let checkpoint = checkpoint_xml(mark, None);
    taken.frozen = freeze(domain, folder)?;
    let begun = faults::point("backup.after_freeze")
        .map_err(|e| NotBegun::Failed(e.into()))
        .and_then(|()| ffi::backup_begin(domain, &backup, &checkpoint).map_err(NotBegun::Refused));
    let thawed = if taken.frozen { thaw(domain, folder) } else { Ok(()) };
    begun.and(thawed.map_err(NotBegun::Failed))
}

impl Taking for Live {
    fn source(&mut self) -> &mut dyn Source {
        self.nbd.as_mut().expect("a disk is not read after it was closed")
    }

    fn taken(&self) -> &Taken {
        &self.taken
    }

    fn close(&mut self) -> Result<(), HypervisorError> {
        self.nbd = None;
        self.job.end()
    }

    fn keep(mut self: Box<Self>) -> Result<(), HypervisorError> {
        self.job.is_kept = true;
        let domain = &self.job.domain;
        let marks = ffi::checkpoints(domain).map_err(|e| refused("list the VM's checkpoints", &e))?;
        let others = marks.iter().filter(|mark| mark.starts_with(MARK) && **mark != self.job.mark);
        others.for_each(|mark| drop_mark(domain, mark));
        Ok(())
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if !self.is_over
            && let Err(e) = self.end()
        {
            tracing::warn!(error = %e, "a backup job could not be ended yet");
        }
        if !self.is_kept {
            drop_mark(&self.domain, &self.mark);
        }
    }
}

/// Has a VM a backup job?
pub fn has_job(domain: &Domain) -> bool {
    domain.is_active().unwrap_or(false) && is_busy(domain).unwrap_or(false)
}

/// Ends the backup job of a VM, if it has one.
pub fn end_job(domain: &Domain) -> Result<(), HypervisorError> {
    let until = Instant::now() + JOB_PATIENCE;
    let mut is_asked = false;
    while is_busy(domain)? {
        if !is_asked {
            // It may end by itself meanwhile.
            let _ = ffi::abort_job(domain);
            is_asked = true;
        }
        if Instant::now() > until {
            return Err(HypervisorError::Failed("The VM's backup job does not end.".to_owned()));
        }
        std::thread::sleep(JOB_STEP);
    }
    Ok(())
}

fn is_busy(domain: &Domain) -> Result<bool, HypervisorError> {
    match ffi::backup_is_active(domain) {
        // With its QEMU the job is gone.
        Err(_) if matches!(domain.is_active(), Ok(false)) => Ok(false),
        looked => looked.map_err(|e| refused("look at the VM's backup job", &e)),
    }
}

/// Removes a checkpoint with its bitmap; of one whose bitmap is lost, the name.
fn drop_mark(domain: &Domain, mark: &str) {
    if ffi::checkpoint_delete(domain, mark, false).is_err()
        && let Err(e) = ffi::checkpoint_delete(domain, mark, true)
    {
        tracing::debug!(error = e.message(), mark, "a checkpoint could not be deleted");
    }
}

/// Forgets all marks of a VM that is off, whose disk is another now.
pub fn forget_marks(domain: &Domain) {
    let marks = ffi::checkpoints(domain).unwrap_or_default();
    marks.iter().filter(|mark| mark.starts_with(MARK)).for_each(|mark| drop_mark(domain, mark));
}

/// QEMU's disk, as long as there is room for its scratch file.
struct Watched {
    nbd: Nbd,
    folder: PathBuf,
    reads: u32,
}

impl Source for Watched {
    fn size(&self) -> u64 {
        self.nbd.size()
    }

    fn extent(&mut self, offset: u64, length: u64) -> Result<Extent, HypervisorError> {
        self.nbd.extent(offset, length)
    }

    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), HypervisorError> {
        if self.reads.is_multiple_of(LOOK_EVERY) {
            check_scratch(&self.folder)?;
        }
        self.reads = self.reads.wrapping_add(1);
        self.nbd.read(offset, bytes)
    }
}

/// The disk of a VM that is off.
struct Still {
    nbd: Option<Nbd>,
    lender: Option<Lender>,
    taken: Taken,
    domain: Domain,
    disk: PathBuf,
    _place: Place,
}

fn still(
    domain: Domain,
    folder: &Folder,
    place: Place,
    wish: &Wish<'_>,
    mut taken: Taken,
) -> Result<Box<dyn Taking>, HypervisorError> {
    let disk = folder.disk();
    let bitmaps = Bitmap::of(&disk)?;
    let whole = |mark: &&String| bitmaps.iter().any(|bitmap| bitmap.name == **mark && bitmap.is_whole());
    taken.since = wish.since.iter().find(whole).cloned();
    if taken.since.is_none() {
        taken.mark = Some(wish.mark.to_owned());
        taken.full_because = (!wish.since.is_empty())
            .then(|| "The disk's changes since the last backup are not known.".to_owned());
    }
    let (lender, nbd) =
        Lender::start("qcow2", disk.as_os_str(), &place.path, &Lend::Read(taken.since.as_deref()))?;
    Ok(Box::new(Still { nbd: Some(nbd), lender: Some(lender), taken, domain, disk, _place: place }))
}

impl Taking for Still {
    fn source(&mut self) -> &mut dyn Source {
        self.nbd.as_mut().expect("a disk is not read after it was closed")
    }

    fn taken(&self) -> &Taken {
        &self.taken
    }

    fn close(&mut self) -> Result<(), HypervisorError> {
        self.nbd = None;
        self.lender.take().map_or(Ok(()), Lender::end)
    }

    fn keep(self: Box<Self>) -> Result<(), HypervisorError> {
        let Some(mark) = &self.taken.mark else { return Ok(()) };
        for bitmap in Bitmap::of(&self.disk)?.iter().filter(|bitmap| bitmap.name.starts_with(MARK)) {
            drop_mark(&self.domain, &bitmap.name);
            bitmap_command("--remove", &self.disk, &bitmap.name)?;
        }
        bitmap_command("--add", &self.disk, mark)?;
        let checkpoint = checkpoint_xml(mark, Some(clock::now().unix_ms() / 1000));
        if let Err(e) = ffi::checkpoint_redefine(&self.domain, &checkpoint) {
            // Then the next backup of the running VM is a full one.
            tracing::warn!(error = e.message(), mark, "libvirt does not take the checkpoint");
        }
        Ok(())
    }
}

fn bitmap_command(verb: &str, disk: &Path, mark: &str) -> Result<(), HypervisorError> {
    let args = ["bitmap", verb, "-f", "qcow2"].map(AsRef::as_ref);
    tool::run("qemu-img", "qemu-utils", args.into_iter().chain([disk.as_os_str(), mark.as_ref()])).map(drop)
}

/// A bitmap in a disk's file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Bitmap {
    name: String,
    flags: Vec<String>,
}

impl Bitmap {
    fn of(disk: &Path) -> Result<Vec<Self>, HypervisorError> {
        let args = ["info", "--output=json", "-f", "qcow2"].map(AsRef::as_ref);
        let info = tool::run("qemu-img", "qemu-utils", args.into_iter().chain([disk.as_os_str()]))?;
        Self::parse(&info)
            .ok_or_else(|| HypervisorError::Failed("qemu-img's words make no sense.".to_owned()))
    }

    fn parse(info: &str) -> Option<Vec<Self>> {
        let info: serde_json::Value = serde_json::from_str(info).ok()?;
        let bitmaps = info.pointer("/format-specific/data/bitmaps").cloned();
        bitmaps.map_or(Some(Vec::new()), |bitmaps| serde_json::from_value(bitmaps).ok())
    }

    /// Was it written when QEMU ended? One that was lost in a crash is `in-use` for ever.
    fn is_whole(&self) -> bool {
        !self.flags.iter().any(|flag| flag == "in-use")
    }
}

fn backup_xml(place: &Place, since: Option<&str>) -> String {
    xml::write(&DomainBackup {
        mode: "pull",
        incremental: since,
        server: Server { transport: "unix", socket: xml::path(&place.socket()) },
        disks: Disks {
            disk: BackupDisk {
                name: EXPORT,
                backup: "yes",
                kind: "file",
                exportname: EXPORT,
                exportbitmap: since.map(|_| CHANGES),
                scratch: Scratch { file: xml::path(&place.scratch()) },
            },
        },
    })
}

fn checkpoint_xml(mark: &str, at_unix_s: Option<i64>) -> String {
    xml::write(&DomainCheckpoint {
        name: mark,
        creation_time: at_unix_s,
        disks: Disks { disk: CheckpointDisk { name: EXPORT, checkpoint: "bitmap" } },
    })
}

#[derive(Serialize)]
#[serde(rename = "domainbackup")]
struct DomainBackup<'a> {
    #[serde(rename = "@mode")]
    mode: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    incremental: Option<&'a str>,
    server: Server,
    disks: Disks<BackupDisk>,
}

#[derive(Serialize)]
#[serde(rename = "domaincheckpoint")]
struct DomainCheckpoint<'a> {
    name: &'a str,
    #[serde(rename = "creationTime", skip_serializing_if = "Option::is_none")]
    creation_time: Option<i64>,
    disks: Disks<CheckpointDisk>,
}

#[derive(Serialize)]
struct Server {
    #[serde(rename = "@transport")]
    transport: &'static str,
    #[serde(rename = "@socket")]
    socket: String,
}

/// Disks that are not named are left out.
#[derive(Serialize)]
struct Disks<T> {
    disk: T,
}

#[derive(Serialize)]
struct BackupDisk {
    #[serde(rename = "@name")]
    name: &'static str,
    #[serde(rename = "@backup")]
    backup: &'static str,
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "@exportname")]
    exportname: &'static str,
    #[serde(rename = "@exportbitmap", skip_serializing_if = "Option::is_none")]
    exportbitmap: Option<&'static str>,
    scratch: Scratch,
}

#[derive(Serialize)]
struct Scratch {
    #[serde(rename = "@file")]
    file: String,
}

#[derive(Serialize)]
struct CheckpointDisk {
    #[serde(rename = "@name")]
    name: &'static str,
    #[serde(rename = "@checkpoint")]
    checkpoint: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_incremental_backup_names_its_checkpoint_and_its_bitmap() {
        let _proof = crate::proof::pure(&["backup.create"]);
        let home = tempfile::tempdir().unwrap();
        let work = super::super::mend::AtWork::default().begin(berth_model::VmId(1));
        let place = Place { path: home.path().join("backup.new"), stays: false, _work: work };
        let full = backup_xml(&place, None);
        assert!(!full.contains("incremental") && !full.contains("exportbitmap"), "{full}");
        let incremental = backup_xml(&place, Some("berth-1"));
        assert!(incremental.contains("<incremental>berth-1</incremental>"), "{incremental}");
        assert!(incremental.contains("exportbitmap=\"changes\""), "{incremental}");
        assert!(incremental.contains("backup.new/nbd.sock"), "{incremental}");
        let checkpoint = checkpoint_xml("berth-2", Some(7));
        assert!(checkpoint.contains("<creationTime>7</creationTime>"), "{checkpoint}");
    }

    #[test]
    fn a_bitmap_that_a_crash_left_is_not_whole() {
        let info = r#"{"format-specific":{"data":{"bitmaps":[
            {"flags":["in-use","auto"],"name":"a","granularity":65536},
            {"flags":["auto"],"name":"b","granularity":65536}]}}}"#;
        let bitmaps = Bitmap::parse(info).unwrap();
        assert_eq!(bitmaps.iter().map(Bitmap::is_whole).collect::<Vec<_>>(), [false, true]);
        assert_eq!(Bitmap::parse("{}"), Some(Vec::new()));
        assert_eq!(Bitmap::parse("x"), None);
    }

    proptest::proptest! {
        #[test]
        fn no_answer_of_qemu_img_breaks_the_agent(text in crate::fuzz::mangled(vec![
            r#"{"format-specific":{"data":{"bitmaps":[{"flags":["in-use","auto"],"name":"a","granularity":65536}]}}}"#.to_owned(),
        ])) {
            for bitmap in Bitmap::parse(&text).into_iter().flatten() {
                let _whole = bitmap.is_whole();
            }
        }
    }
}
