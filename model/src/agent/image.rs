use serde::{Deserialize, Serialize};

use crate::{ByteSize, VolumeId};

/// What an image file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ImageFormat {
    /// A disk that VMs are made from.
    #[default]
    Qcow2,
    /// A CD or DVD.
    Iso,
    /// A disk, byte for byte; to be converted before use.
    Raw,
    /// A disk of VMware in one file; to be converted before use.
    Vmdk,
    /// A disk of VirtualBox; to be converted before use.
    Vdi,
}

impl ImageFormat {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Qcow2, Self::Iso, Self::Raw, Self::Vmdk, Self::Vdi];

    /// What a file's name ends with, and what QEMU calls it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Iso => "iso",
            Self::Raw => "raw",
            Self::Vmdk => "vmdk",
            Self::Vdi => "vdi",
        }
    }
}

/// An image file on the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageFile {
    /// SHA-256 of the file, 64 hex digits; its name.
    pub sha256: String,
    /// Size of the file.
    pub file_size: ByteSize,
    /// Size of the disk it holds, as its header tells.
    pub disk_size: ByteSize,
    /// What it holds.
    #[serde(default)]
    pub format: ImageFormat,
    /// VMs whose disk stands on it.
    pub used_by: Vec<crate::VmId>,
    /// Volumes that stand on it.
    #[serde(default)]
    pub used_by_volumes: Vec<VolumeId>,
}

/// A file to be fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ImageFetch {
    /// Where it is: `https://` or `http://`, at most 2,000 characters, without a user or a password.
    pub url: String,
    /// What it must be; `qcow2` if not said.
    #[serde(default)]
    pub format: ImageFormat,
}

/// What `image.verify` found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageVerdict {
    /// The image's name: the SHA-256 that it should have.
    pub sha256: String,
    /// Nothing is wrong with it.
    pub sound: bool,
    /// What is wrong, a sentence each.
    pub problems: Vec<String>,
}

/// `GET /v1/images`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageFileList {
    /// All image files, by name.
    pub images: Vec<ImageFile>,
}
