//! What the machine writes and we check in: a difference fails.

use std::path::PathBuf;

use berth_server::config::Config;
use berth_server::openapi;

fn same_as_checked_in(path: &str, is: &str) {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path);
    let was = std::fs::read_to_string(&file).unwrap_or_default();
    let line = was.lines().zip(is.lines()).position(|(was, is)| was != is);
    let line = line.unwrap_or_else(|| was.lines().count().min(is.lines().count())) + 1;
    assert!(was == is, "{path} is not up to date (line {line}). Run: cargo xtask generate");
}

#[test]
fn the_document_that_is_checked_in_is_the_api() {
    same_as_checked_in("openapi.json", &openapi::text().unwrap());
}

#[test]
fn the_settings_that_are_documented_are_the_settings() {
    same_as_checked_in("../docs/settings.toml", &Config::reference());
}

#[test]
fn every_operation_has_a_name_of_its_own_and_says_how_it_fails() {
    let document = serde_json::to_value(openapi::document()).unwrap();
    let mut names = std::collections::BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let name = operation["operationId"].as_str().unwrap_or_default();
            assert!(!name.is_empty() && names.insert(name.to_owned()), "{method} {path}: {name}");
            let is_listed = |status: &str| operation["responses"].get(status).is_some();
            let fails =
                operation["responses"].as_object().unwrap().keys().any(|status| status.starts_with('4'));
            assert!(fails, "{name} lists no errors");
            assert!(
                is_listed("401") || operation["security"] == serde_json::json!([{}]),
                "{name} lists no 401"
            );
            assert!(operation["tags"][0].is_string(), "{name} has no tag");
            assert!(operation["summary"].is_string(), "{name} has no summary");
        }
    }
}
