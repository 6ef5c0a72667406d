//! `agent/README.md`: its head is written by hand, the rest is made by a run of the agent's tests.
//!
//! ```text
//! berth-agent functions --json ─┐
//! what the tests proved ────────┼─► the rest
//! agent/reasons.toml ───────────┘
//! ```
//!
//! `reasons.toml` says why a function is not proved in a column: a table for a function, or for a whole
//! room as `"run.*"`, with a sentence for `pure`, `driver` or `guest`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::place::Place;
use crate::shell;

/// The ways to prove a function, and the heads of their columns.
const COLUMNS: [(&str, &str); 3] =
    [("pure", "proved pure"), ("driver", "on the test driver"), ("guest", "on a real guest")];

/// What stands between the part by hand and the rest.
const MARK: &str = "<!-- From here on made by `cargo xtask test agent`. -->";

/// Tests that a cell names; of more it says how many.
const TESTS_SHOWN: usize = 3;

/// Sentences by function or room, then by column.
type Reasons = BTreeMap<String, BTreeMap<String, String>>;

/// A function, as `berth-agent functions --json` lists it.
#[derive(Debug, Clone, Deserialize)]
struct Function {
    name: String,
    summary: String,
}

impl Function {
    fn room(&self) -> &str {
        self.name.split('.').next().unwrap_or_default()
    }
}

/// Where the tests note what they proved.
fn proofs(place: &Place) -> PathBuf {
    place.logs().join("agent-proofs.tsv")
}

fn kept(place: &Place) -> PathBuf {
    place.root.join("agent/README.md")
}

/// Begins a run of the tests: nothing is proved yet.
pub fn begin(place: &Place) -> Result<PathBuf> {
    let proofs = proofs(place);
    std::fs::write(&proofs, "").with_context(|| format!("Cannot write {}.", proofs.display()))?;
    Ok(proofs)
}

/// Compares the one that is kept with what a whole run of the agent's tests proved.
pub fn check(place: &Place) -> Result<()> {
    if make(place)? != read(&kept(place))? {
        bail!(
            "agent/README.md is not what the tests proved: take that over with `cargo xtask generate --readme`, \
             and commit it."
        );
    }
    Ok(())
}

/// Writes what the last run of the agent's tests proved.
pub fn take(place: &Place) -> Result<()> {
    let file = kept(place);
    std::fs::write(&file, make(place)?).with_context(|| format!("Cannot write {}.", file.display()))
}

fn make(place: &Place) -> Result<String> {
    let mut list = shell::command(place.program("berth-agent"));
    let functions: Vec<Function> = serde_json::from_str(&shell::output(list.args(["functions", "--json"]))?)
        .context("The list of the agent's functions makes no sense.")?;
    let reasons = read(&place.root.join("agent/reasons.toml"))?;
    let reasons: Reasons = toml::from_str(&reasons).context("agent/reasons.toml makes no sense.")?;
    let proofs = std::fs::read_to_string(proofs(place)).context("Run `cargo xtask test agent` first.")?;
    let (made, faults) = compose(&read(&kept(place))?, &functions, &proofs, &reasons);
    if !faults.is_empty() {
        bail!("agent/README.md cannot be made:\n{}", faults.join("\n"));
    }
    Ok(made)
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("Cannot read {}.", file.display()))
}

/// The whole text, and what is wrong: cells without a test or a reason, and names that mean nothing.
fn compose(kept: &str, functions: &[Function], proofs: &str, reasons: &Reasons) -> (String, Vec<String>) {
    let head = kept.split(MARK).next().unwrap_or_default().trim_end();
    let tests = by_cell(proofs);
    let mut faults = misnamed(functions, &tests, reasons);
    let mut made = format!("{head}\n\n{MARK}\n\n## Functions\n");
    let mut room = "";
    for function in functions {
        if function.room() != room {
            room = function.room();
            let _infallible = write!(made, "\n### `{room}`\n\n");
        }
        let _infallible = writeln!(made, "- `{}`: {}", function.name, function.summary);
    }
    let heads = COLUMNS.map(|(_, head)| head).join(" | ");
    let _infallible = write!(made, "\n## Proofs\n\n| function | {heads} |\n| --- | --- | --- | --- |\n");
    for function in functions {
        let cells = COLUMNS.map(|(column, _)| {
            cell(function, column, &tests, reasons).unwrap_or_else(|| {
                faults.push(format!(
                    "{} is not proved ({column}), and agent/reasons.toml does not say why.",
                    function.name
                ));
                String::new()
            })
        });
        let _infallible = writeln!(made, "| `{}` | {} |", function.name, cells.join(" | "));
    }
    (made, faults)
}

/// Tests by function and column.
type Tests<'a> = BTreeMap<(&'a str, &'a str), BTreeSet<&'a str>>;

fn by_cell(proofs: &str) -> Tests<'_> {
    let mut tests = Tests::new();
    for line in proofs.lines() {
        let mut parts = line.split('\t');
        if let (Some(function), Some(column), Some(test)) = (parts.next(), parts.next(), parts.next()) {
            tests.entry((function, column)).or_default().insert(test);
        }
    }
    tests
}

fn cell(function: &Function, column: &str, tests: &Tests<'_>, reasons: &Reasons) -> Option<String> {
    if let Some(tests) = tests.get(&(&function.name, column)) {
        let mut shown: Vec<_> = tests.iter().take(TESTS_SHOWN).map(|test| format!("`{test}`")).collect();
        if tests.len() > TESTS_SHOWN {
            shown.push(format!("{} more", tests.len() - TESTS_SHOWN));
        }
        return Some(shown.join(", "));
    }
    let whole_room = format!("{}.*", function.room());
    let reason = [&function.name, &whole_room].into_iter().find_map(|of| reasons.get(of)?.get(column))?;
    Some(reason.replace('|', "\\|"))
}

/// Proofs and reasons of functions or columns that are not there, and reasons why something is not proved that
/// is.
fn misnamed(functions: &[Function], tests: &Tests<'_>, reasons: &Reasons) -> Vec<String> {
    let is_column = |name: &str| COLUMNS.iter().any(|(column, _)| *column == name);
    let is_function = |name: &str| functions.iter().any(|function| function.name == name);
    let is_room =
        |name: &str| name.strip_suffix(".*").is_some_and(|room| functions.iter().any(|f| f.room() == room));
    let mut faults: Vec<String> = tests
        .iter()
        .filter(|((function, column), _)| !is_function(function) || !is_column(column))
        .map(|((function, column), tests)| {
            format!("The test {} proves {function} ({column}), which is not there.", first(tests))
        })
        .collect();
    for (of, columns) in reasons {
        if !is_function(of) && !is_room(of) {
            faults.push(format!("agent/reasons.toml speaks of {of}, which is not there."));
        }
        for column in columns.keys() {
            if !is_column(column) {
                faults.push(format!("agent/reasons.toml: {of} has no column {column}."));
            } else if let Some(tests) = tests.get(&(of.as_str(), column.as_str())) {
                faults.push(format!(
                    "agent/reasons.toml says why {of} is not proved ({column}), but {} proves it.",
                    first(tests)
                ));
            }
        }
    }
    faults
}

fn first<'a>(tests: &BTreeSet<&'a str>) -> &'a str {
    tests.first().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn functions() -> Vec<Function> {
        let function =
            |name: &str, summary: &str| Function { name: name.to_owned(), summary: summary.to_owned() };
        vec![
            function("vm.list", "List all VMs."),
            function("vm.get", "Show one."),
            function("run.get", "Show a run."),
        ]
    }

    const PROOFS: &str = "vm.list\tpure\tb\nvm.list\tpure\ta\nvm.list\tdriver\tc\nvm.list\tguest\td\n\
                          vm.get\tdriver\tc\nvm.get\tguest\td\nvm.list\tpure\ta\nrun.get\tdriver\te\n";

    fn reasons(text: &str) -> Reasons {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_table_names_tests_and_reasons_and_keeps_the_head() {
        let reasons = reasons(
            "[\"vm.get\"]\npure = \"It decides nothing.\"\n\
             [\"run.*\"]\npure = \"No rule | none.\"\nguest = \"No guest.\"\n",
        );
        let (made, faults) = compose("# The agent\n\nBy hand.\n", &functions(), PROOFS, &reasons);
        assert_eq!(faults, Vec::<String>::new());
        let expected = format!(
            "# The agent\n\nBy hand.\n\n{MARK}\n\n## Functions\n\n### `vm`\n\n- `vm.list`: List all VMs.\n\
             - `vm.get`: Show one.\n\n### `run`\n\n- `run.get`: Show a run.\n\n## Proofs\n\n\
             | function | proved pure | on the test driver | on a real guest |\n| --- | --- | --- | --- |\n\
             | `vm.list` | `a`, `b` | `c` | `d` |\n\
             | `vm.get` | It decides nothing. | `c` | `d` |\n\
             | `run.get` | No rule \\| none. | `e` | No guest. |\n"
        );
        assert_eq!(made, expected);
        assert_eq!(compose(&made, &functions(), PROOFS, &reasons).0, made, "made again it is the same");
    }

    #[test]
    fn an_empty_cell_is_a_fault() {
        let (_, faults) = compose("", &functions(), PROOFS, &Reasons::new());
        assert_eq!(faults.len(), 3, "{faults:?}");
        assert!(faults[0].starts_with("vm.get is not proved (pure)"), "{faults:?}");
    }

    #[test]
    fn names_that_mean_nothing_are_faults() {
        let all = "[\"vm.*\"]\npure = \"x\"\n[\"run.*\"]\npure = \"x\"\nguest = \"x\"\n";
        let cases = [
            (format!("{PROOFS}vm.lst\tpure\ta\n"), all.to_owned(), "vm.lst"),
            (PROOFS.to_owned(), format!("{all}[\"disk.*\"]\npure = \"x\"\n"), "disk.*"),
            (PROOFS.to_owned(), format!("{all}[\"vm.get\"]\nreal = \"x\"\n"), "no column real"),
            (PROOFS.to_owned(), format!("{all}[\"vm.list\"]\npure = \"x\"\n"), "but a proves it"),
        ];
        for (proofs, text, named) in cases {
            let (_, faults) = compose("", &functions(), &proofs, &reasons(&text));
            assert_eq!(faults.len(), 1, "{faults:?}");
            assert!(faults[0].contains(named), "{faults:?}");
        }
    }

    #[test]
    fn many_tests_are_counted() {
        let proofs: String = (0..5).map(|n| format!("vm.get\tpure\tt{n}\n")).collect();
        let cell = cell(&functions()[1], "pure", &by_cell(&proofs), &Reasons::new());
        assert_eq!(cell.unwrap(), "`t0`, `t1`, `t2`, 2 more");
    }
}
