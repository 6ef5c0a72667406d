//! One card under the services' care: its ear, what it is told, and what it asked.

use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_model::VmId;
use berth_model::agent::{CardAsked as Noted, CardLeases, VmSpec};
use rustix::event::epoll::{self, EventData, EventFlags};

use super::dhcp::Answer;
use super::frame::{self, Asked, FRAME_MAX_BYTES};
use super::metadata::Metadata;
use super::offer::Offer;
use super::socket::Ear;
use super::web::{Request, Response, Web};
use super::{ADVERTISE_EVERY, dhcp, dhcpv6, router};
use crate::{clock, entropy};

/// Frames that a card may send at once, and how many more in a second. What is too much waits in the kernel,
/// and is lost there.
const BURST: f64 = 500.0;
const FRAMES_PER_S: f64 = 200.0;
/// How long a card that says too much is not heard.
const REST: Duration = Duration::from_millis(250);
/// Frames of one card before the others have their turn.
const TURN: usize = 64;
/// How much of a path is noted, in characters.
const PATH_MAX: usize = 100;

/// How a card's turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It may have another.
    Open,
    /// Its interface is gone.
    Gone,
}

/// One card.
pub struct Port {
    /// Whose it is.
    pub vm: VmId,
    /// Its MAC address.
    pub mac: String,
    tap: String,
    offer: Offer,
    spec: Arc<VmSpec>,
    ear: Option<Ear>,
    voice: Voice,
    /// When a router is told of next.
    advertise: Option<Instant>,
    /// Until when it is not heard.
    rests: Option<Instant>,
    allowance: Allowance,
}

/// What answers need, and what is noted of them; apart from the ear, so that both can be used at once.
#[derive(Default)]
pub struct Voice {
    web: Option<Web>,
    noted: Book,
}

/// What was asked last.
#[derive(Default)]
struct Book {
    dhcp: Option<Noted>,
    dhcpv6: Option<Noted>,
    router: Option<Noted>,
    metadata: Option<Noted>,
}

/// How many frames may still come.
struct Allowance {
    frames: f64,
    at: Instant,
}

impl Allowance {
    fn take(&mut self, now: Instant) -> bool {
        let more = now.saturating_duration_since(self.at).as_secs_f64() * FRAMES_PER_S;
        (self.frames, self.at) = ((self.frames + more).min(BURST), now);
        let fine = self.frames >= 1.0;
        if fine {
            self.frames -= 1.0;
        }
        fine
    }
}

impl Port {
    /// A card that is not listened to yet.
    pub fn new(vm: VmId, mac: String, tap: String, offer: Offer, spec: Arc<VmSpec>) -> Self {
        let allowance = Allowance { frames: BURST, at: Instant::now() };
        let (ear, advertise, rests) = (None, None, None);
        Self { vm, mac, tap, offer, spec, ear, voice: Voice::default(), advertise, rests, allowance }
    }

    /// Changes what it is told. A guest that runs hears of another router at once.
    pub fn tell(&mut self, offer: Offer, spec: Arc<VmSpec>, now: Instant) {
        if self.offer != offer {
            self.advertise = Some(now);
        }
        (self.offer, self.spec) = (offer, spec);
    }

    /// Listens, if the card is there and nobody does.
    pub fn listen(&mut self, epoll: &OwnedFd, id: u64) -> std::io::Result<()> {
        if self.ear.as_ref().is_some_and(|ear| ear.is_on(&self.tap)) {
            return Ok(());
        }
        self.close();
        if let Some(ear) = Ear::open(&self.tap)? {
            epoll::add(epoll, &ear, EventData::new_u64(id), EventFlags::IN)?;
            self.ear = Some(ear);
            self.advertise = self.offer.v6.as_ref().map(|_| Instant::now());
        }
        Ok(())
    }

    /// Listens no more. What was asked stays noted.
    pub fn close(&mut self) {
        // The kernel takes it off the epoll with it.
        self.ear = None;
        (self.voice.web, self.advertise, self.rests) = (None, None, None);
    }

    /// When there is something to do without being asked.
    pub fn due(&self) -> Option<Instant> {
        self.ear.as_ref()?;
        [self.advertise, self.rests, self.voice.web.as_ref().map(Web::due)].into_iter().flatten().min()
    }

    /// Does it.
    pub fn tick(&mut self, epoll: &OwnedFd, id: u64, now: Instant) {
        let Some(ear) = &self.ear else { return };
        if self.rests.is_some_and(|until| until <= now) {
            self.rests = None;
            let _ = epoll::modify(epoll, ear, EventData::new_u64(id), EventFlags::IN);
        }
        if self.advertise.is_some_and(|at| at <= now) {
            self.advertise = self.offer.v6.as_ref().map(|_| now + ADVERTISE_EVERY);
            router::advertise(&self.offer, None).iter().for_each(|frame| ear.say(frame));
        }
        if self.voice.web.as_ref().is_some_and(|web| web.due() <= now) {
            self.voice
                .serve_web(self.vm, &self.spec, &self.offer, now)
                .iter()
                .for_each(|frame| ear.say(frame));
        }
    }

    /// Answers what waits.
    pub fn turn(&mut self, epoll: &OwnedFd, id: u64, now: Instant) -> Turn {
        let Some(ear) = &self.ear else { return Turn::Open };
        let mut buffer = [0; FRAME_MAX_BYTES];
        for _ in 0..TURN {
            if !self.allowance.take(now) {
                self.rests = Some(now + REST);
                let _ = epoll::modify(epoll, ear, EventData::new_u64(id), EventFlags::empty());
                return Turn::Open;
            }
            match ear.hear(&mut buffer) {
                Ok(None) => break,
                Ok(Some(frame)) => {
                    let answers = self.voice.answer(self.vm, &self.spec, &self.offer, frame, now);
                    answers.iter().for_each(|frame| ear.say(frame));
                }
                // The interface went, or went down. Should it come back, it is found again.
                Err(_) => return Turn::Gone,
            }
        }
        Turn::Open
    }

    /// What it asked for last.
    pub fn leases(&self) -> CardLeases {
        let Book { dhcp, dhcpv6, router, metadata } = &self.voice.noted;
        CardLeases {
            mac: self.mac.clone(),
            interface: self.tap.clone(),
            listening: self.ear.is_some(),
            dhcp: dhcp.clone(),
            dhcpv6: dhcpv6.clone(),
            router: router.clone(),
            metadata: metadata.clone(),
        }
    }
}

impl Voice {
    /// The frames that answer one.
    pub fn answer(
        &mut self,
        vm: VmId,
        spec: &VmSpec,
        offer: &Offer,
        heard: &[u8],
        now: Instant,
    ) -> Vec<Vec<u8>> {
        match frame::read(heard, offer.mac) {
            None => Vec::new(),
            Some(Asked::Arp { from }) => vec![frame::arp(offer.mac, from)],
            Some(Asked::Dhcp(message)) => {
                let address = offer.v4.as_ref().map(|v4| IpAddr::from(v4.address.addr()));
                say(dhcp::answer(offer, message), address, &mut self.noted.dhcp)
            }
            Some(Asked::Dhcpv6 { from, message }) => {
                let address =
                    offer.v6.as_ref().and_then(|v6| v6.addresses.first().copied().map(IpAddr::from));
                say(dhcpv6::answer(offer, from, message), address, &mut self.noted.dhcpv6)
            }
            Some(Asked::Router { from }) => self.solicited(offer, from),
            Some(Asked::Packet(packet)) => {
                let web = self.web.get_or_insert_with(|| Web::new(offer.mtu, entropy::number(), now));
                web.take(packet);
                self.serve_web(vm, spec, offer, now)
            }
        }
    }

    fn solicited(&mut self, offer: &Offer, from: Ipv6Addr) -> Vec<Vec<u8>> {
        let frame = router::advertise(offer, Some(from));
        let gateway = offer.v6.as_ref().and_then(|v6| v6.gateway.map(IpAddr::from));
        let answered = frame.as_ref().map(|_| "advertisement");
        note(&mut self.noted.router, "solicitation", answered, gateway);
        frame.into_iter().collect()
    }

    fn serve_web(&mut self, vm: VmId, spec: &VmSpec, offer: &Offer, now: Instant) -> Vec<Vec<u8>> {
        let Some(web) = &mut self.web else { return Vec::new() };
        let noted = &mut self.noted.metadata;
        let packets = web.run(now, &mut |request| {
            let response = respond(vm, spec, request);
            let path: String = request.path.chars().filter(|c| c.is_ascii_graphic()).take(PATH_MAX).collect();
            let asked = format!("{} {path}", request.method);
            note(noted, &asked, Some(&response.status.to_string()), None);
            response
        });
        if web.is_idle(now) {
            self.web = None;
        }
        packets.iter().map(|packet| frame::packet_v4(offer.mac, packet)).collect()
    }
}

/// Answers a request for metadata.
pub fn respond(vm: VmId, spec: &VmSpec, request: &Request) -> Response {
    let refuse = |status, body: &str| Response { status, body: format!("{body}\n") };
    if request.forwarded {
        return refuse(403, "Metadata is for the server itself, and not passed on.");
    }
    match (request.method.as_str(), request.path.as_str()) {
        ("GET" | "HEAD", path) => match Metadata::new(vm, spec).get(path) {
            Some(body) => Response { status: 200, body },
            None => refuse(404, "There is nothing of this name."),
        },
        // Clients of EC2's second version ask for a token first. Who is on this wire needs none.
        ("PUT", "/latest/api/token") => Response { status: 200, body: "berth".to_owned() },
        _ => refuse(405, "Metadata is read by GET."),
    }
}

fn say(answer: Option<Answer>, address: Option<IpAddr>, noted: &mut Option<Noted>) -> Vec<Vec<u8>> {
    let Some(Answer { asked, answered, frame }) = answer else { return Vec::new() };
    note(noted, asked, answered, address.filter(|_| answered.is_some_and(|word| word != "nak")));
    frame.into_iter().collect()
}

fn note(noted: &mut Option<Noted>, asked: &str, answered: Option<&str>, address: Option<IpAddr>) {
    let count = noted.as_ref().map_or(0, |before| before.count) + 1;
    let (asked, answered) = (asked.to_owned(), answered.map(str::to_owned));
    *noted = Some(Noted { at: clock::now(), asked, answered, address, count });
}
