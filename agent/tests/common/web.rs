//! A small web server that gives out one file, and cuts connections as it is told.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// How it behaves.
#[derive(Debug, Clone)]
pub struct Manner {
    /// What is given out.
    pub file: Vec<u8>,
    /// A connection is cut after so many bytes of the file.
    pub cut_after: Option<usize>,
    /// So many connections are cut like that; then none.
    pub cuts: usize,
    /// Does it know ranges?
    pub ranges: bool,
}

/// The server; it ends with the process.
pub struct Web {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

struct State {
    manner: Manner,
    /// Where each request wanted to begin.
    begins: Vec<usize>,
}

impl Web {
    pub fn open(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { manner, begins: vec![] }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let _cut_off = answer(stream, &shared);
            }
        });
        Self { address, state }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Where each request so far wanted to begin.
    pub fn begins(&self) -> Vec<usize> {
        self.state.lock().unwrap().begins.clone()
    }

    /// Behaves otherwise from now on.
    pub fn change(&self, change: impl FnOnce(&mut Manner)) {
        change(&mut self.state.lock().unwrap().manner);
    }
}

fn answer(mut stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut begin = None;
    let mut path = String::new();
    for line in BufReader::new(stream.try_clone()?).lines() {
        let line = line?.to_ascii_lowercase();
        if let Some(rest) = line.strip_prefix("get ") {
            path = rest.split(' ').next().unwrap_or_default().to_owned();
        }
        if let Some(range) = line.strip_prefix("range: bytes=") {
            begin = range.trim_end_matches('-').parse::<usize>().ok();
        }
        if line.is_empty() {
            break;
        }
    }
    let (manner, cut) = {
        let mut state = state.lock().unwrap();
        state.begins.push(begin.unwrap_or(0));
        let cut = state.manner.cut_after.filter(|_| state.manner.cuts > 0);
        state.manner.cuts = state.manner.cuts.saturating_sub(1);
        (state.manner.clone(), cut)
    };
    if let Some(to) = path.strip_prefix("/to/") {
        return write!(stream, "HTTP/1.1 302 Found\r\nlocation: http://{to}\r\ncontent-length: 0\r\n\r\n");
    }
    if path == "/missing" {
        return write!(stream, "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    }
    let (all, from) = (manner.file.len(), begin.filter(|_| manner.ranges).unwrap_or(0));
    let status = match from {
        0 => "200 OK".to_owned(),
        from => format!("206 Partial Content\r\ncontent-range: bytes {from}-{}/{all}", all.saturating_sub(1)),
    };
    let rest = manner.file.get(from..).unwrap_or_default();
    write!(
        stream,
        "HTTP/1.1 {status}\r\netag: \"one\"\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        rest.len()
    )?;
    stream.write_all(&rest[..cut.unwrap_or(all).min(rest.len())])
}
