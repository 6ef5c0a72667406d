//! `cargo xtask up` and `down`: a whole Berth from this checkout.

use std::fs::File;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use rustix::fs::FlockOperation;

use crate::demo::PEOPLE;
use crate::instance::{Instance, Ports};
use crate::place::Place;
use crate::progress::{Progress, Step, seconds};
use crate::{app, generate, images, install, preflight, shell, stop, tools};

/// Where it lives below the target folder.
const NAME: &str = "up";
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// `cargo xtask up`.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Leave it running; `cargo xtask down` ends it.
    #[arg(long)]
    pub detach: bool,
    /// Start from nothing: the old installation goes, with its servers.
    #[arg(long)]
    pub reset: bool,
    /// Port of the control plane, on this machine only.
    #[arg(long, default_value_t = 7700, value_name = "N")]
    pub port: u16,
    /// Port of the agent, on this machine only.
    #[arg(long, default_value_t = 7701, value_name = "N")]
    pub agent_port: u16,
}

/// What a command needs to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Debian packages.
    Packages,
    /// Build tools.
    Tools,
    /// The S3 server of the agent's tests.
    S3Server,
    /// The public API's clients, of the end-to-end tests.
    Clients,
    /// Guest images.
    Images,
    /// `berth` and `berth-agent`.
    Programs,
    /// The web app.
    App,
}

impl Need {
    /// Everything an installation needs.
    pub const ALL: [Self; 5] = [Self::Packages, Self::Tools, Self::Images, Self::Programs, Self::App];

    fn provide(self, place: &Place, progress: &mut Progress) -> Result<()> {
        match self {
            Self::Packages => progress.step("Install Debian packages", install::install),
            Self::S3Server => progress.step("Install an S3 server", |step| {
                let is_new = tools::install_s3_server(place, step)?;
                Ok(if is_new { "for the agent's tests" } else { "nothing is missing" }.to_owned())
            }),
            Self::Clients => progress.step("Install the public API's clients", |step| {
                let is_new = tools::install_clients(place, step)?;
                Ok(if is_new { "for the end-to-end tests" } else { "nothing is missing" }.to_owned())
            }),
            Self::Tools => progress.step("Install build tools", |step| tools::install(place, step)),
            Self::Images => progress.step("Build the guest images", |step| images::build(place, step)),
            Self::Programs => {
                progress.step("Build the control plane and the agent", |step| build(place, step))
            }
            Self::App => progress.step("Build the web app", |step| app::build(place, step)),
        }
    }
}

/// Provides what some commands need, and nothing else.
pub fn prepare(place: &Place, needs: &[Need]) -> Result<()> {
    let mut progress = Progress::new(needs.len() + 1, place.logs());
    provide(place, needs, &mut progress)
}

/// Provides needs after a look at the machine: one step each.
pub fn provide(place: &Place, needs: &[Need], progress: &mut Progress) -> Result<()> {
    progress.step("Look at this machine", |_| preflight::machine(place).map(|()| String::new()))?;
    needs.iter().try_for_each(|need| need.provide(place, progress))
}

/// The same profile as the tests': what one has built, the other need not build again.
fn build(place: &Place, step: &Step) -> Result<String> {
    let mut cargo = shell::cargo();
    cargo.args(["build", "--package", "berth-server", "--package", "berth-agent", "--bins"]);
    step.run(generate::offline(&mut cargo).current_dir(&place.root))?;
    Ok(String::new())
}

/// `cargo xtask up`.
pub fn up(place: &Place, options: &Options) -> Result<()> {
    let began = Instant::now();
    let instance = Instance::new(place, NAME);
    let ports = Ports { control: options.port, agent: options.agent_port };
    let _alone = lock(&instance)?;
    if options.reset {
        println!("Removing the old installation …");
        instance.remove()?;
    }
    if instance.is_up() {
        println!("Berth is running already: {}\nEnd it with `cargo xtask down`.", instance.running().url);
        return Ok(());
    }
    if instance.running().daemons.iter().all(|daemon| !daemon.is_alive()) {
        preflight::port(ports.control, "--port")?;
        preflight::port(ports.agent, "--agent-port")?;
    }
    let mut progress = Progress::new(Need::ALL.len() + 6, place.logs());
    provide(place, &Need::ALL, &mut progress)?;
    if let Err(error) = start(&instance, ports, &mut progress) {
        if let Err(left) = instance.end() {
            println!("{left:#}");
        }
        return Err(error);
    }
    println!("\n{}\nReady after {}.", welcome(&instance)?, seconds(began.elapsed()));
    if options.detach {
        println!("It goes on by itself; end it with `cargo xtask down`.");
        return Ok(());
    }
    println!("Ctrl-C ends it.");
    let watched = watch(&instance, ports);
    if watched.is_err()
        && let Err(left) = instance.end()
    {
        println!("{left:#}");
    }
    watched
}

/// Starts an installation for which everything is built: five steps.
pub fn start(instance: &Instance, ports: Ports, progress: &mut Progress) -> Result<()> {
    progress.step("Start libvirt", |_| {
        instance.prepare(ports)?;
        instance.start_libvirt()
    })?;
    progress.step("Start the control plane", |_| instance.start_control_plane(ports))?;
    progress.step("Add catalogue, people and images", |step| instance.furnish(step, ports))?;
    progress.step("Enrol the node", |_| instance.enrol(ports))?;
    progress.step("Start the agent", |_| instance.start_agent(ports))
}

/// `cargo xtask down`.
pub fn down(place: &Place) -> Result<()> {
    let instance = Instance::new(place, NAME);
    if instance.running().daemons.is_empty() {
        println!("Berth is not running.");
        return Ok(());
    }
    instance.end()?;
    println!("Berth has ended. Its data stays for the next `cargo xtask up`; --reset removes it.");
    Ok(())
}

/// One `up` at a time. Its file stands beside the folder, which `--reset` removes.
fn lock(instance: &Instance) -> Result<File> {
    let path = instance.folder.with_extension("lock");
    let made = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| File::create(&path));
    let file = made.with_context(|| format!("Cannot make {}.", path.display()))?;
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        bail!("Another `cargo xtask up` is at work in this checkout: wait for it, or end it.");
    }
    Ok(file)
}

fn welcome(instance: &Instance) -> Result<String> {
    let demo = instance.demo()?;
    let mut lines = vec![format!("Berth is running at {}", instance.running().url), String::new()];
    for person in PEOPLE {
        let password = demo.passwords.get(person.role).map_or("", String::as_str);
        lines.push(format!("  {:<9} {:<22} {password}", person.role, person.email));
    }
    lines.extend([
        String::new(),
        format!("For scripts: . {}", instance.folder.join("env").display()),
        format!("Logs: {}", instance.folder.display()),
    ]);
    Ok(lines.join("\n"))
}

/// Until Ctrl-C. A program that was killed is started again: what it did goes on.
fn watch(instance: &Instance, ports: Ports) -> Result<()> {
    while !stop::wait(LOOK_EVERY) {
        if instance.running().daemons.is_empty() {
            println!("Ended by `cargo xtask down`.");
            return Ok(());
        }
        for name in instance.ended() {
            println!("The {name} ended; starting it again. Its log: {}", instance.log(name).display());
            let _note = if name == "agent" {
                instance.start_agent(ports)
            } else {
                instance.start_control_plane(ports)
            }?;
        }
    }
    println!("\nEnding …");
    instance.end()
}
