//! Keys of Ceph's users in libvirt's keeping, in `/etc/libvirt/secrets`, for root alone. They are kept over
//! restarts, so that VMs which start with the node find their disks; nobody can read them back through libvirt.

use berth_model::VmId;
use serde::Serialize;
use virt::connect::Connect;

use super::ops::refused;
use super::{Libvirt, xml};
use crate::hypervisor::HypervisorError;
use crate::storage::pool::Key;

#[derive(Serialize)]
#[serde(rename = "secret")]
struct Definition<'a> {
    #[serde(rename = "@ephemeral")]
    ephemeral: &'static str,
    #[serde(rename = "@private")]
    private: &'static str,
    uuid: &'a str,
    usage: Usage,
}

#[derive(Serialize)]
struct Usage {
    #[serde(rename = "@type")]
    kind: &'static str,
    name: String,
}

fn definition(uuid: &str) -> String {
    let usage = Usage { kind: "ceph", name: format!("berth-{uuid}") };
    xml::write(&Definition { ephemeral: "no", private: "yes", uuid, usage })
}

impl Libvirt {
    /// Gives libvirt the keys that a VM needs, as they are now.
    pub(super) fn put_keys(&self, connect: &Connect, id: VmId) -> Result<(), HypervisorError> {
        // The test driver keeps no secrets, and needs none.
        if self.is_test_driver() {
            return Ok(());
        }
        self.storage.keys_of(id)?.iter().try_for_each(|key| put(connect, key))
    }
}

fn put(connect: &Connect, key: &Key) -> Result<(), HypervisorError> {
    let known = connect.lookup_secret_by_uuid_string(&key.uuid);
    let secret = known.or_else(|_| connect.define_secret_xml(&definition(&key.uuid), 0));
    let secret = secret.map_err(|e| refused("keep a key of Ceph", &e))?;
    secret.set_value(&key.value, 0).map_err(|e| refused("keep a key of Ceph", &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_kept_over_restarts_and_never_given_out() {
        let _proof = crate::proof::pure(&["volume.attach"]);
        let text = definition("6f2d1b1e-5c1f-4a5e-9d64-0d0b7c3a1e2f");
        assert!(text.contains("ephemeral=\"no\" private=\"yes\""), "{text}");
        assert!(text.contains("<usage type=\"ceph\">"), "{text}");
    }
}
