//! Pure decisions: what a good address, name and password is, and when a sign-in must wait.

use std::time::Duration;

use berth_model::error::ApiError;
use berth_model::people::{PASSWORD_MAX_BYTES, PASSWORD_MIN_CHARS};
use berth_model::{ErrorCode, FieldError, Timestamp};

use crate::http::{Household, Problem};

/// Failed sign-ins count for this long.
pub const SIGN_IN_WINDOW: Duration = Duration::from_secs(10 * 60);
/// Failed sign-ins of one user until they must wait.
pub const FAILURES_PER_EMAIL: u32 = 5;
/// Failed sign-ins from one address until it must wait; several people may share it.
pub const FAILURES_PER_ADDRESS: u32 = 20;
/// Sign-ups from one address until it must wait.
pub const SIGN_UPS_PER_ADDRESS: u32 = 20;
/// Most tokens of a project.
pub const TOKENS_MAX: i64 = 200;
/// Characters of a token.
pub const TOKEN_CHARS: usize = 64;

/// Most characters of a name.
const NAME_MAX_CHARS: usize = 100;
/// Most characters of the reason of a suspension.
const REASON_MAX_CHARS: usize = 500;
/// Most characters of an address (RFC 5321, with the erratum).
const EMAIL_MAX_CHARS: usize = 254;
/// Most characters before the `@`.
const LOCAL_MAX_CHARS: usize = 64;

/// Says what is wrong with a mail address, or nothing. Whether mail arrives only a mail can tell;
/// this finds what cannot be one.
pub fn email_fault(email: &str) -> Option<&'static str> {
    const NOT_ONE: &str = "Enter a mail address, like name@example.org.";
    if email.len() > EMAIL_MAX_CHARS {
        return Some("A mail address has at most 254 characters.");
    }
    let Some((local, domain)) = email.rsplit_once('@') else { return Some(NOT_ONE) };
    let printable = |text: &str| text.chars().all(|c| !c.is_whitespace() && !c.is_control() && c != '@');
    let local_is_good = (1..=LOCAL_MAX_CHARS).contains(&local.len()) && printable(local);
    let label_is_good = |label: &str| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-');
    let domain_is_good = domain.split('.').all(label_is_good)
        && domain.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '.');
    (!local_is_good || !domain_is_good).then_some(NOT_ONE)
}

/// Says what is wrong with the name of a person or a token, or nothing.
pub fn name_fault(name: &str) -> Option<&'static str> {
    if name.trim().is_empty() {
        return Some("Enter a name.");
    }
    if name.chars().count() > NAME_MAX_CHARS {
        return Some("A name has at most 100 characters.");
    }
    name.chars().any(char::is_control).then_some("A name has no line breaks or other control characters.")
}

/// Says what is wrong with the reason of a suspension, or nothing.
pub fn reason_fault(reason: &str) -> Option<&'static str> {
    match reason.trim().chars().count() {
        0 => Some("Say why, in a sentence for the customer."),
        1..=REASON_MAX_CHARS => None,
        _ => Some("A reason has at most 500 characters."),
    }
}

/// Says what is wrong with a new password, or nothing. Length is what counts; `email` is what an
/// attacker tries first.
pub fn password_fault(password: &str, email: &str) -> Option<&'static str> {
    if password.chars().count() < PASSWORD_MIN_CHARS {
        return Some("A password has at least 10 characters.");
    }
    if password.len() > PASSWORD_MAX_BYTES {
        return Some("A password has at most 1024 bytes.");
    }
    if password.eq_ignore_ascii_case(email) {
        return Some("The password must not be the mail address.");
    }
    let first = password.chars().next();
    password.chars().all(|c| Some(c) == first).then_some("Use more than one character in a password.")
}

/// Gathers the faults of a form, so that all are told at once.
pub fn check(faults: &[(&str, Option<&'static str>)]) -> Result<(), ApiError> {
    let fields: Vec<_> = faults
        .iter()
        .filter_map(|(name, fault)| {
            fault.map(|fault| FieldError { name: (*name).to_owned(), messages: vec![fault.to_owned()] })
        })
        .collect();
    if fields.is_empty() { Ok(()) } else { Err(ApiError::fields(fields)) }
}

/// How many tries a subject has in [`SIGN_IN_WINDOW`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// Who tries, or who is tried: `ip:192.0.2.7`, `email:ada@example.org`.
    pub subject: String,
    /// Tries until it must wait.
    pub most: u32,
}

impl Limit {
    /// Tries on the user with this address, known or not.
    pub fn of_email(email: &str) -> Self {
        Self { subject: format!("email:{}", email.to_lowercase()), most: FAILURES_PER_EMAIL }
    }

    /// Tries from this address.
    pub fn of_address(household: Household) -> Self {
        Self { subject: format!("ip:{household}"), most: FAILURES_PER_ADDRESS }
    }

    /// Sign-ups from this address.
    pub fn of_sign_ups(household: Household) -> Self {
        Self { subject: format!("sign-up:{household}"), most: SIGN_UPS_PER_ADDRESS }
    }

    /// How long to wait, given the times of recent tries, newest first; `None`: not at all.
    pub fn wait(&self, recent: &[Timestamp], now: Timestamp) -> Option<Duration> {
        // The try that must have left the window before another fits in.
        let oldest = recent.get(usize::try_from(self.most).ok()?.checked_sub(1)?)?;
        let free_again = oldest.0 + SIGN_IN_WINDOW;
        Duration::try_from(free_again - now.0).ok().filter(|wait| !wait.is_zero())
    }
}

/// The answer to one try too many; says how long to wait.
pub fn too_many(wait: Duration) -> Problem {
    let minutes = wait.as_secs().div_ceil(60).max(1);
    let unit = if minutes == 1 { "minute" } else { "minutes" };
    let message = format!("Too many tries. Wait {minutes} {unit}, then try again.");
    Problem::new(ErrorCode::RateLimitExceeded, message).retry_after(wait)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn mail_addresses_are_accepted_and_others_refused() {
        for good in [
            "a@b.c",
            "ada.lovelace+x@mail.example.org",
            "o'neil@example.org",
            "ü@müller.example",
            "root@localhost",
        ] {
            assert_eq!(email_fault(good), None, "{good}");
        }
        let long_local = format!("{}@example.org", "a".repeat(65));
        let long = format!("a@{}.org", "a".repeat(260));
        for bad in [
            "",
            "a",
            "@",
            "a@",
            "@b.c",
            "a b@c.d",
            "a@b@c.d",
            "a@b..c",
            "a@-b.c",
            "a@b.c\n",
            "a@b_c",
            &long_local,
            &long,
        ] {
            assert!(email_fault(bad).is_some(), "{bad:?}");
        }
    }

    #[test]
    fn a_password_is_long_and_not_the_address() {
        assert_eq!(password_fault("correct horse", "a@b.c"), None);
        assert_eq!(password_fault("пароль-дня", "a@b.c"), None, "characters are counted, not bytes");
        let long = "ab".repeat(513);
        for bad in ["", "123456789", "aaaaaaaaaaaa", "Ada@Example.org", long.as_str()] {
            assert!(password_fault(bad, "ada@example.org").is_some(), "{bad:?}");
        }
    }

    #[test]
    fn all_faults_of_a_form_are_told_at_once() {
        let error = check(&[("email", Some("Wrong.")), ("name", None), ("password", Some("Short."))]);
        let fields = error.expect_err("two faults").details.expect("details").fields;
        assert_eq!(fields.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(), ["email", "password"]);
        assert_eq!(check(&[("name", None)]), Ok(()));
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_ms(1_800_000_000_000 + seconds * 1000).expect("a time")
    }

    #[test]
    fn the_sixth_try_waits_until_the_first_is_forgotten() {
        let limit = Limit::of_email("ADA@example.org");
        assert_eq!(limit.subject, "email:ada@example.org");
        let tries: Vec<_> = [40, 30, 20, 10].map(at).to_vec();
        assert_eq!(limit.wait(&tries, at(50)), None);
        let tries: Vec<_> = [40, 30, 20, 10, 0].map(at).to_vec();
        assert_eq!(limit.wait(&tries, at(50)), Some(Duration::from_secs(550)));
        assert_eq!(limit.wait(&tries, at(600)), None);
        assert!(too_many(Duration::from_secs(550)).error().message.contains("Wait 10 minutes"));
        assert!(too_many(Duration::from_secs(1)).error().message.contains("Wait 1 minute,"));
    }

    proptest! {
        #[test]
        fn who_waits_as_told_may_try(mut seconds in prop::collection::vec(0..600i64, 0..40), most in 1..20u32) {
            seconds.sort_unstable_by(|a, b| b.cmp(a));
            let tries: Vec<_> = seconds.into_iter().map(at).collect();
            let limit = Limit { subject: "x".into(), most };
            if let Some(wait) = limit.wait(&tries, at(600)) {
                prop_assert!(tries.len() >= most as usize && wait <= SIGN_IN_WINDOW);
                let later = at(600).plus_seconds(wait.as_secs().cast_signed() + 1);
                prop_assert_eq!(limit.wait(&tries, later), None);
            }
        }

        #[test]
        fn no_text_breaks_the_checks(text in ".*") {
            let _ = (email_fault(&text), name_fault(&text), password_fault(&text, &text));
        }
    }
}
