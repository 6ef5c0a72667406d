//! The agent's functions as commands, made from their list: a group for each room, `berth-agent vm …`,
//! in it a command for each function, whose arguments come from its path and its request.

use berth_model::agent::{ImageFile, ImageFileList, Node, Run, RunList, Screenshot, Vm, VmList};
use bytes::Bytes;
use clap::{Arg, ArgMatches, Command};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::client::read;
use super::print::{self, Output};
use super::shown::Shown;
use super::words::{self, Words};
use super::{CliError, Common, files, run};
use crate::clock;
use crate::functions::{List, Listed};

/// How long one request waits for a long function, in seconds, before its progress is shown anew.
const LOOK_EVERY_S: u32 = 1;

/// What each room is, for the help.
const ROOMS: &[(&str, &str)] = &[
    ("node", "The node itself"),
    ("vm", "Virtual machines"),
    ("kept", "Disks that were kept when their VM was deleted"),
    ("guest", "What goes on inside a guest"),
    ("console", "Consoles of VMs"),
    ("image", "Image files"),
    ("backup", "Backups of VMs' disks"),
    ("moving", "Moving VMs between nodes"),
    ("nic", "Network cards"),
    ("firewall", "Firewalls of network cards"),
    ("network", "The guests' network"),
    ("traffic", "What addresses have carried"),
    ("pool", "Places for volumes"),
    ("volume", "Disks that live longer than VMs"),
    ("snapshot", "Snapshots of VMs' disks"),
    ("samples", "Counters of VMs"),
    ("run", "The log of functions"),
    ("certificate", "The agent's certificate"),
];

/// The functions.
pub struct Functions {
    list: List,
}

impl Functions {
    /// Reads the list.
    pub fn new() -> Self {
        Self { list: List::new() }
    }

    /// A command for each room.
    pub fn groups(&self) -> Vec<Command> {
        ROOMS.iter().map(|(room, about)| self.group(room, about)).collect()
    }

    fn group(&self, room: &'static str, about: &'static str) -> Command {
        let functions = self.list.functions.iter().filter(|function| parts(function).0 == room);
        let mut group = Command::new(room).about(about).subcommands(functions.map(|f| self.command(f)));
        group = match room {
            "vm" => group.subcommand(files::console_command()),
            "image" => group.subcommand(files::import_command()),
            _ => group,
        };
        // `berth-agent node` shows it.
        if room == "node" { group } else { group.subcommand_required(true).arg_required_else_help(true) }
    }

    fn command(&self, function: &Listed) -> Command {
        let about = function.summary.trim_end_matches('.');
        let long = [function.summary, &function.description].join("\n\n");
        let targets = targets(function).map(|name| Arg::new(name).required(true).help(target_help(name)));
        let words = Words::new(function.request.as_ref(), &self.list.schemas);
        Command::new(verb(function))
            .about(about.to_owned())
            .long_about(long.trim().to_owned())
            .args(targets)
            .args(words.args())
    }

    /// Is this a room?
    pub fn has(&self, group: &str) -> bool {
        ROOMS.iter().any(|(room, _)| *room == group)
    }

    /// `functions`: the list.
    pub fn list(&self, as_json: bool) -> Result<(), CliError> {
        let table = |functions: &Vec<Listed>| {
            let rows: Vec<_> =
                functions.iter().map(|f| vec![f.name.to_owned(), f.summary.to_owned()]).collect();
            print::table(&["FUNCTION", "WHAT IT DOES"], &rows)
        };
        Output::new(as_json).show(&self.list.functions, table)
    }

    /// Runs the command of a function.
    pub fn run(&self, common: &Common, group: &str, words: &ArgMatches) -> Result<(), CliError> {
        let (verb_given, words) = words.subcommand().unwrap_or(("get", words));
        match (group, verb_given) {
            ("vm", "console") => return files::console(common, words),
            ("image", "import") => return files::import(common, words),
            _ => {}
        }
        let named = |function: &&Listed| parts(function).0 == group && verb(function) == verb_given;
        let function = self.list.functions.iter().find(named);
        let function =
            function.ok_or_else(|| CliError::Usage(format!("There is no {group} {verb_given}.")))?;
        let values: Vec<String> = targets(function)
            .map(|name| words.get_one::<String>(name).cloned().unwrap_or_default())
            .collect();
        (function.check)(&values).map_err(|(_, rule)| CliError::Usage(rule.to_owned()))?;
        let request = match &function.request {
            None => json!({}),
            Some(_) => Words::new(function.request.as_ref(), &self.list.schemas).request(words)?,
        };
        let answer = run::block_on(ask(common, function, &path(function, &values), &request))?;
        self.show(common, function, &values, &answer)
    }

    fn show(
        &self,
        common: &Common,
        function: &Listed,
        values: &[String],
        answer: &Bytes,
    ) -> Result<(), CliError> {
        let output = Output::new(common.json);
        let vms = |vms: &[Vm]| print::vms(vms, clock::now());
        match function.answer.as_ref().map(|schema| (schema, words::reference(schema))) {
            None => output.say(&done(function, values)),
            Some((_, Some("Node"))) => output.show(&read::<Node>(answer)?, print::node),
            Some((_, Some("Vm"))) => output.show(&read::<Vm>(answer)?, |vm| vms(std::slice::from_ref(vm))),
            Some((_, Some("VmList"))) => output.show(&read::<VmList>(answer)?, |list| vms(&list.vms)),
            Some((_, Some("Screenshot"))) if !common.json => output.file(&read::<Screenshot>(answer)?.png),
            Some((_, Some("ImageFile"))) => {
                output.show(&read::<ImageFile>(answer)?, |image| print::images(std::slice::from_ref(image)))
            }
            Some((_, Some("ImageFileList"))) => {
                output.show(&read::<ImageFileList>(answer)?, |list| print::images(&list.images))
            }
            Some((_, Some("RunList"))) => {
                output.show(&read::<RunList>(answer)?, |list| print::runs(&list.runs))
            }
            Some((schema, _)) => {
                output.show(&read::<Shown>(answer)?, |shown| shown.text(schema, &self.list.schemas))
            }
        }
    }
}

/// What a function did that answers nothing.
fn done(function: &Listed, values: &[String]) -> String {
    let thing = match (parts(function).0, values.first()) {
        ("vm" | "guest", Some(id)) => format!("VM {id}"),
        ("image", Some(sha256)) => format!("Image {sha256}"),
        ("volume", Some(id)) => format!("Volume {id}"),
        ("snapshot", Some(_)) => format!("The snapshot {}", values.last().map_or("", String::as_str)),
        (room, Some(name)) => format!("The {room} {name}"),
        (room, None) => format!("The {room}"),
    };
    let is_gone = function.method == "DELETE";
    if is_gone { format!("{thing} is gone.") } else { format!("{thing}: done.") }
}

/// Asks until the function has ended, and shows how far it is.
async fn ask(common: &Common, function: &Listed, path: &str, request: &Value) -> Result<Bytes, CliError> {
    let client = common.client()?;
    let bar = ProgressBar::new(0);
    loop {
        let wait = (function.kind == berth_model::agent::function::Kind::Long).then_some(LOOK_EVERY_S);
        let (goes_on, answer) = client.function(function.method, path, request, wait).await?;
        if !goes_on {
            bar.finish_and_clear();
            return Ok(answer);
        }
        show_progress(&bar, &read(&answer)?);
    }
}

fn show_progress(bar: &ProgressBar, run: &Run) {
    let Some(progress) = &run.progress else { return };
    let form = match progress.total {
        0 => "{msg} {spinner}",
        _ => "{msg} {wide_bar} {percent}% {eta}",
    };
    if let Ok(style) = ProgressStyle::with_template(form) {
        bar.set_style(style);
    }
    bar.set_message(progress.phase.clone());
    bar.set_length(progress.total);
    bar.set_position(progress.done);
}

/// The room and the verb.
fn parts(function: &Listed) -> (&'static str, &'static str) {
    function.name.split_once('.').unwrap_or((function.name, ""))
}

/// As it is typed.
fn verb(function: &Listed) -> String {
    parts(function).1.replace(['_', '.'], "-")
}

/// The names in the path.
fn targets(function: &Listed) -> impl Iterator<Item = &'static str> {
    function.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

fn path(function: &Listed, values: &[String]) -> String {
    targets(function)
        .zip(values)
        .fold(function.path.to_owned(), |path, (name, value)| path.replace(&format!("{{{name}}}"), value))
}

fn target_help(name: &str) -> &'static str {
    match name {
        "vm" => "The VM's number",
        "run" => "The run's number",
        "mac" => "The card's MAC address",
        "network" => "The private network's number",
        "volume" => "The volume's number",
        "sha256" | "checksum" => "Its checksum",
        _ => "Its name",
    }
}
