//! What sampling costs the agent: 1,000 VMs of its simulator, read every 2 s by one stream that watches
//! them all.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use berth_model::VmId;
use berth_model::agent::function::vm;
use berth_model::agent::{StreamCommand, StreamMessage, WantedPower};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::tungstenite::Message;

use super::Row;
use crate::{Hypervisor, LoneAgent};

const VMS: i64 = 1000;
const SPAN: Duration = Duration::from_secs(20);

/// Measures it.
///
/// # Errors
/// When the agent does not answer, or samples are missing.
pub async fn measure() -> anyhow::Result<Vec<Row>> {
    let agent = LoneAgent::start(Hypervisor::Simulator).await?;
    for id in 1..=VMS {
        agent.call::<vm::Put>(&VmId(id), &agent.spec(id, WantedPower::On)).await?;
    }
    let idle = share(&agent).await?;
    let watched = share_watched(&agent).await?;
    Ok(vec![Row {
        what: "agent's CPU, 1,000 VMs sampled every 2 s".into(),
        value: watched,
        unit: "%",
        beside: "the same agent, nobody watches".into(),
        peer: idle,
        aim: "aim < 5 % of a core".into(),
    }])
}

/// The share of one core over a time in which nobody asks anything, in percent.
async fn share(agent: &LoneAgent) -> anyhow::Result<f64> {
    let (begun, before) = (Instant::now(), agent.cpu_s()?);
    tokio::time::sleep(SPAN).await;
    Ok((agent.cpu_s()? - before) / begun.elapsed().as_secs_f64() * 100.0)
}

/// The same while one stream watches all VMs.
async fn share_watched(agent: &LoneAgent) -> anyhow::Result<f64> {
    let (begun, before) = (Instant::now(), agent.cpu_s()?);
    let seen = watch(agent, VMS, SPAN).await?;
    let due = VMS as usize * (SPAN.as_secs() as usize / 2 - 1);
    anyhow::ensure!(seen >= due, "only {seen} samples came, and {due} were due");
    Ok((agent.cpu_s()? - before) / begun.elapsed().as_secs_f64() * 100.0)
}

/// Watches the first so many VMs for a time, on a stream of its own; how many samples came.
///
/// # Errors
/// When the stream ends.
pub async fn watch(agent: &LoneAgent, vms: i64, span: Duration) -> anyhow::Result<usize> {
    let mut stream = agent.stream().await?;
    let watch = StreamCommand::Watch { vms: (1..=vms).map(VmId).collect() };
    stream.send(Message::text(serde_json::to_string(&watch)?)).await?;
    let begun = Instant::now();
    let mut samples_seen = 0;
    while begun.elapsed() < span {
        let Ok(message) = tokio::time::timeout(span.saturating_sub(begun.elapsed()), stream.next()).await
        else {
            break;
        };
        let Message::Text(text) = message.context("the stream goes on")?? else { continue };
        if let StreamMessage::Samples { samples } = serde_json::from_str(&text)? {
            samples_seen += samples.len();
        }
    }
    Ok(samples_seen)
}
