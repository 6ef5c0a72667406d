//! The words for what a server does and for what was done to it.
//!
//! A server's own status comes from the control plane; an action under way says more exactly
//! what is happening, and a button just pressed says it before the control plane has answered:
//!
//! ```text
//! pressed ──▶ action under way ──▶ status
//!  (here)      (its command)       (seen)
//! ```

use berth_model::action::{Action, ActionStatus, StepState};
use berth_model::server::ServerStatus;

/// The shape beside a word. Each has its own outline, so that colour only repeats it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// A disc: it runs.
    Run,
    /// A ring: it is off.
    Off,
    /// A turning arc: something is under way.
    Busy,
    /// A triangle: somebody should look.
    Warn,
    /// A diamond: it failed.
    Bad,
}

/// What can be done to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Order it.
    Create,
    /// Switch it on.
    Start,
    /// Ask its system to stop.
    ShutDown,
    /// Pull the plug.
    CutPower,
    /// Ask its system to restart.
    Restart,
    /// The reset button.
    Reset,
    /// Remove it.
    Delete,
}

impl Verb {
    /// The verb behind an action's command.
    pub fn of_command(command: &str) -> Option<Self> {
        Some(match command {
            "create_server" => Self::Create,
            "start_server" => Self::Start,
            "shutdown_server" => Self::ShutDown,
            "stop_server" => Self::CutPower,
            "reboot_server" => Self::Restart,
            "reset_server" => Self::Reset,
            "delete_server" => Self::Delete,
            _ => return None,
        })
    }

    /// The last part of the path of its request; creating and deleting have paths of their own.
    pub const fn path(self) -> Option<&'static str> {
        match self {
            Self::Start => Some("poweron"),
            Self::ShutDown => Some("shutdown"),
            Self::CutPower => Some("poweroff"),
            Self::Restart => Some("reboot"),
            Self::Reset => Some("reset"),
            Self::Create | Self::Delete => None,
        }
    }

    /// Under way: `Shutting down`.
    pub const fn doing(self) -> &'static str {
        match self {
            Self::Create => "Creating",
            Self::Start => "Starting",
            Self::ShutDown => "Shutting down",
            Self::CutPower => "Cutting power",
            Self::Restart => "Restarting",
            Self::Reset => "Resetting",
            Self::Delete => "Deleting",
        }
    }

    /// Done: `Shut down`.
    pub const fn done(self) -> &'static str {
        match self {
            Self::Create => "Created",
            Self::Start => "Started",
            Self::ShutDown => "Shut down",
            Self::CutPower => "Power cut",
            Self::Restart => "Restarted",
            Self::Reset => "Reset",
            Self::Delete => "Deleted",
        }
    }

    /// Given up: `web-1 did not shut down`, without the name.
    pub const fn failed(self) -> &'static str {
        match self {
            Self::Create => "was not created",
            Self::Start => "did not start",
            Self::ShutDown => "did not shut down",
            Self::CutPower => "still has power",
            Self::Restart => "did not restart",
            Self::Reset => "was not reset",
            Self::Delete => "was not deleted",
        }
    }

    /// What to do when it was given up.
    pub const fn next_step(self) -> &'static str {
        match self {
            Self::Create => "Nothing is charged. Create it again.",
            Self::Start => "Start it again.",
            Self::ShutDown => "Its system did not answer. Cut power, or try again.",
            Self::CutPower => "Try again.",
            Self::Restart => "Its system did not answer. Reset it, or try again.",
            Self::Reset => "Try again.",
            Self::Delete => "It is as it was. Delete it again.",
        }
    }

    /// What will be undone or unreachable while it is under way.
    pub const fn meanwhile(self) -> &'static str {
        match self {
            Self::Create => "You can leave this page; the server is made all the same.",
            Self::Delete => "Its disk and its address are given back.",
            _ => "You can leave this page.",
        }
    }

    /// The icon of its entry in the activity.
    pub const fn icon(self) -> &'static str {
        match self {
            Self::Create => "i-plus",
            Self::Start | Self::ShutDown => "i-power",
            Self::CutPower => "i-x",
            Self::Restart | Self::Reset => "i-restart",
            Self::Delete => "i-trash",
        }
    }
}

/// A mark and its word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The shape.
    pub mark: Mark,
    /// The word.
    pub word: &'static str,
}

/// What to show of a server: what was just pressed, else what is under way, else what was seen.
pub fn shown(status: ServerStatus, pressed: Option<Verb>, under_way: Option<Verb>) -> Shown {
    if let Some(verb) = pressed.or(under_way) {
        return Shown { mark: Mark::Busy, word: verb.doing() };
    }
    let (mark, word) = match status {
        ServerStatus::Running => (Mark::Run, "Running"),
        ServerStatus::Off => (Mark::Off, "Off"),
        ServerStatus::Initializing => (Mark::Busy, "Creating"),
        ServerStatus::Starting => (Mark::Busy, "Starting"),
        ServerStatus::Stopping => (Mark::Busy, "Stopping"),
        ServerStatus::Deleting => (Mark::Busy, "Deleting"),
        ServerStatus::Migrating => (Mark::Busy, "Moving"),
        ServerStatus::Rebuilding => (Mark::Busy, "Rebuilding"),
        ServerStatus::Unknown => (Mark::Warn, "No answer"),
    };
    Shown { mark, word }
}

/// `step 2 of 5`, for an action of several steps.
pub fn step_of(action: &Action) -> Option<String> {
    let at = action.steps.iter().position(|step| step.state == StepState::Now)?;
    Some(format!("step {} of {}", at + 1, action.steps.len()))
}

/// How an action reads in the activity: its sentence, and the line below it.
pub fn told(action: &Action) -> (String, Option<String>) {
    let verb = Verb::of_command(&action.command);
    // A command that a newer control plane knows reads as it is.
    let plain = || action.command.replace('_', " ");
    match action.status {
        ActionStatus::Running => (verb.map_or_else(plain, |v| v.doing().to_owned()), step_of(action)),
        ActionStatus::Success => {
            let took = action.finished.map(|end| end.unix_ms() - action.started.unix_ms());
            let took = took.and_then(|ms| u64::try_from(ms).ok());
            let below = took.map(|ms| format!("took {}", crate::format::took(ms)));
            (verb.map_or_else(plain, |v| v.done().to_owned()), below)
        }
        ActionStatus::Error => {
            let head = verb.map_or_else(plain, |v| capital(v.failed()));
            (head, action.error.as_ref().map(|error| error.message.clone()))
        }
    }
}

/// The first letter upper-case.
pub fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().into_iter().flat_map(char::to_uppercase).chain(chars).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;
    use berth_model::action::{ActionError, ActionStep};
    use berth_model::error::ErrorCode;

    #[test]
    fn what_was_pressed_is_shown_before_the_control_plane_answers() {
        let word = |pressed, under_way| shown(ServerStatus::Running, pressed, under_way).word;
        assert_eq!(word(None, None), "Running");
        assert_eq!(word(Some(Verb::ShutDown), None), "Shutting down");
        assert_eq!(word(None, Some(Verb::Restart)), "Restarting");
    }

    #[test]
    fn every_command_of_the_contract_has_its_words() {
        for command in [
            "create_server",
            "delete_server",
            "start_server",
            "stop_server",
            "shutdown_server",
            "reboot_server",
            "reset_server",
        ] {
            assert!(Verb::of_command(command).is_some(), "{command}");
        }
        assert_eq!(Verb::of_command("fly_server"), None);
    }

    #[test]
    fn an_action_tells_how_it_went() {
        let mut action = fixtures::action(1, 7, "shutdown_server");
        assert_eq!(told(&action).0, "Shutting down");
        action.steps = vec![
            ActionStep { title: "Ask".into(), state: StepState::Done, took_ms: Some(3) },
            ActionStep { title: "Wait".into(), state: StepState::Now, took_ms: None },
        ];
        assert_eq!(told(&action).1.as_deref(), Some("step 2 of 2"));
        action.status = ActionStatus::Success;
        action.finished = Some(action.started.plus_seconds(19));
        assert_eq!(told(&action), ("Shut down".to_owned(), Some("took 19 s".to_owned())));
        action.status = ActionStatus::Error;
        action.error = Some(ActionError { code: ErrorCode::Timeout, message: "It did not stop.".into() });
        assert_eq!(told(&action), ("Did not shut down".to_owned(), Some("It did not stop.".to_owned())));
    }
}
