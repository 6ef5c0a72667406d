//! The target's end of a way.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_model::{VmId, VolumeId};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::{Awaited, BUFFER_BYTES, Channel, Door, Hello, LINE_MAX_BYTES, Moves, Thing, Welcome, guard, tls};
use crate::error::Refusal;

/// How long handshake and first line may take.
const HELLO_PATIENCE: Duration = Duration::from_secs(10);
/// Longest that the other node takes nothing of a volume.
const TAKE_PATIENCE: Duration = Duration::from_secs(120);
/// Connections at once; a move has a handful.
const CONNECTIONS_MAX: usize = 128;
/// Where libvirt listens on its node: as one daemon, or QEMU's own.
const LIBVIRT: [&str; 2] = ["/run/libvirt/virtqemud-sock", "/run/libvirt/libvirt-sock"];

impl Moves {
    /// Opens the port, unless it is open.
    pub(super) fn open(self: &Arc<Self>) -> Result<u16, Refusal> {
        let mut state = self.state();
        if let Some(door) = &state.door {
            return Ok(door.port);
        }
        let acceptor = TlsAcceptor::from(tls::server(&self.tls.identity()?)?);
        let _runtime = Handle::current().enter();
        let listen = || -> io::Result<(TcpListener, u16)> {
            let listener = std::net::TcpListener::bind(self.address)?;
            listener.set_nonblocking(true)?;
            let port = listener.local_addr()?.port();
            Ok((TcpListener::from_std(listener)?, port))
        };
        let (listener, port) = listen().map_err(|e| {
            Refusal::unavailable(format!("The port for moves, {}, cannot be used: {e}.", self.address))
        })?;
        let stop = CancellationToken::new();
        let moves = Arc::clone(self);
        tokio::spawn(stop.clone().run_until_cancelled_owned(moves.listen(listener, acceptor)));
        state.door = Some(Door { port, _stop: stop.drop_guard() });
        Ok(port)
    }

    async fn listen(self: Arc<Self>, listener: TcpListener, acceptor: TlsAcceptor) {
        let seats = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((tcp, _)) => {
                    let (moves, acceptor) = (Arc::clone(&self), acceptor.clone());
                    tokio::spawn(async move {
                        let _seat = seat;
                        if let Err(e) = moves.receive(tcp, acceptor).await {
                            tracing::debug!(error = %e, "a connection of a move ended");
                        }
                    });
                }
                Err(e) => {
                    tracing::warn!(error = %e, "a connection for a move could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn receive(&self, tcp: TcpStream, acceptor: TlsAcceptor) -> io::Result<()> {
        guard(&tcp)?;
        let hello = async {
            let mut stream = acceptor.accept(tcp).await?;
            let hello: Hello = serde_json::from_str(&read_line(&mut stream).await?)?;
            Ok::<_, io::Error>((stream, hello))
        };
        let (mut stream, hello) = tokio::time::timeout(HELLO_PATIENCE, hello).await??;
        match hello.thing {
            Thing::Vm(vm) => {
                let Some(awaited) = self.awaited(vm, &hello.secret) else {
                    tracing::warn!(vm = vm.0, "a node came with a move that is not awaited");
                    return refuse(&mut stream, format!("VM {vm} is not awaited on this node.")).await;
                };
                let cut = awaited.cut.clone();
                drop(cut.run_until_cancelled(self.carry(stream, vm, hello.channel, &awaited)).await);
                Ok(())
            }
            Thing::Volume(id) if self.is_offered(id, &hello.secret) => self.give_volume(stream, id).await,
            Thing::Volume(id) => {
                tracing::warn!(volume = id.0, "a node came for a volume that is not offered");
                refuse(&mut stream, format!("Volume {id} is not offered on this node.")).await
            }
        }
    }

    fn awaited(&self, vm: VmId, secret: &str) -> Option<Arc<Awaited>> {
        let awaited = self.state().awaited.get(&vm).map(|(awaited, _)| Arc::clone(awaited))?;
        is_same(secret, &awaited.secret).then_some(awaited)
    }

    fn is_offered(&self, id: VolumeId, secret: &str) -> bool {
        let state = self.state();
        let offered = state.offered.get(&id).filter(|offered| offered.until > Instant::now());
        offered.is_some_and(|offered| is_same(secret, &offered.secret))
    }

    async fn give_volume(&self, mut stream: TlsStream<TcpStream>, id: VolumeId) -> io::Result<()> {
        let (mut theirs, ours) = std::os::unix::net::UnixStream::pair()?;
        theirs.set_write_timeout(Some(TAKE_PATIENCE))?;
        ours.set_nonblocking(true)?;
        let mut ours = UnixStream::from_std(ours)?;
        let hypervisor = Arc::clone(&self.hypervisor);
        let given = tokio::task::spawn_blocking(move || hypervisor.storage().send(id, &mut theirs));
        welcome(&mut stream).await?;
        let carried = copy(&mut ours, &mut stream).await;
        drop(ours);
        if let Err(e) = given.await? {
            tracing::warn!(volume = id.0, error = %e, "a volume was not given");
        }
        carried?;
        stream.shutdown().await
    }

    async fn carry(
        &self,
        mut stream: TlsStream<TcpStream>,
        id: VmId,
        channel: Channel,
        awaited: &Awaited,
    ) -> io::Result<()> {
        let mut other = match (channel, &awaited.sockets) {
            (Channel::Ask, _) => {
                let hypervisor = Arc::clone(&self.hypervisor);
                let asked = tokio::task::spawn_blocking(move || hypervisor.move_has_arrived(id)).await?;
                return match asked {
                    Ok(arrived) => say(&mut stream, &Welcome { error: None, arrived }).await,
                    Err(e) => refuse(&mut stream, e.to_string()).await,
                };
            }
            (Channel::Disk, _) => return self.take_disk(stream, id).await,
            (_, None) => return refuse(&mut stream, "No guest runs on this node.".to_owned()).await,
            (Channel::Driver, Some(_)) => {
                let socket = LIBVIRT.into_iter().find(|path| Path::new(path).exists()).unwrap_or(LIBVIRT[1]);
                UnixStream::connect(socket).await
            }
            (Channel::Memory, Some(sockets)) => UnixStream::connect(sockets.memory()).await,
            (Channel::Disks, Some(sockets)) => UnixStream::connect(sockets.disks()).await,
        }
        .inspect_err(|e| tracing::warn!(vm = id.0, error = %e, ?channel, "a move's socket is not there"))?;
        welcome(&mut stream).await?;
        copy_bidirectional_with_sizes(&mut stream, &mut other, BUFFER_BYTES, BUFFER_BYTES).await?;
        Ok(())
    }

    async fn take_disk(&self, mut stream: TlsStream<TcpStream>, id: VmId) -> io::Result<()> {
        let (theirs, ours) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut ours = UnixStream::from_std(ours)?;
        let hypervisor = Arc::clone(&self.hypervisor);
        let taken = tokio::task::spawn_blocking(move || hypervisor.move_receive(id, theirs));
        welcome(&mut stream).await?;
        copy_bidirectional_with_sizes(&mut stream, &mut ours, BUFFER_BYTES, BUFFER_BYTES).await?;
        if let Err(e) = taken.await? {
            tracing::warn!(vm = id.0, error = %e, "a disk was not taken");
        }
        Ok(())
    }
}

/// Digests are compared, so that the time it takes says nothing of the secret.
fn is_same(one: &str, other: &str) -> bool {
    Sha256::digest(one) == Sha256::digest(other)
}

/// The first line of a connection.
pub(super) async fn read_line(stream: &mut (impl AsyncReadExt + Unpin)) -> io::Result<String> {
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await? {
            b'\n' => return String::from_utf8(line).map_err(io::Error::other),
            _ if line.len() == LINE_MAX_BYTES => return Err(io::Error::other("the line is too long")),
            byte => line.push(byte),
        }
    }
}

/// Sends a line.
pub(super) async fn say(
    stream: &mut (impl AsyncWriteExt + Unpin),
    what: &impl serde::Serialize,
) -> io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    stream.flush().await
}

async fn welcome(stream: &mut (impl AsyncWriteExt + Unpin)) -> io::Result<()> {
    say(stream, &Welcome { error: None, arrived: false }).await
}

async fn refuse(stream: &mut (impl AsyncWriteExt + Unpin), error: String) -> io::Result<()> {
    say(stream, &Welcome { error: Some(error), arrived: false }).await?;
    stream.shutdown().await
}
