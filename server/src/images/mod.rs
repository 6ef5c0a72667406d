//! Images: what a server's disk is made from.
//!
//! Words. A *system image* is offered by the hoster to everybody, under a *name* that stays while
//! the file behind it is replaced. An image's *file* is a qcow2 named by its SHA-256, under
//! `images` in the data folder, from where it is sent to nodes that need it. This version has
//! system images only.
//!
//! ```text
//!   berth image add ─▶ available ──(added anew under the same name)──▶ available, another file
//! ```
//!
//! A replaced file stays: disks stand on it.

use std::path::{Path, PathBuf};

pub mod cli;
pub mod http;
pub mod queries;

pub use http::router;

/// Where the file of an image lies.
pub fn file_path(data_dir: &Path, sha256: &str) -> PathBuf {
    data_dir.join("images").join(format!("{sha256}.qcow2"))
}
