//! Guests that really run, and looking into them.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use berth_model::VmId;
use serde_json::{Value, json};
use virt::connect::Connect;
use virt::domain::Domain;

use super::{Node, wait_for};

/// Copies a file to where QEMU may read it.
pub fn put_file(from: &Path, to: &Path) {
    std::fs::copy(from, to).unwrap();
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o644)).unwrap();
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
