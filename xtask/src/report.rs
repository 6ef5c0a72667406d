//! Counting what test programs say.

use std::time::Duration;

use crate::progress::seconds;

/// How many tests passed and failed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// Passed.
    pub passed: u64,
    /// Failed.
    pub failed: u64,
}

impl Count {
    /// A check that is not a row of tests: one, passed or failed.
    pub fn one(passed: bool) -> Self {
        Self { passed: u64::from(passed), failed: u64::from(!passed) }
    }

    fn plus(self, other: Self) -> Self {
        Self { passed: self.passed + other.passed, failed: self.failed + other.failed }
    }
}

/// Reads the summary of Rust's test programs (`test result: ok. 3 passed; 0 failed; …`) and of node's
/// (`# pass 3`, `# fail 0`, `# cancelled 0`). `None` when there is none: the program died before.
pub fn count(output: &str) -> Option<Count> {
    let mut found = None;
    for line in output.lines() {
        let line = line.trim();
        let counted = if let Some(result) = line.strip_prefix("test result: ") {
            Count { passed: before(result, " passed"), failed: before(result, " failed") }
        } else if let Some(number) = line.strip_prefix("# pass ") {
            Count { passed: number.parse().unwrap_or(0), failed: 0 }
        } else if let Some(number) =
            line.strip_prefix("# fail ").or_else(|| line.strip_prefix("# cancelled "))
        {
            Count { passed: 0, failed: number.parse().unwrap_or(0) }
        } else {
            continue;
        };
        found = Some(found.unwrap_or(Count::default()).plus(counted));
    }
    found
}

/// The number before a word: 3 in `ok. 3 passed; 0 failed`.
fn before(text: &str, word: &str) -> u64 {
    let head = text.split_once(word).map_or("", |(head, _)| head);
    head.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// What a run of tests came to.
#[derive(Debug, Default)]
pub struct Report {
    stages: Vec<(String, Count, Duration)>,
}

impl Report {
    /// Adds a stage.
    pub fn add(&mut self, stage: &str, count: Count, took: Duration) {
        self.stages.push((stage.to_owned(), count, took));
    }

    /// All stages together.
    pub fn total(&self) -> Count {
        self.stages.iter().fold(Count::default(), |sum, (_, count, _)| sum.plus(*count))
    }

    /// A table of the stages, and the sum alone on the last line.
    pub fn text(&self) -> String {
        let width = self.stages.iter().map(|(name, ..)| name.chars().count()).max().unwrap_or(0);
        let mut lines: Vec<String> = vec![String::new()];
        for (name, count, took) in &self.stages {
            let Count { passed, failed } = count;
            lines.push(format!(
                "{name:<width$}  {passed:>5} passed  {failed:>3} failed  {:>12}",
                seconds(*took)
            ));
        }
        let Count { passed, failed } = self.total();
        lines.extend([String::new(), format!("{passed} passed, {failed} failed")]);
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rust_s_and_node_s_summaries_are_counted() {
        let rust = "running 3 tests\ntest result: FAILED. 2 passed; 1 failed; 4 ignored; 0 measured; 0 filtered out\n";
        assert_eq!(count(rust), Some(Count { passed: 2, failed: 1 }));
        let node = "ok 1 - signs in\n# tests 3\n# pass 1\n# fail 1\n# cancelled 1\n# skipped 0\n";
        assert_eq!(count(node), Some(Count { passed: 1, failed: 2 }));
        assert_eq!(count(&format!("{rust}{rust}")), Some(Count { passed: 4, failed: 2 }));
    }

    #[test]
    fn a_program_that_died_has_no_summary() {
        assert_eq!(count("running 3 tests\nSegmentation fault\n"), None);
    }

    #[test]
    fn the_sum_stands_alone_on_the_last_line() {
        let mut report = Report::default();
        report.add("model", Count { passed: 40, failed: 0 }, Duration::from_secs(2));
        report.add("lint", Count::one(false), Duration::from_secs(50));
        assert_eq!(report.text().lines().last(), Some("40 passed, 1 failed"));
    }
}
