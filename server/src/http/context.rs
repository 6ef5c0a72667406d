//! What is known of the request under way, wherever its handler goes.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use berth_model::{ProjectId, TokenId, UserId};

/// Longest request id that a client may give.
const REQUEST_ID_MAX: usize = 128;

tokio::task_local! {
    static CONTEXT: Arc<RequestContext>;
}

/// The number of one request: given by the client in `x-request-id`, or made. It stands in the
/// answer, in every line of the log, and in what the request asks of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// A new one: a UUID without hyphens.
    pub fn new() -> Self {
        Self(crate::entropy::uuid().simple().to_string().into())
    }

    /// Its text: letters, digits, `.`, `_` and `-`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for RequestId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for RequestId {
    type Err = ();
    /// Only what cannot break a line of the log or a header.
    fn from_str(text: &str) -> Result<Self, ()> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let good = (1..=REQUEST_ID_MAX).contains(&text.len()) && text.bytes().all(plain);
        if good { Ok(Self(text.into())) } else { Err(()) }
    }
}

/// Who sent a request, by numbers only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Who {
    /// The user of the session.
    pub user: Option<UserId>,
    /// The API token.
    pub token: Option<TokenId>,
    /// The project worked in.
    pub project: Option<ProjectId>,
}

/// What is known of one request.
#[derive(Debug)]
pub struct RequestContext {
    /// Its number.
    pub id: RequestId,
    pub(super) who: OnceLock<Who>,
}

impl RequestContext {
    /// A request of which only the number is known.
    pub fn new(id: RequestId) -> Arc<Self> {
        Arc::new(Self { id, who: OnceLock::new() })
    }
}

/// The number of the request under way; `None` outside of one (in a job, say).
pub fn request_id() -> Option<String> {
    CONTEXT.try_with(|context| context.id.to_string()).ok()
}

/// Notes who sent the request under way. The first word counts.
pub fn note_who(who: Who) {
    // Outside a request there is nobody to note.
    let _ = CONTEXT.try_with(|context| context.who.set(who));
}

/// The context of the request under way, to be carried into another task.
pub fn current() -> Option<Arc<RequestContext>> {
    CONTEXT.try_with(Arc::clone).ok()
}

/// Runs `work` as part of the request `context`. A job that goes on with what a request began may
/// use it too, so that both stand under one number in the log.
pub async fn within<F: Future>(context: Arc<RequestContext>, work: F) -> F::Output {
    CONTEXT.scope(context, work).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_cannot_break_a_line_of_the_log() {
        assert!("abc-DEF_1.2".parse::<RequestId>().is_ok());
        let long = "a".repeat(REQUEST_ID_MAX + 1);
        for bad in ["", "a b", "a\nb", "a\"b", "ä", long.as_str()] {
            assert!(bad.parse::<RequestId>().is_err(), "{bad:?}");
        }
        assert!(RequestId::new().as_str().parse::<RequestId>().is_ok());
    }
}
