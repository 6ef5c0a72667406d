//! The control plane of Berth: the public API, durable jobs, live push, and the nodes' streams.
//!
//! The first cut is by subject; every subject has the same few files (`mod.rs` words, states and
//! what it offers; `http.rs`; `rules.rs` pure decisions; `queries.rs` all SQL of its tables;
//! `jobs/` its sagas). A table has one owner; another subject that needs the data calls it.

pub mod accounts;
pub mod actions;
pub mod addresses;
pub mod agents;
pub mod backups;
pub mod catalog;
pub mod certificates;
pub mod cli;
pub mod clock;
pub mod config;
pub mod consoles;
pub mod db;
pub mod entropy;
pub mod firewalls;
pub mod http;
pub mod images;
pub mod isos;
pub mod jobs;
pub mod labels;
pub mod live;
pub mod load;
pub mod networks;
pub mod nodes;
pub mod openapi;
pub mod placement_groups;
pub mod postgres;
pub mod quotas;
pub mod reference;
pub mod secret;
pub mod serve;
pub mod servers;
pub mod ssh_keys;
pub mod staff;
pub mod telemetry;
pub mod vital;
pub mod volumes;
pub mod webhooks;
pub mod world;

pub use world::World;
