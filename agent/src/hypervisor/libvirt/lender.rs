//! `qemu-nbd`: lends the disk of a VM that is off.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::backups::nbd::Nbd;
use crate::hypervisor::HypervisorError;

/// The name under which a disk is lent, here and by QEMU itself.
pub const EXPORT: &str = "vda";

/// How long it may take to begin, and to write what it holds in memory when it ends.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked at.
const STEP: Duration = Duration::from_millis(10);

/// A `qemu-nbd` that serves one client. It ends with this, and with the agent.
pub struct Lender {
    child: Child,
    socket: PathBuf,
}

/// How a disk is lent.
pub enum Lend<'a> {
    /// To be read; with the changes that a bitmap knows.
    Read(Option<&'a str>),
    /// To be written.
    Write,
}

impl Lender {
    /// Lends a disk, as QEMU's tools call it, through a socket in `folder`.
    pub fn start(
        format: &str,
        disk: &OsStr,
        folder: &Path,
        lend: &Lend<'_>,
    ) -> Result<(Self, Nbd), HypervisorError> {
        let socket = folder.join("nbd.sock");
        // Killed with the agent: what is lent to nobody must not stay open.
        let mut command = Command::new("setpriv");
        command.args([
            "--pdeathsig",
            "KILL",
            "qemu-nbd",
            "--format",
            format,
            "--export-name",
            EXPORT,
            "--socket",
        ]);
        command.arg(&socket);
        let bitmap = match lend {
            Lend::Read(bitmap) => {
                command.arg("--read-only");
                *bitmap
            }
            Lend::Write => None,
        };
        if let Some(bitmap) = bitmap {
            command.args(["--bitmap", bitmap]);
        }
        command
            .arg(disk)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .env("LC_ALL", "C");
        let child = command.spawn().map_err(|e| {
            HypervisorError::Failed(format!(
                "qemu-nbd could not be run: {e} (it is in the packages qemu-utils and util-linux)."
            ))
        })?;
        let mut lender = Self { child, socket };
        let nbd = lender.connect(bitmap)?;
        Ok((lender, nbd))
    }

    fn connect(&mut self, bitmap: Option<&str>) -> Result<Nbd, HypervisorError> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Ok(Some(_)) = self.child.try_wait() {
                return Err(HypervisorError::Failed(format!("qemu-nbd failed: {}.", self.complaint())));
            }
            if self.socket.exists() {
                match Nbd::open(&self.socket, EXPORT, bitmap) {
                    Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => {}
                    opened => {
                        return opened.map_err(|e| {
                            HypervisorError::Failed(format!("qemu-nbd does not lend the disk: {e}."))
                        });
                    }
                }
            }
            if Instant::now() > until {
                return Err(HypervisorError::Failed("qemu-nbd does not begin.".to_owned()));
            }
            std::thread::sleep(STEP);
        }
    }

    /// Waits until it has ended by itself, as it does when its client went away.
    pub fn end(mut self) -> Result<(), HypervisorError> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(_)) => {
                    return Err(HypervisorError::Failed(format!("qemu-nbd failed: {}.", self.complaint())));
                }
                _ if Instant::now() > until => {
                    return Err(HypervisorError::Failed("qemu-nbd does not end.".to_owned()));
                }
                _ => std::thread::sleep(STEP),
            }
        }
    }

    fn complaint(&mut self) -> String {
        let mut text = String::new();
        if let Some(stderr) = self.child.stderr.take() {
            let _ = std::io::Read::read_to_string(&mut std::io::Read::take(stderr, 500), &mut text);
        }
        text.trim().trim_end_matches('.').to_owned()
    }
}

impl Drop for Lender {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}
