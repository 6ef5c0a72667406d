//! `cargo xtask test`: everything that must hold, in stages.
//!
//! ```text
//! lint      formats, clippy with warnings denied, for this machine and for browsers
//! build     all test programs and both binaries, once
//! generated the checked queries, the OpenAPI document and the settings are as the sources say
//! model … agent   the packages' own tests; server and end2end on a PostgreSQL made for this run; the agent's
//!           README is as they prove
//! end2end   real processes, then a real browser on an installation of its own in target/test-up
//! ```
//!
//! A stage that fails does not keep the others from running. What the programs print goes to files in
//! `target/xtask`, and of a stage that fails also to the terminal.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;

use crate::instance::{Instance, Ports};
use crate::place::{Place, text};
use crate::postgres::Postgres;
use crate::progress::{Progress, seconds};
use crate::report::{Count, Report, count};
use crate::up::{self, Need};
use crate::{demo, generate, images, libvirt, preflight, readme, shell, stop, tools};

/// A part of the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// All of them.
    All,
    /// Formats, clippy, generated files.
    Lint,
    /// The types that cross wires.
    Model,
    /// The web app's own.
    App,
    /// The control plane, on a real PostgreSQL.
    Server,
    /// The agent, on libvirt's test driver and on real QEMU.
    Agent,
    /// Real processes and a real browser.
    End2end,
    /// This tool's own.
    Xtask,
}

impl Part {
    const PACKAGES: [Self; 6] =
        [Self::Model, Self::App, Self::Xtask, Self::Server, Self::Agent, Self::End2end];

    /// The folder of its package.
    fn folder(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::App => "app",
            Self::Server => "server",
            Self::Agent => "agent",
            Self::End2end => "end2end",
            Self::Xtask => "xtask",
            Self::All | Self::Lint => "",
        }
    }

    fn needs(self) -> &'static [Need] {
        match self {
            Self::All => {
                &[Need::Packages, Need::Tools, Need::S3Server, Need::Clients, Need::Images, Need::App]
            }
            Self::End2end => &[Need::Packages, Need::Tools, Need::Clients, Need::Images, Need::App],
            Self::Agent => &[Need::Packages, Need::S3Server, Need::Images],
            // clippy looks at the app as browsers get it.
            Self::Lint => &[Need::Packages, Need::Tools],
            Self::Model | Self::App | Self::Server | Self::Xtask => &[Need::Packages],
        }
    }

    fn drives_machines(self) -> bool {
        matches!(self, Self::Agent | Self::End2end)
    }
}

/// A built test program.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Program {
    folder: PathBuf,
    name: String,
    file: PathBuf,
}

/// What the stages share.
struct Run<'a> {
    place: &'a Place,
    report: Report,
}

/// `cargo xtask test [PART…]`.
pub fn run(place: &Place, parts: &[Part]) -> Result<ExitCode> {
    let all = parts.is_empty() || parts.contains(&Part::All);
    let wanted = |part: Part| all || parts.contains(&part);
    let mut needs = [&Need::ALL[..], &[Need::S3Server, Need::Clients]].concat();
    needs.retain(|need| {
        if all { Part::All.needs().contains(need) } else { parts.iter().any(|p| p.needs().contains(need)) }
    });
    std::fs::create_dir_all(place.logs())
        .with_context(|| format!("Cannot make {}.", place.logs().display()))?;

    let began = Instant::now();
    let mut run = Run { place, report: Report::default() };
    up::prepare(place, &needs)?;
    run.report.add("set-up", Count::default(), began.elapsed());
    if wanted(Part::Lint) {
        run.lint()?;
    }
    let packages: Vec<_> = Part::PACKAGES.into_iter().filter(|part| wanted(*part)).collect();
    if !packages.is_empty() || wanted(Part::Lint) {
        run.packages(&packages, wanted(Part::Lint))?;
    }
    println!("{}", run.report.text());
    Ok(if run.report.total().failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `cargo xtask bench`.
pub fn bench(place: &Place, arguments: &[String]) -> Result<()> {
    up::prepare(place, &[Need::Packages, Need::Tools, Need::Images, Need::App])?;
    let daemons = libvirt::start()?;
    let measured = measure(place, arguments);
    for daemon in daemons.iter().rev() {
        daemon.end()?;
    }
    measured
}

fn measure(place: &Place, arguments: &[String]) -> Result<()> {
    let postgres = Postgres::start()?;
    let mut build = shell::cargo();
    build.args([
        "build",
        "--release",
        "-p",
        "berth-server",
        "-p",
        "berth-agent",
        "-p",
        "berth-end2end",
        "--bins",
    ]);
    // What it measures is started by the benchmark itself, from beside it.
    let mut bench = Command::new(place.target.join("release/bench"));
    bench.args(arguments).current_dir(&place.root).stdin(Stdio::null());
    environment(place, &postgres, &mut bench)?;
    if arguments.is_empty() || arguments.iter().any(|part| part == "agent-move") {
        bench.env("BERTH_TEST_MOVES", moving_program(place)?);
    }
    let mut bench = shell::as_root(bench);
    for command in [generate::offline(&mut build).current_dir(&place.root), &mut bench] {
        let shown = shell::shown(command);
        let child = command.spawn().with_context(|| format!("Cannot run {shown}."))?;
        ensure!(shell::wait(child)?.success(), "{shown} failed.");
    }
    Ok(())
}

/// The agent's tests of moving, which tell how long a guest stood still.
fn moving_program(place: &Place) -> Result<PathBuf> {
    let mut cargo = shell::cargo();
    cargo.args(["build", "--release", "-p", "berth-agent", "--bins", "--test", "guest_moving"]);
    cargo.arg("--message-format=json-render-diagnostics");
    generate::offline(&mut cargo).current_dir(&place.root);
    let output = cargo.stderr(Stdio::inherit()).output().context("Cannot run cargo.")?;
    ensure!(output.status.success(), "The tests of moving cannot be built.");
    let mut programs = programs(&String::from_utf8_lossy(&output.stdout), &place.root);
    Ok(programs.pop().context("cargo built no test of moving")?.file)
}

impl Run<'_> {
    fn lint(&mut self) -> Result<()> {
        let cargo = |arguments: &[&str]| {
            let mut cargo = shell::cargo();
            cargo.args(arguments).current_dir(&self.place.root);
            generate::offline(&mut cargo);
            cargo
        };
        let format = cargo(&["fmt", "--all", "--", "--check"]);
        let host = cargo(&[
            "clippy",
            "--workspace",
            "--exclude",
            "berth-app",
            "--all-targets",
            "--keep-going",
            "--",
            "-D",
            "warnings",
        ]);
        let wasm = cargo(&[
            "clippy",
            "--package",
            "berth-app",
            "--target",
            "wasm32-unknown-unknown",
            "--",
            "-D",
            "warnings",
        ]);
        self.check("format", format)?;
        self.check("clippy", host)?;
        self.check("clippy of the app", wasm)
    }

    /// A check that passes or fails as a whole.
    fn check(&mut self, stage: &str, mut command: Command) -> Result<()> {
        let began = Instant::now();
        let (ended_well, log) = self.capture(stage, &mut command)?;
        if !ended_well {
            show(&log)?;
        }
        self.stage(stage, Count::one(ended_well), began.elapsed());
        Ok(())
    }

    fn stage(&mut self, stage: &str, count: Count, took: Duration) {
        let result = if count.failed == 0 { "ok" } else { "FAILED" };
        println!("{stage} … {result}, {}", seconds(took));
        self.report.add(stage, count, took);
    }

    /// Runs a command with its output in a file. Did it end well, and where is the file?
    fn capture(&self, name: &str, command: &mut Command) -> Result<(bool, PathBuf)> {
        stop::check()?;
        let log = self.place.logs().join(format!("test-{}.log", name.replace(' ', "-")));
        let file = std::fs::File::create(&log)?;
        let shown = shell::shown(command);
        let child = command.stdout(file.try_clone()?).stderr(file).spawn();
        let status = shell::wait(child.with_context(|| format!("Cannot run {shown}."))?)?;
        Ok((status.success(), log))
    }

    fn packages(&mut self, parts: &[Part], lint: bool) -> Result<()> {
        let programs = self.build()?;
        if lint {
            self.generated();
        }
        if parts.is_empty() {
            return Ok(());
        }
        let postgres = Postgres::start()?;
        let mut daemons = Vec::new();
        if parts.iter().any(|part| part.drives_machines()) {
            daemons = libvirt::start()?;
        }
        let tested = parts.iter().try_for_each(|part| self.package(*part, &programs, &postgres));
        for daemon in daemons.iter().rev() {
            daemon.end()?;
        }
        tested
    }

    /// Builds everything in one go: what two packages share is built once, with the same features. What of it
    /// is broken is a failed stage, and the rest is tested.
    fn build(&mut self) -> Result<Vec<Program>> {
        let began = Instant::now();
        stop::check()?;
        println!("building the tests …");
        let mut cargo = shell::cargo();
        cargo.args([
            "build",
            "--workspace",
            "--bins",
            "--tests",
            "--keep-going",
            "--message-format=json-render-diagnostics",
        ]);
        generate::offline(&mut cargo).current_dir(&self.place.root).env("CARGO_TERM_COLOR", "never");
        let log = self.place.logs().join("test-build.log");
        let output = cargo.stderr(std::fs::File::create(&log)?).output().context("Cannot run cargo.")?;
        stop::check()?;
        if !output.status.success() {
            show(&log)?;
        }
        let programs = programs(&String::from_utf8_lossy(&output.stdout), &self.place.root);
        // Compiling is no test: it counts only when it fails.
        let count = Count { passed: 0, failed: u64::from(!output.status.success()) };
        self.stage("build", count, began.elapsed());
        Ok(programs)
    }

    fn generated(&mut self) {
        let began = Instant::now();
        let mut progress = Progress::new(2, self.place.logs());
        let queries = progress.step("Check the queries", |step| generate::queries(self.place, step, true));
        let documents = progress
            .step("Compare the OpenAPI document and the settings", |_| generate::documents(self.place, true));
        let mut count = Count::default();
        for checked in [queries, documents] {
            if let Err(error) = &checked {
                println!("{error:#}");
            }
            count.passed += u64::from(checked.is_ok());
            count.failed += u64::from(checked.is_err());
        }
        self.stage("generated files", count, began.elapsed());
    }

    fn package(&mut self, part: Part, programs: &[Program], postgres: &Postgres) -> Result<()> {
        let began = Instant::now();
        let folder = self.place.root.join(part.folder());
        let mut total = Count::default();
        let proofs = if part == Part::Agent { Some(readme::begin(self.place)?) } else { None };
        for program in programs.iter().filter(|program| program.folder == folder) {
            let mut command = shell::command(&program.file);
            command.current_dir(&folder).env("CARGO_MANIFEST_DIR", &folder);
            environment(self.place, postgres, &mut command)?;
            if let Some(proofs) = &proofs {
                command.env("BERTH_PROOFS", proofs);
            }
            if part.drives_machines() {
                command = shell::as_root(command);
            }
            let name = format!("{} {}", part.folder(), program.name);
            total = sum(total, self.tests(&name, &mut command)?);
        }
        if part == Part::Agent {
            total = sum(total, self.readme(total));
        }
        if part == Part::End2end {
            total = sum(total, self.browser(postgres)?);
        }
        self.stage(part.folder(), total, began.elapsed());
        Ok(())
    }

    /// Is the agent's README what its tests proved? Asked only when all of them passed.
    fn readme(&self, tests: Count) -> Count {
        if tests.failed > 0 {
            println!("  agent README: not compared, because tests failed");
            return Count::default();
        }
        let checked = readme::check(self.place);
        if let Err(error) = &checked {
            println!("{error:#}");
        }
        Count::one(checked.is_ok())
    }

    /// Runs a program of tests and counts.
    fn tests(&self, name: &str, command: &mut Command) -> Result<Count> {
        let began = Instant::now();
        let (ended_well, log) = self.capture(name, command)?;
        let output = String::from_utf8_lossy(&std::fs::read(&log)?).into_owned();
        let counted = count(&output);
        let count = match counted {
            // It died, or failed for a reason that is no test's.
            None => Count::one(ended_well),
            Some(count) if count.failed == 0 && !ended_well => sum(count, Count::one(false)),
            Some(count) => count,
        };
        if count.failed > 0 {
            show(&log)?;
        }
        println!("  {name}: {} passed, {} failed, {}", count.passed, count.failed, seconds(began.elapsed()));
        Ok(count)
    }

    /// The browser's tests, on an installation of their own that goes afterwards.
    fn browser(&self, postgres: &Postgres) -> Result<Count> {
        let folder = self.place.root.join("end2end/browser");
        let files = test_files(&folder);
        if files.is_empty() {
            return Ok(Count::default());
        }
        let instance = Instance::new(self.place, "test-up");
        instance.remove()?;
        std::fs::create_dir_all(&instance.folder)?;
        let ports = Ports { control: preflight::free_port()?, agent: preflight::free_port()? };
        let mut progress = Progress::new(5, self.place.logs());
        let tested = up::start(&instance, ports, &mut progress).and_then(|()| {
            let mut node = shell::command("node");
            node.args(["--test", "--test-reporter=tap", "--test-concurrency=1"])
                .args(files)
                .current_dir(folder);
            node.envs(demo::read_env(&instance.folder.join("env"))?);
            self.tests("end2end browser", environment(self.place, postgres, &mut node)?)
        });
        let count = tested.or_else(|error| {
            stop::check()?;
            println!("The browser's installation did not start: {error:#}");
            anyhow::Ok(Count::one(false))
        });
        if count.as_ref().is_ok_and(|count| count.failed > 0) {
            keep_logs(&instance, &self.place.logs());
        }
        instance.remove()?;
        count
    }
}

/// What tests find in their environment.
fn environment<'a>(place: &Place, postgres: &Postgres, command: &'a mut Command) -> Result<&'a mut Command> {
    command.env("BERTH_TEST_DATABASE_URL", postgres.url());
    command.env("BERTH_TINY_IMAGE", images::disk(place, "tiny"));
    command.env("BERTH_TINY_KERNEL", place.images().join("tiny.vmlinuz"));
    command.env("BERTH_TINY_INITRD", place.images().join("tiny.initrd"));
    command.env("BERTH_TEST_RESCUE_IMAGE", images::disk(place, images::RESCUE.name));
    command.env("BERTH_DEBIAN_IMAGE", images::disk(place, "debian-12"));
    command.env("BERTH_TEST_MOTO_SERVER", tools::s3_server(place));
    command.env("BERTH_TEST_CLIENTS", tools::clients(place));
    command.env("BERTH_NODE_MODULES", tools::node_modules(place));
    command.env("PATH", tools::path(place)?);
    Ok(command)
}

fn sum(one: Count, other: Count) -> Count {
    Count { passed: one.passed + other.passed, failed: one.failed + other.failed }
}

/// The test programs among cargo's messages.
fn programs(messages: &str, root: &Path) -> Vec<Program> {
    let program = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
            return None;
        }
        let manifest = Path::new(message["manifest_path"].as_str()?);
        let name = message["target"]["name"].as_str()?;
        let kind = message["target"]["kind"][0].as_str()?;
        let file = message["executable"].as_str()?;
        let folder = manifest.parent()?.to_owned();
        folder.starts_with(root).then(|| Program {
            folder,
            name: format!("{name} ({kind})"),
            file: file.into(),
        })
    };
    let mut programs: Vec<_> = messages.lines().filter_map(program).collect();
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    programs
}

/// `*.test.mjs`, sorted.
fn test_files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    files.retain(|name| name.ends_with(".test.mjs"));
    files.sort();
    files
}

/// Most of a log that is shown.
const SHOWN_LINES_MAX: usize = 400;

fn show(log: &Path) -> Result<()> {
    let output = std::fs::read(log)?;
    let output = String::from_utf8_lossy(&output);
    // Of Rust's tests, what failed stands behind this word.
    let from = output.find("\nfailures:\n").unwrap_or(0);
    let lines: Vec<_> = output[from..].lines().collect();
    let skipped = lines.len().saturating_sub(SHOWN_LINES_MAX);
    println!("{}", lines[skipped..].join("\n"));
    println!("All of it is in {}.", text(log)?);
    Ok(())
}

/// The installation goes, and with it its logs: unless they are needed.
fn keep_logs(instance: &Instance, folder: &Path) {
    for name in ["control plane", "agent"] {
        let log = instance.log(name);
        if let Some(file) = log.file_name() {
            let kept = folder.join(format!("test-{}", file.to_string_lossy()));
            drop(std::fs::copy(&log, &kept));
            println!("{}", crate::daemon::tail(&kept));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_read_from_cargo_s_messages() {
        let artifact = |test: bool, manifest: &str, executable: &str| {
            format!(
                "{{\"reason\":\"compiler-artifact\",\"manifest_path\":\"{manifest}\",\"profile\":{{\"test\":{test}}},\
                 \"target\":{{\"name\":\"api\",\"kind\":[\"test\"]}},\"executable\":{executable}}}"
            )
        };
        let messages = [
            artifact(true, "/r/server/Cargo.toml", "\"/t/api-1\""),
            artifact(false, "/r/server/Cargo.toml", "\"/t/berth\""),
            artifact(true, "/r/model/Cargo.toml", "null"),
            "{\"reason\":\"build-finished\",\"success\":true}".to_owned(),
        ]
        .join("\n");
        let found = programs(&messages, Path::new("/r"));
        let expected =
            Program { folder: "/r/server".into(), name: "api (test)".to_owned(), file: "/t/api-1".into() };
        assert_eq!(found, [expected]);
    }

    #[test]
    fn only_test_files_are_run() {
        let folder = std::env::temp_dir().join(format!("xtask-files-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        for name in ["b.test.mjs", "a.test.mjs", "chromium.mjs"] {
            std::fs::write(folder.join(name), "").unwrap();
        }
        let files = test_files(&folder);
        std::fs::remove_dir_all(folder).unwrap();
        assert_eq!(files, ["a.test.mjs", "b.test.mjs"]);
    }
}
