//! Webhooks: events of a project, sent to an address that it chose.
//!
//! Words. An *event* is a row of the outbox, known by its `seq`. A *delivery* is one event on its way to one
//! webhook; it is *due* at its `next_attempt`.
//!
//! ```text
//!   outbox (after commit, in order)        deliveries                 receiver
//!   ── seq 41, 42, 43 ──[fan_out]──▶ one row for each webhook ──[send]──▶ POST, signed
//!        one at a time, up to                                    2xx │ else: again, for 24 h
//!        `webhook_head`, in one transaction            delivered ◀───┘        └─▶ failed
//! ```
//!
//! Fan-out moves `webhook_head` in the transaction that writes the deliveries, so every event becomes one
//! delivery of each webhook exactly once, whoever dies. It reads what was published already, and so holds up
//! neither writers nor sockets.
//!
//! A sender takes a whole webhook: it moves the webhook's `next_due` to the end of a lease, sends what is
//! due, oldest first, and puts `next_due` to what is left. So a dead sender's webhook falls due by itself, one
//! webhook takes one sender at a time, and a receiver that hangs delays nobody but itself. A try that was cut
//! off is made again: at least once, with the same event number.
//!
//! Before every try the name is resolved, and addresses that are not public are refused
//! ([`rules::may_reach`]); the connection goes to the address that was checked. Redirects are not followed,
//! and the body of an answer is not read.

mod fan_out;
pub mod http;
pub mod queries;
pub mod rules;
mod send;

pub use fan_out::fan_out;
pub use send::send;
