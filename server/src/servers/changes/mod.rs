//! The changes of servers that no other subject owns, one file each.

pub mod change_type;
pub mod iso;
pub mod rebuild;
pub mod rescue;

use crate::jobs::Registry;
use crate::servers::jobs::change::Changing;

/// The registry, knowing these changes.
#[must_use]
pub fn register(registry: Registry) -> Registry {
    registry
        .with::<Changing<change_type::ChangeType>>()
        .with::<Changing<iso::Attach>>()
        .with::<Changing<iso::Detach>>()
        .with::<Changing<rebuild::Rebuild>>()
        .with::<Changing<rescue::EnableRescue>>()
        .with::<Changing<rescue::DisableRescue>>()
}
