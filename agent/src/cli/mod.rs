//! The command line: the agent itself, and the same functions as the API's, over the unix socket.
//!
//! Exit codes: 0 done; 1 refused or failed; 2 the command or the configuration is wrong; 3 the agent
//! was not reached; 4 there is no such thing; 5 conflict.

mod client;
mod files;
mod functions;
mod print;
mod run;
mod shown;
mod words;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use berth_model::ErrorCode;
use berth_model::error::ApiError;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;

use self::functions::Functions;
use crate::config::{Config, ConfigError};

/// The agent of Berth: one per node. It runs virtual machines for a control plane.
#[derive(Debug, Parser)]
#[command(name = "berth-agent", version, max_term_width = 110)]
struct Args {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, clap::Args)]
struct Common {
    /// The configuration file [default: /etc/berth/agent.toml, if there is one].
    #[arg(long, global = true, env = "BERTH_AGENT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The running agent's unix socket [default: as the configuration says].
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Print JSON, as the API answers.
    #[arg(long, global = true)]
    json: bool,
}

/// The commands that are no functions. The functions' own are made from their list, see [`functions`].
#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent.
    Serve,
    /// Say whether the agent would start with this configuration.
    CheckConfig,
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
    /// List the agent's functions.
    Functions,
    /// Print the OpenAPI document of the agent.
    Openapi,
    /// Print a completion script for a shell.
    Completions {
        /// Which shell.
        shell: Shell,
    },
    /// Print the manual page.
    Man,
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

impl Common {
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

/// All commands: ours, and a group for each room of functions.
fn command(functions: &Functions) -> clap::Command {
    functions.groups().into_iter().fold(Args::command(), clap::Command::subcommand)
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let functions = Functions::new();
    let matches = command(&functions).get_matches();
    match dispatch(&functions, &matches) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // Nothing better can be done when this cannot be written either.
            let _ = writeln!(std::io::stderr(), "berth-agent: {e}");
            e.exit_code()
        }
    }
}

fn dispatch(functions: &Functions, matches: &ArgMatches) -> Result<(), CliError> {
    let usage = |e: clap::Error| CliError::Usage(e.to_string());
    let common = Common::from_arg_matches(matches).map_err(usage)?;
    if let Some((group, words)) = matches.subcommand()
        && functions.has(group)
    {
        return functions.run(&common, group, words);
    }
    match Command::from_arg_matches(matches).map_err(usage)? {
        Command::Serve => run::serve(common.config()?),
        Command::CheckConfig => run::check_config(&common.config()?),
        Command::Functions => functions.list(common.json),
        Command::Openapi => {
            let document = crate::functions::openapi();
            print::Output::new(true).show(&document, |_| String::new())
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut command(functions), "berth-agent", &mut std::io::stdout());
            Ok(())
        }
        Command::Man => {
            let page = clap_mangen::Man::new(command(functions)).render(&mut std::io::stdout());
            page.map_err(|e| CliError::failed("The page could not be written", &e))
        }
        Command::Enrol { url, token, address, https_ca, force } => {
            let enrolment = crate::enrol::Enrolment {
                url,
                token: token.trim().to_owned(),
                address,
                force,
                https_ca_pem: https_ca.as_deref().map(run::read_text).transpose()?,
            };
            run::enrol(&common.config()?, &enrolment)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_make_sense() {
        command(&Functions::new()).debug_assert();
    }
}
