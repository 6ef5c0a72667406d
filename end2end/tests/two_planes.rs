//! Two control planes on one database: both serve, jobs are shared, and an event written through
//! one reaches a browser on the other.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use berth_end2end::{Installation, Options, live, wait};
use berth_model::action::ActionStatus;
use berth_model::event::{Change, LiveMessage};
use berth_model::server::{ServerCreate, ServerStatus};

fn order(name: &str) -> ServerCreate {
    ServerCreate {
        name: name.into(),
        server_type: "t1".into(),
        image: "tiny".into(),
        ..ServerCreate::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_written_through_one_control_plane_reaches_a_browser_on_the_other() -> anyhow::Result<()> {
    let installation = Installation::start(Options { planes: 2, ..Options::default() }).await?;
    installation.node_up().await?;
    for (from, to) in [(0, 1), (1, 0)] {
        let mut socket = live::connect(installation.base(to), &installation.token, None).await?;
        let created = installation.client(from).server_create(&order(&format!("web-{from}"))).await?;
        let running = async {
            loop {
                if let LiveMessage::Event(event) = socket.next().await?
                    && let Change::Server { server } = event.change
                    && (server.id, server.status) == (created.server.id, ServerStatus::Running)
                {
                    return anyhow::Ok(());
                }
            }
        };
        tokio::time::timeout(wait::PATIENCE, running)
            .await
            .context("no event on the other control plane")??;
        let seen =
            installation.client(to).server(created.server.id).await?.context("the other one knows it")?;
        assert_eq!(seen.status, ServerStatus::Running);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_control_planes_share_the_jobs_and_one_takes_over_when_the_other_dies() -> anyhow::Result<()> {
    let mut installation = Installation::start(Options { planes: 2, ..Options::default() }).await?;
    installation.node_up().await?;
    let mut actions = Vec::new();
    for number in 0..20 {
        let client = installation.client(number % 2);
        actions.push(client.server_create(&order(&format!("web-{number}"))).await?.action.id);
    }
    for action in &actions {
        assert_eq!(installation.client(0).settled(*action).await?.status, ActionStatus::Success);
    }
    let shares = [installation.jobs_finished(0).await?, installation.jobs_finished(1).await?];
    assert!(shares.iter().all(|share| *share > 0), "both control planes worked: {shares:?}");
    assert_eq!(shares.iter().sum::<u64>(), 20, "no job was done twice: {shares:?}");

    // One dies with jobs in its hands; the other finishes them.
    let mut late = BTreeSet::new();
    for number in 20..40 {
        late.insert(installation.client(0).server_create(&order(&format!("web-{number}"))).await?.action.id);
    }
    installation.plane_kill(0);
    for action in &late {
        assert_eq!(installation.client(1).settled(*action).await?.status, ActionStatus::Success);
    }
    let stopped = installation.plane(1).context("it runs")?.stop(Duration::from_secs(20))?;
    assert!(stopped.success(), "a clean shutdown ends well: {stopped}");
    Ok(())
}
