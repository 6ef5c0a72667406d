//! What a fresh installation is filled with, so that there is something to see: a catalogue, three people,
//! a token, the images. Written down step by step: a start that was cut off goes on where it was.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// Letters of a password: none that is mistaken for another. 32, so that each is 5 bits.
const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// Somebody who can sign in.
#[derive(Debug, Clone, Copy)]
pub struct Person {
    /// What the person may do, and the person's name in `env`.
    pub role: &'static str,
    /// To sign in with.
    pub email: &'static str,
    /// For people.
    pub name: &'static str,
}

/// One of each role.
pub const PEOPLE: [Person; 3] = [
    Person { role: "owner", email: "ines@berth.example", name: "Ines Carvalho" },
    Person { role: "staff", email: "tomas@berth.example", name: "Tomas Wolny" },
    Person { role: "customer", email: "mara@larkspur.example", name: "Mara Lindqvist" },
];

/// Who the token and the orders belong to.
pub const CUSTOMER: Person = PEOPLE[2];

/// What is done already, and the secrets that were made.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Demo {
    /// Passwords by role, of people that exist.
    pub passwords: BTreeMap<String, String>,
    /// A read-write token of the customer's project.
    pub token: Option<String>,
    /// Checksums of the images that were added, by name.
    pub images: BTreeMap<String, String>,
    /// The agent's port, once the node is enrolled.
    pub agent_port: Option<u16>,
    #[serde(skip)]
    file: PathBuf,
}

impl Demo {
    /// Reads what is done; nothing, when nothing was.
    pub fn load(file: PathBuf) -> Result<Self> {
        let mut demo = match std::fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).with_context(|| {
                format!("{} is damaged: start anew with `cargo xtask up --reset`.", file.display())
            })?,
            Err(_) => Self::default(),
        };
        demo.file = file;
        Ok(demo)
    }

    /// Writes it down, for the owner's eyes only.
    pub fn save(&self) -> Result<()> {
        write_private(&self.file, &serde_json::to_string_pretty(self)?)
    }

    /// The text of `target/up/env`: shell assignments.
    pub fn env(&self, url: &str) -> String {
        let mut text = "# How to reach the running system, for scripts: . target/up/env\n".to_owned();
        let mut line = |name: &str, value: &str| {
            let _infallible = writeln!(text, "{name}={}", quoted(value));
        };
        line("BERTH_URL", url);
        line("BERTH_TOKEN", self.token.as_deref().unwrap_or_default());
        for person in PEOPLE {
            let role = person.role.to_uppercase();
            line(&format!("BERTH_{role}_EMAIL"), person.email);
            line(
                &format!("BERTH_{role}_PASSWORD"),
                self.passwords.get(person.role).map_or("", String::as_str),
            );
        }
        text
    }
}

/// The assignments of an `env` file.
pub fn read_env(file: &Path) -> Result<Vec<(String, String)>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("Cannot read {}.", file.display()))?;
    let lines = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
    Ok(lines.map(|(name, value)| (name.to_owned(), unquoted(value))).collect())
}

/// Writes a file that only its owner may read, whole or not at all.
pub fn write_private(file: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let fresh = file.with_extension("new");
    drop(std::fs::remove_file(&fresh));
    let mut open = std::fs::OpenOptions::new();
    let mut written = open.write(true).create_new(true).mode(0o600).open(&fresh)?;
    written.write_all(text.as_bytes())?;
    std::fs::rename(&fresh, file).with_context(|| format!("Cannot write {}.", file.display()))
}

/// A new password: 80 random bits in groups that can be typed on a phone.
pub fn password() -> Result<String> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(spell(bytes))
}

fn spell(bytes: [u8; 16]) -> String {
    let groups: Vec<String> =
        bytes.chunks(4).map(|group| group.iter().map(|b| letter(*b)).collect()).collect();
    groups.join("-")
}

fn letter(byte: u8) -> char {
    char::from(LETTERS[usize::from(byte % 32)])
}

/// As a POSIX shell reads it back, whatever is in it.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

fn unquoted(value: &str) -> String {
    let inner = value.strip_prefix('\'').and_then(|v| v.strip_suffix('\'')).unwrap_or(value);
    inner.replace(r"'\''", "'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_the_env_file_back() {
        let hard = r#"it's "$HOME" `x` \n"#;
        let demo = Demo { token: Some(hard.to_owned()), ..Demo::default() };
        let text = demo.env("http://127.0.0.1:7700");
        let shell = crate::shell::output(
            crate::shell::command("sh").args(["-c", &format!("{text}printf %s \"$BERTH_TOKEN\"")]),
        );
        assert_eq!(shell.unwrap(), hard);
        let file = std::env::temp_dir().join(format!("xtask-env-{}", std::process::id()));
        write_private(&file, &text).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
        let read = read_env(&file).unwrap();
        std::fs::remove_file(file).unwrap();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(read[0], ("BERTH_URL".to_owned(), "http://127.0.0.1:7700".to_owned()));
        assert_eq!(read[1], ("BERTH_TOKEN".to_owned(), hard.to_owned()));
    }

    #[test]
    fn a_password_is_spelled_in_groups() {
        let bytes: [u8; 16] = std::array::from_fn(|i| u8::try_from(i * 17).unwrap());
        let password = spell(bytes);
        assert_eq!(password.len(), 19);
        assert_eq!(password.split('-').map(str::len).collect::<Vec<_>>(), [4; 4]);
    }
}
