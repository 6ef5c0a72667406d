//! What happens when libvirt's daemon goes, comes back, or hangs: on a libvirtd of the test's own, which
//! knows the test driver alone.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod libvirt_common;

use std::path::Path;
use std::process::{Child, Command, Stdio};

use berth_agent::config::Accelerator;
use berth_agent::hypervisor::libvirt::GuestNetwork;
use berth_agent::hypervisor::{Hypervisor, HypervisorError};
use berth_model::VmId;
use berth_model::agent::VmState;
use libvirt_common::{EMPTY_IMAGE, Node, next_event, spec, text, wait_for};

const ID: VmId = VmId(7);

/// A libvirtd that ends with the test.
struct Daemon {
    process: Child,
}

impl Daemon {
    fn start(home: &Path) -> Self {
        let config = home.join("libvirtd.conf");
        let settings = format!(
            "unix_sock_dir = \"{}\"\nauth_unix_rw = \"none\"\nauth_unix_ro = \"none\"\nlog_outputs = \"3:file:{}\"\n",
            home.display(),
            home.join("libvirtd.log").display()
        );
        std::fs::write(&config, settings).unwrap();
        std::fs::create_dir_all(home.join("no-drivers")).unwrap();
        let _ = std::fs::remove_file(home.join("libvirt-sock"));
        let process = Command::new("libvirtd")
            .args(["-f", text(&config), "-p", text(&home.join("libvirtd.pid"))])
            .env("LIBVIRT_DRIVER_DIR", home.join("no-drivers"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("libvirtd is in Debian's package libvirt-daemon");
        wait_for("libvirtd's socket", || home.join("libvirt-sock").exists().then_some(()));
        Self { process }
    }

    fn signal(&self, signal: &str) {
        libvirt_common::run("kill", &[signal, &self.process.id().to_string()]);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn node(home: &Path) -> Node {
    let uri = format!("test+unix:///default?socket={}", home.join("libvirt-sock").display());
    Node::new(&uri, GuestNetwork::User, Accelerator::Auto)
}

#[test]
fn without_a_daemon_functions_say_so() {
    let home = tempfile::tempdir().unwrap();
    let node = node(home.path());
    let refused = node.libvirt.ping();
    assert!(matches!(refused, Err(HypervisorError::Unavailable(_))), "{refused:?}");
    assert!(matches!(node.libvirt.list(), Err(HypervisorError::Unavailable(_))));
}

#[test]
fn a_daemon_that_comes_back_is_found_and_what_was_missed_is_told() {
    let home = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(home.path());
    let node = node(home.path());
    let mut events = node.libvirt.events();
    node.libvirt.put(ID, &spec(EMPTY_IMAGE)).unwrap();
    assert_eq!(next_event(&mut events, ID), Some(VmState::Off));
    assert_eq!(next_event(&mut events, ID), Some(VmState::Running));

    // The test driver forgets its domains with its daemon: a change that no event told.
    drop(daemon);
    let _daemon = Daemon::start(home.path());
    assert_eq!(next_event(&mut events, ID), None);
    // Half-made now, and completed by the next put; events come again.
    assert_eq!(node.libvirt.get(ID).unwrap().spec, None);
    assert_eq!(node.libvirt.put(ID, &spec(EMPTY_IMAGE)).unwrap().state, VmState::Running);
    assert_eq!(next_event(&mut events, ID), Some(VmState::Off));
    assert_eq!(next_event(&mut events, ID), Some(VmState::Running));
}

#[test]
fn a_daemon_that_hangs_ends_calls_with_an_error() {
    let home = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(home.path());
    let node = node(home.path());
    node.libvirt.ping().unwrap();
    daemon.signal("-STOP");
    // The first call ends with the keepalive, the next finds no connection.
    for _ in 0..2 {
        let refused = node.libvirt.ping();
        assert!(matches!(refused, Err(HypervisorError::Unavailable(_))), "{refused:?}");
    }
    daemon.signal("-CONT");
    wait_for("the daemon to answer again", || node.libvirt.ping().ok());
}
