//! What all endpoints share: errors, extractors, pages, and what is done around every request.
//!
//! Words. A *problem* is what a handler answers when it cannot do what was asked. The *context* of
//! a request is its id and who sent it; it is there wherever the handler goes.
//!
//! ```text
//!   around (id, log, metrics, time limit, panics, headers)
//!     └─ limit (requests of one caller)
//!          └─ once (Idempotency-Key), tagged (ETag)
//!               └─ the route: extractors ─▶ handler
//! ```

mod address;
pub mod app;
mod around;
mod context;
mod errors;
pub mod etag;
mod extract;
mod fault;
pub mod health;
pub mod idempotency;
mod list;
mod origin;
mod problem;
pub mod rate;
pub mod unsupported;

pub use address::{ClientAddress, Household, Network};
pub use around::{REQUEST_ID, around};
pub use context::{RequestContext, RequestId, Who, current, note_who, request_id, within};
pub use errors::Errors;
pub use extract::{Body, Path, Query};
pub use list::{Filter, Page, Sort, part_of};
pub use origin::{Origin, Site};
pub use problem::{ApiResult, Problem, constraint};

/// Longest body of a request, unless a route says otherwise.
pub const BODY_MAX_BYTES: usize = 64 * 1024;
