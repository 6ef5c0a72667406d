//! Two agents with simulators, and the real way between them.

use std::sync::Arc;

use berth_model::agent::{
    MOVE_KEEP_S, MoveArrived, MovePlace, MovePrepare, MoveSend, MoveSent, Vm, VmSpec, VmState, Volume,
    VolumeAttachment, VolumeCreate, VolumeList,
};
use berth_model::error::ApiError;
use berth_model::{ByteSize, ErrorCode, VmId, VolumeId};
use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::pki::Pki;
use crate::support::{Agent, PATIENCE, answer, spec};

async fn post<T: DeserializeOwned>(agent: &Agent, verb: &str, body: &impl Serialize) -> Result<T, ApiError> {
    let request = agent.request(Method::POST, &format!("/v1/vms/7/move/{verb}")).json(body);
    answer(request.send().await.unwrap()).await
}

fn order(to: MovePlace) -> MoveSend {
    MoveSend {
        host: "127.0.0.1".to_owned(),
        to,
        auto_converge: false,
        post_copy: false,
        bandwidth_mib_s: None,
        allow_unsafe: false,
    }
}

fn asked(spec: VmSpec) -> MovePrepare {
    MovePrepare { spec, volumes: vec![], keep_s: MOVE_KEEP_S }
}

async fn prepare(agent: &Agent) -> Result<MovePlace, ApiError> {
    post(agent, "prepare", &asked(spec())).await
}

fn nothing() -> serde_json::Value {
    serde_json::json!({})
}

#[tokio::test]
async fn a_vm_moves_between_two_agents_of_one_control_plane() {
    let _proof =
        berth_agent::proof::driver(&["moving.prepare", "moving.send", "moving.finish", "moving.abort"]);
    let pki = Arc::new(Pki::new());
    let a = Agent::start_under(Arc::clone(&pki), |_| {}).await;
    let b = Agent::start_under(pki, |_| {}).await;
    let vm = a.put_vm(7, &spec()).await.unwrap();

    assert_eq!(prepare(&a).await.unwrap_err().code, ErrorCode::Conflict);
    let place = prepare(&b).await.unwrap();
    assert_eq!(MovePlace { until: place.until, ..prepare(&b).await.unwrap() }, place);
    assert_eq!(b.put_vm(7, &spec()).await.unwrap_err().code, ErrorCode::Conflict);
    assert_eq!(post::<MoveArrived>(&b, "finish", &nothing()).await.unwrap_err().code, ErrorCode::Conflict);
    let sent: MoveSent = post(&a, "send", &order(place.clone())).await.unwrap();
    assert!(sent.live && sent.sent_bytes > 0);
    // Told again, it finds that the VM has arrived.
    let again: MoveSent = post(&a, "send", &order(place.clone())).await.unwrap();
    assert_eq!(again.sent_bytes, 0);
    assert_eq!(post::<()>(&b, "abort", &nothing()).await.unwrap_err().code, ErrorCode::Conflict);
    let arrived: MoveArrived = post(&b, "finish", &nothing()).await.unwrap();
    assert_eq!(arrived.vm, vm);
    assert_eq!(b.get::<Vm>("/v1/vms/7").await.state, VmState::Running);
    assert_eq!(post::<MoveArrived>(&b, "finish", &nothing()).await.unwrap().vm, vm);
    // The port is shut.
    assert_eq!(post::<MoveSent>(&a, "send", &order(place)).await.unwrap_err().code, ErrorCode::NotFound);
}

#[tokio::test]
async fn only_who_was_told_of_a_move_gets_in() {
    let _proof = berth_agent::proof::driver(&["moving.send", "moving.abort"]);
    let pki = Arc::new(Pki::new());
    let a = Agent::start_under(Arc::clone(&pki), |_| {}).await;
    let b = Agent::start_under(pki, |_| {}).await;
    let stranger = Agent::start().await;
    for agent in [&a, &stranger] {
        agent.put_vm(7, &spec()).await.unwrap();
    }
    let place = prepare(&b).await.unwrap();
    assert!(!format!("{place:?}").contains(&place.secret));

    // Another CA; another secret; another node than was told.
    let other_secret = MovePlace { secret: "0".repeat(64), ..place.clone() };
    let other_node = MovePlace { node: berth_model::NodeId(8), ..place.clone() };
    for (agent, place) in [(&stranger, &place), (&a, &other_secret), (&a, &other_node)] {
        let refused = post::<MoveSent>(agent, "send", &order(place.clone())).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::Unavailable, "{refused:?}");
        assert_eq!(agent.get::<Vm>("/v1/vms/7").await.state, VmState::Running);
    }
    post::<()>(&b, "abort", &nothing()).await.unwrap();
    let refused = post::<MoveSent>(&a, "send", &order(place)).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Unavailable, "{refused:?}");
    post::<()>(&b, "abort", &nothing()).await.unwrap();
}

#[tokio::test]
async fn an_order_that_makes_no_sense_is_refused_with_its_field() {
    let _proof = berth_agent::proof::pure(&["moving.prepare", "moving.send"]);
    let agent = Agent::start().await;
    let mut wrong = spec();
    wrong.vcpus = 0;
    let refused = post::<MovePlace>(&agent, "prepare", &asked(wrong)).await.unwrap_err();
    assert!(serde_json::to_string(&refused).unwrap().contains("spec.vcpus"), "{refused:?}");
    let attached = vec![VolumeAttachment { volume: VolumeId(5), read_only: false }];
    let forgetful = VmSpec { volumes: attached, ..spec() };
    let refused = post::<MovePlace>(&agent, "prepare", &asked(forgetful)).await.unwrap_err();
    assert!(serde_json::to_string(&refused).unwrap().contains("volume 5"), "{refused:?}");
    let brief = MovePrepare { keep_s: 0, ..asked(spec()) };
    let refused = post::<MovePlace>(&agent, "prepare", &brief).await.unwrap_err();
    assert!(serde_json::to_string(&refused).unwrap().contains("keep_s"), "{refused:?}");
    let place = prepare(&agent).await.unwrap();
    let wrong = [
        ("host", MoveSend { host: "a b".to_owned(), ..order(place.clone()) }),
        ("to.port", order(MovePlace { port: 0, ..place.clone() })),
        ("bandwidth_mib_s", MoveSend { bandwidth_mib_s: Some(0), ..order(place) }),
    ];
    for (field, order) in wrong {
        let refused = post::<MoveSent>(&agent, "send", &order).await.unwrap_err();
        assert!(serde_json::to_string(&refused).unwrap().contains(field), "{refused:?}");
    }
}

#[tokio::test]
async fn a_room_in_which_nothing_comes_goes_when_its_time_is_over() {
    let _proof = berth_agent::proof::driver(&["moving.prepare"]);
    let agent = Agent::start().await;
    post::<MovePlace>(&agent, "prepare", &MovePrepare { keep_s: 1, ..asked(spec()) }).await.unwrap();
    assert_eq!(agent.put_vm(7, &spec()).await.unwrap_err().code, ErrorCode::Conflict);
    let until = tokio::time::Instant::now() + PATIENCE;
    while agent.put_vm(7, &spec()).await.is_err() {
        assert!(tokio::time::Instant::now() < until, "the room stays");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn volumes_go_along_and_none_is_left_or_lost() {
    let _proof =
        berth_agent::proof::driver(&["moving.prepare", "moving.send", "moving.finish", "moving.abort"]);
    let pki = Arc::new(Pki::new());
    let a = Agent::start_under(Arc::clone(&pki), |_| {}).await;
    let b = Agent::start_under(pki, |_| {}).await;
    let wanted = VolumeCreate { size: ByteSize::mib(64), pool: None, format: None, file_system: None };
    let create = a.request(Method::PUT, "/v1/volumes/5").json(&wanted);
    answer::<Volume>(create.send().await.unwrap()).await.unwrap();
    let attached = vec![VolumeAttachment { volume: VolumeId(5), read_only: false }];
    let spec = VmSpec { volumes: attached, ..spec() };
    a.put_vm(7, &spec).await.unwrap();
    let volume: Volume = a.get("/v1/volumes/5").await;
    let room = MovePrepare { volumes: vec![volume], ..asked(spec) };

    // A room that is given up takes its places along; a volume that comes is nobody else's meanwhile.
    post::<MovePlace>(&b, "prepare", &room).await.unwrap();
    let again = b.request(Method::PUT, "/v1/volumes/5").json(&wanted);
    let refused = answer::<Volume>(again.send().await.unwrap()).await.unwrap_err();
    assert!(refused.message.contains("comes from another node"), "{refused:?}");
    post::<()>(&b, "abort", &nothing()).await.unwrap();
    assert!(b.get::<VolumeList>("/v1/volumes").await.volumes.is_empty());

    let place: MovePlace = post(&b, "prepare", &room).await.unwrap();
    let mut lost = place.clone();
    lost.room.volumes.clear();
    assert_eq!(post::<MoveSent>(&a, "send", &order(lost)).await.unwrap_err().code, ErrorCode::Conflict);
    post::<MoveSent>(&a, "send", &order(place)).await.unwrap();
    post::<MoveArrived>(&b, "finish", &nothing()).await.unwrap();
    assert!(a.get::<VolumeList>("/v1/volumes").await.volumes.is_empty());
    let volume: Volume = b.get("/v1/volumes/5").await;
    assert!(volume.whole && volume.attached_to == Some(VmId(7)), "{volume:?}");
}
