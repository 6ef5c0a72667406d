//! The catalog: what is offered where, and for how much.
//!
//! Words. A *location* is a place with nodes; it has one *datacenter*, which exists for older
//! clients only. A *server type* is a shape; it is offered in a location when it has a *price*
//! there; what has no entry in it is priced in the settings ([`pricing`]). What is no longer in the operator's file stays, because servers may stand on it; a type
//! that should not be ordered any more is marked `deprecated`.
//!
//! The operator writes one TOML file and applies it with `berth catalog apply FILE`, as often as
//! they like: what is there becomes as the file says ([`cli`] says what each key means).
//!
//! ```toml
//! currency = "EUR"
//!
//! [[location]]
//! name = "rtm1"
//! description = "Rotterdam"
//! country = "NL"
//! city = "Rotterdam"
//! latitude = 51.92
//! longitude = 4.48
//! network_zone = "eu-west"
//!
//! [[location.addresses]]          # any number of networks
//! cidr = "10.77.0.0/24"
//! gateway = "10.77.0.1"
//! first = "10.77.0.10"            # both inclusive; or: ranges = ["10.77.0.10-10.77.0.99", "10.77.0.128/25"]
//! last = "10.77.0.250"
//! # reserved = ["10.77.0.53"]     # of these, what is not handed out; written like ranges
//!
//! [[location.addresses]]
//! cidr = "2001:db8:7::/48"        # each server gets a /64 of it
//! # gateway = "fe80::1"
//! reserved = ["2001:db8:7::/64"]
//!
//! [[server_type]]
//! name = "s1"
//! description = "1 vCPU, 2 GB, 40 GB"
//! cores = 1
//! memory_mib = 2048
//! disk_gib = 40
//! cpu_type = "shared"             # or "dedicated"
//! # storage_type = "local"        # or "network"
//! # deprecated = false
//!
//! [[server_type.price]]           # one for each location where it is offered
//! location = "rtm1"
//! hourly = "0.0060"               # decimal text, at most six decimals
//! monthly = "3.79"
//! traffic_per_tb = "1.00"
//! included_traffic_gb = 20000     # 10⁹ bytes a month
//! ```

pub mod cli;
pub mod http;
pub mod pricing;
pub mod queries;

pub use http::router;
