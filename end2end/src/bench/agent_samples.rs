//! What sampling costs the agent: 1,000 VMs of its simulator, read every 2 s by one stream that watches
//! them all; and what it holds of the node's memory with 100 VMs.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use berth_model::agent::{Nic, StreamCommand, StreamMessage, VmImage, VmSeed, VmSpec, WantedPower};
use berth_model::{ByteSize, VmId};
use futures_util::{SinkExt as _, StreamExt as _};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio_tungstenite::tungstenite::Message;

use super::Row;
use crate::process::{Process, binary};

const VMS: i64 = 1000;
const VMS_IN_MEMORY: i64 = 100;
const SPAN: Duration = Duration::from_secs(20);
/// Ticks a second in `/proc/PID/stat`, by Linux's interface.
const TICKS_PER_S: f64 = 100.0;
const IMAGE: &str = "abababababababababababababababababababababababababababababababab";

/// Measures both.
///
/// # Errors
/// When the agent does not answer.
pub async fn measure() -> anyhow::Result<Vec<Row>> {
    let agent = Agent::start().await?;
    let empty = agent.resident_mib()?;
    agent.put(1..=VMS_IN_MEMORY).await?;
    let with_vms = agent.resident_mib()?;
    agent.put(VMS_IN_MEMORY + 1..=VMS).await?;
    let idle = agent.share(SPAN).await?;
    let watched = agent.share_watched(SPAN).await?;
    Ok(vec![
        Row {
            what: "agent's CPU, 1,000 VMs sampled every 2 s".into(),
            value: watched,
            unit: "%",
            beside: "the same agent, nobody watches".into(),
            peer: idle,
            aim: "< 5 % of a core".into(),
        },
        Row {
            what: "agent's resident memory, 100 VMs".into(),
            value: with_vms,
            unit: "MiB",
            beside: "the same agent without VMs".into(),
            peer: empty,
            aim: "< 40 MiB".into(),
        },
    ])
}

/// An agent of its own: no control plane is needed to ask it over its socket.
struct Agent {
    process: Process,
    http: reqwest::Client,
    folder: TempDir,
}

impl Agent {
    async fn start() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("berth-bench-").tempdir()?;
        let (config, log) = (folder.path().join("agent.toml"), folder.path().join("agent.log"));
        let text = format!(
            "name = \"bench\"\ndata_dir = \"{}\"\nlisten = \"127.0.0.1:0\"\nhypervisor = \"simulator\"\n",
            folder.path().join("data").display()
        );
        std::fs::write(&config, text)?;
        let config = config.to_str().context("a path in UTF-8")?;
        let mut process = Process::start(&binary("berth-agent")?, &["serve", "--config", config], &[], &log)?;
        let http = reqwest::Client::builder().unix_socket(socket(folder.path())).build()?;
        let begun = Instant::now();
        while http.get("http://agent/v1/node").send().await.is_err() {
            anyhow::ensure!(!process.ended(), "the agent ended:\n{}", process.log_tail());
            anyhow::ensure!(begun.elapsed() < crate::wait::PATIENCE, "the agent does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // The simulator reads no image; it must only be there.
        let images = folder.path().join("data/images");
        std::fs::create_dir_all(&images)?;
        std::fs::write(images.join(format!("{IMAGE}.qcow2")), "")?;
        Ok(Self { process, http, folder })
    }

    async fn put(&self, ids: impl Iterator<Item = i64>) -> anyhow::Result<()> {
        for id in ids {
            let request = self.http.put(format!("http://agent/v1/vms/{id}")).json(&spec(id));
            request.send().await?.error_for_status()?;
        }
        Ok(())
    }

    /// The share of one core over a time in which nobody asks anything, in percent.
    async fn share(&self, span: Duration) -> anyhow::Result<f64> {
        let (begun, before) = (Instant::now(), self.cpu_s()?);
        tokio::time::sleep(span).await;
        Ok((self.cpu_s()? - before) / begun.elapsed().as_secs_f64() * 100.0)
    }

    /// The same while one stream watches all VMs.
    async fn share_watched(&self, span: Duration) -> anyhow::Result<f64> {
        let stream = UnixStream::connect(socket(self.folder.path())).await?;
        let (mut stream, _) = tokio_tungstenite::client_async("ws://agent/v1/stream", stream).await?;
        let watch = StreamCommand::Watch { vms: (1..=VMS).map(VmId).collect() };
        stream.send(Message::text(serde_json::to_string(&watch)?)).await?;
        let (begun, before) = (Instant::now(), self.cpu_s()?);
        let mut samples_seen = 0;
        while begun.elapsed() < span {
            let Ok(message) = tokio::time::timeout(span - begun.elapsed(), stream.next()).await else {
                break;
            };
            let Message::Text(text) = message.context("the stream goes on")?? else { continue };
            if let StreamMessage::Samples { samples } = serde_json::from_str(&text)? {
                samples_seen += samples.len();
            }
        }
        let share = (self.cpu_s()? - before) / begun.elapsed().as_secs_f64() * 100.0;
        let due = VMS as usize * (span.as_secs() as usize / 2 - 1);
        anyhow::ensure!(samples_seen >= due, "only {samples_seen} samples came, and {due} were due");
        Ok(share)
    }

    /// CPU time it has used, in seconds.
    fn cpu_s(&self) -> anyhow::Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        // The name in parentheses may hold spaces; `utime` and `stime` are the 12th and 13th word behind it.
        let words: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |n: usize| -> anyhow::Result<f64> { Ok(words.get(n).context("a short stat")?.parse()?) };
        Ok((ticks(11)? + ticks(12)?) / TICKS_PER_S)
    }

    fn resident_mib(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
    }
}

fn socket(folder: &Path) -> std::path::PathBuf {
    folder.join("data/agent.sock")
}

fn spec(id: i64) -> VmSpec {
    let [.., high, low] = id.to_be_bytes();
    VmSpec {
        vcpus: 2,
        memory: ByteSize::gib(2),
        disk: ByteSize::gib(20),
        image: VmImage { sha256: IMAGE.to_owned() },
        nics: vec![Nic { mac: format!("52:54:00:00:{high:02x}:{low:02x}"), addresses: vec![] }],
        seed: VmSeed { hostname: format!("bench-{id}"), ..VmSeed::default() },
        power: WantedPower::On,
        ..VmSpec::default()
    }
}
