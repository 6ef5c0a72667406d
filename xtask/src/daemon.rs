//! Programs that go on when this one ends: started in a session of their own, written down with what
//! tells them from a later program with the same number, and ended by that record.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::place::text;
use crate::{shell, stop};

const START_MAX: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);
/// After which a program that was asked to end is made to.
const END_MAX: Duration = Duration::from_secs(20);

/// A running program, as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Daemon {
    /// What it is, for people.
    pub name: String,
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks since the boot below.
    pub start_ticks: u64,
    /// Which boot of the machine.
    pub boot: String,
    /// Runs as root: ending it needs root, too.
    pub root: bool,
}

/// How to start one.
#[derive(Debug)]
pub struct Start<'a> {
    /// What it is, for people.
    pub name: &'a str,
    /// Program and arguments.
    pub command: &'a [&'a str],
    /// Where its output goes.
    pub log: &'a Path,
    /// As root?
    pub root: bool,
}

impl Daemon {
    /// Starts a program.
    pub fn start(start: &Start<'_>) -> Result<Self> {
        let pid_file = start.log.with_extension("pid");
        // The shell becomes the program and so keeps its number; the session is its own, so that neither a
        // closed terminal nor Ctrl-C reaches it.
        let script = "echo $$ >\"$1.new\"; mv \"$1.new\" \"$1\"; log=$2; shift 2; exec \"$@\" >>\"$log\" 2>&1 </dev/null";
        drop(std::fs::remove_file(&pid_file));
        let mut command = shell::root_if(start.root, "setsid");
        command
            .args(["--fork", "sh", "-c", script, "sh", text(&pid_file)?, text(start.log)?])
            .args(start.command);
        shell::output(&mut command).with_context(|| format!("The {} could not be started.", start.name))?;
        let began = Instant::now();
        let pid = loop {
            if let Some(pid) = read_pid(&pid_file) {
                break pid;
            }
            if began.elapsed() > START_MAX {
                bail!("The {} did not start.", start.name);
            }
            std::thread::sleep(POLL);
        };
        shell::output(shell::root_if(start.root, "rm").arg("-f").arg(&pid_file))?;
        Self::of(start.name, pid, start.root)
            .with_context(|| format!("The {} ended at once:\n{}", start.name, tail(start.log)))
    }

    /// A program that already runs, by its number.
    pub fn of(name: &str, pid: i32, root: bool) -> Option<Self> {
        Some(Self { name: name.to_owned(), pid, start_ticks: start_ticks(pid)?, boot: boot(), root })
    }

    /// Does it still run? Another program with its number is not it.
    pub fn is_alive(&self) -> bool {
        self.boot == boot() && start_ticks(self.pid) == Some(self.start_ticks)
    }

    /// Asks it to end, waits, and insists if need be. Nothing when it does not run.
    pub fn end(&self) -> Result<()> {
        for signal in ["-TERM", "-KILL"] {
            if !self.is_alive() {
                return Ok(());
            }
            let pid = self.pid.to_string();
            let sent = shell::output(shell::root_if(self.root, "kill").args([signal, &pid]));
            let began = Instant::now();
            while self.is_alive() && began.elapsed() < END_MAX {
                std::thread::sleep(POLL);
            }
            if self.is_alive() {
                sent?;
            }
        }
        if self.is_alive() {
            bail!("The {} (process {}) does not end.", self.name, self.pid);
        }
        Ok(())
    }
}

/// Waits until `ready`; an error when the program ends before, or it takes too long, or one is asked to stop.
pub fn wait_ready(
    daemon: &Daemon,
    log: &Path,
    at_most: Duration,
    mut ready: impl FnMut() -> bool,
) -> Result<()> {
    let began = Instant::now();
    while !ready() {
        stop::check()?;
        if !daemon.is_alive() {
            bail!("The {} ended:\n{}", daemon.name, tail(log));
        }
        if began.elapsed() > at_most {
            bail!("The {} is not ready after {} s:\n{}", daemon.name, at_most.as_secs(), tail(log));
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// The last lines of a log.
pub fn tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(20)..].join("\n");
    format!("{last}\nAll of it is in {}.", log.display())
}

fn read_pid(file: &PathBuf) -> Option<i32> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

fn boot() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

/// When a process started; `None` when there is none, or only its remains.
fn start_ticks(pid: i32) -> Option<u64> {
    parse_start_ticks(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Field 22 of `/proc/PID/stat`. The second is the program's name, which may hold spaces and brackets.
fn parse_start_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str =
        "42 (a (b) c) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 1000 10 18446744073709551615";

    #[test]
    fn the_start_is_read_past_a_strange_name() {
        assert_eq!(parse_start_ticks(STAT), Some(987_654));
        assert_eq!(parse_start_ticks(&STAT.replace(") S", ") Z")), None);
    }

    #[test]
    fn another_program_with_the_same_number_is_not_ended() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let own = Daemon::of("test", pid, false).unwrap();
        assert!(own.is_alive());
        let earlier = Daemon { start_ticks: own.start_ticks - 1, ..own.clone() };
        assert!(!earlier.is_alive());
        earlier.end().unwrap();
        let other_boot = Daemon { boot: "another".to_owned(), ..own };
        assert!(!other_boot.is_alive());
    }

    #[test]
    fn a_program_is_started_and_ended() {
        let log = std::env::temp_dir().join(format!("xtask-daemon-{}.log", std::process::id()));
        let start = Start { name: "sleeper", command: &["sleep", "600"], log: &log, root: false };
        let daemon = Daemon::start(&start).unwrap();
        assert!(daemon.is_alive());
        daemon.end().unwrap();
        assert!(!daemon.is_alive());
        std::fs::remove_file(log).unwrap();
    }

    #[test]
    fn a_program_that_ends_before_it_is_ready_shows_its_last_words() {
        let log = std::env::temp_dir().join(format!("xtask-daemon-ends-{}.log", std::process::id()));
        let command = ["sh", "-c", "echo no such file; exec sleep 0.1"];
        let daemon =
            Daemon::start(&Start { name: "failer", command: &command, log: &log, root: false }).unwrap();
        let error = wait_ready(&daemon, &log, Duration::from_secs(60), || false).unwrap_err().to_string();
        std::fs::remove_file(log).unwrap();
        assert!(error.contains("failer ended") && error.contains("no such file"), "{error}");
    }
}
