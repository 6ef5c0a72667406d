//! Every limit and interval of the agent, by name. Tests shorten them; nobody else changes them.

use std::time::Duration;

/// Limits and intervals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Hypervisor calls that read, at once. Those that hang count until they end.
    pub reads: usize,
    /// Hypervisor calls that change something, at once.
    pub changes: usize,
    /// Long functions at once: copies, backups, moves.
    pub longs: usize,
    /// How long a call that reads may take.
    pub read_patience: Duration,
    /// How long a call that changes something may take: a disk is made and a guest started in it.
    pub change_patience: Duration,
    /// How long the caller of a long function waits when it does not say.
    pub long_wait: Duration,
    /// How long a function waits for the one before it on the same VM.
    pub vm_patience: Duration,
    /// Requests at once, over both listeners; streams apart.
    pub requests: usize,
    /// Streams at once.
    pub streams: usize,
    /// Consoles at once.
    pub consoles: usize,
    /// Imports of images at once.
    pub imports: usize,
    /// Longest body, except an image's.
    pub body_bytes: usize,
    /// How long such a body may take to arrive.
    pub body_patience: Duration,
    /// Longest silence within an upload.
    pub upload_silence: Duration,
    /// How often the hypervisor is asked whether it answers.
    pub ping_every: Duration,
    /// How long it may take to answer before the node is unhealthy.
    pub ping_patience: Duration,
    /// How often everything else that the node needs is looked after.
    pub check_every: Duration,
    /// How often the tls folder is looked at for a new identity.
    pub identity_every: Duration,
    /// How often a stream says that it lives.
    pub beat_every: Duration,
    /// How often watched VMs are sampled.
    pub watched_every: Duration,
    /// After how many of those all VMs are sampled.
    pub all_every: u32,
    /// How often all VMs are listed to find what no event told.
    pub relist_every: Duration,
    /// How often the hypervisor tends to the node's network.
    pub tend_every: Duration,
    /// How often the node's lease is looked at.
    pub lease_every: Duration,
    /// How often the hypervisor mends what was cut off.
    pub mend_every: Duration,
    /// Messages that a stream's reader may lie behind.
    pub stream_backlog: usize,
    /// How long a stream's reader may take for one message.
    pub send_patience: Duration,
    /// Samples in one message.
    pub samples_per_message: usize,
    /// VMs that one stream may watch.
    pub watched_vms: usize,
    /// How long requests have to end when the agent stops.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            reads: 8,
            changes: 16,
            longs: 8,
            read_patience: seconds(10),
            change_patience: seconds(120),
            long_wait: seconds(60),
            vm_patience: seconds(5),
            requests: 128,
            streams: 16,
            consoles: 64,
            imports: 4,
            body_bytes: 2 * 1024 * 1024,
            body_patience: seconds(10),
            upload_silence: seconds(30),
            ping_every: seconds(5),
            ping_patience: seconds(5),
            check_every: seconds(60),
            identity_every: seconds(1),
            beat_every: seconds(5),
            watched_every: seconds(2),
            all_every: 15,
            relist_every: seconds(60),
            tend_every: seconds(60),
            lease_every: seconds(1),
            mend_every: seconds(3),
            stream_backlog: 1024,
            send_patience: seconds(10),
            samples_per_message: 1000,
            watched_vms: 10_000,
            drain: seconds(8),
        }
    }
}
