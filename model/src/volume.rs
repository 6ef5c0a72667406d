//! Volumes: disks that live longer than the servers they are attached to (Hetzner Cloud API v1, `/volumes`).

use serde::{Deserialize, Serialize};

use crate::action::Action;
use crate::agent::FileSystem;
use crate::label::Labels;
use crate::location::Location;
use crate::page::Meta;
use crate::server::NameOrId;
use crate::{ServerId, Timestamp, VolumeId};

/// Smallest volume, in GB (GiB).
pub const SIZE_MIN_GB: u32 = 10;
/// Largest volume, in GB (GiB): 10 TB.
pub const SIZE_MAX_GB: u32 = 10_240;
/// Most volumes of one server.
pub const VOLUMES_OF_SERVER_MAX: usize = 16;

/// What a volume does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum VolumeStatus {
    /// It is being made for its first server.
    Creating,
    /// It can be attached.
    Available,
}

/// What must not happen to a volume until it is switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VolumeProtection {
    /// It cannot be deleted.
    pub delete: bool,
}

/// A disk that one server at a time has beside its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Volume {
    /// Stable for life.
    pub id: VolumeId,
    /// Unique among the project's volumes.
    pub name: String,
    /// Size in GB (GiB).
    pub size: u32,
    /// The server that has it.
    pub server: Option<ServerId>,
    /// What it does now.
    pub status: VolumeStatus,
    /// Servers of this location can have it.
    pub location: Location,
    /// Where it is found on its server.
    pub linux_device: String,
    /// The file system that it was made with.
    pub format: Option<FileSystem>,
    /// What must not happen to it.
    pub protection: VolumeProtection,
    /// The customer's own marks.
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::BTreeMap<String, String>))]
    pub labels: Labels,
    /// When it was ordered.
    pub created: Timestamp,
}

impl Volume {
    /// Where a volume is found on a Linux server: udev's name for its serial number.
    pub fn linux_device_of(id: VolumeId) -> String {
        format!("/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_volume-{id}")
    }
}

/// `POST /v1/volumes`. It is made on the node of the first server that gets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct VolumeCreate {
    /// 1 to 64 characters, unique among the project's volumes.
    pub name: String,
    /// Size in GB (GiB), 10 to 10240.
    pub size: u32,
    /// Name or number of a location; not together with a server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<NameOrId>,
    /// The server that gets it. Without one, name a location.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerId>,
    /// The file system to make it with; empty without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<FileSystem>,
    /// The server's next system mounts it, see [`VolumeAttach::automount`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub automount: Option<bool>,
    /// The customer's own marks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<std::collections::BTreeMap<String, String>>))]
    pub labels: Option<Labels>,
}

/// `PUT /v1/volumes/{id}`: what is left out stays.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct VolumeUpdate {
    /// The new name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// All labels anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<std::collections::BTreeMap<String, String>>))]
    pub labels: Option<Labels>,
}

/// `POST /v1/volumes/{id}/actions/attach`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct VolumeAttach {
    /// The server that gets it.
    pub server: ServerId,
    /// A system that is installed on the server while it has the volume mounts it as `/mnt/volume-{id}`, by
    /// cloud-init at its first boot: when the server is created or rebuilt. One that is there already mounts
    /// nothing by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub automount: Option<bool>,
}

/// `POST /v1/volumes/{id}/actions/resize`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct VolumeResize {
    /// The new size in GB (GiB): more than now, up to 10240. The file system on it is grown in the server.
    pub size: u32,
}

/// `POST /v1/volumes/{id}/actions/change_protection`: what is left out stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ChangeVolumeProtection {
    /// It cannot be deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete: Option<bool>,
}

/// `GET /v1/volumes`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VolumeList {
    /// This page's volumes.
    pub volumes: Vec<Volume>,
    /// The page.
    pub meta: Meta,
}

/// One volume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VolumeReply {
    /// The volume.
    pub volume: Volume,
}

/// The answer to `POST /v1/volumes`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VolumeCreated {
    /// The volume.
    pub volume: Volume,
    /// What ordered it.
    pub action: Action,
    /// What gives it to its server, if one was named.
    pub next_actions: Vec<Action>,
}
