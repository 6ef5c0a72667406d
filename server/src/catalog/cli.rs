//! `berth catalog apply FILE`: makes the catalog as a TOML file says. The form is shown in the
//! module above.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use berth_model::server_type::CpuKind;
use berth_model::{Currency, LocationId, Money};
use serde::Deserialize;
use sqlx::PgPool;

use super::queries;
use crate::addresses;
use crate::addresses::pool::{Pool, Written};

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

/// `[[location.addresses]]`: a network of public addresses, and what of it is handed out. Of entries with the same
/// network all is handed out that one of them says.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolEntry {
    /// The network, `10.77.0.0/24`; or for IPv6 the prefix from which networks of 64 bits are cut, `2001:db8:7::/48`.
    pub cidr: String,
    /// Its router, inside the network and not handed out. For IPv6 an address of the link, `fe80::1` if not said.
    pub gateway: Option<IpAddr>,
    /// First address to hand out, with `last`: one range.
    pub first: Option<IpAddr>,
    /// Last address to hand out.
    pub last: Option<IpAddr>,
    /// What is handed out: `10.77.0.10-10.77.0.99`, `10.77.0.64/26`, `10.77.0.7`. Without any, all that can be used.
    #[serde(default)]
    pub ranges: Vec<String>,
    /// What of that is not: written in the same way.
    #[serde(default)]
    pub reserved: Vec<String>,
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
pub async fn apply(db: &PgPool, path: &Path) -> anyhow::Result<Applied> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let catalog = read(&text).with_context(|| format!("{} is not a good catalog", path.display()))?;
    apply_catalog(db, &catalog).await.with_context(|| format!("cannot apply {}", path.display()))
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

async fn apply_catalog(db: &PgPool, catalog: &Catalog) -> anyhow::Result<Applied> {
    let mut tx = db.begin().await?;
    let mut applied = Applied::default();
    let mut locations: HashMap<String, LocationId> = HashMap::new();
    for location in queries::locations(&mut tx).await? {
        locations.insert(location.name, location.id);
    }
    for (at, entry) in catalog.locations.iter().enumerate() {
        let id = queries::put_location(&mut tx, entry).await.with_context(|| format!("location[{at}]"))?;
        for (key, pools) in networks(at, entry)? {
            let (network, pools) = (pools[0].network, pools.iter().collect::<Vec<_>>());
            let put = addresses::queries::put(&mut tx, id, network, &pools);
            applied.addresses_new += put.await.with_context(|| key)?;
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
        networks(at, entry)?;
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

/// The pools of a location by network, each with the key of its first entry.
fn networks(at: usize, location: &LocationEntry) -> anyhow::Result<Vec<(String, Vec<Pool>)>> {
    let mut networks: Vec<(String, Vec<Pool>)> = Vec::new();
    for (pool_at, entry) in location.addresses.iter().enumerate() {
        let key = format!("location[{at}].addresses[{pool_at}]");
        let pool = pool(entry).with_context(|| key.clone())?;
        match networks.iter_mut().find(|(_, pools)| pools[0].network == pool.network) {
            Some((_, pools)) => pools.push(pool),
            None => networks.push((key, vec![pool])),
        }
    }
    Ok(networks)
}

fn pool(entry: &PoolEntry) -> anyhow::Result<Pool> {
    let mut ranges = entry.ranges.clone();
    match (entry.first, entry.last) {
        (Some(first), Some(last)) => {
            ensure!(first <= last, "last: {last} comes before {first}");
            ranges.push(format!("{first}-{last}"));
        }
        (None, None) => {}
        (Some(_), None) => bail!("last: give it with “first”"),
        (None, Some(_)) => bail!("first: give it with “last”"),
    }
    let (cidr, gateway) = (entry.cidr.as_str(), entry.gateway);
    Pool::read(&Written { cidr, gateway, ranges: &ranges, reserved: &entry.reserved })
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
    fn a_pool_is_its_ranges() {
        let of = |more: &str| {
            let catalog =
                read(&GOOD.replace("[[server_type]]", &format!("{more}\n[[server_type]]"))).unwrap();
            let networks = networks(0, &catalog.locations[0]).unwrap();
            let texts = |pools: &[Pool]| -> Vec<String> {
                pools
                    .iter()
                    .flat_map(|pool| pool.addresses().map(|ip| ip.to_string()).collect::<Vec<_>>())
                    .collect()
            };
            networks.iter().map(|(_, pools)| texts(pools).join(" ")).collect::<Vec<_>>()
        };
        assert_eq!(of(""), ["10.77.0.10 10.77.0.11 10.77.0.12"]);
        let gap = r#"
            reserved = ["10.77.0.11"]
            [[location.addresses]]
            cidr = "2001:db8:7::/48"
            ranges = ["2001:db8:7:8::/63", "2001:db8:7:20::"]
            [[location.addresses]]
            cidr = "10.77.0.0/24"
            gateway = "10.77.0.1"
            ranges = ["10.77.0.20-10.77.0.21"]"#;
        let wanted =
            ["10.77.0.10 10.77.0.12 10.77.0.20 10.77.0.21", "2001:db8:7:8:: 2001:db8:7:9:: 2001:db8:7:20::"];
        assert_eq!(of(gap), wanted);
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
            ("10.77.0.12", "10.77.1.12", "location[0].addresses[0]: ranges: “10.77.0.10-10.77.1.12”"),
            ("10.77.0.12", "10.77.0.9", "location[0].addresses[0]: last"),
            (r#""10.77.0.1""#, r#""10.77.0.11""#, "location[0].addresses[0]: gateway"),
        ] {
            assert!(GOOD.contains(good), "{good}");
            let said = format!("{:#}", read(&GOOD.replace(good, bad)).unwrap_err());
            assert!(said.contains(named), "{bad}: {said}");
        }
    }
}
