//! An S3 server for tests, with a bucket.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use berth_model::agent::{BackupStore, StoreSecret};

use crate::libvirt_common::{text, wait_for};

/// The bucket that is there.
pub const BUCKET: &str = "backups";

/// It ends when this is dropped.
pub struct S3 {
    server: Child,
    address: SocketAddr,
}

impl S3 {
    /// Starts one that listens on `address`, port 0 for any, and logs to `log`. Behind the words of `within`, as
    /// those of `nsenter`; its bucket is to be [made](S3::make_bucket) where it can be reached.
    pub fn start(within: &[&str], address: &str, log: &Path) -> Self {
        let program = program();
        let (host, port) = address.rsplit_once(':').unwrap();
        let words = [within, &[text(&program), "-H", host, "-p", port]].concat();
        let server = Command::new(words[0])
            .args(&words[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(log).unwrap())
            .spawn()
            .unwrap();
        // It says which port it took.
        let said = format!("http://{host}:");
        let port = wait_for("the S3 server", || {
            let lines = BufReader::new(std::fs::File::open(log).unwrap()).lines().map_while(Result::ok);
            lines
                .filter_map(|line| {
                    let port = line.split_once(&said)?.1;
                    port.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
                })
                .next()
        });
        Self { server, address: SocketAddr::new(host.parse().unwrap(), port) }
    }

    pub fn make_bucket(&self) {
        let address = self.address;
        let mut stream = wait_for("the S3 server's port", || TcpStream::connect(address).ok());
        write!(stream, "PUT /{BUCKET} HTTP/1.0\r\nHost: {address}\r\nContent-Length: 0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains(" 200 "), "{answer}");
    }

    pub fn store(&self, bucket: &str) -> BackupStore {
        BackupStore::S3 {
            endpoint: format!("http://{}", self.address),
            region: "us-east-1".to_owned(),
            bucket: bucket.to_owned(),
            prefix: "node-1".to_owned(),
            access_key_id: "somebody".to_owned(),
            secret_access_key: StoreSecret("nobody-knows".to_owned()),
        }
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn program() -> PathBuf {
    let usual = || {
        let cache =
            PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/berth/tools/python");
        let places = std::fs::read_dir(&cache).into_iter().flatten().flatten();
        let programs = places.map(|place| place.path().join("bin/moto_server"));
        programs.into_iter().find(|program| program.exists()).unwrap_or(cache)
    };
    let program = std::env::var_os("BERTH_TEST_MOTO_SERVER").map_or_else(usual, PathBuf::from);
    assert!(
        program.is_file(),
        "{} is missing: `cargo xtask test agent` installs it, or set BERTH_TEST_MOTO_SERVER",
        program.display()
    );
    program
}
