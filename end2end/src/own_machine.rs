//! A machine of a test's own: namespaces in which the test runs again, as the only one that is there.
//!
//! It has its own libvirt and its own network, so that guests stand on a bridge, have addresses that others reach,
//! and are filtered. When the test ends, all its processes end at once.

#![allow(clippy::print_stdout, reason = "what the test says there, it says here")]

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

/// Says to a test that it runs on its own machine.
const INSIDE: &str = "BERTH_TEST_OWN_MACHINE";
/// The bridge for guests. Their gateway, 10.78.0.1, is the network namespace `outside`: `ip netns exec outside …`
/// looks at guests as the world does.
pub const BRIDGE: &str = "guests";

/// Is this the test on its own machine? Otherwise it has run there, and went well: there is nothing left to do.
///
/// ```no_run
/// # fn test() -> anyhow::Result<()> {
/// if !berth_end2end::own_machine::is_here("the_tests_name")? {
///     return Ok(());
/// }
/// # Ok(()) }
/// ```
///
/// # Errors
/// When the test failed there; with what it said.
pub fn is_here(test: &str) -> anyhow::Result<bool> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(true);
    }
    let home = tempfile::Builder::new().prefix("berth-machine-").tempdir_in("/var/tmp")?;
    std::fs::set_permissions(home.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    for folder in ["etc/qemu", "lib/images", "lib/boot", "log/qemu", "cache/qemu", "run/lock"] {
        std::fs::create_dir_all(home.path().join(folder))?;
    }
    let qemu = "user = \"root\"\ngroup = \"root\"\nsecurity_driver = \"none\"\nvnc_listen = \"127.0.0.1\"\n";
    for (file, text) in [("libvirtd.conf", ""), ("virtlogd.conf", ""), ("qemu.conf", qemu)] {
        std::fs::write(home.path().join("etc").join(file), text)?;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/own_machine.sh");
    let ran = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--ipc", "--fork", "--kill-child", "--mount-proc", "sh"])
        .args([&script, home.path(), &std::env::current_exe()?])
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .stdin(Stdio::null())
        .output()
        .context("making a machine of the test's own")?;
    let said = [ran.stdout, ran.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    ensure!(ran.status.success() && said.contains("1 passed"), "on its own machine:\n{said}");
    println!("{said}");
    Ok(false)
}
