//! Images (Hetzner Cloud API v1, `/images`).

use serde::{Deserialize, Serialize};

use crate::label::Labels;
use crate::page::Meta;
use crate::{ImageId, Timestamp};

/// What made an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "sqlx", derive(sqlx::Type), sqlx(type_name = "text", rename_all = "snake_case"))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ImageKind {
    /// Offered by the hoster.
    System,
    /// Taken by a customer.
    Snapshot,
    /// Taken by schedule.
    Backup,
    /// A system with an application.
    App,
}

/// Can it be used?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "sqlx", derive(sqlx::Type), sqlx(type_name = "text", rename_all = "snake_case"))]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ImageStatus {
    /// Yes.
    Available,
    /// Being made.
    Creating,
    /// It was; its file is gone.
    Unavailable,
}

/// What must not happen to an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageProtection {
    /// It cannot be deleted.
    pub delete: bool,
}

/// A system that can be put on a server's disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Image {
    /// Stable for life.
    pub id: ImageId,
    /// What made it.
    #[serde(rename = "type")]
    pub kind: ImageKind,
    /// Can it be used?
    pub status: ImageStatus,
    /// `debian-12`; only system images have one.
    pub name: Option<String>,
    /// `Debian 12`.
    pub description: String,
    /// Size of its file in GB (GiB), with decimals; for people, not for sums.
    pub image_size: Option<f64>,
    /// Smallest disk it fits on, in GB (GiB).
    pub disk_size: f64,
    /// When it was made.
    pub created: Timestamp,
    /// The server it was taken from.
    pub created_from: Option<ImageSource>,
    /// The server it belongs to.
    pub bound_to: Option<i64>,
    /// `debian`.
    pub os_flavor: String,
    /// `12`.
    pub os_version: Option<String>,
    /// `x86`.
    pub architecture: String,
    /// Lies on every node already.
    pub rapid_deploy: bool,
    /// What must not happen to it.
    pub protection: ImageProtection,
    /// Since when it should no longer be chosen.
    pub deprecated: Option<Timestamp>,
    /// When it was deleted.
    pub deleted: Option<Timestamp>,
    /// The customer's own marks.
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::BTreeMap<String, String>))]
    pub labels: Labels,
}

/// The server an image was taken from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageSource {
    /// Its number.
    pub id: i64,
    /// Its name at that time.
    pub name: String,
}

/// `GET /v1/images`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageList {
    /// This page's images.
    pub images: Vec<Image>,
    /// The page.
    pub meta: Meta,
}

/// `GET /v1/images/{id}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageReply {
    /// The image.
    pub image: Image,
}

/// `PUT /v1/images/{id}`: what is left out stays.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ImageUpdate {
    /// For people, 1 to 200 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// `snapshot`: what was made by schedule is kept as if it had been taken by hand.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<ImageKind>,
    /// All labels anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<std::collections::BTreeMap<String, String>>))]
    pub labels: Option<Labels>,
}

/// `POST /v1/images/{id}/actions/change_protection`: what is left out stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ImageProtectionChange {
    /// It cannot be deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete: Option<bool>,
}
