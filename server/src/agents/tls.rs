//! Who we are to agents, and who they must be.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::Context as _;
use berth_model::{NodeId, Timestamp};
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;

use super::{AgentError, CONNECT_TIMEOUT, agent_name};
use crate::nodes::ca::{Authority, CONTROL_PLANE_DAYS};

/// Where an agent is reached: the host and port of `https://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentAddress {
    /// Which node must answer there.
    pub node: NodeId,
    /// A name or an address; IPv6 without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl AgentAddress {
    /// Reads `https://10.0.0.5:7701`; the error is a sentence.
    pub fn parse(node: NodeId, address: &str) -> Result<Self, String> {
        let wrong = || format!("“{address}” is not an agent's address. Write it like https://10.0.0.5:7701.");
        let url = reqwest::Url::parse(address).map_err(|_| wrong())?;
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        let nobody = url.username().is_empty() && url.password().is_none();
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return Err(wrong());
        };
        if url.scheme() != "https" || !bare || !nobody || address.len() > ADDRESS_LENGTH_MAX {
            return Err(wrong());
        }
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { node, host, port })
    }

    /// Its host as an IP address, if it is one.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// The socket addresses behind it.
    pub(crate) async fn resolve(&self) -> std::io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host((self.host.as_str(), self.port)).await?.collect())
    }
}

impl std::fmt::Display for AgentAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.ip() {
            Some(IpAddr::V6(ip)) => write!(f, "https://[{ip}]:{}", self.port),
            _ => write!(f, "https://{}:{}", self.host, self.port),
        }
    }
}

/// Longest address of an agent, in bytes.
const ADDRESS_LENGTH_MAX: usize = 300;

/// Our certificate, renewed in place: connections made from then on show the new one.
#[derive(Clone)]
pub struct Credentials {
    authority: Arc<Authority>,
    shown: Arc<Shown>,
    config: rustls::ClientConfig,
}

impl Credentials {
    /// With a certificate made at `now`.
    pub fn new(authority: Arc<Authority>, now: Timestamp) -> anyhow::Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority.certificate().clone()).context("our own CA's certificate")?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let shown = Arc::new(Shown(RwLock::new(Held::new(&authority, now)?)));
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_cert_resolver(Arc::clone(&shown) as Arc<dyn ResolvesClientCert>);
        Ok(Self { authority, shown, config })
    }

    /// Makes a new certificate when under a third of the present one's life is left.
    pub fn renew_if_due(&self, now: Timestamp) -> anyhow::Result<()> {
        if now < self.shown.held().renew_at {
            return Ok(());
        }
        let held = Held::new(&self.authority, now)?;
        *self.shown.0.write().unwrap_or_else(PoisonError::into_inner) = held;
        Ok(())
    }

    /// TLS towards agents.
    pub fn config(&self) -> &rustls::ClientConfig {
        &self.config
    }

    /// The CA behind them.
    pub fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }
}

/// A certificate of ours with its key.
#[derive(Debug, Clone)]
struct Held {
    key: Arc<CertifiedKey>,
    renew_at: Timestamp,
}

impl Held {
    fn new(authority: &Authority, now: Timestamp) -> anyhow::Result<Self> {
        let (chain, key) = authority.issue_control_plane(now)?;
        let key = rustls::crypto::ring::sign::any_ecdsa_type(&key.into()).context("our own key")?;
        let renew_at = now.plus_seconds(CONTROL_PLANE_DAYS * 86_400 * 2 / 3);
        Ok(Self { key: Arc::new(CertifiedKey::new(chain, key)), renew_at })
    }
}

#[derive(Debug)]
struct Shown(RwLock<Held>);

impl Shown {
    fn held(&self) -> Held {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.held().key)
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Leads the agent's own name to wherever the node is reached.
struct NodeResolver(AgentAddress);

impl reqwest::dns::Resolve for NodeResolver {
    fn resolve(&self, _: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let address = self.0.clone();
        Box::pin(async move {
            let found = address.resolve().await?;
            Ok(Box::new(found.into_iter()) as reqwest::dns::Addrs)
        })
    }
}

/// A pool of connections to one agent. Requests go to `https://node-ID.berth.internal:port`, so
/// that the certificate is checked for that name.
pub(super) fn http_client(
    credentials: &Credentials,
    address: &AgentAddress,
) -> Result<reqwest::Client, AgentError> {
    reqwest::Client::builder()
        .tls_backend_preconfigured(credentials.config().clone())
        .dns_resolver(NodeResolver(address.clone()))
        .connect_timeout(CONNECT_TIMEOUT)
        .https_only(true)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("berth/", env!("CARGO_PKG_VERSION")))
        .build()
        .with_context(|| format!("a client for {}", agent_name(address.node)))
        .map_err(AgentError::Ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_https_with_a_host_and_nothing_else() {
        let node = NodeId(7);
        for (text, host, port) in [
            ("https://10.0.0.5:7701", "10.0.0.5", 7701),
            ("https://[fd00::5]:7701", "fd00::5", 7701),
            ("https://n1.example.net", "n1.example.net", 443),
        ] {
            let address = AgentAddress::parse(node, text).unwrap();
            assert_eq!((address.host.as_str(), address.port), (host, port));
        }
        for text in [
            "",
            "10.0.0.5:7701",
            "http://10.0.0.5:7701",
            "https://10.0.0.5:7701/v1",
            "https://a@b",
            "https://:7701",
            "https://h?x",
        ] {
            assert!(AgentAddress::parse(node, text).is_err(), "{text}");
        }
    }
}
