//! Debian packages: what building, running and testing need, in one place.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::progress::Step;
use crate::shell;

/// Packages that are always needed.
const PACKAGES: &[&str] = &[
    // building
    "ca-certificates",
    "gcc",
    "libc6-dev",
    "libvirt-dev",
    "pkg-config",
    // control plane
    "postgresql",
    "postgresql-client",
    // a node
    "dnsmasq-base",
    "e2fsprogs",
    "iproute2",
    "iptables",
    "libvirt-clients",
    "libvirt-daemon",
    "libvirt-daemon-driver-qemu",
    "libvirt-daemon-system",
    "nftables",
    "ovmf",
    "qemu-block-extra",
    "qemu-system-x86",
    "qemu-utils",
    "swtpm",
    "swtpm-tools",
    "xfsprogs",
    "xorriso",
    // guest images
    "cpio",
    "debian-archive-keyring",
    "extlinux",
    "kmod",
    "mmdebstrap",
    "zstd",
    // tests
    "binutils",
    "busybox-static",
    "ceph-common",
    "ceph-mgr",
    "ceph-mon",
    "ceph-osd",
    "fonts-dejavu-core",
    "hcloud-cli",
    "iputils-ping",
    "isolinux",
    "libfaketime",
    "libxml2-utils",
    "mtools",
    "ndisc6",
    "openssh-client",
    "python3",
    "python3-venv",
    "python3-yaml",
    "syslinux-common",
    "systemd-boot-efi",
];

/// Packages that are needed when a program is missing: people have these from elsewhere, too.
const PACKAGES_OF_PROGRAMS: &[(&str, &str)] = &[("chromium", "chromium"), ("node", "nodejs"), ("npm", "npm")];

/// Keeps Debian from making and starting a database of its own when PostgreSQL is installed: Berth runs
/// its own cluster. What is there already is left alone.
const NO_MAIN_CLUSTER: &str = "/etc/postgresql-common/createcluster.d/berth-setup.conf";

/// Installs what is missing. Quick when nothing is.
pub fn install(step: &Step) -> Result<String> {
    let installed = installed()?;
    let wanted = wanted(|program| shell::which(program).is_some());
    let missing = missing(&wanted, &names(&installed));
    if missing.is_empty() {
        return Ok("nothing is missing".to_owned());
    }
    step.run(apt(&["update"]).env("LC_ALL", "C"))?;
    let postgres = missing.contains(&"postgresql");
    if postgres {
        put_no_main_cluster()?;
    }
    let done = install_missing(step, &missing, &installed);
    if postgres {
        shell::output(shell::root_command("rm").args(["-f", NO_MAIN_CLUSTER]))?;
    }
    done?;
    Ok(format!("{} packages", missing.len()))
}

fn install_missing(step: &Step, missing: &[&str], installed: &[(String, String)]) -> Result<()> {
    let first = step.run(apt(&["install"]).args(missing));
    if first.is_ok() {
        return Ok(());
    }
    // A package that came from backports can stand in the way of the release's own ones, which must match it.
    let release = codename(&std::fs::read_to_string("/etc/os-release").unwrap_or_default())
        .context("/etc/os-release does not say which Debian this is.")?;
    let own = back_to_release(installed, &release);
    if own.is_empty() {
        return first;
    }
    step.say("apt refused; asking for the release's own versions");
    step.run(apt(&["install"]).args(["--allow-downgrades", "-t", &release]).args(missing).args(own))
}

fn apt(arguments: &[&str]) -> std::process::Command {
    let mut command = shell::root_command("env");
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y", "-o", "Dpkg::Use-Pty=0"]);
    // A machine that just booted may be updating itself.
    command.args(["-o", "DPkg::Lock::Timeout=300", "--no-install-recommends"]);
    command.args(arguments);
    command
}

fn put_no_main_cluster() -> Result<()> {
    let script = format!(
        "mkdir -p \"$(dirname {NO_MAIN_CLUSTER})\" && echo 'create_main_cluster = false' > {NO_MAIN_CLUSTER}"
    );
    shell::output(shell::root_command("sh").args(["-c", &script])).map(drop)
}

/// Names and versions of all installed packages that matter here.
fn installed() -> Result<Vec<(String, String)>> {
    if !Path::new("/usr/bin/dpkg-query").exists() {
        bail!(
            "This machine has no dpkg: set Berth up on a Debian 12, or in a container or machine that is one."
        );
    }
    let packages = PACKAGES.iter().chain(PACKAGES_OF_PROGRAMS.iter().map(|(_, package)| package));
    // It complains of packages it never heard of, and that is an answer, too.
    let output = shell::command("dpkg-query")
        .args(["-W", "-f", "${db:Status-Status} ${Package} ${Version}\\n"])
        .args(packages)
        .output()?;
    Ok(parse_installed(&String::from_utf8_lossy(&output.stdout)))
}

fn parse_installed(text: &str) -> Vec<(String, String)> {
    let parse = |line: &str| {
        let mut words = line.split(' ');
        let installed = words.next() == Some("installed");
        installed.then_some((words.next()?.to_owned(), words.next()?.to_owned()))
    };
    text.lines().filter_map(parse).collect()
}

fn names(installed: &[(String, String)]) -> HashSet<&str> {
    installed.iter().map(|(name, _)| name.as_str()).collect()
}

fn wanted(has_program: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let of_programs = PACKAGES_OF_PROGRAMS.iter().filter(|(program, _)| !has_program(program));
    PACKAGES.iter().copied().chain(of_programs.map(|(_, package)| *package)).collect()
}

fn missing<'a>(wanted: &[&'a str], installed: &HashSet<&str>) -> Vec<&'a str> {
    wanted.iter().copied().filter(|package| !installed.contains(package)).collect()
}

/// Those installed from backports, asked for in the release's own version.
fn back_to_release(installed: &[(String, String)], release: &str) -> Vec<String> {
    let from_backports = installed.iter().filter(|(_, version)| version.contains("~bpo"));
    from_backports.map(|(name, _)| format!("{name}/{release}")).collect()
}

/// `bookworm`, from the text of `/etc/os-release`.
pub fn codename(os_release: &str) -> Option<String> {
    let line = os_release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    Some(line.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DPKG: &str =
        "installed gcc 4:12.2.0-3\ninstalled qemu-utils 1:10.0.2+ds-2~bpo12+1\nconfig-files zstd 1.5\n";

    #[test]
    fn only_what_is_missing_is_installed() {
        let installed = parse_installed(DPKG);
        assert_eq!(missing(&["gcc", "zstd", "qemu-utils", "cpio"], &names(&installed)), ["zstd", "cpio"]);
    }

    #[test]
    fn a_program_from_elsewhere_is_good_enough() {
        assert!(!wanted(|_| true).contains(&"nodejs"));
        assert!(wanted(|program| program != "node").contains(&"nodejs"));
    }

    #[test]
    fn a_backport_is_asked_for_in_the_release_s_own_version() {
        assert_eq!(back_to_release(&parse_installed(DPKG), "bookworm"), ["qemu-utils/bookworm"]);
    }

    #[test]
    fn the_release_is_read_with_and_without_quotes() {
        assert_eq!(codename("ID=debian\nVERSION_CODENAME=bookworm\n").as_deref(), Some("bookworm"));
        assert_eq!(codename("VERSION_CODENAME=\"trixie\"").as_deref(), Some("trixie"));
        assert_eq!(codename("ID=other"), None);
    }
}
