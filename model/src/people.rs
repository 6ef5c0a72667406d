//! Users, accounts, projects, sessions and API tokens. The Hetzner Cloud API has none of
//! these; the routes follow its conventions.

use serde::{Deserialize, Serialize};

use crate::page::Meta;
use crate::{AccountId, ProjectId, Timestamp, TokenId, UserId};

/// What a user is to the installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "sqlx", derive(sqlx::Type), sqlx(type_name = "text", rename_all = "snake_case"))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Runs the installation: nodes, catalogue, staff.
    Owner,
    /// Helps customers.
    Staff,
    /// Rents servers.
    Customer,
}

impl core::str::FromStr for Role {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "owner" => Ok(Self::Owner),
            "staff" => Ok(Self::Staff),
            "customer" => Ok(Self::Customer),
            _ => Err(format!("“{s}” is not a role; there are owner, staff and customer.")),
        }
    }
}

/// A person who signs in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct User {
    /// Stable for life.
    pub id: UserId,
    /// Unique, compared without case.
    pub email: String,
    /// How they are called.
    pub name: String,
    /// What they are to the installation.
    pub role: Role,
    /// When they signed up.
    pub created: Timestamp,
}

/// Who pays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Account {
    /// Stable for life.
    pub id: AccountId,
    /// The company's or person's name.
    pub name: String,
    /// While it is suspended, its people and tokens may only read.
    #[serde(default)]
    pub suspended: Option<Suspension>,
}

/// Why an account may only read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Suspension {
    /// Since when.
    pub since: Timestamp,
    /// A sentence for the customer.
    pub reason: String,
}

/// `POST /v1/staff/accounts/{id}/suspend`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SuspendRequest {
    /// A sentence for the customer, 1 to 500 characters.
    pub reason: String,
}

/// One account, as staff see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AccountReply {
    /// The account.
    pub account: Account,
}

/// `GET /v1/staff/accounts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AccountList {
    /// This page's accounts, by number.
    pub accounts: Vec<Account>,
    /// The page.
    pub meta: Meta,
}

/// A folder of resources in an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Project {
    /// Stable for life.
    pub id: ProjectId,
    /// Unique in the account.
    pub name: String,
    /// Whose.
    pub account: Account,
}

/// `POST /v1/session`: sign in. The answer sets the session's cookie.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SignIn {
    /// Email of the user.
    pub email: String,
    /// Password of the user.
    pub password: String,
}

/// `POST /v1/users`: sign up. Makes the user, an account and a project `default`, and signs in.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SignUp {
    /// A mail address of at most 254 characters.
    pub email: String,
    /// 1 to 100 characters.
    pub name: String,
    /// 10 to 1024 characters.
    pub password: String,
}

/// Fewest characters of a password.
pub const PASSWORD_MIN_CHARS: usize = 10;
/// Most bytes of a password.
pub const PASSWORD_MAX_BYTES: usize = 1024;

/// `POST /v1/session/password`: a new password. Ends all other sessions of the user.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PasswordChange {
    /// The password until now.
    pub current_password: String,
    /// 10 to 1024 characters.
    pub new_password: String,
}

/// `GET /v1/session`, and the answer to sign-in and sign-up: who is signed in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Session {
    /// The user.
    pub user: User,
    /// The projects they can enter, oldest first. Requests of a session name one in the header
    /// `Berth-Project`; without it, the first.
    pub projects: Vec<Project>,
    /// When the session ends unless it is used.
    pub expires: Timestamp,
}

/// What a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "sqlx", derive(sqlx::Type), sqlx(type_name = "text", rename_all = "snake_case"))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum TokenAccess {
    /// GET only.
    Read,
    /// Everything in its project.
    ReadWrite,
}

/// An API token of a project. Its 64 characters are told once, when it is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Token {
    /// Stable for life.
    pub id: TokenId,
    /// What it is for.
    pub name: String,
    /// What it may do.
    pub access: TokenAccess,
    /// When it was made.
    pub created: Timestamp,
    /// When it was last used, to the minute.
    pub last_used: Option<Timestamp>,
    /// From then on it opens nothing; `null`: it never ends by itself.
    #[serde(default)]
    pub expires: Option<Timestamp>,
}

/// `POST /v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TokenCreate {
    /// 1 to 100 characters.
    pub name: String,
    /// What it may do.
    pub access: TokenAccess,
    /// When it ends, in the future; without it, never by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

/// The answer to `POST /v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenCreated {
    /// The token.
    pub token: Token,
    /// Its 64 characters. Not shown again.
    pub secret: String,
}

/// `GET /v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenList {
    /// The project's tokens, newest first.
    pub tokens: Vec<Token>,
}
