//! Nodes: enrolment, streams, leases, and the client of agents.

use std::sync::Arc;
use std::time::Duration;

use berth_agent::enrol::Enrolment;
use berth_agent::hypervisor::Hypervisor as _;
use berth_agent::identity::NewKey;
use berth_model::agent::{
    EnrolRequest, LeaseGrant, LeaseState, Nothing, PowerVerb, VmSpec, VmState, WantedPower, function,
};
use berth_model::node::{NodeList, NodeReply, NodeState};
use berth_model::server::ServerStatus;
use berth_model::{ErrorCode, NodeId, ServerId, Timestamp, VmId};
use berth_server::agents::{AgentError, Agents};
use berth_server::nodes::ca::Authority;
use berth_server::nodes::queries::{self, Lease};
use berth_server::nodes::{Grants, Pace};
use berth_server::secret::SecretKey;
use berth_server::{clock, entropy, nodes, servers};

use crate::fleet::{Fleet, PACE, SimulatedNode, Way, spec};
use crate::support::{Berth, until};

fn request(token: &str) -> EnrolRequest {
    let csr_pem = NewKey::draw("n1").unwrap().csr_pem;
    EnrolRequest { token: token.to_owned(), address: "https://127.0.0.1:7701".to_owned(), csr_pem }
}

#[tokio::test]
async fn a_token_lets_one_agent_in_once() {
    let fleet = Fleet::start().await;
    let now = clock::now();
    let token = nodes::cli::add(fleet.db(), &fleet.key, "n1", "rtm1", now).await.unwrap();
    let enrol = |request: EnrolRequest, at| {
        let (db, authority) = (fleet.db().clone(), Arc::clone(&fleet.authority));
        async move { nodes::enrol::enrol(&db, &authority, &request, at).await }
    };

    let mistyped = token.replacen(|c: char| c.is_ascii_lowercase(), "0", 1);
    let unknown = format!("999{token}");
    for wrong in ["", "1", "1.2", "x.y.z", mistyped.as_str(), unknown.as_str()] {
        let problem = enrol(request(wrong), now).await.unwrap_err();
        assert_eq!(problem.error().code, ErrorCode::Unauthorized, "{wrong}");
    }
    let late = enrol(request(&token), now.plus_seconds(3601)).await.unwrap_err();
    assert_eq!(late.error().code, ErrorCode::Unauthorized);
    let nowhere = EnrolRequest { address: "http://127.0.0.1".to_owned(), ..request(&token) };
    assert!(enrol(nowhere, now).await.unwrap_err().error().for_field("address").is_some());
    let unsigned = EnrolRequest { csr_pem: "nonsense".to_owned(), ..request(&token) };
    assert!(enrol(unsigned, now).await.unwrap_err().error().for_field("csr_pem").is_some());

    // Nothing of all that used it up. Of two at once one wins.
    let both = tokio::join!(enrol(request(&token), now), enrol(request(&token), now));
    let (won, lost) = match both {
        (Ok(won), Err(lost)) | (Err(lost), Ok(won)) => (won, lost),
        other => panic!("one should win: {other:?}"),
    };
    assert_eq!(lost.error().code, ErrorCode::Unauthorized);
    assert!(won.certificate_pem.contains("BEGIN CERTIFICATE"));
    assert_eq!(won.ca_pem, fleet.authority.certificate_pem());

    let again = nodes::cli::token(fleet.db(), &fleet.key, "n1", now).await.unwrap();
    assert_eq!(enrol(request(&again), now).await.unwrap().node, won.node);
}

#[tokio::test]
async fn a_node_is_added_with_a_name_and_a_place_that_make_sense() {
    let fleet = Fleet::start().await;
    let now = clock::now();
    let add = |name: &'static str, location: &'static str| {
        let (db, key) = (fleet.db().clone(), fleet.key.clone());
        async move { nodes::cli::add(&db, &key, name, location, now).await.map_err(|e| e.to_string()) }
    };
    add("n1", "rtm1").await.unwrap();
    assert!(add("n1", "rtm1").await.unwrap_err().contains("berth node token n1"));
    assert!(add("n2", "nowhere").await.unwrap_err().contains("There are: rtm1."));
    assert!(add("N 2", "rtm1").await.unwrap_err().contains("1 to 63"));
    let lost = nodes::cli::token(fleet.db(), &fleet.key, "n3", now).await.unwrap_err();
    assert!(lost.to_string().contains("no node “n3”"));
}

#[tokio::test]
async fn all_control_planes_share_one_ca() {
    let fleet = Fleet::start().await;
    let now = clock::now();
    sqlx::query("delete from certificate_authority").execute(fleet.db()).await.unwrap();
    let (one, other) = tokio::join!(
        nodes::authority(fleet.db(), &fleet.key, now),
        nodes::authority(fleet.db(), &fleet.key, now)
    );
    assert_eq!(one.unwrap().fingerprint(), other.unwrap().fingerprint());
    assert!(nodes::authority(fleet.db(), &SecretKey::new([8; 32]), now).await.is_err(), "another key");
}

#[tokio::test]
async fn what_an_agent_tells_is_known() {
    let fleet = Fleet::start().await;
    let node = fleet.node("n1").await;
    let plane = fleet.plane();
    let up = fleet.state_becomes(node.id, NodeState::Up).await;
    assert!(up.last_seen.is_some() && up.certificate_expires.is_some());
    let facts =
        until("its facts are known", || async { fleet.state_becomes(node.id, NodeState::Up).await.facts });
    assert_eq!(facts.await.name, "n1");
    plane.stop().await;
}

#[tokio::test]
async fn what_a_vm_does_becomes_its_servers_status() {
    let fleet = Fleet::start().await;
    let node = fleet.node("n1").await;
    let server = fleet.server(node.id, ServerStatus::Off).await;
    let plane = fleet.plane();
    fleet.state_becomes(node.id, NodeState::Up).await;
    node.boot(server);
    fleet.status_becomes(server, ServerStatus::Running).await;
    node.simulator.crash(VmId::from(server)).unwrap();
    fleet.status_becomes(server, ServerStatus::Off).await;
    for _ in 0..20 {
        node.simulator.power(VmId::from(server), PowerVerb::Start).unwrap();
        node.simulator.power(VmId::from(server), PowerVerb::PowerOff).unwrap();
    }
    node.simulator.power(VmId::from(server), PowerVerb::Start).unwrap();
    // The last word counts, in whatever batches they came.
    fleet.status_becomes(server, ServerStatus::Running).await;
    let changes: i64 = sqlx::query_scalar("select count(*) from outbox").fetch_one(fleet.db()).await.unwrap();
    assert!(changes >= 3, "customers were told: {changes}");
    plane.stop().await;
}

#[tokio::test]
async fn a_node_that_goes_down_is_news_also_of_a_server_that_an_action_holds() {
    let fleet = Fleet::start().await;
    let mut node = fleet.node("n1").await;
    let server = fleet.server(node.id, ServerStatus::Off).await;
    node.boot(server);
    let plane = fleet.plane();
    fleet.status_becomes(server, ServerStatus::Running).await;
    sqlx::query("update servers set locked_by = 1").execute(fleet.db()).await.unwrap();
    let mut conn = fleet.db().acquire().await.unwrap();
    let observed = servers::queries::observed(&mut conn, server).await.unwrap();
    let look = servers::jobs::Look { state: Some(VmState::Running), observed };

    node.stop().await;
    fleet.state_becomes(node.id, NodeState::Down).await;
    assert_eq!(fleet.status(server).await, ServerStatus::Running, "that is left to the action");
    servers::queries::unlock(&mut conn, server, Some(look)).await.unwrap();
    assert_eq!(fleet.status(server).await, ServerStatus::Unknown);
    plane.stop().await;
}

#[tokio::test]
async fn what_happened_while_the_stream_was_broken_is_found() {
    let fleet = Fleet::start().await;
    let mut node = fleet.node("n1").await;
    let stopped = fleet.server(node.id, ServerStatus::Off).await;
    let lost = fleet.server(node.id, ServerStatus::Off).await;
    node.boot(stopped);
    node.boot(lost);
    let plane = fleet.plane();
    fleet.status_becomes(stopped, ServerStatus::Running).await;
    fleet.status_becomes(lost, ServerStatus::Running).await;

    node.stop().await;
    fleet.state_becomes(node.id, NodeState::Down).await;
    fleet.status_becomes(stopped, ServerStatus::Unknown).await;
    node.simulator.power(VmId::from(stopped), PowerVerb::PowerOff).unwrap();
    node.simulator.delete(VmId::from(lost)).unwrap();

    node.start().await;
    let up = fleet.state_becomes(node.id, NodeState::Up).await;
    assert!(up.faults.is_empty());
    fleet.status_becomes(stopped, ServerStatus::Off).await;
    fleet.status_becomes(lost, ServerStatus::Unknown).await;
    plane.stop().await;
}

#[tokio::test]
async fn an_agent_speaks_for_its_own_servers_only() {
    let fleet = Fleet::start().await;
    let (one, other) = (fleet.node("n1").await, fleet.node("n2").await);
    let server = fleet.server(one.id, ServerStatus::Off).await;
    let marker = fleet.server(other.id, ServerStatus::Off).await;
    one.boot(server);
    let plane = fleet.plane();
    fleet.status_becomes(server, ServerStatus::Running).await;
    fleet.state_becomes(other.id, NodeState::Up).await;
    other.boot(server);
    other.simulator.crash(VmId::from(server)).unwrap();
    // Once the later news is in, the earlier was.
    other.boot(marker);
    fleet.status_becomes(marker, ServerStatus::Running).await;
    assert_eq!(fleet.status(server).await, ServerStatus::Running);
    plane.stop().await;
}

#[tokio::test]
async fn control_planes_share_the_nodes_and_take_over_from_the_dead() {
    let fleet = Fleet::start().await;
    for name in ["n1", "n2", "n3", "n4", "n5"] {
        fleet.dead_node(name).await;
    }
    let one = fleet.plane();
    let keeps = |owner, wanted: std::ops::RangeInclusive<i64>| {
        let fleet = &fleet;
        async move {
            let what = format!("{owner} keeps {wanted:?}");
            until(&what, || async { wanted.contains(&fleet.kept_by(owner).await).then_some(()) }).await;
        }
    };
    keeps(one.owner, 5..=5).await;
    let other = fleet.plane();
    keeps(one.owner, 2..=3).await;
    keeps(other.owner, 2..=3).await;
    one.kill().await;
    keeps(other.owner, 5..=5).await;
    let third = fleet.plane();
    keeps(third.owner, 2..=3).await;
    let (left, last) = (third.owner, other.owner);
    third.stop().await;
    assert_eq!(fleet.kept_by(left).await, 0, "given back at once");
    keeps(last, 5..=5).await;
    other.stop().await;
}

#[tokio::test]
async fn the_stream_goes_on_when_its_control_plane_is_killed() {
    let fleet = Fleet::start().await;
    let node = fleet.node("n1").await;
    let server = fleet.server(node.id, ServerStatus::Off).await;
    let one = fleet.plane();
    fleet.state_becomes(node.id, NodeState::Up).await;
    let other = fleet.plane();
    one.kill().await;
    node.boot(server);
    fleet.status_becomes(server, ServerStatus::Running).await;
    other.stop().await;
}

#[tokio::test]
async fn who_lost_the_lease_writes_nothing() {
    let fleet = Fleet::start().await;
    let node = fleet.dead_node("n1").await;
    let (one, other) = (entropy::uuid(), entropy::uuid());
    let mut conn = fleet.db().acquire().await.unwrap();
    let claim = queries::claim(&mut conn, one, 9, 60.0).await.unwrap();
    let [old]: [Lease; 1] = claim.try_into().unwrap();
    assert_eq!(old.node, node);
    assert!(queries::hold(&mut conn, one, &old).await.unwrap().is_some());
    assert!(queries::claim(&mut conn, other, 9, 60.0).await.unwrap().is_empty(), "it is taken");

    sqlx::query("update nodes set lease_until = now()").execute(&mut *conn).await.unwrap();
    let claim = queries::claim(&mut conn, other, 9, 60.0).await.unwrap();
    let [new]: [Lease; 1] = claim.try_into().unwrap();
    assert!(new.fence > old.fence);
    assert!(queries::hold(&mut conn, one, &old).await.unwrap().is_none());
    assert!(queries::renew(&mut conn, one, 60.0).await.unwrap().is_empty());
    assert_eq!(queries::renew(&mut conn, other, 60.0).await.unwrap(), [new]);
}

#[tokio::test]
async fn a_certificate_in_the_last_third_of_its_life_is_changed() {
    let fleet = Fleet::start().await;
    let node = fleet.node("n1").await;
    let now = clock::now();
    let agent = fleet.agents.node(node.id);
    // An old one, in the way a new one comes.
    let csr = agent.request_certificate().await.unwrap().csr_pem;
    let address = format!("https://{}", node.listens());
    let address = berth_server::agents::AgentAddress::parse(node.id, &address).unwrap();
    let old = fleet.authority.sign_agent(&csr, &address, now.plus_seconds(-65 * 86_400)).unwrap();
    agent.put_certificate(old.pem).await.unwrap();
    let plane = fleet.plane();
    let expires = until("the agent has a new certificate", || async {
        let told = agent.node().await.ok()?.certificate_expires?;
        (told > now.plus_seconds(80 * 86_400)).then_some(told)
    });
    let expires = expires.await;
    until("the control plane knows", || async {
        let known = fleet.state_becomes(node.id, NodeState::Up).await.certificate_expires?;
        (known.unix_ms() / 1000 == expires.unix_ms() / 1000).then_some(())
    })
    .await;
    plane.stop().await;
}

#[tokio::test]
async fn only_our_ca_and_the_right_node_are_spoken_to() {
    let fleet = Fleet::start().await;
    let (one, other) = (fleet.node("n1").await, fleet.node("n2").await);
    let unreachable =
        |result: Result<_, AgentError>| matches!(result.err(), Some(AgentError::Unreachable(_)));

    let theirs = Authority::generate(clock::now()).unwrap();
    let theirs = Arc::new(Authority::load(theirs.certificate_pem, &theirs.key_pkcs8).unwrap());
    let strangers = Arc::new(Agents::new(fleet.db().clone(), theirs, clock::now()).unwrap());
    assert!(unreachable(strangers.node(one.id).node().await), "another CA");

    sqlx::query("update nodes set address = $2 where id = $1")
        .bind(one.id.0)
        .bind(format!("https://{}", other.listens()))
        .execute(fleet.db())
        .await
        .unwrap();
    assert!(unreachable(fleet.agents.node(one.id).node().await), "another node behind this address");
    assert!(fleet.agents.node(other.id).node().await.is_ok());
}

#[tokio::test]
async fn the_client_speaks_the_whole_protocol() {
    let fleet = Fleet::start().await;
    let node = fleet.node("n1").await;
    let agent = fleet.agents.node(node.id).with_request_id("abc");
    let vm = VmId(41);

    assert_eq!(agent.get_vm(vm).await.unwrap(), None);
    assert_eq!(agent.put_vm(vm, &spec(WantedPower::Off)).await.unwrap().state, VmState::Off);
    assert_eq!(agent.power(vm, PowerVerb::Start).await.unwrap().state, VmState::Running);
    assert_eq!(agent.get_vm(vm).await.unwrap().unwrap().state, VmState::Running);
    assert_eq!(agent.list_vms().await.unwrap().len(), 1);
    agent.delete_vm(vm).await.unwrap();
    agent.delete_vm(vm).await.unwrap();
    let refused = agent.power(vm, PowerVerb::Start).await.unwrap_err();
    assert!(refused.is_not_found());
    let mut wrong = spec(WantedPower::On);
    wrong.vcpus = 0;
    assert_eq!(agent.put_vm(vm, &wrong).await.unwrap_err().code(), Some(ErrorCode::InvalidInput));
    assert!(agent.images().await.unwrap().is_empty());
    let missing = agent.put_image(&"b".repeat(64), std::path::Path::new("/nonexistent")).await.unwrap_err();
    assert!(matches!(missing, AgentError::Ours(_)));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), b"not the right bytes").unwrap();
    let refused = agent.put_image(&"b".repeat(64), file.path()).await.unwrap_err();
    assert!(matches!(refused, AgentError::Refused(_)), "{refused}");
}

#[tokio::test]
async fn a_node_that_is_down_is_not_asked_and_one_that_fails_is_left_alone() {
    let fleet = Fleet::start().await;
    let node = fleet.dead_node("n1").await;
    let agent = fleet.agents.node(node);
    let says = async |wanted: &str| {
        let error = agent.node().await.unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    };
    for _ in 0..3 {
        says("onnect").await;
    }
    says("failed several times").await;
    sqlx::query("update nodes set state = 'down'").execute(fleet.db()).await.unwrap();
    says("is down").await;
    let nobody = fleet.agents.node(NodeId(999)).node().await.unwrap_err().to_string();
    assert!(nobody.contains("not enrolled"), "{nobody}");
}

#[tokio::test]
async fn a_candidate_counts_what_was_promised() {
    let fleet = Fleet::start().await;
    let node = fleet.node("n1").await;
    let plane = fleet.plane();
    fleet.state_becomes(node.id, NodeState::Up).await;
    let servers: Vec<ServerId> =
        vec![fleet.server(node.id, ServerStatus::Off).await, fleet.server(node.id, ServerStatus::Off).await];
    let candidates = until("the node's facts are known", || async {
        let mut tx = fleet.db().begin().await.unwrap();
        let found = queries::candidates(&mut tx, berth_model::LocationId(1)).await.unwrap();
        (!found.is_empty()).then_some(found)
    });
    let candidate = candidates.await.remove(0);
    assert!(candidate.up && candidate.accepts_servers && candidate.cores > 0);
    assert_eq!(candidate.servers, servers.len() as i64);
    assert_eq!(candidate.promised_memory, berth_model::ByteSize::mib(1024));
    assert_eq!(candidate.promised_storage, berth_model::ByteSize::gib(10));
    plane.stop().await;
}

#[tokio::test]
async fn an_agent_enrols_over_http_and_is_up() {
    let berth = Berth::without_workers().await;
    berth.catalog().await;
    let world = berth.world();
    let token = nodes::cli::add(&world.db, &world.secret_key, "n1", "rtm1", clock::now()).await.unwrap();
    let mut node = SimulatedNode::new("n1");
    node.start().await;
    let enrolment = Enrolment {
        url: berth.url().to_owned(),
        token,
        address: Some(format!("https://{}", node.listens())),
        force: false,
        https_ca_pem: None,
    };
    let identity = berth_agent::enrol::enrol(node.config(), &enrolment).await.unwrap();
    let staff = berth.staff().await;
    until("staff see it up", || async {
        let list: NodeList = staff.get("/v1/nodes").await.ok();
        let found = list.nodes.into_iter().find(|n| n.id == identity.node)?;
        (found.state == NodeState::Up && found.facts.is_some()).then_some(())
    })
    .await;
    // The same token from somebody who read it over the owner's shoulder.
    let again = berth_agent::enrol::enrol(node.config(), &Enrolment { force: true, ..enrolment }).await;
    assert!(again.unwrap_err().to_string().contains("not valid"));
    berth.stop().await;
}

#[tokio::test]
async fn who_guesses_tokens_is_shut_out() {
    let berth = Berth::without_workers().await;
    let stranger = berth.stranger();
    let body = serde_json::to_value(request("1.guess.0")).unwrap();
    for _ in 0..nodes::rules::FAILURES_MAX {
        assert_eq!(stranger.post("/v1/agents/enrol", body.clone()).await.code(), "unauthorized");
    }
    let shut_out = stranger.post("/v1/agents/enrol", body).await;
    assert_eq!(shut_out.code(), "rate_limit_exceeded");
    assert!(shut_out.headers.contains_key("retry-after"));
    let missing = stranger.post("/v1/agents/enrol", serde_json::json!({"token": "x"})).await;
    missing.refuses("address");
}

#[tokio::test]
async fn the_owner_closes_a_node_for_new_servers() {
    let berth = Berth::without_workers().await;
    berth.catalog().await;
    let node = berth.node("n1").await;
    let owner = berth.owner().await;
    let path = format!("/v1/nodes/{}", node.id);
    let reply: NodeReply = owner.put(&path, serde_json::json!({"accepts_servers": false})).await.ok();
    assert!(!reply.node.accepts_servers);
    let list: NodeList = berth.staff().await.get("/v1/nodes?per_page=1").await.ok();
    assert_eq!((list.nodes.len(), list.nodes[0].accepts_servers), (1, false));
    let unchanged: NodeReply = owner.put(&path, serde_json::json!({})).await.ok();
    assert!(!unchanged.node.accepts_servers);
    owner.put(&path, serde_json::json!({"accepts_servers": 1})).await.refuses("accepts_servers");
    owner.put(&path, serde_json::json!({"name": "x"})).await.refuses("name");
    assert_eq!(owner.put("/v1/nodes/999", serde_json::json!({})).await.code(), "not_found");
    assert_eq!(berth.customer().await.get("/v1/nodes").await.code(), "forbidden");
    berth.stop().await;
}

#[tokio::test]
async fn a_node_that_hangs_is_down_and_asked_no_more() {
    let fleet = Fleet::start().await;
    let node = fleet.node("n1").await;
    let server = fleet.server(node.id, ServerStatus::Off).await;
    node.boot(server);
    let way = Way::to(node.listens()).await;
    let moved = sqlx::query("update nodes set address = $1").bind(format!("https://{}", way.address));
    moved.execute(fleet.db()).await.unwrap();
    let plane = fleet.plane_at(Pace { silence_max: Duration::from_secs(2), ..PACE });
    fleet.status_becomes(server, ServerStatus::Running).await;

    way.block(true);
    let down = fleet.state_becomes(node.id, NodeState::Down).await;
    assert_eq!(down.faults, ["Its agent does not answer."]);
    assert_eq!(fleet.status(server).await, ServerStatus::Unknown, "in the same transaction");
    let error = fleet.agents.node(node.id).node().await.unwrap_err();
    assert!(error.to_string().contains("is down"), "without asking it: {error}");
    way.block(false);
    fleet.state_becomes(node.id, NodeState::Up).await;
    fleet.status_becomes(server, ServerStatus::Running).await;
    plane.stop().await;
}

/// A VM marked for failover runs on this node.
fn marked(node: &SimulatedNode, server: ServerId) -> bool {
    node.simulator.get(VmId::from(server)).unwrap().state == VmState::Running
}

#[tokio::test]
async fn a_node_holds_a_lease_while_its_keeper_hears_it_and_fences_itself_after_that() {
    let fleet = Fleet::start().await;
    let node = fleet.node("n1").await;
    let server = fleet.server(node.id, ServerStatus::Running).await;
    let failover = VmSpec { failover: true, ..spec(WantedPower::On) };
    node.simulator.put(VmId::from(server), &failover).unwrap();
    let grants = Grants { ttl_s: 6, fence_after_s: 2 };
    let plane = fleet.plane_at(Pace { grants, ..PACE });
    let held = || async {
        let lease = fleet.agents.node(node.id).call::<function::node::LeaseStatus>(&(), &Nothing {}).await;
        lease.ok().filter(|lease| lease.state == LeaseState::Held)
    };
    let first = until("the lease", held).await;
    let renewed =
        || async { held().await.filter(|now| now.now.ms + now.left_ms > first.now.ms + first.left_ms) };
    until("its renewal", renewed).await;
    let by = || async {
        let by: (Timestamp, Timestamp) = sqlx::query_as("select fenced_by, clock_timestamp() from nodes")
            .fetch_one(fleet.db())
            .await
            .unwrap();
        (by.0.unix_ms() - by.1.unix_ms()) / 1000
    };
    assert!((1..=18).contains(&by().await), "{}", by().await);
    assert!(marked(&node, server));

    // Another takes over: the node is granted the next term, and what the first would still send is refused.
    let first_term = held().await.unwrap().term.unwrap();
    plane.kill().await;
    let next = fleet.plane_at(Pace { grants, ..PACE });
    let taken = until("the next term", || async { held().await.filter(|l| l.term > Some(first_term)) }).await;
    let late = LeaseGrant { term: first_term, from: taken.now, ttl_s: 6, fence_after_s: 2 };
    let refused = fleet.agents.node(node.id).call::<function::node::Lease>(&(), &late).await.unwrap_err();
    assert!(refused.to_string().contains("is older"), "{refused}");

    // Nobody renews: the VM goes off, no later than was written down.
    next.kill().await;
    until("the VM's end", || async { (!marked(&node, server)).then_some(()) }).await;
    assert!(by().await >= 0, "it went off in time");
    let refused = node.simulator.power(VmId::from(server), PowerVerb::Start).unwrap_err();
    assert!(refused.to_string().contains("has ended"), "{refused}");

    // An installation that gives it up lets its nodes go.
    let without = fleet.plane_at(Pace { grants: Grants::NONE, ..PACE });
    until("the node's freedom", || async {
        let known: Option<Timestamp> =
            sqlx::query_scalar("select fenced_by from nodes").fetch_one(fleet.db()).await.unwrap();
        known.is_none().then_some(())
    })
    .await;
    let power = || async { node.simulator.power(VmId::from(server), PowerVerb::Start).ok() };
    until("the VM's start", power).await;
    without.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_an_agent_longer_than_one_request_is_waited_for() {
    let fleet = Fleet::start().await;
    let token = nodes::cli::add(fleet.db(), &fleet.key, "slow", "rtm1", clock::now()).await.unwrap();
    let node = SimulatedNode::slow("slow", Duration::from_secs(6));
    let node = node.enrol("slow", token, fleet.db(), &fleet.authority).await;
    let (agent, vm) = (fleet.agents.node(node.id), VmId(7));
    agent.put_vm(vm, &spec(WantedPower::Off)).await.unwrap();
    agent.delete_vm(vm).await.unwrap();
    assert!(node.simulator.get(vm).is_err());
}
