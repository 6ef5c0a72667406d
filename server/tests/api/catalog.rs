//! Locations, datacenters, server types; and the operator's file behind them.

use berth_model::location::{LocationList, LocationReply};
use berth_model::pricing::PricingReply;
use berth_model::server_type::{ServerTypeList, ServerTypeReply};
use berth_server::catalog;
use berth_server::serve::Options;
use http::Method;
use serde_json::Value;

use crate::support::Berth;

#[tokio::test]
async fn what_is_offered_is_listed_with_prices_for_each_location() {
    let berth = Berth::without_workers().await;
    berth.catalog().await;
    let customer = berth.customer().await;
    let list: ServerTypeList = customer.get("/v1/server_types").await.expect(200);
    let s1 = &list.server_types[0];
    assert_eq!((s1.name.as_str(), s1.cores, s1.memory, s1.disk), ("s1", 1, 0.5, 5));
    assert_eq!(s1.prices[0].location, "rtm1");
    assert_eq!(s1.prices[0].price_hourly.net, "0.0060000000");
    assert_eq!(s1.prices[0].price_monthly.gross, "3.7900000000");
    assert_eq!(s1.locations[0].name, "rtm1");
    let one: ServerTypeReply = customer.get(&format!("/v1/server_types/{}", s1.id)).await.expect(200);
    assert_eq!(&one.server_type, s1);

    let locations: LocationList = customer.get("/v1/locations?name=rtm1").await.expect(200);
    let id = locations.locations[0].id;
    assert_eq!(
        customer.get(&format!("/v1/locations/{id}")).await.expect::<LocationReply>(200).location.city,
        "Rotterdam"
    );
    let datacenters: Value = customer.get("/v1/datacenters?name=rtm1-dc1").await.expect(200);
    assert_eq!(datacenters["datacenters"][0]["location"]["name"], "rtm1");
    assert_eq!(datacenters["recommendation"], id.0);
    let datacenter: Value = customer.get(&format!("/v1/datacenters/{id}")).await.expect(200);
    assert_eq!(datacenter["datacenter"]["name"], "rtm1-dc1");

    for path in ["server_types", "locations", "datacenters"] {
        assert_eq!(customer.get(&format!("/v1/{path}/99")).await.code(), "not_found");
        let none: Value = customer.get(&format!("/v1/{path}?name=none")).await.expect(200);
        assert_eq!(
            (none[path].as_array().unwrap().len(), &none["meta"]["pagination"]["total_entries"]),
            (0, &0.into())
        );
        customer.get(&format!("/v1/{path}?sort=price")).await.refuses("sort");
        assert_eq!(berth.stranger().get(&format!("/v1/{path}")).await.code(), "unauthorized");
    }
}

#[tokio::test]
async fn what_everything_costs_is_told_at_once() {
    let settings = "workers_interactive = 0\nworkers_background = 0\n\
                    prices = { image_gb_month = \"0.0119\", primary_ipv4_month = \"0.5\", server_backup_percent = \"20\" }";
    let berth = Berth::start_with(settings, Options::default()).await;
    let customer = berth.customer().await;
    let empty: PricingReply = customer.get("/v1/pricing").await.expect(200);
    assert_eq!((empty.pricing.currency.as_str(), empty.pricing.server_types.len()), ("EUR", 0));
    berth.catalog().await;
    let json = customer.get("/v1/pricing").await.json();
    let pricing = &json["pricing"];
    let price = |text: &str| serde_json::json!({"net": text, "gross": text});
    assert_eq!(pricing["server_types"][0]["name"], "s1");
    assert_eq!(pricing["server_types"][0]["prices"][0]["price_hourly"], price("0.0060000000"));
    assert_eq!(pricing["traffic"]["price_per_tb"], price("1.0000000000"));
    assert_eq!(pricing["image"]["price_per_gb_month"], price("0.0119000000"));
    assert_eq!(pricing["volume"]["price_per_gb_month"], price("0.0000000000"));
    assert_eq!(pricing["server_backup"]["percentage"], "20.0000000000");
    assert_eq!(pricing["primary_ips"][0]["type"], "ipv4");
    assert_eq!(pricing["primary_ips"][0]["prices"][0]["location"], "rtm1");
    assert_eq!(pricing["primary_ips"][0]["prices"][0]["price_monthly"], price("0.5000000000"));
    assert_eq!(pricing["floating_ips"][1]["type"], "ipv6");
    assert_eq!(pricing["load_balancer_types"], serde_json::json!([]));
}

#[tokio::test]
async fn what_is_not_offered_says_so() {
    let berth = Berth::without_workers().await;
    let customer = berth.customer().await;
    let types: Value = customer.get("/v1/load_balancer_types?page=2").await.expect(200);
    assert_eq!(types["load_balancer_types"], serde_json::json!([]));
    assert_eq!(customer.get("/v1/load_balancer_types/1").await.code(), "not_found");
    for path in [
        "load_balancers",
        "load_balancers/7",
        "load_balancers/7/actions/attach_to_network",
        "zones/a.example",
    ] {
        let path = format!("/v1/{path}");
        for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE] {
            let body = (method == Method::POST).then(|| serde_json::json!({"name": "lb"}));
            let reply = customer.client().send(method, &path, body).await;
            assert_eq!((reply.status.as_u16(), reply.code().as_str()), (422, "unsupported_error"), "{path}");
            assert!(
                reply.error().message.ends_with("are not offered by this installation."),
                "{}",
                reply.text
            );
        }
        assert_eq!(berth.stranger().get(&path).await.code(), "unauthorized");
    }
    for path in ["storage_boxes", "vswitches", "load_balancers_of_others"] {
        assert_eq!(customer.get(&format!("/v1/{path}")).await.code(), "not_found");
    }
}

const FILE: &str = r#"
currency = "EUR"
[[location]]
name = "ams1"
description = "Amsterdam"
country = "NL"
city = "Amsterdam"
latitude = 52.4
longitude = 4.9
network_zone = "eu-west"
[[location.addresses]]
cidr = "10.78.0.0/24"
gateway = "10.78.0.1"
first = "10.78.0.10"
last = "10.78.0.19"
[[server_type]]
name = "m1"
description = "2 vCPU, 4 GB, 80 GB"
cores = 2
memory_mib = 4096
disk_gib = 80
cpu_type = "dedicated"
[[server_type.price]]
location = "ams1"
hourly = "0.0123"
monthly = "7.50"
traffic_per_tb = "1"
included_traffic_gb = 1000
"#;

#[tokio::test]
async fn the_catalog_becomes_what_the_file_says_as_often_as_it_is_applied() {
    let berth = Berth::without_workers().await;
    let customer = berth.customer().await;
    let file = berth.folder().join("shop.toml");
    let apply = async |text: &str| {
        std::fs::write(&file, text).unwrap();
        catalog::cli::apply(&berth.world().db, &file).await
    };
    let listed = async || customer.get("/v1/server_types").await.expect::<ServerTypeList>(200).server_types;

    assert_eq!(apply(FILE).await.unwrap().addresses_new, 10);
    let first = listed().await;
    assert_eq!(apply(FILE).await.unwrap().addresses_new, 0);
    assert_eq!(listed().await, first);

    let changed =
        FILE.replace("7.50", "8.25").replace("10.78.0.19", "10.78.0.21").replace("cores = 2", "cores = 3");
    assert_eq!(apply(&changed).await.unwrap().addresses_new, 2);
    let now = listed().await;
    assert_eq!((now[0].id, now[0].cores), (first[0].id, 3));
    assert_eq!(now[0].prices[0].price_monthly.net, "8.2500000000");

    let unsold = FILE.split("[[server_type.price]]").next().unwrap();
    apply(unsold).await.unwrap();
    assert!(listed().await[0].prices.is_empty());

    // A file that is wrong anywhere changes nothing.
    let bad = FILE.replace("2 vCPU", "9 vCPU").replace("location = \"ams1\"", "location = \"none\"");
    let error = format!("{:#}", apply(&bad).await.unwrap_err());
    assert!(error.contains("server_type[0].price[0].location"), "{error}");
    assert_eq!(listed().await[0].description, "2 vCPU, 4 GB, 80 GB");

    let elsewhere = FILE.replace("ams1", "ams2");
    let error = format!("{:#}", apply(&elsewhere).await.unwrap_err());
    assert!(error.contains("10.78.0.10") && error.contains("location[0].addresses[0]"), "{error}");
}
