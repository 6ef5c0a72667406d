//! The agent's own update: real processes, a good program and broken ones.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use berth_model::agent::{UpdateState, UpdateStatus, VmList};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::cli::Served;
use crate::support::PATIENCE;

/// An agent that runs from a copy of the program, which may be replaced.
fn served() -> (Served, PathBuf) {
    let served = Served::start_from(|home| {
        let program = home.join("berth-agent");
        // By another process: a file that this one wrote may be held open by what other tests just started.
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_berth-agent")).arg(&program).status();
        assert!(copied.unwrap().success());
        program
    });
    let program = served.home.path().join("berth-agent");
    (served, program)
}

fn sha256(file: &Path) -> String {
    hex::encode(Sha256::digest(std::fs::read(file).unwrap()))
}

/// Writes a program that is asked for its version as the agent is, and then does something else.
fn script(served: &Served, serve: &str) -> PathBuf {
    let file = served.home.path().join("broken");
    let text = format!(
        "#!/bin/sh\ncase \"$*\" in *--version*) echo berth-agent 9.9.9 ;; *check-config*) ;; *) {serve} ;; esac\n"
    );
    std::fs::write(&file, text).unwrap();
    file
}

/// Waits until the update is settled and the agent answers.
fn settled(served: &Served) -> UpdateStatus {
    let until = Instant::now() + PATIENCE;
    loop {
        let answered = served.run(&["--json", "node", "update-status"]);
        if let Ok(status) = serde_json::from_slice::<UpdateStatus>(&answered.stdout)
            && status.state != UpdateState::Trying
        {
            return status;
        }
        assert!(Instant::now() < until, "the update is settled: {answered:?}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

fn update(served: &Served, file: &Path, patience: &str) -> Value {
    let source = file.to_str().unwrap();
    served.json(&["node", "update", "--source", source, "--sha256", &sha256(file), "--patience", patience])
}

#[test]
fn a_good_version_takes_over_in_the_same_process_and_vms_are_found_again() {
    let _proof = berth_agent::proof::driver(&["node.update", "node.update_status"]);
    let (served, program) = served();
    let (_, spec) = served.with_image_and_spec();
    served.text(&["vm", "put", "1", &spec]);
    let before: VmList = served.json(&["vm", "list"]);
    assert_eq!(served.refused(&["node", "update-status"]).0, 4);

    // Another file that is the same program: what follows an ELF file's end is not looked at.
    let mut bytes = std::fs::read(&program).unwrap();
    bytes.extend_from_slice(b"another version");
    let new = served.home.path().join("new-version");
    std::fs::write(&new, bytes).unwrap();
    let old_sha256 = sha256(&program);
    assert_eq!(update(&served, &new, "30")["state"], "trying");
    let status = settled(&served);
    assert_eq!((status.state, status.reason), (UpdateState::Done, None));
    assert_eq!(sha256(&program), sha256(&new));
    assert_eq!(sha256(&program.with_extension("old")), old_sha256, "the one before stays beside it");
    assert_eq!(served.json::<VmList>(&["vm", "list"]), before);
    let exe = std::fs::read_link(format!("/proc/{}/exe", served.child.id())).unwrap();
    assert_eq!(exe, program, "it is the process that was started");
    assert!(!served.home.path().join("update/program").exists(), "nothing is left of the trial");
}

#[test]
fn a_package_is_taken_too() {
    let _proof = berth_agent::proof::driver(&["node.update"]);
    let (served, program) = served();
    let tree = served.home.path().join("tree");
    std::fs::create_dir_all(tree.join("DEBIAN")).unwrap();
    std::fs::create_dir_all(tree.join("usr/bin")).unwrap();
    let control =
        "Package: berth-agent\nVersion: 9\nArchitecture: amd64\nMaintainer: a <a@b>\nDescription: x\n";
    std::fs::write(tree.join("DEBIAN/control"), control).unwrap();
    let mut bytes = std::fs::read(&program).unwrap();
    bytes.extend_from_slice(b"packed");
    std::fs::write(tree.join("usr/bin/berth-agent"), &bytes).unwrap();
    let package = served.home.path().join("berth-agent.deb");
    let made = Command::new("dpkg-deb")
        .args(["-Znone", "--build", tree.to_str().unwrap(), package.to_str().unwrap()])
        .output()
        .expect("dpkg-deb is in Debian's package dpkg");
    assert!(made.status.success(), "{made:?}");
    update(&served, &package, "30");
    assert_eq!(settled(&served).state, UpdateState::Done);
    assert_eq!(std::fs::read(&program).unwrap(), bytes);
}

#[test]
fn a_version_that_ends_or_never_answers_is_rolled_back() {
    let _proof = berth_agent::proof::driver(&["node.update", "node.update_status"]);
    let (served, program) = served();
    let (_, spec) = served.with_image_and_spec();
    served.text(&["vm", "put", "1", &spec]);
    let before: VmList = served.json(&["vm", "list"]);
    let own = sha256(&program);
    for (serve, patience, reason) in [
        ("exit 7", "30", "It ended by itself (exit status: 7)"),
        ("exec sleep 1000", "1", "not healthy within 1 s"),
    ] {
        let broken = script(&served, serve);
        let status = update(&served, &broken, patience);
        assert_eq!(status["to"], "9.9.9");
        let status = settled(&served);
        assert_eq!(status.state, UpdateState::RolledBack);
        assert!(status.reason.as_ref().is_some_and(|said| said.contains(reason)), "{status:?}");
        assert_eq!(sha256(&program), own);
        assert_eq!(served.json::<VmList>(&["vm", "list"]), before, "the old one serves again");
    }
}

#[test]
fn what_is_no_agent_is_refused_and_the_agent_goes_on() {
    let _proof = berth_agent::proof::driver(&["node.update"]);
    let (served, program) = served();
    let own = sha256(&program);
    let file = served.home.path().join("file");
    let refused = |text: &str, sha: Option<String>| {
        std::fs::write(&file, text).unwrap();
        let sha = sha.unwrap_or_else(|| sha256(&file));
        served.refused(&["node", "update", "--source", file.to_str().unwrap(), "--sha256", &sha])
    };
    for (text, sha, sentence) in [
        ("garbage", None, "does not start"),
        ("#!/bin/sh\necho something else\n", None, "no berth-agent"),
        (
            "#!/bin/sh\ncase \"$*\" in *version*) echo berth-agent 9 ;; *) echo bad key >&2; exit 2 ;; esac\n",
            None,
            "bad key",
        ),
        ("anything", Some("a".repeat(64)), "The file's SHA-256 is"),
        ("!<arch>\nno package", None, "does not start"),
    ] {
        let (code, said) = refused(text, sha);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(sentence), "{said}");
    }
    let nowhere = ["node", "update", "--source", "/nowhere", "--sha256", &"a".repeat(64)];
    assert!(served.refused(&nowhere).1.contains("/nowhere cannot be read"));
    assert_eq!(served.refused(&["node", "update-status"]).0, 4, "none of them was begun");
    assert_eq!(sha256(&program), own);
    let mode = std::fs::metadata(&program).unwrap().permissions().mode();
    assert_eq!(mode & 0o111, 0o111);
}
