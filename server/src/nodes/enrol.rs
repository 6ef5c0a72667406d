//! How an agent joins: a one-time token, and a certificate for the key made on its node.

use std::fmt;
use std::str::FromStr;

use berth_model::agent::{EnrolReply, EnrolRequest};
use berth_model::{ErrorCode, NodeId, Timestamp};
use sha2::{Digest as _, Sha256};
use sqlx::PgPool;
use subtle::ConstantTimeEq as _;

use super::ca::{Authority, SignError};
use super::queries;
use crate::agents::AgentAddress;
use crate::entropy;
use crate::http::{ApiResult, Problem};

/// How long a token may be used, in seconds.
pub const TOKEN_S: i64 = 3600;
/// Letters and digits of its secret; some 256 bits.
const SECRET_LENGTH: usize = 43;

/// What the owner carries from the control plane to a new node, once:
/// `{node}.{secret}.{SHA-256 of the CA's certificate, hex}`. By the last part the agent knows
/// whom to trust before it trusts anybody.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Which node.
    pub node: NodeId,
    secret: String,
    fingerprint: String,
}

impl Token {
    /// A new one.
    pub fn new(node: NodeId, authority: &Authority) -> Self {
        Self { node, secret: entropy::alphanumeric(SECRET_LENGTH), fingerprint: authority.fingerprint() }
    }

    /// What the database keeps of it.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.secret.as_bytes()).into()
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.node, self.secret, self.fingerprint)
    }
}

impl FromStr for Token {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.trim().split('.');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(node), Some(secret), Some(fingerprint), None) => Ok(Self {
                node: node.parse().map_err(|_| ())?,
                secret: secret.to_owned(),
                fingerprint: fingerprint.to_owned(),
            }),
            _ => Err(()),
        }
    }
}

/// One answer for a token that is mistyped, unknown, used or too old: who guesses learns nothing.
fn not_valid() -> Problem {
    Problem::new(
        ErrorCode::Unauthorized,
        "This enrolment token is not valid: it was mistyped, used before, or is older than an hour. \
         Make a new one with `berth node token`.",
    )
}

/// Lets an agent in: checks and uses up its token, signs its certificate and notes its address,
/// all or nothing.
pub async fn enrol(
    db: &PgPool,
    authority: &Authority,
    request: &EnrolRequest,
    now: Timestamp,
) -> ApiResult<EnrolReply> {
    let token: Token = request.token.parse().map_err(|()| not_valid())?;
    let mut tx = db.begin().await?;
    let pending = queries::pending_enrolment(&mut tx, token.node).await?;
    // Compared also when there is none, so that the time taken tells nothing.
    let expected = pending.as_ref().and_then(|p| <[u8; 32]>::try_from(p.token_hash.as_slice()).ok());
    let is_right = bool::from(token.hash().ct_eq(&expected.unwrap_or_default()));
    if !(is_right && pending.is_some_and(|p| now < p.expires)) {
        return Err(not_valid());
    }

    let address = AgentAddress::parse(token.node, &request.address)
        .map_err(|sentence| Problem::field("address", sentence))?;
    let certificate = authority.sign_agent(&request.csr_pem, &address, now).map_err(|error| match error {
        SignError::Request(why) => {
            Problem::field("csr_pem", format!("The request for a certificate is {why}."))
        }
        SignError::Ours(cause) => Problem::internal(cause),
    })?;
    queries::enrolled(&mut tx, token.node, &address.to_string(), certificate.expires).await?;
    tx.commit().await?;
    tracing::info!(node = %token.node, %address, "a node has enrolled");
    Ok(EnrolReply {
        node: token.node,
        certificate_pem: certificate.pem,
        ca_pem: authority.certificate_pem().to_owned(),
    })
}
