use berth_model::ErrorCode;
use berth_model::action::ActionError;
use berth_model::error::ApiError;

use crate::jobs::saga::StepError;

/// Why an agent did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// It was not reached, did not answer in time, or is known to be down. It may have done what
    /// was asked all the same.
    #[error("the agent does not answer: {0}")]
    Unreachable(String),
    /// It answered with an error of the protocol.
    #[error("the agent refused ({:?}): {}", .0.code, .0.message)]
    Refused(ApiError),
    /// It answered with something that is not of the protocol.
    #[error("the agent's answer makes no sense: {0}")]
    Nonsense(String),
    /// Something on our side failed: the database, a file.
    #[error("{0:#}")]
    Ours(#[from] anyhow::Error),
}

impl AgentError {
    /// The protocol's code, if the agent gave one.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused(error) => Some(error.code),
            Self::Unreachable(_) | Self::Nonsense(_) | Self::Ours(_) => None,
        }
    }

    /// Did the agent say that there is no such thing?
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(ErrorCode::NotFound)
    }
}

impl From<sqlx::Error> for AgentError {
    fn from(error: sqlx::Error) -> Self {
        Self::Ours(error.into())
    }
}

/// A node that is away, busy or whose libvirt stumbles may do it later. What it calls wrong stays
/// wrong: the customer gets a sentence without the node's inner words, the operator gets those.
impl From<AgentError> for StepError {
    fn from(error: AgentError) -> Self {
        let (code, customer) = match error.code() {
            None | Some(ErrorCode::Conflict | ErrorCode::Unavailable | ErrorCode::ServiceError) => {
                return Self::Retry(error.into());
            }
            Some(ErrorCode::ResourceUnavailable) => {
                (ErrorCode::ResourceUnavailable, "The node has no room for this at the moment.")
            }
            Some(ErrorCode::NotFound) => {
                (ErrorCode::ServiceError, "The machine behind this server was not found on its node.")
            }
            Some(_) => (ErrorCode::ServiceError, "The node refused to do this. Our staff can see why."),
        };
        Self::Fail { customer: ActionError { code, message: customer.to_owned() }, operator: error.into() }
    }
}
