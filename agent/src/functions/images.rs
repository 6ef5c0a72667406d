//! `image`.

use berth_model::agent::function::image;
use berth_model::agent::{ImageFileList, Nothing};

use super::{Functions, no_faults};

pub(super) fn tie(functions: &mut Functions) {
    functions.read::<image::List>(|api, (), _| {
        let vms = api.work.hypervisor().list()?;
        Ok(ImageFileList { images: api.images.list(&vms)? })
    });
    functions.change::<image::Delete>(no_faults, |api, _, sha256, _| {
        api.images.delete(&sha256.0, || Ok(api.work.hypervisor().list()?))?;
        Ok(Nothing {})
    });
}
