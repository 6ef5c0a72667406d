//! The public API as one OpenAPI document, put together from the subjects' routes.

use berth_model::ErrorBody;
use berth_model::load::LoadSpan;
use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi as _};
use utoipa_axum::router::OpenApiRouter;

use crate::World;
use crate::http::unsupported;
use crate::{
    accounts, actions, addresses, backups, catalog, certificates, consoles, firewalls, images, isos, live,
    load, networks, nodes, placement_groups, quotas, servers, ssh_keys, volumes, webhooks,
};

/// Every route of `/v1`, from all subjects.
pub fn router() -> OpenApiRouter<World> {
    let subjects = OpenApiRouter::new()
        .merge(accounts::router())
        .merge(servers::http::router())
        .merge(consoles::router())
        .merge(backups::router())
        .merge(addresses::router())
        .merge(actions::router())
        .merge(images::http::router())
        .merge(isos::router())
        .merge(catalog::http::router())
        .merge(ssh_keys::http::router())
        .merge(firewalls::router())
        .merge(networks::router())
        .merge(quotas::http::router())
        .merge(volumes::router())
        .merge(placement_groups::router())
        .merge(certificates::router())
        .merge(webhooks::http::router())
        .merge(load::http::router())
        .merge(live::router())
        .merge(nodes::http::router())
        .merge(unsupported::router());
    OpenApiRouter::with_openapi(Head::openapi()).nest("/v1", subjects)
}

/// The document.
pub fn document() -> OpenApi {
    router().into_openapi()
}

/// The document as it is checked in: `server/openapi.json`.
///
/// # Errors
/// It cannot be written as JSON.
pub fn text() -> serde_json::Result<String> {
    Ok(document().to_pretty_json()? + "\n")
}

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Berth",
        description = "The public API, in the conventions of the Hetzner Cloud API v1: its clients work unchanged. \
                       Every POST of a project takes an `Idempotency-Key`: sent again within 24 hours, it is answered \
                       again, not done again."
    ),
    components(schemas(ErrorBody, LoadSpan)),
    security(("token" = []), ("session" = [])),
    modifiers(&Security)
)]
struct Head;

struct Security;

impl Modify for Security {
    fn modify(&self, document: &mut OpenApi) {
        let components = document.components.get_or_insert_default();
        let token = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("An API token of 64 characters; it belongs to one project."))
            .build();
        let session = ApiKeyValue::with_description(
            "berth_session",
            "A signed-in user. The header `Berth-Project` names the project; without it, the first.",
        );
        components.add_security_scheme("token", SecurityScheme::Http(token));
        components.add_security_scheme("session", SecurityScheme::ApiKey(ApiKey::Cookie(session)));
    }
}
