//! libvirt's daemons and what an installation leaves in them.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::daemon::Daemon;
use crate::shell;

const URI: &str = "qemu:///system";
const READY_MAX: Duration = Duration::from_secs(20);
/// How long guests may take to shut down by themselves.
const SHUTDOWN_MAX: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(100);
/// The daemons, in the order in which they need each other.
const DAEMONS: [(&str, &str); 3] = [
    ("virtlogd", "/run/virtlogd.pid"),
    ("virtlockd", "/run/virtlockd.pid"),
    ("libvirtd", "/run/libvirtd.pid"),
];
/// What lets libvirt take a lease on each disk that a VM writes to, in its settings: file, key, value.
const LEASES: [(&str, &str, &str); 2] = [
    ("/etc/libvirt/qemu.conf", "lock_manager", "lockd"),
    ("/etc/libvirt/qemu-lockd.conf", "file_lockspace_dir", "/var/lib/libvirt/lockd/files"),
];

/// Does libvirt answer?
pub fn answers() -> bool {
    shell::succeeds(shell::root_command("virsh").args(["-q", "-c", URI, "version"]))
}

/// Starts the daemons unless libvirt answers. Gives back what was started, in order.
pub fn start() -> Result<Vec<Daemon>> {
    if answers() {
        return Ok(Vec::new());
    }
    set_leases()?;
    if Path::new("/run/systemd/system").is_dir() {
        // It stays up: the machine's own service, which the next boot would start, too.
        shell::output(shell::root_command("systemctl").args(["start", "virtlogd", "virtlockd", "libvirtd"]))?;
        return wait().map(|()| Vec::new());
    }
    shell::output(shell::root_command("mkdir").args(["-p", "/run/libvirt", "/var/log/libvirt/qemu"]))?;
    kvm_for_its_group()?;
    let mut started = Vec::new();
    for (name, pid_file) in DAEMONS {
        if running(pid_file, name).is_some() {
            continue;
        }
        shell::output(shell::root_command(name).args(["-d", "-p", pid_file]))
            .with_context(|| format!("{name} could not be started."))?;
        started.push(running(pid_file, name).with_context(|| format!("{name} ended at once."))?);
    }
    wait()?;
    Ok(started)
}

/// Tells libvirt to take leases on disks, unless its settings say something of that already. It stays so: from
/// then on libvirtd needs virtlockd, which systemd starts with it.
fn set_leases() -> Result<()> {
    for (file, key, value) in LEASES {
        let text = shell::output(shell::root_command("cat").arg(file)).unwrap_or_default();
        if let Some(addition) = missing_setting(&text, key, value) {
            let script = format!("printf '%s' '{addition}' >> {file}");
            shell::output(shell::root_command("sh").args(["-c", &script]))?;
        }
    }
    shell::output(shell::root_command("mkdir").args(["-p", "-m", "700", LEASES[1].2])).map(drop)
}

/// What is to be added to a settings file of libvirt.
fn missing_setting(text: &str, key: &str, value: &str) -> Option<String> {
    let is_set = text.lines().filter_map(|line| line.split_once('=')).any(|(name, _)| name.trim() == key);
    (!is_set).then(|| format!("\n# Berth: a lease on each disk that a VM writes to.\n{key} = \"{value}\"\n"))
}

/// What udev does where it runs. While QEMU's user cannot open `/dev/kvm`, libvirt asks QEMU for its
/// abilities anew at every start of a guest, which takes seconds.
fn kvm_for_its_group() -> Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    const KVM: &str = "/dev/kvm";
    let nobodys = std::fs::metadata(KVM).is_ok_and(|device| device.gid() == 0);
    if nobodys && shell::succeeds(std::process::Command::new("getent").args(["group", "kvm"])) {
        shell::output(shell::root_command("chgrp").args(["kvm", KVM]))?;
        shell::output(shell::root_command("chmod").args(["0660", KVM]))?;
    }
    Ok(())
}

fn running(pid_file: &str, name: &str) -> Option<Daemon> {
    let pid = std::fs::read_to_string(pid_file).ok()?.trim().parse().ok()?;
    let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    (comm.trim() == name).then(|| Daemon::of(name, pid, true))?
}

fn wait() -> Result<()> {
    let began = Instant::now();
    while !answers() {
        if began.elapsed() > READY_MAX {
            bail!("libvirt does not answer; its log is in /var/log/libvirt, or in journalctl -u libvirtd.");
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// Shuts down the running machines and networks whose names begin with `prefix`, and no others.
pub fn stop_machines(prefix: &str) -> Result<()> {
    for name in names(&["list", "--name"], prefix)? {
        virsh(&["shutdown", &name]).ok();
    }
    let began = Instant::now();
    while !names(&["list", "--name"], prefix)?.is_empty() && began.elapsed() < SHUTDOWN_MAX {
        std::thread::sleep(POLL);
    }
    for name in names(&["list", "--name"], prefix)? {
        virsh(&["destroy", &name]).ok();
    }
    for name in names(&["net-list", "--name"], prefix)? {
        virsh(&["net-destroy", &name])?;
    }
    Ok(())
}

/// Removes all machines and networks whose names begin with `prefix`, at once.
pub fn remove_machines(prefix: &str) -> Result<()> {
    for name in names(&["list", "--name"], prefix)? {
        virsh(&["destroy", &name]).ok();
    }
    for name in names(&["list", "--all", "--name"], prefix)? {
        virsh(&[
            "undefine",
            &name,
            "--nvram",
            "--managed-save",
            "--snapshots-metadata",
            "--checkpoints-metadata",
        ])?;
    }
    for name in names(&["net-list", "--name"], prefix)? {
        virsh(&["net-destroy", &name])?;
    }
    for name in names(&["net-list", "--all", "--name"], prefix)? {
        virsh(&["net-undefine", &name])?;
    }
    Ok(())
}

fn names(arguments: &[&str], prefix: &str) -> Result<Vec<String>> {
    Ok(with_prefix(&virsh(arguments)?, prefix))
}

fn with_prefix(text: &str, prefix: &str) -> Vec<String> {
    text.lines().map(str::trim).filter(|name| name.starts_with(prefix)).map(str::to_owned).collect()
}

fn virsh(arguments: &[&str]) -> Result<String> {
    shell::output(shell::root_command("virsh").args(["-q", "-c", URI]).args(arguments))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_is_there_is_left_alone() {
        for text in ["lock_manager = \"sanlock\"\n", "user=\"root\"\n  lock_manager=\"lockd\""] {
            assert_eq!(missing_setting(text, "lock_manager", "lockd"), None, "{text}");
        }
        let added = missing_setting("#lock_manager = \"lockd\"\n", "lock_manager", "lockd").unwrap();
        assert!(added.ends_with("\nlock_manager = \"lockd\"\n"), "{added}");
        assert_eq!(missing_setting(&added, "lock_manager", "lockd"), None);
    }

    #[test]
    fn only_our_own_machines_are_meant() {
        assert_eq!(with_prefix("berth-1a2b-7\nberth-ffff-1\n\nmine\n", "berth-1a2b-"), ["berth-1a2b-7"]);
    }
}
