//! Guests that really run, and looking into them.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use berth_agent::config::Accelerator;
use berth_agent::hypervisor::Hypervisor;
use berth_agent::hypervisor::libvirt::GuestNetwork;
use berth_model::VmId;
use serde_json::{Value, json};
use virt::connect::Connect;
use virt::domain::Domain;

use super::{Node, image_path, wait_for};

pub const URI: &str = "qemu:///system";
/// The name of the tiny image in tests; nobody here checks it.
pub const TINY: &str = "71717171717171717171717171717171717171717171717171717171717171aa";
/// What the tiny guest says once it is up.
pub const READY: &str = "berth-guest: ready";

/// A file of the guest images: at `variable`, or where `cargo xtask up` leaves it.
pub fn tiny(variable: &str, name: &str) -> PathBuf {
    let usual =
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/berth/images").join(name);
    let path = std::env::var_os(variable).map_or_else(usual, PathBuf::from);
    assert!(path.exists(), "{} is missing: `cargo xtask up` builds it, or set {variable}", path.display());
    path
}

/// A node with the tiny image.
pub fn node(network: GuestNetwork) -> Node {
    let node = Node::new(URI, network, Accelerator::Qemu);
    node.libvirt.ping().expect("libvirtd runs (`virtlogd -d; libvirtd -d` starts it)");
    put_file(&tiny("BERTH_TINY_IMAGE", "tiny.qcow2"), &image_path(&node.config, TINY));
    node
}

/// Copies a file to where QEMU may read it.
pub fn put_file(from: &Path, to: &Path) {
    std::fs::copy(from, to).unwrap();
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o644)).unwrap();
}

/// What the guest said on its serial line so far.
pub fn console(node: &Node, id: VmId) -> String {
    let log = std::fs::read(node.folder(id).join("console.log")).unwrap_or_default();
    String::from_utf8_lossy(&log).into_owned()
}

/// Waits until the guest came up for the `n`th time.
pub fn wait_for_boot(node: &Node, id: VmId, n: usize) {
    wait_for(READY, || (console(node, id).matches(READY).count() >= n).then_some(()));
}

/// The domain, seen past the agent.
pub fn domain(node: &Node, id: VmId) -> Domain {
    let connect = Connect::open(Some(&node.config.uri)).unwrap();
    connect.lookup_domain_by_name(&format!("{}{id}", node.config.prefix)).unwrap()
}

/// Runs a script in the guest, by its guest agent, and gives what it said.
pub fn inside(node: &Node, id: VmId, script: &str) -> String {
    let domain = domain(node, id);
    let exec = json!({"execute": "guest-exec", "arguments": {
        "path": "/bin/sh", "arg": ["-c", script], "capture-output": true,
        "env": ["PATH=/bin:/sbin:/usr/bin:/usr/sbin"],
    }});
    // The agent may come up a moment after the system, and after a restore.
    let begun = wait_for("the guest agent", || ask(&domain, &exec));
    let status = json!({"execute": "guest-exec-status", "arguments": {"pid": begun["pid"]}});
    let ended = wait_for("the script's end", || ask(&domain, &status).filter(|s| s["exited"] == true));
    let text = |key: &str| {
        use base64::Engine as _;
        let text = ended[key].as_str().unwrap_or_default();
        String::from_utf8_lossy(&base64::engine::general_purpose::STANDARD.decode(text).unwrap()).into_owned()
    };
    assert_eq!(ended["exitcode"], 0, "{script}: {}{}", text("out-data"), text("err-data"));
    text("out-data").trim().to_owned()
}

fn ask(domain: &Domain, command: &Value) -> Option<Value> {
    let answer = domain.qemu_agent_command(&command.to_string(), 10, 0).ok()?;
    Some(serde_json::from_str::<Value>(&answer).unwrap()["return"].take())
}
