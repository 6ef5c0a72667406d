//! The typed client of the agent protocol ([`berth_model::agent`]): HTTPS with mutual TLS, one
//! connection pool per node.
//!
//! An agent proves to be that of node 7 by the name `node-7.berth.internal` in its certificate,
//! whatever address it is reached at; only our own CA is trusted. We prove to be a control plane
//! by ours, which lives for a day, in memory only, and is renewed while connections go on.
//!
//! An agent that hangs must not make the control plane slow: each node has a bound on requests
//! under way and a circuit ([`circuit`]).
//!
//! ```text
//!             3 failures in a row                  5 s later, one request goes through
//!   closed ───────────────────────▶ open ─────────────────────────────────────────▶ half open
//!     ▲                              ▲                     it fails                   │   │
//!     │                              └────────────────────────────────────────────────┘   │
//!     └─────────────────────────────────────── it is answered ────────────────────────────┘
//! ```

mod circuit;
mod client;
mod error;
mod socket;
mod tls;
mod uploads;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use berth_model::{NodeId, Timestamp};
use sqlx::PgPool;

pub use client::AgentClient;
pub use error::AgentError;
pub use socket::AgentSocket;
pub(crate) use socket::dial;
pub use tls::{AgentAddress, Credentials};
pub use uploads::Upload;

use crate::nodes::ca::Authority;
use circuit::Circuit;
use uploads::Uploads;

/// How long a connection may take to be made.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Most requests under way to one node.
const REQUESTS_PER_NODE_MAX: usize = 16;

/// The agents of all nodes.
pub struct Agents {
    db: PgPool,
    credentials: Credentials,
    channels: Mutex<HashMap<NodeId, Arc<Channel>>>,
    uploads: Uploads,
}

/// What is kept for one node: its connections, the bound and the circuit.
struct Channel {
    address: AgentAddress,
    http: reqwest::Client,
    permits: tokio::sync::Semaphore,
    circuit: Mutex<Circuit>,
}

impl Agents {
    /// A client that shows certificates of `authority`, and trusts nobody else's.
    pub fn new(db: PgPool, authority: Arc<Authority>, now: Timestamp) -> anyhow::Result<Self> {
        let credentials = Credentials::new(authority, now)?;
        Ok(Self { db, credentials, channels: Mutex::default(), uploads: Uploads::default() })
    }

    /// The agent of a node. Its address is looked up with each request; a node that is known to be
    /// down is not asked.
    pub fn node(self: &Arc<Self>, node: NodeId) -> AgentClient {
        AgentClient::new(Arc::clone(self), node, None)
    }

    /// The agent of a node at an address, whatever is known of the node; for its stream's keeper,
    /// who finds out whether it is down.
    pub(crate) fn at(self: &Arc<Self>, node: NodeId, address: AgentAddress) -> AgentClient {
        AgentClient::new(Arc::clone(self), node, Some(address))
    }

    /// Leave to send an image to a node. `None` when this process sends it already, or `max` others.
    pub fn begin_upload(&self, node: NodeId, sha256: &str, max: usize) -> Option<Upload> {
        self.uploads.begin(node, sha256, max)
    }

    /// The CA behind all of them.
    pub fn authority(&self) -> &Authority {
        self.credentials.authority()
    }

    /// What is shown to agents, for connections made by others than this client.
    pub(crate) fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// The connections to a node; made anew when it has moved.
    fn channel(&self, node: NodeId, address: &AgentAddress) -> Result<Arc<Channel>, AgentError> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(&node)
            && channel.address == *address
        {
            return Ok(Arc::clone(channel));
        }
        let channel = Arc::new(Channel {
            address: address.clone(),
            http: tls::http_client(&self.credentials, address)?,
            permits: tokio::sync::Semaphore::new(REQUESTS_PER_NODE_MAX),
            circuit: Mutex::default(),
        });
        channels.insert(node, Arc::clone(&channel));
        Ok(channel)
    }
}

/// The name an agent's certificate carries.
pub fn agent_name(node: NodeId) -> String {
    format!("node-{node}.berth.internal")
}
