//! Nodes, as staff see them. The Hetzner Cloud API does not have them; the form follows its lists.

use serde::{Deserialize, Serialize};

use crate::agent::NodeFacts;
use crate::page::Meta;
use crate::{ByteSize, LocationId, NodeId, Timestamp};

/// How a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "sqlx", derive(sqlx::Type), sqlx(type_name = "text", rename_all = "snake_case"))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// Its agent was never heard.
    New,
    /// Its agent answers, and everything is in order.
    Up,
    /// Its agent answers, and something is wrong.
    Sick,
    /// Its agent does not answer.
    Down,
}

impl core::str::FromStr for NodeState {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "new" => Ok(Self::New),
            "up" => Ok(Self::Up),
            "sick" => Ok(Self::Sick),
            "down" => Ok(Self::Down),
            _ => Err(format!("“{s}” is not a state of a node.")),
        }
    }
}

/// What a node has promised to the servers placed on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Promised {
    /// How many servers.
    pub servers: u64,
    /// Their virtual CPUs.
    pub cores: u64,
    /// Their memory, in bytes.
    pub memory: ByteSize,
    /// Their disks, in bytes.
    pub storage: ByteSize,
}

/// A hardware machine that runs VMs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Node {
    /// Stable for life.
    pub id: NodeId,
    /// `n1`.
    pub name: String,
    /// Where it stands.
    pub location: LocationId,
    /// `https://10.0.0.5:7701`; `null` until it has enrolled.
    pub address: Option<String>,
    /// How it is.
    pub state: NodeState,
    /// What is wrong, a sentence each.
    pub faults: Vec<String>,
    /// May new servers be placed on it?
    pub accepts_servers: bool,
    /// What it is; `null` until its agent was heard.
    pub facts: Option<NodeFacts>,
    /// What it has promised.
    pub promised: Promised,
    /// When its agent was last heard.
    pub last_seen: Option<Timestamp>,
    /// When its agent's certificate ends; it is changed before.
    pub certificate_expires: Option<Timestamp>,
    /// When it was added.
    pub created: Timestamp,
}

/// `GET /v1/nodes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NodeList {
    /// This page's nodes.
    pub nodes: Vec<Node>,
    /// The page.
    pub meta: Meta,
}

/// `PUT /v1/nodes/{id}`: what is left out stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NodeUpdate {
    /// May new servers be placed on it?
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepts_servers: Option<bool>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NodeReply {
    /// The node.
    pub node: Node,
}
