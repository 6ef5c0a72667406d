//! Logs by tracing, and metrics for Prometheus.

use std::io::IsTerminal as _;
use std::sync::OnceLock;

use anyhow::Context as _;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat};

/// Buckets for everything measured in seconds: from a fast answer to a slow job.
const SECONDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

/// Begins to log to standard error, as the settings say. Only the first call in a process counts.
///
/// # Errors
/// The filter cannot be read.
pub fn start_logging(config: &Config) -> anyhow::Result<()> {
    let filter: EnvFilter = config.log.parse().context("the setting “log”")?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let is_text = match config.log_format {
        LogFormat::Text => true,
        LogFormat::Json => false,
        LogFormat::Auto => std::io::stderr().is_terminal(),
    };
    // A second subscriber in the same process is refused; the first goes on.
    let _ = if is_text {
        builder.with_target(false).try_init()
    } else {
        builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init()
    };
    Ok(())
}

/// The metrics of this process. The recorder is one for the process, as `metrics` wants it.
///
/// # Errors
/// Another recorder is there already.
pub fn metrics() -> anyhow::Result<PrometheusHandle> {
    static HANDLE: OnceLock<Result<PrometheusHandle, String>> = OnceLock::new();
    let handle = HANDLE.get_or_init(|| {
        PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)
            .and_then(PrometheusBuilder::install_recorder)
            .map_err(|error| error.to_string())
    });
    handle.clone().map_err(|error| anyhow::anyhow!("metrics cannot be recorded: {error}"))
}
