//! The only place of the agent that draws randomness, apart from the keys that rcgen makes.

/// A number for a request that came without one.
#[expect(clippy::disallowed_methods, reason = "this is the entropy module")]
pub fn request_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// 244 random bits: enough that no two backups ever draw the same.
#[expect(clippy::disallowed_methods, reason = "this is the entropy module")]
pub fn salt() -> [u8; 32] {
    let mut salt = [0; 32];
    salt[..16].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
    salt[16..].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
    salt
}

/// A secret that opens a console: 64 digits.
#[expect(clippy::disallowed_methods, reason = "this is the entropy module")]
pub fn ticket() -> String {
    format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple())
}
