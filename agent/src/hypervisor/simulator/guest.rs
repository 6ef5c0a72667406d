//! A guest agent that answers as qemu-ga would, of a guest that is not there.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use berth_model::VmId;
use berth_model::agent::{VmSpec, VmState};
use serde_json::{Value, json};

use crate::clock;
use crate::hypervisor::HypervisorError;

/// What stays usable while file systems are frozen.
const WHILE_FROZEN: [&str; 4] = ["guest-info", "guest-ping", "guest-fsfreeze-status", "guest-fsfreeze-thaw"];
/// All that it knows.
const COMMANDS: [&str; 17] = [
    "guest-info",
    "guest-ping",
    "guest-fsfreeze-status",
    "guest-fsfreeze-freeze",
    "guest-fsfreeze-thaw",
    "guest-fstrim",
    "guest-get-time",
    "guest-set-time",
    "guest-get-osinfo",
    "guest-get-host-name",
    "guest-get-timezone",
    "guest-set-user-password",
    "guest-ssh-add-authorized-keys",
    "guest-file-open",
    "guest-file-write",
    "guest-file-close",
    "guest-get-vcpus",
];

/// The guests, in memory alone: a simulator that comes anew finds them freshly booted.
#[derive(Debug, Default)]
pub struct Guests(Mutex<HashMap<VmId, Guest>>);

/// What was done to a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guest {
    /// Does its guest agent answer nothing?
    pub silent: bool,
    /// Are its file systems frozen?
    pub frozen: bool,
    /// How far its clock is ahead, in nanoseconds.
    pub ahead_ns: i64,
    /// Password hashes by user.
    pub passwords: HashMap<String, String>,
    /// SSH keys by user.
    pub ssh_keys: HashMap<String, Vec<String>>,
    /// What was written to files.
    pub files: HashMap<String, String>,
    open: Vec<String>,
}

impl Guests {
    /// Looks at a guest, and may change it, as somebody inside could.
    pub fn with<T>(&self, id: VmId, look: impl FnOnce(&mut Guest) -> T) -> T {
        look(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_default())
    }

    /// Nothing is left of a guest.
    pub fn forget(&self, id: VmId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// What the guest agent of a VM answers.
    pub fn answer(
        &self,
        id: VmId,
        spec: &VmSpec,
        state: VmState,
        words: &Value,
    ) -> Result<Value, HypervisorError> {
        if state != VmState::Running {
            return Err(HypervisorError::Conflict(format!(
                "VM {id} is off or held, so its guest agent cannot be asked."
            )));
        }
        let command = words["execute"].as_str().unwrap_or_default();
        self.with(id, |guest| match () {
            () if guest.silent => Err(HypervisorError::Unavailable(format!(
                "The guest agent of VM {id} does not answer. Does qemu-guest-agent run in it?"
            ))),
            () if guest.frozen && !WHILE_FROZEN.contains(&command) => Err(HypervisorError::Failed(format!(
                "The guest agent of VM {id} refused “{command}”: its file systems are frozen."
            ))),
            () => guest.obey(spec, command, &words["arguments"]).ok_or_else(|| {
                HypervisorError::Lacking(format!(
                    "The guest agent of VM {id} has no “{command}”: it is too old for it, or set up without it."
                ))
            }),
        })
    }
}

impl Guest {
    fn obey(&mut self, spec: &VmSpec, command: &str, arguments: &Value) -> Option<Value> {
        let text = |name: &str| arguments[name].as_str().unwrap_or_default().to_owned();
        let decoded = |name: &str| {
            BASE64
                .decode(text(name))
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                .unwrap_or_default()
        };
        let known = |name: &&str| json!({"name": name, "enabled": true});
        Some(match command {
            "guest-ping" => json!({}),
            "guest-info" => json!({
                "version": "simulator",
                "supported_commands": COMMANDS.iter().map(known).collect::<Vec<_>>(),
            }),
            "guest-fsfreeze-status" => json!(if self.frozen { "frozen" } else { "thawed" }),
            "guest-fsfreeze-freeze" | "guest-fsfreeze-thaw" => {
                self.frozen = command == "guest-fsfreeze-freeze";
                json!(1)
            }
            "guest-fstrim" => {
                json!({"paths": [{"path": "/", "trimmed": spec.disk.bytes() / 2, "minimum": 0}]})
            }
            "guest-get-time" => json!(now_ns() + self.ahead_ns),
            "guest-set-time" => {
                self.ahead_ns = arguments["time"].as_i64()? - now_ns();
                json!({})
            }
            "guest-get-osinfo" => json!({"id": "simulated", "pretty-name": "Simulated", "machine": "x86_64"}),
            "guest-get-host-name" => json!({"host-name": self.hostname(spec)}),
            "guest-get-timezone" => json!({"zone": "UTC", "offset": 0}),
            "guest-set-user-password" => {
                self.passwords.insert(text("username"), decoded("password"));
                json!({})
            }
            "guest-ssh-add-authorized-keys" => {
                let keys: Vec<String> = serde_json::from_value(arguments["keys"].clone()).ok()?;
                self.ssh_keys.insert(text("username"), keys);
                json!({})
            }
            "guest-file-open" => {
                self.open.push(text("path"));
                json!(self.open.len())
            }
            "guest-file-write" => {
                let place = usize::try_from(arguments["handle"].as_u64()?).ok()?.checked_sub(1)?;
                self.files.insert(self.open.get(place)?.clone(), decoded("buf-b64"));
                json!({"count": decoded("buf-b64").len(), "eof": false})
            }
            "guest-file-close" => json!({}),
            "guest-get-vcpus" => {
                let cpu = |n| json!({"logical-id": n, "online": true, "can-offline": n > 0});
                json!((0..spec.vcpus).map(cpu).collect::<Vec<_>>())
            }
            _ => return None,
        })
    }

    fn hostname<'a>(&'a self, spec: &'a VmSpec) -> &'a str {
        self.files.get("/proc/sys/kernel/hostname").map_or(&spec.seed.hostname, |line| line.trim())
    }
}

fn now_ns() -> i64 {
    clock::now().unix_ms() * 1_000_000
}
