//! Network namespaces for tests, and ways to speak in them.
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::fs::File;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, sockopt};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Longest that anything may take on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A network namespace, removed at the end with all that is in it.
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// A new one, with nothing in it but its loopback.
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("berth-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        run("ip", &["netns", "add", &name]);
        let space = Self { name };
        space.ip("link set lo up");
        space
    }

    /// Its name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `call` in it. Sockets that it opens stay in it.
    pub fn within<T: Send>(&self, call: impl FnOnce() -> T + Send) -> T {
        let file = File::open(format!("/run/netns/{}", self.name)).unwrap();
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                call()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// `ip …` in it.
    pub fn ip(&self, words: &str) -> String {
        self.run("ip", &words.split(' ').collect::<Vec<_>>())
    }

    /// A program in it, that must succeed.
    pub fn run(&self, program: &str, args: &[&str]) -> String {
        let all = [&["netns", "exec", &self.name, program], args].concat();
        run("ip", &all)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A raw ICMPv6 socket on a namespace's `eth0`.
pub struct Icmp {
    socket: OwnedFd,
}

impl Icmp {
    /// Opens it.
    pub fn new(space: &Namespace) -> Self {
        let socket = space.within(|| {
            rustix::net::socket(AddressFamily::INET6, SocketType::RAW, Some(ipproto::ICMPV6)).unwrap()
        });
        // Neighbours take nothing that came through a router.
        sockopt::set_ipv6_unicast_hops(&socket, Some(255)).unwrap();
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE)).unwrap();
        Self { socket }
    }

    /// Sends a message; the kernel fills in its checksum.
    pub fn send(&self, to: &str, kind: u8, body: &[u8]) {
        let to: Ipv6Addr = to.parse().unwrap();
        let message = [&[kind, 0, 0, 0], body].concat();
        let to = SocketAddrV6::new(to, 0, 0, 0);
        rustix::net::sendto(&self.socket, &message, SendFlags::empty(), &to).unwrap();
    }

    /// The next message of one of these kinds, with its body.
    pub fn next(&self, kinds: &[u8]) -> (u8, Vec<u8>) {
        loop {
            let mut buffer = [0_u8; 2048];
            let (length, _) = rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty()).unwrap();
            if kinds.contains(&buffer[0]) {
                return (buffer[0], buffer[4..length].to_vec());
            }
        }
    }
}
