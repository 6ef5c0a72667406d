//! `berth staff …` against a control plane.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use berth_server::staff::{self, Staff};
use clap::Parser;
use serde_json::{Value, json};

use crate::support::{Berth, PASSWORD};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    staff: Staff,
}

async fn berth_staff(file: &Path, words: &[&str]) -> anyhow::Result<String> {
    let line = Line::try_parse_from([&["staff"], words].concat())?;
    staff::run(line.staff, file, || Ok(PASSWORD.to_owned())).await
}

#[tokio::test]
async fn staff_work_from_the_command_line_until_they_sign_out() {
    let berth = Berth::without_workers().await;
    let (ada, tomas) = (berth.customer().await, berth.staff().await);
    let file = berth.folder().join("config/berth/staff.json");
    let run = async |words: &[&str]| berth_staff(&file, words).await;
    assert!(run(&["nodes"]).await.unwrap_err().to_string().contains("sign-in"), "nobody is signed in");

    run(&["sign-in", "--url", berth.url(), "--email", tomas.email(), "--password-stdin"]).await.unwrap();
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "for its owner's eyes only");
    let accounts: Value =
        serde_json::from_str(&run(&["accounts", "--email", ada.email(), "--json"]).await.unwrap()).unwrap();
    let account = accounts["accounts"][0]["id"].to_string();
    let shown = run(&["suspend", &account, "--reason", "The invoice is open."]).await.unwrap();
    assert!(shown.contains("The invoice is open."), "{shown}");
    let key = json!({"name": "k", "public_key": crate::support::PUBLIC_KEYS[0]});
    assert_eq!(ada.post("/v1/ssh_keys", key.clone()).await.status, 403);
    run(&["resume", &account]).await.unwrap();
    assert_eq!(ada.post("/v1/ssh_keys", key).await.status, 201);

    let more = json!({"kind": "servers", "limit": 777, "reason": "a second shop"});
    let asked: Value = ada.post("/v1/limit_requests", more).await.expect(201);
    let request = asked["limit_request"]["id"].to_string();
    assert!(run(&["requests"]).await.unwrap().contains("a second shop"));
    run(&["grant", &request, "--note", "Welcome."]).await.unwrap();
    assert_eq!(run(&["requests"]).await.unwrap(), "none\n");
    let project = ada.project().to_string();
    assert!(
        run(&["limits", &project])
            .await
            .unwrap()
            .lines()
            .any(|line| line.starts_with("servers") && line.contains("777"))
    );
    let fault = run(&["grant", "999"]).await.unwrap_err().to_string();
    assert!(fault.contains("limit request"), "{fault}");
    assert_eq!(run(&["nodes"]).await.unwrap(), "none\n");

    run(&["sign-out"]).await.unwrap();
    assert!(!file.exists());
}

#[tokio::test]
async fn a_customer_who_signs_in_there_may_do_nothing_of_it() {
    let berth = Berth::without_workers().await;
    let ada = berth.customer().await;
    let file = berth.folder().join("config/berth/staff.json");
    let url = berth.url();
    berth_staff(&file, &["sign-in", "--url", url, "--email", ada.email(), "--password-stdin"]).await.unwrap();
    for words in [&["accounts"][..], &["nodes"], &["requests"], &["resume", "1"], &["limits", "1"]] {
        assert!(berth_staff(&file, words).await.is_err(), "{words:?}");
    }
}
