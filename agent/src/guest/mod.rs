//! What is done inside a guest, through its guest agent (qemu-ga).
//!
//! The guest agent is the guest's: it may lie, hang or be missing. So each question has a time limit, its
//! answers are read with care, and what it says is passed on as the guest's own word. Programs are run
//! in the guest only with words that stand here, never with a caller's.
//!
//! The commands are those of QEMU's `qga/qapi-schema.json`. Each hypervisor carries them
//! ([`Hypervisor::ask_guest`]); what they are for is the same for all.

mod freeze;
mod info;

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use berth_model::ByteSize;
use berth_model::VmId;
use berth_model::agent::{
    GuestPassword, GuestSshKeys, HoldsFrom, HostnameSet, Thawed, TimeSynced, Trimmed, TrimmedFileSystem,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub use self::freeze::{FREEZE_MAX_S, Freezes};
use crate::clock;
use crate::hypervisor::{Hypervisor, HypervisorError};

/// How long a guest agent may take for what is done at once.
const QUICK: Duration = Duration::from_secs(10);
/// How long it may take for what works on file systems or CPUs.
const SLOW: Duration = Duration::from_secs(60);
/// How long a file system may take to grow.
const GROW_PATIENCE: Duration = Duration::from_secs(45);
/// How often a program is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A clock nearer than this to the node's is right.
const CLOCK_GRAIN_MS: i64 = 2_000;
/// Longest text that is taken from a guest, in characters.
const TEXT_MAX: usize = 256;
/// Most things of a kind that are taken from a guest.
const THINGS_MAX: usize = 256;

/// Grows the file systems of a disk: `sh -c GROW berth vda`.
const GROW: &str = include_str!("grow.sh");

/// The guest of a VM.
#[derive(Clone, Copy)]
pub struct Guest<'a> {
    hypervisor: &'a dyn Hypervisor,
    id: VmId,
}

impl<'a> Guest<'a> {
    /// The guest of VM `id`.
    pub fn of(hypervisor: &'a dyn Hypervisor, id: VmId) -> Self {
        Self { hypervisor, id }
    }

    fn ask<T: DeserializeOwned>(
        &self,
        command: &str,
        arguments: Value,
        patience: Duration,
    ) -> Result<T, HypervisorError> {
        let words = match arguments {
            Value::Null => json!({"execute": command}),
            arguments => json!({"execute": command, "arguments": arguments}),
        };
        let answer = self.hypervisor.ask_guest(self.id, &words, patience)?;
        serde_json::from_value(answer).map_err(|_| self.nonsense(command))
    }

    fn nonsense(&self, command: &str) -> HypervisorError {
        let id = self.id;
        HypervisorError::Failed(format!(
            "The guest agent of VM {id} answers “{command}” in words that make no sense."
        ))
    }

    /// Sets a user's password.
    pub fn set_password(&self, wanted: &GuestPassword) -> Result<(), HypervisorError> {
        let password = BASE64.encode(&wanted.password_hash);
        let arguments = json!({"username": wanted.user, "password": password, "crypted": true});
        self.ask::<Empty>("guest-set-user-password", arguments, QUICK).map(drop)
    }

    /// Sets the keys that let a user in.
    pub fn set_ssh_keys(&self, wanted: &GuestSshKeys) -> Result<(), HypervisorError> {
        let arguments = json!({"username": wanted.user, "keys": wanted.ssh_keys, "reset": true});
        self.ask::<Empty>("guest-ssh-add-authorized-keys", arguments, QUICK).map(drop)
    }

    /// Sets the host name, for now if the guest allows and for the next boots.
    pub fn set_hostname(&self, hostname: &str) -> Result<HostnameSet, HypervisorError> {
        let line = format!("{hostname}\n");
        self.write("/etc/hostname", &line)?;
        // The kernel's own; a guest that confines its agent refuses this.
        let now = self.write("/proc/sys/kernel/hostname", &line);
        let holds_from = if now.is_ok() { HoldsFrom::Now } else { HoldsFrom::NextBoot };
        Ok(HostnameSet { hostname: hostname.to_owned(), holds_from })
    }

    fn write(&self, path: &str, text: &str) -> Result<(), HypervisorError> {
        let handle: i64 = self.ask("guest-file-open", json!({"path": path, "mode": "w"}), QUICK)?;
        let written: Result<Value, _> =
            self.ask("guest-file-write", json!({"handle": handle, "buf-b64": BASE64.encode(text)}), QUICK);
        // What was written reaches the file as it is closed.
        let closed = self.ask::<Empty>("guest-file-close", json!({"handle": handle}), QUICK);
        written.and(closed.map(|_| Value::Null)).map(drop)
    }

    /// Are file systems frozen?
    pub fn is_frozen(&self) -> Result<bool, HypervisorError> {
        let status: String = self.ask("guest-fsfreeze-status", Value::Null, QUICK)?;
        Ok(status == "frozen")
    }

    /// Freezes the file systems; fine when they are.
    pub fn freeze(&self) -> Result<(), HypervisorError> {
        if self.is_frozen()? {
            return Ok(());
        }
        self.ask::<i64>("guest-fsfreeze-freeze", Value::Null, SLOW).map(drop)
    }

    /// Thaws the file systems; fine when none is frozen.
    pub fn thaw(&self) -> Result<Thawed, HypervisorError> {
        if !self.is_frozen()? {
            return Ok(Thawed { file_systems: 0 });
        }
        let file_systems = self.ask("guest-fsfreeze-thaw", Value::Null, SLOW)?;
        Ok(Thawed { file_systems })
    }

    /// Gives back what file systems do not use.
    pub fn trim(&self) -> Result<Trimmed, HypervisorError> {
        #[derive(Deserialize)]
        struct Paths {
            paths: Vec<Path>,
        }
        #[derive(Deserialize)]
        struct Path {
            path: String,
            #[serde(default)]
            trimmed: u64,
            error: Option<String>,
        }
        let Paths { paths } = self.ask("guest-fstrim", json!({}), SLOW)?;
        let one = |path: Path| TrimmedFileSystem {
            mounted_at: short(&path.path),
            trimmed: ByteSize(path.trimmed),
            error: path.error.as_deref().map(short),
        };
        Ok(Trimmed { file_systems: paths.into_iter().take(THINGS_MAX).map(one).collect() })
    }

    /// Sets the guest's clock to the node's. To be called also after a VM was held or restored.
    pub fn sync_time(&self) -> Result<TimeSynced, HypervisorError> {
        let ahead_before_ms = self.ahead_ms()?;
        let now_ns = i128::from(clock::now().unix_ms()) * 1_000_000;
        // Some guests set their clock and fail on the clock chip, and some refuse before both.
        let set = self.ask::<Empty>("guest-set-time", json!({"time": now_ns as i64}), SLOW);
        let mut ahead_ms = self.ahead_ms()?;
        if set.is_err() && ahead_ms.abs() > CLOCK_GRAIN_MS {
            let seconds = clock::now().unix_ms() / 1000;
            self.run(&format!("exec date -u -s @{seconds}"), &[], QUICK)?;
            ahead_ms = self.ahead_ms()?;
        }
        if ahead_ms.abs() <= CLOCK_GRAIN_MS {
            return Ok(TimeSynced { ahead_before_ms, ahead_ms });
        }
        set?;
        let id = self.id;
        Err(HypervisorError::Failed(format!(
            "The clock of VM {id} is {ahead_ms} ms ahead although it was set."
        )))
    }

    /// The same for those who go on without it: after a VM was held or restored.
    pub fn sync_time_or_log(&self) {
        match self.sync_time() {
            Ok(TimeSynced { ahead_before_ms, .. }) => {
                tracing::info!(vm = self.id.0, ahead_before_ms, "the guest's clock was set");
            }
            Err(e) => tracing::info!(vm = self.id.0, error = %e, "the guest's clock was not set"),
        }
    }

    fn ahead_ms(&self) -> Result<i64, HypervisorError> {
        let before = clock::now().unix_ms();
        let guest_ns: i64 = self.ask("guest-get-time", Value::Null, QUICK)?;
        let after = clock::now().unix_ms();
        Ok(guest_ns / 1_000_000 - i64::midpoint(before, after))
    }

    /// Brings all CPUs online that are plugged in: not every guest does that by itself.
    pub fn bring_cpus_online(&self) -> Result<(), HypervisorError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "kebab-case")]
        struct Cpu {
            logical_id: i64,
            online: bool,
        }
        let cpus: Vec<Cpu> = self.ask("guest-get-vcpus", Value::Null, QUICK)?;
        let off = cpus.iter().filter(|cpu| !cpu.online);
        let wanted: Vec<_> = off.map(|cpu| json!({"logical-id": cpu.logical_id, "online": true})).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        self.ask::<i64>("guest-set-vcpus", json!({"vcpus": wanted}), SLOW).map(drop)
    }

    /// Grows the file systems on `disk` to its end.
    pub fn grow(&self, disk: &str) -> Result<(), HypervisorError> {
        self.run(GROW, &[disk], GROW_PATIENCE)
    }

    /// Runs a script of ours in the guest, to its end.
    fn run(&self, script: &str, arguments: &[&str], patience: Duration) -> Result<(), HypervisorError> {
        #[derive(Deserialize)]
        struct Begun {
            pid: i64,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "kebab-case")]
        struct Status {
            exited: bool,
            exitcode: Option<i64>,
            err_data: Option<String>,
        }
        let words = [&["-c", script, "berth"], arguments].concat();
        let begun: Begun = self.ask(
            "guest-exec",
            json!({"path": "/bin/sh", "arg": words, "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], "capture-output": true}),
            QUICK,
        )?;
        let until = Instant::now() + patience;
        loop {
            let status: Status = self.ask("guest-exec-status", json!({"pid": begun.pid}), QUICK)?;
            if status.exited && status.exitcode == Some(0) {
                return Ok(());
            }
            if status.exited {
                let said = status.err_data.and_then(|data| BASE64.decode(data).ok()).unwrap_or_default();
                let said = short(&String::from_utf8_lossy(&said));
                return Err(HypervisorError::Failed(format!("The guest of VM {} refused: {said}", self.id)));
            }
            if Instant::now() >= until {
                return Err(HypervisorError::Unavailable(format!(
                    "The guest of VM {} takes too long.",
                    self.id
                )));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// `{}`
#[derive(Deserialize)]
struct Empty {}

/// A guest's text, as much of it as anybody reads.
fn short(text: &str) -> String {
    text.trim().chars().take(TEXT_MAX).collect()
}

/// What is wrong with the name of a user. It reaches the guest as data; this keeps it sensible.
pub fn is_user(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && !name.starts_with('-')
        && !name.chars().any(|c| c.is_control() || c.is_whitespace() || ":/".contains(c))
}

/// How users are named.
pub const USER_RULE: &str = "A user's name has 1 to 64 characters, without spaces, colons and slashes.";
