//! Every type that crosses a wire in Berth, and nothing that does I/O.
//!
//! | module | crosses |
//! | --- | --- |
//! | [`server`], [`action`], [`address`], [`image`], [`iso`], [`server_type`], [`location`], [`ssh_key`], [`firewall`], [`network`], [`volume`], [`placement_group`], [`certificate`], [`load`], [`metrics`], [`pricing`] | the public API `/v1`, in the shape of the Hetzner Cloud API v1 |
//! | [`people`], [`quota`], [`webhook`] | the parts of `/v1` that API does not have: users, accounts, projects, tokens, limits, webhooks |
//! | [`node`] | nodes, as staff see them, on `/v1` |
//! | [`event`] | the live WebSocket `/v1/live` between control plane and browser |
//! | [`agent`] | control plane and agent |
//!
//! Ids are `int64` numbers, times RFC 3339 with offset, money decimal strings. The crate
//! builds for wasm; the app and the server share it so that a change of a type is a change
//! of both, found by the compiler.

pub mod action;
pub mod address;
pub mod agent;
pub mod certificate;
pub mod error;
pub mod event;
pub mod firewall;
pub mod id;
pub mod image;
pub mod iso;
pub mod label;
pub mod load;
pub mod location;
pub mod metrics;
pub mod money;
pub mod name;
pub mod network;
pub mod node;
pub mod page;
pub mod people;
pub mod placement_group;
pub mod pricing;
pub mod quota;
pub mod server;
pub mod server_type;
pub mod size;
pub mod ssh_key;
pub mod timestamp;
pub mod volume;
pub mod webhook;

pub use error::{ErrorBody, ErrorCode, FieldError};
pub use id::*;
pub use money::{Currency, Money};
pub use size::ByteSize;
pub use timestamp::Timestamp;
