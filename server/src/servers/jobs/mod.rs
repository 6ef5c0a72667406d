//! The sagas of servers, one file each.

pub mod create;
pub mod delete;
pub mod leftover;
pub mod power;

use crate::jobs::Registry;

/// The registry, knowing all sagas of servers.
#[must_use]
pub fn register(registry: Registry) -> Registry {
    registry
        .with::<create::ServerCreate>()
        .with::<delete::ServerDelete>()
        .with::<leftover::LeftoverRemove>()
        .with::<power::Power<power::Start>>()
        .with::<power::Power<power::PowerOff>>()
        .with::<power::Power<power::Shutdown>>()
        .with::<power::Power<power::Reboot>>()
        .with::<power::Power<power::Reset>>()
}
