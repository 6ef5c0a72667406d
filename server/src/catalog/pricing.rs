//! What everything costs: the catalog's prices, and those of the settings.

use berth_model::address::IpFamily;
use berth_model::location::{Datacenter, Location};
use berth_model::pricing::{
    BackupPrice, FloatingIpPrice, FloatingIpPrices, GbPrice, MonthlyPrice, Pricing, PrimaryIpPrice,
    PrimaryIpPrices, ServerTypePrices, TrafficPrice,
};
use berth_model::server_type::{Price, ServerType};
use berth_model::{Currency, Money};
use serde::{Deserialize, Deserializer, de};

/// Decimal text in the settings, of at most six decimals, in millionths; never negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Decimal(i64);

impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match Money::parse(&text, Currency::EUR) {
            Ok(money) if money.micros >= 0 => Ok(Self(money.micros)),
            Ok(_) => Err(de::Error::custom("a price is never negative")),
            Err(error) => Err(de::Error::custom(error)),
        }
    }
}

/// Prices of what stands in no catalog, without tax, in the catalog's currency. What is not named is free.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OtherPrices {
    /// A GiB of a snapshot or backup, for a month.
    pub image_gb_month: Decimal,
    /// A GiB of a volume, for a month.
    pub volume_gb_month: Decimal,
    /// An IPv4 floating IP, for a month.
    pub floating_ipv4_month: Decimal,
    /// An IPv6 floating IP, for a month.
    pub floating_ipv6_month: Decimal,
    /// An IPv4 primary IP, for each hour begun.
    pub primary_ipv4_hour: Decimal,
    /// The same, at most for a month.
    pub primary_ipv4_month: Decimal,
    /// An IPv6 primary IP, for each hour begun.
    pub primary_ipv6_hour: Decimal,
    /// The same, at most for a month.
    pub primary_ipv6_month: Decimal,
    /// Backups of a server, in percent of its own price.
    pub server_backup_percent: Decimal,
}

/// What the catalog says beside the server types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Catalogued {
    /// In which all its prices are.
    pub currency: Currency,
    /// The highest price of a TB of traffic, in millionths.
    pub traffic_per_tb_micros: i64,
}

/// Puts all prices together.
pub fn pricing(
    other: &OtherPrices,
    catalogued: Catalogued,
    locations: &[Location],
    server_types: Vec<ServerType>,
) -> Pricing {
    let Catalogued { currency, traffic_per_tb_micros } = catalogued;
    let price = |Decimal(micros): Decimal| Price::untaxed(Money::micros(micros, currency));
    let floating = |family, monthly| FloatingIpPrices {
        family,
        prices: locations
            .iter()
            .map(|l| FloatingIpPrice { location: l.name.clone(), price_monthly: price(monthly) })
            .collect(),
    };
    let primary = |family, hourly, monthly| PrimaryIpPrices {
        family,
        prices: locations
            .iter()
            .map(|l| PrimaryIpPrice {
                location: l.name.clone(),
                datacenter: Datacenter::name_of(&l.name),
                price_hourly: price(hourly),
                price_monthly: price(monthly),
            })
            .collect(),
    };
    let of_type = |t: ServerType| ServerTypePrices { id: t.id, name: t.name, prices: t.prices };
    Pricing {
        currency: currency.code().to_owned(),
        vat_rate: Price::untaxed(Money::micros(0, currency)).net,
        image: GbPrice { price_per_gb_month: price(other.image_gb_month) },
        volume: GbPrice { price_per_gb_month: price(other.volume_gb_month) },
        floating_ip: MonthlyPrice { price_monthly: price(other.floating_ipv4_month) },
        floating_ips: vec![
            floating(IpFamily::Ipv4, other.floating_ipv4_month),
            floating(IpFamily::Ipv6, other.floating_ipv6_month),
        ],
        primary_ips: vec![
            primary(IpFamily::Ipv4, other.primary_ipv4_hour, other.primary_ipv4_month),
            primary(IpFamily::Ipv6, other.primary_ipv6_hour, other.primary_ipv6_month),
        ],
        traffic: TrafficPrice { price_per_tb: price(Decimal(traffic_per_tb_micros)) },
        server_backup: BackupPrice { percentage: price(other.server_backup_percent).net },
        server_types: server_types.into_iter().map(of_type).collect(),
        load_balancer_types: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_is_decimal_text_and_what_is_not_named_is_free() {
        let prices: OtherPrices = toml::from_str("image_gb_month = \"0.0119\"").expect("prices");
        assert_eq!((prices.image_gb_month, prices.volume_gb_month), (Decimal(11_900), Decimal(0)));
        for wrong in
            ["image_gb_month = 0.01", "image_gb_month = \"-1\"", "image_gb_month = \"a\"", "tea = \"1\""]
        {
            assert!(toml::from_str::<OtherPrices>(wrong).is_err(), "{wrong}");
        }
    }
}
