//! Watching a live move: progress, cancel, switch-over, stalls.

use std::time::{Duration, Instant};

use virt::connect::Connect;
use virt::domain::Domain;

use super::super::ffi;
use super::super::ops::refused;
use crate::hypervisor::HypervisorError;
use crate::moving::Way;
use crate::runs::Cx;

/// Longest that nothing of a live move goes on.
const STALL_PATIENCE: Duration = Duration::from_secs(120);
/// How long libvirt may take to end a live move that is to end, before its ways are cut.
const CANCEL_PATIENCE: Duration = Duration::from_secs(15);
/// A move with post-copy switches over when not more than this part of the memory is left to be sent.
const POST_COPY_PART: u64 = 10;

/// Watches a live move: progress, cancel, switch-over, stalls.
pub struct Watch {
    post_copy: bool,
    pub post_copied: bool,
    total: u64,
    pub sent: u64,
    /// When it went on last.
    went_on: Instant,
    /// Since when it is to end, and why.
    ends: Option<(Instant, Why)>,
}

/// Why a live move is ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    Cancelled,
    Lost,
    Stalled,
}

impl Watch {
    pub fn new(post_copy: bool) -> Self {
        Self { post_copy, post_copied: false, total: 0, sent: 0, went_on: Instant::now(), ends: None }
    }

    /// What it means that libvirt gave up.
    pub fn error(&self, e: &virt::error::Error) -> HypervisorError {
        let message = match self.ends {
            Some((_, Why::Lost)) => "The connection to the other node's libvirt was lost in the middle.",
            Some((_, Why::Stalled)) => "Nothing of the move went on for two minutes.",
            Some((_, Why::Cancelled)) | None => return refused("move the VM", e),
        };
        HypervisorError::Unavailable(message.to_owned())
    }

    pub fn look(&mut self, domain: &Domain, there: Option<&Connect>, way: &Way, cx: &Cx) {
        // Without the other libvirt nobody takes the VM over, however much of it is copied.
        let lost = there.is_some_and(|there| !there.is_alive().unwrap_or(false));
        let stalls = self.went_on.elapsed() > STALL_PATIENCE;
        let why = [(cx.is_cancelled(), Why::Cancelled), (lost, Why::Lost), (stalls, Why::Stalled)];
        if let Some((_, why)) = why.into_iter().find(|(holds, _)| *holds) {
            let (since, _) = *self.ends.get_or_insert_with(|| (Instant::now(), why));
            // An error says that the move has not begun yet or is over; it is asked again in the former case.
            let _not_under_way = ffi::abort_job(domain);
            if since.elapsed() > CANCEL_PATIENCE {
                way.cut();
            }
        }
        let Ok(stats) = ffi::job_stats(domain, 0) else { return };
        let number = |name: &str| stats.iter().find(|(key, _)| key == name).map(|(_, value)| *value);
        let (Some(total), Some(sent)) = (number("data_total"), number("data_processed")) else { return };
        if total != self.total {
            cx.phase("Copy disk and memory", total);
            self.total = total;
        }
        if sent > self.sent {
            self.sent = sent;
            self.went_on = Instant::now();
        }
        cx.done(self.sent.min(total));
        if self.post_copy && is_nearly_sent(number("memory_total"), number("memory_remaining")) {
            self.post_copied = ffi::start_post_copy(domain).is_ok();
            self.post_copy = !self.post_copied;
        }
    }
}

/// Is so little memory left that the rest can be fetched on demand? Not before there is any.
fn is_nearly_sent(total: Option<u64>, left: Option<u64>) -> bool {
    let nearly = |total: u64, left: u64| total > 0 && left <= total / POST_COPY_PART;
    total.zip(left).is_some_and(|(total, left)| nearly(total, left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_fetched_when_little_is_left_of_some() {
        let _proof = crate::proof::pure(&["moving.send"]);
        assert!(is_nearly_sent(Some(100), Some(10)) && is_nearly_sent(Some(100), Some(0)));
        assert!(!is_nearly_sent(Some(100), Some(11)) && !is_nearly_sent(Some(0), Some(0)));
        assert!(!is_nearly_sent(None, Some(0)));
    }
}
