//! Storage leases: while a VM runs, virtlockd holds a lock for each disk that it writes to, and libvirt starts
//! no VM and plugs no disk in whose lock another one holds, here or on another node.
//!
//! The locks are files in the lockspace, a folder that all nodes with a shared pool have in common; each is
//! named by the SHA-256 of its disk's path. So nothing is asked of the file system that the disks lie on, a
//! shared disk has the same path on all nodes, and what only one VM reads (seeds, ISOs, images) is locked by
//! nobody.
//!
//! A VM's own disk in Ceph is no file: its lease stands in the VM's definition, under a name made in the same way.
//!
//! libvirt is told so by its own settings, which are the operator's; the agent looks whether it was. A VM that
//! was started before it was told, or whose virtlockd died, runs without: that is found, too.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use berth_model::agent::{NodeCheck, VmSpec, VmState};
use berth_model::{VmId, VolumeId};
use quick_xml::events::{BytesStart, Event};
use rustix::process::{Flock, FlockOffsetType, FlockType, fcntl_getlk};
use sha2::{Digest, Sha256};
use virt::domain::Domain;

use super::Libvirt;
use super::folder::gone;
use super::ops::{refused, state};
use crate::checks::check;
use crate::hypervisor::HypervisorError;
use crate::storage::disks;
use crate::storage::pool::Source;
use crate::storage::volume_of_serial;

/// What libvirt says of a lock that is held, before and behind its name.
const HELD: (&str, &str) = ("Lockspace resource '", "' is locked");
/// What QEMU says, whose own locks are looked at first where a file system has such.
const OPEN: (&str, &str) = ("another process using the image [", "]");

/// Where libvirt's settings and sockets are.
#[derive(Debug, Clone)]
pub struct Manager {
    settings: PathBuf,
    runtime: PathBuf,
}

impl Default for Manager {
    fn default() -> Self {
        Self { settings: "/etc/libvirt".into(), runtime: "/run".into() }
    }
}

impl Manager {
    /// The lockspace that libvirt takes leases in; or why it takes none, a sentence.
    pub fn lockspace(&self) -> Result<PathBuf, String> {
        let read = |name: &str| fs::read_to_string(self.settings.join(name)).unwrap_or_default();
        let (qemu, lockd) = (read("qemu.conf"), read("qemu-lockd.conf"));
        let place = self.settings.display();
        if setting(&qemu, "lock_manager") != Some("lockd") {
            return Err(format!(
                "libvirt takes no leases on disks: set lock_manager = \"lockd\" in {place}/qemu.conf and start \
                 libvirtd anew."
            ));
        }
        if setting(&lockd, "auto_disk_leases") == Some("0") {
            return Err(format!(
                "libvirt takes no leases on disks by itself: remove auto_disk_leases from {place}/qemu-lockd.conf."
            ));
        }
        let Some(lockspace) = setting(&lockd, "file_lockspace_dir") else {
            return Err(format!(
                "libvirt has no folder for leases: set file_lockspace_dir in {place}/qemu-lockd.conf."
            ));
        };
        if UnixStream::connect(self.runtime.join("libvirt/virtlockd-sock")).is_err() {
            return Err("virtlockd, which holds the leases on disks, does not answer: start it.".to_owned());
        }
        if self.plugin_is_loaded() == Some(false) {
            return Err("libvirtd was started before it was told to take leases: start it anew.".to_owned());
        }
        Ok(PathBuf::from(lockspace))
    }

    /// Did the running daemon take the setting? `None` where that cannot be seen.
    fn plugin_is_loaded(&self) -> Option<bool> {
        let pid = |name: &str| {
            let pid = fs::read_to_string(self.runtime.join(format!("{name}.pid"))).ok()?;
            let pid: u32 = pid.trim().parse().ok()?;
            let runs = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
            (runs.trim() == name).then_some(pid)
        };
        let pid = pid("libvirtd").or_else(|| pid("virtqemud"))?;
        Some(fs::read_to_string(format!("/proc/{pid}/maps")).ok()?.contains("/lockd.so"))
    }
}

/// The value of a key in one of libvirt's settings files.
fn setting<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    let mut values = pairs.filter(|(name, _)| name.trim() == key).map(|(_, value)| value.trim());
    values.next_back().map(|value| value.trim_matches('"'))
}

/// How the lock of a disk is called.
fn lock_name(disk: &str) -> String {
    hex::encode(Sha256::digest(disk))
}

/// Does anybody hold this lock? Nobody can where its file is not there.
fn is_held(lock: &Path) -> std::io::Result<bool> {
    let file = match File::options().read(true).write(true).open(lock) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
        file => file?,
    };
    let whole = Flock {
        start: 0,
        length: 1,
        pid: None,
        typ: FlockType::WriteLock,
        offset_type: FlockOffsetType::Set,
    };
    Ok(fcntl_getlk(&file, &whole)?.is_some())
}

/// A disk that a domain writes to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Written {
    path: String,
    volume: Option<VolumeId>,
}

impl Written {
    fn words(&self) -> String {
        match self.volume {
            Some(volume) => format!("volume {volume} ({})", self.path),
            None => format!("its disk ({})", self.path),
        }
    }
}

/// The disks in a domain's XML that it writes to and that lie in files or on devices.
fn written(xml: &str) -> Vec<Written> {
    let mut all = Vec::new();
    let mut reader = quick_xml::Reader::from_str(xml);
    // How deep within a disk: what it stands on has sources, too.
    let (mut depth, mut is_read_only, mut in_serial) = (0_usize, false, false);
    let mut disk = Written::default();
    loop {
        match reader.read_event() {
            Ok(Event::Eof) | Err(_) => return all,
            Ok(Event::Start(tag)) if depth > 0 || tag.name().as_ref() == "disk" => {
                depth += 1;
                in_serial = depth == 2 && tag.name().as_ref() == "serial";
                if depth == 2 {
                    take(&tag, &mut disk, &mut is_read_only);
                }
            }
            Ok(Event::Empty(tag)) if depth == 1 => take(&tag, &mut disk, &mut is_read_only),
            Ok(Event::Text(text)) if in_serial => disk.volume = volume_of_serial(text.trim()),
            Ok(Event::End(_)) if depth > 0 => {
                (depth, in_serial) = (depth - 1, false);
                if depth == 0 {
                    let done = std::mem::take(&mut disk);
                    if !std::mem::take(&mut is_read_only) && !done.path.is_empty() {
                        all.push(done);
                    }
                }
            }
            Ok(_) => {}
        }
    }
}

fn take(tag: &BytesStart<'_>, disk: &mut Written, is_read_only: &mut bool) {
    match tag.name().as_ref() {
        "source" => {
            let attribute = |name: &str| tag.try_get_attribute(name).ok()?.map(|a| a.value.into_owned());
            disk.path = attribute("file").or_else(|| attribute("dev")).unwrap_or_default();
        }
        "readonly" => *is_read_only = true,
        _ => {}
    }
}

/// The disk that a message says somebody else has, as one of these.
fn held<'a>(message: &str, disks: &'a [Written]) -> Option<Option<&'a Written>> {
    let between = |(before, behind): (&str, &str)| {
        let (_, rest) = message.split_once(before)?;
        Some(rest.split_once(behind)?.0)
    };
    match (between(HELD), between(OPEN)) {
        (Some(lock), _) => Some(disks.iter().find(|disk| lock_name(&disk.path) == lock || disk.path == lock)),
        (None, Some(path)) => Some(disks.iter().find(|disk| disk.path == path)),
        (None, None) => None,
    }
}

/// Says which disk it is when what failed did so because somebody else has it.
pub fn explain(id: VmId, xml: &str, error: HypervisorError) -> HypervisorError {
    let disks = written(xml);
    let message = error.to_string();
    let Some(disk) = held(&message, &disks) else { return error };
    let disk = disk.map_or_else(|| "one of its disks".to_owned(), Written::words);
    HypervisorError::Conflict(format!(
        "VM {id} cannot write to {disk}: another node has it open for writing, or another VM here."
    ))
}

impl Libvirt {
    /// The lockspace; or why there are no leases.
    pub(super) fn lockspace(&self) -> Result<PathBuf, String> {
        if !self.config.uri.starts_with("qemu") {
            return Err("No disk is written to here.".to_owned());
        }
        let lockspace = Manager::default().lockspace()?;
        let mut shared = self.storage.shared_folders();
        shared.extend(self.config.storage.disks.as_deref());
        let device = |folder: &Path| fs::metadata(folder).map(|folder| folder.dev()).ok();
        if !shared.is_empty() && !shared.iter().any(|pool| device(pool) == device(&lockspace)) {
            return Err(format!(
                "Other nodes do not see the leases on disks, which stand in {}: set file_lockspace_dir to a folder \
                 on the storage of a shared pool, the same on all nodes.",
                lockspace.display()
            ));
        }
        Ok(lockspace)
    }

    /// The file of the lease on a VM's disk that QEMU comes to over the network, made if it is not there: libvirt
    /// takes it by name, since it takes none on such disks by itself. Nothing where there are no leases.
    pub(super) fn lease_on(&self, source: &Source) -> Result<Option<PathBuf>, HypervisorError> {
        let (Source::Rbd(rbd), Ok(lockspace)) = (source, self.lockspace()) else { return Ok(None) };
        let lease = lockspace.join(lock_name(&rbd.image));
        File::options().create(true).append(true).open(&lease)?;
        Ok(Some(lease))
    }

    /// Removes the file of that lease, as the disk goes.
    pub(super) fn forget_lease(&self, id: VmId) -> Result<(), HypervisorError> {
        let lease = self.pool_disk(id)?.and_then(|disk| disk.lease);
        Ok(lease.map_or(Ok(()), |lease| gone(fs::remove_file(lease)))?)
    }

    /// From now on a VM's disk on storage that nodes share is this node's.
    pub(super) fn own_disk(&self, id: VmId) -> Result<(), HypervisorError> {
        let (folder, name) = (self.folders.of(id), &self.config.node_name);
        if !self.shares_disks()
            || !folder.disk_folder().try_exists()?
            || self.owner(id)?.as_ref() == Some(name)
        {
            return Ok(());
        }
        folder.put(&folder.owner(), |new| fs::write(new, name).map_err(HypervisorError::from))
    }

    fn owner(&self, id: VmId) -> Result<Option<String>, HypervisorError> {
        match fs::read_to_string(self.folders.of(id).owner()) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            owner => Ok(Some(owner?)),
        }
    }

    /// Has another node the VM's disk, running or off? Whoever runs it or ran it last has it.
    pub(super) fn is_elsewhere(&self, id: VmId, domain: Option<&Domain>) -> Result<bool, HypervisorError> {
        if domain.is_some_and(is_on) {
            return Ok(false);
        }
        let is_anothers =
            self.shares_disks() && self.owner(id)?.is_some_and(|owner| owner != self.config.node_name);
        Ok(is_anothers || self.is_written_elsewhere(id)?)
    }

    /// Refuses to change a VM's disk that another node has.
    pub(super) fn refuse_elsewhere(&self, id: VmId, domain: Option<&Domain>) -> Result<(), HypervisorError> {
        match self.is_elsewhere(id, domain)? {
            true => Err(HypervisorError::Conflict(format!("The disk of VM {id} is another node's."))),
            false => Ok(()),
        }
    }

    /// Is the disk of a VM that does not run here open for writing?
    fn is_written_elsewhere(&self, id: VmId) -> Result<bool, HypervisorError> {
        let Ok(lockspace) = self.lockspace() else { return Ok(false) };
        let disk = match self.storage.disk_source(id)? {
            Some((Source::Rbd(rbd), _)) => rbd.image,
            Some((source, _)) => source.place().to_string_lossy().into_owned(),
            None => self.folders.of(id).disk().to_string_lossy().into_owned(),
        };
        Ok(is_held(&lockspace.join(lock_name(&disk)))?)
    }

    /// Refuses what is not safe without leases: a VM marked for failover, and writing in a shared pool.
    pub(super) fn check_leases(&self, id: VmId, spec: &VmSpec) -> Result<(), HypervisorError> {
        let writes = spec.volumes.iter().filter(|attachment| !attachment.read_only);
        let shared = writes.map(|attachment| attachment.volume).find(|id| self.storage.is_shared(*id));
        let what = match (spec.failover, shared) {
            _ if self.is_test_driver() => return Ok(()),
            (true, _) => format!("VM {id} cannot be marked for failover"),
            (false, Some(volume)) => {
                format!("VM {id} cannot have volume {volume}, which lies in a shared pool")
            }
            (false, None) if self.shares_disks() && disks::pool_of(spec).is_none() => {
                format!("VM {id} cannot have its disk on storage that nodes share")
            }
            (false, None) => return Ok(()),
        };
        self.lockspace().map(drop).map_err(|why| HypervisorError::Lacking(format!("{what}. {why}")))
    }

    /// Are there leases, and has every VM that runs its own?
    pub(super) fn check_storage_leases(&self) -> NodeCheck {
        let shares = self.shares_disks() || !self.storage.shared_folders().is_empty();
        let needed = shares || !self.marks.all().is_empty();
        let finding = self.lockspace().and_then(|lockspace| {
            let bare = self.without_lease(&lockspace).map_err(|e| format!("Leases cannot be looked at: {e}"))?;
            match bare.first() {
                None => Ok(format!("Disks are written to under leases, in {}.", lockspace.display())),
                Some((id, disk)) => Err(format!(
                    "VM {id} runs without a lease on {}, and {} more such disks are open: shut the VM down and \
                     start it again.",
                    disk.words(),
                    bare.len() - 1
                )),
            }
        });
        check("storage leases", needed, finding)
    }

    /// Disks of running VMs that no lock is held for.
    fn without_lease(&self, lockspace: &Path) -> Result<Vec<(VmId, Written)>, HypervisorError> {
        let connect = self.connection.get()?;
        let mut bare = Vec::new();
        for domain in connect.list_all_domains(0).map_err(|e| refused("list the VMs", &e))? {
            let Some(id) = domain.name().ok().and_then(|name| self.prefix.vm(&name)) else { continue };
            for disk in open_disks(&domain).unwrap_or_default() {
                // What was paused or went off meanwhile holds none, and needs none.
                if !is_held(&lockspace.join(lock_name(&disk.path)))? && runs(&domain) {
                    bare.push((id, disk));
                }
            }
        }
        Ok(bare)
    }

    /// Says who has a disk when a start failed for that.
    pub(super) fn explain_start(&self, id: VmId, domain: &Domain, error: HypervisorError) -> HypervisorError {
        let xml = domain.xml_desc(0).unwrap_or_default();
        explain(id, &xml, error)
    }
}

fn is_on(domain: &Domain) -> bool {
    matches!(state(domain), Ok(VmState::Running | VmState::Paused))
}

fn runs(domain: &Domain) -> bool {
    matches!(state(domain), Ok(VmState::Running))
}

fn open_disks(domain: &Domain) -> Result<Vec<Written>, HypervisorError> {
    if !runs(domain) {
        return Ok(Vec::new());
    }
    Ok(written(&domain.xml_desc(0).map_err(|e| refused("say which disks the VM has", &e))?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use proptest::prelude::*;

    use super::*;

    const XML: &str = "<domain><devices>\
        <disk type='file' device='disk'><source file='/d/vms/7/disk.qcow2' index='1'/>\
          <backingStore type='file'><source file='/d/images/a.qcow2'/><backingStore/></backingStore></disk>\
        <disk type='file'><source file='/d/vms/7/seed.iso'/><readonly/></disk>\
        <disk type='file' device='cdrom'><target dev='sda'/><readonly/></disk>\
        <disk type='block'><source dev='/dev/vg/5'/><serial>volume-5</serial></disk>\
        <disk type='network'><source protocol='rbd' name='p/v'/></disk>\
        <interface><source bridge='br0'/></interface></devices></domain>";

    #[test]
    fn only_disks_that_are_written_to_have_leases() {
        let _proof = crate::proof::pure(&["vm.put", "vm.start"]);
        let disk =
            |path: &str, volume: Option<i64>| Written { path: path.to_owned(), volume: volume.map(VolumeId) };
        assert_eq!(written(XML), [disk("/d/vms/7/disk.qcow2", None), disk("/dev/vg/5", Some(5))]);
    }

    #[test]
    fn a_disk_that_somebody_has_is_named() {
        let _proof = crate::proof::pure(&["vm.start"]);
        let said = |message: String| explain(VmId(7), XML, HypervisorError::Failed(message)).to_string();
        let by_lease = |path| format!("resource busy: Lockspace resource '{}' is locked", lock_name(path));
        let own = said(by_lease("/d/vms/7/disk.qcow2"));
        assert!(
            own.starts_with("VM 7 cannot write to its disk (/d/vms/7/disk.qcow2): another node"),
            "{own}"
        );
        assert!(said(by_lease("/dev/vg/5")).contains("volume 5 (/dev/vg/5)"));
        assert!(said(by_lease("/else")).contains("one of its disks"));
        let by_qemu = "Failed to get \"write\" lock\nIs another process using the image [/dev/vg/5]?";
        assert!(said(by_qemu.to_owned()).contains("volume 5"));
        assert_eq!(said("no such thing".to_owned()), "no such thing");
    }

    #[test]
    fn why_there_are_no_leases_is_said() {
        let _proof = crate::proof::pure(&["node.check"]);
        let home = tempfile::tempdir().unwrap();
        let manager = Manager { settings: home.path().to_owned(), runtime: home.path().to_owned() };
        let write = |name: &str, text: &str| fs::write(home.path().join(name), text).unwrap();
        let why = || manager.lockspace().unwrap_err();
        write("qemu.conf", "#lock_manager = \"lockd\"\n");
        assert!(why().contains("lock_manager"));
        write("qemu.conf", "user = \"root\"\n  lock_manager=\"lockd\" \n");
        write("qemu-lockd.conf", "auto_disk_leases = 0\n");
        assert!(why().contains("auto_disk_leases"));
        write("qemu-lockd.conf", "# file_lockspace_dir = \"/x\"\n");
        assert!(why().contains("file_lockspace_dir"));
        write("qemu-lockd.conf", "file_lockspace_dir = \"/srv/leases\"\n");
        assert!(why().contains("virtlockd"));
        fs::create_dir(home.path().join("libvirt")).unwrap();
        let _virtlockd = UnixListener::bind(home.path().join("libvirt/virtlockd-sock")).unwrap();
        assert_eq!(manager.lockspace().unwrap(), Path::new("/srv/leases"));
    }

    #[test]
    fn a_lock_that_nobody_holds_is_free() {
        let home = tempfile::tempdir().unwrap();
        let lock = home.path().join(lock_name("/a"));
        assert!(!is_held(&lock).unwrap());
        fs::write(&lock, "").unwrap();
        assert!(!is_held(&lock).unwrap());
        // A lock of our own process is none for it, so another must hold it.
        let script = format!(
            "import fcntl,sys\nf=open('{}','r+')\nfcntl.lockf(f,fcntl.LOCK_EX,1)\nprint(flush=True)\nsys.stdin.read()",
            lock.display()
        );
        let mut holder = std::process::Command::new("python3")
            .args(["-c", &script])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        assert!(is_held(&lock).unwrap());
        drop(holder.stdin.take());
        holder.wait().unwrap();
        assert!(!is_held(&lock).unwrap());
    }

    proptest! {
        #[test]
        fn no_xml_breaks_the_agent(text in "(<disk>|</disk>|<serial>|</serial>|<source file='a'/>|<readonly/>|<|>|\\PC)*") {
            let _read = written(&text);
        }
    }
}
