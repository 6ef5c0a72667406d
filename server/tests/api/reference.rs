//! The page of the public API, and that its examples work.

use berth_server::{openapi, reference};
use http::{Method, StatusCode};
use serde_json::Value;

use crate::support::Berth;

#[tokio::test]
async fn the_document_and_a_page_that_names_every_route_are_served_to_everybody() {
    let berth = Berth::without_workers().await;
    let stranger = berth.stranger();
    let document: Value = stranger.get("/openapi.json").await.expect(200);
    let page = stranger.get("/reference").await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.headers["content-security-policy"].to_str().unwrap().contains("default-src 'none'"));
    for (path, methods) in document["paths"].as_object().unwrap() {
        assert!(page.text.contains(&format!("<code>{path}</code>")), "{path}");
        for operation in methods.as_object().unwrap().values() {
            let id = format!("id=\"{}\"", operation["operationId"].as_str().unwrap());
            assert!(page.text.contains(&id), "{id}");
        }
    }
    assert_eq!(stranger.get("/reference.css").await.status, StatusCode::OK);
}

#[tokio::test]
async fn every_body_has_an_example_that_the_api_takes() {
    let berth = Berth::without_workers().await;
    berth.catalog().await;
    let (customer, staff) = (berth.customer().await, berth.staff().await);
    let document: Value = serde_json::to_value(openapi::document()).unwrap();
    let examples = reference::examples();
    let mut unused: Vec<&String> = examples.as_object().unwrap().keys().collect();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"]["$ref"];
            let Some(name) = schema.as_str().and_then(|path| path.rsplit('/').next()) else { continue };
            let body = examples.get(name).unwrap_or_else(|| panic!("{name} has no example"));
            unused.retain(|other| *other != name);
            let path: Vec<&str> =
                path.split('/').map(|part| if part.starts_with('{') { "42" } else { part }).collect();
            let is_staffs = path.contains(&"staff") || path.contains(&"nodes");
            let client = if is_staffs { staff.client() } else { customer.client() };
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let reply = client.send(method, &path.join("/"), Some(body.clone())).await;
            // Nobody should use an example's certificate or key.
            let fits = ["CertificateCreate", "EnrolRequest"].contains(&name)
                || reply.status.is_success()
                || !["json_error", "invalid_input"].contains(&reply.code().as_str());
            assert!(fits, "{name} at {}: {}", path.join("/"), reply.text);
        }
    }
    assert_eq!(unused, Vec::<&String>::new(), "examples of nothing");
}
