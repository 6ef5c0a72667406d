//! The only place of the agent that draws randomness, apart from the keys that rcgen makes.

/// A number for a request that came without one.
#[expect(clippy::disallowed_methods, reason = "this is the entropy module")]
pub fn request_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// A secret of 244 bits, in hex.
#[expect(clippy::disallowed_methods, reason = "this is the entropy module")]
pub fn secret() -> String {
    format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple())
}
