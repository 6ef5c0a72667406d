//! `berth staff …`: what staff do for customers and nodes, from any machine, by the same API as the panel.
//!
//! A sign-in is kept in a file that its owner alone may read, until it is signed out or ends.

mod session;
mod table;

use std::path::Path;

use anyhow::Context as _;
use berth_model::quota::QuotaKind;
use berth_model::{AccountId, LimitRequestId, NodeId, ProjectId};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

pub use self::session::{Session, file};
pub use self::table::table;

/// What `berth staff` takes.
#[derive(Debug, Args)]
pub struct Staff {
    /// Print the API's answer as it is.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Sign in, and stay signed in on this machine.
    SignIn {
        /// Where the panel is: `https://cloud.example.org`.
        #[arg(long)]
        url: String,
        /// Your mail address.
        #[arg(long)]
        email: String,
        /// Read the password from standard input. A password in the command line could be seen by others.
        #[arg(long, required = true)]
        password_stdin: bool,
    },
    /// Sign out.
    SignOut,
    /// List accounts.
    Accounts {
        /// Those of which the person with this mail address is a member.
        #[arg(long)]
        email: Option<String>,
        /// Suspended ones only.
        #[arg(long)]
        suspended: bool,
    },
    /// Let the people and tokens of an account only read, until it is resumed. Its servers run on.
    Suspend {
        /// The account's number.
        account: AccountId,
        /// A sentence for the customer: why.
        #[arg(long)]
        reason: String,
    },
    /// Let a suspended account write again.
    Resume {
        /// The account's number.
        account: AccountId,
    },
    /// List requests for higher limits.
    Requests {
        /// Those that were answered, too.
        #[arg(long)]
        all: bool,
    },
    /// Give what a request asks for.
    Grant(Answer),
    /// Decline a request.
    Decline(Answer),
    /// Print what a project has of each kind, and may have.
    Limits {
        /// The project's number.
        project: ProjectId,
    },
    /// Set a limit of a project.
    Limit {
        /// The project's number.
        project: ProjectId,
        /// Of what: `limits` prints the words.
        kind: QuotaKind,
        /// The limit; without it, the installation's again.
        limit: Option<u32>,
    },
    /// Set a limit of all projects of an account together.
    AccountLimit {
        /// The account's number.
        account: AccountId,
        /// Of what: `limits` prints the words.
        kind: QuotaKind,
        /// The limit; without it, the installation's again.
        limit: Option<u32>,
    },
    /// List nodes.
    Nodes,
    /// Place no new servers on a node.
    Close {
        /// The node's number.
        node: NodeId,
    },
    /// Place new servers on a node again.
    Open {
        /// The node's number.
        node: NodeId,
    },
}

#[derive(Debug, Args)]
struct Answer {
    /// The request's number.
    request: LimitRequestId,
    /// For the customer.
    #[arg(long)]
    note: Option<String>,
}

/// What is asked of the API, and which part of the answer is shown.
struct Call {
    method: Method,
    path: String,
    body: Option<Value>,
    /// The answer's field with what is shown, and its columns.
    shown: (&'static str, &'static [&'static str]),
}

const ACCOUNT: &[&str] = &["id", "name", "suspended.since", "suspended.reason"];
const REQUEST: &[&str] = &["id", "account", "project", "kind", "limit", "status", "created", "reason"];
const LIMIT: &[&str] = &["kind", "used", "limit", "account_used", "account_limit"];
const NODE: &[&str] = &["id", "name", "state", "accepts_servers", "promised.servers", "last_seen", "faults"];

impl Command {
    fn call(&self) -> Option<Call> {
        let call = |method, path: String, body, shown| Some(Call { method, path, body, shown });
        let set = |path: String, kind: &QuotaKind, limit: &Option<u32>| {
            call(Method::PUT, path, Some(json!({"kind": kind, "limit": limit})), ("limits", LIMIT))
        };
        let answer = |word: &str, answer: &Answer| {
            let path = format!("staff/limit_requests/{}/{word}", answer.request);
            call(Method::POST, path, Some(json!({"note": answer.note})), ("limit_request", REQUEST))
        };
        let node = |id: &NodeId, accepts: bool| {
            let body = json!({"accepts_servers": accepts});
            call(Method::PUT, format!("nodes/{id}"), Some(body), ("node", NODE))
        };
        match self {
            Self::SignIn { .. } | Self::SignOut => None,
            Self::Accounts { email, suspended } => {
                let email = email.as_ref().map(|email| ("email", email.as_str()));
                let asked = email.into_iter().chain(suspended.then_some(("suspended", "true")));
                let path = serde_html_form::to_string(asked.collect::<Vec<_>>()).unwrap_or_default();
                call(Method::GET, format!("staff/accounts?{path}"), None, ("accounts", ACCOUNT))
            }
            Self::Suspend { account, reason } => {
                let path = format!("staff/accounts/{account}/suspend");
                call(Method::POST, path, Some(json!({"reason": reason})), ("account", ACCOUNT))
            }
            Self::Resume { account } => {
                call(Method::POST, format!("staff/accounts/{account}/resume"), None, ("account", ACCOUNT))
            }
            Self::Requests { all } => {
                let status = if *all { "" } else { "?status=open" };
                let path = format!("staff/limit_requests{status}");
                call(Method::GET, path, None, ("limit_requests", REQUEST))
            }
            Self::Grant(answered) => answer("grant", answered),
            Self::Decline(answered) => answer("decline", answered),
            Self::Limits { project } => {
                call(Method::GET, format!("staff/projects/{project}/limits"), None, ("limits", LIMIT))
            }
            Self::Limit { project, kind, limit } => {
                set(format!("staff/projects/{project}/limits"), kind, limit)
            }
            Self::AccountLimit { account, kind, limit } => {
                set(format!("staff/accounts/{account}/limits"), kind, limit)
            }
            Self::Nodes => call(Method::GET, "nodes".to_owned(), None, ("nodes", NODE)),
            Self::Close { node: id } => node(id, false),
            Self::Open { node: id } => node(id, true),
        }
    }
}

/// Does what was asked, and gives what is to be printed. `file` keeps the sign-in; `password` is read when it is
/// needed.
///
/// # Errors
/// With what the API said, or why it was not reached.
pub async fn run(
    staff: Staff,
    file: &Path,
    password: impl FnOnce() -> anyhow::Result<String>,
) -> anyhow::Result<String> {
    match &staff.command {
        Command::SignIn { url, email, password_stdin: _ } => {
            Session::begin(url.parse().map_err(anyhow::Error::msg)?, email, &password()?)
                .await?
                .write(file)?;
            return Ok(format!("Signed in at {url} as {email}.\n"));
        }
        Command::SignOut => {
            Session::read(file)?.end().await?;
            std::fs::remove_file(file)?;
            return Ok("Signed out.\n".to_owned());
        }
        _ => {}
    }
    let call = staff.command.call().context("this is not a call")?;
    let session = Session::read(file)?;
    let (field, columns) = call.shown;
    let answer = match call.method {
        Method::GET => session.all(&call.path, field).await?,
        method => session.call(method, &call.path, call.body.as_ref()).await?,
    };
    if staff.json {
        return Ok(serde_json::to_string_pretty(&answer)? + "\n");
    }
    Ok(table(&answer[field], columns))
}
