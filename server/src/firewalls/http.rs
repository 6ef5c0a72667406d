//! `/v1/firewalls`.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use berth_model::action::{Action, ResourceKind};
use berth_model::error::ApiError;
use berth_model::firewall::{
    FirewallActions, FirewallApply, FirewallCreate, FirewallCreated, FirewallList, FirewallRemove,
    FirewallReply, FirewallSetRules, FirewallTarget, FirewallUpdate,
};
use berth_model::quota::QuotaKind;
use berth_model::{ErrorCode, FirewallId, ProjectId, ServerId, Timestamp};
use http::StatusCode;
use sqlx::PgConnection;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{check, queries, rules};
use crate::accounts::{Reader, Writer};
use crate::actions::{self, NewAction};
use crate::http::{ApiResult, Body, Errors, Filter, Page, Path, Problem};
use crate::servers::jobs::follow::{self, ServerFollow};
use crate::servers::rules::fault;
use crate::{World, clock, jobs, labels, quotas, servers};

/// The routes of firewalls.
pub fn router() -> OpenApiRouter<World> {
    OpenApiRouter::new()
        .routes(routes!(firewall_list, firewall_create))
        .routes(routes!(firewall_get, firewall_update, firewall_delete))
        .routes(routes!(firewall_set_rules))
        .routes(routes!(firewall_apply_to_resources))
        .routes(routes!(firewall_remove_from_resources))
}

/// Firewalls of the project.
#[utoipa::path(get, path = "/firewalls", tag = "firewalls", params(Filter, Page),
    responses((status = 200, body = FirewallList), Errors))]
async fn firewall_list(
    State(world): State<World>,
    Reader(access): Reader,
    filter: Filter,
    page: Page,
) -> ApiResult<Json<FirewallList>> {
    let mut conn = world.db.acquire().await?;
    let (firewalls, total) = queries::list(&mut conn, access.project, &filter, page).await?;
    Ok(Json(FirewallList { firewalls, meta: page.meta(total) }))
}

/// One firewall.
#[utoipa::path(get, path = "/firewalls/{id}", tag = "firewalls", params(("id" = FirewallId, Path)),
    responses((status = 200, body = FirewallReply), Errors))]
async fn firewall_get(
    State(world): State<World>,
    Reader(access): Reader,
    Path(id): Path<FirewallId>,
) -> ApiResult<Json<FirewallReply>> {
    let firewall = queries::get(&mut *world.db.acquire().await?, access.project, id).await?;
    Ok(Json(FirewallReply { firewall: firewall.ok_or_else(no_such)? }))
}

/// Make a firewall, and apply it to servers.
#[utoipa::path(post, path = "/firewalls", tag = "firewalls", request_body = FirewallCreate,
    responses((status = 201, body = FirewallCreated), Errors))]
async fn firewall_create(
    State(world): State<World>,
    Writer(access): Writer,
    Body(create): Body<FirewallCreate>,
) -> ApiResult<(StatusCode, Json<FirewallCreated>)> {
    let faults = rules::create_faults(&create);
    if !faults.is_empty() {
        return Err(ApiError::fields(faults).into());
    }
    let (now, project) = (clock::now(), access.project);
    let marks = create.labels.unwrap_or_default();
    let mut tx = world.db.begin().await?;
    queries::take_turns(&mut tx, project, true).await?;
    let new = (create.name.trim(), &marks, create.rules.as_slice());
    let id = queries::insert(&mut tx, project, new, now).await.map_err(name_is_taken)?;
    let actions = match create.apply_to.as_slice() {
        [] => Vec::new(),
        targets => apply(&mut tx, project, id, targets, now).await?,
    };
    let firewall = queries::get(&mut tx, project, id).await?;
    quotas::check(&mut tx, &world.config, project, &[QuotaKind::Firewalls]).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(FirewallCreated { firewall: firewall.ok_or_else(no_such)?, actions })))
}

/// Change a firewall's name or labels.
#[utoipa::path(put, path = "/firewalls/{id}", tag = "firewalls", params(("id" = FirewallId, Path)),
    request_body = FirewallUpdate, responses((status = 200, body = FirewallReply), Errors))]
async fn firewall_update(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<FirewallId>,
    Body(update): Body<FirewallUpdate>,
) -> ApiResult<Json<FirewallReply>> {
    let mut tx = world.db.begin().await?;
    hold(&mut tx, access.project, id).await?;
    labels::check_named(update.name.as_deref(), update.labels.as_ref())?;
    let name = update.name.as_deref().map(str::trim);
    queries::update(&mut tx, id, name, update.labels.as_ref()).await.map_err(name_is_taken)?;
    let firewall = queries::get(&mut tx, access.project, id).await?;
    tx.commit().await?;
    Ok(Json(FirewallReply { firewall: firewall.ok_or_else(no_such)? }))
}

/// Delete a firewall that is applied to nothing.
#[utoipa::path(delete, path = "/firewalls/{id}", tag = "firewalls", params(("id" = FirewallId, Path)),
    responses((status = 204), Errors))]
async fn firewall_delete(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<FirewallId>,
) -> ApiResult<StatusCode> {
    let mut tx = world.db.begin().await?;
    queries::take_turns(&mut tx, access.project, true).await?;
    hold(&mut tx, access.project, id).await?;
    if queries::is_applied(&mut tx, id).await? {
        let message = "The firewall is in use. Remove it from its servers and label selectors first.";
        return Err(Problem::new(ErrorCode::ResourceInUse, message));
    }
    queries::delete(&mut tx, id).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The answer to a change of a firewall.
type Told = (StatusCode, Json<FirewallActions>);

fn told(actions: Vec<Action>) -> Told {
    (StatusCode::CREATED, Json(FirewallActions { actions }))
}

/// Give a firewall other rules, in place of all it has.
#[utoipa::path(post, path = "/firewalls/{id}/actions/set_rules", tag = "firewalls",
    params(("id" = FirewallId, Path)), request_body = FirewallSetRules,
    responses((status = 201, body = FirewallActions), Errors))]
async fn firewall_set_rules(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<FirewallId>,
    Body(asked): Body<FirewallSetRules>,
) -> ApiResult<Told> {
    let (now, project) = (clock::now(), access.project);
    let mut tx = world.db.begin().await?;
    queries::take_turns(&mut tx, project, true).await?;
    hold(&mut tx, project, id).await?;
    let faults = rules::rules_faults(&asked.rules);
    if !faults.is_empty() {
        return Err(ApiError::fields(faults).into());
    }
    queries::set_rules(&mut tx, id, &asked.rules).await?;
    let mut actions = vec![done(&mut tx, project, id, "set_firewall_rules", now).await?];
    let concerned = queries::servers_with(&mut tx, project, id).await?;
    actions.extend(tell(&mut tx, (project, id), "apply_firewall", &concerned, now).await?);
    tx.commit().await?;
    Ok(told(actions))
}

/// Apply a firewall to servers, by number or by label selector.
#[utoipa::path(post, path = "/firewalls/{id}/actions/apply_to_resources", tag = "firewalls",
    params(("id" = FirewallId, Path)), request_body = FirewallApply,
    responses((status = 201, body = FirewallActions), Errors))]
async fn firewall_apply_to_resources(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<FirewallId>,
    Body(asked): Body<FirewallApply>,
) -> ApiResult<Told> {
    let (now, project) = (clock::now(), access.project);
    let mut tx = world.db.begin().await?;
    queries::take_turns(&mut tx, project, true).await?;
    hold(&mut tx, project, id).await?;
    let mut actions = apply(&mut tx, project, id, &asked.apply_to, now).await?;
    if actions.is_empty() {
        actions.push(done(&mut tx, project, id, "apply_firewall", now).await?);
    }
    tx.commit().await?;
    Ok(told(actions))
}

/// Take a firewall from servers, as it was applied to them.
#[utoipa::path(post, path = "/firewalls/{id}/actions/remove_from_resources", tag = "firewalls",
    params(("id" = FirewallId, Path)), request_body = FirewallRemove,
    responses((status = 201, body = FirewallActions), Errors))]
async fn firewall_remove_from_resources(
    State(world): State<World>,
    Writer(access): Writer,
    Path(id): Path<FirewallId>,
    Body(asked): Body<FirewallRemove>,
) -> ApiResult<Told> {
    let (now, project) = (clock::now(), access.project);
    let mut tx = world.db.begin().await?;
    queries::take_turns(&mut tx, project, true).await?;
    hold(&mut tx, project, id).await?;
    let named = find(&mut tx, project, "remove_from", &asked.remove_from).await?;
    let before = queries::servers_with(&mut tx, project, id).await?;
    for target in &named {
        let was = match target {
            Target::Server(server) => queries::remove_server(&mut tx, id, *server).await?,
            Target::Fitting(selector) => queries::remove_selector(&mut tx, id, selector).await?,
        };
        if !was {
            let message = format!("The firewall is not applied to {}.", target.words());
            return Err(Problem::new(ErrorCode::FirewallAlreadyRemoved, message));
        }
    }
    let after = queries::servers_with(&mut tx, project, id).await?;
    let concerned = before.difference(&after).copied().collect();
    let mut actions = tell(&mut tx, (project, id), "remove_firewall", &concerned, now).await?;
    if actions.is_empty() {
        actions.push(done(&mut tx, project, id, "remove_firewall", now).await?);
    }
    tx.commit().await?;
    Ok(told(actions))
}

fn no_such() -> Problem {
    Problem::not_found("firewall")
}

async fn hold(conn: &mut PgConnection, project: ProjectId, id: FirewallId) -> ApiResult<()> {
    if queries::hold(conn, project, id).await? { Ok(()) } else { Err(no_such()) }
}

fn name_is_taken(error: sqlx::Error) -> Problem {
    Problem::from(error).on_taken(
        "firewalls_name_key",
        "name",
        "The project has a firewall with this name already.",
    )
}

/// What a request names, found.
enum Target<'a> {
    Server(ServerId),
    Fitting(&'a str),
}

impl Target<'_> {
    fn words(&self) -> String {
        match self {
            Self::Server(id) => format!("the server {id}"),
            Self::Fitting(selector) => format!("the servers that fit “{selector}”"),
        }
    }
}

/// Finds what a field of a request names.
async fn find<'a>(
    conn: &mut PgConnection,
    project: ProjectId,
    field: &str,
    asked: &'a [FirewallTarget],
) -> ApiResult<Vec<Target<'a>>> {
    let mut faults = rules::target_faults(asked, field);
    let named: Vec<ServerId> =
        asked.iter().filter_map(|target| target.server.map(|server| server.id)).collect();
    let found = servers::queries::among(conn, project, &named).await?;
    let mut targets = Vec::with_capacity(asked.len());
    for (at, target) in asked.iter().enumerate() {
        match (&target.server, &target.label_selector) {
            (Some(server), _) if found.contains(&server.id) => targets.push(Target::Server(server.id)),
            (Some(_), _) => {
                faults.push(fault(format!("{field}[{at}].server.id"), "There is no such server."));
            }
            (None, Some(selector)) => targets.push(Target::Fitting(&selector.selector)),
            (None, None) => {}
        }
    }
    if faults.is_empty() { Ok(targets) } else { Err(ApiError::fields(faults).into()) }
}

/// Applies a firewall to what is named, and tells the nodes of the servers that had it not; an action for each.
async fn apply(
    conn: &mut PgConnection,
    project: ProjectId,
    id: FirewallId,
    asked: &[FirewallTarget],
    now: Timestamp,
) -> ApiResult<Vec<Action>> {
    let named = find(conn, project, "apply_to", asked).await?;
    let before = queries::servers_with(conn, project, id).await?;
    for target in &named {
        let is_new = match target {
            Target::Server(server) => queries::add_server(conn, id, *server).await?,
            Target::Fitting(selector) => queries::add_selector(conn, id, selector).await?,
        };
        if !is_new {
            let message = format!("The firewall is applied to {} already.", target.words());
            return Err(Problem::new(ErrorCode::FirewallAlreadyApplied, message));
        }
    }
    let (servers, selectors) = queries::applied_to(conn, id).await?;
    if let Some(message) = rules::applied_fault(servers, selectors) {
        return Err(ApiError::field("apply_to", message).into());
    }
    let after = queries::servers_with(conn, project, id).await?;
    let concerned: BTreeSet<ServerId> = after.difference(&before).copied().collect();
    check(conn, &concerned.iter().copied().collect::<Vec<_>>()).await?;
    tell(conn, (project, id), "apply_firewall", &concerned, now).await
}

/// Tells the nodes of these servers what they filter by now; an action for each, which ends when its node was told.
async fn tell(
    conn: &mut PgConnection,
    (project, id): (ProjectId, FirewallId),
    command: &str,
    servers: &BTreeSet<ServerId>,
    now: Timestamp,
) -> ApiResult<Vec<Action>> {
    let mut actions = Vec::with_capacity(servers.len());
    for server in servers {
        let resources = &[(ResourceKind::Firewall, id.0), (ResourceKind::Server, server.0)];
        let steps = &jobs::titles::<ServerFollow>();
        let action = NewAction { project, command, resources, steps, now };
        let action = actions::queries::start(conn, &action).await?;
        follow::told_by(conn, *server, action.id, now).await?;
        actions.push(action);
    }
    let servers: Vec<_> = servers.iter().copied().collect();
    servers::queries::publish_all(conn, &servers, now).await?;
    Ok(actions)
}

async fn done(
    conn: &mut PgConnection,
    project: ProjectId,
    id: FirewallId,
    command: &str,
    now: Timestamp,
) -> ApiResult<Action> {
    let resources = &[(ResourceKind::Firewall, id.0)];
    Ok(actions::queries::done(conn, &NewAction { project, command, resources, steps: &[], now }).await?)
}
