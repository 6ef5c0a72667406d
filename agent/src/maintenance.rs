//! Is the node closed for new VMs? Kept in `maintenance.json` in the data folder, over restarts.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use berth_model::agent::{Maintenance, MaintenanceRequest};
use berth_model::{ErrorCode, FieldError, Timestamp};

use crate::error::Refusal;

/// Longest reason, in characters.
const REASON_MAX: usize = 200;

/// The switch.
#[derive(Debug)]
pub struct Switch {
    file: PathBuf,
    state: Mutex<Option<Maintenance>>,
}

impl Switch {
    /// Reads it from the data folder.
    pub fn open(data_dir: &Path) -> std::io::Result<Self> {
        let file = data_dir.join("maintenance.json");
        let state = match std::fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text)?,
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        Ok(Self { file, state: Mutex::new(state) })
    }

    /// As it is.
    pub fn get(&self) -> Option<Maintenance> {
        self.state().clone()
    }

    /// Closes or opens the node. Told again, it stays closed since when it was.
    pub fn set(&self, request: MaintenanceRequest, now: Timestamp) -> Result<(), Refusal> {
        let mut state = self.state();
        let since = state.as_ref().map_or(now, |maintenance| maintenance.since);
        let wanted = request.on.then_some(Maintenance { since, reason: request.reason });
        if *state != wanted {
            self.write(wanted.as_ref()).map_err(|e| Refusal::own("It could not be written down", &e))?;
            *state = wanted;
        }
        Ok(())
    }

    /// Refuses what would bring a new VM.
    pub fn admit_new(&self) -> Result<(), Refusal> {
        let Some(maintenance) = self.get() else { return Ok(()) };
        let reason = maintenance.reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        let message = format!("The node is closed for new VMs since {}{reason}", maintenance.since);
        Err(Refusal::new(ErrorCode::ResourceUnavailable, message))
    }

    fn write(&self, wanted: Option<&Maintenance>) -> std::io::Result<()> {
        let folder = self.file.parent().unwrap_or(Path::new("/"));
        let mut new = tempfile::NamedTempFile::new_in(folder)?;
        new.write_all(&serde_json::to_vec(&wanted)?)?;
        new.as_file().sync_all()?;
        new.persist(&self.file)?;
        std::fs::File::open(folder)?.sync_all()
    }

    fn state(&self) -> MutexGuard<'_, Option<Maintenance>> {
        // Replaced as a whole: fine after any panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is wrong with a request.
pub fn faults(request: &MaintenanceRequest) -> Vec<FieldError> {
    let fine = |reason: &String| {
        (1..=REASON_MAX).contains(&reason.chars().count()) && !reason.chars().any(char::is_control)
    };
    let wrong = request.reason.as_ref().is_some_and(|reason| !fine(reason));
    let fault = || FieldError {
        name: "reason".to_owned(),
        messages: vec!["A reason is one line of 1 to 200 characters.".to_owned()],
    };
    wrong.then(fault).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_unix_ms(1_800_000_000_000).unwrap().plus_seconds(second)
    }

    #[test]
    fn a_closed_node_stays_closed_over_a_restart_and_says_why() {
        let _proof = crate::proof::pure(&["node.maintenance"]);
        let folder = tempfile::tempdir().unwrap();
        let switch = Switch::open(folder.path()).unwrap();
        assert!(switch.admit_new().is_ok());
        let on = MaintenanceRequest { on: true, reason: Some("The fan is loud.".to_owned()) };
        switch.set(on.clone(), at(0)).unwrap();
        switch.set(on, at(60)).unwrap();
        let again = Switch::open(folder.path()).unwrap();
        assert_eq!(again.get().unwrap().since, at(0));
        assert!(again.admit_new().unwrap_err().to_string().ends_with(": The fan is loud."));
        again.set(MaintenanceRequest { on: false, reason: None }, at(90)).unwrap();
        assert!(Switch::open(folder.path()).unwrap().admit_new().is_ok());
    }

    #[test]
    fn a_reason_is_one_line() {
        let _proof = crate::proof::pure(&["node.maintenance"]);
        for (reason, fine) in [("fan", true), ("", false), ("a\nb", false), (&*"x".repeat(201), false)] {
            let request = MaintenanceRequest { on: true, reason: Some(reason.to_owned()) };
            assert_eq!(faults(&request).is_empty(), fine, "{reason}");
        }
    }
}
