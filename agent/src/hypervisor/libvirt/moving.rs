//! Moving: room for a VM that comes, and sending one that goes.
//!
//! ```text
//! target  prepare: note ─► folder ─► disk, volumes, seed      finish: volumes whole ─► define ─► note gone
//! source  send:    note ─► live: libvirt and QEMU copy ─► undefined ─► volumes, folder gone ─► note gone
//!                       └► off:  files                 ─┘
//! ```
//!
//! A [note](notes) says on each side what a VM is in the middle of, and goes last. Of a live move libvirt
//! sees to it that the VM runs on one side only, as long as the agent lives: cut off at the switch-over, the VM
//! stands still on the source until [`Libvirt::send`] is told again and has asked the target. Files that
//! arrived are noted on the target before the source hears of it and forgets its own.

mod arriving;
pub mod notes;
mod off;
mod rewrite;

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use berth_model::VmId;
use berth_model::agent::{MoveSend, MoveSent, VmSpec, VmState};
use virt::connect::Connect;
use virt::domain::{Domain, MigrateParameters};
use virt::sys;

use self::notes::Note;
use self::off::Part;
use self::rewrite::Rewrite;
use super::network::GuestNetwork;
use super::ops::{power_off, refused, state, undefine};
use super::{Libvirt, ffi, machines, volumes};
use crate::hypervisor::HypervisorError;
use crate::moving::{Sockets, Way};
use crate::runs::Cx;
use crate::storage::moving::Going;
use crate::storage::shared;
use crate::{faults, qcow2};

/// How often a move is looked at.
const STEP: Duration = Duration::from_millis(100);
/// How long libvirt may take to end a move that was cut off.
const END_PATIENCE: Duration = Duration::from_secs(60);
/// How long who asks whether a VM has arrived may be kept waiting while that is not decided.
const DECISION_PATIENCE: Duration = Duration::from_secs(10);
/// Longest that nothing of a live move goes on.
const STALL_PATIENCE: Duration = Duration::from_secs(120);
/// How long libvirt may take to end a live move that is to end, before its ways are cut.
const CANCEL_PATIENCE: Duration = Duration::from_secs(15);
/// A move with post-copy switches over when not more than this part of the memory is left to be sent.
const POST_COPY_PART: u64 = 10;

impl Libvirt {
    pub(super) fn shares_disks(&self) -> bool {
        self.config.storage.disks.is_some()
    }

    /// The name of the storage that a VM's disk stands on, where nodes share it.
    fn disk_storage(&self, id: VmId) -> Result<Option<String>, HypervisorError> {
        if let Some(pool) = self.storage.disk_pool(id)? {
            return self.storage.shared_name(&pool);
        }
        Ok(self.shares_disks().then(|| shared::name_of(self.folders.disks())).transpose()?)
    }

    /// Where a VM's disk lies, in a few words for the other node.
    fn disk_place(&self, id: VmId) -> Result<PathBuf, HypervisorError> {
        let source = self.storage.disk_source(id)?;
        Ok(source.map_or_else(|| self.folders.of(id).disk(), |(source, _)| source.place()))
    }

    fn bridge(&self) -> Option<&str> {
        match &self.config.network {
            GuestNetwork::Nat { bridge, .. } | GuestNetwork::Bridge { bridge } => Some(bridge),
            GuestNetwork::User | GuestNetwork::Routed => None,
        }
    }

    /// Removes all that is there of a VM without a domain, but for a disk that another node has; the note last.
    fn forget_files(&self, id: VmId, shared: bool) -> Result<(), HypervisorError> {
        if self.config.uri == "qemu:///system" {
            self.remove_qemu_log(id)?;
        }
        let folder = self.folders.of(id);
        if shared { folder.remove_but_disk() } else { folder.remove() }?;
        self.unmark(id, &folder, false)?;
        faults::point("move.after_left")?;
        self.forget_move(id)
    }

    /// Nothing says any more that a VM comes or leaves.
    pub(super) fn forget_move(&self, id: VmId) -> Result<(), HypervisorError> {
        Sockets::clear(&self.prefix.domain(id))?;
        self.notes.remove(id)
    }

    pub(super) fn send(
        &self,
        id: VmId,
        order: &MoveSend,
        way: &Way,
        cx: &Cx,
    ) -> Result<MoveSent, HypervisorError> {
        let connect = self.connection.get()?;
        let leaving = matches!(self.notes.get(id)?, Some(Note::Leaving { .. }));
        let before = self.domain(&connect, id)?;
        let nics = self.nics_of(before.as_ref())?;
        let sent = match before {
            Some(domain) => {
                let going = self.check_order(id, order, &domain)?;
                let leave = Leave { id, connect: &connect, domain: &domain, order, going: &going };
                self.send_domain(&leave, leaving, way, cx)?
            }
            None if leaving => MoveSent::before(),
            None if !self.folders.of(id).exists()? && way.has_arrived()? => MoveSent::before(),
            None => {
                return Err(self.whole_domain(&connect, id).err().unwrap_or(HypervisorError::NotFound(id)));
            }
        };
        faults::point("move.after_copy")?;
        if let Some(domain) = self.domain(&connect, id)? {
            power_off(&domain)?;
            undefine(&domain)?;
        }
        self.delete_nics(id, &nics)?;
        faults::point("move.after_undefine")?;
        self.storage.leave(id, &order.to.room.volumes)?;
        self.forget_files(id, order.to.room.shared.is_some())?;
        Ok(sent)
    }

    fn send_domain(
        &self,
        leave: &Leave<'_>,
        leaving: bool,
        way: &Way,
        cx: &Cx,
    ) -> Result<MoveSent, HypervisorError> {
        let Leave { id, connect, domain, .. } = *leave;
        end_move(domain)?;
        let live = matches!(state(domain)?, VmState::Running | VmState::Paused);
        // Says why it cannot be reached, before anything is touched.
        match way.has_arrived()? {
            // Cut off after the switch-over: what stands still here is a shadow.
            true if leaving && state(domain)? == VmState::Paused => return Ok(MoveSent::before()),
            true if live => {
                return Err(HypervisorError::Conflict(format!(
                    "VM {id} is on the other node already, and runs here: delete it on one of the two."
                )));
            }
            true => {}
            // Cut off at the switch-over, and the other node dropped it.
            false if live && leaving => resume_held(domain)?,
            false => {}
        }
        self.notes.put(id, &Note::Leaving { shared: leave.order.to.room.shared.is_some() })?;
        faults::point("move.after_leaving")?;
        let sent = if live {
            self.send_live(leave, way, cx)
        } else {
            self.send_files(leave, way, cx).map(|sent_bytes| MoveSent {
                live,
                sent_bytes,
                post_copied: false,
            })
        };
        match sent {
            Err(e) if live => {
                // Did it fail on this side alone? Then it is there, and must not be here as well.
                let there = way.has_arrived();
                if self.domain(connect, id)?.is_none() || matches!(there, Ok(true)) {
                    return Ok(MoveSent::before());
                }
                let e = match there {
                    Err(unreached) => broke_off(e, &unreached),
                    Ok(_) => e,
                };
                self.give_up_sending(id, cx, e)
            }
            Err(e) => self.give_up_sending(id, cx, e),
            sent => sent,
        }
    }

    fn give_up_sending(&self, id: VmId, cx: &Cx, e: HypervisorError) -> Result<MoveSent, HypervisorError> {
        self.forget_move(id)?;
        cx.check()?;
        Err(e)
    }

    fn send_files(&self, leave: &Leave<'_>, way: &Way, cx: &Cx) -> Result<u64, HypervisorError> {
        let folder = self.folders.of(leave.id);
        let mut files = Vec::new();
        if leave.order.to.room.shared.is_none() {
            files.push((Part::Disk, folder.disk()));
        }
        if folder.nvram().try_exists()? {
            files.push((Part::Nvram, folder.nvram()));
        }
        files.extend(leave.copied().map(|going| (Part::Volume(going.volume), going.place.clone())));
        off::send(true, &files, way, cx)
    }

    /// Refuses what cannot go well, before anything is touched.
    fn check_order(
        &self,
        id: VmId,
        order: &MoveSend,
        domain: &Domain,
    ) -> Result<Vec<Going>, HypervisorError> {
        let room = &order.to.room;
        let ours = self.domain_type(&self.connection.get()?);
        let images = self.images.folder();
        let vm = self.show(id, Some(domain))?;
        if let Some(spec) = &vm.spec {
            check_movable(id, spec)?;
        }
        let (pool, ours_on) = (self.storage.disk_pool(id)?, self.disk_storage(id)?);
        let going = self.storage.going(id)?;
        let placed = |going: &Going| room.volumes.iter().find(|placed| placed.volume == going.volume);
        let lost = going.iter().find(|going| {
            placed(going).is_none_or(|placed| match &placed.shared {
                Some(_) => placed.shared != going.shared,
                None => !going.is_file,
            })
        });
        let why = if room.domain_type != ours {
            format!("the other node runs guests by {:?}, this one by {ours:?}", room.domain_type)
        } else if room.bridge.is_some() != self.bridge().is_some() {
            "one of the two nodes has no bridge for guests".to_owned()
        } else if room.domain != self.prefix.domain(id) && !self.is_test_driver() {
            "the two nodes name their domains differently (libvirt.prefix)".to_owned()
        } else if vm.saved {
            "its saved memory would stay behind; start it first".to_owned()
        } else if let Some(pool) = pool.as_ref().filter(|_| room.shared != ours_on) {
            format!(
                "its disk lies in the pool {pool}, and the other node's of that name is another one, or is come \
                 to otherwise: cluster, pool, monitors, user and the keyring's path must be the same"
            )
        } else if room.shared.is_some() && room.shared != ours_on {
            "another disk of its number lies there already".to_owned()
        } else if room.shared.is_some() && pool.is_none() && room.images != images.to_string_lossy() {
            // The disk's file names its image, and cannot be changed while a guest has it.
            "its disk is shared, and the two nodes keep images in different folders (data_dir)".to_owned()
        } else if let Some(lost) = lost {
            format!("its volume {} was not named to moving.prepare, or is another one there", lost.volume)
        } else {
            return Ok(going);
        };
        Err(HypervisorError::Conflict(format!("VM {id} cannot move there: {why}.")))
    }

    fn send_live(&self, leave: &Leave<'_>, way: &Way, cx: &Cx) -> Result<MoveSent, HypervisorError> {
        let Leave { domain, order, .. } = *leave;
        let room = &order.to.room;
        let text = domain.xml_desc(0).map_err(|e| refused("describe the VM", &e))?;
        let disks = volumes::found(&text);
        let is_read = |going: &&Going| disks.get(&going.volume).is_some_and(|found| found.read_only());
        let (read, written): (Vec<&Going>, Vec<&Going>) = leave.copied().partition(is_read);
        let files: Vec<_> =
            read.iter().map(|going| (Part::Volume(going.volume), going.place.clone())).collect();
        let mut sent_bytes = 0;
        if !files.is_empty() {
            sent_bytes += off::send(false, &files, way, cx)?;
        }
        let mut copied: Vec<String> = room.shared.is_none().then(|| "vda".to_owned()).into_iter().collect();
        copied.extend(written.iter().filter_map(|going| Some(disks.get(&going.volume)?.dev().to_owned())));
        let own = room.shared.is_none().then(|| self.folders.of(leave.id).disk());
        let written: Vec<PathBuf> =
            own.into_iter().chain(written.iter().map(|going| going.place.clone())).collect();
        refuse_damaged(&written)?;

        let sockets = way.sockets(&room.domain)?;
        let rewrite = self.rewrite(leave)?;
        let described = |flags: u32| {
            let flags = flags | sys::VIR_DOMAIN_XML_MIGRATABLE | sys::VIR_DOMAIN_XML_SECURE;
            let xml = domain.xml_desc(flags).map_err(|e| refused("describe the VM", &e))?;
            rewrite.apply(&xml).map_err(HypervisorError::Failed)
        };
        let unix = |path: PathBuf| format!("unix://{}", path.display());
        let parameters = MigrateParameters {
            dest_xml: Some(described(0)?),
            persist_xml: Some(described(sys::VIR_DOMAIN_XML_INACTIVE)?),
            uri: Some(unix(sockets.memory())),
            disks_uri: (!copied.is_empty()).then(|| unix(sockets.disks())),
            bandwidth: order.bandwidth_mib_s.map(u64::from),
            ..MigrateParameters::default()
        };
        let flags = flags(order, !copied.is_empty());
        let parameters = MigrateParameters { migrate_disks: copied, ..parameters };
        let driver = format!("qemu+unix:///system?socket={}", sockets.driver().display());

        cx.phase("Copy disk and memory", 0);
        let there = OnceLock::new();
        let migrate = || -> Result<(), virt::error::Error> {
            // Without keepalive: a node that is gone is found by TCP, and what stalls is cut by the watch.
            let opened = Connect::open(Some(&driver))?;
            domain.migrate3(there.get_or_init(|| opened), parameters, flags).map(drop)
        };
        std::thread::scope(|scope| {
            let copy = scope.spawn(migrate);
            let mut watch = Watch::new(order.post_copy);
            while !copy.is_finished() {
                watch.look(domain, there.get(), way, cx);
                std::thread::sleep(STEP);
            }
            sent_bytes += watch.sent;
            match copy.join() {
                Ok(Ok(())) => Ok(MoveSent { live: true, sent_bytes, post_copied: watch.post_copied }),
                // QEMU may have met the damage just now, and its own words name no file.
                Ok(Err(e)) => Err(refuse_damaged(&written).err().unwrap_or_else(|| watch.error(&e))),
                Err(_) => Err(HypervisorError::Failed("Moving the VM broke off.".to_owned())),
            }
        })
    }

    fn rewrite<'a>(&'a self, leave: &Leave<'a>) -> Result<Rewrite<'a>, HypervisorError> {
        let (folder, room) = (self.folders.of(leave.id), &leave.order.to.room);
        let mut places = vec![
            (self.disk_place(leave.id)?, room.disk.clone()),
            (folder.path().to_owned(), room.folder.clone()),
            (self.images.folder(), room.images.clone()),
        ];
        for going in leave.going {
            let placed = room.volumes.iter().find(|placed| placed.volume == going.volume);
            places.extend(placed.map(|placed| (going.place.clone(), placed.file.clone())));
        }
        Ok(Rewrite { places, bridge: self.bridge().zip(room.bridge.as_deref()) })
    }
}

/// A VM that leaves.
struct Leave<'a> {
    id: VmId,
    connect: &'a Connect,
    domain: &'a Domain,
    order: &'a MoveSend,
    /// Its volumes.
    going: &'a [Going],
}

impl<'a> Leave<'a> {
    /// Volumes that are not on a storage that both nodes share.
    fn copied(&self) -> impl Iterator<Item = &'a Going> {
        let placed = &self.order.to.room.volumes;
        self.going.iter().filter(|going| {
            placed.iter().any(|placed| placed.volume == going.volume && placed.shared.is_none())
        })
    }
}

/// How libvirt moves.
fn flags(order: &MoveSend, copies_disks: bool) -> u32 {
    let flags = [
        (true, sys::VIR_MIGRATE_LIVE | sys::VIR_MIGRATE_ABORT_ON_ERROR),
        (true, sys::VIR_MIGRATE_PERSIST_DEST | sys::VIR_MIGRATE_UNDEFINE_SOURCE),
        (copies_disks, sys::VIR_MIGRATE_NON_SHARED_INC),
        (order.auto_converge, sys::VIR_MIGRATE_AUTO_CONVERGE),
        (order.post_copy, sys::VIR_MIGRATE_POSTCOPY),
        (order.allow_unsafe, sys::VIR_MIGRATE_UNSAFE),
    ];
    flags.iter().filter(|(wanted, _)| *wanted).fold(0, |all, (_, flag)| all | flag)
}

/// Refuses to let a VM run on that stands still at a switch-over: it may run on the other node.
pub(super) fn refuse_held(domain: &Domain) -> Result<(), HypervisorError> {
    if is_held(domain)? {
        let message = "The VM stands still in the middle of its move: tell moving.send again.";
        return Err(HypervisorError::Conflict(message.to_owned()));
    }
    Ok(())
}

fn is_held(domain: &Domain) -> Result<bool, HypervisorError> {
    let now = ffi::state(domain).map_err(|e| refused("say the VM's state", &e))?;
    Ok(now == (sys::VIR_DOMAIN_PAUSED, sys::VIR_DOMAIN_PAUSED_MIGRATION))
}

/// Lets a VM run on that stands still since a switch-over that came to nothing; one that was paused before
/// stays so.
fn resume_held(domain: &Domain) -> Result<(), HypervisorError> {
    if is_held(domain)? {
        machines::resume(domain)?;
    }
    Ok(())
}

/// Watches a live move: progress, cancel, switch-over, stalls.
struct Watch {
    post_copy: bool,
    post_copied: bool,
    total: u64,
    sent: u64,
    /// When it went on last.
    went_on: Instant,
    /// Since when it is to end, and why.
    ends: Option<(Instant, Why)>,
}

/// Why a live move is ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    Cancelled,
    Lost,
    Stalled,
}

impl Watch {
    fn new(post_copy: bool) -> Self {
        Self { post_copy, post_copied: false, total: 0, sent: 0, went_on: Instant::now(), ends: None }
    }

    /// What it means that libvirt gave up.
    fn error(&self, e: &virt::error::Error) -> HypervisorError {
        let message = match self.ends {
            Some((_, Why::Lost)) => "The connection to the other node's libvirt was lost in the middle.",
            Some((_, Why::Stalled)) => "Nothing of the move went on for two minutes.",
            Some((_, Why::Cancelled)) | None => return refused("move the VM", e),
        };
        HypervisorError::Unavailable(message.to_owned())
    }

    fn look(&mut self, domain: &Domain, there: Option<&Connect>, way: &Way, cx: &Cx) {
        // Without the other libvirt nobody takes the VM over, however much of it is copied.
        let lost = there.is_some_and(|there| !there.is_alive().unwrap_or(false));
        let stalls = self.went_on.elapsed() > STALL_PATIENCE;
        let why = [(cx.is_cancelled(), Why::Cancelled), (lost, Why::Lost), (stalls, Why::Stalled)];
        if let Some((_, why)) = why.into_iter().find(|(holds, _)| *holds) {
            let (since, _) = *self.ends.get_or_insert_with(|| (Instant::now(), why));
            // An error says that the move has not begun yet or is over; it is asked again in the former case.
            let _not_under_way = ffi::abort_job(domain);
            if since.elapsed() > CANCEL_PATIENCE {
                way.cut();
            }
        }
        let Ok(stats) = ffi::job_stats(domain, 0) else { return };
        let number = |name: &str| stats.iter().find(|(key, _)| key == name).map(|(_, value)| *value);
        let (Some(total), Some(sent)) = (number("data_total"), number("data_processed")) else { return };
        if total != self.total {
            cx.phase("Copy disk and memory", total);
            self.total = total;
        }
        if sent > self.sent {
            self.sent = sent;
            self.went_on = Instant::now();
        }
        cx.done(self.sent.min(total));
        if self.post_copy && is_nearly_sent(number("memory_total"), number("memory_remaining")) {
            self.post_copied = ffi::start_post_copy(domain).is_ok();
            self.post_copy = !self.post_copied;
        }
    }
}

/// Is so little memory left that the rest can be fetched on demand? Not before there is any.
fn is_nearly_sent(total: Option<u64>, left: Option<u64>) -> bool {
    let nearly = |total: u64, left: u64| total > 0 && left <= total / POST_COPY_PART;
    total.zip(left).is_some_and(|(total, left)| nearly(total, left))
}

/// Refuses a VM of which more than files would have to come along.
fn check_movable(id: VmId, spec: &VmSpec) -> Result<(), HypervisorError> {
    let why = if spec.rescue.is_some() {
        "it is in rescue, which is made of this node's files; end that first"
    } else if spec.hardware.tpm {
        "libvirt keeps its TPM's state on this node, and it would stay behind"
    } else {
        return Ok(());
    };
    Err(HypervisorError::Conflict(format!("VM {id} cannot move: {why}.")))
}

/// Refuses a disk that QEMU found damaged: it has closed it to the guest, and copies none of it.
fn refuse_damaged(disks: &[PathBuf]) -> Result<(), HypervisorError> {
    for disk in disks.iter().filter(|disk| disk.extension().is_some_and(|format| format == "qcow2")) {
        if qcow2::is_corrupt(&qcow2::read_head(std::fs::File::open(disk)?)?) {
            return Err(HypervisorError::Failed(format!(
                "QEMU found the disk {} damaged and has closed it. Restore it from a backup, or take it from the VM.",
                disk.display()
            )));
        }
    }
    Ok(())
}

/// What broke off as the other node went away. QEMU may lose the way of a disk before libvirt loses its own.
fn broke_off(e: HypervisorError, unreached: &HypervisorError) -> HypervisorError {
    match e {
        HypervisorError::Failed(why) => HypervisorError::Unavailable(format!("{why}. {unreached}")),
        e => e,
    }
}

/// Ends a move of which the agent was cut off: libvirt may not have noticed yet.
fn end_move(domain: &Domain) -> Result<(), HypervisorError> {
    let until = Instant::now() + END_PATIENCE;
    while ffi::job_stats(domain, 0).is_ok_and(|stats| !stats.is_empty()) {
        let _over = ffi::abort_job(domain);
        if Instant::now() > until {
            return Err(HypervisorError::Conflict(
                "libvirt is still busy with the last move of this VM.".to_owned(),
            ));
        }
        std::thread::sleep(STEP);
    }
    Ok(())
}

/// What to say of a VM that may be on the other node already.
pub fn cut_off(id: VmId) -> HypervisorError {
    HypervisorError::Conflict(format!(
        "VM {id} was cut off on its way to another node: tell moving.send again first."
    ))
}

#[cfg(test)]
mod tests {
    use berth_model::NodeId;
    use berth_model::agent::{DomainType, Hardware, MovePlace, MoveRoom, Rescue};

    use super::*;

    #[test]
    fn what_is_wished_becomes_libvirts_flags() {
        let _proof = crate::proof::pure(&["moving.send"]);
        let room = MoveRoom {
            domain_type: DomainType::Kvm,
            domain: "t-7".to_owned(),
            folder: "/vms/7".to_owned(),
            disk: "/vms/7/disk.qcow2".to_owned(),
            images: "/images".to_owned(),
            bridge: None,
            shared: None,
            volumes: vec![],
        };
        let until = crate::clock::now();
        let to = MovePlace { node: NodeId(2), port: 7702, secret: String::new(), until, room };
        let plain = MoveSend {
            host: "n2".to_owned(),
            to,
            auto_converge: false,
            post_copy: false,
            bandwidth_mib_s: None,
            allow_unsafe: false,
        };
        let copied = flags(&plain, true);
        assert_eq!(copied & !flags(&plain, false), sys::VIR_MIGRATE_NON_SHARED_INC);
        assert_eq!(copied & sys::VIR_MIGRATE_PEER2PEER, 0, "the agent drives it");
        let wishes = [
            (MoveSend { auto_converge: true, ..plain.clone() }, sys::VIR_MIGRATE_AUTO_CONVERGE),
            (MoveSend { post_copy: true, ..plain.clone() }, sys::VIR_MIGRATE_POSTCOPY),
            (MoveSend { allow_unsafe: true, ..plain }, sys::VIR_MIGRATE_UNSAFE),
        ];
        for (order, flag) in wishes {
            assert_eq!(flags(&order, true) ^ copied, flag);
        }
    }

    #[test]
    fn what_breaks_since_the_other_node_is_gone_is_unavailable() {
        let _proof = crate::proof::pure(&["moving.send"]);
        let gone = HypervisorError::Unavailable("No answer.".to_owned());
        let broken = broke_off(HypervisorError::Failed("The disk broke".to_owned()), &gone);
        assert!(matches!(broken, HypervisorError::Unavailable(_)), "{broken:?}");
        assert!(broken.to_string().contains("The disk broke. No answer."), "{broken}");
        let full = HypervisorError::Lacking("No room.".to_owned());
        assert!(matches!(broke_off(full, &gone), HypervisorError::Lacking(_)));
    }

    #[test]
    fn memory_is_fetched_when_little_is_left_of_some() {
        let _proof = crate::proof::pure(&["moving.send"]);
        assert!(is_nearly_sent(Some(100), Some(10)) && is_nearly_sent(Some(100), Some(0)));
        assert!(!is_nearly_sent(Some(100), Some(11)) && !is_nearly_sent(Some(0), Some(0)));
        assert!(!is_nearly_sent(None, Some(0)));
    }

    #[test]
    fn what_would_stay_behind_is_refused_with_the_reason() {
        let _proof = crate::proof::pure(&["moving.prepare", "moving.send"]);
        let tpm = VmSpec { hardware: Hardware { tpm: true, ..Hardware::default() }, ..VmSpec::default() };
        let rescue = Rescue::default();
        let rescue = VmSpec { rescue: Some(rescue), ..VmSpec::default() };
        assert!(check_movable(VmId(7), &VmSpec::default()).is_ok());
        for (spec, why) in [(tpm, "TPM"), (rescue, "rescue")] {
            let refused = check_movable(VmId(7), &spec).unwrap_err().to_string();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
