//! Joining a control plane.

use std::sync::{Arc, Mutex};

use axum::routing::post;
use axum::{Json, Router};
use berth_agent::config::Config;
use berth_agent::enrol::{EnrolError, Enrolment, enrol};
use berth_agent::hypervisor::simulator::{Simulator, SimulatorConfig};
use berth_agent::identity::{Identity, ca_fingerprint};
use berth_agent::serve;
use berth_model::agent::{EnrolReply, EnrolRequest, Node};
use berth_model::error::ApiError;
use berth_model::{ErrorBody, ErrorCode, NodeId};
use http::StatusCode;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::pki::Pki;
use crate::support::{CONTROL_PLANE, PATIENCE, peer};

/// A control plane that enrols, with answers of the test's choice.
struct ControlPlane {
    url: String,
    pki: Arc<Pki>,
    asked: Arc<Mutex<Vec<EnrolRequest>>>,
    _stop: DropGuard,
}

type Answer = fn(&Pki, &EnrolRequest) -> Result<EnrolReply, ApiError>;

impl ControlPlane {
    async fn start(answer: Answer) -> Self {
        let pki = Arc::new(Pki::new());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (its_pki, its_asked) = (Arc::clone(&pki), Arc::clone(&asked));
        let enrol = move |Json(request): Json<EnrolRequest>| async move {
            let reply = answer(&its_pki, &request);
            its_asked.lock().unwrap().push(request);
            reply.map(Json).map_err(|error| (StatusCode::FORBIDDEN, Json(ErrorBody { error })))
        };
        let router = Router::new().route("/v1/agents/enrol", post(enrol));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        tokio::spawn(async move { axum::serve(listener, router).with_graceful_shutdown(stopped).await });
        Self { url, pki, asked, _stop: stop.drop_guard() }
    }

    fn enrolment(&self) -> Enrolment {
        Enrolment {
            url: self.url.clone(),
            token: format!("7.secret.{}", ca_fingerprint(&self.pki.ca_pem()).unwrap()),
            address: Some("https://127.0.0.1:7701".to_owned()),
            force: false,
            https_ca_pem: None,
        }
    }
}

fn honest(pki: &Pki, request: &EnrolRequest) -> Result<EnrolReply, ApiError> {
    Ok(EnrolReply { node: NodeId(7), certificate_pem: pki.sign(&request.csr_pem), ca_pem: pki.ca_pem() })
}

#[tokio::test]
async fn a_running_agent_listens_once_it_is_enrolled() {
    let control_plane = ControlPlane::start(honest).await;
    let home = tempfile::tempdir().unwrap();
    let mut config = Config::at(home.path());
    config.limits.identity_every = std::time::Duration::from_millis(20);
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let simulator = Arc::new(Simulator::new(SimulatorConfig::default()).unwrap());
    let running = serve(config.clone(), simulator, stop).await.unwrap();

    let address = format!("https://{}", running.https);
    let enrolment = Enrolment { address: Some(address.clone()), ..control_plane.enrolment() };
    let identity = enrol(&config, &enrolment).await.unwrap();
    assert_eq!((identity.node, &identity.address), (NodeId(7), &address));
    assert_eq!(control_plane.asked.lock().unwrap()[0].token, enrolment.token);
    assert!(!format!("{identity:?}").contains("PRIVATE"), "a key is not shown");

    let client = peer(&control_plane.pki, Some((&control_plane.pki, CONTROL_PLANE)));
    let until = std::time::Instant::now() + PATIENCE;
    let node: Node = loop {
        match client.get(format!("{address}/v1/node")).send().await {
            Ok(response) => break response.json().await.unwrap(),
            Err(e) => assert!(std::time::Instant::now() < until, "{e:?}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert!(node.certificate_expires.is_some());
}

#[tokio::test]
async fn enrolling_twice_must_be_meant() {
    let control_plane = ControlPlane::start(honest).await;
    let home = tempfile::tempdir().unwrap();
    let config = Config::at(home.path());
    let first = enrol(&config, &control_plane.enrolment()).await.unwrap();
    let refused = enrol(&config, &control_plane.enrolment()).await.unwrap_err();
    assert!(matches!(refused, EnrolError::Already(NodeId(7))), "{refused}");
    assert!(refused.to_string().contains("--force"));
    assert_eq!(control_plane.asked.lock().unwrap().len(), 1, "the token is not spent on a refusal");
    let forced = Enrolment { force: true, ..control_plane.enrolment() };
    assert_ne!(enrol(&config, &forced).await.unwrap().key_pem, first.key_pem);
}

#[tokio::test]
async fn an_answer_that_does_not_fit_is_refused_and_leaves_nothing() {
    let other_ca: Answer = |_, request| honest(&Pki::new(), request);
    let other_key: Answer = |pki, request| {
        Ok(EnrolReply { certificate_pem: pki.client("x").certificate_pem, ..honest(pki, request)? })
    };
    let two_cas: Answer = |pki, request| {
        Ok(EnrolReply { ca_pem: format!("{}{}", pki.ca_pem(), Pki::new().ca_pem()), ..honest(pki, request)? })
    };
    let other_signer: Answer = |pki, request| {
        Ok(EnrolReply { certificate_pem: Pki::new().sign(&request.csr_pem), ..honest(pki, request)? })
    };
    let says_no: Answer = |_, _| Err(ApiError::new(ErrorCode::Forbidden, "This token was used already."));
    let cases = [
        (other_ca, "not the one that the token names"),
        (other_key, "does not fit the key"),
        (two_cas, "2 CA certificates"),
        (other_signer, "not a valid one of the control plane's CA"),
        (says_no, "This token was used already."),
    ];
    for (answer, sentence) in cases {
        let control_plane = ControlPlane::start(answer).await;
        let home = tempfile::tempdir().unwrap();
        let refused = enrol(&Config::at(home.path()), &control_plane.enrolment()).await.unwrap_err();
        assert!(refused.to_string().contains(sentence), "{refused}");
        assert_eq!(Identity::load(&home.path().join("tls")).unwrap(), None);
    }
}

#[tokio::test]
async fn a_control_plane_that_is_not_there_is_said_so() {
    let control_plane = ControlPlane::start(honest).await;
    let home = tempfile::tempdir().unwrap();
    let config = Config::at(home.path());
    let nobody = Enrolment { url: "http://127.0.0.1:1".to_owned(), ..control_plane.enrolment() };
    let refused = enrol(&config, &nobody).await.unwrap_err().to_string();
    assert!(refused.contains("was not reached"), "{refused}");
    assert!(!refused.contains("secret"), "the token is not shown: {refused}");
    let elsewhere = Enrolment { url: format!("{}elsewhere", control_plane.url), ..control_plane.enrolment() };
    let refused = enrol(&config, &elsewhere).await.unwrap_err().to_string();
    assert!(refused.contains("404"), "{refused}");
    let port_zero = Enrolment { address: None, ..control_plane.enrolment() };
    let refused = enrol(&config, &port_zero).await.unwrap_err().to_string();
    assert!(refused.contains("--address"), "{refused}");
}
