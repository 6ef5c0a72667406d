//! From a libvirt event to the browser's WebSocket message. Another libvirt client, `virsh event`,
//! hears the same events; the figure is how much later the WebSocket has the row that came of it.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use berth_model::event::{Change, LiveMessage};
use berth_model::server::ServerStatus;
use sqlx::Connection as _;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::{Row, percentile, with_server};
use crate::live;
use crate::process::run;

const ROUNDS: usize = 30;

/// Pulls the plug of a server and starts it again, by hand, and watches both ways.
///
/// # Errors
/// When an event does not arrive.
pub async fn measure() -> anyhow::Result<Vec<Row>> {
    let (installation, _server) = with_server("bench").await?;
    let domain = installation.domains()?.pop().context("the server has a domain")?;

    let mut socket = live::connect(installation.base(0), &installation.token, None).await?;
    let mut virsh = tokio::process::Command::new("virsh")
        .args(["event", "--loop", "--event", "lifecycle", "--domain", &domain])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut heard = BufReader::new(virsh.stdout.take().context("virsh has an output")?).lines();
    let mut late = Vec::new();
    for round in 0..ROUNDS {
        let (verb, word, status) = match round % 2 {
            0 => ("destroy", "Stopped", ServerStatus::Off),
            _ => ("start", "Started", ServerStatus::Running),
        };
        let changes = async {
            loop {
                if let LiveMessage::Event(event) = socket.next().await?
                    && let Change::Server { server } = event.change
                    && server.status == status
                {
                    return anyhow::Ok(Instant::now());
                }
            }
        };
        let event = async {
            loop {
                let line = heard.next_line().await?.context("virsh ended")?;
                if line.contains(word) {
                    return anyhow::Ok(Instant::now());
                }
            }
        };
        let name = domain.clone();
        let change = tokio::task::spawn_blocking(move || {
            run(std::path::Path::new("virsh"), &["-q", verb, &name], None)
        });
        let both = tokio::time::timeout(Duration::from_secs(30), async { tokio::try_join!(event, changes) });
        let (at_virsh, at_socket) =
            both.await.with_context(|| format!("round {round}: no event within 30 s"))??;
        change.await??;
        late.push(at_socket.saturating_duration_since(at_virsh).as_secs_f64() * 1000.0);
    }
    let bare = commit_and_notify(installation.database_url()).await?;
    let row = |percent: f64, aim: &str| Row {
        what: format!("libvirt event to WebSocket, p{percent:.0}"),
        value: percentile(&late, percent),
        unit: "ms",
        beside: "PostgreSQL: one commit and NOTIFY".into(),
        peer: percentile(&bare, percent),
        aim: aim.into(),
    };
    Ok(vec![row(50.0, ""), row(99.0, "< 100")])
}

/// What the database alone needs to make one row durable and tell another connection: no way
/// through it can be shorter.
async fn commit_and_notify(database_url: &str) -> anyhow::Result<Vec<f64>> {
    let mut listener = sqlx::postgres::PgListener::connect(database_url).await?;
    listener.listen("bench").await?;
    let mut db = sqlx::PgConnection::connect(database_url).await?;
    sqlx::query("create table bench_rows (n int)").execute(&mut db).await?;
    let mut took = Vec::new();
    for _ in 0..200 {
        let begun = Instant::now();
        let mut tx = db.begin().await?;
        sqlx::query("insert into bench_rows values (1)").execute(&mut *tx).await?;
        sqlx::query("select pg_notify('bench', '')").execute(&mut *tx).await?;
        tx.commit().await?;
        listener.recv().await?;
        took.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(took)
}
