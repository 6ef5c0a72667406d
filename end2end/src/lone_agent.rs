//! An agent without a control plane, asked on its unix socket.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use berth_model::agent::function::{self, Function, node};
use berth_model::agent::{Nic, Nothing, VmImage, VmSeed, VmSpec, WantedPower};
use berth_model::{ByteSize, ErrorBody};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio_tungstenite::WebSocketStream;

use crate::process::{Process, binary, run};
use crate::{Hypervisor, wait};

/// Ticks a second in `/proc/PID/stat`, by Linux's interface.
const TICKS_PER_S: f64 = 100.0;

/// An agent of its own. Its process, its machines and its folder go when it is dropped.
#[derive(Debug)]
pub struct LoneAgent {
    process: Process,
    http: reqwest::Client,
    /// Names of its machines begin with it.
    pub prefix: String,
    /// The image of its machines: SHA-256.
    pub image: String,
    config: String,
    folder: TempDir,
}

impl LoneAgent {
    /// Starts one, with the tiny guest as its image; for the simulator an empty one will do.
    ///
    /// # Errors
    /// When it does not answer; with its log.
    pub async fn start(hypervisor: Hypervisor) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("berth-agent-").tempdir_in("/var/tmp")?;
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let unique = folder.path().file_name().and_then(|name| name.to_str()).context("a folder's name")?;
        let prefix = format!("b-{}-", unique.trim_start_matches("berth-agent-"));
        let config = folder.path().join("agent.toml");
        let kind = match hypervisor {
            Hypervisor::Simulator => "hypervisor = \"simulator\"\n".to_owned(),
            Hypervisor::Libvirt => format!(
                "[libvirt]\naccelerator = \"qemu\"\nprefix = \"{prefix}\"\n[network]\nmode = \"user\"\n"
            ),
        };
        let data = folder.path().join("data");
        let text = format!("data_dir = \"{}\"\nlisten = \"127.0.0.1:0\"\n{kind}", data.display());
        std::fs::write(&config, text)?;
        let config = config.to_str().context("a path in UTF-8")?.to_owned();
        let log = folder.path().join("agent.log");
        let mut process =
            Process::start(&binary("berth-agent")?, &["serve", "--config", &config], &[], &log)?;
        let http = crate::client::builder().unix_socket(data.join("agent.sock")).build()?;
        loop {
            let up = http.get("http://agent/v1/node").send().await;
            if up.is_ok_and(|answer| answer.status().is_success()) {
                break;
            }
            anyhow::ensure!(!process.ended(), "the agent ended:\n{}", process.log_tail());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut agent = Self { process, http, prefix, image: String::new(), config, folder };
        agent.image = match hypervisor {
            Hypervisor::Libvirt => agent.import(&crate::installation::tiny_image()?)?,
            Hypervisor::Simulator => agent.import_empty()?,
        };
        Ok(agent)
    }

    /// Imports an image; its SHA-256.
    fn import(&self, file: &Path) -> anyhow::Result<String> {
        let file = file.to_str().context("a path in UTF-8")?;
        let words = ["image", "import", file, "--json", "--config", &self.config];
        let imported: serde_json::Value = serde_json::from_str(&run(&binary("berth-agent")?, &words, None)?)?;
        Ok(imported["sha256"].as_str().context("an image has a checksum")?.to_owned())
    }

    /// Imports an image of which nothing boots; its SHA-256.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn import_empty(&self) -> anyhow::Result<String> {
        let image = self.folder().join("empty.qcow2");
        let words = ["create", "-q", "-f", "qcow2", image.to_str().context("a path in UTF-8")?, "1M"];
        run(Path::new("qemu-img"), &words, None)?;
        self.import(&image)
    }

    /// Reads its page for Prometheus.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metrics(&self) -> anyhow::Result<String> {
        Ok(self.http.get("http://agent/metrics").send().await?.error_for_status()?.text().await?)
    }

    /// Asks for a function.
    ///
    /// # Errors
    /// With what the agent said.
    pub async fn call<F: Function>(
        &self,
        target: &F::Target,
        request: &F::Request,
    ) -> anyhow::Result<F::Answer> {
        let url = format!("http://agent{}", F::path(target));
        let request = match F::METHOD {
            function::Method::Get => self.http.get(url),
            function::Method::Put => self.http.put(url).json(request),
            function::Method::Post => self.http.post(url).json(request),
            function::Method::Delete => self.http.delete(url).json(request),
        };
        let answer = request.send().await?;
        let (status, body) = (answer.status(), answer.bytes().await?);
        anyhow::ensure!(
            status.is_success(),
            "{}: {}",
            F::NAME,
            serde_json::from_slice::<ErrorBody>(&body)
                .map_or_else(|_| status.to_string(), |e| e.error.to_string())
        );
        Ok(serde_json::from_slice(if body.is_empty() { b"{}" } else { &body })?)
    }

    /// Waits until the node can work.
    ///
    /// # Errors
    /// When that does not happen.
    pub async fn healthy(&self) -> anyhow::Result<()> {
        wait::until("the node is healthy", || async {
            let node = self.call::<node::Get>(&(), &Nothing {}).await?;
            Ok(node.health.healthy.then_some(()))
        })
        .await
    }

    /// A small machine on its image.
    pub fn spec(&self, id: i64, power: WantedPower) -> VmSpec {
        VmSpec {
            vcpus: 1,
            memory: ByteSize::mib(128),
            disk: ByteSize::mib(256),
            image: VmImage { sha256: self.image.clone() },
            nics: vec![Nic {
                mac: format!("52:54:00:be:{:02x}:{:02x}", id >> 8 & 0xff, id & 0xff),
                ..Nic::default()
            }],
            seed: VmSeed { hostname: format!("bench-{id}"), ..VmSeed::default() },
            power,
            ..VmSpec::default()
        }
    }

    /// Memory of the process that is in RAM now (`VmRSS` of proc(5)).
    ///
    /// # Errors
    /// When `/proc` does not say.
    pub fn resident(&self) -> anyhow::Result<ByteSize> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        Ok(ByteSize(line.trim().trim_end_matches("kB").trim().parse::<u64>()? * 1024))
    }

    /// CPU time the process has used, in seconds.
    ///
    /// # Errors
    /// When `/proc` does not say.
    pub fn cpu_s(&self) -> anyhow::Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        // The name in parentheses may hold spaces; `utime` and `stime` are the 12th and 13th word behind it.
        let words: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |n: usize| -> anyhow::Result<f64> { Ok(words.get(n).context("a short stat")?.parse()?) };
        Ok((ticks(11)? + ticks(12)?) / TICKS_PER_S)
    }

    /// Opens its stream.
    ///
    /// # Errors
    /// When it refuses.
    pub async fn stream(&self) -> anyhow::Result<WebSocketStream<UnixStream>> {
        let socket = UnixStream::connect(self.folder.path().join("data/agent.sock")).await?;
        Ok(tokio_tungstenite::client_async("ws://agent/v1/stream", socket).await?.0)
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for LoneAgent {
    fn drop(&mut self) {
        self.process.kill();
        crate::installation::remove_domains(&self.prefix);
    }
}
