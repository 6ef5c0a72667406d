//! Placement groups: servers that stand on different nodes (Hetzner Cloud API v1, `/placement_groups`).

use serde::{Deserialize, Serialize};

use crate::action::Action;
use crate::label::Labels;
use crate::page::Meta;
use crate::{PlacementGroupId, ServerId, Timestamp};

/// How the servers of a group stand to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum PlacementGroupType {
    /// Each on a node of its own: what one node suffers, the others do not.
    Spread,
}

/// A group of servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PlacementGroup {
    /// Stable for life.
    pub id: PlacementGroupId,
    /// Unique among the project's placement groups.
    pub name: String,
    /// How its servers stand to each other.
    #[serde(rename = "type")]
    pub kind: PlacementGroupType,
    /// Its servers, by number.
    pub servers: Vec<ServerId>,
    /// The customer's own marks.
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::BTreeMap<String, String>))]
    pub labels: Labels,
    /// When it was made.
    pub created: Timestamp,
}

/// `POST /v1/placement_groups`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PlacementGroupCreate {
    /// 1 to 64 characters, unique among the project's placement groups.
    pub name: String,
    /// How its servers stand to each other.
    #[serde(rename = "type")]
    pub kind: PlacementGroupType,
    /// The customer's own marks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<std::collections::BTreeMap<String, String>>))]
    pub labels: Option<Labels>,
}

/// `PUT /v1/placement_groups/{id}`: what is left out stays.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PlacementGroupUpdate {
    /// The new name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// All labels anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<std::collections::BTreeMap<String, String>>))]
    pub labels: Option<Labels>,
}

/// `POST /v1/servers/{id}/actions/add_to_placement_group`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AddToPlacementGroup {
    /// The number of the group.
    pub placement_group: PlacementGroupId,
}

/// `GET /v1/placement_groups`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PlacementGroupList {
    /// This page's groups.
    pub placement_groups: Vec<PlacementGroup>,
    /// The page.
    pub meta: Meta,
}

/// One group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PlacementGroupReply {
    /// The group.
    pub placement_group: PlacementGroup,
}

/// The answer to `POST /v1/placement_groups`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PlacementGroupCreated {
    /// The group.
    pub placement_group: PlacementGroup,
    /// None: it is there at once.
    pub action: Option<Action>,
}
