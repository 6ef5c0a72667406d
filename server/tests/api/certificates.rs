//! Certificates through HTTP.

use berth_model::certificate::{CertificateCreated, CertificateList, CertificateReply, CertificateType};
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};

use crate::support::Berth;

/// A certificate of `example.org` and its key, PEM.
pub fn certificate_pair() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let params =
        CertificateParams::new(vec!["example.org".to_owned(), "www.example.org".to_owned()]).unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

#[tokio::test]
async fn a_certificate_is_uploaded_found_changed_and_deleted_and_its_key_is_told_to_nobody() {
    let berth = Berth::without_workers().await;
    let customer = berth.customer().await;
    let (pem, key) = certificate_pair();
    let order = json!({"name": " web ", "type": "uploaded", "certificate": pem, "private_key": key,
                       "labels": {"a": "b"}});
    let reply = customer.post("/v1/certificates", order).await;
    assert!(!reply.text.contains("PRIVATE KEY"));
    let made: CertificateCreated = reply.expect(201);
    let shown = made.certificate;
    assert_eq!((made.action, shown.name.as_str(), shown.kind), (None, "web", CertificateType::Uploaded));
    assert_eq!((shown.certificate.as_str(), shown.domain_names.len()), (pem.trim(), 2));
    let path = format!("/v1/certificates/{}", shown.id);
    for (query, found) in [
        ("", 1),
        ("?name=web", 1),
        ("?type=uploaded", 1),
        ("?label_selector=a", 1),
        ("?sort=created:desc", 1),
        ("?type=managed", 0),
        ("?label_selector=!a", 0),
    ] {
        let list: CertificateList = customer.get(&format!("/v1/certificates{query}")).await.expect(200);
        assert_eq!(list.certificates.len(), found, "{query}");
    }
    let db = &berth.world().db;
    let sealed: Vec<u8> =
        sqlx::query_scalar("select key_sealed from certificates").fetch_one(db).await.unwrap();
    let opened = berth.world().secret_key.open(berth_server::certificates::PURPOSE, &sealed).unwrap();
    assert_eq!(opened, key.trim().as_bytes());
    assert!(!String::from_utf8_lossy(&sealed).contains("PRIVATE"));

    let changed: CertificateReply = customer.put(&path, json!({"name": "shop"})).await.expect(200);
    assert_eq!((changed.certificate.name.as_str(), changed.certificate.labels.len()), ("shop", 1));
    assert_eq!(customer.get(&path).await.expect::<CertificateReply>(200), changed);
    let retry = customer.post(&format!("{path}/actions/retry"), json!({})).await;
    assert_eq!(retry.code(), "unsupported_error");
    assert_eq!(customer.delete(&path).await.status, 204);
    assert_eq!(customer.delete(&path).await.code(), "not_found");
}

#[tokio::test]
async fn wrong_certificates_are_refused_by_field() {
    let berth = Berth::without_workers().await;
    let customer = berth.customer().await;
    let (pem, key) = certificate_pair();
    let (_, other) = certificate_pair();
    let order = |more: Value| {
        let mut order = json!({"name": "web", "certificate": pem, "private_key": key});
        order.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        order
    };
    for (body, field) in [
        (order(json!({"name": ""})), "name"),
        (order(json!({"certificate": "hello"})), "certificate"),
        (order(json!({"certificate": null})), "certificate"),
        (order(json!({"private_key": other})), "private_key"),
        (order(json!({"private_key": null})), "private_key"),
        (order(json!({"domain_names": ["example.org"]})), "domain_names"),
        (order(json!({"labels": {"a": "b c"}})), "labels.a"),
    ] {
        customer.post("/v1/certificates", body).await.refuses(field);
    }
    let managed = json!({"name": "web", "type": "managed", "domain_names": ["example.org"]});
    let managed = customer.post("/v1/certificates", managed).await;
    assert_eq!((managed.status.as_u16(), managed.code().as_str()), (422, "unsupported_error"));
    customer.post("/v1/certificates", order(json!({}))).await.expect::<CertificateCreated>(201);
    let taken = customer.post("/v1/certificates", order(json!({}))).await;
    assert_eq!((taken.status.as_u16(), taken.code().as_str()), (409, "uniqueness_error"));
}
