//! The only place of the agent that draws randomness, apart from the keys that rcgen makes.

/// A number for a request that came without one.
#[expect(clippy::disallowed_methods, reason = "this is the entropy module")]
pub fn request_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// A number that a guest does not guess.
#[expect(clippy::disallowed_methods, reason = "this is the entropy module")]
pub fn number() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().1 << 2
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

/// A password for people to type: letters and digits that are not mistaken for each other. 18 of 56 are 104 bits.
#[expect(clippy::disallowed_methods, reason = "this is the entropy module")]
pub fn password() -> String {
    const LETTERS: &[u8] = b"abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789";
    const LENGTH: usize = 18;
    let mut password = String::with_capacity(LENGTH);
    while password.len() < LENGTH {
        // Bytes that would prefer some letters are passed over, and so are those with a UUID's fixed bits.
        let bytes = uuid::Uuid::new_v4().into_bytes();
        let free =
            bytes.iter().enumerate().filter(|(n, _)| !matches!(n, 6 | 8)).map(|(_, byte)| usize::from(*byte));
        let fair = free.filter(|byte| *byte < 256 / LETTERS.len() * LETTERS.len());
        password
            .extend(fair.map(|byte| char::from(LETTERS[byte % LETTERS.len()])).take(LENGTH - password.len()));
    }
    password
}

/// The crypt(3) SHA-512 hash of a password that was drawn at random.
///
/// # Panics
/// Never: the salt and the rounds are within the scheme's limits.
#[expect(clippy::disallowed_methods, reason = "this is the entropy module")]
pub fn crypt(password: &str) -> String {
    use sha_crypt::PasswordHasher as _;
    let salt = &uuid::Uuid::new_v4().into_bytes()[..12];
    let hash = sha_crypt::ShaCrypt::SHA512.hash_password_with_salt(password.as_bytes(), salt);
    hash.expect("12 bytes are a good salt").as_str().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_long_and_its_own_and_its_hash_is_what_a_spec_takes() {
        let (one, other) = (password(), password());
        assert!(one.len() == 18 && one != other);
        assert!(one.bytes().all(|b| b.is_ascii_alphanumeric() && !b"0O1lI".contains(&b)));
        let hash = crypt(&one);
        assert!(hash.starts_with("$6$") && !hash.contains(&one));
        assert!(crate::spec::is_password_hash(&hash), "{hash}");
    }
}
