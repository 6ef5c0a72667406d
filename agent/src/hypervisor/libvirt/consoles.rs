//! A domain's screen, keyboard and serial port.

use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_model::VmId;
use berth_model::agent::{ConsoleKind, VmState};
use virt::connect::Connect;
use virt::domain::Domain;
use virt::stream::Stream;
use virt::sys;

use super::ops::{on_disk, refused, state};
use super::{Libvirt, ffi};
use crate::hypervisor::HypervisorError;
use crate::screenshot::Picture;

/// Files of a serial log beside the one that is written, the newest first. virtlogd keeps as many as its
/// `max_backups` says, three if nothing is set.
const OLDER: [&str; 3] = ["0", "1", "2"];

/// Largest picture that is read.
const PICTURE_MAX_BYTES: usize = 64 << 20;

/// What virtlogd does with logs; Debian leaves the defaults: 2 MiB, three older ones.
const VIRTLOGD_SETTINGS: &str = "/etc/libvirt/virtlogd.conf";

impl Libvirt {
    pub(super) fn open_console(&self, id: VmId, kind: ConsoleKind) -> Result<UnixStream, HypervisorError> {
        let connect = self.connection.get()?;
        let domain = self.running(&connect, id)?;
        match kind {
            ConsoleKind::Vnc => ffi::open_graphics(&domain).map_err(|e| refused("open the VM's screen", &e)),
            ConsoleKind::Serial => UnixStream::connect(self.folders.of(id).serial()).map_err(|e| {
                if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) {
                    let message =
                        format!("VM {id} has no serial console yet; it gets one at its next start.");
                    return HypervisorError::Conflict(message);
                }
                on_disk(e)
            }),
        }
    }

    pub(super) fn read_console_log(&self, id: VmId, max_bytes: usize) -> Result<Vec<u8>, HypervisorError> {
        let folder = self.folders.of(id);
        if !folder.exists().map_err(on_disk)? {
            return Err(HypervisorError::NotFound(id));
        }
        tail_of_ring(&folder.console(), max_bytes).map_err(on_disk)
    }

    pub(super) fn take_screenshot(&self, id: VmId) -> Result<Picture, HypervisorError> {
        let connect = self.connection.get()?;
        let domain = self.running(&connect, id)?;
        let failed = |e: &virt::error::Error| refused("look at the VM's screen", e);
        let stream = Stream::new(&connect, 0).map_err(|e| failed(&e))?;
        domain.screenshot(&stream, 0, 0).map_err(|e| failed(&e))?;
        let mut bytes = Vec::new();
        let mut chunk = vec![0; 256 * 1024];
        loop {
            let read = stream.recv(&mut chunk).map_err(|e| failed(&e))?;
            match usize::try_from(read) {
                Ok(0) | Err(_) => break,
                Ok(n) => bytes.extend_from_slice(&chunk[..n]),
            }
            if bytes.len() > PICTURE_MAX_BYTES {
                return Err(HypervisorError::Failed("The screen is far too large for a picture.".to_owned()));
            }
        }
        stream.finish().map_err(|e| failed(&e))?;
        Picture::read(bytes).map_err(HypervisorError::Failed)
    }

    pub(super) fn press_keys(&self, id: VmId, codes: &[u32], hold: Duration) -> Result<(), HypervisorError> {
        let connect = self.connection.get()?;
        let domain = self.running(&connect, id)?;
        let hold_ms = u32::try_from(hold.as_millis()).unwrap_or(u32::MAX);
        let mut codes = codes.to_vec();
        let count = i32::try_from(codes.len()).unwrap_or(i32::MAX);
        domain
            .send_key(sys::VIR_KEYCODE_SET_LINUX, hold_ms, codes.as_mut_ptr(), count, 0)
            .map_err(|e| refused("press the keys", &e))
    }

    /// The domain of a VM that is on.
    fn running(&self, connect: &Connect, id: VmId) -> Result<Domain, HypervisorError> {
        let domain = self.whole_domain(connect, id)?;
        match state(&domain)? {
            VmState::Running | VmState::Paused => Ok(domain),
            VmState::Off | VmState::Crashed => Err(HypervisorError::Conflict(format!(
                "VM {id} is off; its consoles are there while it runs."
            ))),
        }
    }
}

/// Is what guests write to their serial ports bounded? A sentence, with yes or no.
pub fn ring_check() -> (bool, String) {
    ring_of(&std::fs::read_to_string(VIRTLOGD_SETTINGS).unwrap_or_default())
}

fn ring_of(settings: &str) -> (bool, String) {
    let value = |key: &str| {
        let mut lines = settings.lines().filter_map(|line| line.trim().strip_prefix(key));
        lines.find_map(|rest| rest.trim_start().strip_prefix('=')?.trim().parse::<u64>().ok())
    };
    let (size, older) = (value("max_size").unwrap_or(2 << 20), value("max_backups").unwrap_or(3));
    match size {
        0 => (false, format!("Serial logs grow without end: {VIRTLOGD_SETTINGS} sets max_size to 0.")),
        size => {
            let kib = size.saturating_mul(older.saturating_add(1)) / 1024;
            (true, format!("Each VM's serial log is a ring of at most {kib} KiB."))
        }
    }
}

/// The end of a log that was rolled over into older files.
fn tail_of_ring(log: &Path, max_bytes: usize) -> std::io::Result<Vec<u8>> {
    let older = |n: &str| {
        let mut path = log.as_os_str().to_owned();
        path.push(".");
        path.push(n);
        PathBuf::from(path)
    };
    let mut end = Vec::new();
    for path in std::iter::once(log.to_owned()).chain(OLDER.iter().map(|n| older(n))) {
        let room = max_bytes - end.len();
        let mut part = tail(&path, room)?;
        part.append(&mut end);
        end = part;
        if end.len() >= max_bytes {
            break;
        }
    }
    Ok(end)
}

fn tail(path: &Path, max_bytes: usize) -> std::io::Result<Vec<u8>> {
    let mut file = match std::fs::File::open(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        file => file?,
    };
    let max = u64::try_from(max_bytes).unwrap_or(u64::MAX);
    file.seek(SeekFrom::Start(file.metadata()?.len().saturating_sub(max)))?;
    let mut end = Vec::new();
    file.take(max).read_to_end(&mut end)?;
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read_from_its_end_over_what_was_rolled_over() {
        let _proof = crate::proof::pure(&["console.log"]);
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("console.log");
        assert_eq!(tail_of_ring(&log, 100).unwrap(), b"");
        std::fs::write(folder.path().join("console.log.1"), "one ").unwrap();
        std::fs::write(folder.path().join("console.log.0"), "two ").unwrap();
        std::fs::write(&log, "three").unwrap();
        assert_eq!(tail_of_ring(&log, 100).unwrap(), b"one two three");
        assert_eq!(tail_of_ring(&log, 7).unwrap(), b"o three");
        assert_eq!(tail_of_ring(&log, 5).unwrap(), b"three");
        assert_eq!(tail_of_ring(&log, 2).unwrap(), b"ee");
    }

    #[test]
    fn a_log_without_an_end_is_a_fault() {
        let _proof = crate::proof::pure(&["node.check"]);
        assert_eq!(
            ring_of("#max_size = 0\n"),
            (true, "Each VM's serial log is a ring of at most 8192 KiB.".to_owned())
        );
        assert!(ring_of("max_size = 1048576\nmax_backups=1\n").1.contains("2048 KiB"));
        assert!(!ring_of("  max_size = 0\n").0);
    }
}
