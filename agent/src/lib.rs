//! The agent of Berth: one per node. It brings VMs to what the control plane wants of them,
//! through libvirt, and tells what they do.
//!
//! ```text
//!  control plane ──mutual TLS──┐                  ┌── images (files by checksum)
//!                              ├── api ── work ───┼── hypervisor (libvirt, or a simulator)
//!  berth-agent … ──unix socket─┘    └── hub, node └── tls (who it is, who may speak)
//! ```
//!
//! Nothing of a VM is kept in the process: an agent that was killed anywhere finds everything again.

pub mod api;
pub mod backups;
pub mod checks;
pub mod cli;
pub mod clock;
pub mod config;
pub mod consoles;
pub mod enrol;
pub mod entropy;
pub mod error;
pub mod faults;
pub mod functions;
#[cfg(test)]
mod fuzz;
pub mod guest;
pub mod hub;
pub mod hypervisor;
pub mod identity;
pub mod images;
pub mod keys;
pub mod lease;
pub mod limits;
pub mod maintenance;
pub mod metrics;
pub mod moving;
pub mod network;
pub mod node;
pub mod orphans;
pub mod program;
pub mod proof;
pub mod qcow2;
pub mod runs;
pub mod screenshot;
pub mod serve;
pub mod services;
pub mod sizes;
pub mod spec;
pub mod storage;
pub mod stream;
pub mod tls;
pub mod update;
pub mod work;

pub use serve::{Running, ServeError, serve};
