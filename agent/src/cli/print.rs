//! Answers for people, as tables; or as JSON.

use std::io::{IsTerminal, Write};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use berth_model::agent::{ImageFile, Node, Run, Vm, VmState};
use berth_model::{ByteSize, Timestamp};
use serde::Serialize;

use super::CliError;

/// What a list says that has nothing in it.
pub const NONE: &str = "none";

/// Where answers go.
#[derive(Clone, Copy)]
pub struct Output {
    json: bool,
}

impl Output {
    /// As JSON, or as tables.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Shows an answer.
    pub fn show<T: Serialize>(self, answer: &T, table: impl FnOnce(&T) -> String) -> Result<(), CliError> {
        if self.json {
            let text =
                serde_json::to_string_pretty(answer).map_err(|e| CliError::failed("The answer", &e))?;
            return write(&text);
        }
        write(&table(answer))
    }

    /// Writes a file out as it is, but not onto somebody's screen.
    pub fn file(self, base64: &str) -> Result<(), CliError> {
        if std::io::stdout().is_terminal() {
            return Err(CliError::Usage("This is a file: send it somewhere, like > screen.png.".to_owned()));
        }
        let bytes = BASE64_STANDARD.decode(base64);
        let bytes = bytes.map_err(|e| CliError::failed("The agent's answer makes no sense", &e))?;
        let written = std::io::stdout().write_all(&bytes);
        written.map_err(|e| CliError::failed("The answer could not be written", &e))
    }

    /// Says that something is done; in JSON there is nothing to say.
    pub fn say(self, sentence: &str) -> Result<(), CliError> {
        if self.json { Ok(()) } else { write(sentence) }
    }
}

fn write(text: &str) -> Result<(), CliError> {
    match writeln!(std::io::stdout(), "{}", text.trim_end()) {
        // Whoever reads has seen enough.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|e| CliError::failed("The answer could not be written", &e)),
    }
}

/// A node, a fact a line.
pub fn node(node: &Node) -> String {
    let facts = &node.facts;
    let versions = &facts.versions;
    let or_none = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let mut rows = vec![
        vec!["name".to_owned(), facts.name.clone()],
        vec!["cores".to_owned(), facts.cores.to_string()],
        vec!["memory".to_owned(), size(facts.memory)],
        vec!["storage".to_owned(), format!("{}, {} free", size(facts.storage), size(facts.storage_free))],
        vec!["runs guests by".to_owned(), word(&facts.domain_type)],
        vec!["leases on disks".to_owned(), if facts.storage_leases { "yes" } else { "no" }.to_owned()],
        vec!["agent".to_owned(), or_none(&versions.agent)],
        vec!["libvirt".to_owned(), or_none(&versions.libvirt)],
        vec!["qemu".to_owned(), or_none(&versions.qemu)],
        vec!["kernel".to_owned(), or_none(&versions.kernel)],
        vec![
            "certificate until".to_owned(),
            node.certificate_expires.map_or_else(|| "not enrolled".to_owned(), |t| t.to_string()),
        ],
        vec!["healthy".to_owned(), if node.health.healthy { "yes" } else { "no" }.to_owned()],
    ];
    rows.extend(node.health.faults.iter().map(|fault| vec!["fault".to_owned(), fault.clone()]));
    table(&[], &rows)
}

/// VMs, one a line.
pub fn vms(vms: &[Vm], now: Timestamp) -> String {
    let row = |vm: &Vm| {
        let spec = vm.spec.as_ref();
        let of = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let first_address = spec.and_then(|s| s.nics.iter().flat_map(|nic| &nic.addresses).next());
        vec![
            vm.id.to_string(),
            if vm.saved { "saved".to_owned() } else { word(&vm.state) },
            of(spec.map(|s| s.vcpus.to_string())),
            of(spec.map(|s| s.memory.to_string())),
            of(spec.map(|s| s.disk.to_string())),
            of(first_address.map(|address| address.ip.to_string())),
            of(vm.started.filter(|_| vm.state == VmState::Running).map(|started| age(started, now))),
            of(spec.map(|s| s.seed.hostname.clone())),
        ]
    };
    let rows: Vec<_> = vms.iter().map(row).collect();
    table(&["ID", "STATE", "CPUS", "MEMORY", "DISK", "ADDRESS", "UP", "HOST NAME"], &rows)
}

/// Image files, one a line.
pub fn images(images: &[ImageFile]) -> String {
    let row = |image: &ImageFile| {
        let users = match image.used_by.len() {
            0 => "-".to_owned(),
            1 => "1 VM".to_owned(),
            n => format!("{n} VMs"),
        };
        vec![image.sha256.clone(), size(image.file_size), size(image.disk_size), users]
    };
    let rows: Vec<_> = images.iter().map(row).collect();
    table(&["SHA256", "FILE", "DISK", "USED BY"], &rows)
}

/// Text of a guest without what would steer the terminal.
pub fn harmless(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || *c == '\t').collect()
}

/// Runs, one a line.
pub fn runs(runs: &[Run]) -> String {
    let row = |run: &Run| {
        let how = match (&run.error, &run.progress, run.ended) {
            (Some(error), _, _) => harmless(&error.message),
            (None, Some(progress), None) => harmless(&progress.phase),
            (None, None, None) => "at work".to_owned(),
            (None, _, Some(_)) => "done".to_owned(),
        };
        let took = run.ended.map_or_else(|| "-".to_owned(), |ended| span(run.began, ended));
        // The request's id behind it is for machines.
        let by = run.asked_by.split(',').next().unwrap_or_default();
        let on = if run.on == run.function { "" } else { &run.on };
        let [on, by] = [on, by].map(|text| if text.is_empty() { "-".to_owned() } else { harmless(text) });
        vec![run.id.to_string(), run.function.clone(), on, time(run.began), took, by, how]
    };
    let rows: Vec<_> = runs.iter().map(row).collect();
    table(&["ID", "FUNCTION", "ON", "BEGAN", "TOOK", "ASKED BY", "END"], &rows)
}

/// A point in time to the second, UTC.
pub fn time(at: Timestamp) -> String {
    let text = at.to_string();
    text.get(..19).map_or_else(|| text.clone(), |second| format!("{}Z", second.replace('T', " ")))
}

/// How long something took.
fn span(from: Timestamp, to: Timestamp) -> String {
    match (to.unix_ms() - from.unix_ms()).max(0) {
        ms @ ..1000 => format!("{ms} ms"),
        ms @ ..60_000 => format!("{}.{} s", ms / 1000, ms / 100 % 10),
        _ => age(from, to),
    }
}

/// The word on the wire.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => "-".to_owned(),
    }
}

/// A size for people: two digits behind the point from MiB on.
pub fn size(size: ByteSize) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut value = size.0 as f64;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{} B", size.0) } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// How long ago, in its two largest units.
fn age(since: Timestamp, now: Timestamp) -> String {
    let seconds = ((now.unix_ms() - since.unix_ms()) / 1000).max(0);
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, s) => format!("{m}m{s}s"),
        (0, h, m, _) => format!("{h}h{m}m"),
        (d, h, _, _) => format!("{d}d{h}h"),
    }
}

/// Rows under a head, each column as wide as it must be.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return NONE.to_owned();
    }
    let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
    let all: Vec<&Vec<String>> = (!head.is_empty()).then_some(&head).into_iter().chain(rows).collect();
    let columns = all.iter().map(|row| row.len()).max().unwrap_or(0);
    let width = |n: usize| all.iter().filter_map(|row| row.get(n)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|n| width(n).unwrap_or(0)).collect();
    let line = |row: &&Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    all.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_each_other() {
        let rows = [vec!["1".to_owned(), "running".to_owned()], vec!["100".to_owned(), "off".to_owned()]];
        assert_eq!(table(&["ID", "STATE"], &rows), "ID   STATE\n1    running\n100  off");
        assert_eq!(table(&["ID", "STATE"], &[]), "none");
    }

    #[test]
    fn ages_and_sizes_are_short() {
        let at = |s: i64| Timestamp::from_unix_ms(s * 1000).unwrap();
        let ages = [(5, "5s"), (65, "1m5s"), (3_700, "1h1m"), (90_000, "1d1h"), (-5, "0s")];
        for (seconds, text) in ages {
            assert_eq!(age(at(0), at(seconds)), text);
        }
        let at_ms = |ms: i64| Timestamp::from_unix_ms(ms).unwrap();
        for (ms, text) in [(7, "7 ms"), (1_250, "1.2 s"), (65_000, "1m5s")] {
            assert_eq!(span(at_ms(0), at_ms(ms)), text);
        }
        assert_eq!(time(at_ms(1_500)), "1970-01-01 00:00:01Z");
        assert_eq!(size(ByteSize(512)), "512 B");
        assert_eq!(size(ByteSize::mib(1536)), "1.5 GiB");
    }

    #[test]
    fn a_guest_cannot_steer_the_terminal() {
        assert_eq!(harmless("a\u{1b}[2Jb\tc\r"), "a[2Jb\tc");
    }
}
