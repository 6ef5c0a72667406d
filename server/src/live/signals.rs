//! One connection that listens for all of this process, and wakes whoever waits.
//!
//! A signal only wakes: who is woken looks into the database, and looks from time to time anyway.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::{broadcast, watch};
use tokio::time::sleep;

use crate::vital::Vital;

/// After the connection was lost and could not be made again at once.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);
/// Payloads of samples that wait for who takes them in.
const LOAD_MAX: usize = 256;
/// Ended rights that wait for sockets to hear of them.
const ACCESS_MAX: usize = 64;

/// What is listened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// A job is due.
    Jobs,
    /// A change was committed and has no `seq` yet.
    Outbox,
    /// Events were given their `seq`.
    Published,
    /// Somebody looks at other servers than before.
    Watch,
    /// Load samples, as payload, on their way to other control planes.
    Load,
    /// A right has ended, of a token, a user or an account: whose, as payload.
    Access,
}

impl Channel {
    const ALL: [Self; 6] = [Self::Jobs, Self::Outbox, Self::Published, Self::Watch, Self::Load, Self::Access];

    /// Its name in `NOTIFY`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Jobs => "jobs",
            Self::Outbox => "outbox",
            Self::Published => "published",
            Self::Watch => "watch",
            Self::Load => "load",
            Self::Access => "access",
        }
    }
}

/// Wakes those who wait for a channel. Cheap to clone.
#[derive(Clone)]
pub struct Signals(Arc<Inner>);

struct Inner {
    counts: [watch::Sender<u64>; Channel::ALL.len()],
    load: broadcast::Sender<String>,
    access: broadcast::Sender<String>,
}

impl Signals {
    /// Listens until all stops. One connection of the pool is held all the time.
    pub fn start(db: PgPool, vital: &Vital) -> Self {
        let counts = Channel::ALL.map(|_| watch::Sender::new(0));
        let signals = Self(Arc::new(Inner {
            counts,
            load: broadcast::Sender::new(LOAD_MAX),
            access: broadcast::Sender::new(ACCESS_MAX),
        }));
        let listening = vital.stop().clone().run_until_cancelled_owned(signals.clone().listen(db));
        tokio::spawn(vital.watch("listening to the database", listening.map(drop)));
        signals
    }

    /// Changes with each signal on `channel`, and whenever one may have been missed.
    pub fn on(&self, channel: Channel) -> watch::Receiver<u64> {
        self.0.counts[channel as usize].subscribe()
    }

    /// The payloads on [`Channel::Load`]. Who lags behind misses some, which samples allow.
    pub fn load(&self) -> broadcast::Receiver<String> {
        self.0.load.subscribe()
    }

    /// The payloads on [`Channel::Access`]: `token 7`, `user 9`, `account 3`. Who lags behind must assume that it is meant.
    pub fn access(&self) -> broadcast::Receiver<String> {
        self.0.access.subscribe()
    }

    fn wake(&self, channel: Channel) {
        self.0.counts[channel as usize].send_modify(|count| *count = count.wrapping_add(1));
    }

    async fn listen(self, db: PgPool) {
        loop {
            if let Err(error) = self.relay(&db).await {
                tracing::warn!(
                    "The database cannot be listened to, so news come with the next poll: {error}"
                );
            }
            sleep(RECONNECT_PAUSE).await;
        }
    }

    async fn relay(&self, db: &PgPool) -> sqlx::Result<()> {
        let mut listener = PgListener::connect_with(db).await?;
        listener.listen_all(Channel::ALL.map(Channel::word)).await?;
        Channel::ALL.into_iter().for_each(|channel| self.wake(channel));
        loop {
            let heard = listener.try_recv().await?;
            for (channel, payloads) in [(Channel::Load, &self.0.load), (Channel::Access, &self.0.access)] {
                if let Some(heard) = heard.as_ref().filter(|heard| heard.channel() == channel.word()) {
                    // An error means that nobody listens.
                    let _ = payloads.send(heard.payload().to_owned());
                }
            }
            for channel in Channel::ALL {
                // Nothing heard: the connection was made anew, and anything may have been missed.
                if heard.as_ref().is_none_or(|heard| heard.channel() == channel.word()) {
                    self.wake(channel);
                }
            }
        }
    }
}
