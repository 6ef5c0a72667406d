//! A booted guest for faults during snapshots and backups.

use std::cell::RefCell;

use berth_model::agent::function::{backup, snapshot, vm};
use berth_model::agent::{BackupCreate, BackupKey, BackupStore, Name, Nothing, VmSpec, WantedPower};
use berth_model::{ByteSize, VmId};

use crate::agent::Agent;
use crate::create::name;
use crate::inventory::{Inventory, assert_settles};
use crate::libvirt_common::{EMPTY_IMAGE, TINY, spec, text, wait_for};
use crate::node::Node;

/// The VM that runs.
pub const ID: VmId = VmId(7);
/// One that is off.
pub const OFF: VmId = VmId(9);

/// Stops the guest's agent while its network card has no carrier: the only thing that reaches a guest without
/// its agent and without a write to its disk.
const SILENCER: &str = "agent=$(cat /run/qemu-ga.pid)\n\
    (was=1; while :; do read -r now </sys/class/net/eth0/carrier\n\
    [ $now = $was ] || { [ $now = 0 ] && kill -STOP $agent || kill -CONT $agent; was=$now; }\n\
    sleep 0.1; done) </dev/null >/dev/null 2>&1 &";

/// A node with a guest.
pub struct Ground {
    pub node: Node,
    /// The last backup of the VM that runs.
    pub last: RefCell<Name>,
    /// What there is.
    normal: Option<Inventory>,
    words: String,
}

impl Ground {
    pub fn new() -> Self {
        let node = Node::start();
        let agent = Agent::start(&node, "");
        agent.call::<vm::Put>(ID, &spec(TINY)).unwrap();
        node.wait_for_boot(ID, 1);
        node.inside(ID, SILENCER);
        node.inside(ID, "dd if=/dev/urandom of=/root/words bs=64k count=16 2>/dev/null; sync");
        let words = node.inside(ID, "md5sum </root/words");
        let off =
            VmSpec { power: WantedPower::Off, nics: vec![], disk: ByteSize::mib(64), ..spec(EMPTY_IMAGE) };
        agent.call::<vm::Put>(OFF, &off).unwrap();
        drop(agent);
        let ground = Self { node, normal: None, words, last: RefCell::new(name("ground")) };
        let agent = Agent::start(&ground.node, "");
        // The mark of a VM's last backup is one of its belongings.
        for vm in [ID, OFF] {
            agent.call::<backup::Create>((vm, name("ground")), &ground.backup()).unwrap();
        }
        drop(agent);
        Self { normal: Some(Inventory::of(&ground.node)), ..ground }
    }

    /// A folder of the node.
    pub fn store(&self) -> BackupStore {
        BackupStore::Directory { path: text(&self.node.home().join("store")).to_owned() }
    }

    /// A backup to it.
    pub fn backup(&self) -> BackupCreate {
        let key = BackupKey("5c".repeat(32));
        BackupCreate { store: self.store(), key, full: false, incrementals_max: None }
    }

    /// The end of every fault: the guest runs on with what it wrote, and nothing is left.
    pub fn assert_well(&self, agent: &Agent<'_>, what: &str) {
        let node = &self.node;
        wait_for("the guest to be thawed", || (!node.is_frozen(ID)).then_some(()));
        assert_eq!(
            node.inside(ID, "echo more >>/root/more; sync; md5sum </root/words"),
            self.words,
            "{what}"
        );
        assert_settles(node, what, self.normal.as_ref().unwrap(), &[]);
        assert_eq!(agent.orphans(), [], "{what}");
    }

    /// Names of the VM's snapshots.
    pub fn snapshots(&self, agent: &Agent<'_>) -> Vec<String> {
        let list = agent.call::<snapshot::List>(ID, &Nothing {}).unwrap();
        list.snapshots.iter().map(|snapshot| snapshot.name.to_string()).collect()
    }

    /// Makes the guest's agent silent, or lets it speak.
    pub fn silence(&self, silent: bool) {
        let link = if silent { "down" } else { "up" };
        let card = &spec(TINY).nics[0].mac;
        self.node.virsh(&["domif-setlink", &self.node.domain(ID), card, link]);
        let ping = serde_json::json!({"execute": "guest-ping"});
        wait_for("the guest's agent", || (self.node.ask(ID, &ping).is_none() == silent).then_some(()));
    }

    /// Writes into the disk of the VM that is off, or reads and compares.
    pub fn write_off(&self, command: &str) {
        self.node.run(&format!("qemu-io -f qcow2 -c '{command}' {}", self.node.disk(OFF)));
    }

    pub fn disk_off(&self) -> std::path::PathBuf {
        self.node.file(OFF, "disk.qcow2")
    }

    /// Damages that disk: its first table of tables leads nowhere.
    pub fn damage_off(&self) -> Vec<u8> {
        let mut bytes = std::fs::read(self.disk_off()).unwrap();
        // The level 1 table's place (QEMU's `docs/interop/qcow2.txt`, "Header").
        let table = u64::from_be_bytes(bytes[40..48].try_into().unwrap()) as usize;
        bytes[table..table + 8].copy_from_slice(&0x8000_0000_0000_1200_u64.to_be_bytes());
        std::fs::write(self.disk_off(), &bytes).unwrap();
        bytes
    }
}
