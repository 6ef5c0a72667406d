//! Fault points: named places where a test can cut the agent off.
//!
//! `BERTH_AGENT_FAULTS` names points and what happens there, separated by commas:
//!
//! | value | what happens at the point |
//! | --- | --- |
//! | `put.after_disk=kill` | the agent kills itself with SIGKILL, as a power cut would |
//! | `put.after_disk=error` | the function fails there, each time |
//! | `put.after_disk=error:2` | it fails there twice, and then goes on |
//! | `put.after_disk=pause:/run/marker` | the file is made, and the function waits until somebody removes it |
//!
//! Without the variable a point is one load of a static. A plan that cannot be read ends the agent at
//! the first point: a test that misspells a fault must not pass.
//!
//! Tests in the same process use [`with`], which holds for one thread.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// All points, in the order in which a VM passes them.
pub const POINTS: &[&str] = &[
    "put.after_folder",
    "put.after_disk",
    "put.after_seed",
    "put.after_define",
    "put.after_nics",
    "put.after_power",
    "delete.after_destroy",
    "delete.after_undefine",
    "delete.after_disk",
    "delete.after_folder",
    "move.after_note",
    "move.after_record",
    "move.after_room",
    "move.after_leaving",
    "move.after_copy",
    "move.after_undefine",
    "move.after_left",
    "move.after_volumes",
    "move.after_adopt",
    "move.after_clear",
    "rebuild.after_power_off",
    "rebuild.after_disk",
    "rescue_on.after_power_off",
    "rescue_off.after_power_off",
    "keep.after_copy",
    "wipe.after_rename",
    "wipe.after_wipe",
    "put.after_volumes",
    "put.after_hotplug",
    "volume.after_record",
    "volume.during_fetch",
    "volume.after_fill",
    "volume.after_data",
    "volume.after_promise",
    "volume.after_doom",
    "volume.after_removal",
    "image.after_chunk",
    "image.after_check",
    "image.after_keep",
    "snapshot.after_freeze",
    "snapshot.after_taken",
    "revert.after_off",
    "revert.after_disk",
    "export.after_snapshot",
    "export.after_copy",
    "backup.after_freeze",
    "backup.after_begin",
    "backup.after_pieces",
    "backup.after_manifest",
    "restore.after_write",
    "restore.after_discard",
];

/// The environment variable.
const VARIABLE: &str = "BERTH_AGENT_FAULTS";

/// How often a pause looks for its marker.
const PAUSE_STEP: Duration = Duration::from_millis(10);

/// The function was told to fail here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the fault point {0} was told to fail")]
pub struct Fault(&'static str);

#[derive(Debug)]
enum Deed {
    Kill,
    Error { times_left: AtomicU32 },
    Pause(PathBuf),
}

/// What happens at which point.
type Plan = BTreeMap<String, Deed>;

static FROM_ENVIRONMENT: OnceLock<Option<Plan>> = OnceLock::new();

thread_local! {
    static OF_THIS_THREAD: RefCell<Option<Arc<Plan>>> = const { RefCell::new(None) };
}

/// A place where a test can cut the agent off. `name` is one of [`POINTS`].
pub fn point(name: &'static str) -> Result<(), Fault> {
    debug_assert!(POINTS.contains(&name), "{name} is not in the list of fault points");
    if let Some(plan) = OF_THIS_THREAD.with_borrow(Clone::clone) {
        return act(&plan, name);
    }
    match FROM_ENVIRONMENT.get_or_init(from_environment) {
        None => Ok(()),
        Some(plan) => act(plan, name),
    }
}

/// Runs `work` with the plan `text`, on this thread only.
///
/// # Panics
/// If `text` cannot be read.
pub fn with<T>(text: &str, work: impl FnOnce() -> T) -> T {
    struct Restore(Option<Arc<Plan>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            OF_THIS_THREAD.set(self.0.take());
        }
    }
    let plan = parse(text).unwrap_or_else(|wrong| panic!("{wrong}"));
    let _restore = Restore(OF_THIS_THREAD.replace(Some(Arc::new(plan))));
    work()
}

fn from_environment() -> Option<Plan> {
    let text = std::env::var(VARIABLE).ok().filter(|text| !text.is_empty())?;
    let plan = parse(&text).unwrap_or_else(|wrong| {
        // Not a panic: that would end one function, and the test would go on without its fault.
        tracing::error!("{VARIABLE}: {wrong}");
        std::process::exit(2)
    });
    tracing::warn!(plan = text, "this agent has fault points set: it is under test");
    Some(plan)
}

fn parse(text: &str) -> Result<Plan, String> {
    text.split(',').map(parse_one).collect()
}

fn parse_one(text: &str) -> Result<(String, Deed), String> {
    let (point, deed) = text.split_once('=').ok_or_else(|| format!("“{text}” is not point=deed"))?;
    if !POINTS.contains(&point) {
        return Err(format!("there is no fault point “{point}”"));
    }
    let deed = match deed.split_once(':') {
        None if deed == "kill" => Deed::Kill,
        None if deed == "error" => Deed::Error { times_left: AtomicU32::new(u32::MAX) },
        Some(("error", times)) => {
            let times = times.parse().map_err(|_| format!("“{times}” is not a number of times"))?;
            Deed::Error { times_left: AtomicU32::new(times) }
        }
        Some(("pause", marker)) if !marker.is_empty() => Deed::Pause(PathBuf::from(marker)),
        _ => return Err(format!("“{deed}” is not kill, error, error:TIMES or pause:PATH")),
    };
    Ok((point.to_owned(), deed))
}

fn act(plan: &Plan, name: &'static str) -> Result<(), Fault> {
    match plan.get(name) {
        None => Ok(()),
        Some(Deed::Kill) => kill_self(),
        Some(Deed::Error { times_left }) => {
            let used = times_left.try_update(Ordering::Relaxed, Ordering::Relaxed, |left| match left {
                u32::MAX => Some(left),
                left => left.checked_sub(1),
            });
            used.map_or(Ok(()), |_| Err(Fault(name)))
        }
        Some(Deed::Pause(marker)) => {
            pause(marker);
            Ok(())
        }
    }
}

fn kill_self() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    std::process::abort()
}

fn pause(marker: &Path) {
    std::fs::write(marker, b"")
        .unwrap_or_else(|e| panic!("could not make the marker {}: {e}", marker.display()));
    while marker.exists() {
        std::thread::sleep(PAUSE_STEP);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_without_a_plan_does_nothing() {
        assert_eq!(point("put.after_disk"), Ok(()));
    }

    #[test]
    fn an_error_happens_as_often_as_asked_and_only_there() {
        with("put.after_disk=error:2,put.after_seed=error", || {
            assert_eq!(point("put.after_folder"), Ok(()));
            assert_eq!(point("put.after_disk"), Err(Fault("put.after_disk")));
            assert_eq!(point("put.after_disk"), Err(Fault("put.after_disk")));
            assert_eq!(point("put.after_disk"), Ok(()));
            assert!((0..5).all(|_| point("put.after_seed").is_err()));
        });
        assert_eq!(point("put.after_seed"), Ok(()));
    }

    #[test]
    fn a_pause_lasts_until_its_marker_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let marker = folder.path().join("marker");
        let plan = format!("delete.after_disk=pause:{}", marker.display());
        let paused = std::thread::spawn(move || with(&plan, || point("delete.after_disk")));
        while !marker.exists() {
            std::thread::sleep(PAUSE_STEP);
        }
        assert!(!paused.is_finished());
        std::fs::remove_file(&marker).unwrap();
        assert_eq!(paused.join().unwrap(), Ok(()));
    }

    #[test]
    fn a_plan_that_cannot_be_read_is_refused() {
        let bad = [
            "",
            "put.after_disk",
            "put.after_dusk=kill",
            "put.after_disk=die",
            "put.after_disk=error:x",
            "put.after_disk=pause:",
        ];
        for text in bad {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
