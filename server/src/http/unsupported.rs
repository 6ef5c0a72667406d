//! Kinds of resources that clients know and this version does not offer. Their routes say so, so that nobody takes
//! the answer for a mistake in an address.

use axum::extract::OriginalUri;
use axum::routing::any;
use berth_model::ErrorCode;
use utoipa_axum::router::OpenApiRouter;

use super::problem::Problem;
use crate::World;
use crate::accounts::Reader;

/// Each with its name for people.
const KINDS: [(&str, &str); 2] = [("load_balancers", "Load balancers"), ("zones", "DNS zones")];

/// Their routes, which stand in no document.
pub fn router() -> OpenApiRouter<World> {
    let add = |router: OpenApiRouter<World>, (kind, _): (&str, &str)| {
        let all = format!("/{kind}");
        router.route(&all, any(unsupported)).route(&format!("{all}/{{*rest}}"), any(unsupported))
    };
    KINDS.into_iter().fold(OpenApiRouter::new(), add)
}

async fn unsupported(Reader(_): Reader, OriginalUri(uri): OriginalUri) -> Problem {
    let asked = |(kind, _): &(&str, &str)| uri.path().split('/').nth(2) == Some(*kind);
    let name = KINDS.iter().find(|kind| asked(kind)).map_or("These", |(_, name)| name);
    Problem::new(ErrorCode::UnsupportedError, format!("{name} are not offered by this installation."))
}
