//! Who may speak to the agent.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use berth_agent::config::Config;
use berth_agent::hypervisor::simulator::{Simulator, SimulatorConfig};
use berth_agent::serve;
use berth_model::agent::{CertificateRequest, Node};
use berth_model::{ErrorCode, Timestamp};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::pki::Pki;
use crate::support::{Agent, CONTROL_PLANE, PATIENCE, answer, peer, spec};

/// Every route, with a body and the status it is answered with when asked in this order.
fn routes() -> Vec<(Method, String, Option<Value>, StatusCode)> {
    let image = format!("/v1/images/{}", "b".repeat(64));
    vec![
        (Method::GET, "/v1/node".into(), None, StatusCode::OK),
        (Method::GET, "/v1/vms".into(), None, StatusCode::OK),
        (Method::GET, "/v1/vms/1".into(), None, StatusCode::NOT_FOUND),
        (Method::PUT, "/v1/vms/1".into(), Some(json!(spec())), StatusCode::OK),
        (Method::GET, "/v1/vms/1".into(), None, StatusCode::OK),
        (Method::POST, "/v1/vms/1/power_off".into(), None, StatusCode::OK),
        (Method::DELETE, "/v1/vms/1".into(), None, StatusCode::NO_CONTENT),
        (Method::DELETE, "/v1/vms/1".into(), None, StatusCode::NO_CONTENT),
        (Method::GET, "/v1/images".into(), None, StatusCode::OK),
        (Method::PUT, image.clone(), None, StatusCode::UNPROCESSABLE_ENTITY),
        (Method::DELETE, image, None, StatusCode::NO_CONTENT),
        (Method::POST, "/v1/certificate/request".into(), None, StatusCode::OK),
        (
            Method::PUT,
            "/v1/certificate".into(),
            Some(json!({"certificate_pem": "?"})),
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
        (Method::GET, "/v1/node/check".into(), None, StatusCode::OK),
        (Method::GET, "/v1/node/capacity".into(), None, StatusCode::OK),
        (Method::GET, "/v1/node/update".into(), None, StatusCode::NOT_FOUND),
        (Method::POST, "/v1/node/orphans".into(), Some(json!({})), StatusCode::OK),
        (Method::PUT, "/v1/node/maintenance".into(), Some(json!({"on": false})), StatusCode::OK),
        (Method::POST, "/v1/node/update".into(), Some(json!({})), StatusCode::UNPROCESSABLE_ENTITY),
        (
            Method::POST,
            "/v1/vms/1/console/ticket".into(),
            Some(json!({"kind": "vnc"})),
            StatusCode::NOT_FOUND,
        ),
        (Method::GET, "/v1/vms/1/screenshot".into(), None, StatusCode::NOT_FOUND),
        // Without an upgrade; with one they are tried in `stream` and `consoles`.
        (Method::GET, "/v1/vms/1/console/vnc".into(), None, StatusCode::UNPROCESSABLE_ENTITY),
        (Method::GET, "/v1/stream".into(), None, StatusCode::UNPROCESSABLE_ENTITY),
        (Method::GET, "/v1/nothing".into(), None, StatusCode::NOT_FOUND),
        (Method::POST, "/v1/node".into(), None, StatusCode::NOT_FOUND),
    ]
}

#[tokio::test]
async fn the_control_plane_is_answered_on_every_route() {
    let agent = Agent::start().await;
    for (method, path, body, status) in routes() {
        let mut request = agent.request(method.clone(), &path);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status, "{method} {path}: {:?}", response.text().await);
    }
}

#[tokio::test]
async fn nobody_else_is_answered_on_any_route() {
    let agent = Agent::start().await;
    let stranger = Pki::new();
    let peers = [
        ("without a certificate", peer(&agent.pki, None)),
        ("another node of the same CA", peer(&agent.pki, Some((&agent.pki, "node-8.berth.internal")))),
        ("a longer name", peer(&agent.pki, Some((&agent.pki, "x.control-plane.berth.internal")))),
        ("the right name of another CA", peer(&agent.pki, Some((&stranger, CONTROL_PLANE)))),
    ];
    for (who, client) in peers {
        for (method, path, body, _) in routes() {
            let mut request = client.request(method.clone(), agent.url(&path));
            if let Some(body) = body {
                request = request.json(&body);
            }
            let answered = request.send().await;
            assert!(answered.is_err(), "{who}: {method} {path} was answered with {answered:?}");
        }
    }
    let plain = reqwest::Client::builder().no_proxy().build().unwrap();
    assert!(plain.get(format!("http://{}/v1/node", agent.https)).send().await.is_err(), "plain HTTP");
}

#[tokio::test]
async fn before_enrolment_only_the_socket_listens_and_only_for_this_user() {
    let home = tempfile::tempdir().unwrap();
    let stop = CancellationToken::new();
    let simulator = Arc::new(Simulator::new(SimulatorConfig::default()).unwrap());
    let running = serve(Config::at(home.path()), simulator, stop.clone()).await.unwrap();
    assert!(tokio::net::TcpStream::connect(running.https).await.is_err());
    let mode = std::fs::metadata(&running.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(tokio::net::UnixStream::connect(&running.socket).await.is_ok());
    stop.cancel();
    let socket = running.socket.clone();
    tokio::time::timeout(PATIENCE, running.stopped()).await.unwrap();
    assert!(!socket.exists());
}

#[tokio::test]
async fn two_agents_do_not_share_a_folder() {
    let agent = Agent::start().await;
    let simulator = Arc::new(Simulator::new(SimulatorConfig::default()).unwrap());
    let second = serve(Config::at(agent.home.path()), simulator, CancellationToken::new()).await;
    assert!(second.unwrap_err().to_string().contains("Another berth-agent works in"));
}

#[tokio::test]
async fn a_certificate_is_replaced_without_a_break() {
    let _proof = berth_agent::proof::driver(&["certificate.request", "certificate.put"]);
    let agent = Agent::start().await;
    let before: Node = agent.get("/v1/node").await;
    let old_certificate = shown(&agent).await;

    let ask = || agent.request(Method::POST, "/v1/certificate/request").send();
    let request: CertificateRequest = answer(ask().await.unwrap()).await.unwrap();
    assert_eq!(shown(&agent).await, old_certificate, "a request alone changes nothing");

    let put = async |pem: String| {
        let request = agent.request(Method::PUT, "/v1/certificate").json(&json!({"certificate_pem": pem}));
        answer::<()>(request.send().await.unwrap()).await
    };
    let other_key: CertificateRequest = answer(ask().await.unwrap()).await.unwrap();
    let wrong = [
        ("of a key that was forgotten", agent.pki.sign(&request.csr_pem)),
        ("of another CA", Pki::new().sign(&other_key.csr_pem)),
        ("no certificate", "hello".to_owned()),
    ];
    for (what, pem) in wrong {
        let refused = put(pem).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::InvalidInput, "{what}");
        assert!(refused.for_field("certificate_pem").is_some(), "{what}");
    }
    assert_eq!(shown(&agent).await, old_certificate);

    let new = agent.pki.sign(&other_key.csr_pem);
    put(new.clone()).await.unwrap();
    put(new).await.expect("told twice is fine");
    assert_ne!(shown(&agent).await, old_certificate, "new connections see the new certificate");
    let after: Node = agent.get("/v1/node").await;
    assert_eq!(after.facts.name, before.facts.name, "an open connection goes on");
    assert!(after.certificate_expires >= before.certificate_expires);
    let third = put("hello".to_owned()).await.unwrap_err();
    assert_eq!(third.code, ErrorCode::Conflict, "no key waits any more");
    let key = std::fs::metadata(agent.home.path().join("tls/identity.json")).unwrap().permissions().mode();
    assert_eq!(key & 0o777, 0o600);
    assert!(!agent.home.path().join("tls/next-key.pem").exists());
}

#[tokio::test]
async fn an_identity_that_cannot_be_used_is_a_fault_and_the_old_one_stays() {
    let agent = Agent::start().await;
    std::fs::write(agent.home.path().join("tls/identity.json"), "{").unwrap();
    let node = agent.wait_for("the node is unhealthy", |node| !node.health.healthy).await;
    assert!(node.health.faults[0].contains("identity"), "{:?}", node.health.faults);
    assert!(node.certificate_expires > Timestamp::from_unix_ms(0));
}

/// The certificate that a new connection sees.
async fn shown(agent: &Agent) -> Vec<u8> {
    let pair = agent.pki.client(CONTROL_PLANE);
    let stream = tokio::net::TcpStream::connect(agent.https).await.unwrap();
    let tls = crate::support::tls_client(&agent.pki, &pair);
    let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let stream = tokio_rustls::TlsConnector::from(tls).connect(name, stream).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}
