//! What a live socket says.

use berth_model::event::*;
use berth_model::*;

use crate::golden;
use crate::samples::{action, at, sample, server};

#[test]
fn live_messages_keep_their_wire_form() {
    golden("live_hello", &LiveHello { last_seq: Some(41) });
    golden("live_watch", &LiveCommand::Watch { servers: vec![ServerId(7)] });
    let event = |change| LiveMessage::Event(Event { seq: 42, at: at("2026-11-20T02:14:00Z"), change });
    golden(
        "live",
        &vec![
            LiveMessage::Welcome { seq: 44 },
            LiveMessage::Reset { seq: 44 },
            event(Change::Server { server: Box::new(server()) }),
            event(Change::ServerGone { id: ServerId(7) }),
            event(Change::Action { action: Box::new(action()) }),
            LiveMessage::Load { server: ServerId(7), sample: sample() },
        ],
    );
}
