//! SSH keys.

use berth_model::ssh_key::*;
use berth_model::*;

use crate::golden;
use crate::samples::{at, labels, meta};

#[test]
fn ssh_keys_keep_their_wire_form() {
    let key = SshKey {
        id: SshKeyId(4),
        name: "laptop".into(),
        fingerprint: "b7:2f:30:a0:2f:6c:58:6c:21:04:58:61:ba:06:3b:2f".into(),
        public_key: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA== mara@laptop".into(),
        labels: labels(),
        created: at("2026-11-20T02:14:00Z"),
    };
    golden("ssh_key", &SshKeyReply { ssh_key: key.clone() });
    golden("ssh_key_list", &SshKeyList { ssh_keys: vec![key], meta: meta() });
    golden(
        "ssh_key_create",
        &SshKeyCreate { name: "laptop".into(), public_key: "ssh-ed25519 …".into(), labels: labels() },
    );
    golden("ssh_key_update", &SshKeyUpdate { name: None, labels: Some(labels()) });
}
