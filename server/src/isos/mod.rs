//! ISOs: CDs that servers can boot from. The operator adds them (`berth iso add`); their files lie beside those of
//! images, under their SHA-256, and are sent to nodes that need them.

use std::path::{Path, PathBuf};

pub mod cli;
pub mod http;
pub mod queries;

pub use http::router;

/// Where the file of an ISO lies.
pub fn file_path(data_dir: &Path, sha256: &str) -> PathBuf {
    data_dir.join("images").join(format!("{sha256}.iso"))
}
