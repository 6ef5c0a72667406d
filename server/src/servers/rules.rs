//! Decisions about servers: pure, no clock, no randomness, no I/O.

use berth_model::agent::{PowerVerb, VmState};
use berth_model::error::ApiError;
use berth_model::name::server_name_fault;
use berth_model::server::{ServerCreate, ServerStatus, ServerUpdate, USER_DATA_MAX_BYTES};
use berth_model::{ByteSize, ErrorCode, FieldError, NodeId};

use crate::labels;
use crate::nodes::queries::Candidate;

/// Most SSH keys on one server.
pub const SSH_KEYS_MAX: usize = 50;

/// One sentence about one field.
pub fn fault(name: impl Into<String>, message: impl Into<String>) -> FieldError {
    FieldError { name: name.into(), messages: vec![message.into()] }
}

/// Everything that is wrong with an order by itself, without a look at what exists.
pub fn create_faults(order: &ServerCreate) -> Vec<FieldError> {
    let mut faults = Vec::new();
    faults.extend(server_name_fault(&order.name).map(|message| fault("name", message)));
    if order.location.is_some() && order.datacenter.is_some() {
        faults.push(fault("datacenter", "Give a location or a datacenter, not both."));
    }
    if order.ssh_keys.len() > SSH_KEYS_MAX {
        faults.push(fault("ssh_keys", format!("A server takes at most {SSH_KEYS_MAX} SSH keys.")));
    }
    faults.extend(order.user_data.as_deref().and_then(user_data_fault).map(|m| fault("user_data", m)));
    faults.extend(labels::faults("labels", &order.labels));
    let is_hidden = order.public_net.as_ref().is_some_and(|net| !net.enable_ipv4 && !net.enable_ipv6);
    if is_hidden && order.networks.is_empty() {
        let message =
            "Nobody could reach a server without any address: name a network, or take one of the two.";
        faults.push(fault("public_net.enable_ipv4", message));
    }
    faults
}

/// What is wrong with user data.
pub fn user_data_fault(user_data: &str) -> Option<&'static str> {
    if user_data.len() > USER_DATA_MAX_BYTES {
        return Some("User data has at most 32 KiB.");
    }
    user_data.contains('\0').then_some("User data is text: it has no NUL characters.")
}

/// Everything that is wrong with a change.
pub fn update_faults(update: &ServerUpdate) -> Vec<FieldError> {
    let mut faults = Vec::new();
    faults.extend(update.name.as_deref().and_then(server_name_fault).map(|message| fault("name", message)));
    faults.extend(update.labels.iter().flat_map(|l| labels::faults("labels", l)));
    faults
}

/// What a server does whose machine does this; `None`: that is not known. A paused machine counts
/// as on: its memory and its place are taken.
pub fn status_of(state: Option<VmState>) -> ServerStatus {
    match state {
        Some(VmState::Running | VmState::Paused) => ServerStatus::Running,
        Some(VmState::Off | VmState::Crashed) => ServerStatus::Off,
        None => ServerStatus::Unknown,
    }
}

/// The status after `state` was seen of a server with `status`, or nothing when it stays as it is.
/// `locked`: an action holds it, and decides; only the end it works towards is taken from what is
/// seen.
pub fn observed(status: ServerStatus, state: Option<VmState>, locked: bool) -> Option<ServerStatus> {
    use ServerStatus as S;
    let seen = match state {
        // A machine is held for a moment while it starts.
        Some(VmState::Paused) | None if locked => return None,
        state => status_of(state),
    };
    let next = match (status, seen) {
        (S::Deleting | S::Migrating | S::Rebuilding, _) => return None,
        (S::Initializing | S::Starting, S::Off) if locked => return None,
        (S::Stopping, S::Running) if locked => return None,
        (_, seen) => seen,
    };
    (next != status).then_some(next)
}

/// The status a server takes when it is told to do `verb`; an error when this verb makes no
/// sense now. Starting what runs and stopping what is off is no mistake: it ends at once. What is
/// not known may be told while its node answers, and is known afterwards.
///
/// # Errors
/// With a sentence for the customer: `conflict` when it may be done later, `unsupported_error` when not.
pub fn told(status: ServerStatus, verb: PowerVerb, node_answers: bool) -> Result<ServerStatus, ApiError> {
    use ServerStatus as S;
    let refused = |code: ErrorCode, message: &str| Err(ApiError::new(code, message));
    match (status, verb) {
        (S::Unknown, _) if !node_answers => {
            refused(ErrorCode::Conflict, "The server's node does not answer now. Try again when it does.")
        }
        (S::Initializing | S::Deleting | S::Migrating | S::Rebuilding, _) => {
            refused(ErrorCode::Conflict, &format!("The server is {} now.", status.word()))
        }
        (S::Off | S::Starting | S::Unknown, PowerVerb::Start) => Ok(S::Starting),
        (S::Running | S::Stopping, PowerVerb::Start) => Ok(S::Running),
        (S::Off, PowerVerb::PowerOff) => Ok(S::Off),
        (_, PowerVerb::PowerOff) => Ok(S::Stopping),
        (
            S::Off,
            PowerVerb::Shutdown | PowerVerb::Reboot | PowerVerb::Reset | PowerVerb::Pause | PowerVerb::Resume,
        ) => refused(ErrorCode::UnsupportedError, "The server is off. Start it instead."),
        (_, PowerVerb::Shutdown) => Ok(S::Stopping),
        (status, PowerVerb::Reboot | PowerVerb::Reset | PowerVerb::Pause | PowerVerb::Resume) => Ok(status),
    }
}

/// What to say when something that was named was there a moment ago.
pub fn just_gone(what: &str) -> ApiError {
    ApiError::new(ErrorCode::Conflict, format!("The {what} has just been deleted. Try again with another."))
}

/// What to say when an action holds the server.
pub fn locked(command: &str) -> ApiError {
    let doing = match command {
        "create_server" => "is being created",
        "delete_server" => "is being deleted",
        "start_server" => "is being started",
        "stop_server" => "is being stopped",
        "shutdown_server" => "is being shut down",
        "reboot_server" => "is being rebooted",
        "reset_server" => "is being reset",
        "change_server_type" => "is getting another type",
        "create_image" => "is being copied into an image",
        "rebuild_server" => "is being rebuilt",
        "reset_password" => "is getting another password",
        "enable_rescue" | "disable_rescue" => "is getting another system to boot",
        "attach_iso" | "detach_iso" => "is getting another ISO",
        "attach_volume" => "is getting a volume",
        "detach_volume" => "is losing a volume",
        "assign_primary_ip" => "is getting an address",
        "attach_to_network" => "is being attached to a network",
        "detach_from_network" => "is being detached from a network",
        "change_alias_ips" => "is getting other alias addresses",
        "unassign_primary_ip" => "is losing an address",
        _ => "is busy",
    };
    ApiError::new(ErrorCode::Locked, format!("The server {doing}. Try again when that has ended."))
}

/// What a server takes from its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// Virtual CPUs; a node must have as many, but shares them.
    pub cores: u32,
    /// Memory; never promised twice.
    pub memory: ByteSize,
    /// Disk; never promised twice.
    pub disk: ByteSize,
}

/// The part of a node's memory that servers may have, in percent: the rest is for the node's own
/// system and for what QEMU needs beside each guest's memory.
const MEMORY_PERCENT: u64 = 90;

fn memory_free(node: &Candidate) -> u64 {
    let usable = node.memory.bytes() / 100 * MEMORY_PERCENT;
    usable.saturating_sub(node.promised_memory.bytes())
}

fn fits(node: &Candidate, need: Need) -> bool {
    node.accepts_servers
        && node.cores >= need.cores
        && memory_free(node) >= need.memory.bytes()
        && node.storage_free() >= need.disk
}

/// Has the node on which a server stands room for it, when it needs `after` instead of `before`? Less of something
/// always fits; whether the node takes new servers makes no difference.
pub fn has_room(node: &Candidate, before: Need, after: Need) -> bool {
    let more = |free: u64, before: ByteSize, after: ByteSize| {
        after <= before || free >= after.bytes() - before.bytes()
    };
    node.cores >= after.cores
        && more(memory_free(node), before.memory, after.memory)
        && more(node.storage_free().bytes(), before.disk, after.disk)
}

/// Why no node was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// One with room does not answer now; it may come back in a moment.
    #[error("every node with room is down or sick")]
    Silent,
    /// None has room.
    #[error("no node has room")]
    Full,
}

/// Chooses the node with the largest share of free memory, so that servers spread; among equals
/// the one with the smallest number.
///
/// # Errors
/// [`NoRoom`] when none can take it.
pub fn choose_node(nodes: &[Candidate], need: Need) -> Result<NodeId, NoRoom> {
    let fitting = || nodes.iter().filter(|node| fits(node, need));
    // Shares are compared as fractions, crosswise, so that nothing is rounded.
    let by_free_share = |a: &&Candidate, b: &&Candidate| {
        let cross = |x: &Candidate, y: &Candidate| u128::from(memory_free(x)) * u128::from(y.memory.bytes());
        cross(a, b).cmp(&cross(b, a)).then(b.id.cmp(&a.id))
    };
    match fitting().filter(|node| node.up).max_by(by_free_share) {
        Some(node) => Ok(node.id),
        None if fitting().next().is_some() => Err(NoRoom::Silent),
        None => Err(NoRoom::Full),
    }
}

/// A MAC address of three random bytes under the prefix that QEMU's machines use.
pub fn mac(random: [u8; 3]) -> String {
    let [a, b, c] = random;
    format!("52:54:00:{a:02x}:{b:02x}:{c:02x}")
}

/// The crypt(3) SHA-512 hash of a password that was drawn at random.
///
/// # Panics
/// Never: the salt and the rounds are within the scheme's limits.
pub fn root_password_hash(password: &str, salt: [u8; 12]) -> String {
    use sha_crypt::PasswordHasher as _;
    let hash = sha_crypt::ShaCrypt::SHA512.hash_password_with_salt(password.as_bytes(), &salt);
    hash.expect("12 bytes are a good salt").as_str().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_model::server::PublicNetCreate;
    use proptest::prelude::*;

    const STATES: [Option<VmState>; 5] =
        [Some(VmState::Running), Some(VmState::Paused), Some(VmState::Off), Some(VmState::Crashed), None];
    const VERBS: [PowerVerb; 5] =
        [PowerVerb::Start, PowerVerb::Shutdown, PowerVerb::Reboot, PowerVerb::Reset, PowerVerb::PowerOff];

    fn names(faults: &[FieldError]) -> Vec<&str> {
        faults.iter().map(|f| f.name.as_str()).collect()
    }

    #[test]
    fn an_order_hears_all_its_faults_at_once() {
        let order = ServerCreate {
            name: "-".into(),
            location: Some("a".into()),
            datacenter: Some("b".into()),
            ssh_keys: vec!["k".into(); SSH_KEYS_MAX + 1],
            user_data: Some("x".repeat(USER_DATA_MAX_BYTES + 1)),
            labels: [("-".to_owned(), String::new()), ("a".to_owned(), "b c".to_owned())].into(),
            public_net: Some(PublicNetCreate {
                enable_ipv4: false,
                enable_ipv6: false,
                ipv4: None,
                ipv6: None,
            }),
            ..ServerCreate::default()
        };
        let all =
            ["name", "datacenter", "ssh_keys", "user_data", "labels.-", "labels.a", "public_net.enable_ipv4"];
        assert_eq!(names(&create_faults(&order)), all);
        let user_data = Some("a\0b".to_owned());
        assert_eq!(names(&create_faults(&ServerCreate { name: "a".into(), user_data, ..order })).len(), 6);
    }

    #[test]
    fn an_update_that_leaves_out_everything_is_good() {
        assert!(update_faults(&ServerUpdate::default()).is_empty());
        let bad = ServerUpdate { name: Some(String::new()), labels: Some([("".into(), "".into())].into()) };
        assert_eq!(names(&update_faults(&bad)), ["name", "labels."]);
    }

    #[test]
    fn while_an_action_works_only_its_end_is_taken_from_what_is_seen() {
        use ServerStatus as S;
        for (status, state, locked, next) in [
            (S::Initializing, Some(VmState::Off), true, None),
            (S::Initializing, Some(VmState::Running), true, Some(S::Running)),
            (S::Starting, Some(VmState::Paused), true, None),
            (S::Starting, Some(VmState::Off), true, None),
            (S::Starting, Some(VmState::Off), false, Some(S::Off)),
            (S::Stopping, Some(VmState::Running), true, None),
            (S::Stopping, Some(VmState::Running), false, Some(S::Running)),
            (S::Stopping, Some(VmState::Off), true, Some(S::Off)),
            (S::Running, Some(VmState::Crashed), false, Some(S::Off)),
            (S::Running, Some(VmState::Paused), false, None),
            (S::Running, None, false, Some(S::Unknown)),
            (S::Initializing, None, true, None),
            (S::Unknown, Some(VmState::Running), false, Some(S::Running)),
        ] {
            assert_eq!(observed(status, state, locked), next, "{status:?} {state:?} {locked}");
        }
    }

    #[test]
    fn power_verbs_make_sense_only_where_a_machine_can_follow() {
        for verb in VERBS {
            for status in [ServerStatus::Initializing, ServerStatus::Deleting] {
                assert_eq!(told(status, verb, true).unwrap_err().code, ErrorCode::Conflict);
            }
            assert_eq!(told(ServerStatus::Unknown, verb, false).unwrap_err().code, ErrorCode::Conflict);
            assert!(told(ServerStatus::Unknown, verb, true).is_ok());
            let off = told(ServerStatus::Off, verb, true).is_ok();
            assert_eq!(off, matches!(verb, PowerVerb::Start | PowerVerb::PowerOff));
            assert!(told(ServerStatus::Running, verb, true).is_ok());
        }
    }

    #[test]
    fn root_passwords_are_hashed_as_every_guest_reads_them() {
        // What `openssl passwd -6 -salt OdZKOdZKOdZKOdZK correct` says, which leaves out the usual rounds.
        let reference =
            "H7.2ramoIWfgAja6E7VPWS5gv64qXtsZc1ab8dKVkYNJvTyllSaeSy3np/Za6wTQusOmhA/7hDJ2tybdDVhqb1";
        let hash = root_password_hash("correct", [0x5a; 12]);
        assert_eq!(hash, format!("$6$rounds=5000$OdZKOdZKOdZKOdZK${reference}"));
        assert_ne!(hash, root_password_hash("correct", [0x5b; 12]));
    }

    fn nodes() -> impl Strategy<Value = Vec<Candidate>> {
        let gib = |range: std::ops::Range<u64>| range.prop_map(ByteSize::gib);
        let node = (any::<(bool, bool)>(), 1u32..9, gib(1..99), gib(0..99), gib(0..99), gib(0..99));
        proptest::collection::vec(node, 0..6).prop_map(|list| {
            let node =
                |(id, ((up, accepts_servers), cores, memory, promised_memory, storage, promised_storage))| {
                    let (id, servers, promised_cores) = (NodeId(id), 0, 0);
                    Candidate {
                        id,
                        up,
                        accepts_servers,
                        cores,
                        memory,
                        storage,
                        servers,
                        promised_cores,
                        promised_memory,
                        promised_storage,
                    }
                };
            (1..).zip(list).map(node).collect()
        })
    }

    proptest! {
        #[test]
        fn what_is_seen_twice_changes_nothing_the_second_time(
            status in 0usize..9, state in 0usize..5, locked: bool,
        ) {
            let (status, state) = (ServerStatus::ALL[status], STATES[state]);
            if let Some(next) = observed(status, state, locked) {
                prop_assert_ne!(next, status);
                prop_assert_eq!(observed(next, state, locked), None);
            }
        }

        #[test]
        fn a_server_being_removed_stays_so(state in 0usize..5, locked: bool) {
            prop_assert_eq!(observed(ServerStatus::Deleting, STATES[state], locked), None);
        }

        #[test]
        fn a_node_is_never_chosen_beyond_its_room(
            nodes in nodes(), cores in 1u32..9, memory in 1u64..9, disk in 1u64..99,
        ) {
            let need = Need { cores, memory: ByteSize::gib(memory), disk: ByteSize::gib(disk) };
            let fitting = || nodes.iter().filter(|node| fits(node, need));
            match choose_node(&nodes, need) {
                Ok(id) => {
                    let chosen = nodes.iter().find(|node| node.id == id).unwrap();
                    prop_assert!(chosen.up && chosen.accepts_servers && chosen.cores >= cores);
                    let memory = chosen.promised_memory.bytes() + need.memory.bytes();
                    prop_assert!(memory < chosen.memory.bytes());
                    let storage = chosen.promised_storage.bytes() + need.disk.bytes();
                    prop_assert!(storage <= chosen.storage.bytes());
                    let share = |node: &Candidate| memory_free(node) as f64 / node.memory.bytes() as f64;
                    prop_assert!(fitting().filter(|node| node.up).all(|node| share(node) <= share(chosen)));
                }
                Err(NoRoom::Silent) => prop_assert!(fitting().all(|node| !node.up)),
                Err(NoRoom::Full) => prop_assert_eq!(fitting().count(), 0),
            }
        }
    }
}
