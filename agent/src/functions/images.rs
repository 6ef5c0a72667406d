//! `image`.

use std::collections::BTreeMap;

use berth_model::VmId;
use berth_model::agent::function::image;
use berth_model::agent::{CloneMode, ImageFileList, Nothing, VmSpec};

use super::{Functions, no_faults};
use crate::api::Api;
use crate::error::Refusal;
use crate::images::fetch_faults;

pub(super) fn tie(functions: &mut Functions) {
    functions.read::<image::List>(|api, (), _| {
        let (vms, volumes) = users(api)?;
        Ok(ImageFileList { images: api.images.list(&vms, &volumes)? })
    });
    functions.read::<image::Get>(|api, sha256, _| {
        let (vms, volumes) = users(api)?;
        let image = api.images.list(&vms, &volumes)?.into_iter().find(|image| image.sha256 == sha256.0);
        image.ok_or_else(|| {
            let message = format!("The image {sha256} is not on this node.");
            Refusal::new(berth_model::ErrorCode::NotFound, message)
        })
    });
    functions.change::<image::Fetch>(fetch_faults, |api, cx, checksum, wanted| {
        api.images.fetch(cx, checksum, &wanted)
    });
    functions.change::<image::Convert>(no_faults, |api, cx, sha256, _| api.images.convert(cx, &sha256.0));
    functions.change::<image::Verify>(no_faults, |api, cx, sha256, _| api.images.verify(cx, &sha256.0));
    functions.change::<image::FromDisk>(no_faults, |api, cx, vm, _| {
        api.images.make(cx, |to| api.work.hypervisor().disk_export(cx, *vm, to))
    });
    functions.change::<image::Delete>(no_faults, |api, _, sha256, _| {
        api.images.delete(&sha256.0, || users(api))?;
        // Pools with copies of their own; what cannot be dropped now, `node.orphans` finds.
        if let Err(e) = api.work.hypervisor().storage().forget_image(&sha256.0) {
            tracing::warn!(error = %e, image = %sha256, "a pool keeps its copy of a deleted image");
        }
        Ok(Nothing {})
    });
}

/// Who may stand on images.
fn users(api: &Api) -> Result<(Vec<berth_model::agent::Vm>, Vec<berth_model::agent::Volume>), Refusal> {
    let hypervisor = api.work.hypervisor();
    let (mut vms, storage) = (hypervisor.list()?, hypervisor.storage());
    // In a pool that has its own copies of images a disk needs no file.
    let on_copies =
        |spec: &&mut VmSpec| spec.disk_pool.as_ref().is_some_and(|pool| storage.keeps_images(pool));
    vms.iter_mut().filter_map(|vm| vm.spec.as_mut()).filter(on_copies).for_each(|spec| {
        spec.disk_mode = CloneMode::Copy;
    });
    // A restored disk may stand on another image than its VM is made of.
    let below: BTreeMap<VmId, String> = hypervisor.standing_on()?.into_iter().collect();
    for vm in &mut vms {
        if let (Some(spec), Some(image)) = (&mut vm.spec, below.get(&vm.id)) {
            spec.image.sha256.clone_from(image);
            spec.disk_mode = CloneMode::Backing;
        }
    }
    Ok((vms, storage.volumes()?))
}
