//! A VM's serial port for several who look: QEMU lets in one, so the agent is that one for all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use berth_model::VmId;
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{broadcast, mpsc};

use super::CHUNK_BYTES;
use crate::error::Refusal;

/// Chunks that whoever looks may lie behind.
const BACKLOG: usize = 4096;
/// What is typed and not written yet, in messages.
const TYPED: usize = 16;
/// How long QEMU may take to read what is typed.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);

/// An open serial port; it is closed when nobody holds it.
pub struct Line {
    typed: mpsc::Sender<Bytes>,
    /// Weak, so that those who listen learn that the line has ended.
    said: broadcast::WeakSender<Bytes>,
}

impl Line {
    /// Types something. Not if the line has ended.
    pub async fn say(&self, bytes: Bytes) -> bool {
        self.typed.send(bytes).await.is_ok()
    }

    fn open(stream: UnixStream) -> (Arc<Self>, broadcast::Receiver<Bytes>) {
        let (typed, to_write) = mpsc::channel(TYPED);
        let (said, heard) = broadcast::channel(BACKLOG);
        let line = Self { typed, said: said.downgrade() };
        tokio::spawn(carry(stream, to_write, said));
        (Arc::new(line), heard)
    }
}

/// Carries both ways until the port closes or nobody is there any more. The two do not wait for each other:
/// a guest that is not listened to stands still at its next word, and then does not hear either.
async fn carry(stream: UnixStream, mut typed: mpsc::Receiver<Bytes>, said: broadcast::Sender<Bytes>) {
    let (mut from, mut to) = stream.into_split();
    let listen = async {
        let mut buffer = vec![0; CHUNK_BYTES];
        while let Ok(n @ 1..) = from.read(&mut buffer).await {
            // Nobody listening is no fault: the last one is just leaving.
            let _ = said.send(Bytes::copy_from_slice(&buffer[..n]));
        }
    };
    let speak = async {
        while let Some(bytes) = typed.recv().await {
            let written = tokio::time::timeout(WRITE_PATIENCE, to.write_all(&bytes)).await;
            if !matches!(written, Ok(Ok(()))) {
                return;
            }
        }
    };
    tokio::select! { () = listen => {}, () = speak => {} }
}

type Place = Arc<tokio::sync::Mutex<Weak<Line>>>;

/// The lines that are open.
#[derive(Default)]
pub struct Lines(Mutex<HashMap<VmId, Place>>);

impl Lines {
    /// Joins the line of a VM, opened with `open` if there is none.
    pub async fn join(
        &self,
        vm: VmId,
        open: impl Future<Output = Result<UnixStream, Refusal>>,
    ) -> Result<(Arc<Line>, broadcast::Receiver<Bytes>), Refusal> {
        let place = self.place(vm);
        // Two who come at once must not both open it.
        let mut line = place.lock().await;
        if let Some(line) = line.upgrade()
            && let Some(said) = line.said.upgrade()
        {
            let heard = said.subscribe();
            return Ok((line, heard));
        }
        let (opened, heard) = Line::open(open.await?);
        *line = Arc::downgrade(&opened);
        Ok((opened, heard))
    }

    fn place(&self, vm: VmId) -> Place {
        // Single inserts and removes: whole after any panic.
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        places.retain(|_, place| {
            Arc::strong_count(place) > 1 || place.try_lock().is_ok_and(|l| l.strong_count() > 0)
        });
        Arc::clone(places.entry(vm).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_guest_says_is_heard_while_it_does_not_listen() {
        let lines = Lines::default();
        let (mut guest, port) = UnixStream::pair().unwrap();
        let (line, mut heard) = lines.join(VmId(7), async { Ok(port) }).await.unwrap();
        assert!(line.say(Bytes::from(vec![b'x'; 1 << 22])).await);
        for _ in 0..BACKLOG {
            guest.write_all(b"y").await.unwrap();
            assert_eq!(heard.recv().await.unwrap(), "y");
        }
    }

    #[tokio::test]
    async fn all_who_join_hear_and_type_and_learn_of_the_end() {
        let lines = Lines::default();
        let (mut guest, port) = UnixStream::pair().unwrap();
        let (one, mut heard_by_one) = lines.join(VmId(7), async { Ok(port) }).await.unwrap();
        let (two, mut heard_by_two) = lines.join(VmId(7), async { panic!("it is open") }).await.unwrap();
        guest.write_all(b"login: ").await.unwrap();
        assert_eq!(heard_by_one.recv().await.unwrap(), "login: ");
        assert_eq!(heard_by_two.recv().await.unwrap(), "login: ");
        let mut typed = [0; 4];
        assert!(one.say(Bytes::from_static(b"ro")).await && two.say(Bytes::from_static(b"ot")).await);
        guest.read_exact(&mut typed).await.unwrap();
        typed.sort_unstable();
        assert_eq!(&typed, b"oort");
        drop(guest);
        assert!(matches!(heard_by_one.recv().await, Err(broadcast::error::RecvError::Closed)));

        // It is opened anew although somebody still holds the one that ended.
        let (mut guest, port) = UnixStream::pair().unwrap();
        let (three, _) = lines.join(VmId(7), async { Ok(port) }).await.unwrap();
        drop((one, two, three));
        assert_eq!(guest.read(&mut typed).await.unwrap(), 0, "nobody looks, so it is closed");
    }
}
