//! The one place that draws randomness. Rules take what they need as a parameter.

use rand::RngExt as _;
use uuid::Uuid;

/// `N` random bytes from the operating system's generator, seeded per thread.
pub fn bytes<const N: usize>() -> [u8; N] {
    #[expect(clippy::disallowed_methods, reason = "this is the crate's entropy module")]
    let mut rng = rand::rng();
    let mut bytes = [0; N];
    rng.fill(&mut bytes[..]);
    bytes
}

/// `length` letters and digits, each with close to six bits.
pub fn alphanumeric(length: usize) -> String {
    #[expect(clippy::disallowed_methods, reason = "this is the crate's entropy module")]
    let rng = rand::rng();
    rng.sample_iter(rand::distr::Alphanumeric).take(length).map(char::from).collect()
}

/// A random number from 0 up to, not including, 1; for jitter.
pub fn fraction() -> f64 {
    #[expect(clippy::disallowed_methods, reason = "this is the crate's entropy module")]
    let mut rng = rand::rng();
    rng.random()
}

/// A random UUID.
pub fn uuid() -> Uuid {
    uuid::Builder::from_random_bytes(bytes()).into_uuid()
}
