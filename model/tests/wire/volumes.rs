//! Volumes.

use berth_model::agent::FileSystem;
use berth_model::volume::*;
use berth_model::*;

use crate::golden;
use crate::samples::{at, labels, location, meta};

#[test]
fn volumes_keep_their_wire_form() {
    let volume = Volume {
        id: VolumeId(5),
        name: "data".into(),
        size: 42,
        server: Some(ServerId(7)),
        status: VolumeStatus::Available,
        location: location(),
        linux_device: Volume::linux_device_of(VolumeId(5)),
        format: Some(FileSystem::Ext4),
        protection: VolumeProtection { delete: true },
        labels: labels(),
        created: at("2026-11-20T02:14:00Z"),
    };
    golden("volume", &VolumeReply { volume: volume.clone() });
    golden("volume_list", &VolumeList { volumes: vec![volume], meta: meta() });
    golden(
        "volume_create",
        &VolumeCreate {
            name: "data".into(),
            size: 42,
            location: Some("rtm1".into()),
            server: None,
            format: Some(FileSystem::Xfs),
            automount: Some(false),
            labels: Some(labels()),
        },
    );
    let attach = VolumeAttach { server: ServerId(7), automount: Some(true) };
    golden("volume_attach", &attach);
    golden("volume_resize", &VolumeResize { size: 50 });
    golden("change_volume_protection", &ChangeVolumeProtection { delete: Some(true) });
}
