//! What is left when something fails in the middle of a function: a real agent's process, a libvirtd and a disk
//! of its own, a real guest. [`TABLE`] says for each fault and each function what the state is afterwards, and
//! has the proof of it.
//!
//! For every pair holds besides: what failed says why in a sentence, with the code that the table names; told
//! again, it ends as if nothing had been; what the guest wrote is there; and of files, domains, interfaces,
//! filter rules, mounts, processes, exports, bitmaps and checkpoints there are those of a node without a fault,
//! no more and no less ([`inventory`]), so that `node.orphans` finds nothing.
//!
//! Moves are proved by tests of `tests/guest_moving.rs`, each of which is named here.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]
#![allow(clippy::needless_pass_by_value, reason = "targets of functions are small, and calls read better so")]

#[path = "../libvirt_common/mod.rs"]
mod libvirt_common;
#[path = "../netns/mod.rs"]
mod netns;
#[path = "../common/pki.rs"]
mod pki;
#[path = "../common/s3.rs"]
mod s3;

mod agent;
mod backup;
mod create;
mod guest;
mod inventory;
mod node;
mod snapshot;

use std::panic::AssertUnwindSafe;
use std::time::Instant;

/// What fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// `kill -9` of libvirtd, which comes back later.
    LibvirtdKilled,
    /// `kill -9` of the agent, which comes back later.
    AgentKilled,
    /// Not a byte is free where the agent has its data, until somebody makes room.
    DiskFull,
    /// A qcow2 file is not what it was.
    DiskDamaged,
    /// The guest's agent is stopped.
    GuestSilent,
    /// The network is cut: to the control plane, and to the store.
    NetworkCut,
    /// The node's clock goes ten years forward, then a day back.
    ClockJump,
}

/// In the middle of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum During {
    /// `vm.put` of a new VM.
    Create,
    /// `backup.create` of a VM that runs, on top of another backup.
    Backup,
    /// `snapshot.create` of a VM that runs.
    Snapshot,
    /// `moving.send` of a VM that runs.
    Move,
}

/// How a pair is proved.
enum Proof {
    OfCreate(fn(&create::Ground)),
    OnGuest(fn(&guest::Ground)),
    /// By these tests of `tests/guest_moving.rs`, since it takes two nodes.
    OnTwoNodes(&'static [&'static str]),
    /// It cannot happen.
    Senseless,
}

use Proof::{OfCreate, OnGuest, OnTwoNodes, Senseless};

const CUT_OFF: &str = "a_move_that_is_cut_off_leaves_the_guest_where_it_was";
const KILLED: &str = "an_agent_that_is_killed_at_any_step_of_a_move_ends_it_when_told_again";
const FAILS: &str = "a_move_during_which_something_fails_leaves_what_is_stated";

/// What the state is after which fault in the middle of which function; or why there is none.
const TABLE: &[(Fault, During, &str, Proof)] = &[
    (
        Fault::LibvirtdKilled,
        During::Create,
        "`unavailable`. Before it is defined the VM is half-made, after that off, and on if it was started.",
        OfCreate(create::libvirtd_killed),
    ),
    (
        Fault::AgentKilled,
        During::Create,
        "No answer. What was made stands; a half-made VM is named as an orphan when ten minutes have passed.",
        OfCreate(create::agent_killed),
    ),
    (
        Fault::DiskFull,
        During::Create,
        "`resource_unavailable`; beforehand without a trace, in the middle with a VM that is half-made, or off.",
        OfCreate(create::disk_full),
    ),
    (
        Fault::DiskDamaged,
        During::Create,
        "Of the image: `resource_unavailable` without a trace. Of the VM's disk: `service_error` that names the \
         file, which nobody touches; `vm.rebuild` makes it anew.",
        OfCreate(create::disk_damaged),
    ),
    (Fault::GuestSilent, During::Create, "A guest that has not booted is asked nothing.", Senseless),
    (
        Fault::NetworkCut,
        During::Create,
        "No answer. It goes on to its end without its caller.",
        OfCreate(create::network_cut),
    ),
    (
        Fault::ClockJump,
        During::Create,
        "It ends well. What is being made is no orphan, whatever its age seems to be.",
        OfCreate(create::clock_jump),
    ),
    (
        Fault::LibvirtdKilled,
        During::Backup,
        "`unavailable`; the store holds nothing of it. QEMU goes on with the job until the agent, untold, ends it. \
         A mark more stays in the VM until its next backup.",
        OnGuest(backup::libvirtd_killed),
    ),
    (
        Fault::AgentKilled,
        During::Backup,
        "No answer. Without its manifest it is no backup, with it it is one. The next agent thaws the guest and \
         ends the job; a mark more, and pieces in the store, stay until the VM's next backup.",
        OnGuest(backup::agent_killed),
    ),
    (
        Fault::DiskFull,
        During::Backup,
        "`resource_unavailable`: it is given up for the guest's sake. A guest that writes is held, and goes on \
         when it is told to.",
        OnGuest(backup::disk_full),
    ),
    (
        Fault::DiskDamaged,
        During::Backup,
        "`service_error`; the store holds nothing of it, the disk is not touched, and an older backup can be \
         restored over it.",
        OnGuest(backup::disk_damaged),
    ),
    (
        Fault::GuestSilent,
        During::Backup,
        "It ends well, and says that the guest was not frozen. One that falls silent while it is frozen is asked \
         to thaw until it does.",
        OnGuest(backup::guest_silent),
    ),
    (
        Fault::NetworkCut,
        During::Backup,
        "To the control plane: it goes on to its end. To the store: `unavailable`; a store that comes back empty \
         gets a full backup.",
        OnGuest(backup::network_cut),
    ),
    (
        Fault::ClockJump,
        During::Backup,
        "It ends well and builds on what was made before it, whatever the dates say; pruning knows which is the \
         newest.",
        OnGuest(backup::clock_jump),
    ),
    (
        Fault::LibvirtdKilled,
        During::Snapshot,
        "`unavailable`; there is no snapshot. The guest stays frozen until libvirtd is back, and is then thawed, \
         untold.",
        OnGuest(snapshot::libvirtd_killed),
    ),
    (
        Fault::AgentKilled,
        During::Snapshot,
        "No answer. There is a snapshot or none; the next agent thaws the guest.",
        OnGuest(snapshot::agent_killed),
    ),
    (
        Fault::DiskFull,
        During::Snapshot,
        "`resource_unavailable`; there is no snapshot, and the guest is thawed.",
        OnGuest(snapshot::disk_full),
    ),
    (
        Fault::DiskDamaged,
        During::Snapshot,
        "`service_error`; there is no snapshot, and QEMU has marked the disk as corrupt. `vm.rebuild` makes it \
         anew.",
        OnGuest(snapshot::disk_damaged),
    ),
    (
        Fault::GuestSilent,
        During::Snapshot,
        "It ends well, and says that the guest was not frozen. One that falls silent while it is frozen is asked \
         to thaw until it does.",
        OnGuest(snapshot::guest_silent),
    ),
    (
        Fault::NetworkCut,
        During::Snapshot,
        "No answer. It goes on to its end without its caller.",
        OnGuest(snapshot::network_cut),
    ),
    (
        Fault::ClockJump,
        During::Snapshot,
        "It ends well. A freeze ends in its time, whatever the clock says.",
        OnGuest(snapshot::clock_jump),
    ),
    (
        Fault::LibvirtdKilled,
        During::Move,
        "On either side: `unavailable`. The guest runs on at the source; `moving.abort` clears the target.",
        OnTwoNodes(&[CUT_OFF, FAILS]),
    ),
    (
        Fault::AgentKilled,
        During::Move,
        "The target's: as with its libvirtd. The source's: no answer. Before the switch-over the guest runs on at \
         the source, after it at the target; told again, the move ends there.",
        OnTwoNodes(&[CUT_OFF, KILLED]),
    ),
    (
        Fault::DiskFull,
        During::Move,
        "Of the target: `resource_unavailable`; beforehand without a trace, in the middle with a room that \
         `moving.abort` clears although nothing is free. The guest runs on at the source.",
        OnTwoNodes(&[FAILS]),
    ),
    (
        Fault::DiskDamaged,
        During::Move,
        "`service_error` that names the file. The guest runs on at the source, where QEMU has marked the disk as \
         corrupt and closed it. Without that disk it moves.",
        OnTwoNodes(&[FAILS]),
    ),
    (Fault::GuestSilent, During::Move, "It ends well: the guest is asked nothing.", OnTwoNodes(&[FAILS])),
    (
        Fault::NetworkCut,
        During::Move,
        "Between the nodes: `unavailable`, once nothing was heard for 20 seconds. The guest runs on at the source; \
         `moving.abort` clears the target.",
        OnTwoNodes(&[CUT_OFF]),
    ),
    (
        Fault::ClockJump,
        During::Move,
        "It ends well. A room is kept as long as was asked, whatever the clock says, and what comes is no orphan.",
        OnTwoNodes(&[FAILS]),
    ),
];

/// Proves all pairs of a function, one after the other on one ground; one that fails keeps none back.
fn prove(during: During, prove: impl Fn(&Proof)) {
    let mut failed = Vec::new();
    // For work on one of them.
    let only = std::env::var("BERTH_TEST_FAULT").unwrap_or_default();
    for (fault, function, state, proof) in TABLE.iter().filter(|(_, function, ..)| *function == during) {
        let began = Instant::now();
        if !format!("{fault:?} {function:?}").contains(&only) {
            continue;
        }
        eprintln!("{fault:?} during {function:?}: {state}");
        if std::panic::catch_unwind(AssertUnwindSafe(|| prove(proof))).is_err() {
            failed.push(format!("{fault:?} during {function:?}"));
        }
        eprintln!("    {:.1} s", began.elapsed().as_secs_f64());
    }
    assert_eq!(failed, [] as [&str; 0]);
}

#[test]
fn every_fault_meets_every_function_once() {
    let faults = [
        Fault::LibvirtdKilled,
        Fault::AgentKilled,
        Fault::DiskFull,
        Fault::DiskDamaged,
        Fault::GuestSilent,
        Fault::NetworkCut,
        Fault::ClockJump,
    ];
    for fault in faults {
        for during in [During::Create, During::Backup, During::Snapshot, During::Move] {
            let pairs = TABLE.iter().filter(|(f, d, ..)| (*f, *d) == (fault, during)).count();
            assert_eq!(pairs, 1, "{fault:?} during {during:?}");
        }
    }
    let moves = include_str!("../guest_moving.rs");
    for (fault, during, _, proof) in TABLE {
        if let OnTwoNodes(tests) = proof {
            assert!(tests.iter().all(|test| moves.contains(&format!("fn {test}()"))), "{fault:?} {during:?}");
        }
    }
}

#[test]
fn a_fault_while_a_vm_is_made_leaves_what_the_table_says() {
    let _proof = berth_agent::proof::guest(&["vm.put", "vm.get", "vm.delete", "vm.rebuild", "node.orphans"]);
    let ground = create::Ground::new();
    prove(During::Create, |proof| {
        if let OfCreate(proof) = proof {
            proof(&ground);
        }
    });
}

/// On a guest of its own.
fn prove_on_guest(during: During) {
    let ground = guest::Ground::new();
    prove(during, |proof| {
        if let OnGuest(proof) = proof {
            proof(&ground);
        }
    });
}

#[test]
fn a_fault_during_a_backup_leaves_what_the_table_says() {
    let _proof = berth_agent::proof::guest(&["backup.create", "node.orphans"]);
    prove_on_guest(During::Backup);
}

#[test]
fn a_fault_during_a_snapshot_leaves_what_the_table_says() {
    let _proof = berth_agent::proof::guest(&["snapshot.create", "node.orphans"]);
    prove_on_guest(During::Snapshot);
}
