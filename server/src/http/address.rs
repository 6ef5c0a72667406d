//! From where a request comes.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use axum::extract::{ConnectInfo, FromRequestParts};
use http::HeaderMap;
use http::request::Parts;
use serde::{Deserialize, Deserializer, de};

use super::problem::Problem;
use crate::World;

/// An address or a network in prefix form: `10.0.0.0/8`, `2001:db8::/32`, `127.0.0.1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Is the address in it?
    pub fn contains(self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => same_start(&own.octets(), &other.octets(), self.prefix),
            (IpAddr::V6(own), IpAddr::V6(other)) => same_start(&own.octets(), &other.octets(), self.prefix),
            _ => false,
        }
    }
}

fn same_start(one: &[u8], other: &[u8], bits: u8) -> bool {
    let (whole, rest) = (usize::from(bits / 8), bits % 8);
    one[..whole] == other[..whole] && (rest == 0 || (one[whole] ^ other[whole]) >> (8 - rest) == 0)
}

impl FromStr for Network {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("“{text}” is not a network like 10.0.0.0/8 or 2001:db8::/32");
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(most), |prefix| prefix.parse().map_err(|_| wrong()))?;
        if prefix > most { Err(wrong()) } else { Ok(Self { address, prefix }) }
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The address of who sent the request; behind trusted proxies, the one they tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddress(pub IpAddr);

impl ClientAddress {
    /// Walks `X-Forwarded-For` from its end, where the nearest proxy wrote, for as long as the
    /// next hop is trusted. What stands before that was written by somebody we do not trust.
    pub fn of(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> Self {
        let mut address = peer.to_canonical();
        let values = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
        let hops: Vec<_> = values.flat_map(|value| value.split(',')).map(str::trim).collect();
        for hop in hops.into_iter().rev() {
            if !trusted.iter().any(|network| network.contains(address)) {
                break;
            }
            let Ok(next) = hop.parse::<IpAddr>() else { break };
            address = next.to_canonical();
        }
        Self(address)
    }

    /// Who is counted as one: an IPv4 address, or the /64 that one IPv6 customer gets.
    pub fn household(self) -> Household {
        Household(match self.0 {
            IpAddr::V6(v6) => {
                let [a, b, c, d, ..] = v6.segments();
                Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
            }
            v4 => v4,
        })
    }
}

impl FromRequestParts<World> for ClientAddress {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, world: &World) -> Result<Self, Problem> {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let ConnectInfo(peer) = peer.ok_or_else(|| Problem::internal(anyhow::anyhow!("no peer address")))?;
        Ok(Self::of(peer.ip(), &parts.headers, &world.config.trusted_proxies))
    }
}

/// An IPv4 address, or an IPv6 network of 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Household(IpAddr);

impl fmt::Display for Household {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(v4) => v4.fmt(f),
            IpAddr::V6(v6) => write!(f, "{v6}/64"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_network_contains_what_begins_like_it() {
        let network: Network = "10.32.0.0/11".parse().expect("a network");
        assert!(network.contains(ip("10.63.255.255")) && network.contains(ip("::ffff:10.32.0.1")));
        assert!(!network.contains(ip("10.64.0.0")) && !network.contains(ip("::1")));
        let all: Network = "::/0".parse().expect("a network");
        assert!(all.contains(ip("2001:db8::1")));
        for bad in ["", "10.0.0.0/33", "x/8", "10.0.0.0/", "::/129"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let trusted = ["10.0.0.0/8".parse().expect("a network")];
        let told = |peer: &str, header: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-forwarded-for", http::HeaderValue::from_static(header));
            ClientAddress::of(ip(peer), &headers, &trusted).0
        };
        assert_eq!(told("203.0.113.9", "198.51.100.1"), ip("203.0.113.9"), "not a proxy of ours");
        assert_eq!(told("10.0.0.1", "198.51.100.1"), ip("198.51.100.1"));
        assert_eq!(
            told("10.0.0.1", "1.2.3.4, 198.51.100.1, 10.0.0.2"),
            ip("198.51.100.1"),
            "the forged hop is ignored"
        );
        assert_eq!(told("10.0.0.1", "nonsense"), ip("10.0.0.1"));
        assert_eq!(ClientAddress::of(ip("::ffff:1.2.3.4"), &HeaderMap::new(), &trusted).0, ip("1.2.3.4"));
    }

    #[test]
    fn an_ipv6_customer_is_one_household() {
        let household = |text| ClientAddress(ip(text)).household().to_string();
        assert_eq!(household("2001:db8:1:2:3:4:5:6"), household("2001:db8:1:2::9"));
        assert_ne!(household("2001:db8:1:2::1"), household("2001:db8:1:3::1"));
        assert_eq!(household("192.0.2.7"), "192.0.2.7");
    }
}
