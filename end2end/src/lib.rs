//! What is proved from outside: real processes, real machines, a real browser.
//!
//! [`Installation`] is a whole Berth made for one test: a database of its own, control planes, one
//! agent, a catalogue, a customer. Its processes can be killed and started again. Everything it
//! made is gone when it is dropped, also when the test fails.

pub mod bench;
mod client;
mod installation;
pub mod live;
mod lone_agent;
pub mod own_machine;
mod process;
pub mod wait;

pub use client::Client;
pub use installation::{Hypervisor, Installation, Options};
pub use lone_agent::LoneAgent;
pub use process::Process;
