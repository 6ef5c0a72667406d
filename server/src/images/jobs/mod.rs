//! The sagas of images, one file each.

pub mod create;
pub mod remove;

use crate::jobs::Registry;

/// The registry, knowing all sagas of images.
#[must_use]
pub fn register(registry: Registry) -> Registry {
    registry.with::<create::ImageCreate>().with::<remove::ImageRemove>()
}
