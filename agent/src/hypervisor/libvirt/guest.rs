//! The way to a guest agent.

use std::time::Duration;

use berth_model::VmId;
use serde_json::Value;
use virt::domain::Domain;
use virt::error::{Error, ErrorNumber};

use super::ops::{is, refused};
use crate::hypervisor::HypervisorError;

/// Asks the guest agent; before each command libvirt makes sure for 5 s at most that it answers at all.
pub fn ask(domain: &Domain, id: VmId, command: &Value, patience: Duration) -> Result<Value, HypervisorError> {
    let seconds = i32::try_from(patience.as_secs()).unwrap_or(i32::MAX).max(1);
    let said = domain
        .qemu_agent_command(&command.to_string(), seconds, 0)
        .map_err(|e| refused_by_agent(id, command["execute"].as_str().unwrap_or_default(), &e))?;
    let said: Option<Value> = serde_json::from_str(&said).ok();
    said.and_then(|mut said| said.get_mut("return").map(Value::take))
        .ok_or_else(|| HypervisorError::Failed(format!("The guest agent of VM {id} answers nothing.")))
}

fn refused_by_agent(id: VmId, command: &str, e: &Error) -> HypervisorError {
    let silent = [
        ErrorNumber::AgentUnresponsive,
        ErrorNumber::AgentUnsynced,
        ErrorNumber::AgentCommandTimeout,
        // libvirt's test driver.
        ErrorNumber::NoSupport,
    ];
    let message = e.message();
    match () {
        () if silent.into_iter().any(|number| is(e, number)) => HypervisorError::Unavailable(format!(
            "The guest agent of VM {id} does not answer ({message}). Does qemu-guest-agent run in it?"
        )),
        () if is(e, ErrorNumber::OperationInvalid) => {
            HypervisorError::Conflict(format!("VM {id} is off or held, so its guest agent cannot be asked."))
        }
        () if is(e, ErrorNumber::ArgumentUnsupported) => HypervisorError::Lacking(format!(
            "VM {id} was started without a way to its guest agent; start it anew."
        )),
        // QEMU's class of error; libvirt puts it into words alone.
        () if message.contains("has not been found") || message.contains("has been disabled") => {
            HypervisorError::Lacking(format!(
                "The guest agent of VM {id} has no “{command}”: it is too old for it, or set up without it."
            ))
        }
        () if is(e, ErrorNumber::InternalError) || is(e, ErrorNumber::AgentCommandFailed) => {
            HypervisorError::Failed(format!("The guest agent of VM {id} refused “{command}”: {message}."))
        }
        () => refused("ask the guest agent", e),
    }
}
