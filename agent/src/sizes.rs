//! What of a VM's size a running guest takes at once, and what waits for its next start. Pure.

use berth_model::ByteSize;
use berth_model::agent::{VmResize, VmSpec};
use serde::{Deserialize, Serialize};

/// A balloon is not exact to the page.
const MEMORY_GRAIN: u64 = ByteSize::mib(1).0;

/// The size a running guest has, and how far it can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Virtual CPUs that are plugged in.
    pub vcpus: u32,
    /// Those that cannot be unplugged.
    pub vcpus_min: u32,
    /// So many can be plugged in.
    pub vcpus_max: u32,
    /// What the balloon leaves to the guest.
    pub memory: ByteSize,
    /// What the guest has without a balloon.
    pub memory_max: ByteSize,
}

impl Running {
    /// As a VM starts.
    pub fn started(spec: &VmSpec) -> Self {
        Self {
            vcpus: spec.vcpus,
            // What was there before the guest came up can be taken away only if that was prepared.
            vcpus_min: if spec.vcpus_max.is_some() { 1 } else { spec.vcpus },
            vcpus_max: spec.vcpus_max.unwrap_or(spec.vcpus),
            memory: spec.memory,
            memory_max: spec.memory_max.unwrap_or(spec.memory),
        }
    }

    /// The number of virtual CPUs to bring it to now, if it can be.
    pub fn vcpus_toward(&self, spec: &VmSpec) -> Option<u32> {
        let range = self.vcpus_min..=self.vcpus_max;
        (spec.vcpus != self.vcpus && range.contains(&spec.vcpus)).then_some(spec.vcpus)
    }

    /// The memory to bring it to now, if it can be.
    pub fn memory_toward(&self, spec: &VmSpec) -> Option<ByteSize> {
        (!self.has_memory(spec.memory) && spec.memory <= self.memory_max).then_some(spec.memory)
    }

    /// Is this what the balloon leaves?
    pub fn has_memory(&self, memory: ByteSize) -> bool {
        self.memory.0.abs_diff(memory.0) < MEMORY_GRAIN
    }

    /// The fields of the specification that wait for the next start.
    pub fn pending(&self, spec: &VmSpec) -> Vec<String> {
        let fields = [
            ("vcpus", self.vcpus == spec.vcpus),
            ("memory", self.has_memory(spec.memory)),
            ("vcpus_max", spec.vcpus_max.is_none_or(|max| max == self.vcpus_max)),
            ("memory_max", spec.memory_max.is_none_or(|max| max == self.memory_max)),
        ];
        fields.into_iter().filter(|(_, is_there)| !is_there).map(|(name, _)| name.to_owned()).collect()
    }
}

/// A specification with another size. What it can grow to goes up with it.
pub fn resized(spec: VmSpec, wanted: &VmResize) -> VmSpec {
    let (vcpus, memory) = (wanted.vcpus.unwrap_or(spec.vcpus), wanted.memory.unwrap_or(spec.memory));
    VmSpec {
        vcpus,
        memory,
        disk: wanted.disk.unwrap_or(spec.disk),
        vcpus_max: wanted.vcpus_max.or(spec.vcpus_max.map(|max| max.max(vcpus))),
        memory_max: wanted.memory_max.or(spec.memory_max.map(|max| max.max(memory))),
        ..spec
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> VmSpec {
        VmSpec { vcpus: 2, memory: ByteSize::gib(2), disk: ByteSize::gib(10), ..VmSpec::default() }
    }

    #[test]
    fn without_room_only_memory_changes_while_a_vm_runs() {
        let _proof = crate::proof::pure(&["vm.resize"]);
        let running = Running::started(&spec());
        for vcpus in [1, 3] {
            let other = VmSpec { vcpus, ..spec() };
            assert_eq!(running.vcpus_toward(&other), None);
            assert_eq!(running.pending(&other), ["vcpus"]);
        }
        let less = VmSpec { memory: ByteSize::gib(1), ..spec() };
        assert_eq!(running.memory_toward(&less), Some(ByteSize::gib(1)));
        let more = VmSpec { memory: ByteSize::gib(3), ..spec() };
        assert_eq!((running.memory_toward(&more), running.pending(&more)), (None, vec!["memory".to_owned()]));
        assert_eq!(running.pending(&spec()), [""; 0]);
    }

    #[test]
    fn with_room_a_vm_grows_and_shrinks_within_it() {
        let _proof = crate::proof::pure(&["vm.resize"]);
        let roomy = VmSpec { vcpus_max: Some(4), memory_max: Some(ByteSize::gib(4)), ..spec() };
        let running = Running::started(&roomy);
        for (vcpus, toward) in [(1, Some(1)), (2, None), (4, Some(4)), (5, None)] {
            assert_eq!(running.vcpus_toward(&VmSpec { vcpus, ..roomy.clone() }), toward);
        }
        let more = VmSpec { memory: ByteSize::gib(4), ..roomy.clone() };
        assert_eq!(running.memory_toward(&more), Some(ByteSize::gib(4)));
        let roomier = VmSpec { vcpus_max: Some(8), ..roomy };
        assert_eq!(running.pending(&roomier), ["vcpus_max"]);
    }

    #[test]
    fn a_size_that_is_not_given_stays_and_room_goes_up_with_the_size() {
        let _proof = crate::proof::pure(&["vm.resize"]);
        let roomy = VmSpec { vcpus_max: Some(4), ..spec() };
        let larger = resized(roomy.clone(), &VmResize { vcpus: Some(6), ..VmResize::default() });
        assert_eq!((larger.vcpus, larger.vcpus_max, larger.memory), (6, Some(6), roomy.memory));
        assert_eq!(resized(roomy.clone(), &VmResize::default()), roomy);
    }
}
