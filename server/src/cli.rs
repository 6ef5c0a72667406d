//! The command line of `berth`.
//!
//! What a command prints for people goes to standard error, what a script may want to standard
//! output. Commands that need the database use the one `berth serve` uses, and may run beside it.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use berth_model::people::{Role, TokenAccess};
use berth_model::quota::{LimitRequestStatus, QuotaKind};
use berth_model::{LimitRequestId, Timestamp};
use clap::{Args, Parser, Subcommand, ValueEnum};
use sqlx::PgPool;
use tokio::signal::unix::{SignalKind, signal};

use crate::addresses::pool::Written;
use crate::config::Config;
use crate::postgres::{Guest, PrivatePostgres};
use crate::secret::SecretKey;
use crate::serve::{self, Options};
use crate::staff::{self, Staff};
use crate::{accounts, addresses, catalog, clock, db, images, isos, nodes, openapi, quotas, telemetry};

/// Connections of a command to the database.
const CONNECTIONS: u32 = 2;
/// Longest password on standard input.
const PASSWORD_INPUT_MAX: u64 = 4096;

/// Berth: a hosting company in a box.
#[derive(Debug, Parser)]
#[command(name = "berth", version, max_term_width = 100)]
struct Berth {
    /// The settings file, TOML; `berth config` prints every key. Settings may also be BERTH_… in the
    /// environment.
    #[arg(long, global = true, env = "BERTH_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the control plane.
    #[command(after_long_help = Config::reference())]
    Serve,
    /// Bring the database up to date. `serve` does it too.
    Migrate,
    /// Print every setting with its meaning and default, as a settings file.
    Config,
    /// Print the OpenAPI document of the public API.
    Openapi,
    /// Run only the private PostgreSQL, until interrupted; prints `url=…` once it answers.
    Postgres(Postgres),
    /// People.
    #[command(subcommand)]
    User(User),
    /// Who pays.
    #[command(subcommand)]
    Account(Account),
    /// API tokens.
    #[command(subcommand)]
    Token(Token),
    /// How much a project and its account may have.
    #[command(subcommand)]
    Limits(Limits),
    /// What is offered where, and for how much.
    #[command(subcommand)]
    Catalog(Catalog),
    /// Public addresses that are handed out.
    #[command(subcommand)]
    Addresses(Addresses),
    /// System images.
    #[command(subcommand)]
    Image(Image),
    /// ISOs that servers can boot from.
    #[command(subcommand)]
    Iso(Iso),
    /// Machines that run servers.
    #[command(subcommand)]
    Node(Node),
    /// What staff do, from any machine, by the API.
    Staff(Staff),
}

#[derive(Debug, Args)]
struct Postgres {
    /// The data folder, instead of the one in the settings.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// For tests: a new cluster that is quick, not careful, and removed at the end.
    #[arg(long, requires = "data_dir")]
    throwaway: bool,
}

#[derive(Debug, Subcommand)]
enum User {
    /// Add a user. A customer also gets an account and a project `default`.
    Add {
        /// The mail address they sign in with.
        #[arg(long)]
        email: String,
        /// How they are called.
        #[arg(long)]
        name: String,
        /// What they are to the installation: owner, staff or customer.
        #[arg(long)]
        role: Role,
        /// Read the password from standard input. A password in the command line could be seen by others.
        #[arg(long, required = true)]
        password_stdin: bool,
    },
}

#[derive(Debug, Subcommand)]
enum Account {
    /// Let the people and tokens of an account only read, until it is resumed. Its servers run on.
    Suspend {
        /// The mail address of one of its people.
        #[arg(long, value_name = "EMAIL")]
        of: String,
        /// A sentence for the customer: why.
        #[arg(long)]
        reason: String,
    },
    /// Let a suspended account write again.
    Resume {
        /// The mail address of one of its people.
        #[arg(long, value_name = "EMAIL")]
        of: String,
    },
}

#[derive(Debug, Subcommand)]
enum Token {
    /// Make a token and print its 64 characters. They are not shown again.
    Create {
        /// The customer in whose first project it works.
        #[arg(long, value_name = "EMAIL")]
        project_of: String,
        /// What it is for.
        #[arg(long)]
        name: String,
        /// What it may do.
        #[arg(long, value_enum, default_value_t = Access::ReadWrite)]
        access: Access,
        /// When it ends, like 2027-01-31T00:00:00Z; without it, never by itself.
        #[arg(long, value_name = "TIME")]
        expires: Option<Timestamp>,
    },
}

#[derive(Debug, Subcommand)]
enum Limits {
    /// Print what the first project of a customer has of each kind, and may have.
    Show {
        /// The customer's mail address.
        #[arg(long, value_name = "EMAIL")]
        of: String,
    },
    /// Set a limit of the first project of a customer.
    Set {
        /// The customer's mail address.
        #[arg(long, value_name = "EMAIL")]
        of: String,
        /// Of all projects of their account together, instead.
        #[arg(long)]
        account: bool,
        /// Of what: `berth limits show` prints the words.
        kind: QuotaKind,
        /// The limit; without it, the installation's again.
        limit: Option<u32>,
    },
    /// Print the open requests for more.
    Requests,
    /// Give what a request asks for.
    Grant {
        /// The request's number.
        id: LimitRequestId,
        /// For the customer.
        #[arg(long)]
        note: Option<String>,
    },
    /// Decline a request.
    Decline {
        /// The request's number.
        id: LimitRequestId,
        /// For the customer.
        #[arg(long)]
        note: Option<String>,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Access {
    /// GET only.
    Read,
    /// Everything in its project.
    ReadWrite,
}

#[derive(Debug, Subcommand)]
enum Catalog {
    /// Make locations, addresses, server types and prices as a TOML file says. May be repeated.
    Apply {
        /// The catalog.
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum Addresses {
    /// Show all networks: how many of their addresses are held and how many are free.
    List,
    /// Say what of a network is handed out. May be repeated; the last word counts, also that of a catalog.
    Put {
        /// The name of the location where they can be used.
        #[arg(long)]
        location: String,
        /// The network, `10.77.0.0/24`; or for IPv6 the prefix from which a /64 is cut for each server.
        #[arg(long)]
        cidr: String,
        /// Its router. For IPv6 `fe80::1` if not said.
        #[arg(long)]
        gateway: Option<std::net::IpAddr>,
        /// What is handed out: `10.77.0.10-10.77.0.99`, `10.77.0.64/26` or one address. May be repeated; without
        /// any, all that can be used.
        #[arg(long = "range")]
        ranges: Vec<String>,
        /// What of that is not handed out. May be repeated.
        #[arg(long = "reserve")]
        reserved: Vec<String>,
    },
    /// Hand out nothing of a network any more. Who has an address of it keeps it.
    Withdraw {
        /// The network.
        cidr: String,
    },
}

#[derive(Debug, Subcommand)]
enum Image {
    /// Offer a system image, or a new version of one. May be repeated.
    Add {
        /// By it customers order: `debian-12`.
        #[arg(long)]
        name: String,
        /// For customers: `Debian 12`.
        #[arg(long)]
        description: String,
        /// The kind of system: `debian`.
        #[arg(long)]
        os_flavor: String,
        /// Its version: `12`.
        #[arg(long)]
        os_version: Option<String>,
        /// A qcow2 file that stands on no other.
        file: PathBuf,
    },
    /// Offer the system that servers are repaired with, or a new version of it. May be repeated.
    Rescue {
        /// A qcow2 file that stands on no other.
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum Iso {
    /// Offer an ISO, or a new version of one. May be repeated.
    Add {
        /// By it customers name it: `debian-12-netinst`.
        #[arg(long)]
        name: String,
        /// For customers: `Debian 12 (network installation)`.
        #[arg(long)]
        description: String,
        /// The file.
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum Node {
    /// Add a node and print the token with which its agent enrols, once and within an hour.
    Add {
        /// Its name.
        #[arg(long)]
        name: String,
        /// The name of the location it stands in.
        #[arg(long)]
        location: String,
    },
    /// Print a new token for a node that is there.
    Token {
        /// Its name.
        name: String,
    },
}

/// Runs what the command line says.
pub fn main() -> ExitCode {
    let berth = Berth::parse();
    // Telling this once, here, is the end of every error.
    match run(berth) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "berth: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(berth: Berth) -> anyhow::Result<()> {
    match berth.command {
        // These need no settings, and so say nothing of wrong ones.
        Command::Config => return print(&Config::reference()),
        Command::Openapi => return print(&openapi::text()?),
        Command::Staff(staff) => {
            let runtime = tokio::runtime::Runtime::new().context("the async runtime")?;
            return print(&runtime.block_on(staff::run(staff, &staff::file()?, password_from_stdin))?);
        }
        _ => {}
    }
    let config = Config::load(berth.config.as_deref(), environment())?;
    telemetry::start_logging(&config)?;
    let runtime = tokio::runtime::Runtime::new().context("the async runtime")?;
    runtime.block_on(async {
        match berth.command {
            Command::Serve => serve(config).await,
            Command::Postgres(postgres) => run_postgres(config, postgres).await,
            command => {
                let guest = Guest::enter(&config).await?;
                let done = with_database(&config, &guest, command).await;
                guest.leave().await;
                done
            }
        }
    })
}

/// The environment, as far as it is text.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    Ok(out.write_all(text.as_bytes()).and_then(|()| out.flush())?)
}

/// Until somebody wants this process to end: Ctrl-C, or a service manager.
struct Interrupted {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Interrupted {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

async fn serve(config: Config) -> anyhow::Result<()> {
    // Before anything is started: a signal in the middle must not leave half of it behind.
    let mut interrupted = Interrupted::new()?;
    let mut running = serve::start(config, Options::from_environment()?).await?;
    let end = tokio::select! {
        () = interrupted.wait() => Ok(()),
        what = running.lost() => Err(anyhow::anyhow!("A part of the control plane failed, so it ends: {what}.")),
    };
    running.shutdown().await;
    end
}

async fn run_postgres(config: Config, wanted: Postgres) -> anyhow::Result<()> {
    let mut interrupted = Interrupted::new()?;
    let config = Config { data_dir: wanted.data_dir.unwrap_or_else(|| config.data_dir.clone()), ..config };
    let postgres = if wanted.throwaway {
        PrivatePostgres::start_throwaway(&config.data_dir, config.postgres_bin_dir.as_deref()).await?
    } else {
        PrivatePostgres::start(&config).await?
    };
    // Nobody may be reading any more; that is no reason to stay.
    if print(&format!("url={}\n", postgres.url())).is_ok() {
        interrupted.wait().await;
    }
    postgres.stop().await;
    Ok(())
}

async fn with_database(config: &Config, guest: &Guest, command: Command) -> anyhow::Result<()> {
    // Every command works on an installation that was never served, too.
    db::migrate(&guest.options()).await?;
    let pool = db::connect(guest.options(), CONNECTIONS).await?;
    let done = match command {
        Command::User(User::Add { email, name, role, password_stdin: _ }) => {
            let password = password_from_stdin()?;
            let user = accounts::cli::user_add(&pool, &email, &name, role, &password, clock::now()).await?;
            print(&format!("user={user}\n"))
        }
        Command::Account(account) => {
            let (of, reason) = match &account {
                Account::Suspend { of, reason } => (of, Some(reason.as_str())),
                Account::Resume { of } => (of, None),
            };
            let accounts = accounts::cli::account_suspend(&pool, of, reason, clock::now()).await?;
            print(&accounts.iter().map(|id| format!("account={id}\n")).collect::<String>())
        }
        Command::Token(Token::Create { project_of, name, access, expires }) => {
            let access = match access {
                Access::Read => TokenAccess::Read,
                Access::ReadWrite => TokenAccess::ReadWrite,
            };
            let secret =
                accounts::cli::token_create(&pool, &project_of, &name, access, expires, clock::now()).await?;
            print(&format!("{}\n", secret.expose()))
        }
        Command::Limits(limits) => print(&limits_done(&pool, config, limits).await?),
        Command::Catalog(Catalog::Apply { file }) => {
            let applied = catalog::cli::apply(&pool, &file).await?;
            print(&format!(
                "locations={}\nserver_types={}\naddresses_new={}\n",
                applied.locations, applied.server_types, applied.addresses_new
            ))
        }
        Command::Addresses(addresses) => print(&change_addresses(&pool, addresses).await?),
        Command::Image(Image::Add { name, description, os_flavor, os_version, file }) => {
            let image = images::cli::Add {
                name: &name,
                description: &description,
                os_flavor: &os_flavor,
                os_version: os_version.as_deref(),
                file: &file,
            };
            let id = images::cli::add(&pool, &config.data_dir, &image, clock::now()).await?;
            print(&format!("image={id}\n"))
        }
        Command::Image(Image::Rescue { file }) => {
            images::cli::add_rescue(&pool, &config.data_dir, &file).await?;
            print("rescue=linux64\n")
        }
        Command::Iso(Iso::Add { name, description, file }) => {
            let words = (name.as_str(), description.as_str());
            let id = isos::cli::add(&pool, &config.data_dir, words, &file, clock::now()).await?;
            print(&format!("iso={id}\n"))
        }
        Command::Node(node) => print(&format!("{}\n", node_token(&pool, config, node).await?)),
        Command::Migrate => Ok(()),
        Command::Serve | Command::Config | Command::Openapi | Command::Postgres(_) | Command::Staff(_) => {
            unreachable!("these are run without a database")
        }
    };
    pool.close().await;
    done
}

async fn change_addresses(pool: &PgPool, addresses: Addresses) -> anyhow::Result<String> {
    match addresses {
        Addresses::List => addresses::cli::list(pool).await,
        Addresses::Put { location, cidr, gateway, ranges, reserved } => {
            let written = Written { cidr: &cidr, gateway, ranges: &ranges, reserved: &reserved };
            let new = addresses::cli::put(pool, &location, &written).await?;
            Ok(format!("addresses_new={new}\n"))
        }
        Addresses::Withdraw { cidr } => {
            let withdrawn = addresses::cli::withdraw(pool, &cidr).await?;
            Ok(format!("addresses_withdrawn={withdrawn}\n"))
        }
    }
}

async fn node_token(pool: &PgPool, config: &Config, node: Node) -> anyhow::Result<String> {
    let key = SecretKey::load_or_create(&config.secret_key_path())?;
    match node {
        Node::Add { name, location } => nodes::cli::add(pool, &key, &name, &location, clock::now()).await,
        Node::Token { name } => nodes::cli::token(pool, &key, &name, clock::now()).await,
    }
}

/// Does it; what is to be printed.
async fn limits_done(pool: &PgPool, config: &Config, limits: Limits) -> anyhow::Result<String> {
    let done = |()| String::new();
    match limits {
        Limits::Show { of } => quotas::cli::show(pool, config, &of).await,
        Limits::Set { of, account, kind, limit } => {
            quotas::cli::set(pool, &of, account, kind, limit).await.map(done)
        }
        Limits::Requests => quotas::cli::requests(pool).await,
        Limits::Grant { id, note } => {
            let answer = quotas::cli::answer(pool, config, id, LimitRequestStatus::Granted, note.as_deref());
            answer.await.map(done)
        }
        Limits::Decline { id, note } => {
            let answer = quotas::cli::answer(pool, config, id, LimitRequestStatus::Declined, note.as_deref());
            answer.await.map(done)
        }
    }
}

fn password_from_stdin() -> anyhow::Result<String> {
    let mut input = std::io::stdin().lock().take(PASSWORD_INPUT_MAX);
    if std::io::stdin().is_terminal() {
        bail!("Pass the password through a pipe: printf '%s' \"$PASSWORD\" | berth user add …");
    }
    let mut text = String::new();
    input.read_to_string(&mut text).context("The password is not text")?;
    // What `echo` and editors put at the end is not part of it.
    let password = text.strip_suffix('\n').unwrap_or(&text);
    let password = password.strip_suffix('\r').unwrap_or(password);
    ensure!(!password.is_empty(), "There is no password on standard input.");
    Ok(password.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Berth::command().debug_assert();
    }
}
