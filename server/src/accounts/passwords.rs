//! Hashing passwords with argon2id: slow on purpose, so never on the async runtime, and never too
//! many at once.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordHasher as _, PasswordVerifier as _};
use tokio::sync::Semaphore;

use crate::entropy;
use crate::http::{ApiResult, Problem};

/// Longest wait for a turn.
const TURN_MAX: Duration = Duration::from_secs(10);

/// Hashes and checks passwords, a few at a time: each takes 19 MiB and tens of milliseconds of a
/// core (the parameters are those OWASP names first for argon2id).
#[derive(Debug, Clone)]
pub struct Passwords {
    turns: Arc<Semaphore>,
    /// The hash of a password nobody knows; checked for users who do not exist, so that the time of
    /// the answer does not tell whether they do.
    nobody: Arc<str>,
}

impl Passwords {
    /// As many at a time as there are cores, but one for everything else.
    ///
    /// # Errors
    /// argon2 does not work here.
    pub fn new() -> anyhow::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let nobody = hash(&entropy::alphanumeric(32))?;
        Ok(Self { turns: Arc::new(Semaphore::new(cores.saturating_sub(1).max(1))), nobody: nobody.into() })
    }

    /// The hash of a password, as a PHC string.
    pub async fn hash(&self, password: String) -> ApiResult<String> {
        self.in_turn(move || hash(&password)).await?.map_err(Problem::internal)
    }

    /// Is it the password behind `known`? Without a user, no; and that takes as long.
    pub async fn verify(&self, password: String, known: Option<String>) -> ApiResult<bool> {
        let exists = known.is_some();
        let known = known.unwrap_or_else(|| self.nobody.to_string());
        let fits = self
            .in_turn(move || Argon2::default().verify_password(password.as_bytes(), known.as_str()).is_ok());
        Ok(fits.await? && exists)
    }

    async fn in_turn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> ApiResult<T> {
        let turn = tokio::time::timeout(TURN_MAX, Arc::clone(&self.turns).acquire_owned());
        let turn = turn
            .await
            .map_err(|_| Problem::unavailable(anyhow::anyhow!("too many passwords to check")))?
            .map_err(Problem::internal)?;
        // The turn ends with the work, also when nobody waits for it any more.
        let work = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work()
        });
        work.await.map_err(Problem::internal)
    }
}

/// The hash of a password, as a PHC string with a random salt.
///
/// # Errors
/// argon2 does not work here.
pub fn hash(password: &str) -> anyhow::Result<String> {
    let salt: [u8; 16] = entropy::bytes();
    let hash: PasswordHash = Argon2::default()
        .hash_password_with_salt(password.as_bytes(), &salt)
        .context("argon2 refused to hash a password")?;
    Ok(hash.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_right_password_of_a_user_fits() {
        let passwords = Passwords::new().expect("argon2 works");
        let hash = passwords.hash("correct horse".into()).await.expect("hashed");
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        let fits =
            |password: &str, known: Option<&String>| passwords.verify(password.to_owned(), known.cloned());
        assert!(fits("correct horse", Some(&hash)).await.expect("checked"));
        assert!(!fits("correct house", Some(&hash)).await.expect("checked"));
        assert!(!fits("correct horse", None).await.expect("checked"));
        assert!(!fits("x", Some(&"not a hash".to_owned())).await.expect("checked"));
    }
}
