//! What there is to order, where, and at what price.

use berth_model::address::IpFamily;
use berth_model::image::*;
use berth_model::location::*;
use berth_model::pricing::*;
use berth_model::server_type::*;
use berth_model::*;

use crate::golden;
use crate::samples::{image, location, meta, server_type};

#[test]
fn the_catalogue_keeps_its_wire_form() {
    golden("image", &ImageReply { image: image() });
    golden("image_list", &ImageList { images: vec![image()], meta: meta() });
    golden("server_type", &ServerTypeReply { server_type: server_type() });
    golden("server_type_list", &ServerTypeList { server_types: vec![server_type()], meta: meta() });
    golden("location", &LocationReply { location: location() });
    golden("location_list", &LocationList { locations: vec![location()], meta: meta() });
}

#[test]
fn prices_keep_their_wire_form() {
    let price = || Price::untaxed(Money::micros(11_900, Currency::EUR));
    let prices = vec![LocationPrice {
        location: "rtm1".into(),
        price_hourly: price(),
        price_monthly: price(),
        included_traffic: 20_000_000_000_000,
        price_per_tb_traffic: price(),
    }];
    let floating_ip = FloatingIpPrice { location: "rtm1".into(), price_monthly: price() };
    let primary_ip = PrimaryIpPrice {
        location: "rtm1".into(),
        datacenter: "rtm1-dc1".into(),
        price_hourly: price(),
        price_monthly: price(),
    };
    let pricing = Pricing {
        currency: "EUR".into(),
        vat_rate: "0.0000000000".into(),
        image: GbPrice { price_per_gb_month: price() },
        volume: GbPrice { price_per_gb_month: price() },
        floating_ip: MonthlyPrice { price_monthly: price() },
        floating_ips: vec![FloatingIpPrices { family: IpFamily::Ipv4, prices: vec![floating_ip] }],
        primary_ips: vec![PrimaryIpPrices { family: IpFamily::Ipv4, prices: vec![primary_ip] }],
        traffic: TrafficPrice { price_per_tb: price() },
        server_backup: BackupPrice { percentage: "20.0000000000".into() },
        server_types: vec![ServerTypePrices { id: ServerTypeId(1), name: "s1".into(), prices }],
        load_balancer_types: Vec::new(),
    };
    golden("pricing", &PricingReply { pricing });
}
