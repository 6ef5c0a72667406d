//! Images: what a server's disk is made from.
//!
//! Words. A *system image* is offered by the hoster to everybody, under a *name* that stays while
//! the file behind it is replaced. A *snapshot* is taken of a server's disk and belongs to its
//! project. A *backup* is one that belongs to a server, too, and goes with it ([`crate::backups`]). A *rescue system* is what servers are repaired with. An image's *file* is a qcow2 named
//! by its SHA-256, under `images` in the data folder, from where it is sent to nodes that need it.
//!
//! ```text
//!   berth image add ─▶ available ──(added anew under the same name)──▶ available, another file
//!
//!   create_image ─▶ creating ─▶ available ─▶ deleted   (the file goes with the last that needs it)
//!                       └─(given up)─▶ gone
//! ```
//!
//! A file stays as long as an image has it or a disk stands on it ([`jobs::remove`]).

use std::path::{Path, PathBuf};

pub mod cli;
pub mod http;
pub mod jobs;
pub mod queries;
pub mod rules;
pub mod travel;

pub use http::router;

/// Where the file of an image lies.
pub fn file_path(data_dir: &Path, sha256: &str) -> PathBuf {
    data_dir.join("images").join(format!("{sha256}.qcow2"))
}
