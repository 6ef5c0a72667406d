//! The only place of the agent that reads the clock. Rules take the time as a parameter.

use berth_model::Timestamp;

/// This moment.
#[expect(clippy::disallowed_methods, reason = "this is the clock module")]
pub fn now() -> Timestamp {
    Timestamp(time::OffsetDateTime::now_utc())
}
