//! The one place that reads the clock. Rules take the time as a parameter.

use berth_model::Timestamp;

/// The present moment.
pub fn now() -> Timestamp {
    #[expect(clippy::disallowed_methods, reason = "this is the crate's clock module")]
    let now = time::OffsetDateTime::now_utc();
    // PostgreSQL keeps microseconds: what is written must equal what is read back.
    Timestamp(now.replace_nanosecond(now.nanosecond() / 1000 * 1000).unwrap_or(now))
}
