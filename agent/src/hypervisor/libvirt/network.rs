//! What guests' network cards are plugged into.

use std::path::Path;

use berth_model::agent::NodeCheck;
use serde::Serialize;
use virt::connect::Connect;
use virt::error::{Error, ErrorNumber};

use super::names::{self, Prefix};
use super::xml;
use crate::config::Gateway;

/// What guests' network cards are plugged into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestNetwork {
    /// A network of libvirt behind the node's address, made on demand under `{prefix}nat`.
    Nat {
        /// The bridge that libvirt makes for it.
        bridge: String,
        /// The node's address on it.
        gateway: Gateway,
    },
    /// A bridge that the operator made.
    Bridge {
        /// Its name.
        bridge: String,
    },
    /// A route on the node for each address, without a bridge.
    Routed,
    /// QEMU's own, without any privilege; guests reach out, and nothing reaches them.
    User,
}

impl GuestNetwork {
    /// Is what guests are plugged into there? Nothing to say of what is made on demand.
    pub fn check(&self) -> Option<NodeCheck> {
        let Self::Bridge { bridge } = self else { return None };
        let ok = Path::new("/sys/class/net").join(bridge).join("bridge").is_dir();
        let sentence = match ok {
            true => format!("The guests' bridge {bridge} is there."),
            false => format!("The guests' bridge {bridge} is not there: make it, or set network.bridge."),
        };
        Some(NodeCheck { check: "bridge".to_owned(), ok, needed: true, sentence })
    }

    /// Makes what libvirt needs before a domain starts; nothing if it is there.
    pub fn ensure(&self, connect: &Connect, prefix: &Prefix) -> Result<(), Error> {
        let Self::Nat { bridge, gateway } = self else { return Ok(()) };
        let name = prefix.network();
        let network = match connect.lookup_network_by_name(&name) {
            Err(e) if e.code().is_known_and(|code| code == ErrorNumber::NoNetwork) => {
                connect.define_network_xml(&nat_xml(&name, bridge, *gateway))?
            }
            found => found?,
        };
        if !network.is_active()? {
            // A change of the configuration reaches a network that nobody uses.
            connect.define_network_xml(&nat_xml(&name, bridge, *gateway))?.create()?;
        }
        Ok(())
    }
}

/// The definition of the NAT network. Guests have fixed addresses and public name servers, so libvirt
/// serves neither DHCP nor DNS on it, and runs no dnsmasq.
fn nat_xml(name: &str, bridge: &str, gateway: Gateway) -> String {
    xml::write(&Network {
        name,
        uuid: names::uuid(name),
        forward: Forward { mode: "nat" },
        bridge: Bridge { name: bridge, stp: "off" },
        dns: Dns { enable: "no" },
        ip: Ip { address: gateway.ip.to_string(), prefix: gateway.prefix },
    })
}

#[derive(Serialize)]
#[serde(rename = "network")]
struct Network<'a> {
    name: &'a str,
    uuid: String,
    forward: Forward,
    bridge: Bridge<'a>,
    dns: Dns,
    ip: Ip,
}

#[derive(Serialize)]
struct Forward {
    #[serde(rename = "@mode")]
    mode: &'static str,
}

#[derive(Serialize)]
struct Bridge<'a> {
    #[serde(rename = "@name")]
    name: &'a str,
    #[serde(rename = "@stp")]
    stp: &'static str,
}

#[derive(Serialize)]
struct Dns {
    #[serde(rename = "@enable")]
    enable: &'static str,
}

#[derive(Serialize)]
struct Ip {
    #[serde(rename = "@address")]
    address: String,
    #[serde(rename = "@prefix")]
    prefix: u8,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nat_network_is_written_out() {
        let xml = nat_xml("berth-nat", "berth0", "10.77.0.1/24".parse().unwrap());
        let expected = "<network>
  <name>berth-nat</name>
  <uuid>UUID</uuid>
  <forward mode=\"nat\"/>
  <bridge name=\"berth0\" stp=\"off\"/>
  <dns enable=\"no\"/>
  <ip address=\"10.77.0.1\" prefix=\"24\"/>
</network>
";
        assert_eq!(xml, expected.replace("UUID", &names::uuid("berth-nat")));
    }
}
