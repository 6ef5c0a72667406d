//! All SQL of `load_fine`, `load_minute`, `load_rollup` and `load_watches`.

use berth_model::load::{LoadSample, LoadSpan, SAMPLES_MAX};
use berth_model::{NodeId, ServerId, Timestamp};
use sqlx::{AssertSqlSafe, PgConnection};

use super::partitions::{Partition, Table};

/// Writes samples, all in one statement. One that is there already stays as it is.
pub async fn insert(conn: &mut PgConnection, samples: &[(ServerId, LoadSample)]) -> sqlx::Result<u64> {
    let servers: Vec<i64> = samples.iter().map(|(server, _)| server.0).collect();
    let at: Vec<_> = samples.iter().map(|(_, s)| s.at.0).collect();
    let small = |column: fn(&LoadSample) -> u32| -> Vec<i32> {
        samples.iter().map(|(_, s)| i32::try_from(column(s)).unwrap_or(i32::MAX)).collect()
    };
    let large = |column: fn(&LoadSample) -> u64| -> Vec<i64> {
        samples.iter().map(|(_, s)| i64::try_from(column(s)).unwrap_or(i64::MAX)).collect()
    };
    let done = sqlx::query!(
        "insert into load_fine (server_id, at, cpu_millicores, memory_used_bytes, disk_read_bytes_per_s,
            disk_write_bytes_per_s, disk_read_ops_per_s, disk_write_ops_per_s, net_in_bytes_per_s,
            net_out_bytes_per_s, net_in_packets_per_s, net_out_packets_per_s)
         select * from unnest($1::bigint[], $2::timestamptz[], $3::integer[], $4::bigint[], $5::bigint[],
            $6::bigint[], $7::integer[], $8::integer[], $9::bigint[], $10::bigint[], $11::integer[], $12::integer[])
         on conflict do nothing",
        &servers,
        &at,
        &small(|s| s.cpu_millicores),
        &large(|s| s.memory_used_bytes),
        &large(|s| s.disk_read_bytes_per_s),
        &large(|s| s.disk_write_bytes_per_s),
        &small(|s| s.disk_read_ops_per_s),
        &small(|s| s.disk_write_ops_per_s),
        &large(|s| s.net_in_bytes_per_s),
        &large(|s| s.net_out_bytes_per_s),
        &small(|s| s.net_in_packets_per_s),
        &small(|s| s.net_out_packets_per_s),
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

/// A row of either table; the numbers were checked when they were written.
struct Row {
    at: Timestamp,
    cpu_millicores: i32,
    memory_used_bytes: i64,
    disk_read_bytes_per_s: i64,
    disk_write_bytes_per_s: i64,
    disk_read_ops_per_s: i32,
    disk_write_ops_per_s: i32,
    net_in_bytes_per_s: i64,
    net_out_bytes_per_s: i64,
    net_in_packets_per_s: i32,
    net_out_packets_per_s: i32,
}

impl From<Row> for LoadSample {
    fn from(row: Row) -> Self {
        let small = |n: i32| u32::try_from(n).unwrap_or_default();
        let large = |n: i64| u64::try_from(n).unwrap_or_default();
        Self {
            at: row.at,
            cpu_millicores: small(row.cpu_millicores),
            memory_used_bytes: large(row.memory_used_bytes),
            disk_read_bytes_per_s: large(row.disk_read_bytes_per_s),
            disk_write_bytes_per_s: large(row.disk_write_bytes_per_s),
            disk_read_ops_per_s: small(row.disk_read_ops_per_s),
            disk_write_ops_per_s: small(row.disk_write_ops_per_s),
            net_in_bytes_per_s: large(row.net_in_bytes_per_s),
            net_out_bytes_per_s: large(row.net_out_bytes_per_s),
            net_in_packets_per_s: small(row.net_in_packets_per_s),
            net_out_packets_per_s: small(row.net_out_packets_per_s),
        }
    }
}

/// The load of a server over the span that ends at `to`, oldest first, at most [`SAMPLES_MAX`].
pub async fn samples(
    conn: &mut PgConnection,
    server: ServerId,
    span: LoadSpan,
    to: Timestamp,
) -> sqlx::Result<Vec<LoadSample>> {
    let from = to.plus_seconds(-span.seconds());
    match span {
        LoadSpan::Live => as_sampled(conn, server, from, to).await,
        LoadSpan::Hour | LoadSpan::Day | LoadSpan::Week | LoadSpan::Month => {
            let grain = if span == LoadSpan::Hour { Grain::Fine } else { Grain::Minute };
            let steps = Steps { from, to, step_s: span.step_s().into(), origin: EPOCH, grain };
            means(conn, server, &steps).await
        }
    }
}

async fn as_sampled(
    conn: &mut PgConnection,
    server: ServerId,
    from: Timestamp,
    to: Timestamp,
) -> sqlx::Result<Vec<LoadSample>> {
    let rows = sqlx::query_as!(
        Row,
        r#"select at as "at: Timestamp", cpu_millicores, memory_used_bytes, disk_read_bytes_per_s,
              disk_write_bytes_per_s, disk_read_ops_per_s, disk_write_ops_per_s, net_in_bytes_per_s,
              net_out_bytes_per_s, net_in_packets_per_s, net_out_packets_per_s
           from load_fine where server_id = $1 and at > $2 and at <= $3
           order by at desc limit $4"#,
        server as ServerId,
        from as Timestamp,
        to as Timestamp,
        SAMPLES_MAX as i64,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().rev().map(LoadSample::from).collect())
}

/// Which samples means are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grain {
    /// As they came.
    Fine,
    /// Means of minutes.
    Minute,
}

/// Equal steps of a span.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Steps {
    /// Start of the span.
    pub from: Timestamp,
    /// End of the span.
    pub to: Timestamp,
    /// Seconds of a step.
    pub step_s: f64,
    /// A moment at which a step begins.
    pub origin: Timestamp,
    /// Made of these.
    pub grain: Grain,
}

/// Charts of any two moments have their steps at the same moments.
const EPOCH: Timestamp = Timestamp(time::OffsetDateTime::UNIX_EPOCH);

/// Means of a server's load over equal steps, at most [`SAMPLES_MAX`]. A step that is not over yet ends at `to`.
///
/// # Errors
/// When the database fails.
pub async fn means(
    conn: &mut PgConnection,
    server: ServerId,
    steps: &Steps,
) -> sqlx::Result<Vec<LoadSample>> {
    // A sample stands for the time before it: one at the very end of a step belongs to that step.
    let rows = sqlx::query_as!(
        Row,
        r#"
        with chosen as (
            select * from load_fine where $5 and server_id = $1 and at > $2 and at <= $3
            union all
            select * from load_minute where not $5 and server_id = $1 and at > $2 and at <= $3
        ), stepped as (
            select date_bin(make_interval(secs => $4), at - interval '1 microsecond', $7::timestamptz)
                   + make_interval(secs => $4) as step, *
            from chosen
        )
        select least(step, $3) as "at!: Timestamp",
               round(avg(cpu_millicores))::integer as "cpu_millicores!",
               round(avg(memory_used_bytes))::bigint as "memory_used_bytes!",
               round(avg(disk_read_bytes_per_s))::bigint as "disk_read_bytes_per_s!",
               round(avg(disk_write_bytes_per_s))::bigint as "disk_write_bytes_per_s!",
               round(avg(disk_read_ops_per_s))::integer as "disk_read_ops_per_s!",
               round(avg(disk_write_ops_per_s))::integer as "disk_write_ops_per_s!",
               round(avg(net_in_bytes_per_s))::bigint as "net_in_bytes_per_s!",
               round(avg(net_out_bytes_per_s))::bigint as "net_out_bytes_per_s!",
               round(avg(net_in_packets_per_s))::integer as "net_in_packets_per_s!",
               round(avg(net_out_packets_per_s))::integer as "net_out_packets_per_s!"
        from stepped group by step order by step limit $6"#,
        server as ServerId,
        steps.from as Timestamp,
        steps.to as Timestamp,
        steps.step_s,
        steps.grain == Grain::Fine,
        SAMPLES_MAX as i64,
        steps.origin as Timestamp,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(LoadSample::from).collect())
}

/// Takes the lock under which one control plane at a time keeps these tables; it ends with the
/// transaction. `false` if another has it.
pub async fn try_lock_upkeep(conn: &mut PgConnection) -> sqlx::Result<bool> {
    let locked = "select pg_try_advisory_xact_lock(hashtextextended('berth load upkeep', 0))";
    sqlx::query_scalar(locked).fetch_one(conn).await
}

/// The names of a table's partitions.
pub async fn partitions(conn: &mut PgConnection, table: &Table) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"select c.relname::text as "name!" from pg_inherits i join pg_class c on c.oid = i.inhrelid
           where i.inhparent = $1::text::regclass order by 1"#,
        table.name,
    )
    .fetch_all(conn)
    .await
}

/// Makes a partition, so that it takes no lock that writers or readers would wait for.
pub async fn create_partition(conn: &mut PgConnection, table: &Table, new: &Partition) -> sqlx::Result<()> {
    let (parent, name, from, to) = (table.name, &new.name, new.from, new.to);
    // Names and times are made by `partitions`; none comes from outside.
    let sql = format!(
        "create table {name} (like {parent} including all);
         alter table {parent} attach partition {name} for values from ('{from}') to ('{to}');"
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(conn).await.map(drop)
}

/// Removes a partition. Gives up after a second when somebody reads the table all that time.
pub async fn drop_partition(conn: &mut PgConnection, name: &str) -> sqlx::Result<()> {
    let sql = format!("set local lock_timeout = '1s'; drop table if exists {name};");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(conn).await.map(drop)
}

/// Computes the means of all minutes that ended by `until` and were not computed yet, going back
/// `back_s` at most. The mark of how far it came moves in the same transaction, so each minute is
/// computed once, whoever does it. Returns the rows written.
pub async fn roll_up(conn: &mut PgConnection, until: Timestamp, back_s: f64) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        "with span as (
            select greatest(done_until, date_trunc('minute', $1::timestamptz) - make_interval(secs => $2)) as from_,
                   date_trunc('minute', $1::timestamptz) as to_
            from load_rollup for update
        ), moved as (
            update load_rollup set done_until = span.to_ from span where done_until < span.to_
        )
        insert into load_minute
        select server_id, date_bin('1 minute', at - interval '1 microsecond', timestamptz 'epoch') + interval '1 minute',
               round(avg(cpu_millicores)), round(avg(memory_used_bytes)),
               round(avg(disk_read_bytes_per_s)), round(avg(disk_write_bytes_per_s)),
               round(avg(disk_read_ops_per_s)), round(avg(disk_write_ops_per_s)),
               round(avg(net_in_bytes_per_s)), round(avg(net_out_bytes_per_s)),
               round(avg(net_in_packets_per_s)), round(avg(net_out_packets_per_s))
        from load_fine, span where at > span.from_ and at <= span.to_
        group by 1, 2
        on conflict do nothing",
        until as Timestamp,
        back_s,
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

/// How long a watch lasts without being renewed.
pub const WATCH_S: f64 = 15.0;

/// Notes that somebody looks at these servers, by the database's clock. `anew`: those who hold the
/// nodes' streams are woken.
pub async fn watch(conn: &mut PgConnection, servers: &[ServerId], anew: bool) -> sqlx::Result<()> {
    let servers: Vec<i64> = servers.iter().map(|s| s.0).collect();
    // Ordered, so that two control planes never wait for each other.
    sqlx::query!(
        "insert into load_watches (server_id, until)
         select id, now() + make_interval(secs => $2) from unnest($1::bigint[]) id order by id
         on conflict (server_id) do update set until = excluded.until",
        &servers,
        WATCH_S,
    )
    .execute(&mut *conn)
    .await?;
    if anew {
        sqlx::query("select pg_notify('watch', '')").execute(conn).await?;
    }
    Ok(())
}

/// The servers on these nodes that somebody looks at, by node.
pub async fn watched(conn: &mut PgConnection, nodes: &[NodeId]) -> sqlx::Result<Vec<(NodeId, ServerId)>> {
    let nodes: Vec<i64> = nodes.iter().map(|n| n.0).collect();
    let rows = sqlx::query!(
        r#"select node_id as "node!: NodeId", server_id as "server: ServerId"
           from load_watches join servers on servers.id = server_id
           where until > now() and node_id = any($1)
           order by server_id"#,
        &nodes,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.node, row.server)).collect())
}

/// Forgets watches that ended a while ago.
pub async fn forget_watches(conn: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query!("delete from load_watches where until < now() - interval '1 minute'")
        .execute(conn)
        .await
        .map(drop)
}

/// Sends samples to the other control planes; `payloads` as made by `rules`.
pub async fn notify(conn: &mut PgConnection, payloads: &[String]) -> sqlx::Result<()> {
    sqlx::query!("select pg_notify('load', payload) from unnest($1::text[]) payload", payloads)
        .execute(conn)
        .await
        .map(drop)
}
