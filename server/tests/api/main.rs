//! The control plane from outside: HTTP on a real PostgreSQL, with simulated agents.
//!
//! `BERTH_TEST_DATABASE_URL` names a PostgreSQL in which databases may be made;
//! `berth postgres --data-dir DIR --throwaway` starts one. Each test has a database of its own.

#![allow(missing_docs, reason = "tests are named as facts")]
#![allow(clippy::unwrap_used, reason = "in a test, what should be there is there, or the test fails")]

mod accounts;
mod actions;
mod addresses;
mod backups;
mod catalog;
mod certificates;
mod consoles;
mod firewalls;
mod fleet;
mod following;
mod http;
mod images;
mod jobs;
mod live;
mod load;
mod locks;
mod log;
mod networks;
mod nodes;
mod openapi;
mod placement_groups;
mod postgres;
mod quotas;
mod reference;
mod rights;
mod server_changes;
mod server_jobs;
mod servers;
mod shop;
mod ssh_keys;
mod staff;
mod stage;
mod support;
mod volumes;
mod webhooks;
