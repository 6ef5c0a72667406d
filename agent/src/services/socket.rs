//! The ear at a card: a packet socket on the node's end of it, which hears what the services answer and
//! nothing else. The kernel sorts that out, so a guest that is silent, or speaks with the world, costs nothing.
//!
//! It hears frames as they leave the guest, before any filter of the node; what it says goes to the guest
//! alone.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netdevice, recv, send};
use socket2::{SockFilter, SockRef};

use super::SERVICE_V4;
use super::frame::{DHCP, DHCPV6, FRAME_MAX_BYTES};
use crate::hypervisor::libvirt::ffi;

/// Bytes of frames that may wait to be read.
const RECEIVE_BYTES: usize = 64 * 1024;

/// A packet socket on one interface.
#[derive(Debug)]
pub struct Ear {
    socket: OwnedFd,
    index: u32,
}

impl Ear {
    /// Listens on an interface; nothing where there is none.
    pub fn open(interface: &str) -> io::Result<Option<Self>> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Of no protocol, it hears nothing until it is bound.
        let socket = rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?;
        let index = match netdevice::name_to_index(&socket, interface) {
            Ok(index) => index,
            Err(rustix::io::Errno::NODEV) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let options = SockRef::from(&socket);
        options.attach_filter(&filter())?;
        options.set_recv_buffer_size(RECEIVE_BYTES)?;
        ffi::listen_on_interface(socket.as_fd(), index)?;
        Ok(Some(Self { socket, index }))
    }

    /// Is it on what has this name now?
    pub fn is_on(&self, interface: &str) -> bool {
        netdevice::name_to_index(&self.socket, interface).is_ok_and(|index| index == self.index)
    }

    /// The next frame; nothing when none waits.
    pub fn hear<'a>(&self, buffer: &'a mut [u8; FRAME_MAX_BYTES]) -> io::Result<Option<&'a [u8]>> {
        match recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((length, _)) => Ok(Some(&buffer[..length])),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Sends a frame: at a card to the guest, at a bridge to all its ports. One that is lost is asked for again.
    pub fn say(&self, frame: &[u8]) {
        if let Err(e) = send(&self.socket, frame, SendFlags::DONTWAIT) {
            tracing::debug!(error = %e, "a frame to a guest was lost");
        }
    }
}

impl AsFd for Ear {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What is heard, as a program of the kernel's packet filter: a line each, with where to go on when its
/// condition holds and when not.
fn filter() -> Vec<SockFilter> {
    const WORD: u16 = 0x20;
    const HALF: u16 = 0x28;
    const BYTE: u16 = 0x30;
    const HALF_BEHIND_HEADER: u16 = 0x48;
    const HEADER_LENGTH: u16 = 0xb1;
    const EQUAL: u16 = 0x15;
    const ANY_BIT: u16 = 0x45;
    const RETURN: u16 = 0x06;
    // What the kernel knows of a frame beside its bytes.
    const KIND: u32 = 0xffff_f000 + 4;
    const HAS_VLAN: u32 = 0xffff_f000 + 48;
    const OUTGOING: u32 = 4;
    const NO: usize = 27;
    const YES: usize = 28;
    let service = SERVICE_V4.to_bits();
    let program: [(u16, u32, usize, usize); 29] = [
        (WORD, KIND, 1, 1),
        (EQUAL, OUTGOING, NO, 2),
        (WORD, HAS_VLAN, 3, 3),
        (EQUAL, 0, 4, NO),
        // What kind of frame?
        (HALF, 12, 5, 5),
        (EQUAL, 0x0806, 8, 6),
        (EQUAL, 0x86dd, 10, 7),
        (EQUAL, 0x0800, 17, NO),
        // ARP: for whom?
        (WORD, 38, 9, 9),
        (EQUAL, service, YES, NO),
        // IPv6: a router solicitation, or DHCPv6?
        (BYTE, 20, 11, 11),
        (EQUAL, 58, 12, 14),
        (BYTE, 54, 13, 13),
        (EQUAL, 133, YES, NO),
        (EQUAL, 17, 15, NO),
        (HALF, 56, 16, 16),
        (EQUAL, DHCPV6.0 as u32, YES, NO),
        // IPv4: to the service, or a broadcast for a DHCP server that is not a later fragment?
        (WORD, 30, 18, 18),
        (EQUAL, service, YES, 19),
        (EQUAL, u32::MAX, 20, NO),
        (BYTE, 23, 21, 21),
        (EQUAL, 17, 22, NO),
        (HALF, 20, 23, 23),
        (ANY_BIT, 0x1fff, NO, 24),
        (HEADER_LENGTH, 14, 25, 25),
        (HALF_BEHIND_HEADER, 16, 26, 26),
        (EQUAL, DHCP.0 as u32, YES, NO),
        (RETURN, 0, NO, NO),
        (RETURN, FRAME_MAX_BYTES as u32, YES, YES),
    ];
    let line = |(n, (code, value, then, or)): (usize, (u16, u32, usize, usize))| {
        // Only conditions jump, and only forward.
        let jump = |to: usize| u8::try_from(to.saturating_sub(n + 1)).unwrap_or_default();
        let (then, or) = if matches!(code, EQUAL | ANY_BIT) { (jump(then), jump(or)) } else { (0, 0) };
        SockFilter::new(code, then, or, value)
    };
    program.into_iter().enumerate().map(line).collect()
}
