//! The source's end of a way.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use berth_model::NodeId;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::runtime::Handle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::receive::{read_line, say};
use super::sockets::own;
use super::{BUFFER_BYTES, Channel, Hello, SocketsFolder, Thing, Welcome, guard};
use crate::hypervisor::HypervisorError;

/// How long the other node may take to let a connection in.
const OPEN_PATIENCE: Duration = Duration::from_secs(15);
/// Longest silence while a disk is sent.
const SILENCE: Duration = Duration::from_secs(60);

/// The way to the node that awaits a VM, or offers a volume. When it is dropped, all that it carries is cut.
pub struct Way {
    line: Arc<Line>,
    runtime: Handle,
    cut: CancellationToken,
}

struct Line {
    thing: Thing,
    secret: String,
    host: String,
    port: u16,
    name: String,
    connector: TlsConnector,
}

impl Drop for Way {
    fn drop(&mut self) {
        self.cut.cancel();
    }
}

impl Way {
    /// To be called within the async runtime.
    pub(super) fn new(
        thing: Thing,
        (host, port, node): (&str, u16, NodeId),
        secret: &str,
        config: Arc<ClientConfig>,
    ) -> Self {
        let line = Line {
            thing,
            secret: secret.to_owned(),
            host: host.to_owned(),
            port,
            name: format!("node-{node}.berth.internal"),
            connector: TlsConnector::from(config),
        };
        Self { line: Arc::new(line), runtime: Handle::current(), cut: CancellationToken::new() }
    }

    /// Cuts all that it carries; it can be asked still.
    pub fn cut(&self) {
        self.cut.cancel();
    }

    /// Has the VM arrived there? The error says why the node cannot be asked.
    pub fn has_arrived(&self) -> Result<bool, HypervisorError> {
        let opened = self.runtime.block_on(self.line.open(Channel::Ask));
        opened.map(|(_, welcome)| welcome.arrived).map_err(|e| self.unreached(&e))
    }

    /// A stream to what takes a disk there, or gives a volume, with a limit on silence.
    pub fn disk(&self) -> Result<std::os::unix::net::UnixStream, HypervisorError> {
        let opened = self.runtime.block_on(self.line.open(Channel::Disk));
        let (mut stream, _) = opened.map_err(|e| self.unreached(&e))?;
        let (theirs, ours) = std::os::unix::net::UnixStream::pair()?;
        theirs.set_write_timeout(Some(SILENCE))?;
        theirs.set_read_timeout(Some(SILENCE))?;
        ours.set_nonblocking(true)?;
        let _runtime = self.runtime.enter();
        let mut ours = UnixStream::from_std(ours)?;
        tokio::spawn(self.cut.clone().run_until_cancelled_owned(async move {
            copy_bidirectional_with_sizes(&mut stream, &mut ours, BUFFER_BYTES, BUFFER_BYTES).await
        }));
        Ok(theirs)
    }

    /// Socket files that lead there.
    pub fn sockets(&self, domain: &str) -> Result<SocketsFolder, HypervisorError> {
        let sockets = SocketsFolder::make(domain)?;
        let _runtime = self.runtime.enter();
        let channels = [
            (Channel::Driver, sockets.driver()),
            (Channel::Memory, sockets.memory()),
            (Channel::Disks, sockets.disks()),
        ];
        for (channel, path) in channels {
            let listener = UnixListener::bind(&path)?;
            if channel != Channel::Driver {
                own(&path)?;
            }
            let carried = accept(Arc::clone(&self.line), channel, listener, self.cut.clone());
            tokio::spawn(self.cut.clone().run_until_cancelled_owned(carried));
        }
        Ok(sockets)
    }

    fn unreached(&self, e: &io::Error) -> HypervisorError {
        let Line { host, port, .. } = &*self.line;
        HypervisorError::Unavailable(format!("The other node, {host} port {port}: {e}"))
    }
}

async fn accept(line: Arc<Line>, channel: Channel, listener: UnixListener, cut: CancellationToken) {
    while let Ok((mut here, _)) = listener.accept().await {
        let line = Arc::clone(&line);
        let carried = async move {
            let (mut there, _) = line.open(channel).await?;
            copy_bidirectional_with_sizes(&mut here, &mut there, BUFFER_BYTES, BUFFER_BYTES).await
        };
        let told = async move {
            if let Err(e) = carried.await {
                tracing::warn!(error = %e, ?channel, "a connection of a move broke");
            }
        };
        tokio::spawn(cut.clone().run_until_cancelled_owned(told));
    }
}

impl Line {
    async fn open(&self, channel: Channel) -> io::Result<(TlsStream<TcpStream>, Welcome)> {
        let open = async {
            let tcp = TcpStream::connect((self.host.as_str(), self.port)).await?;
            guard(&tcp)?;
            let name = ServerName::try_from(self.name.clone()).map_err(io::Error::other)?;
            let mut stream = self.connector.connect(name, tcp).await?;
            say(&mut stream, &Hello { thing: self.thing, secret: self.secret.clone(), channel }).await?;
            let welcome: Welcome = serde_json::from_str(&read_line(&mut stream).await?)?;
            match welcome.error {
                Some(error) => Err(io::Error::other(error)),
                None => Ok((stream, welcome)),
            }
        };
        tokio::time::timeout(OPEN_PATIENCE, open).await?
    }
}
