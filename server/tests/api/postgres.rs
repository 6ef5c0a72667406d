//! The private PostgreSQL, and the command line, with the real binary.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;

use crate::support::{Client, PASSWORD, PATIENCE, until};

/// A `berth` that runs; killed when dropped.
struct Process(Child);

impl Process {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.0.id().cast_signed()).unwrap(), signal).unwrap();
    }

    fn wait(&mut self) -> std::process::ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A data folder that the user `postgres` may pass through.
fn data_dir() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    folder
}

fn berth(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("BERTH_")) {
        command.env_remove(name);
    }
    command.env("BERTH_DATA_DIR", folder).env("BERTH_LISTEN", "127.0.0.1:0").env("BERTH_LOG_FORMAT", "json");
    command.env("BERTH_DATABASE_CONNECTIONS", "6").stdin(Stdio::null());
    command
}

fn run(folder: &Path, arguments: &[&str], input: &str) -> Output {
    let mut child = berth(folder)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[track_caller]
fn prints(folder: &Path, arguments: &[&str], input: &str) -> String {
    let output = run(folder, arguments, input);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// `berth serve`, once it answers; and where.
fn serve(folder: &Path) -> (Process, Client) {
    let mut child = berth(folder).arg("serve").stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let process = Process(child);
    let mut said = Vec::new();
    let address = loop {
        let line = lines.next().unwrap_or_else(|| panic!("it ended: {said:?}")).unwrap();
        let event: Value = serde_json::from_str(&line).unwrap_or_default();
        if event["message"] == "Berth is up" {
            break event["address"].as_str().unwrap().to_owned();
        }
        said.push(line);
    };
    // Its log must go on being read, or it would wait for a reader.
    std::thread::spawn(move || for _ in lines {});
    (process, Client::new(&format!("http://{address}")))
}

fn postmaster(folder: &Path) -> Option<Pid> {
    let text = std::fs::read_to_string(folder.join("postgres/data/postmaster.pid")).ok()?;
    Pid::from_raw(text.lines().next()?.trim().parse().ok()?)
}

fn lives(pid: Pid) -> bool {
    // A dead one that nobody waited for has no working folder.
    test_kill_process(pid).is_ok()
        && std::fs::read_link(format!("/proc/{}/cwd", pid.as_raw_nonzero())).is_ok()
}

async fn token_works(client: &Client, token: &str) {
    let client = client.clone().with_token(token);
    until("the token works", async || (client.get("/v1/servers").await.status == 200).then_some(())).await;
}

#[tokio::test]
async fn what_is_in_the_private_cluster_survives_every_kill() {
    let folder = data_dir();
    let path = folder.path();
    let add = [
        "user",
        "add",
        "--email",
        "ada@example.org",
        "--name",
        "Ada",
        "--role",
        "customer",
        "--password-stdin",
    ];
    assert_eq!(prints(path, &add, PASSWORD), "user=1", "a command starts the cluster for itself");
    assert!(postmaster(path).is_none_or(|pid| !lives(pid)), "and stops it again");
    let (process, client) = serve(path);
    let create = ["token", "create", "--project-of", "ada@example.org", "--name", "ci"];
    let token = prints(path, &create, "");
    assert_eq!(token.len(), 64, "a command uses the cluster of a berth that runs");
    token_works(&client, &token).await;

    let first = postmaster(path).unwrap();
    kill_process(first, Signal::KILL).unwrap();
    until("the postmaster runs again", async || (postmaster(path)? != first).then_some(())).await;
    token_works(&client, &token).await;

    process.signal(Signal::KILL);
    drop(process);
    let (mut process, client) = serve(path);
    token_works(&client, &token).await;
    let taken = run(path, &["serve"], "");
    assert!(!taken.status.success());
    assert!(String::from_utf8_lossy(&taken.stderr).contains("Another berth runs"), "{taken:?}");

    let last = postmaster(path).unwrap();
    process.signal(Signal::TERM);
    assert!(process.wait().success());
    assert!(!lives(last), "the postmaster is gone with a berth that ends in order");
    let log = std::fs::read_to_string(path.join("postgres/log")).unwrap();
    assert!(log.trim_end().ends_with("database system is shut down"), "{log}");
}

#[tokio::test]
async fn a_throwaway_cluster_leaves_nothing_behind() {
    let folder = data_dir();
    let mut child = berth(folder.path())
        .args(["postgres", "--throwaway", "--data-dir"])
        .arg(folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let mut process = Process(child);
    let url = line.trim().strip_prefix("url=").expect("its address").to_owned();
    let mut conn = <sqlx::PgConnection as sqlx::Connection>::connect(&url).await.unwrap();
    let fsync: String = sqlx::query_scalar("show fsync").fetch_one(&mut conn).await.unwrap();
    assert_eq!(fsync, "off");
    drop(conn);
    process.signal(Signal::INT);
    assert!(process.wait().success());
    assert!(!folder.path().join("postgres").exists());
}

#[tokio::test]
async fn a_cluster_that_is_to_be_kept_is_not_thrown_away() {
    let folder = data_dir();
    prints(folder.path(), &["migrate"], "");
    let path = folder.path().to_str().unwrap();
    let refused = run(folder.path(), &["postgres", "--throwaway", "--data-dir", path], "");
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("to be kept"), "{refused:?}");
    assert!(folder.path().join("postgres/data/PG_VERSION").exists());
}

#[tokio::test]
async fn a_data_folder_may_lie_deep() {
    let folder = data_dir();
    let deep = folder.path().join("a-rather-long-name-of-a-folder/".repeat(4));
    prints(&deep, &["migrate"], "");
    assert!(deep.join("postgres/data/PG_VERSION").exists());
}

#[tokio::test]
async fn those_who_migrate_at_once_take_turns() {
    let database = crate::support::Database::create().await;
    sqlx::raw_sql("drop schema public cascade; create schema public").execute(database.pool()).await.unwrap();
    let options: sqlx::postgres::PgConnectOptions = database.url().parse().unwrap();
    let all = (0..4).map(|_| berth_server::db::migrate(&options));
    for done in futures_util::future::join_all(all).await {
        done.unwrap();
    }
    let applied: i64 =
        sqlx::query_scalar("select count(*) from _sqlx_migrations").fetch_one(database.pool()).await.unwrap();
    assert_eq!(applied, berth_server::db::MIGRATIONS.iter().count() as i64);
    assert!(berth_server::db::is_migrated(database.pool()).await.unwrap());
}

#[tokio::test]
async fn a_database_of_a_newer_berth_is_refused() {
    let database = crate::support::Database::create().await;
    sqlx::query(
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
         values (9999, 'from the future', true, '\\x00', 1)",
    )
    .execute(database.pool())
    .await
    .unwrap();
    let folder = data_dir();
    let output =
        berth(folder.path()).env("BERTH_DATABASE_URL", database.url()).arg("migrate").output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("newer Berth") && said.contains("9999"), "{said}");
}

#[test]
fn a_wrong_setting_is_refused_by_its_name() {
    let folder = data_dir();
    let output = berth(folder.path()).env("BERTH_JOB_LEASE_SECONDS", "soon").arg("serve").output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("“BERTH_JOB_LEASE_SECONDS”"), "{output:?}");
    let file = folder.path().join("berth.toml");
    std::fs::write(&file, "lissten = 5\n").unwrap();
    let output = berth(folder.path()).arg("--config").arg(&file).arg("serve").output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("“lissten”"), "{output:?}");
}

#[tokio::test]
async fn a_taken_port_is_said_in_a_sentence() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = data_dir();
    let address = taken.local_addr().unwrap().to_string();
    let output = berth(folder.path()).env("BERTH_LISTEN", &address).arg("serve").output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains(&format!("{address} is taken")), "{output:?}");
}
