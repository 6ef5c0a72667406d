//! All SQL of `locations`, `server_types`, `server_type_prices` and `catalog_edition`.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use berth_model::location::Location;
use berth_model::server::NameOrId;
use berth_model::server_type::{CpuKind, LocationPrice, Price, ServerType, ServerTypeLocation};
use berth_model::{ByteSize, Currency, LocationId, Money, ServerTypeId};
use sqlx::PgConnection;

use super::cli::{LocationEntry, Prices, ServerTypeEntry};
use super::pricing::Catalogued;

/// All locations, by number. There are few: one for each place where the hoster has nodes.
///
/// # Errors
/// When the database fails.
pub async fn locations(conn: &mut PgConnection) -> sqlx::Result<Vec<Location>> {
    sqlx::query_as!(
        Location,
        r#"select id as "id: LocationId", name, description, country, city, latitude, longitude, network_zone
           from locations order by id"#
    )
    .fetch_all(conn)
    .await
}

/// All that servers show of the catalog.
#[derive(Debug, Default)]
pub struct Shelf {
    /// Server types by number.
    pub types: HashMap<ServerTypeId, ServerType>,
    /// Locations by number.
    pub locations: HashMap<LocationId, Location>,
}

/// The editions read last, in this process; of several installations, if it speaks to several.
static SHELVES: Mutex<VecDeque<(String, Arc<Shelf>)>> = Mutex::new(VecDeque::new());
/// So many of them are kept.
const SHELVES_MAX: usize = 4;

/// The catalog of this edition, which the caller has just read from `catalog_edition`: no two are alike, so it is read
/// once.
///
/// # Errors
/// When the database fails.
pub async fn shelf(conn: &mut PgConnection, edition: &str) -> sqlx::Result<Arc<Shelf>> {
    // Changed by single steps: whole after any panic.
    let shelves = || SHELVES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, known)) = shelves().iter().find(|(known, _)| known == edition) {
        return Ok(Arc::clone(known));
    }
    let types = server_types(conn, None).await?.into_iter().map(|t| (t.id, t)).collect();
    let locations = locations(conn).await?.into_iter().map(|l| (l.id, l)).collect();
    let shelf = Arc::new(Shelf { types, locations });
    let mut shelves = shelves();
    shelves.push_front((edition.to_owned(), Arc::clone(&shelf)));
    shelves.truncate(SHELVES_MAX);
    Ok(shelf)
}

/// All server types with their prices, or those with these numbers; by number.
///
/// # Errors
/// When the database fails.
pub async fn server_types(
    conn: &mut PgConnection,
    ids: Option<&[ServerTypeId]>,
) -> sqlx::Result<Vec<ServerType>> {
    let ids: Option<Vec<i64>> = ids.map(|ids| ids.iter().map(|id| id.0).collect());
    let rows = sqlx::query!(
        r#"select t.id as "id: ServerTypeId", t.name, t.description, t.cores, t.memory_mib, t.disk_gib,
                  t.cpu_type as "cpu_type: CpuKind", t.storage_type, t.deprecated,
                  l.id as "location?: LocationId", l.name as "location_name?", p.currency as "currency?",
                  p.hourly_micros as "hourly?", p.monthly_micros as "monthly?",
                  p.traffic_per_tb_micros as "traffic_per_tb?", p.included_traffic_bytes as "included?"
           from server_types t
           left join server_type_prices p on p.server_type_id = t.id
           left join locations l on l.id = p.location_id
           where $1::bigint[] is null or t.id = any ($1)
           order by t.id, l.id"#,
        ids.as_deref()
    )
    .fetch_all(conn)
    .await?;
    let mut types: Vec<ServerType> = Vec::new();
    for row in rows {
        if types.last().is_none_or(|last| last.id != row.id) {
            types.push(ServerType {
                id: row.id,
                name: row.name,
                description: row.description,
                category: category(row.cpu_type).to_owned(),
                cores: row.cores.unsigned_abs(),
                memory: f64::from(row.memory_mib) / 1024.0,
                disk: row.disk_gib.unsigned_abs(),
                cpu_type: row.cpu_type,
                storage_type: row.storage_type,
                architecture: "x86".to_owned(),
                prices: Vec::new(),
                locations: Vec::new(),
                deprecated: row.deprecated,
                deprecation: None,
                included_traffic: 0,
            });
        }
        let (Some(of), Some(id), Some(location), Some(currency)) =
            (types.last_mut(), row.location, row.location_name, row.currency)
        else {
            continue;
        };
        let currency: Currency = currency.parse().map_err(|e| sqlx::Error::Decode(Box::new(e)))?;
        let price = |micros: Option<i64>| Price::untaxed(Money::micros(micros.unwrap_or(0), currency));
        let included_traffic = row.included.unwrap_or(0).unsigned_abs();
        of.included_traffic =
            if of.prices.is_empty() { included_traffic } else { of.included_traffic.min(included_traffic) };
        of.prices.push(LocationPrice {
            location: location.clone(),
            price_hourly: price(row.hourly),
            price_monthly: price(row.monthly),
            included_traffic,
            price_per_tb_traffic: price(row.traffic_per_tb),
        });
        of.locations.push(ServerTypeLocation {
            id,
            name: location,
            deprecation: None,
            available: true,
            recommended: true,
        });
    }
    Ok(types)
}

/// What the catalog says of all prices; an empty one is in euros.
///
/// # Errors
/// When the database fails.
pub async fn catalogued(conn: &mut PgConnection) -> sqlx::Result<Catalogued> {
    let row = sqlx::query!(
        r#"select currency, max(traffic_per_tb_micros) as "traffic!" from server_type_prices
           group by currency order by count(*) desc, currency limit 1"#
    );
    let Some(row) = row.fetch_optional(conn).await? else {
        return Ok(Catalogued { currency: Currency::EUR, traffic_per_tb_micros: 0 });
    };
    let currency = row.currency.parse().map_err(|e| sqlx::Error::Decode(Box::new(e)))?;
    Ok(Catalogued { currency, traffic_per_tb_micros: row.traffic })
}

fn category(kind: CpuKind) -> &'static str {
    match kind {
        CpuKind::Shared => "Shared CPU",
        CpuKind::Dedicated => "Dedicated CPU",
    }
}

/// The shape of a server type, exactly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Its number.
    pub id: ServerTypeId,
    /// Its name.
    pub name: String,
    /// Virtual CPUs.
    pub cores: i32,
    /// Memory in MiB.
    pub memory_mib: i32,
    /// Disk in GiB.
    pub disk_gib: i32,
    /// No longer to be ordered.
    pub deprecated: bool,
    /// Where it is offered, by number.
    pub offered: Vec<i64>,
}

impl Shape {
    /// Its disk.
    pub fn disk(&self) -> ByteSize {
        ByteSize::gib(u64::from(self.disk_gib.unsigned_abs()))
    }
}

/// The server type that a customer names.
///
/// # Errors
/// When the database fails.
pub async fn shape(conn: &mut PgConnection, named: &NameOrId) -> sqlx::Result<Option<Shape>> {
    sqlx::query_as!(
        Shape,
        r#"select id as "id: ServerTypeId", name, cores, memory_mib, disk_gib, deprecated,
                  array(select location_id from server_type_prices p
                        where p.server_type_id = t.id order by location_id) as "offered!"
           from server_types t where id = $1 or name = $2 order by id = $1 desc limit 1"#,
        named.id(),
        named.text()
    )
    .fetch_optional(conn)
    .await
}

/// Makes a location as the operator's file says; finds it by name.
///
/// # Errors
/// When the database fails.
pub async fn put_location(conn: &mut PgConnection, entry: &LocationEntry) -> sqlx::Result<LocationId> {
    sqlx::query_scalar!(
        r#"insert into locations (name, description, country, city, latitude, longitude, network_zone)
           values ($1, $2, $3, $4, $5, $6, $7)
           on conflict (name) do update set description = excluded.description, country = excluded.country,
               city = excluded.city, latitude = excluded.latitude, longitude = excluded.longitude,
               network_zone = excluded.network_zone
           returning id as "id: LocationId""#,
        entry.name,
        entry.description,
        entry.country,
        entry.city,
        entry.latitude,
        entry.longitude,
        entry.network_zone,
    )
    .fetch_one(conn)
    .await
}

/// Makes a server type as the operator's file says; finds it by name.
///
/// # Errors
/// When the database fails.
pub async fn put_server_type(conn: &mut PgConnection, entry: &ServerTypeEntry) -> sqlx::Result<ServerTypeId> {
    sqlx::query_scalar!(
        r#"insert into server_types
               (name, description, cores, memory_mib, disk_gib, cpu_type, storage_type, deprecated)
           values ($1, $2, $3, $4, $5, $6, $7, $8)
           on conflict (name) do update set description = excluded.description, cores = excluded.cores,
               memory_mib = excluded.memory_mib, disk_gib = excluded.disk_gib, cpu_type = excluded.cpu_type,
               storage_type = excluded.storage_type, deprecated = excluded.deprecated
           returning id as "id: ServerTypeId""#,
        entry.name,
        entry.description,
        i32::from(entry.cores),
        entry.memory_mib.cast_signed(),
        entry.disk_gib.cast_signed(),
        entry.cpu_type as CpuKind,
        entry.storage_type,
        entry.deprecated,
    )
    .fetch_one(conn)
    .await
}

/// Offers a server type in a location for this price.
///
/// # Errors
/// When the database fails.
pub async fn put_price(
    conn: &mut PgConnection,
    server_type: ServerTypeId,
    location: LocationId,
    prices: &Prices,
) -> sqlx::Result<()> {
    sqlx::query!(
        r#"insert into server_type_prices (server_type_id, location_id, currency, hourly_micros,
               monthly_micros, traffic_per_tb_micros, included_traffic_bytes)
           values ($1, $2, $3, $4, $5, $6, $7)
           on conflict (server_type_id, location_id) do update set currency = excluded.currency,
               hourly_micros = excluded.hourly_micros, monthly_micros = excluded.monthly_micros,
               traffic_per_tb_micros = excluded.traffic_per_tb_micros,
               included_traffic_bytes = excluded.included_traffic_bytes"#,
        server_type.0,
        location.0,
        prices.hourly.currency.code(),
        prices.hourly.micros,
        prices.monthly.micros,
        prices.traffic_per_tb.micros,
        prices.included_traffic_bytes,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Offers a server type nowhere else than in these locations.
///
/// # Errors
/// When the database fails.
pub async fn keep_prices(
    conn: &mut PgConnection,
    server_type: ServerTypeId,
    locations: &[LocationId],
) -> sqlx::Result<()> {
    let locations: Vec<i64> = locations.iter().map(|id| id.0).collect();
    sqlx::query!(
        "delete from server_type_prices where server_type_id = $1 and location_id <> all ($2)",
        server_type.0,
        &locations
    )
    .execute(conn)
    .await?;
    Ok(())
}
