//! Changes of what a server is made of: cut off, repeated and failing anywhere, they are made or taken back.

use std::time::Duration;

use berth_agent::hypervisor::Hypervisor as _;
use berth_model::action::{ActionReply, ActionStatus};
use berth_model::agent::{BootDevice, VmSpec, VmState};
use berth_model::image::{ImageKind, ImageReply, ImageStatus};
use berth_model::network::NetworkReply;
use berth_model::server::{ImageCreated, PasswordReply, Server, ServerCreated, ServerStatus};
use berth_model::{ImageId, NetworkId, ServerId, VmId};
use berth_server::jobs::StepName;
use berth_server::networks::changes::{Aliases, Attach as AttachNetwork, Detach as DetachNetwork};
use berth_server::servers::change::Change;
use berth_server::servers::changes::change_type::ChangeType;
use berth_server::servers::changes::iso::{Attach, Detach};
use berth_server::servers::changes::rebuild::Rebuild;
use berth_server::servers::changes::rescue::{DisableRescue, EnableRescue};
use berth_server::servers::jobs::change::Step;
use berth_server::{clock, entropy, images, isos};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::shop::{End, Shop, mishaps};
use crate::support::{Reply, small_qcow2, until};

/// A change to be tried on a server that is off.
struct Trial {
    /// The action's word.
    command: &'static str,
    /// Everything that may happen to it.
    mishaps: Vec<(String, Option<&'static str>)>,
    /// The verb in the path, and the body.
    asks: (&'static str, Value),
    /// The verb and the body of what is done before.
    after: Option<(&'static str, Value)>,
    /// Is it made, as the machine shows, and as the server shows?
    is_made: fn(&VmSpec, &Server) -> (bool, bool),
    /// What the server does in the end, when it is made.
    ends: ServerStatus,
    /// Nothing is taken back once the node did what it was told.
    is_final: bool,
}

fn trial<C: Change>(verb: &'static str, body: Value, is_made: fn(&VmSpec, &Server) -> (bool, bool)) -> Trial
where
    Step<C>: StepName,
{
    let (command, mishaps) = (C::COMMAND, mishaps::<Step<C>>(C::COMMAND));
    Trial {
        command,
        mishaps,
        asks: (verb, body),
        after: None,
        is_made,
        ends: ServerStatus::Off,
        is_final: false,
    }
}

fn trials() -> Vec<Trial> {
    let size = json!({"server_type": "s2", "upgrade_disk": true});
    let rescue = || json!({"type": "linux64"});
    let iso = || json!({"iso": "tools"});
    let network = || json!({"network": 1});
    let aliases = json!({"network": 1, "alias_ips": ["10.0.0.9"]});
    vec![
        trial::<ChangeType>("change_type", size, |spec, server| {
            (spec.vcpus == 2, server.server_type.name == "s2")
        }),
        Trial {
            ends: ServerStatus::Running,
            // The old disk is gone.
            is_final: true,
            ..trial::<Rebuild>("rebuild", json!({"image": "other"}), |spec, server| {
                let image = server.image.as_ref().and_then(|image| image.name.as_deref());
                (spec.image.sha256 != tiny(), image == Some("other"))
            })
        },
        trial::<EnableRescue>("enable_rescue", rescue(), |spec, server| {
            (spec.rescue.is_some(), server.rescue_enabled)
        }),
        Trial {
            after: Some(("enable_rescue", rescue())),
            ..trial::<DisableRescue>("disable_rescue", json!({}), |spec, server| {
                (spec.rescue.is_none(), !server.rescue_enabled)
            })
        },
        trial::<Attach>("attach_iso", iso(), |spec, server| {
            let first = spec.hardware.boot[0] == BootDevice::Iso;
            (spec.iso.is_some() && first, server.iso.as_ref().is_some_and(|iso| iso.name == "tools"))
        }),
        Trial {
            after: Some(("attach_iso", iso())),
            ..trial::<Detach>("detach_iso", json!({}), |spec, server| {
                (spec.iso.is_none(), server.iso.is_none())
            })
        },
        trial::<AttachNetwork>("attach_to_network", network(), |spec, server| {
            (spec.nics.len() == 2, server.private_net.len() == 1)
        }),
        Trial {
            after: Some(("attach_to_network", network())),
            ..trial::<DetachNetwork>("detach_from_network", network(), |spec, server| {
                (spec.nics.len() == 1, server.private_net.is_empty())
            })
        },
        Trial {
            after: Some(("attach_to_network", network())),
            ..trial::<Aliases>("change_alias_ips", aliases, |spec, server| {
                (spec.nics[1].networks.len() == 1, server.private_net[0].alias_ips.len() == 1)
            })
        },
    ]
}

/// SHA-256 of the catalog's image.
fn tiny() -> String {
    hex::encode(Sha256::digest(small_qcow2()))
}

impl Shop {
    async fn ask(&self, server: ServerId, verb: &str, body: Value) -> Reply {
        self.customer.post(&format!("/v1/servers/{server}/actions/{verb}"), body).await
    }

    /// Offers a rescue system, and an ISO `tools`.
    async fn add_rescue_and_iso(&self) {
        let world = self.berth.world();
        let sha256 = self.add_image("rescue-system").await;
        let mut conn = world.db.acquire().await.unwrap();
        images::queries::put_rescue(&mut conn, (&sha256, 96, 1_048_576)).await.unwrap();
        drop(conn);
        self.put_iso().await;
    }

    /// Offers another file as the ISO `tools`.
    async fn put_iso(&self) {
        let world = self.berth.world();
        let mut content = vec![0; 32_769];
        content.extend(b"CD001");
        content.extend(entropy::bytes::<16>());
        let file = self.berth.folder().join("tools.iso");
        std::fs::write(&file, content).unwrap();
        let words = ("tools", "Tools");
        isos::cli::add(&world.db, &world.config.data_dir, words, &file, clock::now()).await.unwrap();
    }

    /// Makes the first network.
    async fn add_network(&self) {
        let subnet = json!({"type": "cloud", "network_zone": "eu-west", "ip_range": "10.0.0.0/24"});
        let network = json!({"name": "first", "ip_range": "10.0.0.0/16", "subnets": [subnet]});
        let made: NetworkReply = self.customer.post("/v1/networks", network).await.expect(201);
        assert_eq!(made.network.id, NetworkId(1));
    }

    async fn is_settled(&self, id: ServerId, trial: &Trial, made: bool, what: &str) {
        // What was given up is taken back in the background.
        until(&format!("{what}: the machine is as the rows say"), async || {
            let told = "select count(*) from servers where id = $1 and revision = revision_told";
            (self.count(told, id).await == 1).then_some(())
        })
        .await;
        let server = self.server(id).await.unwrap_or_else(|| panic!("{what}: it is gone"));
        let spec = self.node.simulator.get(VmId::from(id)).unwrap().spec.unwrap();
        assert_eq!((trial.is_made)(&spec, &server), (made, made), "{what}: {spec:?}");
        let ends = if made { trial.ends } else { ServerStatus::Off };
        assert_eq!((server.status, server.locked), (ends, false), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_a_change_is_cut_off_repeated_or_fails_it_is_made_or_taken_back() {
    let shop = Shop::open().await;
    shop.add_image("other").await;
    shop.add_rescue_and_iso().await;
    shop.add_network().await;
    for trial in trials() {
        for (place, what) in &trial.mishaps {
            let name = format!("{place}={}", what.unwrap_or("die"));
            let first = shop.worker("");
            let made = shop.order_with(json!({"start_after_create": false})).await;
            shop.succeeds(made.action.id).await;
            if let Some((verb, body)) = &trial.after {
                let begun = shop.ask(made.server.id, verb, body.clone()).await.expect::<ActionReply>(201);
                shop.succeeds(begun.action.id).await;
            }
            first.stop(Duration::from_secs(10)).await;

            let faults: Vec<String> = what.map(|what| format!("{place}={what}")).into_iter().collect();
            let dies_at = what.is_none().then_some(place.as_str());
            let begin = async || {
                let (verb, body) = &trial.asks;
                shop.ask(made.server.id, verb, body.clone()).await.expect::<ActionReply>(201).action
            };
            let (action, worker) = shop.with_mishap(&faults, dies_at, begin).await;
            assert_eq!(action.command, trial.command);
            let wanted = if *what == Some("error") { End::Undone } else { End::Done };
            let ended = shop.ends(action.id).await;
            let status = if wanted == End::Done { ActionStatus::Success } else { ActionStatus::Error };
            assert_eq!(ended.status, status, "{name}: {ended:?}");
            let stays = trial.is_final && place.ends_with(".tell.after_run");
            shop.is_settled(made.server.id, &trial, wanted == End::Done || stays, &name).await;
            let gone = shop.delete(made.server.id).await;
            shop.succeeds(gone.id).await;
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
    assert_eq!(
        (running.status.as_u16(), running.code()),
        (409, "server_not_stopped".to_owned()),
        "{}",
        running.text
    );
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

impl Shop {
    async fn snapshot(&self, server: ServerId) -> ImageCreated {
        let body = json!({"description": "before the upgrade", "labels": {"kept": "yes"}});
        self.ask(server, "create_image", body).await.expect(201)
    }

    async fn image(&self, id: ImageId) -> Option<berth_model::image::Image> {
        let reply = self.customer.get(&format!("/v1/images/{id}")).await;
        (reply.status != 404).then(|| reply.expect::<ImageReply>(200).image)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_a_snapshot_is_cut_off_repeated_or_fails_it_is_there_or_not() {
    let shop = Shop::open().await;
    for (place, what) in mishaps::<images::jobs::create::Step>("create_image") {
        let name = format!("{place}={}", what.unwrap_or("die"));
        let first = shop.worker("");
        let made = shop.order().await;
        shop.succeeds(made.action.id).await;
        first.stop(Duration::from_secs(10)).await;
        let faults: Vec<String> = what.map(|what| format!("{place}={what}")).into_iter().collect();
        let dies_at = what.is_none().then_some(place.as_str());
        let (begun, worker) =
            shop.with_mishap(&faults, dies_at, async || shop.snapshot(made.server.id).await).await;
        assert_eq!((begun.image.kind, begun.image.status), (ImageKind::Snapshot, ImageStatus::Creating));
        let ended = shop.ends(begun.action.id).await;
        let image = shop.image(begun.image.id).await;
        if what == Some("error") {
            assert_eq!((ended.status, image), (ActionStatus::Error, None), "{name}");
        } else {
            assert_eq!(ended.status, ActionStatus::Success, "{name}: {ended:?}");
            let image = image.unwrap_or_else(|| panic!("{name}: it is gone"));
            assert_eq!(
                (image.status, image.labels["kept"].as_str()),
                (ImageStatus::Available, "yes"),
                "{name}"
            );
            assert_eq!(image.created_from.unwrap().name, made.server.name, "{name}");
        }
        let server = shop.server(made.server.id).await.unwrap();
        assert_eq!((server.status, server.locked), (ServerStatus::Running, false), "{name}");
        let gone = shop.delete(made.server.id).await;
        shop.succeeds(gone.id).await;
        worker.stop(Duration::from_secs(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_made_from_a_snapshot_and_its_file_stays_as_long_as_it_is_needed() {
    let shop = Shop::open().await;
    let worker = shop.worker("");
    let made = shop.order().await;
    shop.succeeds(made.action.id).await;
    let snapshot = shop.snapshot(made.server.id).await;
    shop.succeeds(snapshot.action.id).await;
    let id = snapshot.image.id;

    let copy = json!({"image": id});
    let copy: ServerCreated = shop.order_with(copy).await;
    shop.succeeds(copy.action.id).await;
    let vm = shop.node.simulator.get(VmId::from(copy.server.id)).unwrap();
    let file = images::file_path(&shop.berth.world().config.data_dir, &vm.spec.unwrap().image.sha256);
    assert!(file.exists());

    let protect = async |delete: bool| {
        let body = json!({"delete": delete});
        shop.customer
            .post(&format!("/v1/images/{id}/actions/change_protection"), body)
            .await
            .expect::<Value>(201)
    };
    protect(true).await;
    let path = format!("/v1/images/{id}");
    assert_eq!(shop.customer.delete(&path).await.code(), "protected");
    protect(false).await;
    let renamed = json!({"description": "after", "labels": {}});
    assert_eq!(shop.customer.put(&path, renamed).await.expect::<ImageReply>(200).image.description, "after");
    assert_eq!(shop.customer.delete(&path).await.status.as_u16(), 204);
    assert!(shop.customer.get(&path).await.expect::<ImageReply>(200).image.deleted.is_some());
    assert_eq!(shop.customer.delete(&path).await.status.as_u16(), 404);
    assert!(shop.order_refused(json!({"image": id})).await.text.contains("There is no image"));

    // The disk of a server stands on it.
    assert!(file.exists());
    let gone = shop.delete(copy.server.id).await;
    shop.succeeds(gone.id).await;
    until("the file goes with the last that needs it", async || (!file.exists()).then_some(())).await;
    worker.stop(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rescue_system_is_booted_once() {
    let shop = Shop::open().await;
    shop.add_rescue_and_iso().await;
    let worker = shop.worker("");
    let made = shop.order().await;
    shop.succeeds(made.action.id).await;
    let id = made.server.id;
    let rescued = async || {
        let vm = shop.node.simulator.get(VmId::from(id)).unwrap();
        (vm.state, vm.spec.unwrap().rescue.is_some(), vm.pending.contains(&"rescue".to_owned()))
    };
    let enabled = shop.ask(id, "enable_rescue", json!({})).await.expect::<PasswordReply>(201);
    assert_eq!(enabled.root_password.unwrap().len(), 20);
    shop.succeeds(enabled.action.id).await;
    assert!(shop.server(id).await.unwrap().rescue_enabled);
    assert_eq!(rescued().await, (VmState::Running, true, true), "it waits for the next start");
    assert_eq!(shop.ask(id, "enable_rescue", json!({})).await.code(), "unsupported_error");

    // It runs the rescue system, and the next start is its own again.
    let reset = shop.tell(id, "reset").await;
    shop.succeeds(reset.id).await;
    until("the next start is its own", async || {
        let is_off = !shop.server(id).await.unwrap().rescue_enabled;
        (is_off && rescued().await == (VmState::Running, false, true)).then_some(())
    })
    .await;
    let reset = shop.tell(id, "reset").await;
    shop.succeeds(reset.id).await;
    assert_eq!(rescued().await, (VmState::Running, false, false));
    worker.stop(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drive_keeps_the_file_that_it_was_given() {
    let shop = Shop::open().await;
    shop.put_iso().await;
    let worker = shop.worker("");
    let made = shop.order().await;
    shop.succeeds(made.action.id).await;
    let id = made.server.id;
    let succeeds = async |verb: &str, body: Value| {
        let action = shop.ask(id, verb, body).await.expect::<ActionReply>(201).action;
        shop.succeeds(action.id).await;
    };
    let drive = || shop.node.simulator.get(VmId::from(id)).unwrap().spec.unwrap().iso;
    succeeds("attach_iso", json!({"iso": "tools"})).await;
    let first = drive().expect("an ISO");

    // The operator offers another file under the name, which is not on the node.
    shop.put_iso().await;
    shop.add_network().await;
    succeeds("attach_to_network", json!({"network": 1})).await;
    assert_eq!(drive().as_ref(), Some(&first), "the machine was told anew, and has what it was given");
    assert_eq!(shop.server(id).await.unwrap().iso.map(|iso| iso.name).as_deref(), Some("tools"));

    succeeds("attach_iso", json!({"iso": "tools"})).await;
    assert_ne!(drive().expect("an ISO"), first, "put in again, it is the other one");
    succeeds("detach_iso", json!({})).await;
    assert_eq!(drive(), None);
    worker.stop(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_cannot_become_is_refused_with_the_reason() {
    let shop = Shop::open().await;
    let worker = shop.worker("");
    let made = shop.order().await;
    shop.succeeds(made.action.id).await;
    let id = made.server.id;
    for (verb, body, code, sentence) in [
        ("rebuild", json!({"image": "none"}), "invalid_input", "There is no image “none”"),
        ("rebuild", json!({"image": "tiny", "user_data": "\u{0}"}), "invalid_input", "NUL"),
        ("create_image", json!({"type": "app"}), "invalid_input", "“snapshot” or “backup”"),
        ("create_image", json!({"type": "backup"}), "unsupported_error", "Turn backups on first"),
        ("create_image", json!({"description": ""}), "invalid_input", "description"),
        ("enable_rescue", json!({"type": "freebsd64"}), "invalid_input", "linux64"),
        ("enable_rescue", json!({"ssh_keys": ["none"]}), "invalid_input", "There is no SSH key"),
        ("enable_rescue", json!({}), "resource_unavailable", "no rescue system"),
        ("disable_rescue", json!({}), "unsupported_error", "own system"),
        ("attach_iso", json!({"iso": "none"}), "invalid_input", "There is no ISO “none”"),
        ("detach_iso", json!({}), "unsupported_error", "no ISO"),
    ] {
        let reply = shop.ask(id, verb, body.clone()).await;
        assert_eq!(reply.code(), code, "{verb} {body}: {}", reply.text);
        assert!(reply.text.contains(sentence), "{verb} {body}: {}", reply.text);
    }
    let server = shop.server(id).await.unwrap();
    assert_eq!((server.status, server.locked), (ServerStatus::Running, false));
    let protect = shop.ask(id, "change_protection", json!({"delete": true, "rebuild": true})).await;
    protect.expect::<ActionReply>(201);
    assert_eq!(shop.ask(id, "rebuild", json!({"image": "tiny"})).await.code(), "protected");
    // A system image is everybody's, and nobody's to change.
    let image = shop.server(id).await.unwrap().image.unwrap().id;
    assert_eq!(shop.customer.delete(&format!("/v1/images/{image}")).await.code(), "forbidden");
    worker.stop(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_set_in_a_running_system_and_told_once() {
    let shop = Shop::open().await;
    let worker = shop.worker("");
    let made = shop.order().await;
    shop.succeeds(made.action.id).await;
    let id = made.server.id;
    let reset = shop.ask(id, "reset_password", json!({})).await.expect::<PasswordReply>(201);
    let password = reset.root_password.unwrap();
    shop.succeeds(reset.action.id).await;
    let job = "select data::text from jobs where kind = 'reset_password'";
    let kept: String = sqlx::query_scalar(job).fetch_one(&shop.berth.world().db).await.unwrap();
    assert!(kept.contains("$6$") && !kept.contains(&password));
    let off = shop.tell(id, "poweroff").await;
    shop.succeeds(off.id).await;
    assert_eq!(shop.ask(id, "reset_password", json!({})).await.code(), "unsupported_error");
    worker.stop(Duration::from_secs(10)).await;
}
