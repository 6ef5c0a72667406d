//! Reads live messages. The model's own reading works too, but enums that carry their tag inside
//! are buffered before they are read, and that doubles the code of every resource in them.
//! Here the same JSON is read in one go; a test holds both against each other.

use berth_model::action::Action;
use berth_model::event::{Change, Event, LiveMessage};
use berth_model::load::LoadSample;
use berth_model::server::Server;
use berth_model::{ServerId, Timestamp};
use serde::Deserialize;

#[derive(Deserialize)]
struct MessageWire {
    #[serde(rename = "type")]
    kind: String,
    seq: Option<i64>,
    at: Option<Timestamp>,
    change: Option<ChangeWire>,
    server: Option<ServerId>,
    sample: Option<LoadSample>,
}

#[derive(Deserialize)]
struct ChangeWire {
    kind: String,
    server: Option<Box<Server>>,
    id: Option<ServerId>,
    action: Option<Box<Action>>,
}

/// A message, or nothing for one that a newer control plane sends and this page does not know.
pub fn read(text: &str) -> Option<LiveMessage> {
    let wire: MessageWire = serde_json::from_str(text).ok()?;
    Some(match wire.kind.as_str() {
        "welcome" => LiveMessage::Welcome { seq: wire.seq? },
        "reset" => LiveMessage::Reset { seq: wire.seq? },
        "load" => LiveMessage::Load { server: wire.server?, sample: wire.sample? },
        "event" => LiveMessage::Event(Event { seq: wire.seq?, at: wire.at?, change: change(wire.change?)? }),
        _ => return None,
    })
}

fn change(wire: ChangeWire) -> Option<Change> {
    Some(match wire.kind.as_str() {
        "server" => Change::Server { server: wire.server? },
        "server_gone" => Change::ServerGone { id: wire.id? },
        "action" => Change::Action { action: wire.action? },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    #[test]
    fn every_message_of_the_model_is_read_as_it_was_written() {
        let event = |change| LiveMessage::Event(Event { seq: 43, at: fixtures::at(9), change });
        for message in [
            LiveMessage::Welcome { seq: 44 },
            LiveMessage::Reset { seq: 45 },
            LiveMessage::Load { server: ServerId(7), sample: fixtures::sample(3, 250) },
            event(Change::Server { server: Box::new(fixtures::server(7, "web-1")) }),
            event(Change::ServerGone { id: ServerId(7) }),
            event(Change::Action { action: Box::new(fixtures::action(1, 7, "create_server")) }),
        ] {
            let text = serde_json::to_string(&message).unwrap();
            assert_eq!(read(&text), Some(message), "{text}");
        }
    }

    #[test]
    fn what_is_unknown_is_left_out() {
        assert_eq!(read(r#"{"type":"weather","seq":1}"#), None);
        assert_eq!(
            read(r#"{"type":"event","seq":1,"at":"2026-11-20T02:14:00Z","change":{"kind":"weather"}}"#),
            None
        );
        assert_eq!(read("not JSON"), None);
    }
}
