//! What is a good request. Pure.

use berth_model::FieldError;
use berth_model::label::Labels;

use crate::labels;
use crate::servers::rules::fault;

/// Longest name, in characters.
pub const NAME_MAX: usize = 64;

fn name_fault(name: &str) -> Option<String> {
    if name.trim().is_empty() {
        return Some("Enter a name.".to_owned());
    }
    if name.chars().count() > NAME_MAX {
        return Some(format!("A name has at most {NAME_MAX} characters."));
    }
    name.chars().any(char::is_control).then(|| "A name is one line.".to_owned())
}

/// Everything that is wrong with a name and labels; what is `None` is not looked at.
pub fn faults(name: Option<&str>, marks: Option<&Labels>) -> Vec<FieldError> {
    let mut faults = Vec::new();
    faults.extend(name.and_then(name_fault).map(|message| fault("name", message)));
    faults.extend(marks.iter().flat_map(|marks| labels::faults("labels", marks)));
    faults
}
