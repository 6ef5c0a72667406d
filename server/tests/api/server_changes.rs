//! Changes of what a server is made of: cut off, repeated and failing anywhere, they are made or taken back.

use std::time::Duration;

use berth_agent::hypervisor::Hypervisor as _;
use berth_model::action::{ActionReply, ActionStatus};
use berth_model::agent::VmSpec;
use berth_model::server::{Server, ServerStatus};
use berth_model::{ServerId, VmId};
use berth_server::jobs::StepName;
use berth_server::servers::changes::change_type::ChangeType;
use berth_server::servers::jobs::change::Step;
use serde_json::{Value, json};

use crate::shop::{End, Shop, mishaps};
use crate::support::until;

/// A change to be tried.
struct Trial {
    /// The action's word.
    command: &'static str,
    mishaps: Vec<(String, Option<&'static str>)>,
    /// Asks for it, of a server that is off.
    path: fn(ServerId) -> String,
    body: Value,
    /// Is it made, as the machine and as the server show?
    is_made: fn(&VmSpec, &Server) -> bool,
}

fn trials() -> Vec<Trial> {
    fn of<C: berth_server::servers::change::Change>() -> (&'static str, Vec<(String, Option<&'static str>)>)
    where
        Step<C>: StepName,
    {
        (C::COMMAND, mishaps::<Step<C>>(C::COMMAND))
    }
    let (command, places) = of::<ChangeType>();
    vec![Trial {
        command,
        mishaps: places,
        path: |id| format!("/v1/servers/{id}/actions/change_type"),
        body: json!({"server_type": "s2", "upgrade_disk": true}),
        is_made: |spec, server| {
            let (vm, row) = (spec.vcpus == 2, server.server_type.name == "s2");
            assert_eq!(vm, row, "{spec:?} {:?}", server.server_type);
            vm
        },
    }]
}

impl Shop {
    async fn is_settled(&self, id: ServerId, trial: &Trial, wanted: End, what: &str) {
        let made = wanted == End::Done;
        // What was given up is taken back in the background.
        until(&format!("{what}: the machine is as the rows say"), async || {
            let told = "select count(*) from servers where id = $1 and revision = revision_told";
            (self.count(told, id).await == 1).then_some(())
        })
        .await;
        let server = self.server(id).await.unwrap_or_else(|| panic!("{what}: it is gone"));
        assert_eq!((server.status, server.locked), (ServerStatus::Off, false), "{what}");
        let spec = self.node.simulator.get(VmId::from(id)).unwrap().spec.unwrap();
        assert_eq!((trial.is_made)(&spec, &server), made, "{what}: {spec:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_a_change_is_cut_off_repeated_or_fails_it_is_made_or_taken_back() {
    let shop = Shop::open().await;
    for trial in trials() {
        for (place, what) in &trial.mishaps {
            let name = format!("{place}={}", what.unwrap_or("die"));
            let first = shop.worker("");
            let made = shop.order_with(json!({"start_after_create": false})).await;
            shop.succeeds(made.action.id).await;
            first.stop(Duration::from_secs(10)).await;

            let faults: Vec<String> = what.map(|what| format!("{place}={what}")).into_iter().collect();
            let dies_at = what.is_none().then_some(place.as_str());
            let begin = async || {
                let reply = shop.customer.post(&(trial.path)(made.server.id), trial.body.clone()).await;
                reply.expect::<ActionReply>(201).action
            };
            let (action, worker) = shop.with_mishap(&faults, dies_at, begin).await;
            assert_eq!(action.command, trial.command);
            let wanted = if *what == Some("error") { End::Undone } else { End::Done };
            let ended = shop.ends(action.id).await;
            let status = if wanted == End::Done { ActionStatus::Success } else { ActionStatus::Error };
            assert_eq!(ended.status, status, "{name}: {ended:?}");
            shop.is_settled(made.server.id, &trial, wanted, &name).await;
            worker.stop(Duration::from_secs(10)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_is_changed_only_where_it_can_be() {
    let shop = Shop::open().await;
    let worker = shop.worker("");
    let made = shop.order().await;
    shop.succeeds(made.action.id).await;
    let path = format!("/v1/servers/{}/actions/change_type", made.server.id);
    let ask = async |server_type: &str, upgrade_disk: bool| {
        let body = json!({"server_type": server_type, "upgrade_disk": upgrade_disk});
        shop.customer.post(&path, body).await
    };
    let running = ask("s2", false).await;
    assert_eq!((running.status.as_u16(), running.code()), (409, "conflict".to_owned()), "{}", running.text);
    let off = shop.tell(made.server.id, "poweroff").await;
    shop.succeeds(off.id).await;
    for (wrong, sentence) in
        [("s1", "has the type s1 already"), ("s9", "There is no server type “s9”"), ("giant", "has no room")]
    {
        let reply = ask(wrong, false).await;
        assert_eq!(reply.status.as_u16(), 422, "{}", reply.text);
        assert!(reply.text.contains(sentence), "{}", reply.text);
    }
    let bigger = ask("s2", true).await.expect::<ActionReply>(201).action;
    shop.succeeds(bigger.id).await;
    let back = ask("s1", false).await;
    assert!(back.text.contains("cannot shrink"), "{}", back.text);
    worker.stop(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_protected_server_is_not_deleted() {
    let shop = Shop::open().await;
    let worker = shop.worker("");
    let made = shop.order().await;
    shop.succeeds(made.action.id).await;
    let path = format!("/v1/servers/{}/actions/change_protection", made.server.id);
    let protect = async |on: bool| {
        let body = json!({"delete": on, "rebuild": on});
        shop.customer.post(&path, body).await.expect::<ActionReply>(201).action
    };
    let action = protect(true).await;
    assert_eq!((action.status, action.progress), (ActionStatus::Success, 100));
    let server = shop.server(made.server.id).await.unwrap();
    assert!(server.protection.delete && server.protection.rebuild);
    let refused = shop.customer.delete(&format!("/v1/servers/{}", made.server.id)).await;
    assert_eq!(refused.code(), "protected");
    protect(false).await;
    shop.delete(made.server.id).await;
    worker.stop(Duration::from_secs(10)).await;
}
