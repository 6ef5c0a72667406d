//! Actions: what an API call started, and what became of it. Kept when the resource is gone.
//!
//! ```text
//!   running ──▶ success
//!      └──────▶ error (what was begun is undone)
//! ```

mod http;
pub mod queries;
pub mod rules;

pub use http::router;

use berth_model::action::{ActionStatus, ResourceKind};
use berth_model::{ActionId, ProjectId, Timestamp};

use crate::http::Sort;

/// An action to be started.
#[derive(Debug, Clone)]
pub struct NewAction<'a> {
    /// Whose.
    pub project: ProjectId,
    /// `create_server`, ….
    pub command: &'a str,
    /// What it works on.
    pub resources: &'a [(ResourceKind, i64)],
    /// Titles of its steps, for the customer; empty for an action of one step. For the action of
    /// a saga these are [`crate::jobs::titles`].
    pub steps: &'a [&'a str],
    /// When it was asked for.
    pub now: Timestamp,
}

/// Which of a project's actions a list shows, and in which order.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Exactly these.
    pub ids: Option<Vec<ActionId>>,
    /// In one of these states; empty for any.
    pub statuses: Vec<ActionStatus>,
    /// Of this kind of resource, or of this one resource.
    pub resource: Option<(ResourceKind, Option<i64>)>,
    /// First by the first; ties by id.
    pub sort: Vec<Sort>,
}
