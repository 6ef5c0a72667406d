//! Locations and datacenters (Hetzner Cloud API v1, `/locations`).

use serde::{Deserialize, Serialize};

use crate::page::Meta;
use crate::{DatacenterId, LocationId};

/// A place with nodes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Location {
    /// Stable for life.
    pub id: LocationId,
    /// `rtm1`.
    pub name: String,
    /// `Rotterdam`.
    pub description: String,
    /// ISO 3166-1 alpha-2, `NL`.
    pub country: String,
    /// `Rotterdam`.
    pub city: String,
    /// Degrees north.
    pub latitude: f64,
    /// Degrees east.
    pub longitude: f64,
    /// Locations of one zone can share private networks.
    pub network_zone: String,
}

/// A building in a location. Berth has one per location: `rtm1-dc1`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Datacenter {
    /// The location's number.
    pub id: DatacenterId,
    /// `rtm1-dc1`.
    pub name: String,
    /// `Rotterdam DC 1`.
    pub description: String,
    /// Where it stands.
    pub location: Location,
}

impl Datacenter {
    /// The one datacenter of a location.
    pub fn of(location: &Location) -> Self {
        Self {
            id: DatacenterId(location.id.0),
            name: Self::name_of(&location.name),
            description: format!("{} DC 1", location.description),
            location: location.clone(),
        }
    }

    /// The name of the one datacenter of the location with this name.
    pub fn name_of(location: &str) -> String {
        format!("{location}-dc1")
    }
}

/// `GET /v1/locations`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LocationList {
    /// This page's locations.
    pub locations: Vec<Location>,
    /// The page.
    pub meta: Meta,
}

/// `GET /v1/locations/{id}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LocationReply {
    /// The location.
    pub location: Location,
}
