//! All that there is on a node, as lines: what a fault left is the difference of two lists.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use berth_model::VmId;
use serde_json::Value;

use crate::node::Node;

/// How long tidying up may take; agents look after what was cut off every few seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Processes that belong to the node itself, and those of who looks.
const OF_THE_NODE: &[&str] = &[
    "sh",
    "sleep",
    "virtlogd",
    "virtlockd",
    "libvirtd",
    "berth-agent",
    "nsenter",
    "virsh",
    "ip",
    "nft",
    "cat",
    "tokio-rt-worker",
];
/// Where libvirt keeps files by domain.
const LIBVIRT_FILES: &[&str] =
    &["/run/libvirt/qemu", "/var/lib/libvirt/qemu", "/var/log/libvirt/qemu", "/etc/libvirt/qemu"];

/// What there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory(BTreeSet<String>);

impl Inventory {
    /// Looks. libvirt must answer.
    pub fn of(node: &Node) -> Self {
        let mut all = BTreeSet::new();
        for folder in ["vms", "images", "quarantine", "kept", "frozen", "volumes", "network"] {
            files(&node.data().join(folder), folder, &mut all);
        }
        for folder in LIBVIRT_FILES {
            files(&node.root(folder), folder, &mut all);
        }
        domains(node, &mut all);
        for link in node.run("ip -o link").lines() {
            let name = link.split(": ").nth(1).unwrap_or_default();
            all.insert(format!("link {}", name.split('@').next().unwrap_or_default()));
        }
        // Stateless: without what was counted.
        all.extend(node.run("nft -s list ruleset").lines().map(|line| format!("nft {}", line.trim())));
        for mount in node.run("cat /proc/mounts").lines() {
            let at = mount.split(' ').nth(1).unwrap_or_default();
            // Networks of other tests, which had them as this node came up.
            if !at.starts_with("/run/netns/") {
                all.insert(format!("mount {at}"));
            }
        }
        for name in node.run("cat /proc/[0-9]*/comm 2>/dev/null || true").lines() {
            if !OF_THE_NODE.contains(&name) {
                all.insert(format!("process {name}"));
            }
        }
        Self(all.into_iter().map(|line| without_numbers(&line)).collect())
    }

    /// What this has and `other` has not.
    pub fn beside<'a>(&'a self, other: &'a Self) -> Vec<&'a str> {
        self.0.difference(&other.0).map(String::as_str).collect()
    }
}

/// Waits until there is what `wanted` says, and beside it what is `left`, to the beginnings of its lines. libvirt
/// and QEMU may tidy up a moment after they answered.
#[track_caller]
pub fn assert_settles(node: &Node, what: &str, wanted: &Inventory, left: &[&str]) {
    let until = Instant::now() + PATIENCE;
    loop {
        let now = Inventory::of(node);
        let (came, lost) = (now.beside(wanted), wanted.beside(&now));
        let fits = |line: &&str| left.iter().any(|left| line.starts_with(left));
        let all_there = left.iter().all(|left| came.iter().any(|line| line.starts_with(left)));
        if lost.is_empty() && came.iter().all(fits) && all_there {
            return;
        }
        assert!(Instant::now() < until, "{what}: left over: {came:#?}, lost: {lost:#?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn files(folder: &Path, shown: &str, all: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
        let shown = format!("{shown}/{name}");
        // Rolled over, or written at any time by whom they belong to.
        if ["console.log", "traffic.json", "qmp-"].iter().any(|moving| name.starts_with(moving)) {
            continue;
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            files(&path, &shown, all);
        } else {
            all.insert(format!("file {shown}"));
        }
    }
}

fn domains(node: &Node, all: &mut BTreeSet<String>) {
    for name in node.virsh(&["list", "--all", "--name"]).split_whitespace() {
        let state = node.virsh(&["domstate", name]);
        all.insert(format!("domain {name} {}", state.trim()));
        for mark in node.virsh(&["checkpoint-list", "--name", name]).split_whitespace() {
            all.insert(format!("checkpoint {name} {mark}"));
        }
        let id = name.strip_prefix(&node.prefix).and_then(|id| id.parse().ok());
        if let (Some(id), true) = (id, matches!(state.trim(), "running" | "paused")) {
            in_qemu(node, id, all);
        }
    }
}

/// What a VM's QEMU has beside its disks: exports, jobs, bitmaps.
fn in_qemu(node: &Node, id: VmId, all: &mut BTreeSet<String>) {
    let count = |value: &Value| value.as_array().map_or(0, Vec::len);
    for (what, command) in [("exports", "query-block-exports"), ("jobs", "query-jobs")] {
        all.insert(format!("{id} {what}: {}", count(&node.monitor(id, command))));
    }
    for block in node.monitor(id, "query-named-block-nodes").as_array().into_iter().flatten() {
        let file = block["file"].as_str().unwrap_or_default();
        all.insert(format!("{id} block {} {file}", block["drv"].as_str().unwrap_or_default()));
        for bitmap in block["dirty-bitmaps"].as_array().into_iter().flatten() {
            all.insert(format!("{id} bitmap {}", bitmap["name"].as_str().unwrap_or_default()));
        }
    }
}

/// Marks are drawn at random, and domains numbered as they start: `berth-0a…`, `domain-3-…`.
fn without_numbers(line: &str) -> String {
    let mut text = line.to_owned();
    for (at, word) in line.rmatch_indices("berth-") {
        let digits = at + word.len()..at + word.len() + 16;
        if line.get(digits.clone()).is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit())) {
            text.replace_range(digits, "MARK");
        }
    }
    let Some((before, after)) = text.split_once("/domain-") else { return text };
    let rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
    format!("{before}/domain{rest}")
}
