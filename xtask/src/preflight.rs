//! What must hold before anything begins. Each refusal is one sentence that says how to mend it.

use std::io::IsTerminal as _;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::place::Place;
use crate::{install, shell};

const GIB: u64 = 1 << 30;
/// What a cold start writes: the build, the tools' builds, the images.
const TARGET_FREE_MIN: u64 = 10 * GIB;
const CACHE_FREE_MIN: u64 = 6 * GIB;

/// This machine: its processor, its system, its rights, its room.
pub fn machine(place: &Place) -> Result<()> {
    ensure!(
        std::env::consts::ARCH == "x86_64",
        "Berth runs on x86-64 only, and this machine is {}: use another one.",
        std::env::consts::ARCH
    );
    let release = install::codename(&std::fs::read_to_string("/etc/os-release").unwrap_or_default());
    ensure!(
        release.as_deref() == Some("bookworm"),
        "This is set up for Debian 12 (bookworm), and this machine is another system: use a Debian 12."
    );
    root()?;
    room(&place.target, TARGET_FREE_MIN)?;
    room(&place.cache, CACHE_FREE_MIN)
}

/// Root, or sudo that lets us.
fn root() -> Result<()> {
    if shell::is_root() {
        return Ok(());
    }
    ensure!(
        shell::which("sudo").is_some(),
        "Packages, libvirt and guest disks need root, and there is no sudo: run this as root."
    );
    let mut sudo = std::process::Command::new("sudo");
    // Asked here, once, and not in the middle of a step.
    let sudo = if std::io::stdin().is_terminal() { sudo.arg("-v") } else { sudo.args(["-n", "true"]) };
    ensure!(
        sudo.status().is_ok_and(|status| status.success()),
        "Packages, libvirt and guest disks need root, and sudo refuses: run this as root."
    );
    Ok(())
}

fn room(folder: &Path, need: u64) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("Cannot make {}.", folder.display()))?;
    let disk = rustix::fs::statvfs(folder)?;
    enough(folder, disk.f_bavail * disk.f_frsize, need)
}

fn enough(folder: &Path, free: u64, need: u64) -> Result<()> {
    ensure!(
        free >= need,
        "{} has {} GiB free and needs {}: make room there, or set CARGO_TARGET_DIR and XDG_CACHE_HOME to a larger disk.",
        folder.display(),
        free / GIB,
        need / GIB
    );
    Ok(())
}

/// Nobody listens on the port yet.
pub fn port(port: u16, option: &str) -> Result<()> {
    ensure!(
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok(),
        "Port {port} is taken: end what uses it (see ss -ltnp), or choose another with {option}."
    );
    Ok(())
}

/// A port nobody listens on.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_with_the_option_that_mends_it() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let number = taken.local_addr().unwrap().port();
        let error = port(number, "--port").unwrap_err().to_string();
        assert!(error.contains(&number.to_string()) && error.contains("--port"), "{error}");
    }

    #[test]
    fn a_full_disk_is_named() {
        let error = enough(Path::new("/here"), 2 * GIB, 10 * GIB).unwrap_err().to_string();
        assert!(error.contains("/here has 2 GiB free and needs 10"), "{error}");
    }
}
