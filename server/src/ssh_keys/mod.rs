//! SSH keys: public keys of a project, to be put on new servers.
//!
//! A server gets a copy of the keys when it is ordered; a key that is changed or deleted later
//! changes nothing on it. Invariants, held by the database: a name and a key stand once in a
//! project (`ssh_keys_name_key`, `ssh_keys_fingerprint_key`).

pub mod http;
pub mod queries;
pub mod rules;

pub use http::router;
