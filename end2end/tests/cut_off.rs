//! For every step of making and of deleting a server: the control plane is killed, the agent is
//! killed, the step fails, the step runs twice. Afterwards the server is either there and right, or
//! gone without a trace, and the action says which.
//!
//! On real libvirt and QEMU. The cases are made from the sagas' own lists of steps and the agent's own
//! list of fault points, so a new step is covered by being there.

use std::path::Path;

use anyhow::{Context as _, ensure};
use berth_end2end::{Hypervisor, Installation, Options, wait};
use berth_model::action::{Action, ActionStatus};
use berth_model::server::{Server, ServerCreate, ServerStatus};
use berth_model::{ActionId, ServerId};
use berth_server::jobs::{Saga, StepName};
use berth_server::servers::jobs::create::ServerCreate as CreateSaga;
use berth_server::servers::jobs::delete::ServerDelete as DeleteSaga;

/// What cuts in.
#[derive(Debug, Clone)]
enum Cut {
    /// The control plane does this to itself at this place.
    Plane(String),
    /// The agent is killed while the control plane stands at this place, and comes back later.
    AgentGone(String),
    /// The agent does this to itself at this place.
    Agent(String),
}

fn cuts<S: Saga>() -> Vec<Cut> {
    let mut cuts = Vec::new();
    for step in S::Step::ALL {
        let at = |point: &str, what: &str| format!("{}.{}.{point}={what}", S::KIND, step.word());
        for point in ["before", "after_run", "after_record"] {
            cuts.push(Cut::Plane(at(point, "kill")));
        }
        cuts.push(Cut::Plane(at("after_run", "error")));
        cuts.push(Cut::Plane(at("after_run", "twice")));
        cuts.push(Cut::AgentGone(at("before", "pause")));
    }
    cuts
}

fn agent_cuts(function: &str) -> Vec<Cut> {
    let points = berth_agent::faults::POINTS.iter().filter(|p| p.starts_with(function));
    points.map(|p| Cut::Agent(format!("{p}=kill"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_being_made_is_there_and_right_or_gone_without_a_trace() -> anyhow::Result<()> {
    let mut berth = installation().await?;
    let cuts = [cuts::<CreateSaga>(), agent_cuts("put")].concat();
    for (number, cut) in cuts.into_iter().enumerate() {
        let outcome = create_cut_off(&mut berth, number, &cut).await;
        outcome.with_context(|| format!("case {number}: {cut:?}"))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_being_deleted_is_there_and_right_or_gone_without_a_trace() -> anyhow::Result<()> {
    let mut berth = installation().await?;
    let cuts = [cuts::<DeleteSaga>(), agent_cuts("delete")].concat();
    for (number, cut) in cuts.into_iter().enumerate() {
        let outcome = delete_cut_off(&mut berth, number, &cut).await;
        outcome.with_context(|| format!("case {number}: {cut:?}"))?;
    }
    Ok(())
}

async fn installation() -> anyhow::Result<Installation> {
    let berth =
        Installation::start(Options { hypervisor: Hypervisor::Libvirt, ..Options::default() }).await?;
    berth.node_up().await?;
    Ok(berth)
}

async fn create_cut_off(berth: &mut Installation, number: usize, cut: &Cut) -> anyhow::Result<()> {
    let marker = put_in(berth, cut).await?;
    let (server, action) = order(berth, number).await?;
    let action = recover(berth, cut, marker.as_deref(), action).await?;
    match action.status {
        ActionStatus::Success => {
            is_right(berth, server, &[ServerStatus::Running]).await?;
            let gone = berth.client(0).server_delete(server).await?;
            let gone = berth.client(0).settled(gone.id).await?;
            ensure!(gone.status == ActionStatus::Success, "it cannot be deleted: {gone:?}");
        }
        ActionStatus::Error => {
            let error = action.error.as_ref().context("an action that failed says why")?;
            ensure!(!error.message.is_empty(), "an action that failed says why");
        }
        ActionStatus::Running => anyhow::bail!("it has not settled"),
    }
    is_gone(berth, server).await
}

async fn delete_cut_off(berth: &mut Installation, number: usize, cut: &Cut) -> anyhow::Result<()> {
    let (server, action) = order(berth, number).await?;
    let made = berth.client(0).settled(action).await?;
    ensure!(made.status == ActionStatus::Success, "it was not made: {made:?}");
    let marker = put_in(berth, cut).await?;
    let action = berth.client(0).server_delete(server).await?;
    let action = recover(berth, cut, marker.as_deref(), action.id).await?;
    match action.status {
        ActionStatus::Success => is_gone(berth, server).await,
        ActionStatus::Error => is_right(berth, server, &[ServerStatus::Running, ServerStatus::Off]).await,
        ActionStatus::Running => anyhow::bail!("it has not settled"),
    }
}

async fn order(berth: &Installation, number: usize) -> anyhow::Result<(ServerId, ActionId)> {
    let order = ServerCreate {
        name: format!("web-{number}"),
        server_type: "t1".into(),
        image: "tiny".into(),
        ..ServerCreate::default()
    };
    let created = berth.client(0).server_create(&order).await?;
    Ok((created.server.id, created.action.id))
}

/// Starts the process that is to fail anew, with the fault in its environment. Gives the marker that
/// a pause makes.
async fn put_in(berth: &mut Installation, cut: &Cut) -> anyhow::Result<Option<std::path::PathBuf>> {
    match cut {
        Cut::Plane(rule) => {
            berth.plane_kill(0);
            berth.plane_start(0, &[("BERTH_FAULTS", rule)]).await?;
            berth.node_up().await?;
            Ok(None)
        }
        Cut::AgentGone(rule) => {
            let marker = berth.folder().join("paused");
            berth.plane_kill(0);
            let rule = format!("{rule}:{}", marker.display());
            berth.plane_start(0, &[("BERTH_FAULTS", &rule)]).await?;
            berth.node_up().await?;
            Ok(Some(marker))
        }
        Cut::Agent(rule) => {
            berth.agent_kill();
            berth.agent_start(&[("BERTH_AGENT_FAULTS", rule)]).await?;
            berth.node_up().await?;
            Ok(None)
        }
    }
}

/// Lets the fault happen, brings back what died, and waits for the end of the action.
async fn recover(
    berth: &mut Installation,
    cut: &Cut,
    marker: Option<&Path>,
    action: ActionId,
) -> anyhow::Result<Action> {
    match cut {
        Cut::Plane(rule) if rule.ends_with("=kill") => {
            berth.plane(0).context("a control plane runs")?.end().await?;
            berth.plane_start(0, &[]).await?;
        }
        Cut::Plane(_) => {}
        Cut::AgentGone(_) => {
            let marker = marker.context("a pause has a marker")?;
            wait::until("the step began", async || Ok(marker.exists().then_some(()))).await?;
            berth.agent_kill();
            std::fs::remove_file(marker)?;
            met_the_dead_agent(berth, action).await?;
            berth.agent_start(&[]).await?;
        }
        Cut::Agent(_) => {
            berth.agent().context("an agent runs")?.end().await?;
            berth.agent_start(&[]).await?;
        }
    }
    berth.client(0).settled(action).await
}

/// The step has failed for want of the agent, or is done because it does not need one.
async fn met_the_dead_agent(berth: &Installation, action: ActionId) -> anyhow::Result<()> {
    let mut db = berth.database().await?;
    let before: String = sqlx::query_scalar("select step from jobs where action_id = $1")
        .bind(action.0)
        .fetch_one(&mut db)
        .await?;
    let db = tokio::sync::Mutex::new(db);
    wait::until("the step met the dead agent", async || {
        let sql = "select attempts > 0 or operator_error is not null or step <> $2 or finished is not null
                   from jobs where action_id = $1";
        let met: bool =
            sqlx::query_scalar(sql).bind(action.0).bind(&before).fetch_one(&mut *db.lock().await).await?;
        Ok(met.then_some(()))
    })
    .await
}

/// The server is there for the customer, in the database, on the node and in libvirt, and they agree.
async fn is_right(berth: &Installation, id: ServerId, statuses: &[ServerStatus]) -> anyhow::Result<()> {
    let client = berth.client(0);
    let server: Server = wait::until("the server is right", async || {
        let server = client.server(id).await?.context("the action says that it is there")?;
        Ok((statuses.contains(&server.status) && !server.locked).then_some(server))
    })
    .await?;
    let address = server.public_net.ipv4.context("it has an address")?.ip;
    let spec: serde_json::Value =
        serde_json::from_str(&berth.berth_agent(&["vm", "get", &id.to_string(), "--json"])?)?;
    let told = &spec["spec"]["nics"][0]["addresses"][0]["ip"];
    ensure!(*told == address.to_string(), "the machine has {told}, the customer was told {address}");
    let domains = berth.domains()?;
    ensure!(domains.len() == 1, "there is one machine, not {domains:?}");
    let state = match server.status {
        ServerStatus::Running => "running",
        _ => "off",
    };
    ensure!(spec["state"] == state, "the machine is {}, the customer was told {state}", spec["state"]);
    for file in ["disk.qcow2", "seed.iso"] {
        let path = berth.folder().join(format!("agent/vms/{id}/{file}"));
        ensure!(path.is_file(), "{} is missing", path.display());
    }
    Ok(())
}

/// Nothing of the server is left: no row but the action's, no address, no machine, no file.
async fn is_gone(berth: &Installation, id: ServerId) -> anyhow::Result<()> {
    ensure!(berth.client(0).server(id).await?.is_none(), "the customer still sees it");
    let mut db = berth.database().await?;
    let rows = "select (select count(*) from servers where id = $1)
                     + (select count(*) from public_ips where server_id = $1)
                     + (select count(*) from jobs where finished is null and data ->> 'server' = $1::text)";
    let left: i64 = sqlx::query_scalar(rows).bind(id.0).fetch_one(&mut db).await?;
    ensure!(left == 0, "{left} rows are left");
    // A worker that was cut off may have asked the agent for the machine just before it died; such a
    // leftover is found and removed by itself.
    wait::until("nothing is left on the node", async || {
        let vms = berth.berth_agent(&["vm", "list", "--json"])?;
        let vms: Vec<serde_json::Value> = match serde_json::from_str(&vms)? {
            serde_json::Value::Object(mut list) => serde_json::from_value(list["vms"].take())?,
            list => serde_json::from_value(list)?,
        };
        let folder = berth.folder().join(format!("agent/vms/{id}"));
        Ok((vms.is_empty() && berth.domains()?.is_empty() && !folder.exists()).then_some(()))
    })
    .await
}
