use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{PrivateNetworkId, Timestamp, VmId};

/// What may come into a network card and go out of it. Answers to what was let through come back by
/// themselves; everything else that no rule lets through is dropped.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Firewall {
    /// What may come in; nothing when it is empty. At most 250.
    pub inbound: Vec<FirewallRule>,
    /// What may go out; everything when it is not given. At most 250.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outbound: Option<Vec<FirewallRule>>,
}

/// Lets packets through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct FirewallRule {
    /// Of which protocol.
    pub protocol: FirewallProtocol,
    /// To which ports: `80` or `8000-8999`. All without it; with tcp and udp only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub ports: Option<PortRange>,
    /// From where (inbound) or to where (outbound): `10.0.0.0/8`, `::/0`. Anywhere when empty. At most 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub peers: Vec<IpNet>,
}

/// A protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum FirewallProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP, and ICMPv6.
    Icmp,
    /// GRE.
    Gre,
    /// IPsec's ESP.
    Esp,
}

/// Ports from the first to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// What it must be, a sentence.
    pub const RULE: &'static str = "Ports are given as 80 or as 8000-8999, from 1 to 65535.";

    /// Ports from `first` to `last`.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (1 <= first && first <= last).then_some(Self { first, last })
    }

    /// The first port.
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The last port.
    pub const fn last(self) -> u16 {
        self.last
    }
}

impl core::fmt::Display for PortRange {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl From<PortRange> for String {
    fn from(ports: PortRange) -> Self {
        ports.to_string()
    }
}

impl TryFrom<String> for PortRange {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let digits = |text: &str| {
            let fine = text.bytes().all(|b| b.is_ascii_digit());
            if fine { text.parse::<u16>().ok() } else { None }
        };
        let (first, last) = text.split_once('-').unwrap_or((&text, &text));
        let ports = digits(first).zip(digits(last)).and_then(|(first, last)| Self::new(first, last));
        ports.ok_or(Self::RULE)
    }
}

/// How much a network card may carry, in bits per second; from 64,000. What is not given is not limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// To the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_bits_per_second: Option<u64>,
    /// From the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_bits_per_second: Option<u64>,
}

/// A node's part of a private network: frames travel between nodes in VXLAN (UDP 4789), each to the node
/// that has the card it is for. Nothing is learned from frames.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PrivateNetwork {
    /// This node's address towards the other nodes.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = "ip"))]
    pub local: IpAddr,
    /// The other nodes that have cards in it. At most 1000.
    pub peers: Vec<Peer>,
}

/// Another node of a private network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Its address, of the same family as ours.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = "ip"))]
    pub node: IpAddr,
    /// MAC addresses of the cards that it has in this network. At most 1000.
    pub macs: Vec<String>,
}

/// What one address has carried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Traffic {
    /// Whose it was.
    pub vm: VmId,
    /// The address, or the network that is routed to the VM.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub network: IpNet,
    /// Bytes of IP packets to it.
    pub in_bytes: u64,
    /// Bytes of IP packets from it.
    pub out_bytes: u64,
    /// Packets to it.
    pub in_packets: u64,
    /// Packets from it.
    pub out_packets: u64,
    /// When the VM gave it up; kept for 35 days after.
    pub gone: Option<Timestamp>,
}

/// `GET /v1/traffic`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TrafficList {
    /// By VM and address. Those of public cards; private networks are not counted.
    pub traffic: Vec<Traffic>,
}

/// `GET /v1/network`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NetworkState {
    /// Does the node filter? `false` where QEMU's own network is used, or the simulator.
    pub filtered: bool,
    /// What is wrong with the filter, a sentence.
    pub fault: Option<String>,
    /// The cards it knows, by VM.
    pub nics: Vec<NicState>,
    /// The private networks.
    pub networks: Vec<PrivateNetworkState>,
    /// Interfaces of this agent that belong to nothing: left over from a crash.
    pub orphans: Vec<String>,
}

/// A network card as the node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NicState {
    /// Whose it is.
    pub vm: VmId,
    /// Its MAC address.
    pub mac: String,
    /// The node's end of it.
    pub interface: String,
}

/// A private network on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PrivateNetworkState {
    /// Its number.
    pub id: PrivateNetworkId,
    /// The bridge of its cards.
    pub bridge: String,
    /// What it was told to be.
    pub network: PrivateNetwork,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_strictly() {
        let read = |text: &str| PortRange::try_from(text.to_owned());
        assert_eq!(read("80").map(String::from), Ok("80".to_owned()));
        assert_eq!(read("8000-8999").map(String::from), Ok("8000-8999".to_owned()));
        for bad in ["", "0", "0-5", "9-8", "-", "80-", "+80", "65536", "1-2-3", "a", " 80"] {
            assert_eq!(read(bad), Err(PortRange::RULE), "{bad}");
        }
    }
}
