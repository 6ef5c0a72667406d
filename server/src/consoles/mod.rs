//! Consoles: a server's screen and keyboard in the customer's browser.
//!
//! ```text
//!   request_console ─▶ ticket (a minute to live, one server, once) and password
//!   browser ── wss, subprotocol `binary`, RFB with the password ──▶ control plane
//!                                        control plane ── mutual TLS, RFB ──▶ agent ─▶ QEMU
//! ```
//!
//! The agent is never reached from outside: the control plane speaks for whoever shows a ticket. A ticket stands in
//! an address, where it may be seen; so it opens one console once, and the password, which never stands there, is
//! asked for inside ([`rfb`]). Of a ticket the database has the hash, of a password what is sealed.
//!
//! A console lasts no longer than the rights that opened it: it ends with the session or token that asked for it, with
//! its user's membership, when the account is suspended, and with the server.
//!
//! A proxy in front of the control plane must pass WebSockets of `/v1/servers/{id}/console` on, as it does for
//! `/v1/live`, and close no connection for being idle for 20 seconds. It sees each ticket, used
//! up by then; the address in `wss_url` is made of the setting `public_url`.

pub mod http;
mod queries;
pub mod relay;
pub mod rfb;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_model::ServerId;

pub use http::router;

/// Consoles of one server that are open at once in this control plane.
pub const PER_SERVER_MAX: usize = 5;
/// Consoles of all servers that are open at once in this control plane.
pub const MAX: usize = 1_000;

/// The consoles that are open in this control plane. Cheap to clone.
#[derive(Clone, Default)]
pub struct Consoles(Arc<Mutex<HashMap<ServerId, usize>>>);

/// A place that is taken, until it is dropped.
pub struct Seat {
    consoles: Consoles,
    server: ServerId,
}

impl Consoles {
    /// A place for one more console of this server, if there is one.
    pub fn take(&self, server: ServerId) -> Option<Seat> {
        let mut open = self.open();
        let of_server = open.get(&server).copied().unwrap_or_default();
        if of_server >= PER_SERVER_MAX || open.values().sum::<usize>() >= MAX {
            return None;
        }
        open.insert(server, of_server + 1);
        metrics::gauge!("berth_consoles").increment(1);
        Some(Seat { consoles: self.clone(), server })
    }

    fn open(&self) -> MutexGuard<'_, HashMap<ServerId, usize>> {
        // Single inserts and removes: whole after any panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.consoles.open();
        if let Some(count) = open.get_mut(&self.server) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.server);
            }
        }
        metrics::gauge!("berth_consoles").decrement(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_has_so_many_consoles_and_gets_their_places_back() {
        let consoles = Consoles::default();
        let mut taken: Vec<_> = (0..PER_SERVER_MAX).map_while(|_| consoles.take(ServerId(1))).collect();
        assert_eq!(taken.len(), PER_SERVER_MAX);
        assert!(consoles.take(ServerId(1)).is_none() && consoles.take(ServerId(2)).is_some());
        taken.pop();
        assert!(consoles.take(ServerId(1)).is_some());
        drop(taken);
        assert!(consoles.open().is_empty());
    }
}
