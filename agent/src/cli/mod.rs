//! The command line: the agent itself, and the same functions as the API's, over the unix socket.
//!
//! Exit codes: 0 done; 1 refused or failed; 2 the command or the configuration is wrong; 3 the agent
//! was not reached; 4 there is no such thing; 5 conflict.

mod client;
mod functions;
mod print;
mod run;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use berth_model::ErrorCode;
use berth_model::error::ApiError;
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::config::{Config, ConfigError};

/// The agent of Berth: one per node. It runs virtual machines for a control plane.
#[derive(Debug, Parser)]
#[command(name = "berth-agent", version, max_term_width = 110)]
struct Args {
    /// The configuration file [default: /etc/berth/agent.toml, if there is one].
    #[arg(long, global = true, env = "BERTH_AGENT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The running agent's unix socket [default: as the configuration says].
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Print JSON, as the API answers.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent.
    Serve,
    /// Join a control plane. A running agent takes the new identity over by itself.
    Enrol {
        /// The control plane, https://berth.example.
        #[arg(long)]
        url: String,
        /// What `berth node add` printed.
        #[arg(long, env = "BERTH_AGENT_TOKEN", hide_env_values = true)]
        token: String,
        /// Where the control plane reaches this agent [default: https:// and the listen address].
        #[arg(long, value_name = "https://HOST:PORT")]
        address: Option<String>,
        /// A CA that the control plane's HTTPS certificate stands under, PEM; beside the system's.
        #[arg(long, value_name = "FILE")]
        https_ca: Option<PathBuf>,
        /// Forget the identity that is there.
        #[arg(long)]
        force: bool,
    },
    /// Show what the node is and whether it can work.
    Node,
    /// Virtual machines.
    #[command(subcommand)]
    Vm(VmCommand),
    /// Image files.
    #[command(subcommand)]
    Image(ImageCommand),
    /// Print a completion script for a shell.
    Completions {
        /// Which shell.
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
enum VmCommand {
    /// List all VMs.
    List,
    /// Show one VM.
    Get {
        /// Its number.
        id: i64,
    },
    /// Bring a VM to what a file says, made anew if need be.
    Put {
        /// Its number.
        id: i64,
        /// A VmSpec in JSON; - reads it from standard input.
        file: PathBuf,
    },
    /// Delete a VM, with its disk.
    Delete {
        /// Its number.
        id: i64,
    },
    /// Start a VM.
    Start {
        /// Its number.
        id: i64,
    },
    /// Ask a VM's system to stop.
    Shutdown {
        /// Its number.
        id: i64,
    },
    /// Ask a VM's system to reboot.
    Reboot {
        /// Its number.
        id: i64,
    },
    /// Press a VM's reset button.
    Reset {
        /// Its number.
        id: i64,
    },
    /// Pull a VM's plug.
    PowerOff {
        /// Its number.
        id: i64,
    },
    /// Print the end of what a VM wrote to its serial port.
    Console {
        /// Its number.
        id: i64,
        /// How many lines.
        #[arg(long, short = 'n', default_value_t = 100)]
        lines: usize,
    },
}

#[derive(Debug, Subcommand)]
enum ImageCommand {
    /// List all image files.
    List,
    /// Copy a qcow2 file into the node's store, under its checksum.
    Import {
        /// The file.
        file: PathBuf,
    },
    /// Delete an image file that no VM stands on.
    Delete {
        /// Its checksum.
        sha256: String,
    },
}

/// Why a command failed; a sentence, and the exit code.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Unreached(String),
    #[error("{}", said(.0))]
    Refused(ApiError),
    #[error("{0}")]
    Failed(String),
}

impl CliError {
    fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Usage(_) => 2,
            Self::Unreached(_) => 3,
            Self::Refused(e) if e.code == ErrorCode::NotFound => 4,
            Self::Refused(e) if e.code == ErrorCode::Conflict => 5,
            Self::Refused(_) | Self::Failed(_) => 1,
        })
    }

    fn failed(what: &str, error: &dyn std::error::Error) -> Self {
        Self::Failed(format!("{what}: {error}"))
    }
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.to_string())
    }
}

/// A refusal in full: every field with what is wrong with it.
fn said(error: &ApiError) -> String {
    let fields = error.details.iter().flat_map(|details| &details.fields);
    let lines: Vec<String> =
        fields.map(|field| format!("{}: {}", field.name, field.messages.join(" "))).collect();
    if lines.is_empty() { error.message.clone() } else { lines.join("\n") }
}

impl Args {
    fn config(&self) -> Result<Config, ConfigError> {
        let environment =
            std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        Config::load(self.config.as_deref(), environment)
    }

    fn client(&self) -> Result<client::Client, CliError> {
        let socket = match &self.socket {
            Some(socket) => socket.clone(),
            None => self.config()?.socket(),
        };
        Ok(client::Client::new(socket))
    }
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let args = Args::parse();
    match dispatch(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // Nothing better can be done when this cannot be written either.
            let _ = writeln!(std::io::stderr(), "berth-agent: {e}");
            e.exit_code()
        }
    }
}

fn dispatch(args: &Args) -> Result<(), CliError> {
    match &args.command {
        Command::Serve => run::serve(args.config()?),
        Command::Completions { shell } => {
            clap_complete::generate(*shell, &mut Args::command(), "berth-agent", &mut std::io::stdout());
            Ok(())
        }
        Command::Enrol { url, token, address, https_ca, force } => {
            let enrolment = crate::enrol::Enrolment {
                url: url.clone(),
                token: token.trim().to_owned(),
                address: address.clone(),
                force: *force,
                https_ca_pem: https_ca.as_deref().map(run::read_text).transpose()?,
            };
            run::enrol(&args.config()?, &enrolment)
        }
        Command::Node => functions::node(args),
        Command::Vm(command) => functions::vm(args, command),
        Command::Image(command) => functions::image(args, command),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_make_sense() {
        Args::command().debug_assert();
    }
}
