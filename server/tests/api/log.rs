//! What is logged, and what never is.

use std::io::Write;
use std::sync::{Arc, Mutex};

use berth_model::VmId;
use berth_model::action::{ActionReply, ActionStatus};
use berth_model::people::TokenCreated;
use berth_model::server::ServerCreated;
use berth_server::entropy;
use serde_json::json;

use crate::support::{Berth, until};

/// Everything that was logged by this thread, on which the whole test runs.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

#[tokio::test]
async fn no_secret_is_logged_even_at_debug() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter("debug")
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .finish();
    // With one subscriber alone, what another test's thread comes by first is decided by that thread, which has
    // none, and is logged by nobody from then on.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let _guard = tracing::subscriber::set_default(subscriber);

    let (berth, node) = Berth::start_with_node().await;
    let (password, changed) = (entropy::alphanumeric(20), entropy::alphanumeric(20));
    let (stranger, email) = (berth.stranger(), "ada@example.org");
    let form = json!({"email": email, "name": "Ada", "password": password});
    let signed_up = stranger.post("/v1/users", form).await;
    let first = signed_up.cookie("berth_session").unwrap();
    let signed_in = stranger.post("/v1/session", json!({"email": email, "password": password})).await;
    let second = signed_in.cookie("berth_session").unwrap();
    let wrong = entropy::alphanumeric(20);
    let refused = stranger.post("/v1/session", json!({"email": email, "password": wrong})).await;
    assert_eq!(refused.status, 401);

    let browser = stranger.clone().with_session(second);
    let change = json!({"current_password": password, "new_password": changed});
    assert_eq!(browser.post("/v1/session/password", change).await.status, 204);
    let form = json!({"name": "ci", "access": "read_write"});
    let token = browser.post("/v1/tokens", form).await.expect::<TokenCreated>(201).secret;
    let program = stranger.clone().with_token(&token);
    let order = json!({"name": "a", "server_type": "s1", "image": "tiny"});
    let made: ServerCreated = program.post("/v1/servers", order).await.expect(201);
    until("the server is made", async || {
        let reply = program.get(&format!("/v1/actions/{}", made.action.id)).await;
        (reply.expect::<ActionReply>(200).action.status == ActionStatus::Success).then_some(())
    })
    .await;
    let root_password = made.root_password.expect("without an SSH key there is one");
    let spec = berth_agent::hypervisor::Hypervisor::get(&*node.simulator, VmId::from(made.server.id));
    let root_hash = spec.unwrap().spec.unwrap().seed.root_password_hash.unwrap();

    let text = log.text();
    for logged in ["path=\"/v1/session/password\"", "asking an agent", "The job is over."] {
        assert!(text.contains(logged), "the log is not all there: {logged}");
    }
    for (what, secret) in [
        ("a password", password.as_str()),
        ("a new password", &changed),
        ("a wrong password", &wrong),
        ("a session", first),
        ("a session", second),
        ("a token", &token),
        ("a root password", &root_password),
        ("a hash of a root password", &root_hash),
        ("a hash of a password", "$argon2"),
    ] {
        let line = text.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{what} is logged");
    }
}
