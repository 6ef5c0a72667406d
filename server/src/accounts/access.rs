//! Who sends a request, and what they may do: the extractors of all endpoints.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum_extra::extract::CookieJar;
use berth_model::people::{Role, TokenAccess, User};
use berth_model::{AccountId, ErrorCode, ProjectId, Timestamp, TokenId, UserId};
use http::header::{AUTHORIZATION, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, Method};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::queries::{self, Entered, Opened};
use crate::http::{ApiResult, Problem, Query, Site, Who, note_who};
use crate::{World, clock};

/// The cookie of a session.
pub const COOKIE: &str = "berth_session";
/// The header by which a session names its project.
pub const PROJECT_HEADER: &str = "berth-project";

/// SHA-256 of a cookie or a token: what the database knows of it. Both have more than 256 bits of
/// chance, so a plain hash cannot be guessed back.
pub(super) fn secret_hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// The session a request came with, by the hash of its cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionRef {
    pub(super) secret_hash: [u8; 32],
    /// When it ends unless it is used.
    pub expires: Timestamp,
}

/// A project, and who works in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProjectAccess {
    /// The project.
    pub project: ProjectId,
    /// Who pays.
    pub account: AccountId,
    /// The user, with a session.
    pub user: Option<UserId>,
    /// What they were let in by.
    pub key: Key,
}

/// What somebody was let in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// A token.
    Token(TokenId),
    /// A session, by SHA-256 of its cookie.
    Session([u8; 32]),
}

impl ProjectAccess {
    /// The token, without a session.
    pub fn token(&self) -> Option<TokenId> {
        match self.key {
            Key::Token(id) => Some(id),
            Key::Session(_) => None,
        }
    }

    /// May these rights have ended with what ended, in the words of [`Channel::Access`](crate::live::Channel)?
    pub fn hangs_on(&self, ended: &str) -> bool {
        let token = self.token().map(|id| format!("token {id}"));
        let user = self.user.map(|id| format!("user {id}"));
        [token, user, Some(format!("account {}", self.account))].iter().flatten().any(|own| own == ended)
    }
}

/// May read what belongs to the project. A WebSocket of a session counts as a write as far as its
/// origin goes: a page of another site could open one and read along.
#[derive(Debug, Clone, Copy)]
pub struct Reader(pub ProjectAccess);

/// May change what belongs to the project.
#[derive(Debug, Clone, Copy)]
pub struct Writer(pub ProjectAccess);

/// A user with a session; no token will do.
#[derive(Debug, Clone)]
pub struct SignedIn(pub User, pub SessionRef);

/// A user of the staff, or the owner.
#[derive(Debug, Clone)]
pub struct Staff(pub User);

/// The owner of the installation.
#[derive(Debug, Clone)]
pub struct Owner(pub User);

/// On a request that only asks whether it would be let in: no use of its session.
#[derive(Debug, Clone, Copy)]
pub struct JustAsking;

/// Who sent a request. Found once, then kept with the request.
#[derive(Debug, Clone)]
enum Principal {
    Session(User, SessionRef),
    /// A token, and why its account may only read, if it is suspended.
    Token {
        access: ProjectAccess,
        may: TokenAccess,
        suspended: Option<Arc<str>>,
    },
}

/// What a request shows to be let in. A token wins over a cookie: who sends one means it.
#[derive(Debug, PartialEq, Eq)]
enum Credential {
    Token([u8; 32]),
    Session([u8; 32]),
}

fn credential(headers: &HeaderMap) -> Result<Credential, Problem> {
    if let Some(value) = headers.get(AUTHORIZATION) {
        let token = value.to_str().ok().and_then(|text| {
            let (scheme, token) = text.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        let token = token.filter(|token| !token.is_empty());
        return token.map(|token| Credential::Token(secret_hash(token))).ok_or_else(|| {
            Problem::new(ErrorCode::Unauthorized, "Send the token as “Authorization: Bearer …”.")
        });
    }
    match CookieJar::from_headers(headers).get(COOKIE) {
        Some(cookie) => Ok(Credential::Session(secret_hash(cookie.value()))),
        None => Err(Problem::new(ErrorCode::Unauthorized, "Sign in, or send a token.")),
    }
}

async fn principal(parts: &mut Parts, world: &World) -> ApiResult<Principal> {
    if let Some(known) = parts.extensions.get::<Principal>() {
        return Ok(known.clone());
    }
    let now = clock::now();
    let found = match credential(&parts.headers)? {
        Credential::Token(hash) => {
            let found = queries::token_access(&world.db, &hash, now).await?;
            let Opened { token, may, entered: Entered { project, account, suspended } } =
                found.ok_or_else(|| {
                    let message = "This token is not known: it was deleted, or it has expired.";
                    Problem::new(ErrorCode::Unauthorized, message)
                })?;
            note_who(Who { token: Some(token), project: Some(project), user: None });
            let access = ProjectAccess { project, account, user: None, key: Key::Token(token) };
            Principal::Token { access, may, suspended: suspended.map(Arc::from) }
        }
        Credential::Session(secret_hash) => {
            let asks = parts.extensions.get::<JustAsking>().is_some();
            let put_off = (!asks).then(|| world.config.session_lifetime());
            let found = queries::session(&world.db, &secret_hash, put_off, now).await?;
            let (user, expires) = found.ok_or_else(|| {
                Problem::new(ErrorCode::Unauthorized, "The session has ended. Sign in again.")
            })?;
            Principal::Session(user, SessionRef { secret_hash, expires })
        }
    };
    parts.extensions.insert(found.clone());
    Ok(found)
}

/// Refuses what another site's page sends with a session's cookie. What has neither `Origin` nor
/// `Sec-Fetch-Site` is refused too: every browser sends one of them with a write, and a program
/// has tokens.
fn own_pages_only(parts: &Parts, world: &World) -> ApiResult<()> {
    match Site::of(&parts.headers, &world.config.origin()) {
        Site::Own => Ok(()),
        Site::Foreign | Site::Unknown => Err(Problem::new(
            ErrorCode::Forbidden,
            "This request does not come from a page of this installation. Programs use a token instead of a session.",
        )),
    }
}

/// The project a session names: in the header `Berth-Project`, or `?project=` for a WebSocket,
/// because a browser cannot send headers with one.
async fn named_project(parts: &mut Parts, is_socket: bool) -> ApiResult<Option<ProjectId>> {
    #[derive(Deserialize)]
    struct Asked {
        project: Option<ProjectId>,
    }
    let no_such_project = || Problem::not_found("project");
    if let Some(value) = parts.headers.get(PROJECT_HEADER) {
        let id = value.to_str().ok().and_then(|text| text.parse().ok());
        return id.map(Some).ok_or_else(no_such_project);
    }
    if is_socket {
        let Query(asked) =
            Query::<Asked>::from_request_parts(parts, &()).await.map_err(|_| no_such_project())?;
        return Ok(asked.project);
    }
    Ok(None)
}

async fn project_access(parts: &mut Parts, world: &World, writes: bool) -> ApiResult<ProjectAccess> {
    let is_socket = parts.headers.contains_key(UPGRADE);
    match principal(parts, world).await? {
        Principal::Token { access, may, suspended } => {
            if writes && may == TokenAccess::Read {
                return Err(Problem::new(ErrorCode::TokenReadonly, "This token may only read."));
            }
            refuse_suspended(writes, suspended.as_deref())?;
            Ok(access)
        }
        Principal::Session(user, session) => {
            if writes || is_socket {
                own_pages_only(parts, world)?;
            }
            let named = named_project(parts, is_socket).await?;
            let found = queries::project_of_user(&world.db, user.id, named).await?;
            let Entered { project, account, suspended } =
                found.ok_or_else(|| Problem::not_found("project"))?;
            refuse_suspended(writes, suspended.as_deref())?;
            note_who(Who { user: Some(user.id), project: Some(project), token: None });
            let key = Key::Session(session.secret_hash);
            Ok(ProjectAccess { project, account, user: Some(user.id), key })
        }
    }
}

/// A suspended account still reads.
fn refuse_suspended(writes: bool, reason: Option<&str>) -> ApiResult<()> {
    match reason.filter(|_| writes) {
        Some(reason) => {
            let message = format!("This account is suspended and may only read: {reason}");
            Err(Problem::new(ErrorCode::Forbidden, message))
        }
        None => Ok(()),
    }
}

async fn signed_in(parts: &mut Parts, world: &World) -> ApiResult<(User, SessionRef)> {
    match principal(parts, world).await? {
        Principal::Token { .. } => {
            Err(Problem::new(ErrorCode::Forbidden, "This is for people: sign in. A token cannot do it."))
        }
        Principal::Session(user, session) => {
            if !matches!(parts.method, Method::GET | Method::HEAD) {
                own_pages_only(parts, world)?;
            }
            note_who(Who { user: Some(user.id), ..Who::default() });
            Ok((user, session))
        }
    }
}

impl FromRequestParts<World> for Reader {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, world: &World) -> ApiResult<Self> {
        project_access(parts, world, false).await.map(Self)
    }
}

impl FromRequestParts<World> for Writer {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, world: &World) -> ApiResult<Self> {
        project_access(parts, world, true).await.map(Self)
    }
}

impl FromRequestParts<World> for SignedIn {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, world: &World) -> ApiResult<Self> {
        signed_in(parts, world).await.map(|(user, session)| Self(user, session))
    }
}

impl FromRequestParts<World> for Staff {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, world: &World) -> ApiResult<Self> {
        match signed_in(parts, world).await?.0 {
            user if matches!(user.role, Role::Owner | Role::Staff) => Ok(Self(user)),
            _ => Err(Problem::new(ErrorCode::Forbidden, "This is for staff.")),
        }
    }
}

impl FromRequestParts<World> for Owner {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, world: &World) -> ApiResult<Self> {
        match signed_in(parts, world).await?.0 {
            user if user.role == Role::Owner => Ok(Self(user)),
            _ => Err(Problem::new(ErrorCode::Forbidden, "This is for the owner of the installation.")),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(pairs: &[(&'static str, &'static str)]) -> Option<Credential> {
        let pairs = pairs
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)));
        credential(&pairs.collect()).ok()
    }

    #[test]
    fn a_token_wins_over_a_cookie() {
        let cookie = ("cookie", "a=b; berth_session=xyz");
        assert_eq!(of(&[cookie]), Some(Credential::Session(secret_hash("xyz"))));
        assert_eq!(
            of(&[cookie, ("authorization", "bearer abc")]),
            Some(Credential::Token(secret_hash("abc")))
        );
        for bad in ["Basic abc", "Bearer", "Bearer ", ""] {
            assert_eq!(of(&[cookie, ("authorization", bad)]), None, "{bad:?}");
        }
        assert_eq!(of(&[]), None);
    }
}
