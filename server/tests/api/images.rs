//! Images through HTTP, and how the operator adds one.

use std::time::Duration;

use berth_model::image::{ImageKind, ImageList, ImageReply};
use berth_model::server::ImageCreated;
use berth_server::clock;
use berth_server::images::{self, cli};
use serde_json::json;

use crate::shop::Shop;
use crate::support::{Berth, until};

#[tokio::test]
async fn an_image_that_was_added_is_offered_and_replaced_under_its_name() {
    let berth = Berth::without_workers().await;
    let customer = berth.customer().await;
    let (db, data_dir) = (&berth.world().db, &berth.world().config.data_dir);
    let make = |name: &str, size: &str| {
        let file = berth.folder().join(name);
        let made = std::process::Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2"])
            .arg(&file)
            .arg(size)
            .status();
        assert!(made.unwrap().success());
        file
    };
    let (small, large) = (make("small.qcow2", "64M"), make("large.qcow2", "2G"));
    let add =
        |file| cli::Add { name: "tiny", description: "Tiny", os_flavor: "tiny", os_version: Some("1"), file };
    let id = cli::add(db, data_dir, &add(&small), clock::now()).await.unwrap();
    assert_eq!(cli::add(db, data_dir, &add(&small), clock::now()).await.unwrap(), id);
    let reply: ImageReply = customer.get(&format!("/v1/images/{id}")).await.expect(200);
    assert_eq!((reply.image.kind, reply.image.disk_size), (ImageKind::System, 0.063));
    let sha256 =
        async || -> String { sqlx::query_scalar("select sha256 from images").fetch_one(db).await.unwrap() };
    let before = sha256().await;
    assert!(images::file_path(data_dir, &before).exists());

    assert_eq!(cli::add(db, data_dir, &add(&large), clock::now()).await.unwrap(), id);
    assert_eq!(
        customer.get(&format!("/v1/images/{id}")).await.expect::<ImageReply>(200).image.disk_size,
        2.0
    );
    assert_ne!(sha256().await, before);
    assert!(images::file_path(data_dir, &before).exists(), "disks stand on it");

    let wrong_name = cli::Add { name: "12", ..add(&small) };
    assert!(cli::add(db, data_dir, &wrong_name, clock::now()).await.is_err());
}

#[tokio::test]
async fn images_are_filtered_and_those_of_others_do_not_exist() {
    let berth = Berth::without_workers().await;
    berth.catalog().await;
    let (customer, other) = (berth.customer().await, berth.other_customer().await);
    sqlx::query(
        "insert into images (kind, status, project_id, name, description, sha256, file_bytes, disk_bytes, os_flavor,
                             created, deprecated)
         values ('snapshot', 'available', $1, null, 'Mine', repeat('b', 64), 1, 1, 'x', now(), null),
                ('system', 'unavailable', null, 'lost', 'Lost', repeat('b', 64), 1, 1, 'x', now(), null),
                ('system', 'available', null, 'aged', 'Aged', repeat('b', 64), 1, 1, 'x', now(), now())",
    )
    .bind(customer.project())
    .execute(&berth.world().db)
    .await
    .unwrap();
    for (query, wanted) in [
        ("", vec!["Tiny", "Mine", "Lost"]),
        ("?type=system", vec!["Tiny", "Lost"]),
        ("?type=snapshot&type=backup", vec!["Mine"]),
        ("?status=available", vec!["Tiny", "Mine"]),
        ("?name=tiny", vec!["Tiny"]),
        ("?name=none", vec![]),
        ("?architecture=x86&name=tiny", vec!["Tiny"]),
        ("?architecture=arm", vec![]),
        ("?bound_to=1", vec![]),
        ("?include_deprecated=true", vec!["Tiny", "Mine", "Lost", "Aged"]),
        ("?sort=created:desc&sort=name&per_page=1", vec!["Lost"]),
    ] {
        let list: ImageList = customer.get(&format!("/v1/images{query}")).await.expect(200);
        let shown: Vec<_> = list.images.iter().map(|image| image.description.as_str()).collect();
        assert_eq!(shown, wanted, "{query}");
    }
    let mine: ImageList = customer.get("/v1/images?type=snapshot").await.expect(200);
    assert_eq!(other.get(&format!("/v1/images/{}", mine.images[0].id)).await.code(), "not_found");
    assert!(other.get("/v1/images?type=snapshot").await.expect::<ImageList>(200).images.is_empty());
    customer.get("/v1/images?type=cake").await.refuses("type[0]");
    customer.get("/v1/images?sort=size").await.refuses("sort");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_of_a_deleted_image_goes_from_all_nodes_also_from_one_that_was_away() {
    let mut shop = Shop::open().await;
    let second = shop.berth.node("node-2").await;
    let worker = shop.worker("");
    let made = shop.order().await;
    shop.succeeds(made.action.id).await;
    let path = format!("/v1/servers/{}/actions/create_image", made.server.id);
    let snapshot: ImageCreated = shop.customer.post(&path, json!({})).await.expect(201);
    shop.succeeds(snapshot.action.id).await;
    let world = shop.berth.world().clone();
    let sha256: String = sqlx::query_scalar("select sha256 from images where id = $1")
        .bind(snapshot.image.id)
        .fetch_one(&world.db)
        .await
        .unwrap();
    let file = images::file_path(&world.config.data_dir, &sha256);
    for node in [shop.node.id, second.id] {
        world.agents.node(node).put_image(&sha256, &file).await.unwrap();
    }
    let has = async |node| {
        let images = world.agents.node(node).images().await.unwrap_or_default();
        images.iter().any(|image| image.sha256 == sha256)
    };
    assert!(has(shop.node.id).await && has(second.id).await);

    shop.node.stop().await;
    let deleted = shop.customer.delete(&format!("/v1/images/{}", snapshot.image.id)).await;
    assert_eq!(deleted.status.as_u16(), 204);
    until("the node that is there has lost it", async || (!has(second.id).await).then_some(())).await;
    shop.node.start().await;
    until("the other has lost it, too", async || {
        let now = "update jobs set run_at = now()
                   where kind = 'remove_image_file' and finished is null and lease_owner is null";
        sqlx::query(now).execute(&world.db).await.unwrap();
        let left: i64 = sqlx::query_scalar(
            "select count(*) from jobs where kind = 'remove_image_file' and state <> 'done'",
        )
        .fetch_one(&world.db)
        .await
        .unwrap();
        (left == 0).then_some(())
    })
    .await;
    assert!(!has(shop.node.id).await && !file.exists());
    worker.stop(Duration::from_secs(10)).await;
}
