//! What is right and wrong about images. Pure.

use berth_model::FieldError;
use berth_model::image::{ImageKind, ImageUpdate};
use berth_model::server::CreateImage;

use crate::labels;
use crate::servers::rules::fault;

/// Longest description, in characters.
const DESCRIPTION_MAX: usize = 200;

fn description_fault(description: &str) -> Option<FieldError> {
    let fine = (1..=DESCRIPTION_MAX).contains(&description.trim().chars().count());
    let message = format!("A description has 1 to {DESCRIPTION_MAX} characters.");
    (!fine).then(|| fault("description", message))
}

/// Everything that is wrong with a change of an image of this kind.
pub fn update_faults(update: &ImageUpdate, kind: ImageKind) -> Vec<FieldError> {
    let mut faults = Vec::new();
    faults.extend(update.description.as_deref().and_then(description_fault));
    if update.kind.is_some_and(|wanted| wanted != ImageKind::Snapshot && wanted != kind) {
        faults.push(fault("type", "An image can only become a snapshot."));
    }
    faults.extend(update.labels.iter().flat_map(|l| labels::faults("labels", l)));
    faults
}

/// Everything that is wrong with an image to be made.
pub fn create_faults(create: &CreateImage) -> Vec<FieldError> {
    let mut faults = Vec::new();
    faults.extend(create.description.as_deref().and_then(description_fault));
    if !matches!(create.kind, None | Some(ImageKind::Snapshot | ImageKind::Backup)) {
        faults.push(fault("type", "Give “snapshot” or “backup”."));
    }
    faults.extend(labels::faults("labels", &create.labels));
    faults
}

/// The description of an image for which none was given.
pub fn description_of(kind: ImageKind, server: &str) -> String {
    let word = if kind == ImageKind::Backup { "Backup" } else { "Snapshot" };
    format!("{word} of {server}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(faults: &[FieldError]) -> Vec<&str> {
        faults.iter().map(|fault| fault.name.as_str()).collect()
    }

    #[test]
    fn an_image_hears_all_that_is_wrong_with_it() {
        let labels = [("-".to_owned(), String::new())];
        let create = CreateImage {
            description: Some("x".repeat(DESCRIPTION_MAX + 1)),
            kind: Some(ImageKind::App),
            labels: labels.clone().into(),
        };
        assert_eq!(names(&create_faults(&create)), ["description", "type", "labels.-"]);
        assert!(create_faults(&CreateImage::default()).is_empty());
        let update = ImageUpdate {
            description: Some(" ".to_owned()),
            kind: Some(ImageKind::System),
            labels: Some(labels.into()),
        };
        assert_eq!(names(&update_faults(&update, ImageKind::Snapshot)), ["description", "type", "labels.-"]);
        let keep = ImageUpdate { kind: Some(ImageKind::Snapshot), ..ImageUpdate::default() };
        assert!(update_faults(&keep, ImageKind::Backup).is_empty());
    }
}
