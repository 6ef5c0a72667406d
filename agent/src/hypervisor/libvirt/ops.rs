//! Calls on one domain that end the same when they are told twice.

use std::io;

use berth_model::Timestamp;
use berth_model::agent::VmState;
use virt::domain::Domain;
use virt::error::{Error, ErrorDomain, ErrorNumber};
use virt::sys;

use super::{events, ffi, xml};
use crate::clock;
use crate::faults::Fault;
use crate::hypervisor::HypervisorError;

/// The namespace of the note that says since when a domain runs. It stands in the running domain alone,
/// and goes with it.
const RUN_URI: &str = "urn:berth:run:1";

/// What the domain does now.
pub fn state(domain: &Domain) -> Result<VmState, HypervisorError> {
    let (state, reason) = ffi::state(domain).map_err(|e| refused("say the VM's state", &e))?;
    Ok(events::state_of(state, reason))
}

/// Pulls the plug; nothing if it is off.
pub fn power_off(domain: &Domain) -> Result<(), HypervisorError> {
    match state(domain)? {
        VmState::Off | VmState::Crashed => Ok(()),
        VmState::Running | VmState::Paused => unless_off(domain, "power the VM off", domain.destroy()),
    }
}

/// What failed because the domain went off meanwhile did not fail.
pub fn unless_off(domain: &Domain, what: &str, done: Result<(), Error>) -> Result<(), HypervisorError> {
    match done {
        Err(_) if matches!(state(domain), Ok(VmState::Off | VmState::Crashed)) => Ok(()),
        done => done.map_err(|e| refused(what, &e)),
    }
}

/// Presses the reset button. libvirt's test driver has none, so there the plug is pulled and put back.
pub fn reset(domain: &Domain) -> Result<(), HypervisorError> {
    match domain.reset() {
        Err(e) if is(&e, ErrorNumber::NoSupport) => domain.destroy().and_then(|()| domain.create()),
        done => done,
    }
    .map_err(|e| refused("reset the VM", &e))
}

/// Removes the definition and all that libvirt keeps beside it.
pub fn undefine(domain: &Domain) -> Result<(), HypervisorError> {
    let all = sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
        | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        | sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
        | sys::VIR_DOMAIN_UNDEFINE_NVRAM;
    let undefined = match domain.undefine_flags(all) {
        // The test driver knows fewer flags.
        Err(e) if is(&e, ErrorNumber::InvalidArg) => domain.undefine(),
        undefined => undefined,
    };
    match undefined {
        Err(e) if is(&e, ErrorNumber::NoDomain) => Ok(()),
        undefined => undefined.map_err(|e| refused("undefine the VM", &e)),
    }
}

/// Notes in a running domain that it was started now, unless it is noted already.
pub fn note_start(domain: &Domain) -> Result<(), HypervisorError> {
    if started(domain)?.is_some() {
        return Ok(());
    }
    let note = xml::element("run", &clock::now().to_string());
    let kind = sys::VIR_DOMAIN_METADATA_ELEMENT.cast_signed();
    let noted =
        domain.set_metadata(kind, Some(&note), Some("run"), Some(RUN_URI), sys::VIR_DOMAIN_AFFECT_LIVE);
    unless_off(domain, "note the VM's start", noted)
}

/// Since when a running domain runs, if that was noted.
pub fn started(domain: &Domain) -> Result<Option<Timestamp>, HypervisorError> {
    let Some(note) = metadata(domain, RUN_URI, sys::VIR_DOMAIN_AFFECT_LIVE)? else { return Ok(None) };
    Ok(xml::text_of(&note).ok().and_then(|text| serde_json::from_value(text.into()).ok()))
}

/// One of our elements in the domain's metadata.
pub fn metadata(domain: &Domain, uri: &str, of: u32) -> Result<Option<String>, HypervisorError> {
    match domain.metadata(sys::VIR_DOMAIN_METADATA_ELEMENT.cast_signed(), Some(uri), of) {
        Ok(text) => Ok(Some(text)),
        Err(e) if is(&e, ErrorNumber::NoDomainMetadata) => Ok(None),
        // Off since it was looked at: then nothing is noted in the running domain.
        Err(e) if is(&e, ErrorNumber::OperationInvalid) => Ok(None),
        Err(e) => Err(refused("read the VM's metadata", &e)),
    }
}

/// Is it this error?
pub fn is(e: &Error, number: ErrorNumber) -> bool {
    e.code().is_known_and(|code| code == number)
}

/// What an error of libvirt means, `what` being what was asked of it.
pub fn refused(what: &str, e: &Error) -> HypervisorError {
    let message = format!("libvirt could not {what}: {}", e.message());
    let is_one_of = |numbers: &[ErrorNumber]| numbers.iter().any(|number| is(e, *number));
    let lost = e.domain().is_known_and(|domain| matches!(domain, ErrorDomain::Rpc | ErrorDomain::Remote));
    match () {
        // A connection that broke says so in many ways, all from the RPC layer.
        () if lost
            || is_one_of(&[ErrorNumber::Rpc, ErrorNumber::NoConnect, ErrorNumber::OperationTimeout]) =>
        {
            HypervisorError::Unavailable(message)
        }
        () if is_one_of(&[ErrorNumber::OperationInvalid]) => HypervisorError::Conflict(message),
        () if e.message().contains("No space left on device") => HypervisorError::Lacking(message),
        () => HypervisorError::Failed(message),
    }
}

/// What an error of the node's filesystem means.
#[expect(clippy::needless_pass_by_value, reason = "stands in map_err")]
pub fn on_disk(e: io::Error) -> HypervisorError {
    not_done("the node's disk", &e)
}

/// The same of something that was being done.
pub fn not_done(what: &str, e: &io::Error) -> HypervisorError {
    match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            HypervisorError::Lacking(format!("The node has no room: {what}: {e}"))
        }
        _ => HypervisorError::Failed(format!("{what}: {e}")),
    }
}

impl From<io::Error> for HypervisorError {
    fn from(e: io::Error) -> Self {
        on_disk(e)
    }
}

impl From<Fault> for HypervisorError {
    fn from(fault: Fault) -> Self {
        Self::Failed(fault.to_string())
    }
}

/// libvirt's way to write versions in a number: `9000000` is 9.0.0.
pub fn version(number: u32) -> String {
    match number {
        0 => String::new(),
        number => format!("{}.{}.{}", number / 1_000_000, number / 1000 % 1000, number % 1000),
    }
}
