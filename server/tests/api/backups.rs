//! Backups: once a day in the window, the newest seven kept, and gone with their server.

use std::time::Duration;

use berth_model::action::{ActionReply, ActionStatus};
use berth_model::image::{Image, ImageKind, ImageList, ImageReply, ImageStatus};
use berth_model::server::ImageCreated;
use berth_model::{ServerId, Timestamp};
use berth_server::backups::{KEPT, begin_due};
use berth_server::jobs::{Queue, Settings};
use berth_server::{clock, images};
use serde_json::{Value, json};

use crate::shop::{Shop, mishaps};
use crate::support::{Reply, until};

const DAY_S: i64 = 24 * 3600;

impl Shop {
    async fn act(&self, server: ServerId, verb: &str, body: Value) -> Reply {
        self.customer.post(&format!("/v1/servers/{server}/actions/{verb}"), body).await
    }

    async fn running_with_backups(&self) -> ServerId {
        let made = self.order().await;
        self.succeeds(made.action.id).await;
        let action =
            self.act(made.server.id, "enable_backup", json!({})).await.expect::<ActionReply>(201).action;
        assert_eq!((action.command.as_str(), action.status), ("enable_backup", ActionStatus::Success));
        made.server.id
    }

    async fn due(&self, server: ServerId) -> Timestamp {
        sqlx::query_scalar("select due from backup_plans where server_id = $1")
            .bind(server)
            .fetch_one(&self.berth.world().db)
            .await
            .unwrap()
    }

    async fn begin_due(&self, now: Timestamp) -> usize {
        begin_due(&self.berth.world().db, now, 100).await.unwrap()
    }

    /// Its backups, the newest first, once nothing holds the server.
    async fn backups(&self, server: ServerId) -> Vec<Image> {
        until("nothing holds the server", async || (!self.server(server).await?.locked).then_some(())).await;
        let path = format!("/v1/images?type=backup&bound_to={server}&sort=created:desc");
        self.customer.get(&path).await.expect::<ImageList>(200).images
    }

    /// The file of an image.
    async fn file_of(&self, image: &Image) -> std::path::PathBuf {
        let sha256: String = sqlx::query_scalar("select sha256 from images where id = $1")
            .bind(image.id)
            .fetch_one(&self.berth.world().db)
            .await
            .unwrap();
        images::file_path(&self.berth.world().config.data_dir, &sha256)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_backed_up_once_a_day_and_the_newest_seven_are_kept() {
    let shop = Shop::open().await;
    let worker = shop.worker("");
    let server = shop.running_with_backups().await;
    let window = shop.server(server).await.unwrap().backup_window.expect("a window");
    assert!(["22-02", "02-06", "06-10", "10-14", "14-18", "18-22"].contains(&window.as_str()), "{window}");
    let first = shop.due(server).await;
    let now = clock::now();
    assert!(first > now && first <= now.plus_seconds(DAY_S), "{first}");
    assert_eq!(shop.begin_due(first.plus_seconds(-1)).await, 0, "not yet");

    let mut ids = Vec::new();
    for day in 0..KEPT + 2 {
        let due = shop.due(server).await;
        assert_eq!(due, first.plus_seconds(day * DAY_S), "each day at its time");
        // All control planes look at once: one begins it.
        let looks = futures_util::future::join_all((0..4).map(|_| shop.begin_due(due))).await;
        assert_eq!(looks.iter().sum::<usize>(), 1);
        let backups = shop.backups(server).await;
        assert_eq!(backups.len() as i64, KEPT.min(day + 1), "on day {day}");
        let newest = &backups[0];
        assert_eq!((newest.kind, newest.status), (ImageKind::Backup, ImageStatus::Available));
        assert_eq!((newest.bound_to, newest.created_from.as_ref().unwrap().id), (Some(server.0), server.0));
        ids.push(newest.id);
    }
    let kept: Vec<_> = shop.backups(server).await.iter().map(|image| image.id).collect();
    assert_eq!(kept, ids.iter().rev().take(KEPT as usize).copied().collect::<Vec<_>>());
    worker.stop(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_could_not_begin_in_time_is_begun_later_and_only_once() {
    let shop = Shop::open().await;
    let worker = shop.worker("");
    let server = shop.running_with_backups().await;
    let due = shop.due(server).await;
    worker.stop(Duration::from_secs(10)).await;
    // Something holds it when its time comes.
    let held = shop.tell(server, "reboot").await;
    assert_eq!(shop.begin_due(due).await, 0);
    assert_eq!(shop.due(server).await, due, "it is due still");
    let worker = shop.worker("");
    shop.succeeds(held.id).await;
    // No control plane looked for three days: there is one backup, not three.
    let late = due.plus_seconds(3 * DAY_S + 5);
    assert_eq!(shop.begin_due(late).await, 1);
    assert_eq!(shop.begin_due(late).await, 0);
    assert_eq!(shop.due(server).await, due.plus_seconds(4 * DAY_S));
    assert_eq!(shop.backups(server).await.len(), 1);
    worker.stop(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_a_backup_is_cut_off_repeated_or_fails_there_is_one_or_none() {
    let shop = Shop::open().await;
    for (place, what) in mishaps::<images::jobs::create::Step>("create_image") {
        let name = format!("{place}={}", what.unwrap_or("die"));
        let first = shop.worker("");
        let server = shop.running_with_backups().await;
        first.stop(Duration::from_secs(10)).await;
        let due = shop.due(server).await;
        let faults: Vec<String> = what.map(|what| format!("{place}={what}")).into_iter().collect();
        let dies_at = what.is_none().then_some(place.as_str());
        let (begun, worker) = shop.with_mishap(&faults, dies_at, async || shop.begin_due(due).await).await;
        assert_eq!(begun, 1, "{name}");
        let backups = shop.backups(server).await.len();
        assert_eq!(backups, usize::from(what != Some("error")), "{name}");
        assert_eq!(shop.begin_due(due).await, 0, "{name}");
        let gone = shop.delete(server).await;
        shop.succeeds(gone.id).await;
        worker.stop(Duration::from_secs(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_begins_and_holds_its_server_only_when_a_place_is_free() {
    let shop = Shop::open().await;
    let first = shop.worker("");
    let servers = [shop.running_with_backups().await, shop.running_with_backups().await];
    first.stop(Duration::from_secs(10)).await;
    let marker = shop.berth.folder().join("writes");
    let faults = format!("create_image.write.before=pause:{}", marker.display());
    let settings = Settings { background: 1, faults: faults.parse().unwrap(), ..Settings::default() };
    let worker = shop.worker_with(settings.clone());
    let places = worker.places(Queue::Backup, &settings);
    let db = &shop.berth.world().db;
    let begin = async || {
        let free = places.free(&mut db.acquire().await.unwrap()).await.unwrap();
        (free, begin_due(db, clock::now().plus_seconds(2 * DAY_S), free).await.unwrap())
    };
    assert_eq!(begin().await, (1, 1), "there is one place");
    until("it is under way", async || marker.exists().then_some(())).await;
    assert_eq!(begin().await, (0, 0));
    let held = async || {
        let held = futures_util::future::join_all(servers.map(|id| shop.server(id))).await;
        held.into_iter().filter(|server| server.as_ref().unwrap().locked).count()
    };
    assert_eq!(held().await, 1, "the other is not held");
    // What others wait for goes on beside it.
    let other = if shop.server(servers[0]).await.unwrap().locked { servers[1] } else { servers[0] };
    let snapshot: ImageCreated = shop.act(other, "create_image", json!({})).await.expect(201);
    shop.succeeds(snapshot.action.id).await;
    std::fs::remove_file(&marker).unwrap();
    until("nothing is held", async || (held().await == 0).then_some(())).await;
    until("the place is free again", async || {
        (places.free(&mut db.acquire().await.unwrap()).await.unwrap() == 1).then_some(())
    })
    .await;
    worker.stop(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_be_backed_up_holds_up_no_other() {
    let shop = Shop::open().await;
    let worker = shop.worker("");
    let (broken, well) = (shop.running_with_backups().await, shop.running_with_backups().await);
    let db = &shop.berth.world().db;
    let due = clock::now().plus_seconds(2 * DAY_S);
    for (server, due) in [(broken, due.plus_seconds(-10)), (well, due)] {
        let set = sqlx::query("update backup_plans set due = $2 where server_id = $1").bind(server).bind(due);
        set.execute(db).await.unwrap();
    }
    sqlx::query("update servers set node_id = null where id = $1").bind(broken).execute(db).await.unwrap();
    assert_eq!(shop.begin_due(due).await, 1, "the one that is well");
    assert_eq!(shop.backups(well).await.len(), 1);
    assert_eq!(shop.due(broken).await, due.plus_seconds(-10), "it is due still");
    let heal = sqlx::query("update servers set node_id = $2 where id = $1").bind(broken).bind(shop.node.id);
    heal.execute(db).await.unwrap();
    assert_eq!(shop.begin_due(due).await, 0, "not at once");
    assert_eq!(shop.begin_due(due.plus_seconds(61)).await, 1, "but in a minute");
    assert_eq!(shop.backups(broken).await.len(), 1);
    worker.stop(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_go_with_their_server_unless_they_are_made_snapshots() {
    let shop = Shop::open().await;
    let worker = shop.worker("");
    let server = shop.running_with_backups().await;
    let taken = async || -> Image {
        let body = json!({"type": "backup", "labels": {"by": "hand"}});
        let made: ImageCreated = shop.act(server, "create_image", body).await.expect(201);
        assert_eq!(made.image.bound_to, Some(server.0));
        shop.succeeds(made.action.id).await;
        made.image
    };
    let (first, second) = (taken().await, taken().await);
    let path = format!("/v1/images/{}", first.id);
    let protect =
        shop.customer.post(&format!("{path}/actions/change_protection"), json!({"delete": true})).await;
    assert_eq!(protect.code(), "unsupported_error", "a backup goes with its server");
    let kept: ImageReply = shop.customer.put(&path, json!({"type": "snapshot"})).await.expect(200);
    assert_eq!((kept.image.kind, kept.image.bound_to), (ImageKind::Snapshot, None));
    shop.customer.put(&path, json!({"type": "backup"})).await.refuses("type");
    let limits = shop.customer.get("/v1/limits").await.text;
    let used = "select used from usage where project_id = $1 and kind = 'snapshots'";
    let used: i64 = sqlx::query_scalar(used)
        .bind(shop.customer.project())
        .fetch_one(&shop.berth.world().db)
        .await
        .unwrap();
    assert_eq!(used, 1, "it counts as one now: {limits}");

    // A server is made anew from a backup.
    let rebuilt = shop.act(server, "rebuild", json!({"image": second.id})).await.expect::<ActionReply>(201);
    shop.succeeds(rebuilt.action.id).await;
    assert_eq!(shop.server(server).await.unwrap().image.unwrap().id, second.id);

    let (first_file, second_file) = (shop.file_of(&first).await, shop.file_of(&second).await);
    let gone = shop.delete(server).await;
    shop.succeeds(gone.id).await;
    let left: ImageList = shop.customer.get("/v1/images?type=snapshot&type=backup").await.expect(200);
    assert_eq!(left.images.iter().map(|image| image.id).collect::<Vec<_>>(), [first.id]);
    if first_file != second_file {
        until("its file goes", async || (!second_file.exists()).then_some(())).await;
    }
    assert!(first_file.exists());
    worker.stop(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_plan_there_are_no_backups() {
    let shop = Shop::open().await;
    let worker = shop.worker("");
    let server = shop.running_with_backups().await;
    let first = shop.due(server).await;
    shop.act(server, "enable_backup", json!({})).await.expect::<ActionReply>(201);
    assert_eq!(shop.due(server).await, first, "once more is fine");
    assert_eq!(shop.begin_due(first).await, 1);
    assert_eq!(shop.backups(server).await.len(), 1);
    for _ in 0..2 {
        shop.act(server, "disable_backup", json!({})).await.expect::<ActionReply>(201);
        assert_eq!(shop.server(server).await.unwrap().backup_window, None);
        assert!(shop.backups(server).await.is_empty(), "they go with the plan");
    }
    assert_eq!(shop.begin_due(first.plus_seconds(2 * DAY_S)).await, 0);
    let refused = shop.act(server, "create_image", json!({"type": "backup"})).await;
    assert_eq!(refused.code(), "unsupported_error");
    assert!(refused.text.contains("Turn backups on first"), "{}", refused.text);
    worker.stop(Duration::from_secs(10)).await;
}
