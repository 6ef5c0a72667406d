//! SSH keys through HTTP.

use berth_model::ssh_key::{SshKeyList, SshKeyReply};
use serde_json::json;

use crate::support::Berth;

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";
const OTHER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPpC8oRJC3vcqS2aZ4BnZcCjJKOFP7Y0eqeFJRsXyLZ7";

#[tokio::test]
async fn a_key_is_added_found_changed_and_deleted() {
    let berth = Berth::without_workers().await;
    let customer = berth.customer().await;
    let body = json!({"name": " home ", "public_key": format!("{KEY} me@home\n"), "labels": {"a": "b"}});
    let made: SshKeyReply = customer.post("/v1/ssh_keys", body).await.expect(201);
    let key = made.ssh_key;
    assert_eq!((key.name.as_str(), key.public_key.as_str()), ("home", format!("{KEY} me@home").as_str()));
    assert_eq!(key.fingerprint, "65:96:2d:fc:e8:d5:a9:11:64:0c:0f:ea:00:6e:5b:bd");
    let path = format!("/v1/ssh_keys/{}", key.id);
    for query in [
        "",
        "?name=home",
        "?fingerprint=65:96:2d:fc:e8:d5:a9:11:64:0c:0f:ea:00:6e:5b:bd",
        "?label_selector=a",
    ] {
        let list: SshKeyList = customer.get(&format!("/v1/ssh_keys{query}")).await.expect(200);
        assert_eq!((list.ssh_keys.len(), list.meta.pagination.total_entries), (1, 1), "{query}");
    }
    for query in ["?name=hom", "?fingerprint=65", "?label_selector=!a", "?page=2"] {
        let list: SshKeyList = customer.get(&format!("/v1/ssh_keys{query}")).await.expect(200);
        assert!(list.ssh_keys.is_empty(), "{query}");
    }
    let changed: SshKeyReply = customer.put(&path, json!({"name": "work"})).await.expect(200);
    assert_eq!((changed.ssh_key.name.as_str(), changed.ssh_key.labels.len()), ("work", 1));
    assert_eq!(customer.get(&path).await.expect::<SshKeyReply>(200), changed);

    let other = berth.other_customer().await;
    for reply in
        [other.get(&path).await, other.put(&path, json!({"name": ""})).await, other.delete(&path).await]
    {
        assert_eq!(reply.code(), "not_found");
    }
    assert_eq!(customer.delete(&path).await.status, 204);
    assert_eq!(customer.delete(&path).await.code(), "not_found");
}

#[tokio::test]
async fn a_name_and_a_key_stand_once_in_a_project() {
    let berth = Berth::without_workers().await;
    let customer = berth.customer().await;
    customer
        .post("/v1/ssh_keys", json!({"name": "home", "public_key": KEY}))
        .await
        .expect::<SshKeyReply>(201);
    let same_name = customer.post("/v1/ssh_keys", json!({"name": "home", "public_key": OTHER})).await;
    assert_eq!((same_name.status.as_u16(), same_name.code().as_str()), (409, "uniqueness_error"));
    assert!(same_name.error().for_field("name").is_some());
    let same_key = customer
        .post("/v1/ssh_keys", json!({"name": "b", "public_key": format!("{KEY} other comment")}))
        .await;
    assert_eq!(same_key.code(), "uniqueness_error");
    assert!(same_key.error().for_field("public_key").is_some());
    let second: SshKeyReply =
        customer.post("/v1/ssh_keys", json!({"name": "b", "public_key": OTHER})).await.expect(201);
    let renamed = customer.put(&format!("/v1/ssh_keys/{}", second.ssh_key.id), json!({"name": "home"})).await;
    assert_eq!(renamed.code(), "uniqueness_error");
    // In another project both are free.
    let other = berth.other_customer().await;
    other.post("/v1/ssh_keys", json!({"name": "home", "public_key": KEY})).await.expect::<SshKeyReply>(201);
}

#[tokio::test]
async fn wrong_keys_are_refused_by_field() {
    let berth = Berth::without_workers().await;
    let customer = berth.customer().await;
    for (body, field) in [
        (json!({"public_key": KEY}), "name"),
        (json!({"name": "", "public_key": KEY}), "name"),
        (json!({"name": "a".repeat(101), "public_key": KEY}), "name"),
        (json!({"name": "a\nb", "public_key": KEY}), "name"),
        (json!({"name": "a"}), "public_key"),
        (json!({"name": "a", "public_key": 5}), "public_key"),
        (json!({"name": "a", "public_key": "hello"}), "public_key"),
        (json!({"name": "a", "public_key": format!("{KEY}\n{OTHER}")}), "public_key"),
        (json!({"name": "a", "public_key": format!("no-pty {KEY}")}), "public_key"),
        (json!({"name": "a", "public_key": KEY, "labels": {"a": "b c"}}), "labels.a"),
        (json!({"name": "a", "public_key": KEY, "fingerprint": "x"}), "fingerprint"),
    ] {
        customer.post("/v1/ssh_keys", body).await.refuses(field);
    }
    let all = customer.post("/v1/ssh_keys", json!({"name": "", "public_key": ""})).await.error();
    assert!(all.for_field("name").is_some() && all.for_field("public_key").is_some());
}
