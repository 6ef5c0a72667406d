//! VMs marked for failover: which they are, and their end when the node has lost its lease.
//!
//! Neither needs the disk or libvirt. Which VMs are marked is read when the agent starts, and noted since.
//! libvirt is asked to end them first, so that it tells what happened; whatever still runs soon after is
//! killed. A QEMU is known by its domain's name and UUID in its own arguments, and held by a file descriptor
//! from before they are read, so no other process is ever hit.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use berth_model::VmId;
use berth_model::agent::{VmSpec, VmState, WantedPower};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::connection::Connection;
use super::folder::{Folder, Folders, gone, sync};
use super::ops::{on_disk, power_off, refused, state};
use super::{Libvirt, names};
use crate::hypervisor::{Hypervisor, HypervisorError};

/// How long libvirt may take to end VMs before they are killed.
const LIBVIRT_PATIENCE: Duration = Duration::from_secs(3);
/// How long a killed process may take to end.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// The marked VMs.
#[derive(Debug)]
pub struct Marks(Mutex<BTreeSet<VmId>>);

impl Marks {
    /// Finds those that were marked.
    pub fn open(folders: &Folders) -> std::io::Result<Self> {
        let is_marked = |id: &VmId| folders.of(*id).failover().exists();
        Ok(Self(Mutex::new(folders.list()?.into_iter().filter(is_marked).collect())))
    }

    /// All of them.
    pub fn all(&self) -> Vec<VmId> {
        self.set().iter().copied().collect()
    }

    /// Is it one?
    pub fn has(&self, id: VmId) -> bool {
        self.set().contains(&id)
    }

    /// Marks a VM; on the disk when this returns.
    pub fn put(&self, id: VmId, folder: &Folder) -> std::io::Result<()> {
        if self.has(id) && folder.failover().try_exists()? {
            return Ok(());
        }
        fs::File::create(folder.failover())?.sync_all()?;
        sync(folder.path())?;
        self.set().insert(id);
        Ok(())
    }

    /// Takes the mark away.
    pub fn remove(&self, id: VmId, folder: &Folder) -> std::io::Result<()> {
        gone(fs::remove_file(folder.failover()))?;
        self.set().remove(&id);
        Ok(())
    }

    fn set(&self) -> MutexGuard<'_, BTreeSet<VmId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running QEMU.
#[derive(Debug)]
struct Qemu {
    vm: VmId,
    pid: Pid,
    process: OwnedFd,
}

impl Qemu {
    /// The process `pid`, if it is the QEMU of one of these VMs: `name` and UUID of each.
    fn of(pid: i32, vms: &[(VmId, String, String)]) -> Option<Self> {
        let pid = Pid::from_raw(pid)?;
        let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        let arguments = fs::read(format!("/proc/{}/cmdline", pid.as_raw_pid())).ok()?;
        let (vm, ..) = vms.iter().find(|(_, name, uuid)| is_qemu_of(&arguments, name, uuid))?;
        Some(Self { vm: *vm, pid, process })
    }

    fn ends_by(&self, until: Instant) -> bool {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(&self.process, PollFlags::IN)];
            let timeout =
                Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
            match poll(&mut fds, Some(&timeout)) {
                Err(rustix::io::Errno::INTR) => {}
                ended => return ended.is_ok_and(|n| n > 0),
            }
        }
    }

    fn kill(&self) {
        tracing::warn!(vm = self.vm.0, pid = self.pid.as_raw_pid(), "libvirt did not end a VM; it is killed");
        let _gone_meanwhile = pidfd_send_signal(&self.process, Signal::KILL);
    }

    fn ended(&self, patience: Instant) -> Result<(), HypervisorError> {
        if self.ends_by(patience) {
            return Ok(());
        }
        let (vm, pid) = (self.vm, self.pid.as_raw_pid());
        Err(HypervisorError::Failed(format!(
            "The QEMU of VM {vm} (process {pid}) was killed, and does not end."
        )))
    }
}

/// Do these arguments, each with a zero byte behind it, start QEMU for this domain?
fn is_qemu_of(arguments: &[u8], name: &str, uuid: &str) -> bool {
    let words: Vec<&[u8]> = arguments.split(|b| *b == 0).collect();
    let value = |key: &str| words.windows(2).find(|pair| pair[0] == key.as_bytes()).map(|pair| pair[1]);
    let guest = value("-name").and_then(|value| value.strip_prefix(b"guest="));
    guest.and_then(|guest| guest.split(|b| *b == b',').next()) == Some(name.as_bytes())
        && value("-uuid") == Some(uuid.as_bytes())
}

/// All running QEMUs of these VMs.
fn running(vms: &[(VmId, String, String)]) -> Vec<Qemu> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.filter_map(|process| process.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| Qemu::of(pid, vms)).collect()
}

impl Libvirt {
    /// Brings the mark to the spec's wish, when that is that there is one.
    pub(super) fn mark(&self, id: VmId, folder: &Folder, failover: bool) -> Result<(), HypervisorError> {
        if failover { self.marks.put(id, folder).map_err(on_disk) } else { Ok(()) }
    }

    /// Takes the mark away when the definition does not wish for it any more.
    pub(super) fn unmark(&self, id: VmId, folder: &Folder, failover: bool) -> Result<(), HypervisorError> {
        if failover { Ok(()) } else { self.marks.remove(id, folder).map_err(on_disk) }
    }

    /// Marks what is to be marked and came here on another way than by a spec: a VM that moved.
    pub(super) fn tend_marks(&self) -> Result<(), HypervisorError> {
        for vm in self.list()? {
            if vm.spec.is_some_and(|spec| spec.failover) {
                self.mark(vm.id, &self.folders.of(vm.id), true)?;
            }
        }
        Ok(())
    }

    /// Refuses the start of a marked VM while the node has no lease.
    pub(super) fn admit(&self, id: VmId) -> Result<(), HypervisorError> {
        self.admit_marked(id, self.marks.has(id))
    }

    /// Refuses a spec that would have a marked VM run while the node has no lease.
    pub(super) fn admit_spec(&self, id: VmId, spec: &VmSpec) -> Result<(), HypervisorError> {
        let comes_on = spec.power == WantedPower::On;
        let is_marked_now = spec.power == WantedPower::Keep && !self.marks.has(id);
        self.admit_marked(id, spec.failover && (comes_on || is_marked_now))
    }

    /// The same, whether the mark is there or not.
    pub(super) fn admit_marked(&self, id: VmId, marked: bool) -> Result<(), HypervisorError> {
        self.lease.get().filter(|_| marked).map_or(Ok(()), |lease| lease.admit(id))
    }

    /// Ends these VMs, now. Those that ran.
    pub(super) fn end_now(&self, ids: &[VmId]) -> Vec<(VmId, Result<(), HypervisorError>)> {
        if self.is_test_driver() {
            let ended = |id: &VmId| Some((*id, self.end_by_libvirt(*id).transpose()?));
            return ids.iter().filter_map(ended).collect();
        }
        let domain = |id: &VmId| {
            let name = self.prefix.domain(*id);
            let uuid = names::uuid(&name);
            (*id, name, uuid)
        };
        let qemus = running(&ids.iter().map(domain).collect::<Vec<_>>());
        if qemus.is_empty() {
            return Vec::new();
        }
        let until = Instant::now() + LIBVIRT_PATIENCE;
        let (connection, prefix) = (Arc::clone(&self.connection), self.prefix.clone());
        let vms: Vec<VmId> = qemus.iter().map(|qemu| qemu.vm).collect();
        // On its own, and not waited for: libvirt may hang, and must not hold up the next look.
        std::thread::spawn(move || {
            for vm in vms {
                if let Err(e) = power_off_by(&connection, &prefix.domain(vm)) {
                    tracing::warn!(vm = vm.0, error = %e, "libvirt could not power a VM off");
                }
            }
        });
        // All wait for the same moments, and none for another.
        qemus.iter().filter(|qemu| !qemu.ends_by(until)).for_each(Qemu::kill);
        let killed = Instant::now() + KILL_PATIENCE;
        qemus.iter().map(|qemu| (qemu.vm, qemu.ended(killed))).collect()
    }

    /// Did it run?
    fn end_by_libvirt(&self, id: VmId) -> Result<Option<()>, HypervisorError> {
        let Some(domain) = self.domain(&self.connection.get()?, id)? else { return Ok(None) };
        match state(&domain)? {
            VmState::Off | VmState::Crashed => Ok(None),
            VmState::Running | VmState::Paused => power_off(&domain).map(Some),
        }
    }
}

fn power_off_by(connection: &Connection, domain: &str) -> Result<(), HypervisorError> {
    let connect = connection.get()?;
    power_off(&connect.lookup_domain_by_name(domain).map_err(|e| refused("look for the VM", &e))?)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    const UUID: &str = "6c0f2a5e-94b1-5a37-8f1d-2b7c55d0e913";

    #[test]
    fn only_the_qemu_of_the_domain_is_meant() {
        let _proof = crate::proof::pure(&["node.lease"]);
        let arguments =
            |words: &[&str]| words.iter().flat_map(|w| [w.as_bytes(), b"\0"].concat()).collect::<Vec<_>>();
        let qemu =
            |name, uuid| arguments(&["/usr/bin/qemu", "-name", name, "-S", "-uuid", uuid, "-nographic"]);
        assert!(is_qemu_of(&qemu("guest=berth-7,debug-threads=on", UUID), "berth-7", UUID));
        assert!(is_qemu_of(&qemu("guest=berth-7", UUID), "berth-7", UUID));
        for (name, uuid) in [
            ("guest=berth-77,debug-threads=on", UUID),
            ("guest=berth-7,debug-threads=on", "6c0f2a5e-94b1-5a37-8f1d-000000000000"),
            ("berth-7", UUID),
        ] {
            assert!(!is_qemu_of(&qemu(name, uuid), "berth-7", UUID), "{name} {uuid}");
        }
        assert!(!is_qemu_of(b"", "", ""));
        assert!(!is_qemu_of(&arguments(&["grep", "guest=berth-7", UUID]), "berth-7", UUID));
    }

    #[test]
    fn a_process_is_killed_that_is_the_one_and_no_other() {
        let _proof = crate::proof::pure(&["node.lease"]);
        let name = format!("t-{}-7", std::process::id());
        let vms = [(VmId(7), name.clone(), UUID.to_owned())];
        let like = |name: &str, uuid: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", "echo; read forever", "-name", &format!("guest={name},x=y"), "-uuid", uuid]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
        };
        let (mut one, mut other) = (like(&name, UUID), like(&name, "another"));
        for child in [&mut one, &mut other] {
            let mut line = [0];
            std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
        }
        let found = running(&vms);
        assert_eq!(found.iter().map(|qemu| qemu.pid.as_raw_pid()).collect::<Vec<_>>(), [one.id() as i32]);
        found[0].kill();
        found[0].ended(Instant::now() + KILL_PATIENCE).unwrap();
        assert!(!one.wait().unwrap().success());
        assert!(running(&vms).is_empty());
        assert!(other.try_wait().unwrap().is_none(), "the other lives on");
        drop(other.stdin.take());
        other.wait().unwrap();
    }

    #[test]
    fn marks_outlive_the_agent() {
        let _proof = crate::proof::pure(&["node.lease"]);
        let data = tempfile::tempdir().unwrap();
        let folders = Folders::open(data.path(), None).unwrap();
        let marks = Marks::open(&folders).unwrap();
        for id in [VmId(3), VmId(7)] {
            folders.of(id).create().unwrap();
            marks.put(id, &folders.of(id)).unwrap();
            marks.put(id, &folders.of(id)).unwrap();
        }
        marks.remove(VmId(3), &folders.of(VmId(3))).unwrap();
        marks.remove(VmId(3), &folders.of(VmId(3))).unwrap();
        assert_eq!(marks.all(), [VmId(7)]);
        assert_eq!(Marks::open(&folders).unwrap().all(), [VmId(7)]);
    }
}
