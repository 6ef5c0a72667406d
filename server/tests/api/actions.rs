//! Actions, as their lists and by id; also when the server is gone.

use berth_model::action::{Action, ActionError, ActionList, ActionReply, ActionStatus, ResourceKind};
use berth_model::{ActionId, ErrorCode, ServerId};
use berth_server::actions::{self, NewAction};
use berth_server::clock;

use crate::stage::{Member, Plane, Stage};
use crate::support::{Client, Reply};

async fn start(stage: &Stage, member: &Member, command: &str, server: ServerId) -> Action {
    let resources = [(ResourceKind::Server, server.0)];
    let (project, now) = (member.project, clock::now());
    let new = NewAction { project, command, resources: &resources, steps: &[], now };
    actions::queries::start(&mut stage.db().acquire().await.unwrap(), &new).await.unwrap()
}

async fn finish(stage: &Stage, id: ActionId, end: Result<(), ActionError>) {
    actions::queries::finish(&mut stage.db().acquire().await.unwrap(), id, end, clock::now()).await.unwrap();
}

async fn ask(plane: &Plane, member: &Member, path: &str) -> Reply {
    let client = Client::new(&format!("http://{}", plane.address)).with_token(&member.token);
    client.get(&format!("/v1{path}")).await
}

async fn ids(plane: &Plane, member: &Member, path: &str) -> Vec<i64> {
    let list: ActionList = ask(plane, member, path).await.ok();
    list.actions.into_iter().map(|action| action.id.0).collect()
}

async fn code(plane: &Plane, member: &Member, path: &str) -> (u16, ErrorCode) {
    let reply = ask(plane, member, path).await;
    (reply.status.as_u16(), reply.error().code)
}

#[tokio::test]
async fn actions_are_listed_in_all_forms_sorted_filtered_and_paged() {
    let stage = Stage::new().await;
    let plane = stage.plane().await;
    let (member, other) = (stage.member().await, stage.member().await);
    let (first, second) = (stage.server(member.project).await, stage.server(member.project).await);
    let a = start(&stage, &member, "create_server", first).await.id.0;
    let b = start(&stage, &member, "stop_server", first).await.id.0;
    let c = start(&stage, &member, "create_server", second).await.id.0;
    let foreign = start(&stage, &other, "create_server", ServerId(4711)).await.id.0;
    finish(&stage, ActionId(a), Ok(())).await;
    let error = ActionError { code: ErrorCode::PlacementError, message: "No node has room.".into() };
    finish(&stage, ActionId(c), Err(error.clone())).await;

    for path in ["/actions", "/servers/actions"] {
        assert_eq!(ids(&plane, &member, path).await, [a, b, c], "{path}");
        assert_eq!(
            ids(&plane, &member, &format!("{path}?id={c}&id={a}&id={foreign}")).await,
            [a, c],
            "exactly those"
        );
        assert_eq!(ids(&plane, &member, &format!("{path}?status=running")).await, [b]);
        assert_eq!(
            ids(&plane, &member, &format!("{path}?status=success&status=error&sort=id:desc")).await,
            [c, a]
        );
        assert_eq!(ids(&plane, &member, &format!("{path}?sort=command&sort=id:desc")).await, [c, a, b]);
        assert_eq!(ids(&plane, &member, &format!("{path}?sort=started:desc&per_page=2&page=2")).await, [a]);
        for sort in ["status", "finished:desc"] {
            assert_eq!(ids(&plane, &member, &format!("{path}?sort={sort}")).await.len(), 3);
        }
    }
    assert_eq!(ids(&plane, &member, &format!("/servers/{first}/actions?sort=id:desc")).await, [b, a]);
    let list: ActionList = ask(&plane, &member, "/actions?per_page=2").await.ok();
    assert_eq!((list.meta.pagination.total_entries, list.meta.pagination.next_page), (3, Some(2)));

    for path in
        [format!("/actions/{c}"), format!("/servers/actions/{c}"), format!("/servers/{second}/actions/{c}")]
    {
        let ActionReply { action } = ask(&plane, &member, &path).await.ok();
        assert_eq!(
            (action.id.0, action.status, action.error.as_ref()),
            (c, ActionStatus::Error, Some(&error)),
            "{path}"
        );
        assert_eq!(action.resources[0].id, second.0);
        assert!(action.finished.is_some());
    }
}

#[tokio::test]
async fn an_action_can_be_read_when_its_server_is_gone() {
    let stage = Stage::new().await;
    let plane = stage.plane().await;
    let member = stage.member().await;
    let server = stage.server(member.project).await;
    assert_eq!(ids(&plane, &member, &format!("/servers/{server}/actions")).await, [0; 0], "none yet");
    let action = start(&stage, &member, "delete_server", server).await.id;
    sqlx::query("delete from servers where id = $1").bind(server).execute(stage.db()).await.unwrap();
    finish(&stage, action, Ok(())).await;
    for path in [format!("/actions/{action}"), format!("/servers/{server}/actions/{action}")] {
        let ActionReply { action } = ask(&plane, &member, &path).await.ok();
        assert_eq!((action.status, action.progress), (ActionStatus::Success, 100));
    }
    assert_eq!(ids(&plane, &member, &format!("/servers/{server}/actions")).await, [action.0]);
}

#[tokio::test]
async fn what_is_not_there_or_not_ones_own_is_not_found() {
    let stage = Stage::new().await;
    let plane = stage.plane().await;
    let (member, other) = (stage.member().await, stage.member().await);
    let (mine, server) = (stage.server(member.project).await, stage.server(other.project).await);
    let foreign = start(&stage, &other, "create_server", server).await.id;
    for path in [
        format!("/actions/{foreign}"),
        format!("/servers/actions/{foreign}"),
        format!("/servers/{server}/actions"),
        format!("/servers/{server}/actions/{foreign}"),
        format!("/servers/{mine}/actions/{foreign}"),
        "/actions/999999".into(),
        "/actions/x".into(),
        "/servers/999999/actions".into(),
        "/servers/actions/-1".into(),
    ] {
        assert_eq!(code(&plane, &member, &path).await, (404, ErrorCode::NotFound), "{path}");
    }
    let nobody = Member { token: "x".repeat(64), ..member.clone() };
    for path in ["/actions", "/actions/1", "/servers/actions", "/servers/1/actions", "/live"] {
        assert_eq!(code(&plane, &nobody, path).await, (401, ErrorCode::Unauthorized), "{path}");
    }
    let many = format!("/actions?{}", "id=1&".repeat(501));
    for path in [
        "/actions?sort=owner",
        "/actions?status=lost",
        "/actions?id=x",
        "/actions?per_page=51",
        many.as_str(),
    ] {
        assert_eq!(code(&plane, &member, path).await, (422, ErrorCode::InvalidInput), "{path}");
    }
}

#[tokio::test]
async fn an_ended_action_stays_as_it_is() {
    let stage = Stage::new().await;
    let member = stage.member().await;
    let action = start(&stage, &member, "start_server", ServerId(1)).await;
    finish(&stage, action.id, Ok(())).await;
    let late = ActionError { code: ErrorCode::Timeout, message: "Too late.".into() };
    finish(&stage, action.id, Err(late)).await;
    let mut conn = stage.db().acquire().await.unwrap();
    actions::queries::progress(&mut conn, action.id, &[], 10, clock::now()).await.unwrap();
    let read = actions::queries::get(&mut conn, member.project, action.id).await.unwrap().unwrap();
    assert_eq!((read.status, read.progress), (ActionStatus::Success, 100));
    let events: i64 = sqlx::query_scalar("select count(*) from outbox").fetch_one(stage.db()).await.unwrap();
    assert_eq!(events, 2, "one for its start, one for its end");
}
