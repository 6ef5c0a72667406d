//! The only place of the agent that reads the clock. Rules take the time as a parameter.

use berth_model::Timestamp;
use berth_model::agent::NodeMoment;
use rustix::time::{ClockId, clock_gettime};

/// This moment.
#[expect(clippy::disallowed_methods, reason = "this is the clock module")]
pub fn now() -> Timestamp {
    Timestamp(time::OffsetDateTime::now_utc())
}

/// This moment by the clock that runs since the node's boot, which nobody sets and which sleep does not stop.
pub fn since_boot() -> NodeMoment {
    let since = clock_gettime(ClockId::Boottime);
    let ms = since.tv_sec.unsigned_abs() * 1000 + since.tv_nsec.unsigned_abs() / 1_000_000;
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    NodeMoment { boot: boot.trim().to_owned(), ms }
}
