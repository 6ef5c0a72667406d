//! The live WebSocket `/v1/live`.
//!
//! The client opens it with its session cookie or token (and `?project=ID` for a session) and
//! sends [`LiveHello`] first. The server answers [`LiveMessage::Welcome`], then either everything
//! after `last_seq`, or, when that is too long ago, [`LiveMessage::Reset`]: the client fetches its
//! lists again. From then on messages come as things happen. A client that reads too slowly is
//! closed with code 4008 and resumes with the last `seq` it saw.
//!
//! ```text
//! client                         server
//!   | -- LiveHello{last_seq:41} --> |
//!   | <-- Welcome{seq:44} --------- |
//!   | <-- Event{seq:42..44} ------- |   or Reset{seq:44}
//!   | -- Watch{servers:[7]} ------> |   samples of server 7 every 2 s
//!   | <-- Load{server:7, …} ------- |
//! ```

use serde::{Deserialize, Serialize};

use crate::action::Action;
use crate::load::LoadSample;
use crate::server::Server;
use crate::{ServerId, Timestamp};

/// Most servers one socket may watch.
pub const WATCH_MAX: usize = 64;
/// The close code for a client that reads too slowly.
pub const CLOSE_TOO_SLOW: u16 = 4008;
/// The close code when the session or token has ended: connecting again is of no use.
pub const CLOSE_ENDED: u16 = 4001;

/// What the client says first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LiveHello {
    /// The last sequence number it saw; `null` on a first visit.
    pub last_seq: Option<i64>,
}

/// What the client says later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum LiveCommand {
    /// Samples of these servers from now on, and of no others. At most [`WATCH_MAX`].
    Watch {
        /// The servers on the screen.
        servers: Vec<ServerId>,
    },
}

/// What the server says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum LiveMessage {
    /// The first message: events up to `seq` exist.
    Welcome {
        /// The newest sequence number.
        seq: i64,
    },
    /// What was missed is gone: fetch the lists again, then go on from `seq`.
    Reset {
        /// The newest sequence number.
        seq: i64,
    },
    /// Something changed.
    Event(Event),
    /// A watched server's load.
    Load {
        /// Whose.
        server: ServerId,
        /// The sample.
        sample: LoadSample,
    },
}

/// Something that changed, in the order in which it became visible. `seq` grows without bound;
/// it has gaps for a client, because others' events are left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its place in the order.
    pub seq: i64,
    /// When it was written.
    pub at: Timestamp,
    /// What.
    pub change: Change,
}

/// What changed: the whole resource, so that a client needs no other request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Change {
    /// A server is new or different.
    Server {
        /// The server as it is now.
        server: Box<Server>,
    },
    /// A server is gone.
    ServerGone {
        /// Its number.
        id: ServerId,
    },
    /// An action is new or different.
    Action {
        /// The action as it is now.
        action: Box<Action>,
    },
}
