//! The agent alone: what it adds to libvirt, many creates at once, its memory.

use std::path::Path;
use std::time::{Duration, Instant};

use berth_model::agent::function::vm;
use berth_model::agent::{Nothing, Vm, VmDelete, VmImage, VmSpec, VmState, WantedPower};
use berth_model::{ByteSize, VmId};
use futures_util::future::try_join_all;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::agent_samples::watch;
use super::{Row, percentile};
use crate::process::run;
use crate::{Hypervisor, LoneAgent};

const ROUNDS: usize = 10;
const ONE: VmId = VmId(1);
/// VMs with which memory is measured.
const VMS: i64 = 100;
/// So many are started at once.
const STARTS: usize = 3;
/// How long they are watched.
const WATCHED: Duration = Duration::from_secs(40);

/// `vm.start` of a tiny guest, beside `virsh start` of the same domain.
///
/// # Errors
/// When a start fails.
pub async fn start() -> anyhow::Result<Vec<Row>> {
    let agent = LoneAgent::start(Hypervisor::Libvirt).await?;
    agent.healthy().await?;
    agent.call::<vm::Put>(&ONE, &agent.spec(ONE.0, WantedPower::Off)).await?;
    let domain = format!("{}{ONE}", agent.prefix);
    let (mut through_agent, mut by_virsh) = (Vec::new(), Vec::new());
    // The first of each warms the page cache for both and is not counted.
    for round in 0..=ROUNDS {
        let begun = Instant::now();
        agent.call::<vm::Start>(&ONE, &Nothing {}).await?;
        let agents = begun.elapsed().as_secs_f64() * 1000.0;
        agent.call::<vm::PowerOff>(&ONE, &Nothing {}).await?;
        let begun = Instant::now();
        run(Path::new("virsh"), &["-q", "start", &domain], None)?;
        let virsh = begun.elapsed().as_secs_f64() * 1000.0;
        run(Path::new("virsh"), &["-q", "destroy", &domain], None)?;
        if round > 0 {
            through_agent.push(agents);
            by_virsh.push(virsh);
        }
    }
    let (value, peer) = (percentile(&through_agent, 50.0), percentile(&by_virsh, 50.0));
    Ok(vec![Row {
        what: "vm.start of a tiny guest".into(),
        value,
        unit: "ms",
        beside: "virsh start of the same domain".into(),
        peer,
        aim: format!("overhead {:.0} ms, aim < 50", value - peer),
    }])
}

/// 50 creates at once with the simulator, and 8 with real guests, beside the same one after another.
///
/// # Errors
/// When a create fails.
pub async fn creates() -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (hypervisor, count, name) in
        [(Hypervisor::Simulator, 50, "simulator"), (Hypervisor::Libvirt, 8, "real guests")]
    {
        let agent = LoneAgent::start(hypervisor).await?;
        agent.healthy().await?;
        let at_once = many(&agent, 1, count, true).await?;
        let in_turn = many(&agent, 1001, count, false).await?;
        rows.push(Row {
            what: format!("{count} creates at once, {name}"),
            value: at_once,
            unit: "ms",
            beside: "the same one after another".into(),
            peer: in_turn,
            aim: "not slower".into(),
        });
    }
    Ok(rows)
}

/// How long it takes to make and start so many VMs, in ms. They are gone afterwards.
async fn many(agent: &LoneAgent, first: i64, count: i64, at_once: bool) -> anyhow::Result<f64> {
    let ids: Vec<VmId> = (first..first + count).map(VmId).collect();
    let make = async |id: VmId| agent.call::<vm::Put>(&id, &agent.spec(id.0, WantedPower::On)).await;
    let begun = Instant::now();
    if at_once {
        try_join_all(ids.iter().map(|id| make(*id))).await?;
    } else {
        for id in &ids {
            make(*id).await?;
        }
    }
    let took = begun.elapsed().as_secs_f64() * 1000.0;
    for id in &ids {
        agent.call::<vm::Delete>(id, &VmDelete::default()).await?;
    }
    Ok(took)
}

/// The agent's resident memory with 100 VMs, beside that with none: VMs that are off, and VMs that run on real QEMU
/// and are watched.
///
/// # Errors
/// When a VM cannot be made.
pub async fn memory() -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (what, power) in [("off", WantedPower::Off), ("on and watched", WantedPower::On)] {
        let agent = LoneAgent::start(Hypervisor::Libvirt).await?;
        agent.healthy().await?;
        let none = megabytes(&agent)?;
        let nothing_boots = agent.import_empty()?;
        let ids = || (1..=VMS).map(VmId);
        let make = async |id: VmId| {
            let image = VmImage { sha256: nothing_boots.clone() };
            let small = VmSpec { image, memory: ByteSize::mib(64), ..agent.spec(id.0, power) };
            agent.call::<vm::Put>(&id, &small).await
        };
        let _made: Vec<Vm> = stream::iter(ids().map(make)).buffer_unordered(STARTS).try_collect().await?;
        let value =
            if power == WantedPower::On { largest_watched(&agent).await? } else { megabytes(&agent)? };
        for id in ids() {
            agent.call::<vm::Delete>(&id, &VmDelete::default()).await?;
        }
        rows.push(Row {
            what: format!("agent's resident memory, {VMS} VMs, {what}"),
            value,
            unit: "MB",
            beside: "with none".into(),
            peer: none,
            aim: "aim < 40 MB".into(),
        });
    }
    Ok(rows)
}

fn megabytes(agent: &LoneAgent) -> anyhow::Result<f64> {
    Ok(agent.resident()?.bytes() as f64 / 1e6)
}

/// The largest that it was while all VMs were watched, listed, and read for Prometheus.
async fn largest_watched(agent: &LoneAgent) -> anyhow::Result<f64> {
    let read = async {
        let (begun, mut largest): (Instant, f64) = (Instant::now(), 0.0);
        while begun.elapsed() < WATCHED {
            let vms = agent.call::<vm::List>(&(), &Nothing {}).await?.vms;
            let page = agent.metrics().await?;
            let run = vms.iter().filter(|vm| vm.state == VmState::Running).count();
            anyhow::ensure!(run as i64 == VMS && page.len() > 100 * run, "only {run} VMs run");
            largest = largest.max(megabytes(agent)?);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        anyhow::Ok(largest)
    };
    let (largest, samples) = tokio::try_join!(read, watch(agent, VMS, WATCHED))?;
    // Guests that are translated may leave the node little time for more.
    anyhow::ensure!(samples as i64 >= 5 * VMS, "only {samples} samples came");
    Ok(largest)
}
