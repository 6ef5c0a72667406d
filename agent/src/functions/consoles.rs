//! `console`, and what of `vm` is about its screen and keyboard.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use berth_model::agent::function::{console, vm};
use berth_model::agent::{ConsoleLog, ConsoleLogRequest, ConsoleTicketRequest, Nothing, Screenshot};

use super::Functions;
use crate::error::Refusal;
use crate::{clock, keys};

/// How long a ticket holds, in seconds.
const TICKET_S: u32 = 30;
/// Longest that it may hold.
const TICKET_MAX_S: u32 = 120;
/// Lines of a log.
const LINES: u32 = 100;
/// Most lines of a log.
const LINES_MAX: u32 = 10_000;
/// Most of a log that is looked through.
const LOG_MAX_BYTES: usize = 1024 * 1024;
/// How long keys are held, in milliseconds.
const HOLD_MS: u32 = 100;

pub(super) fn tie(functions: &mut Functions) {
    functions.read::<console::Ticket>(|api, id, ConsoleTicketRequest { kind, seconds }| {
        let seconds = bounded("seconds", seconds, TICKET_S, TICKET_MAX_S)?;
        // Refused for a VM that is not there.
        api.work.hypervisor().get(*id)?;
        Ok(api.consoles.ticket(*id, kind, seconds, clock::now()))
    });
    functions.read::<console::Log>(|api, id, ConsoleLogRequest { lines }| {
        let lines = bounded("lines", lines, LINES, LINES_MAX)?;
        let log = api.work.hypervisor().console_log(*id, LOG_MAX_BYTES)?;
        Ok(ConsoleLog { lines: last_lines(&log, lines) })
    });
    functions.read::<vm::Screenshot>(|api, id, _| {
        let picture = api.work.hypervisor().screenshot(*id)?;
        let png = BASE64_STANDARD.encode(&picture.png);
        Ok(Screenshot { width: picture.width, height: picture.height, png })
    });
    // No claim: somebody at the keyboard does not wait for a backup.
    functions.read::<vm::SendKeys>(|api, id, request| {
        let faults = keys::faults(&request);
        if !faults.is_empty() {
            return Err(Refusal(berth_model::error::ApiError::fields(faults)));
        }
        let hold = Duration::from_millis(request.hold_ms.unwrap_or(HOLD_MS).into());
        api.work.hypervisor().send_keys(*id, &keys::codes(&request), hold)?;
        Ok(Nothing {})
    });
}

fn bounded(field: &str, wish: Option<u32>, usual: u32, most: u32) -> Result<u32, Refusal> {
    let wish = wish.unwrap_or(usual);
    if (1..=most).contains(&wish) {
        return Ok(wish);
    }
    Err(Refusal::field(field, format!("It is a number from 1 to {most}.")))
}

/// The last lines of a log, without their ends.
fn last_lines(log: &[u8], lines: u32) -> Vec<String> {
    let log = log.strip_suffix(b"\n").unwrap_or(log);
    if log.is_empty() {
        return Vec::new();
    }
    let lines = usize::try_from(lines).unwrap_or(usize::MAX);
    let mut last: Vec<_> = log
        .rsplit(|byte| *byte == b'\n')
        .take(lines)
        .map(|line| String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned())
        .collect();
    last.reverse();
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_the_newest_and_any_byte_is_shown() {
        let _proof = crate::proof::pure(&["console.log"]);
        assert_eq!(last_lines(b"one\ntwo\r\n\xffthree\n", 2), ["two", "\u{fffd}three"]);
        assert_eq!(last_lines(b"one\ntwo", 9), ["one", "two"]);
        assert!(last_lines(b"", 9).is_empty());
        assert_eq!(last_lines(b"\n\n", 9), ["", ""]);
        assert_eq!(bounded("lines", None, 5, 9).unwrap(), 5);
        for wrong in [0, 10] {
            assert!(bounded("lines", Some(wrong), 5, 9).unwrap_err().0.for_field("lines").is_some());
        }
    }
}
