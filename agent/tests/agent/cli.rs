//! The command line, as an operator types it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use berth_model::agent::{Node, Vm, VmList, VmState};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::support::{PATIENCE, spec};

/// `berth-agent serve` with a simulator; killed when dropped.
pub struct Served {
    pub home: TempDir,
    pub child: Child,
    program: PathBuf,
}

impl Served {
    pub fn start() -> Self {
        Self::start_from(|_| PathBuf::from(env!("CARGO_BIN_EXE_berth-agent")))
    }

    /// From a program that `make` puts somewhere.
    pub fn start_from(make: impl FnOnce(&Path) -> PathBuf) -> Self {
        let home = tempfile::tempdir().unwrap();
        let config = format!(
            "name = \"a-node\"\ndata_dir = \"{}\"\nlisten = \"127.0.0.1:0\"\nhypervisor = \"simulator\"\n",
            home.path().display()
        );
        std::fs::write(home.path().join("agent.toml"), config).unwrap();
        let program = make(home.path());
        let child = spawn(&program, home.path());
        Self { home, child, program }
    }

    /// What it wrote since it runs.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("agent.log")).unwrap()
    }

    /// kill -9, and a new one in the same folder.
    fn kill_and_start(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(&self.program, self.home.path());
    }

    pub fn run(&self, args: &[&str]) -> Output {
        command(self.home.path()).args(args).output().unwrap()
    }

    pub fn text(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn json<T: serde::de::DeserializeOwned>(&self, args: &[&str]) -> T {
        serde_json::from_str(&self.text(&[&["--json"], args].concat())).unwrap()
    }

    /// The exit code and what was said.
    pub fn refused(&self, args: &[&str]) -> (i32, String) {
        let output = self.run(args);
        assert!(output.stdout.is_empty());
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    /// An image in the store and a spec that uses it, as files.
    pub fn with_image_and_spec(&self) -> (String, String) {
        let mut image = vec![0; 4096];
        image[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        image[24..32].copy_from_slice(&(1_u64 << 30).to_be_bytes());
        let sha256 = hex::encode(Sha256::digest(&image));
        std::fs::write(self.home.path().join("image.qcow2"), image).unwrap();
        let printed = self.text(&["image", "import", self.home.path().join("image.qcow2").to_str().unwrap()]);
        assert!(printed.contains(&sha256) && printed.contains("1.0 GiB"), "{printed}");
        let mut spec = spec();
        spec.image.sha256.clone_from(&sha256);
        let file = self.home.path().join("spec.json");
        std::fs::write(&file, serde_json::to_vec(&spec).unwrap()).unwrap();
        (sha256, file.to_str().unwrap().to_owned())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(home: &Path) -> Command {
    command_of(Path::new(env!("CARGO_BIN_EXE_berth-agent")), home)
}

pub fn command_of(program: &Path, home: &Path) -> Command {
    let mut command = Command::new(program);
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("BERTH_AGENT_") {
            command.env_remove(variable);
        }
    }
    command.arg("--config").arg(home.join("agent.toml")).stdin(Stdio::null());
    command
}

fn spawn(program: &Path, home: &Path) -> Child {
    let mut child = command_of(program, home).arg("serve").stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("the agent runs") {
        assert!(log.read_line(&mut said).unwrap() > 0, "the agent did not start: {said}");
    }
    // Keeps reading, so that the agent never waits for its log.
    let mut kept = std::fs::File::options().create(true).append(true).open(home.join("agent.log")).unwrap();
    std::thread::spawn(move || std::io::copy(&mut log, &mut kept));
    child
}

#[test]
fn vms_and_images_are_handled_over_the_socket() {
    let served = Served::start();
    let (sha256, spec) = served.with_image_and_spec();
    assert!(served.text(&["vm", "put", "12", &spec]).contains("running"));
    let table = served.text(&["vm", "list"]);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("ID  STATE"), "{table}");
    assert!(lines[1].starts_with("12  running  2     1 GiB   10 GiB"), "{table}");
    let list: VmList = served.json(&["vm", "list"]);
    assert_eq!(list.vms.len(), 1);
    for (verb, state) in [
        ("reboot", "running"),
        ("reset", "running"),
        ("shutdown", "off"),
        ("start", "running"),
        ("power-off", "off"),
    ] {
        let vm: Value = served.json(&["vm", verb, "12"]);
        assert_eq!(vm["state"], state, "{verb}");
    }
    assert!(served.text(&["image", "list"]).contains("1 VM"));
    let (code, said) = served.refused(&["image", "delete", &sha256]);
    assert_eq!((code, said.as_str()), (5, "berth-agent: The disk of VM 12 stands on this image.\n"));
    assert_eq!(served.text(&["vm", "delete", "12"]), "VM 12 is gone.\n");
    assert!(served.text(&["image", "delete", &sha256]).contains("is gone"));
    assert_eq!(served.text(&["--json", "vm", "delete", "12"]), "", "there is nothing to say in JSON");
}

#[test]
fn lists_name_their_columns_in_the_models_order_and_say_when_there_is_nothing() {
    let served = Served::start();
    for list in [["vm", "list"], ["image", "list"], ["volume", "list"], ["kept", "list"], ["run", "list"]] {
        assert_eq!(served.text(&list), "none\n", "{list:?}");
    }
    let pools = served.text(&["pool", "list"]);
    let columns: Vec<&str> = pools.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(columns[..3], ["NAME", "KIND", "SIZE"], "{pools}");
    let as_json = served.text(&["--json", "pool", "list"]);
    let at = |field: &str| as_json.find(field).unwrap();
    assert!(at("\"name\"") < at("\"kind\"") && at("\"kind\"") < at("\"free\""), "{as_json}");
}

#[test]
fn the_node_is_shown() {
    let _proof = berth_agent::proof::driver(&["node.get"]);
    let served = Served::start();
    let until = Instant::now() + PATIENCE;
    let node = loop {
        let node: Node = served.json(&["node"]);
        if node.health.healthy {
            break node;
        }
        assert!(Instant::now() < until, "{:?}", node.health);
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(node.facts.name, "a-node");
    assert!(node.facts.cores > 0 && node.facts.memory.0 > 0 && node.facts.storage.0 > 0);
    let table = served.text(&["node"]);
    for line in ["runs guests by     simulator", "certificate until  not enrolled", "healthy            yes"]
    {
        assert!(table.lines().any(|l| l == line), "{table}");
    }
}

#[test]
fn what_goes_wrong_is_said_in_a_sentence_with_a_code() {
    let served = Served::start();
    let (_, spec) = served.with_image_and_spec();
    let wrong = std::fs::read_to_string(&spec).unwrap().replace("\"vcpus\":2", "\"vcpus\":0,\"color\":1");
    std::fs::write(served.home.path().join("wrong.json"), wrong).unwrap();
    let wrong = served.home.path().join("wrong.json").to_str().unwrap().to_owned();
    let cases: [(&[&str], i32, &str); 8] = [
        (&["vm", "start", "99"], 4, "There is no VM 99 on this node."),
        (&["vm", "put", "1", &wrong], 1, "color: "),
        (&["vm", "put", "1", "/nowhere.json"], 2, "Cannot read /nowhere.json"),
        (&["image", "delete", "abc"], 2, "SHA-256"),
        (&["--socket", "/nowhere.sock", "vm", "list"], 3, "No agent was reached at /nowhere.sock"),
        (&["enrol", "--url", "http://127.0.0.1:1", "--token", "7.x"], 2, "as `berth node add` prints it"),
        (&["enrol", "--url", "http://berth.example", "--token", "7.x"], 2, "without https"),
        (&["serve"], 1, "Another berth-agent works in"),
    ];
    for (args, code, sentence) in cases {
        let output = served.run(args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(sentence), "{args:?}: {said}");
    }
    let mut bad = command(served.home.path());
    let output = bad.env("BERTH_AGENT_LISTEN", "7701").arg("serve").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("listen: "));
}

#[test]
fn a_console_shows_its_last_lines_and_nothing_else() {
    let served = Served::start();
    let (_, spec) = served.with_image_and_spec();
    served.text(&["vm", "put", "3", &spec]);
    let all = served.text(&["vm", "console", "3"]);
    assert!(all.starts_with("Simulated VM 3\nStarted at "), "{all}");
    assert_eq!(served.text(&["vm", "console", "3", "-n", "1"]).lines().count(), 1);
    assert_eq!(served.json::<Value>(&["vm", "console", "3"])["lines"].as_array().unwrap().len(), 2);
    assert_eq!(served.refused(&["vm", "console", "4"]).0, 4);
}

#[test]
fn a_screenshot_is_a_file_and_keys_are_typed() {
    let served = Served::start();
    let (_, spec) = served.with_image_and_spec();
    served.text(&["vm", "put", "3", &spec]);
    assert!(served.run(&["vm", "screenshot", "3"]).stdout.starts_with(b"\x89PNG"));
    let keys = ["vm", "send-keys", "3", "--keys", "ctrl", "--keys", "alt", "--keys", "delete"];
    assert_eq!(served.text(&keys), "VM 3: done.\n");
    assert!(served.text(&["console", "ticket", "3", "--kind", "vnc"]).contains("/v1/vms/3/console/vnc"));
}

#[test]
fn an_agent_that_was_killed_finds_its_vms_again() {
    let mut served = Served::start();
    let (_, spec) = served.with_image_and_spec();
    for id in ["1", "2", "3"] {
        served.text(&["vm", "put", id, &spec]);
    }
    served.text(&["vm", "power-off", "2"]);
    let before: VmList = served.json(&["vm", "list"]);
    served.kill_and_start();
    assert_eq!(served.json::<VmList>(&["vm", "list"]), before);
    let again: Vm = served.json(&["vm", "put", "1", &spec]);
    assert_eq!(again, before.vms[0], "told again it is as it was");
    assert_eq!(before.vms[1].state, VmState::Off);
}

#[test]
fn a_signal_stops_the_agent_cleanly() {
    for signal in ["-TERM", "-INT"] {
        let mut served = Served::start();
        let pid = served.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        assert!(served.child.wait().unwrap().success(), "{signal}");
        assert!(!served.home.path().join("agent.sock").exists());
    }
}

#[test]
fn completions_are_printed_without_a_configuration() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_berth-agent")).args(["completions", "bash"]).output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains("complete -F"));
}
