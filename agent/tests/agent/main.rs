//! The agent as its peers see it: over mutual TLS, over its unix socket, and as a command.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

#[path = "../common/pki.rs"]
mod pki;
mod support;

mod api;
mod cli;
mod consoles;
mod enrol;
mod guest;
mod images;
mod keeping;
mod lease;
mod machines;
mod moving;
mod network;
mod peers;
mod sockets;
mod stream;
mod update;
