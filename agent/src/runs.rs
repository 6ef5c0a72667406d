//! Functions under way, and the log of those that ended.
//!
//! The log is `runs.jsonl` in the data folder, one [`Run`] a line. When it has grown to [`LOG_MAX_BYTES`]
//! it becomes `runs.jsonl.1`, and a new one begins: so much is kept, and no more.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_model::agent::{Progress, Run, RunId};
use berth_model::error::ApiError;

use crate::clock;
use crate::error::Refusal;
use crate::hypervisor::HypervisorError;
use crate::work::Asked;

/// Ended runs that are shown.
const SHOWN: usize = 1000;
/// Largest log before a new one begins.
const LOG_MAX_BYTES: u64 = 8 * 1024 * 1024;

/// What a function that works is given: where it says how far it is, and hears that it should stop.
#[derive(Debug)]
pub struct Cx {
    run: RunId,
    progress: Arc<Mutex<Option<Progress>>>,
    cancelled: AtomicBool,
}

/// Says from another thread how far a function is.
#[derive(Debug, Clone)]
pub struct Meter(Arc<Mutex<Option<Progress>>>);

impl Meter {
    /// So much of the phase is done, as a part of one.
    pub fn part(&self, part: f64) {
        if let Some(progress) = self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            progress.done = (progress.total as f64 * part) as u64;
        }
    }
}

impl Cx {
    /// For a function that nobody watches.
    pub fn unwatched() -> Self {
        Self { run: RunId(0), progress: Arc::default(), cancelled: AtomicBool::new(false) }
    }

    /// The run it is.
    pub fn run(&self) -> RunId {
        self.run
    }

    /// Begins a phase of `total` bytes or pieces; 0 when that is not known.
    pub fn phase(&self, phase: &str, total: u64) {
        *self.progress() = Some(Progress { phase: phase.to_owned(), done: 0, total });
    }

    /// So much of the phase is done in all.
    pub fn done(&self, done: u64) {
        if let Some(progress) = self.progress().as_mut() {
            progress.done = done;
        }
    }

    /// An error when the function should stop. To be asked where nothing would be left behind.
    pub fn check(&self) -> Result<(), HypervisorError> {
        if self.is_cancelled() {
            return Err(HypervisorError::Conflict("The function was cancelled.".to_owned()));
        }
        Ok(())
    }

    /// Should the function stop?
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// To say from another thread how far the function is.
    pub fn meter(&self) -> Meter {
        Meter(Arc::clone(&self.progress))
    }

    /// Asks the function to stop.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    fn progress(&self) -> MutexGuard<'_, Option<Progress>> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All runs.
#[derive(Debug)]
pub struct Runs {
    log: PathBuf,
    /// Held while the log is written.
    writing: Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: i64,
    active: BTreeMap<RunId, (Run, Arc<Cx>)>,
    /// The newest last.
    ended: VecDeque<Run>,
}

impl Runs {
    /// Reads the log in `folder`. A line that was cut off is passed over.
    pub fn open(folder: &Path) -> std::io::Result<Self> {
        let log = folder.join("runs.jsonl");
        let mut ended = VecDeque::new();
        for path in [log.with_extension("jsonl.1"), log.clone()] {
            let file = match fs::File::open(&path) {
                Ok(file) => file,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            for line in BufReader::new(file).split(b'\n') {
                if let Ok(run) = serde_json::from_slice::<Run>(&line?) {
                    keep(&mut ended, run);
                }
            }
        }
        end_last_line(&log)?;
        let last = ended.iter().map(|run| run.id.0).max().unwrap_or(0);
        let state = State { last, active: BTreeMap::new(), ended };
        Ok(Self { log, writing: Mutex::default(), state: Mutex::new(state) })
    }

    /// A function begins.
    pub fn begin(&self, asked: &Asked) -> Arc<Cx> {
        let mut state = self.state();
        state.last += 1;
        let id = RunId(state.last);
        let cx = Arc::new(Cx { run: id, progress: Arc::default(), cancelled: AtomicBool::new(false) });
        let run = Run {
            id,
            function: asked.function.to_owned(),
            on: asked.on.clone(),
            asked_by: asked.by.clone(),
            began: clock::now(),
            ended: None,
            progress: None,
            error: None,
        };
        state.active.insert(id, (run, Arc::clone(&cx)));
        cx
    }

    /// It has ended.
    pub fn end(&self, cx: &Cx, error: Option<&Refusal>) {
        let mut state = self.state();
        let Some((run, _)) = state.active.remove(&cx.run) else { return };
        let error: Option<ApiError> = error.map(|refusal| refusal.0.clone());
        let run = Run { ended: Some(clock::now()), progress: cx.progress().clone(), error, ..run };
        keep(&mut state.ended, run.clone());
        drop(state);
        // Apart from those who look: a disk may hang.
        let _one_line_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(e) = self.write(&run) {
            tracing::error!(error = %e, path = %self.log.display(), "the log of functions could not be written");
        }
    }

    /// What is under way and what ended last, newest first.
    pub fn list(&self) -> Vec<Run> {
        let state = self.state();
        let active = state.active.values().rev().map(|(run, cx)| show(run, cx));
        active.chain(state.ended.iter().rev().cloned()).take(SHOWN).collect()
    }

    /// Refuses while any other run is under way; the refusal names it.
    ///
    /// # Errors
    /// `conflict`.
    pub fn idle_but_for(&self, run: RunId) -> Result<(), Refusal> {
        match self.state().active.values().find(|(other, _)| other.id != run) {
            None => Ok(()),
            Some((other, _)) => Err(Refusal::conflict(format!(
                "{} works on {}. Try again when that has ended.",
                other.function, other.on
            ))),
        }
    }

    /// One run, if it is still known.
    pub fn get(&self, id: RunId) -> Option<Run> {
        let state = self.state();
        let active = state.active.get(&id).map(|(run, cx)| show(run, cx));
        active.or_else(|| state.ended.iter().find(|run| run.id == id).cloned())
    }

    /// Asks a function to stop.
    pub fn cancel(&self, id: RunId) -> Option<Run> {
        if let Some((_, cx)) = self.state().active.get(&id) {
            cx.cancel();
        }
        self.get(id)
    }

    fn write(&self, run: &Run) -> std::io::Result<()> {
        if fs::metadata(&self.log).is_ok_and(|file| file.len() >= LOG_MAX_BYTES) {
            fs::rename(&self.log, self.log.with_extension("jsonl.1"))?;
        }
        let mut line = serde_json::to_vec(run)?;
        line.push(b'\n');
        let mut log = fs::File::options().create(true).append(true).open(&self.log)?;
        let before = log.metadata()?.len();
        // Half a line, on a full disk, would swallow the next one.
        log.write_all(&line).inspect_err(|_| drop(log.set_len(before)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A line that a crash cut off must not swallow the next one.
fn end_last_line(log: &Path) -> std::io::Result<()> {
    match fs::read(log) {
        Ok(text) if text.last().is_some_and(|last| *last != b'\n') => {
            fs::File::options().append(true).open(log)?.write_all(b"\n")
        }
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

fn keep(ended: &mut VecDeque<Run>, run: Run) {
    ended.push_back(run);
    if ended.len() > SHOWN {
        ended.pop_front();
    }
}

fn show(run: &Run, cx: &Cx) -> Run {
    Run { progress: cx.progress().clone(), ..run.clone() }
}

#[cfg(test)]
mod tests {
    use berth_model::agent::function::Kind;

    use super::*;

    fn asked(function: &'static str) -> Asked {
        let (on, words, by) = ("VM 1".to_owned(), String::new(), "test".to_owned());
        Asked { function, kind: Kind::Change, on, words, by, wait: None }
    }

    #[test]
    fn what_ended_is_found_again_after_a_restart_and_numbers_go_on() {
        let _proof = crate::proof::pure(&["run.list", "run.get"]);
        let folder = tempfile::tempdir().unwrap();
        let runs = Runs::open(folder.path()).unwrap();
        let (first, second) = (runs.begin(&asked("vm.put")), runs.begin(&asked("vm.delete")));
        first.phase("Copy", 10);
        first.done(4);
        assert_eq!(runs.list()[1].progress.as_ref().map(|p| (p.done, p.total)), Some((4, 10)));
        runs.end(&first, None);
        runs.end(&second, Some(&Refusal::conflict("No.")));
        // A line that a crash cut off.
        fs::File::options()
            .append(true)
            .open(folder.path().join("runs.jsonl"))
            .unwrap()
            .write_all(b"{\"id\"")
            .unwrap();
        let again = Runs::open(folder.path()).unwrap();
        let listed = again.list();
        assert_eq!(listed, runs.list());
        assert_eq!(listed[0].error.as_ref().map(|e| e.message.as_str()), Some("No."));
        let third = again.begin(&asked("vm.put"));
        again.end(&third, None);
        assert_eq!(Runs::open(folder.path()).unwrap().list()[0].id, RunId(3));
    }

    #[test]
    fn a_log_that_has_grown_begins_anew_and_keeps_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let runs = Runs::open(folder.path()).unwrap();
        runs.end(&runs.begin(&asked("vm.put")), None);
        fs::File::options()
            .write(true)
            .open(folder.path().join("runs.jsonl"))
            .unwrap()
            .set_len(LOG_MAX_BYTES)
            .unwrap();
        runs.end(&runs.begin(&asked("vm.put")), None);
        assert!(folder.path().join("runs.jsonl.1").exists());
        assert!(fs::metadata(folder.path().join("runs.jsonl")).unwrap().len() < 1000);
        assert_eq!(Runs::open(folder.path()).unwrap().list().len(), 2);
    }

    #[test]
    fn a_cancelled_function_hears_of_it() {
        let _proof = crate::proof::pure(&["run.cancel"]);
        let folder = tempfile::tempdir().unwrap();
        let runs = Runs::open(folder.path()).unwrap();
        let cx = runs.begin(&asked("vm.put"));
        assert!(cx.check().is_ok());
        assert!(runs.cancel(cx.run()).is_some());
        assert!(cx.check().is_err());
        assert_eq!(runs.cancel(RunId(99)), None);
    }
}
