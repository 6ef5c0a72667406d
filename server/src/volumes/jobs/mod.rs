//! The sagas of volumes, one file each.

pub mod remove;
pub mod resize;
pub mod settle;

use super::changes::{AttachVolume, DetachVolume};
use crate::jobs::Registry;
use crate::servers::jobs::change::Changing;
use crate::servers::jobs::losing::Losing;

/// The registry, knowing all sagas of volumes.
#[must_use]
pub fn register(registry: Registry) -> Registry {
    registry
        .with::<Changing<AttachVolume>>()
        .with::<Changing<DetachVolume>>()
        .with::<remove::VolumeRemove>()
        .with::<resize::VolumeGrow>()
        .with::<Losing<settle::UnsettledVolume>>()
}
