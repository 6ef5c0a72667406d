//! Firewalls: what may come to servers and go from them.
//!
//! Words. A firewall is *applied* to servers by their number and by *selectors*: to each whose labels fit, also to
//! those that come to fit later. A server *has* a firewall when it is applied to it in either way. With several,
//! each lets through what its rules say.
//!
//! ```text
//!   rules, applications, labels of servers change ─▶ the servers concerned are touched, their nodes told
//!                                                    (servers::jobs::follow): pending ─▶ applied
//! ```
//!
//! Invariants. A name stands once in a project, a server and a selector once in a firewall (constraints). A server
//! has at most [`rules::OF_SERVER_MAX`] firewalls, a firewall is applied to at most [`rules::APPLIED_MAX`], and each change of what a server has is told to its node: those
//! who change applications and those who change labels or add servers [take turns](queries::take_turns), so that
//! each sees what the other did.

pub mod http;
pub mod queries;
pub mod rules;

use std::collections::HashMap;

use berth_model::agent::Firewall;
use berth_model::error::ApiError;
use berth_model::server::FirewallNumber;
use berth_model::{ErrorCode, FieldError, FirewallId, ProjectId, ServerId, Timestamp};
use sqlx::PgConnection;

pub use http::router;

use crate::http::{ApiResult, Problem};
use crate::servers::jobs::follow;
use crate::servers::rules::{fault, just_gone};

/// What the firewalls of a server let through, together; `None` when it has none.
///
/// # Errors
/// When the database fails.
pub async fn of_machine(conn: &mut PgConnection, server: ServerId) -> sqlx::Result<Option<Firewall>> {
    let firewalls = queries::of_server(conn, server).await?;
    Ok(rules::merged(&queries::rules_of(conn, &firewalls).await?))
}

/// The firewalls that an order names, each once, and what is wrong with them.
///
/// # Errors
/// When the database fails.
pub async fn named(
    conn: &mut PgConnection,
    project: ProjectId,
    named: &[FirewallNumber],
    faults: &mut Vec<FieldError>,
) -> sqlx::Result<Vec<FirewallId>> {
    let mut found = Vec::new();
    if named.len() > rules::OF_SERVER_MAX {
        faults.push(fault("firewalls", rules::too_many()));
        return Ok(found);
    }
    for (at, FirewallNumber { firewall }) in named.iter().enumerate() {
        if queries::exists(conn, project, *firewall).await? {
            found.push(*firewall);
        } else {
            let message = format!("There is no firewall {firewall} in this project.");
            faults.push(fault(format!("firewalls[{at}].firewall"), message));
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Applies to a server that was just written the firewalls that its order names.
///
/// # Errors
/// `conflict` when one has just been deleted; `invalid_input` when one is applied to too many; `resource_limit_exceeded` when with those that its labels fit it has
/// too many.
pub async fn apply_ordered(
    conn: &mut PgConnection,
    project: ProjectId,
    server: ServerId,
    firewalls: &[FirewallId],
) -> ApiResult<()> {
    for firewall in firewalls {
        if !queries::exists(conn, project, *firewall).await? {
            return Err(just_gone("firewall").into());
        }
        queries::add_server(conn, *firewall, server).await?;
        let (servers, selectors) = queries::applied_to(conn, *firewall).await?;
        if let Some(message) = rules::applied_fault(servers, selectors) {
            return Err(ApiError::field("firewalls", message).into());
        }
    }
    check(conn, &[server]).await.map(drop)
}

/// The labels of a server have changed, which had these firewalls `before`: its node is told if others fit now.
///
/// # Errors
/// `resource_limit_exceeded` when it would have too many.
pub async fn follow_labels(
    conn: &mut PgConnection,
    server: ServerId,
    before: &[FirewallId],
    now: Timestamp,
) -> ApiResult<()> {
    let has = check(conn, &[server]).await?.remove(&server).unwrap_or_default();
    if has != before {
        follow::told_anew(conn, server, now).await?;
    }
    Ok(())
}

/// Refuses what was just written if one of these servers has too many firewalls now; says what each has.
///
/// # Errors
/// `resource_limit_exceeded`.
async fn check(
    conn: &mut PgConnection,
    servers: &[ServerId],
) -> ApiResult<HashMap<ServerId, Vec<FirewallId>>> {
    let marked = crate::servers::queries::labels_of(conn, servers).await?;
    let has = queries::of_servers(conn, &marked).await?;
    if has.values().any(|firewalls| firewalls.len() > rules::OF_SERVER_MAX) {
        return Err(Problem::new(ErrorCode::ResourceLimitExceeded, rules::too_many()));
    }
    Ok(has)
}
