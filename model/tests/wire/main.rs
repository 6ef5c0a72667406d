//! The wire form of every type that crosses one, as files: a change of a type shows as a change
//! of its file. `BERTH_GOLDEN=write cargo test -p berth-model` writes them anew.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod addresses;
mod agent;
mod catalog;
mod certificates;
mod firewalls;
mod live;
mod networks;
mod people;
mod placement_groups;
mod samples;
mod servers;
mod ssh_keys;
mod volumes;

use std::fmt::Debug;
use std::path::PathBuf;

use berth_model::error::{ApiError, ErrorBody, ErrorCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// `value` is written as in `tests/golden/{name}.json`, and that file reads back as `value`.
fn golden<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, value: &T) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.json"));
    let written = serde_json::to_string_pretty(value).unwrap() + "\n";
    if std::env::var("BERTH_GOLDEN").is_ok_and(|v| v == "write") {
        std::fs::write(&path, &written).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(written, kept, "{name}: the wire form changed");
    assert_eq!(&serde_json::from_str::<T>(&kept).unwrap(), value, "{name}: the file reads back differently");
}

#[test]
fn errors_keep_their_wire_form() {
    golden("error", &ErrorBody { error: ApiError::new(ErrorCode::NotFound, "There is no such server.") });
    golden("error_fields", &ErrorBody { error: ApiError::field("labels.env", "A label's value is a text.") });
}
