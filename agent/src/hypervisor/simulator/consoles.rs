//! Consoles of VMs without a guest: a serial port that greets and echoes, a screen that lets everybody in and shows
//! nothing.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use berth_model::agent::{ConsoleKind, VmSpec};
use berth_model::{Timestamp, VmId};

use crate::screenshot::Picture;

/// What an RFB server says first (RFC 6143, section 7.1.1).
const RFB_GREETING: &[u8] = b"RFB 003.008\n";
/// RFB's word for a screen that asks for no password.
const RFB_NO_SECURITY: u8 = 1;
/// Size of the screen in text mode.
const SCREEN: (u32, u32) = (720, 400);

/// The consoles that are open.
#[derive(Default)]
pub struct Open(Mutex<Vec<(VmId, Weak<UnixStream>)>>);

impl Open {
    /// Opens a console: it greets, and a serial port echoes what is typed.
    pub fn open(&self, id: VmId, spec: &VmSpec, kind: ConsoleKind) -> std::io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        let greeting = match kind {
            ConsoleKind::Vnc => RFB_GREETING.to_vec(),
            ConsoleKind::Serial => {
                format!("\r\nSimulated VM {id}\r\n{} login: ", spec.seed.hostname).into_bytes()
            }
        };
        let ours = Arc::new(ours);
        let held = Arc::downgrade(&ours);
        std::thread::Builder::new().name(format!("console-{id}")).spawn(move || {
            // It ends when whoever looks is gone, or the VM stops.
            drop(play(&ours, &greeting, kind));
        })?;
        let mut open = self.all();
        open.retain(|(_, stream)| stream.strong_count() > 0);
        open.push((id, held));
        Ok(theirs)
    }

    /// Closes all of a VM's.
    pub fn hang_up(&self, id: VmId) {
        self.all().retain(|(vm, stream)| {
            let stream = stream.upgrade();
            if *vm == id
                && let Some(stream) = &stream
            {
                // Closed by the other side already is as good.
                drop(stream.shutdown(Shutdown::Both));
            }
            *vm != id && stream.is_some()
        });
    }

    fn all(&self) -> MutexGuard<'_, Vec<(VmId, Weak<UnixStream>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn play(mut stream: &UnixStream, greeting: &[u8], kind: ConsoleKind) -> std::io::Result<()> {
    stream.write_all(greeting)?;
    let mut typed = [0; 1024];
    if kind == ConsoleKind::Vnc {
        admit(stream)?;
    }
    loop {
        let read = stream.read(&mut typed)?;
        match (read, kind) {
            (0, _) => return Ok(()),
            (n, ConsoleKind::Serial) => stream.write_all(&typed[..n])?,
            (_, ConsoleKind::Vnc) => {}
        }
    }
}

/// The rest of RFB's handshake: no password, and an empty screen that has no name.
fn admit(mut stream: &UnixStream) -> std::io::Result<()> {
    stream.read_exact(&mut [0; RFB_GREETING.len()])?;
    stream.write_all(&[1, RFB_NO_SECURITY])?;
    stream.read_exact(&mut [0; 1])?;
    stream.write_all(&[0; 4])?;
    stream.read_exact(&mut [0; 1])?;
    let (width, height) = (SCREEN.0.to_be_bytes(), SCREEN.1.to_be_bytes());
    let (format, name) = ([32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0], [0; 4]);
    stream.write_all(&[&width[2..], &height[2..], &format[..], &name[..]].concat())
}

/// What it wrote: that it was started.
pub fn log(id: VmId, started: Option<Timestamp>, max_bytes: usize) -> Vec<u8> {
    let log = started.map(|at| format!("Simulated VM {id}\nStarted at {at}\n")).unwrap_or_default();
    log.as_bytes()[log.len().saturating_sub(max_bytes)..].to_vec()
}

/// A picture: each VM has a colour of its own.
pub fn screen(id: VmId) -> Result<Picture, String> {
    let [.., red, green, blue] = id.0.wrapping_mul(0x009e_3779).to_be_bytes();
    let (width, height) = SCREEN;
    let pixels = usize::try_from(width * height).unwrap_or_default();
    Picture::of_rgb(width, height, &[red, green, blue].repeat(pixels))
}
