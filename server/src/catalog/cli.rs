//! `berth catalog apply FILE`: makes the catalog as a TOML file says. The form is shown in the
//! module above.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use berth_model::server_type::CpuKind;
use berth_model::{Currency, LocationId, Money, Timestamp};
use serde::Deserialize;
use sqlx::PgPool;

use super::queries;
use crate::networks;

/// Most addresses in one pool.
pub const POOL_MAX: u32 = 65_536;

/// The file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalog {
    /// The currency of all prices.
    pub currency: Currency,
    /// Locations.
    #[serde(default, rename = "location")]
    pub locations: Vec<LocationEntry>,
    /// Server types.
    #[serde(default, rename = "server_type")]
    pub server_types: Vec<ServerTypeEntry>,
}

/// `[[location]]`: a place with nodes.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocationEntry {
    /// Lower-case letters, digits and hyphens; at most 32. By it the location is found again.
    pub name: String,
    /// For customers.
    pub description: String,
    /// ISO 3166-1 alpha-2.
    pub country: String,
    /// For customers.
    pub city: String,
    /// Degrees north.
    pub latitude: f64,
    /// Degrees east.
    pub longitude: f64,
    /// Locations of one zone can share private networks.
    pub network_zone: String,
    /// Pools of public addresses.
    #[serde(default)]
    pub addresses: Vec<PoolEntry>,
}

/// `[[location.addresses]]`: a range of public addresses in one network.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolEntry {
    /// The network: `10.77.0.0/24`.
    pub cidr: String,
    /// Its router, inside the network and outside the range.
    pub gateway: Ipv4Addr,
    /// First address to hand out.
    pub first: Ipv4Addr,
    /// Last address to hand out.
    pub last: Ipv4Addr,
}

/// `[[server_type]]`: a shape.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerTypeEntry {
    /// Lower-case letters, digits and hyphens; at most 32. By it the type is found again.
    pub name: String,
    /// For customers.
    pub description: String,
    /// Virtual CPUs, 1 to 128.
    pub cores: u8,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Disk in GiB.
    pub disk_gib: u32,
    /// Whose CPU time it is.
    pub cpu_type: CpuKind,
    /// `local` or `network`.
    #[serde(default = "local")]
    pub storage_type: String,
    /// No longer to be ordered.
    #[serde(default)]
    pub deprecated: bool,
    /// Where it is offered.
    #[serde(default, rename = "price")]
    pub prices: Vec<PriceEntry>,
}

fn local() -> String {
    "local".to_owned()
}

/// `[[server_type.price]]`: what it costs in one location. Amounts are decimal texts.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceEntry {
    /// Name of the location.
    pub location: String,
    /// For each hour begun.
    pub hourly: String,
    /// At most this for a calendar month.
    pub monthly: String,
    /// For each TB (10¹² bytes) sent beyond what is included.
    pub traffic_per_tb: String,
    /// GB (10⁹ bytes) that may be sent each month.
    pub included_traffic_gb: u32,
}

/// A price, read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prices {
    /// For each hour begun.
    pub hourly: Money,
    /// At most this for a calendar month.
    pub monthly: Money,
    /// For each TB beyond what is included.
    pub traffic_per_tb: Money,
    /// Bytes that may be sent each month.
    pub included_traffic_bytes: i64,
}

/// What a file changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// Locations in the file.
    pub locations: usize,
    /// Server types in the file.
    pub server_types: usize,
    /// Addresses that were not there before.
    pub addresses_new: u64,
}

/// Applies the file at `path`, all of it or nothing.
///
/// # Errors
/// When the file cannot be read, or a key is wrong: it is named.
pub async fn apply(db: &PgPool, path: &Path, now: Timestamp) -> anyhow::Result<Applied> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let catalog = read(&text).with_context(|| format!("{} is not a good catalog", path.display()))?;
    apply_catalog(db, &catalog, now).await.with_context(|| format!("cannot apply {}", path.display()))
}

/// Reads and checks a catalog.
///
/// # Errors
/// A wrong key is named.
pub fn read(text: &str) -> anyhow::Result<Catalog> {
    let catalog: Catalog = toml::from_str(text)?;
    check(&catalog)?;
    Ok(catalog)
}

async fn apply_catalog(db: &PgPool, catalog: &Catalog, now: Timestamp) -> anyhow::Result<Applied> {
    let mut tx = db.begin().await?;
    let mut applied = Applied::default();
    let mut locations: HashMap<String, LocationId> = HashMap::new();
    for location in queries::locations(&mut tx).await? {
        locations.insert(location.name, location.id);
    }
    for (at, entry) in catalog.locations.iter().enumerate() {
        let id = queries::put_location(&mut tx, entry).await.with_context(|| format!("location[{at}]"))?;
        for (pool_at, pool) in entry.addresses.iter().enumerate() {
            let key = format!("location[{at}].addresses[{pool_at}]");
            let (ips, prefix) = pool_addresses(pool).with_context(|| key.clone())?;
            let network = (prefix, IpAddr::V4(pool.gateway));
            applied.addresses_new +=
                networks::queries::add(&mut tx, id, &ips, network, now).await.with_context(|| key)?;
        }
        locations.insert(entry.name.clone(), id);
    }
    for (at, entry) in catalog.server_types.iter().enumerate() {
        let id =
            queries::put_server_type(&mut tx, entry).await.with_context(|| format!("server_type[{at}]"))?;
        let mut offered = Vec::new();
        for (price_at, price) in entry.prices.iter().enumerate() {
            let key = format!("server_type[{at}].price[{price_at}]");
            let Some(&location) = locations.get(&price.location) else {
                bail!("{key}.location: there is no location “{}”", price.location);
            };
            let prices = prices(price, catalog.currency).with_context(|| key.clone())?;
            queries::put_price(&mut tx, id, location, &prices).await.with_context(|| key)?;
            offered.push(location);
        }
        queries::keep_prices(&mut tx, id, &offered).await?;
    }
    tx.commit().await?;
    Ok(Applied { locations: catalog.locations.len(), server_types: catalog.server_types.len(), ..applied })
}

fn check(catalog: &Catalog) -> anyhow::Result<()> {
    let mut names = Vec::new();
    for (at, entry) in catalog.locations.iter().enumerate() {
        let key = format!("location[{at}]");
        check_name(&entry.name).with_context(|| format!("{key}.name"))?;
        ensure!(!names.contains(&&entry.name), "{key}.name: “{}” stands here twice", entry.name);
        names.push(&entry.name);
        let two_capitals = entry.country.len() == 2 && entry.country.bytes().all(|b| b.is_ascii_uppercase());
        ensure!(two_capitals, "{key}.country: write two capital letters, like NL");
        ensure!((-90.0..=90.0).contains(&entry.latitude), "{key}.latitude: from -90 to 90");
        ensure!((-180.0..=180.0).contains(&entry.longitude), "{key}.longitude: from -180 to 180");
        for (pool_at, pool) in entry.addresses.iter().enumerate() {
            pool_addresses(pool).with_context(|| format!("{key}.addresses[{pool_at}]"))?;
        }
    }
    let mut names = Vec::new();
    for (at, entry) in catalog.server_types.iter().enumerate() {
        let key = format!("server_type[{at}]");
        check_name(&entry.name).with_context(|| format!("{key}.name"))?;
        ensure!(!names.contains(&&entry.name), "{key}.name: “{}” stands here twice", entry.name);
        names.push(&entry.name);
        ensure!((1..=128).contains(&entry.cores), "{key}.cores: from 1 to 128");
        ensure!((64..=4_194_304).contains(&entry.memory_mib), "{key}.memory_mib: from 64 to 4194304");
        ensure!((1..=65_536).contains(&entry.disk_gib), "{key}.disk_gib: from 1 to 65536");
        let known = ["local", "network"].contains(&entry.storage_type.as_str());
        ensure!(known, "{key}.storage_type: “local” or “network”");
        let mut offered = Vec::new();
        for (price_at, price) in entry.prices.iter().enumerate() {
            let key = format!("{key}.price[{price_at}]");
            ensure!(
                !offered.contains(&&price.location),
                "{key}.location: “{}” has two prices",
                price.location
            );
            offered.push(&price.location);
            prices(price, catalog.currency).with_context(|| key)?;
        }
    }
    Ok(())
}

fn check_name(name: &str) -> anyhow::Result<()> {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    ensure!(
        (1..=32).contains(&name.len()) && name.bytes().all(good),
        "“{name}”: 1 to 32 lower-case letters, digits and hyphens"
    );
    Ok(())
}

fn prices(entry: &PriceEntry, currency: Currency) -> anyhow::Result<Prices> {
    let money = |key: &'static str, text: &str| {
        let money = Money::parse(text, currency).with_context(|| format!("{key}: “{text}”"))?;
        ensure!(money.micros >= 0, "{key}: “{text}” is less than nothing");
        Ok(money)
    };
    Ok(Prices {
        hourly: money("hourly", &entry.hourly)?,
        monthly: money("monthly", &entry.monthly)?,
        traffic_per_tb: money("traffic_per_tb", &entry.traffic_per_tb)?,
        included_traffic_bytes: i64::from(entry.included_traffic_gb) * 1_000_000_000,
    })
}

/// The addresses of a pool and the length of its network's prefix.
fn pool_addresses(pool: &PoolEntry) -> anyhow::Result<(Vec<IpAddr>, u8)> {
    let network = || -> Option<(u32, u8)> {
        let (ip, prefix) = pool.cidr.split_once('/')?;
        let (ip, prefix) = (ip.parse::<Ipv4Addr>().ok()?, prefix.parse::<u8>().ok()?);
        (8..=32).contains(&prefix).then(|| (u32::from(ip), prefix))
    };
    let (network, prefix) =
        network().with_context(|| format!("cidr: “{}” is not a network like 10.77.0.0/24", pool.cidr))?;
    let mask = u32::MAX << (32 - u32::from(prefix));
    ensure!(network & !mask == 0, "cidr: “{}” has bits set beyond its prefix", pool.cidr);
    for (key, ip) in [("gateway", pool.gateway), ("first", pool.first), ("last", pool.last)] {
        ensure!(u32::from(ip) & mask == network, "{key}: {ip} is not in {}", pool.cidr);
    }
    let (first, last) = (u32::from(pool.first), u32::from(pool.last));
    ensure!(first <= last, "last: {} comes before {}", pool.last, pool.first);
    ensure!(last - first < POOL_MAX, "last: a pool has at most {POOL_MAX} addresses");
    ensure!(
        !(first..=last).contains(&u32::from(pool.gateway)),
        "gateway: {} would be handed out",
        pool.gateway
    );
    Ok(((first..=last).map(|ip| IpAddr::V4(ip.into())).collect(), prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        currency = "EUR"
        [[location]]
        name = "rtm1"
        description = "Rotterdam"
        country = "NL"
        city = "Rotterdam"
        latitude = 51.92
        longitude = 4.48
        network_zone = "eu-west"
        [[location.addresses]]
        cidr = "10.77.0.0/24"
        gateway = "10.77.0.1"
        first = "10.77.0.10"
        last = "10.77.0.12"
        [[server_type]]
        name = "s1"
        description = "1 vCPU, 2 GB, 40 GB"
        cores = 1
        memory_mib = 2048
        disk_gib = 40
        cpu_type = "shared"
        [[server_type.price]]
        location = "rtm1"
        hourly = "0.0060"
        monthly = "3.79"
        traffic_per_tb = "1.00"
        included_traffic_gb = 20000
    "#;

    #[test]
    fn a_pool_is_its_range() {
        let catalog = read(GOOD).unwrap();
        let (ips, prefix) = pool_addresses(&catalog.locations[0].addresses[0]).unwrap();
        let texts: Vec<_> = ips.iter().map(IpAddr::to_string).collect();
        assert_eq!((texts.join(" ").as_str(), prefix), ("10.77.0.10 10.77.0.11 10.77.0.12", 24));
    }

    #[test]
    fn a_wrong_key_is_named() {
        for (good, bad, named) in [
            (r#""EUR""#, r#""eur""#, "currency"),
            ("cores = 1", "cores = 0", "server_type[0].cores"),
            ("cores = 1", "kernels = 1", "kernels"),
            (r#"name = "s1""#, r#"name = "S 1""#, "server_type[0].name"),
            (r#"country = "NL""#, r#"country = "nl""#, "location[0].country"),
            (r#""0.0060""#, r#""0,006""#, "server_type[0].price[0]: hourly"),
            (r#""3.79""#, r#""-3.79""#, "server_type[0].price[0]: monthly"),
            ("10.77.0.0/24", "10.77.0.0/33", "location[0].addresses[0]: cidr"),
            ("10.77.0.0/24", "10.77.0.1/24", "location[0].addresses[0]: cidr"),
            ("10.77.0.12", "10.77.1.12", "location[0].addresses[0]: last"),
            ("10.77.0.12", "10.77.0.9", "location[0].addresses[0]: last"),
            (r#""10.77.0.1""#, r#""10.77.0.11""#, "location[0].addresses[0]: gateway"),
        ] {
            assert!(GOOD.contains(good), "{good}");
            let said = format!("{:#}", read(&GOOD.replace(good, bad)).unwrap_err());
            assert!(said.contains(named), "{bad}: {said}");
        }
    }
}
