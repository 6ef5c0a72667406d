use serde::{Deserialize, Serialize};

use crate::{ByteSize, NodeId, Timestamp};

/// What runs the guests' instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum DomainType {
    /// The processor, through KVM.
    Kvm,
    /// QEMU's own translator (TCG): correct, and some ten times slower.
    Qemu,
    /// libvirt's test driver: no guest runs.
    Test,
    /// The agent's simulator: no guest runs.
    Simulator,
}

/// Versions of what the node runs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Versions {
    /// The agent's.
    pub agent: String,
    /// libvirt's, `9.0.0`.
    pub libvirt: String,
    /// QEMU's, `7.2.0`.
    pub qemu: String,
    /// The kernel's.
    pub kernel: String,
}

/// What the node is. Changes rarely.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NodeFacts {
    /// Its name, as set in the agent's configuration.
    pub name: String,
    /// Logical processors.
    pub cores: u32,
    /// Memory installed.
    pub memory: ByteSize,
    /// Room for disks in all.
    pub storage: ByteSize,
    /// Room for disks that is free.
    pub storage_free: ByteSize,
    /// What really boots a guest here, found by a probe boot or set by hand.
    pub domain_type: DomainType,
    /// Versions of what it runs.
    pub versions: Versions,
    /// Does libvirt take a lease on each disk that a VM writes to? Without, nothing but QEMU's own locks keeps
    /// two nodes from writing to one.
    #[serde(default)]
    pub storage_leases: bool,
}

/// Can the node work?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Health {
    /// Everything below is in order.
    pub healthy: bool,
    /// What is wrong, a sentence each, for the operator.
    pub faults: Vec<String>,
}

/// `GET /v1/node`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Node {
    /// What it is.
    pub facts: NodeFacts,
    /// Can it work?
    pub health: Health,
    /// When its certificate ends.
    pub certificate_expires: Option<Timestamp>,
    /// Set while it takes no new VMs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<super::Maintenance>,
}

/// `POST /v1/agents/enrol` on the control plane: an agent asks to join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct EnrolRequest {
    /// The one-time token that `berth node add` printed.
    pub token: String,
    /// Where the control plane reaches the agent: `https://10.0.0.5:7701`.
    pub address: String,
    /// A PKCS #10 request in PEM; its key never leaves the node.
    pub csr_pem: String,
}

/// The answer to [`EnrolRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EnrolReply {
    /// The node's number in the control plane.
    pub node: NodeId,
    /// The agent's certificate, PEM. Its names: the host of `address`, and `node-ID.berth.internal`.
    pub certificate_pem: String,
    /// The control plane's CA, PEM: who may speak to the agent must show a certificate of it
    /// with the name `control-plane.berth.internal`.
    pub ca_pem: String,
}

/// A request for a new certificate, made on the node with a new key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CertificateRequest {
    /// PKCS #10, PEM.
    pub csr_pem: String,
}

/// A certificate for the key last requested.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// PEM.
    pub certificate_pem: String,
}
