//! From `POST /v1/servers` to the guest's ready line, beside QEMU alone booting the same image.

use std::path::Path;
use std::time::{Duration, Instant};

use berth_model::ByteSize;
use berth_model::server::ServerCreate;

use super::{Row, percentile};
use crate::process::{Process, run};
use crate::{Hypervisor, Installation, Options};

const ROUNDS: usize = 5;
/// The guest prints this on its serial port when it has come up.
const READY: &str = "berth-guest: ready";
/// The shape that both sides boot: the catalogue's `t1`.
const MEMORY: ByteSize = ByteSize::mib(128);

/// Boots the tiny guest in turn through Berth and by hand.
///
/// # Errors
/// When a boot does not end in the ready line.
pub async fn measure() -> anyhow::Result<Vec<Row>> {
    let installation =
        Installation::start(Options { hypervisor: Hypervisor::Libvirt, ..Options::default() }).await?;
    installation.node_up().await?;
    let (mut through_berth, mut alone) = (Vec::new(), Vec::new());
    // The first boot warms the page cache for both and is not counted.
    for round in 0..=ROUNDS {
        let berth = boot_through_berth(&installation, round).await?;
        let qemu = boot_alone(installation.folder()).await?;
        if round > 0 {
            through_berth.push(berth);
            alone.push(qemu);
        }
    }
    let (berth, qemu) = (percentile(&through_berth, 50.0), percentile(&alone, 50.0));
    Ok(vec![Row {
        what: "server create, POST to guest ready".into(),
        value: berth,
        unit: "ms",
        beside: "raw QEMU, same image".into(),
        peer: qemu,
        aim: format!("overhead {:.0} ms, aim < 1000", berth - qemu),
    }])
}

async fn boot_through_berth(installation: &Installation, round: usize) -> anyhow::Result<f64> {
    let client = installation.client(0);
    let order = ServerCreate {
        name: format!("bench-{round}"),
        server_type: "t1".into(),
        image: "tiny".into(),
        ..ServerCreate::default()
    };
    let begun = Instant::now();
    let created = client.server_create(&order).await?;
    let console = installation.folder().join(format!("agent/vms/{}/console.log", created.server.id));
    let took = ready(&console, begun).await?;
    client.settled(created.action.id).await?;
    let gone = client.server_delete(created.server.id).await?;
    client.settled(gone.id).await?;
    Ok(took)
}

async fn boot_alone(folder: &Path) -> anyhow::Result<f64> {
    let (disk, console) = (folder.join("raw.qcow2"), folder.join("raw.log"));
    let image = crate::installation::tiny_image()?;
    let (disk, console_text) = (disk.display().to_string(), console.display().to_string());
    let begun = Instant::now();
    let backing = image.display().to_string();
    run(Path::new("qemu-img"), &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", &backing, &disk], None)?;
    let memory = MEMORY.as_mib().to_string();
    let drive = format!("file={disk},if=virtio,format=qcow2");
    let serial = format!("file:{console_text}");
    let args =
        ["-accel", "tcg", "-m", &memory, "-smp", "1", "-display", "none", "-nodefaults", "-no-user-config"];
    let more = ["-drive", &drive, "-serial", &serial, "-nic", "user,model=virtio-net-pci"];
    let args: Vec<&str> = args.into_iter().chain(more).collect();
    let log = folder.join("raw-qemu.log");
    let mut qemu = Process::start(Path::new("qemu-system-x86_64"), &args, &[], &log)?;
    let took = ready(&console, begun).await;
    qemu.kill();
    std::fs::remove_file(&console)?;
    std::fs::remove_file(&disk)?;
    took
}

async fn ready(console: &Path, begun: Instant) -> anyhow::Result<f64> {
    loop {
        let text = std::fs::read(console).unwrap_or_default();
        if String::from_utf8_lossy(&text).contains(READY) {
            return Ok(begun.elapsed().as_secs_f64() * 1000.0);
        }
        anyhow::ensure!(begun.elapsed() < crate::wait::PATIENCE, "{}: no “{READY}”", console.display());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
