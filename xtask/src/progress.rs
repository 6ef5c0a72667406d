//! Lines that say what happens and how long it took: `[ 3/11] Build the guest images … 41 s`.
//!
//! On a terminal the line of the running step shows the seconds and what the program behind it last
//! said. Elsewhere a step that takes long says so every half minute.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead as _, BufReader, IsTerminal as _, Read, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::{shell, stop};

/// Lines of a program's output that are shown when it fails.
const TAIL_LINES: usize = 40;
const REDRAW: Duration = Duration::from_millis(200);
const REMIND: Duration = Duration::from_secs(30);

/// A row of steps.
#[derive(Debug)]
pub struct Progress {
    total: usize,
    done: usize,
    logs: PathBuf,
}

/// The step that runs.
#[derive(Debug, Clone)]
pub struct Step {
    said: Arc<Mutex<String>>,
    log: PathBuf,
}

impl Progress {
    /// `total` steps; what their programs print goes to files in `logs`.
    pub fn new(total: usize, logs: PathBuf) -> Self {
        Self { total, done: 0, logs }
    }

    /// Runs a step and shows it. What it gives back as text is shown behind the time.
    pub fn step(&mut self, title: &str, work: impl FnOnce(&Step) -> Result<String>) -> Result<()> {
        stop::check()?;
        self.done += 1;
        let width = self.total.to_string().len();
        let head = format!("[{:>width$}/{}] {title} …", self.done, self.total);
        std::fs::create_dir_all(&self.logs)
            .with_context(|| format!("Cannot make {}.", self.logs.display()))?;
        let step = Step { said: Arc::default(), log: self.logs.join(format!("{}.log", slug(title))) };
        // The log is of this run alone.
        drop(std::fs::remove_file(&step.log));
        let began = Instant::now();
        let shown = Shown::start(head.clone(), step.said.clone(), began);
        let result = work(&step);
        shown.end();
        let took = seconds(began.elapsed());
        match &result {
            Ok(note) if note.is_empty() => println!("{head} {took}"),
            Ok(note) => println!("{head} {took} ({note})"),
            Err(_) => println!("{head} failed after {took}"),
        }
        result.map(drop)
    }
}

impl Step {
    /// Shows this as what is being done.
    pub fn say(&self, text: &str) {
        if let Ok(mut said) = self.said.lock() {
            text.trim().clone_into(&mut said);
        }
    }

    /// Runs a program; its output goes to the step's log, its last lines into the error if it fails.
    pub fn run(&self, command: &mut Command) -> Result<()> {
        let shown = shell::shown(command);
        self.say(&shown);
        let mut log = File::options().create(true).append(true).open(&self.log)?;
        writeln!(log, "$ {shown}")?;
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("Cannot run {shown}."))?;
        let (lines, received) = mpsc::channel();
        let readers = [
            child.stdout.take().map(|out| read_lines(out, lines.clone())),
            child.stderr.take().map(|out| read_lines(out, lines)),
        ];
        let mut tail = VecDeque::new();
        let mut is_asked = false;
        loop {
            let line = match received.recv_timeout(REDRAW) {
                Ok(line) => line,
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    if stop::is_asked() && !is_asked {
                        shell::ask_to_end(&child);
                        is_asked = true;
                    }
                    continue;
                }
            };
            writeln!(log, "{line}")?;
            self.say(&line);
            if tail.len() == TAIL_LINES {
                tail.pop_front();
            }
            tail.push_back(line);
        }
        for reader in readers.into_iter().flatten() {
            drop(reader.join());
        }
        let status = child.wait()?;
        stop::check()?;
        if !status.success() {
            let tail = Vec::from(tail).join("\n");
            bail!("{shown} failed ({status}):\n{tail}\nAll of it is in {}.", self.log.display());
        }
        Ok(())
    }
}

fn read_lines(from: impl Read + Send + 'static, to: mpsc::Sender<String>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if to.send(line).is_err() {
                return;
            }
        }
    })
}

/// The line of the running step, kept fresh by a thread until the step ends.
struct Shown {
    end: mpsc::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Shown {
    fn start(head: String, said: Arc<Mutex<String>>, began: Instant) -> Self {
        let (end, ended) = mpsc::channel();
        let terminal = std::io::stdout().is_terminal();
        let every = if terminal { REDRAW } else { REMIND };
        let thread = thread::spawn(move || {
            while ended.recv_timeout(every) == Err(mpsc::RecvTimeoutError::Timeout) {
                let said = said.lock().map(|said| said.clone()).unwrap_or_default();
                let line = format!("{head} {}  {said}", seconds(began.elapsed()));
                if terminal {
                    print!("\r\x1b[2K{}", fit(&line, columns()));
                    drop(std::io::stdout().flush());
                } else {
                    println!("{}", fit(&line, 160));
                }
            }
            if terminal {
                print!("\r\x1b[2K");
            }
        });
        Self { end, thread }
    }

    fn end(self) {
        drop(self.end);
        drop(self.thread.join());
    }
}

fn columns() -> usize {
    rustix::termios::tcgetwinsize(std::io::stdout()).map_or(80, |size| usize::from(size.ws_col).max(20)) - 1
}

fn fit(line: &str, columns: usize) -> String {
    line.chars().filter(|c| !c.is_control()).take(columns).collect()
}

fn slug(title: &str) -> String {
    title.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}

/// A duration for people: `0.4 s`, `41 s`, `3 min 20 s`.
pub fn seconds(duration: Duration) -> String {
    match duration.as_secs() {
        0..10 => format!("{:.1} s", duration.as_secs_f64()),
        whole @ 10..120 => format!("{whole} s"),
        whole => format!("{} min {} s", whole / 60, whole % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        let read = |ms| seconds(Duration::from_millis(ms));
        assert_eq!([read(412), read(41_900), read(200_000)], ["0.4 s", "41 s", "3 min 20 s"]);
    }

    #[test]
    fn a_program_that_fails_shows_its_last_words() {
        let dir = std::env::temp_dir().join(format!("xtask-progress-{}", std::process::id()));
        let mut progress = Progress::new(1, dir.clone());
        let error = progress
            .step("Try", |step| {
                step.run(shell::command("sh").args(["-c", "seq 100; echo broken >&2; exit 1"]))?;
                Ok(String::new())
            })
            .unwrap_err()
            .to_string();
        std::fs::remove_dir_all(dir).unwrap();
        assert!(error.contains("broken") && error.contains("\n100") && !error.contains("\n20\n"), "{error}");
    }
}
