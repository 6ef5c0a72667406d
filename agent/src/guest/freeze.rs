//! Freezes that end by themselves.
//!
//! ```text
//! freeze ──► note ──► guest frozen ──┬── thaw ────────────► note gone
//!                                    └── limit is over ──► thawed by the watch ──► note gone
//! ```
//!
//! A note is a file, `frozen/{vm}` in the data folder, with the time of its end in milliseconds of Unix
//! time. It is written before the guest is asked, so an agent that was killed at any point finds every
//! guest that may be frozen.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_model::agent::{Frozen, Thawed, VmState};
use berth_model::{Timestamp, VmId};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Guest;
use crate::clock::{self, Ends};
use crate::hypervisor::{Hypervisor, HypervisorError};

/// Longest that a freeze lasts, in seconds.
pub const FREEZE_MAX_S: u32 = 600;
/// How long until a guest that did not answer is asked again.
const AGAIN_AFTER: Duration = Duration::from_secs(5);
/// How long such a guest is asked: an hour after its freeze should have ended, it was reset or is lost.
const GIVE_UP: Duration = Duration::from_secs(3600);

/// All freezes under way.
pub struct Freezes {
    folder: PathBuf,
    hypervisor: Arc<dyn Hypervisor>,
    changed: Notify,
    ends: Ends,
}

impl Freezes {
    /// With the notes in `folder`, which need not be there.
    pub fn new(folder: PathBuf, hypervisor: Arc<dyn Hypervisor>) -> Self {
        let ends = Ends::within(Duration::from_secs(FREEZE_MAX_S.into()));
        Self { folder, hypervisor, changed: Notify::new(), ends }
    }

    /// Freezes a guest for `limit_s` seconds at most.
    pub fn freeze(&self, id: VmId, limit_s: u32) -> Result<Frozen, HypervisorError> {
        // Before anything is noted: is there a guest agent at all?
        let guest = Guest::of(&*self.hypervisor, id);
        guest.is_frozen()?;
        let until = clock::now().plus_seconds(limit_s.into());
        self.note(id, until)?;
        self.ends.of(id, until);
        self.changed.notify_one();
        match guest.freeze() {
            Ok(()) => Ok(Frozen { until }),
            // It may still freeze; the note stays, and it is thawed in time.
            Err(silent @ HypervisorError::Unavailable(_)) => Err(silent),
            Err(e) => {
                self.forget(id)?;
                Err(e)
            }
        }
    }

    /// Thaws a guest.
    pub fn thaw(&self, id: VmId) -> Result<Thawed, HypervisorError> {
        let thawed = Guest::of(&*self.hypervisor, id).thaw()?;
        self.forget(id)?;
        Ok(thawed)
    }

    /// Thaws whatever is frozen for too long, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let this = Arc::clone(&self);
            let rest =
                tokio::task::spawn_blocking(move || this.thaw_due()).await.unwrap_or(Some(AGAIN_AFTER));
            let rest = async {
                match rest {
                    Some(rest) => tokio::time::sleep(rest).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.changed.notified() => {}
                () = rest => {}
            }
        }
    }

    /// Thaws what is due. How long until the next is, if there is one.
    fn thaw_due(&self) -> Option<Duration> {
        let mut next = None;
        for (id, until) in self.notes() {
            let end = self.ends.of(id, until);
            let left = end.saturating_duration_since(Instant::now());
            let left = match left.is_zero() {
                false => Some(left),
                true => (!self.thaw_late(id, end.elapsed())).then_some(AGAIN_AFTER),
            };
            next = left.into_iter().chain(next).min();
        }
        next
    }

    /// Is nothing left to do?
    fn thaw_late(&self, id: VmId, late: Duration) -> bool {
        match self.thaw(id) {
            Ok(Thawed { file_systems }) => {
                tracing::warn!(vm = id.0, file_systems, "a guest was frozen for too long and is thawed");
                true
            }
            Err(e @ HypervisorError::Unavailable(_)) if late < GIVE_UP => {
                tracing::warn!(vm = id.0, error = %e, "a guest that may be frozen cannot be thawed yet");
                false
            }
            // It is frozen still when it goes on.
            Err(_) if self.hypervisor.get(id).is_ok_and(|vm| vm.state == VmState::Paused) => false,
            // Off, or gone.
            Err(_) => self.forget(id).is_ok(),
        }
    }

    fn notes(&self) -> Vec<(VmId, Timestamp)> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let note = |entry: fs::DirEntry| {
            let id = entry.file_name().to_str()?.parse().ok()?;
            let until = fs::read_to_string(entry.path()).ok()?.trim().parse().ok()?;
            Some((id, Timestamp::from_unix_ms(until)?))
        };
        entries.filter_map(note).collect()
    }

    fn note(&self, id: VmId, until: Timestamp) -> Result<(), HypervisorError> {
        fs::create_dir_all(&self.folder)?;
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        writeln!(file, "{}", until.unix_ms())?;
        file.as_file().sync_all()?;
        file.persist(self.folder.join(id.to_string())).map_err(|e| e.error)?;
        Ok(())
    }

    fn forget(&self, id: VmId) -> Result<(), HypervisorError> {
        self.ends.forget(id);
        match fs::remove_file(self.folder.join(id.to_string())) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e.into()),
            _ => Ok(()),
        }
    }
}
