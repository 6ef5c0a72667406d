//! How fast the agent backs up a disk, beside `qemu-img convert` of the same disk.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;

use super::{Row, percentile, with_server};
use crate::Installation;
use crate::process::run;

const ROUNDS: usize = 3;
/// Data on the disk beside its image: what no compressor makes smaller, as a disk's pictures and archives.
const NOISE_MIB: u64 = 256;
/// Where it begins, past the image.
const NOISE_AT_MIB: u64 = 128;

/// Copies the disk of a machine that is off, in turn through the agent and by QEMU's own tool.
///
/// # Errors
/// When a copy fails.
pub async fn measure() -> anyhow::Result<Vec<Row>> {
    let (installation, server) = with_server("bench-backup").await?;
    let client = installation.client(0);
    let vm = server.id.to_string();
    installation.berth_agent(&["vm", "power-off", &vm])?;
    let folder = installation.folder();
    let disk = folder.join(format!("agent/vms/{vm}/disk.qcow2"));
    let bytes = write_noise(folder, &disk)?;

    let (mut agent, mut qemu) = (Vec::new(), Vec::new());
    // The first round warms the page cache for both and is not counted.
    for round in 0..=ROUNDS {
        let speeds = (by_agent(&installation, &vm, round)?, by_qemu(folder, &disk)?);
        if round > 0 {
            agent.push(bytes / speeds.0);
            qemu.push(bytes / speeds.1);
        }
    }
    let gone = client.server_delete(server.id).await?;
    client.settled(gone.id).await?;
    let (agent, qemu) = (percentile(&agent, 50.0), percentile(&qemu, 50.0));
    Ok(vec![Row {
        what: "full backup, compressed and sealed".into(),
        value: agent,
        unit: "MB/s",
        beside: "qemu-img convert, as it is".into(),
        peer: qemu,
        aim: "half as fast or faster".into(),
    }])
}

/// Fills the disk; how much data is on it then, in MB.
fn write_noise(folder: &Path, disk: &Path) -> anyhow::Result<f64> {
    let noise = folder.join("noise");
    let script = format!("head -c {NOISE_MIB}M /dev/urandom >'{}'", noise.display());
    run(Path::new("sh"), &["-c", &script], None)?;
    let write = format!("write -s {} {NOISE_AT_MIB}M {NOISE_MIB}M", noise.display());
    let disk = disk.to_str().context("a path is text")?;
    run(Path::new("qemu-io"), &["-f", "qcow2", "-c", &write, disk], None)?;
    let map = run(Path::new("qemu-img"), &["map", "--output=json", disk], None)?;
    let map: Vec<serde_json::Value> = serde_json::from_str(&map)?;
    let data = map.iter().filter(|extent| extent["data"] == true && extent["zero"] == false);
    Ok(data.filter_map(|extent| extent["length"].as_f64()).sum::<f64>() / 1e6)
}

/// Seconds of a full backup through the agent's command line.
fn by_agent(installation: &Installation, vm: &str, round: usize) -> anyhow::Result<f64> {
    let folder = installation.folder();
    let store = folder.join("store");
    let request: PathBuf = folder.join("backup.json");
    let words = serde_json::json!({
        "store": { "kind": "directory", "path": store },
        "key": "5c".repeat(32),
        "full": true,
    });
    std::fs::write(&request, words.to_string())?;
    let name = format!("round-{round}");
    let begun = Instant::now();
    let request = request.to_str().context("a path is text")?;
    installation.berth_agent(&["backup", "create", vm, &name, request])?;
    let took = begun.elapsed().as_secs_f64();
    std::fs::remove_dir_all(store)?;
    Ok(took)
}

/// Seconds of a copy on the same file system that outlives a power cut, as a backup does.
fn by_qemu(folder: &Path, disk: &Path) -> anyhow::Result<f64> {
    let copy = folder.join("copy.qcow2");
    let begun = Instant::now();
    let (disk, to) = (disk.to_str().context("a path is text")?, copy.to_str().context("a path is text")?);
    run(Path::new("qemu-img"), &["convert", "-O", "qcow2", disk, to], None)?;
    std::fs::File::open(&copy)?.sync_all()?;
    let took = begun.elapsed().as_secs_f64();
    std::fs::remove_file(copy)?;
    Ok(took)
}
