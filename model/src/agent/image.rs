use serde::{Deserialize, Serialize};

use crate::ByteSize;

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
    /// VMs whose disk stands on it.
    pub used_by: Vec<crate::VmId>,
}

/// `GET /v1/images`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageFileList {
    /// All image files, by name.
    pub images: Vec<ImageFile>,
}
