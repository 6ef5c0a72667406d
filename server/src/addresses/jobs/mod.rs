//! The sagas of addresses, one file each.

pub mod moving;
pub mod releasing;

use super::changes::{AssignPrimaryIp, UnassignPrimaryIp};
use crate::jobs::Registry;
use crate::servers::jobs::change::Changing;
use crate::servers::jobs::losing::Losing;

/// The registry, knowing all sagas of addresses.
#[must_use]
pub fn register(registry: Registry) -> Registry {
    registry
        .with::<Changing<AssignPrimaryIp>>()
        .with::<Changing<UnassignPrimaryIp>>()
        .with::<moving::Moving<true>>()
        .with::<moving::Moving<false>>()
        .with::<Losing<releasing::LeavingIp>>()
}
