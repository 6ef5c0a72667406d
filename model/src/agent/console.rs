//! Consoles: a VM's screen, its keyboard, its serial port.

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// The subprotocol that a console's WebSocket is answered with.
pub const CONSOLE_PROTOCOL: &str = "berth.console";
/// What the subprotocol begins with that carries the ticket.
pub const CONSOLE_TICKET_PROTOCOL: &str = "berth.ticket.";

/// Which console of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ConsoleKind {
    /// Its screen, keyboard and mouse, in the RFB protocol; several may look at once.
    Vnc,
    /// Its serial port, bytes as they come; several may read and write at once.
    Serial,
}

impl ConsoleKind {
    /// As it stands in the path of a console.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Vnc => "vnc",
            Self::Serial => "serial",
        }
    }
}

/// Asks for a ticket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ConsoleTicketRequest {
    /// For which console.
    pub kind: ConsoleKind,
    /// How long it may be used, in seconds: 1 to 120; 30 if not said.
    #[serde(default)]
    pub seconds: Option<u32>,
}

/// Opens one console of one VM, once.
///
/// `GET {path}` with a WebSocket upgrade and the subprotocols `berth.console` and `berth.ticket.TICKET`;
/// `berth.console` is the one that is answered. Bytes go both ways in binary messages.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ConsoleTicket {
    /// The secret.
    pub ticket: String,
    /// Where the console is: `/v1/vms/7/console/vnc`.
    pub path: String,
    /// Until when it can be used.
    pub expires: Timestamp,
}

impl core::fmt::Debug for ConsoleTicket {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("ConsoleTicket").field("path", &self.path).field("expires", &self.expires).finish()
    }
}

/// Asks for the end of a serial log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ConsoleLogRequest {
    /// How many lines, 1 to 10000; 100 if not said.
    #[serde(default)]
    pub lines: Option<u32>,
}

/// The end of what a VM wrote to its serial port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ConsoleLog {
    /// The last lines, the oldest first, without their ends. Control characters of the guest are in them.
    pub lines: Vec<String>,
}

/// Keys to press together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SendKeys {
    /// 1 to 16 keys: `a` to `z`, `0` to `9`, `f1` to `f12`, `ctrl`, `alt`, `shift`, `meta`, `altgr`, `enter`,
    /// `esc`, `tab`, `space`, `backspace`, `delete`, `insert`, `home`, `end`, `page_up`, `page_down`, `up`,
    /// `down`, `left`, `right`, `sysrq`, `caps_lock`, `minus`, `equal`, `comma`, `dot`, `slash`.
    pub keys: Vec<String>,
    /// How long they are held, in milliseconds: 1 to 5000; 100 if not said.
    #[serde(default)]
    pub hold_ms: Option<u32>,
}

/// What a VM's screen shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Screenshot {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// The PNG file, in base64.
    pub png: String,
}
