//! `serve` and `enrol`.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use berth_model::agent::Node;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use super::CliError;
use super::client::{Client, read};
use crate::config::{Config, HypervisorKind, LogFormat, NetworkMode, NetworkSection};
use crate::enrol::{EnrolError, Enrolment};
use crate::hypervisor::Hypervisor;
use crate::hypervisor::libvirt::ffi::share_one_heap;
use crate::hypervisor::libvirt::{GuestNetwork, Libvirt, LibvirtConfig};
use crate::hypervisor::simulator::{Simulator, SimulatorConfig};
use crate::update::{self, Own};

/// What threads that hang in the hypervisor get before the process ends over them.
const HUNG_THREADS: Duration = Duration::from_secs(1);

/// Runs the agent until SIGTERM or SIGINT.
pub fn serve(config: Config) -> Result<(), CliError> {
    share_one_heap();
    log(&config);
    // Disks and seeds are for root, and for QEMU's user, to whom libvirt gives them; folders let others pass.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o066));
    let runtime = runtime(tokio::runtime::Builder::new_multi_thread())?;
    let result: Result<Option<Own>, CliError> = runtime.block_on(async {
        let stop = CancellationToken::new();
        let told = |e: std::io::Error| CliError::failed("Signals cannot be heard", &e);
        let mut terminate = signal(SignalKind::terminate()).map_err(told)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(told)?;
        let own = Own::find().map_err(|e| CliError::failed("This program's own file", &e))?;
        let hypervisor = open_hypervisor(&config)?;
        let data_dir = config.data_dir.clone();
        let running = crate::serve(config, hypervisor, stop.clone()).await;
        let running = running.map_err(|e| CliError::Failed(e.to_string()))?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            // It stops by itself for another version.
            () = stop.cancelled() => {}
        }
        stop.cancel();
        let socket = running.socket.clone();
        let Some(trial) = running.stopped().await else { return Ok(None) };
        let asked = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        let client = Client::new(socket);
        let goes_on = update::try_out(&own, trial, &data_dir, || is_healthy(&client), asked).await;
        Ok(goes_on.then_some(own))
    });
    runtime.shutdown_timeout(HUNG_THREADS);
    match result? {
        None => Ok(()),
        Some(own) => Err(CliError::failed("The agent cannot become itself again", &own.become_installed())),
    }
}

/// Asks an agent whether it is healthy.
async fn is_healthy(client: &Client) -> Result<bool, String> {
    let (_, node) =
        client.function("GET", "/v1/node", &Value::Null, None).await.map_err(|e| e.to_string())?;
    let node: Node = read(&node).map_err(|e| e.to_string())?;
    Ok(node.health.healthy)
}

/// `check-config`: says whether the agent would start with this configuration.
pub fn check_config(config: &Config) -> Result<(), CliError> {
    let said = writeln!(std::io::stdout(), "The configuration of {} is fine.", config.name);
    said.map_err(|e| CliError::failed("The answer could not be written", &e))
}

/// Joins a control plane.
pub fn enrol(config: &Config, enrolment: &Enrolment) -> Result<(), CliError> {
    let runtime = runtime(tokio::runtime::Builder::new_current_thread())?;
    let identity = runtime.block_on(crate::enrol::enrol(config, enrolment)).map_err(|e| match e {
        EnrolError::Token | EnrolError::Url(_) => CliError::Usage(e.to_string()),
        _ => CliError::Failed(e.to_string()),
    })?;
    let said = writeln!(
        std::io::stdout(),
        "This agent is node {} of {}; the control plane reaches it at {}.",
        identity.node,
        enrolment.url,
        identity.address
    );
    said.map_err(|e| CliError::failed("The answer could not be written", &e))
}

/// Reads a text file that the command names.
pub fn read_text(path: &Path) -> Result<String, CliError> {
    std::fs::read_to_string(path)
        .map_err(|e| CliError::Usage(format!("Cannot read {}: {e}.", path.display())))
}

/// The same; `-` is standard input.
pub fn read_text_or_stdin(path: &Path) -> Result<String, CliError> {
    if path != Path::new("-") {
        return read_text(path);
    }
    let text = std::io::read_to_string(std::io::stdin().lock());
    text.map_err(|e| CliError::Usage(format!("Cannot read standard input: {e}.")))
}

/// Runs a command's future to its end.
pub fn block_on<T>(future: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    runtime(tokio::runtime::Builder::new_current_thread())?.block_on(future)
}

/// The runtime of a command.
pub fn runtime(mut builder: tokio::runtime::Builder) -> Result<tokio::runtime::Runtime, CliError> {
    builder.enable_all().build().map_err(|e| CliError::failed("The runtime does not start", &e))
}

fn open_hypervisor(config: &Config) -> Result<Arc<dyn Hypervisor>, CliError> {
    match config.hypervisor {
        HypervisorKind::Simulator => {
            let simulator = Simulator::new(SimulatorConfig {
                folder: Some(config.simulator_dir()),
                images: Some(config.images_dir()),
                delay: Duration::from_millis(config.simulator.delay_ms),
            });
            Ok(Arc::new(simulator.map_err(|e| CliError::failed("The simulator's VMs cannot be read", &e))?))
        }
        HypervisorKind::Libvirt => {
            let libvirt = Libvirt::open(libvirt_config(config));
            Ok(Arc::new(libvirt.map_err(|e| CliError::failed("libvirt cannot be used", &e))?))
        }
    }
}

fn libvirt_config(config: &Config) -> LibvirtConfig {
    let section = config.libvirt.clone();
    let NetworkSection { mode, bridge, gateway, services } = config.network.clone();
    LibvirtConfig {
        uri: section.uri,
        prefix: section.prefix,
        node_name: config.name.clone(),
        data_dir: config.data_dir.clone(),
        images_dir: config.images_dir(),
        accelerator: section.accelerator,
        probe_kernel: section.probe_kernel,
        probe_initrd: section.probe_initrd,
        network: match mode {
            NetworkMode::Nat => GuestNetwork::Nat { bridge, gateway },
            NetworkMode::Bridge => GuestNetwork::Bridge { bridge },
            NetworkMode::Routed => GuestNetwork::Routed,
            NetworkMode::User => GuestNetwork::User,
        },
        services,
        storage: config.storage.clone(),
        pools: config.pools.clone(),
    }
}

fn log(config: &Config) {
    let filter = EnvFilter::try_new(&config.log).unwrap_or_else(|_| EnvFilter::new("info"));
    let colour = std::io::stderr().is_terminal();
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colour).with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}
