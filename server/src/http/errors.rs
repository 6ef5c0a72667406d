//! The errors of an endpoint, for the OpenAPI document.

use std::collections::BTreeMap;

use utoipa::openapi::{ContentBuilder, RefOr, Response, ResponseBuilder};
use utoipa::{IntoResponses, openapi};

/// What any endpoint may answer instead of what was asked for: list it among its responses. A
/// status that an endpoint describes itself is its own.
#[derive(Debug, Clone, Copy)]
pub struct Errors;

const ERRORS: [(&str, &str); 10] = [
    ("400", "json_error: the body is not JSON."),
    ("401", "unauthorized: no session or token, or one that no longer works."),
    ("403", "forbidden, token_readonly, resource_limit_exceeded."),
    ("404", "not_found: it does not exist, or not for who asks."),
    (
        "409",
        "conflict: try again later; uniqueness_error. What waiting does not change has a code of its own: \
         resource_in_use, server_not_stopped, server_already_attached, server_not_attached_to_network, \
         networks_overlap, ip_not_available, no_subnet_available, server_has_ipv4, server_has_ipv6, \
         primary_ip_already_assigned, volume_already_attached, firewall_already_applied, firewall_already_removed.",
    ),
    (
        "422",
        "invalid_input: `details.fields` names the fields; resource_unavailable; unsupported_error: it is not \
         offered, or the resource does not allow it as it is now.",
    ),
    ("423", "locked: another action holds it; protected."),
    ("429", "rate_limit_exceeded: `Retry-After` says when to ask again."),
    ("500", "server_error: our mistake; it is noted under the request's id."),
    ("503", "unavailable, placement_error: try again."),
];

impl IntoResponses for Errors {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let content = || ContentBuilder::new().schema(Some(error_body())).build();
        let response = |text: &str| {
            ResponseBuilder::new().description(text).content("application/json", content()).build()
        };
        ERRORS.iter().map(|(status, text)| ((*status).to_owned(), response(text).into())).collect()
    }
}

/// A reference, so that the document holds the schema once; `crate::openapi` registers it.
fn error_body() -> RefOr<openapi::Schema> {
    RefOr::Ref(openapi::Ref::from_schema_name("ErrorBody"))
}
