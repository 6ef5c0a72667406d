//! Live push: an outbox written with the change, one publisher, fan-out, the WebSocket.
//!
//! ```text
//!  writer's transaction      publisher            hub of every         sockets
//!                            (one at a time)      control plane
//!  change a row ┐
//!  outbox row   ├─ commit ─▶ gives committed ───▶ reads each row ────▶ own queue each,
//!  NOTIFY       ┘            rows their `seq`     once, in order       bounded
//! ```
//!
//! Why two numbers. `id` is taken while a transaction runs, and a later `id` may commit first: a
//! reader that remembers the highest `id` it saw would miss the other. `seq` is given to rows that
//! are committed, by whoever holds the one row of `outbox_head`, in order of `id` and without gaps.
//! So when a reader sees `seq` 7, it can see 1 to 6 too, now or never again. Two changes of one
//! resource stay in order, because the second writer waited for the first one's row lock before it
//! took its `id`.
//!
//! A socket subscribes to the hub first and remembers where the hub stood; it reads what lies
//! before that from the table, and then takes what the hub sends. Neither gap nor repeat.
//!
//! A subscriber whose queue is full is dropped: it resumes from the table. So memory is bounded by
//! queues × [`hub::QUEUE_MAX`] shared events.

mod doubts;
pub mod hub;
pub mod outbox;
mod publisher;
mod queries;
mod seats;
mod signals;
mod socket;

pub use doubts::Doubts;
pub use hub::{Hub, Settings};
pub use seats::{SOCKETS_PER_HOLDER, SOCKETS_PER_PROJECT};
pub use signals::{Channel, Signals};
pub use socket::router;
