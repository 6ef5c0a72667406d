//! Enrolment: how a node joins a control plane.
//!
//! ```text
//! berth node add ──token──► berth-agent enrol: key, CSR ──POST /v1/agents/enrol──► certificate, CA
//!                                                          CA has the token's fingerprint? ──► stored
//! ```
//!
//! A token is `{node id}.{secret}.{SHA-256 of the CA's certificate in DER, hex}`. The fingerprint pins
//! the CA: nobody between node and control plane can pass another one off. The secret works once and
//! briefly, and what it buys is visible to the staff as an enrolled node. Therefore plain HTTP is
//! allowed on loopback and in private networks; to anywhere else it must be HTTPS.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use berth_model::ErrorBody;
use berth_model::agent::{EnrolReply, EnrolRequest};
use http::Uri;

use crate::clock;
use crate::config::Config;
use crate::identity::{Identity, IdentityError, NewKey, ca_fingerprint};

/// How long the control plane may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest answer that is read.
const REPLY_MAX_BYTES: usize = 256 * 1024;

/// Why an enrolment failed; a sentence for the operator.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// There is an identity already.
    #[error(
        "This agent is enrolled already, as node {0}. To enrol it anew, say --force; its old certificate is \
         forgotten then."
    )]
    Already(berth_model::NodeId),
    /// The token is not one.
    #[error("The token is not whole: it has three parts, as `berth node add` prints it.")]
    Token,
    /// The URL cannot be used.
    #[error("{0}")]
    Url(String),
    /// The control plane was not reached, or said no.
    #[error("{0}")]
    Refused(String),
    /// The answer cannot be used.
    #[error("The control plane's answer cannot be used: {0}")]
    Reply(String),
    /// The key or the certificate could not be kept.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// What `berth-agent enrol` was told.
#[derive(Clone)]
pub struct Enrolment {
    /// The control plane, `https://berth.example`.
    pub url: String,
    /// The token. Secret.
    pub token: String,
    /// Where the control plane reaches the agent; `https://` and the `listen` address if not set.
    pub address: Option<String>,
    /// Replace an identity that is there.
    pub force: bool,
    /// A CA, PEM, under which the control plane's own HTTPS certificate stands, beside the system's.
    pub https_ca_pem: Option<String>,
}

/// Joins the control plane. Stores the identity in the tls folder, where a running agent finds it.
pub async fn enrol(config: &Config, enrolment: &Enrolment) -> Result<Identity, EnrolError> {
    let folder = config.tls_dir();
    refuse_twice(&folder, enrolment.force)?;
    check_url(&enrolment.url)?;
    let fingerprint = token_fingerprint(&enrolment.token).ok_or(EnrolError::Token)?;
    let address = match &enrolment.address {
        Some(address) => address.clone(),
        None => format!("https://{}", config.listen),
    };
    check_address(&address)?;
    let key = NewKey::draw(&config.name)?;
    let request =
        EnrolRequest { token: enrolment.token.clone(), address: address.clone(), csr_pem: key.csr_pem };
    let reply = post(enrolment, &request).await?;
    let unusable = |e: IdentityError| EnrolError::Reply(e.to_string());
    if ca_fingerprint(&reply.ca_pem).map_err(unusable)? != fingerprint {
        return Err(EnrolError::Reply("its CA is not the one that the token names.".to_owned()));
    }
    let identity = Identity {
        node: reply.node,
        address,
        ca_pem: reply.ca_pem,
        certificate_pem: reply.certificate_pem,
        key_pem: key.key_pem,
    };
    identity.certified_key(&rustls::crypto::ring::default_provider(), clock::now()).map_err(unusable)?;
    identity.store(&folder)?;
    Ok(identity)
}

fn refuse_twice(folder: &Path, force: bool) -> Result<(), EnrolError> {
    match Identity::load(folder) {
        Ok(Some(identity)) if !force => Err(EnrolError::Already(identity.node)),
        // With --force, a file that cannot be read is replaced as well.
        Err(e) if !force => Err(e.into()),
        _ => Ok(()),
    }
}

/// The part of a token that names the CA.
fn token_fingerprint(token: &str) -> Option<&str> {
    let mut parts = token.split('.');
    let (node, secret, fingerprint) = (parts.next()?, parts.next()?, parts.next()?);
    let whole = parts.next().is_none()
        && node.parse::<i64>().is_ok_and(|node| node > 0)
        && !secret.is_empty()
        && crate::spec::is_sha256(fingerprint);
    whole.then_some(fingerprint)
}

fn check_url(url: &str) -> Result<(), EnrolError> {
    let refuse = |why: &str| Err(EnrolError::Url(format!("{url}: {why}")));
    let Ok(parsed) = url.parse::<Uri>() else { return refuse("this is not a URL.") };
    let host = parsed.host().unwrap_or_default();
    match parsed.scheme_str() {
        Some("https") if !host.is_empty() => Ok(()),
        Some("http") if is_near(host) => Ok(()),
        Some("http") => {
            refuse("without https, only a control plane on this machine or in a private network is asked.")
        }
        _ => refuse("a control plane's address begins with https:// (or http:// in a private network)."),
    }
}

/// Is this host, by the look of it, on this machine or in a private network?
fn is_near(host: &str) -> bool {
    match host.trim_matches(['[', ']']).parse() {
        Ok(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        Ok(IpAddr::V6(ip)) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
        Err(_) => host == "localhost",
    }
}

fn check_address(address: &str) -> Result<(), EnrolError> {
    let parsed = address.parse::<Uri>().ok();
    let whole = parsed.is_some_and(|uri| {
        uri.scheme_str() == Some("https")
            && uri.port_u16().is_some_and(|port| port != 0)
            && matches!(uri.path(), "" | "/")
            && uri.query().is_none()
            && uri.host().is_some_and(|host| !matches!(host, "" | "0.0.0.0" | "[::]"))
    });
    if whole {
        return Ok(());
    }
    let message = format!(
        "{address}: say with --address where the control plane reaches this agent, like https://10.0.0.5:7701."
    );
    Err(EnrolError::Url(message))
}

async fn post(enrolment: &Enrolment, request: &EnrolRequest) -> Result<EnrolReply, EnrolError> {
    let url = format!("{}/v1/agents/enrol", enrolment.url.trim_end_matches('/'));
    let unreached = |e: reqwest::Error| {
        let cause = std::error::Error::source(&e).map(|cause| format!(" ({cause})")).unwrap_or_default();
        EnrolError::Refused(format!("The control plane at {url} was not reached: {e}{cause}"))
    };
    // Whoever else links this crate may have chosen a provider; any will do.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut client =
        reqwest::Client::builder().timeout(PATIENCE).redirect(reqwest::redirect::Policy::none()).no_proxy();
    if let Some(pem) = &enrolment.https_ca_pem {
        let roots = reqwest::Certificate::from_pem_bundle(pem.as_bytes());
        client =
            client.tls_certs_merge(roots.map_err(|e| EnrolError::Url(format!("The CA for HTTPS: {e}.")))?);
    }
    let client = client.build().map_err(unreached)?;
    let mut response = client.post(&url).json(request).send().await.map_err(unreached)?;
    let status = response.status();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unreached)? {
        if body.len() + chunk.len() > REPLY_MAX_BYTES {
            return Err(EnrolError::Reply("it is far too long.".to_owned()));
        }
        body.extend_from_slice(&chunk);
    }
    if status.is_success() {
        return serde_json::from_slice(&body).map_err(|e| EnrolError::Reply(format!("{e}.")));
    }
    let said = serde_json::from_slice::<ErrorBody>(&body).map(|body| body.error.message);
    let said = said.unwrap_or_else(|_| format!("status {status}; is {} a control plane?", enrolment.url));
    Err(EnrolError::Refused(format!("The control plane refused: {said}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_three_parts() {
        let fingerprint = "a".repeat(64);
        assert_eq!(token_fingerprint(&format!("7.secret.{fingerprint}")), Some(&fingerprint[..]));
        for broken in
            ["", "7", "7.secret", "7.secret.abc", "x.secret.F", "7..F", "7.secret.F.more", "0.secret.F"]
        {
            assert_eq!(token_fingerprint(&broken.replace('F', &fingerprint)), None, "{broken}");
        }
    }

    #[test]
    fn plain_http_stays_near() {
        for fine in [
            "http://127.0.0.1:8080",
            "http://localhost",
            "http://10.1.2.3/",
            "http://[fd00::1]:80",
            "http://[::1]",
            "https://berth.example",
        ] {
            assert!(check_url(fine).is_ok(), "{fine}");
        }
        for far in [
            "http://berth.example",
            "http://8.8.8.8",
            "http://[2001:db8::1]",
            "ftp://10.0.0.1",
            "10.0.0.1",
            "",
        ] {
            assert!(check_url(far).is_err(), "{far}");
        }
    }

    #[test]
    fn an_address_is_one_that_can_be_reached() {
        for fine in ["https://10.0.0.5:7701", "https://node.example:1/", "https://[fd00::5]:7701"] {
            assert!(check_address(fine).is_ok(), "{fine}");
        }
        for not in [
            "https://10.0.0.5",
            "http://10.0.0.5:7701",
            "https://0.0.0.0:7701",
            "https://h:0",
            "https://h:1/x",
        ] {
            assert!(check_address(not).is_err(), "{not}");
        }
    }
}
