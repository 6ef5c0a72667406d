//! Placement groups: servers that stand on different nodes, so that what one node suffers the others do not.
//!
//! A server joins a group when it is ordered, and is then placed on a node that no other server of the group has; or
//! while it is off, where its node has none of the group. Nothing moves a server for its group.
//!
//! Invariants, held by the database: of one group no two servers stand on one node (`servers_spread_key`); names are
//! unique in a project (`placement_groups_name_key`); a group with servers is not deleted
//! (`servers_placement_group_fk`).

pub mod http;
pub mod queries;

pub use http::router;
