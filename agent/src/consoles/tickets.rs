//! One-time tickets, kept in memory as hashes.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use berth_model::VmId;
use berth_model::agent::ConsoleKind;
use sha2::{Digest, Sha256};

use crate::entropy;

/// Tickets that are kept; the oldest goes first.
const KEPT_MAX: usize = 1024;

type Hash = [u8; 32];

/// What a ticket opens, and how long, by a clock that does not jump.
#[derive(Debug, Clone, Copy)]
struct Pass {
    vm: VmId,
    kind: ConsoleKind,
    expires: Instant,
}

/// The tickets that were not used yet.
#[derive(Debug, Default)]
pub struct Tickets(Mutex<HashMap<Hash, Pass>>);

impl Tickets {
    /// Makes a ticket.
    pub fn issue(&self, vm: VmId, kind: ConsoleKind, expires: Instant, now: Instant) -> String {
        let ticket = entropy::ticket();
        let mut kept = self.kept();
        kept.retain(|_, pass| pass.expires > now);
        if kept.len() >= KEPT_MAX
            && let Some(oldest) = kept.iter().min_by_key(|(_, pass)| pass.expires).map(|(hash, _)| *hash)
        {
            kept.remove(&oldest);
        }
        kept.insert(hash(&ticket), Pass { vm, kind, expires });
        ticket
    }

    /// Takes a ticket: what it opens, if it is one that still holds. It is used up, whatever comes of it.
    pub fn take(&self, ticket: &str, now: Instant) -> Option<(VmId, ConsoleKind)> {
        let pass = self.kept().remove(&hash(ticket))?;
        (pass.expires > now).then_some((pass.vm, pass.kind))
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<Hash, Pass>> {
        // Single inserts and removes: whole after any panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn hash(ticket: &str) -> Hash {
    Sha256::digest(ticket.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A clock that only ever goes forward.
    fn clock() -> impl Fn(u64) -> Instant {
        let began = Instant::now();
        move |second| began + Duration::from_secs(second)
    }

    #[test]
    fn a_ticket_opens_one_console_once_and_in_time() {
        let _proof = crate::proof::pure(&["console.ticket"]);
        let (tickets, at) = (Tickets::default(), clock());
        let issue = || tickets.issue(VmId(7), ConsoleKind::Vnc, at(30), at(0));
        let ticket = issue();
        assert_eq!((ticket.len(), tickets.take("", at(1))), (64, None));
        assert_eq!(tickets.take(&ticket, at(29)), Some((VmId(7), ConsoleKind::Vnc)));
        assert_eq!(tickets.take(&ticket, at(29)), None, "used");
        assert_eq!(tickets.take(&issue(), at(30)), None, "too late");
        assert!(tickets.kept().is_empty());
    }

    #[test]
    fn tickets_are_bounded_and_kept_as_hashes() {
        let _proof = crate::proof::pure(&["console.ticket"]);
        let (tickets, at) = (Tickets::default(), clock());
        let first = tickets.issue(VmId(1), ConsoleKind::Serial, at(10), at(0));
        assert!(!format!("{tickets:?}").contains(&first));
        for _ in 0..KEPT_MAX {
            tickets.issue(VmId(2), ConsoleKind::Serial, at(20), at(0));
        }
        assert_eq!(tickets.kept().len(), KEPT_MAX);
        assert_eq!(tickets.take(&first, at(0)), None, "the oldest went");
        tickets.issue(VmId(2), ConsoleKind::Serial, at(60), at(30));
        assert_eq!(tickets.kept().len(), 1, "what has ended is forgotten");
    }
}
