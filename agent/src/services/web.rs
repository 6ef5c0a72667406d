//! The metadata service's own TCP and HTTP: there while a guest asks, gone when it is done.
//!
//! Limits: [`CONNECTIONS`] at once, [`REQUEST_MAX_BYTES`] of a request, [`PATIENCE`] for each. A guest that
//! opens more waits; one that says more, or nothing, is cut off.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, Checksum, Device, DeviceCapabilities, Medium};
use smoltcp::socket::tcp;
use smoltcp::time::Instant as Moment;
use smoltcp::wire::{HardwareAddress, IpCidr, IpProtocol, Ipv4Packet, TcpPacket};

use super::SERVICE_V4;

/// The port of HTTP.
const PORT: u16 = 80;
/// Most connections of one card.
pub const CONNECTIONS: usize = 4;
/// The longest request.
pub const REQUEST_MAX_BYTES: usize = 2048;
/// Most headers of one.
const HEADERS_MAX: usize = 32;
/// Bytes of an answer that are on their way at once.
const SEND_BYTES: usize = 4096;
/// How long a request may take, with its answer.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long it is kept when nothing comes.
const IDLE: Duration = Duration::from_secs(15);
/// The least time between two looks at its timers.
const STEP: Duration = Duration::from_millis(1);
/// Packets that may wait to be taken in.
const QUEUE_MAX: usize = 64;

/// A request, as far as it matters.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// `GET`
    pub method: String,
    /// `/latest/user-data`
    pub path: String,
    /// Was it passed on by somebody? Then who asks is not the server itself.
    pub forwarded: bool,
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Response {
    /// 200
    pub status: u16,
    /// Its text.
    pub body: String,
}

/// A small TCP stack with one HTTP server in it.
pub struct Web {
    interface: Interface,
    device: Queues,
    sockets: SocketSet<'static>,
    connections: Vec<Connection>,
    /// smoltcp counts time from here.
    began: Instant,
    last: Instant,
    due: Instant,
}

struct Connection {
    handle: SocketHandle,
    since: Option<Instant>,
    request: Vec<u8>,
    answer: Option<VecDeque<u8>>,
}

impl Web {
    /// A stack for a card with this largest packet. `seed` is random.
    pub fn new(mtu: u32, seed: u64, now: Instant) -> Self {
        let mut device = Queues { mtu, ..Queues::default() };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut device, Moment::ZERO);
        interface.update_ip_addrs(|ips| {
            let _ = ips.push(IpCidr::new(SERVICE_V4.into(), 32));
        });
        // Everybody is behind the card.
        let _ = interface.routes_mut().add_default_ipv4_route(SERVICE_V4);
        let mut sockets = SocketSet::new(Vec::new());
        let connection = |_| {
            let buffer = |size| tcp::SocketBuffer::new(vec![0; size]);
            let socket = tcp::Socket::new(buffer(REQUEST_MAX_BYTES), buffer(SEND_BYTES));
            Connection { handle: sockets.add(socket), since: None, request: Vec::new(), answer: None }
        };
        let connections = (0..CONNECTIONS).map(connection).collect();
        let mut web = Self { interface, device, sockets, connections, began: now, last: now, due: now };
        web.listen();
        web
    }

    /// Takes a packet in. One that opens a connection too many is dropped: it is sent again.
    pub fn take(&mut self, packet: &[u8]) {
        let listening = |connection: &Connection| {
            self.sockets.get::<tcp::Socket<'_>>(connection.handle).state() == tcp::State::Listen
        };
        if self.device.inbound.len() < QUEUE_MAX && (!opens(packet) || self.connections.iter().any(listening))
        {
            self.device.inbound.push_back(packet.to_vec());
        }
    }

    /// Works on what was taken in and what is due; gives the packets to be sent.
    pub fn run(&mut self, now: Instant, answer: &mut dyn FnMut(&Request) -> Response) -> Vec<Vec<u8>> {
        if !self.device.inbound.is_empty() {
            self.last = now;
        }
        let moment = self.moment(now);
        self.interface.poll(moment, &mut self.device, &mut self.sockets);
        for connection in &mut self.connections {
            connection.work(self.sockets.get_mut(connection.handle), now, answer);
        }
        // What ends a connection is sent before its place is free for another.
        self.interface.poll(moment, &mut self.device, &mut self.sockets);
        self.listen();
        self.due = self.find_due(now);
        std::mem::take(&mut self.device.outbound)
    }

    /// When it has something to do by itself.
    pub fn due(&self) -> Instant {
        self.due
    }

    fn find_due(&mut self, now: Instant) -> Instant {
        let moment = self.moment(now);
        let delay = self.interface.poll_delay(moment, &self.sockets);
        let timer = delay.map(|delay| now + Duration::from_micros(delay.total_micros()).max(STEP));
        let patience = self.connections.iter().filter_map(|connection| Some(connection.since? + PATIENCE));
        patience.chain(timer).chain([self.last + IDLE]).min().unwrap_or(now)
    }

    /// Is nobody there any more?
    pub fn is_idle(&self, now: Instant) -> bool {
        now >= self.last + IDLE
    }

    fn moment(&self, now: Instant) -> Moment {
        let passed = now.saturating_duration_since(self.began);
        Moment::from_micros(i64::try_from(passed.as_micros()).unwrap_or(i64::MAX))
    }

    fn listen(&mut self) {
        for connection in &mut self.connections {
            let socket: &mut tcp::Socket<'_> = self.sockets.get_mut(connection.handle);
            if !socket.is_open() {
                socket.abort();
                (connection.since, connection.answer) = (None, None);
                connection.request.clear();
                let _ = socket.listen(PORT);
            }
        }
    }
}

impl Connection {
    fn work(
        &mut self,
        socket: &mut tcp::Socket<'_>,
        now: Instant,
        answer: &mut dyn FnMut(&Request) -> Response,
    ) {
        if !socket.is_active() {
            return;
        }
        let since = *self.since.get_or_insert(now);
        if now >= since + PATIENCE {
            socket.abort();
            return;
        }
        while self.answer.is_none() && socket.can_recv() {
            let request = &mut self.request;
            let _ = socket.recv(|bytes| {
                request.extend_from_slice(bytes);
                (bytes.len(), ())
            });
            self.answer = respond(&self.request, answer).map(VecDeque::from);
        }
        if let Some(rest) = &mut self.answer {
            // What comes behind the request is of no interest, and must not be in the way.
            let _ = socket.recv(|bytes| (bytes.len(), ()));
            while socket.can_send() && !rest.is_empty() {
                let sent = socket.send_slice(rest.as_slices().0).unwrap_or_default();
                rest.drain(..sent);
            }
            if rest.is_empty() {
                socket.close();
            }
        } else if socket.state() == tcp::State::CloseWait {
            // It left in the middle of a word.
            socket.close();
        }
    }
}

/// The answer to a request, once it is whole.
fn respond(bytes: &[u8], answer: &mut dyn FnMut(&Request) -> Response) -> Option<Vec<u8>> {
    let status = |status: u16, body: &str| Response { status, body: body.to_owned() };
    match read(bytes) {
        Ok(None) if bytes.len() >= REQUEST_MAX_BYTES => {
            Some(write(&status(431, "The request is too long.\n"), false))
        }
        Ok(None) => None,
        Err(()) => Some(write(&status(400, "This is no request.\n"), false)),
        Ok(Some(request)) => Some(write(&answer(&request), request.method == "HEAD")),
    }
}

/// Reads a request's head; nothing while it is not whole.
pub fn read(bytes: &[u8]) -> Result<Option<Request>, ()> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(()),
    }
    let forwarded = request.headers.iter().any(|header| {
        ["x-forwarded-for", "forwarded"].iter().any(|name| header.name.eq_ignore_ascii_case(name))
    });
    let (Some(method), Some(path)) = (request.method, request.path) else { return Err(()) };
    let path = path.split(['?', '#']).next().unwrap_or_default();
    Ok(Some(Request { method: method.to_owned(), path: path.to_owned(), forwarded }))
}

fn write(response: &Response, head_only: bool) -> Vec<u8> {
    let Response { status, body } = response;
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        _ => "Request Header Fields Too Large",
    };
    let mut text = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n\r\n",
        body.len()
    );
    if !head_only {
        text.push_str(body);
    }
    text.into_bytes()
}

/// Does this packet open a connection?
fn opens(packet: &[u8]) -> bool {
    let Ok(packet) = Ipv4Packet::new_checked(packet) else { return false };
    let tcp = (packet.next_header() == IpProtocol::Tcp).then(|| TcpPacket::new_checked(packet.payload()));
    matches!(tcp, Some(Ok(tcp)) if tcp.syn() && !tcp.ack())
}

/// Packets on their way in and out, for smoltcp.
#[derive(Default)]
struct Queues {
    mtu: u32,
    inbound: VecDeque<Vec<u8>>,
    outbound: Vec<Vec<u8>>,
}

impl Device for Queues {
    type RxToken<'a> = Inbound;
    type TxToken<'a> = Outbound<'a>;

    fn receive(&mut self, _: Moment) -> Option<(Inbound, Outbound<'_>)> {
        let packet = self.inbound.pop_front()?;
        Some((Inbound(packet), Outbound(&mut self.outbound)))
    }

    fn transmit(&mut self, _: Moment) -> Option<Outbound<'_>> {
        Some(Outbound(&mut self.outbound))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = usize::try_from(self.mtu).unwrap_or(usize::MAX);
        // A guest leaves the sum to its card, which is us: between the two nothing is damaged.
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}

struct Inbound(Vec<u8>);

impl phy::RxToken for Inbound {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

struct Outbound<'a>(&'a mut Vec<Vec<u8>>);

impl phy::TxToken for Outbound<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut packet = vec![0; length];
        let result = f(&mut packet);
        self.0.push(packet);
        result
    }
}
