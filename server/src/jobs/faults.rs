//! Places where a test cuts into a job: before a step, after its outside half, after its record.
//!
//! The environment variable `BERTH_FAULTS` holds rules, separated by commas:
//!
//! ```text
//!   create_server.place.before=kill
//!   create_server.boot.after_run=error
//!   create_server.undo.place.after_record=pause:/tmp/marker
//!   └── kind ───┘ └undo┘ └step┘ └─ point ──┘└── what ──────┘
//! ```
//!
//! | point | when |
//! | --- | --- |
//! | `before` | before the step's outside half begins |
//! | `after_run` | the outside half is done, nothing is recorded |
//! | `after_record` | the step is done and committed, the next has not begun |
//!
//! | what | does |
//! | --- | --- |
//! | `kill` | the process kills itself with signal 9 |
//! | `error` | the step fails for good, so that the job is undone; an undo fails once and is tried again |
//! | `retry` | the step fails once and is tried again |
//! | `twice` | the outside half runs a second time (only `after_run`) |
//! | `pause:FILE` | writes FILE and waits until somebody removes it |
//!
//! Each rule works once in the life of a process. Without the variable nothing of this happens.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often a pause looks whether its file is gone.
const PAUSE_POLL: Duration = Duration::from_millis(20);

/// The rules in force.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<[Rule]>);

#[derive(Debug)]
struct Rule {
    place: String,
    what: What,
    spent: AtomicBool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Kill,
    Error,
    Retry,
    Twice,
    Pause(PathBuf),
}

/// What the runner must do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Error,
    Retry,
    Twice,
}

/// Where in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Point {
    Before,
    AfterRun,
    AfterRecord,
}

impl Point {
    const fn word(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::AfterRun => "after_run",
            Self::AfterRecord => "after_record",
        }
    }
}

impl Faults {
    /// Waits, dies, or answers what to do, if a rule names this place.
    pub(super) async fn at(&self, kind: &str, undo: bool, step: &str, point: Point) -> Option<Effect> {
        if self.0.is_empty() {
            return None;
        }
        let undo = if undo { "undo." } else { "" };
        let place = format!("{kind}.{undo}{step}.{}", point.word());
        let rule = self.0.iter().find(|r| r.place == place && !r.spent.swap(true, Ordering::SeqCst))?;
        tracing::warn!(place, what = ?rule.what, "A fault is put in, as BERTH_FAULTS asks.");
        match &rule.what {
            What::Kill => die(),
            What::Pause(file) => {
                pause(file).await;
                None
            }
            What::Error => Some(Effect::Error),
            What::Retry => Some(Effect::Retry),
            What::Twice => Some(Effect::Twice),
        }
    }
}

fn die() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    std::process::abort()
}

async fn pause(file: &Path) {
    if let Err(error) = tokio::fs::write(file, "").await {
        tracing::error!("The marker {} cannot be written: {error}", file.display());
        return;
    }
    while tokio::fs::try_exists(file).await.unwrap_or(false) {
        tokio::time::sleep(PAUSE_POLL).await;
    }
}

impl FromStr for Faults {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rules = text.split(',').map(str::trim).filter(|rule| !rule.is_empty()).map(rule);
        Ok(Self(rules.collect::<Result<_, _>>()?))
    }
}

fn rule(text: &str) -> Result<Rule, String> {
    let bad = |why: &str| format!("BERTH_FAULTS: “{text}” {why}.");
    let (place, what) = text.split_once('=').ok_or_else(|| bad("has no “=”"))?;
    let point = match place.split('.').collect::<Vec<_>>()[..] {
        [_, _, point] | [_, "undo", _, point] => point,
        _ => return Err(bad("is not KIND.STEP.POINT or KIND.undo.STEP.POINT")),
    };
    let points = [Point::Before, Point::AfterRun, Point::AfterRecord];
    let point = points.into_iter().find(|p| p.word() == point);
    let point = point.ok_or_else(|| bad("names no point: before, after_run, after_record"))?;
    let what = match what {
        "kill" => What::Kill,
        "error" if point != Point::AfterRecord => What::Error,
        "retry" if point != Point::AfterRecord => What::Retry,
        "twice" if point == Point::AfterRun => What::Twice,
        _ => match what.strip_prefix("pause:") {
            Some(file) if !file.is_empty() => What::Pause(file.into()),
            _ => return Err(bad("asks for what cannot be done there")),
        },
    };
    Ok(Rule { place: place.to_owned(), what, spent: AtomicBool::new(false) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_rule_works_once_and_only_at_its_place() {
        let faults: Faults = "a.x.before=error, a.undo.x.before=retry,a.x.after_run=twice".parse().unwrap();
        assert_eq!(faults.at("a", false, "y", Point::Before).await, None);
        assert_eq!(faults.at("a", false, "x", Point::Before).await, Some(Effect::Error));
        assert_eq!(faults.at("a", false, "x", Point::Before).await, None);
        assert_eq!(faults.at("a", true, "x", Point::Before).await, Some(Effect::Retry));
        assert_eq!(faults.at("a", false, "x", Point::AfterRun).await, Some(Effect::Twice));
    }

    #[tokio::test]
    async fn a_pause_lasts_until_its_file_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("here");
        let faults: Faults = format!("a.x.before=pause:{}", file.display()).parse().unwrap();
        let paused = tokio::spawn(async move { faults.at("a", false, "x", Point::Before).await });
        while !file.exists() {
            tokio::task::yield_now().await;
        }
        assert!(!paused.is_finished());
        std::fs::remove_file(&file).unwrap();
        assert_eq!(paused.await.unwrap(), None);
    }

    #[test]
    fn a_rule_that_cannot_work_is_refused() {
        for bad in [
            "x",
            "a.b=kill",
            "a.b.sometime=kill",
            "a.b.before=dance",
            "a.b.before=twice",
            "a.b.after_record=error",
            "a.b.before=pause:",
        ] {
            assert!(bad.parse::<Faults>().is_err(), "{bad}");
        }
        assert!("".parse::<Faults>().is_ok());
    }
}
