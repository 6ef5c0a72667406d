//! Users, accounts, projects, sessions and API tokens, and who may do what.
//!
//! Words. A *user* is a person who signs in; by a *membership* they may enter an *account* (who
//! pays) and its *projects* (folders of resources). A *session* is one sign-in of one browser; it
//! is a cookie there and a hash here. A *token* is for programs; it belongs to one project.
//!
//! ```text
//!   user ──membership──▶ account ──▶ project ──▶ token
//!     └── session          (pays)      └──▶ servers, keys, …
//! ```
//!
//! A token ends when it is deleted or expires; a *suspended* account's people and tokens read, and
//! may not write. Both are asked of the database with every request, so they hold at once, on every
//! control plane; WebSockets that were opened with a token close when it is deleted. Its servers run on.
//!
//! Others use the extractors: [`Reader`] and [`Writer`] for what belongs to a project,
//! [`SignedIn`], [`Staff`] and [`Owner`] for people. What a request may not see is not found.

mod access;
pub mod cli;
mod http;
pub mod passwords;
pub mod queries;
pub mod rules;

pub use access::{
    COOKIE as SESSION_COOKIE, JustAsking, Key, Owner, PROJECT_HEADER, ProjectAccess, Reader, SessionRef,
    SignedIn, Staff, Writer,
};
pub use http::router;
