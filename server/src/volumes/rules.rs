//! What is a good request. Pure.

use berth_model::FieldError;
use berth_model::volume::{SIZE_MAX_GB, SIZE_MIN_GB, VolumeCreate};

use crate::labels;
use crate::servers::rules::fault;

/// Everything that is wrong with the order of a volume by itself.
pub fn create_faults(create: &VolumeCreate) -> Vec<FieldError> {
    let mut faults = labels::named_faults(Some(&create.name), create.labels.as_ref());
    faults.extend(size_fault(create.size));
    match (&create.location, create.server) {
        (None, None) => faults.push(fault("location", "Name a location, or a server that gets it.")),
        (Some(_), Some(_)) => faults.push(fault("location", "Name one: a location or a server.")),
        _ => {}
    }
    faults
}

/// What is wrong with a size.
pub fn size_fault(gb: u32) -> Option<FieldError> {
    let message = format!("A volume has {SIZE_MIN_GB} to {SIZE_MAX_GB} GB.");
    (!(SIZE_MIN_GB..=SIZE_MAX_GB).contains(&gb)).then(|| fault("size", message))
}

/// What is wrong with growing a volume of `has` GB to `gb`.
pub fn resize_fault(has: u32, gb: u32) -> Option<FieldError> {
    let message = || format!("The volume has {has} GB already, and never shrinks.");
    size_fault(gb).or_else(|| (gb <= has).then(|| fault("size", message())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_has_ten_gigabytes_to_ten_terabytes_and_only_grows() {
        for (gb, fine) in
            [(0, false), (9, false), (10, true), (10_240, true), (10_241, false), (u32::MAX, false)]
        {
            assert_eq!(size_fault(gb).is_none(), fine, "{gb}");
        }
        for (has, gb, fine) in [(10, 10, false), (11, 10, false), (10, 11, true), (10_240, 10_241, false)] {
            assert_eq!(resize_fault(has, gb).is_none(), fine, "{has} {gb}");
        }
    }
}
