//! Certificates for TLS that customers upload, with their keys.
//!
//! Invariants. A certificate and its key belong together, and every certificate of the chain is signed by the next:
//! that is looked at once, as they are uploaded ([`rules::read`]), and neither changes afterwards. The key is sealed
//! with the installation's secret key, and no route tells it. Names are unique in a project (`certificates_name_key`).

pub mod http;
pub mod queries;
pub mod rules;

pub use http::router;

/// What keys are sealed for.
pub const PURPOSE: &str = "certificate key";
