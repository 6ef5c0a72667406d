//! What a function of the agent is, and the list of all of them.
//!
//! A function is a request and its answer: a name (`vm.resize`), a method and a path, what it works on
//! (the path's names, its [`Target`]), what is asked (the body) and what is answered. The agent's
//! routes, its command line, its OpenAPI document, its README and the control plane's client are all
//! made from this list, so a function that is not in it cannot be reached in any way.

use serde::{Deserialize, Serialize};

use super::run::RunId;
use super::*;
use crate::VmId;

/// A body or an answer.
#[cfg(not(feature = "openapi"))]
pub trait Shape: Serialize + serde::de::DeserializeOwned + Send + 'static {}
#[cfg(not(feature = "openapi"))]
impl<T: Serialize + serde::de::DeserializeOwned + Send + 'static> Shape for T {}

/// A body or an answer, with its schema.
#[cfg(feature = "openapi")]
pub trait Shape: Serialize + serde::de::DeserializeOwned + Send + utoipa::ToSchema + 'static {}
#[cfg(feature = "openapi")]
impl<T: Serialize + serde::de::DeserializeOwned + Send + utoipa::ToSchema + 'static> Shape for T {}

/// No body, or no answer: `204 No Content`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// How a function is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// Reads.
    Get,
    /// Brings something to what the body says.
    Put,
    /// Does something.
    Post,
    /// Leaves nothing of something.
    Delete,
}

impl Method {
    /// HTTP's word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }
}

/// What a function works on: the values of the names in its path, in order.
pub trait Target: Clone + Send + 'static {
    /// As they stand in the path.
    fn values(&self) -> Vec<String>;
    /// Back from the path. The error is the number of the value that is wrong, and what it must be.
    fn parse(values: &[String]) -> Result<Self, (usize, &'static str)>;
}

impl Target for () {
    fn values(&self) -> Vec<String> {
        Vec::new()
    }
    fn parse(_: &[String]) -> Result<Self, (usize, &'static str)> {
        Ok(())
    }
}

impl<T: TargetValue> Target for T {
    fn values(&self) -> Vec<String> {
        vec![self.to_string()]
    }
    fn parse(values: &[String]) -> Result<Self, (usize, &'static str)> {
        values.first().and_then(|text| T::read(text)).ok_or((0, T::RULE))
    }
}

impl<A: TargetValue, B: TargetValue> Target for (A, B) {
    fn values(&self) -> Vec<String> {
        vec![self.0.to_string(), self.1.to_string()]
    }
    fn parse(values: &[String]) -> Result<Self, (usize, &'static str)> {
        let a = values.first().and_then(|text| A::read(text)).ok_or((0, A::RULE))?;
        let b = values.get(1).and_then(|text| B::read(text)).ok_or((1, B::RULE))?;
        Ok((a, b))
    }
}

/// One value of a path.
pub trait TargetValue: Clone + core::fmt::Display + Send + 'static {
    /// What it must be, a sentence.
    const RULE: &'static str;
    /// Back from text.
    fn read(text: &str) -> Option<Self>;
}

impl TargetValue for VmId {
    const RULE: &'static str = "A VM's number is a whole one from 1.";
    fn read(text: &str) -> Option<Self> {
        text.parse().ok().filter(|id: &Self| id.0 > 0 && id.to_string() == text)
    }
}

impl TargetValue for RunId {
    const RULE: &'static str = "A run's number is a whole one from 1.";
    fn read(text: &str) -> Option<Self> {
        text.parse().ok().filter(|id: &Self| id.0 > 0 && id.to_string() == text)
    }
}

/// An image or an ISO: the SHA-256 of its file, 64 digits of `0-9a-f`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256(pub String);

impl core::fmt::Display for Sha256 {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.0)
    }
}

impl TargetValue for Sha256 {
    const RULE: &'static str = "An image is named by its SHA-256: 64 digits of 0-9 and a-f, lower case.";
    fn read(text: &str) -> Option<Self> {
        let fine = text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        fine.then(|| Self(text.to_owned()))
    }
}

/// A name that the caller chose: of a pool, a snapshot, a backup. It becomes a part of file names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(try_from = "String")]
pub struct Name(String);

impl Name {
    /// What it must be, a sentence.
    pub const RULE: &'static str =
        "A name has 1 to 48 letters, digits, hyphens and underscores, and begins with a letter or a digit.";

    /// Takes a name that keeps the rule.
    pub fn new(text: &str) -> Option<Self> {
        let fine = (1..=48).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && text.as_bytes()[0].is_ascii_alphanumeric();
        fine.then(|| Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(&text).ok_or(Self::RULE)
    }
}

impl core::fmt::Display for Name {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.0)
    }
}

impl TargetValue for Name {
    const RULE: &'static str = Self::RULE;
    fn read(text: &str) -> Option<Self> {
        Self::new(text)
    }
}

/// How a function works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Looks, and changes nothing. Not logged.
    Read,
    /// Changes something, within two minutes.
    Change,
    /// Changes something and may take hours: tells how far it is, and can be cancelled.
    Long,
}

/// A function of the agent.
pub trait Function: 'static {
    /// `vm.resize`: what it is for, and the verb.
    const NAME: &'static str;
    /// Its documentation, a line each; the first is its summary.
    const DOC: &'static [&'static str];
    /// How it works.
    const KIND: Kind;
    /// How it is asked for.
    const METHOD: Method;
    /// Where: `/v1/vms/{vm}/resize`.
    const PATH: &'static str;
    /// What it works on.
    type Target: Target;
    /// What is asked.
    type Request: Shape;
    /// What is answered.
    type Answer: Shape;

    /// One line for lists.
    fn summary() -> &'static str {
        Self::DOC.first().map_or("", |line| line.trim())
    }

    /// The path for a target.
    fn path(target: &Self::Target) -> String {
        fill(Self::PATH, &target.values())
    }
}

/// Puts values into a path's names.
fn fill(path: &str, values: &[String]) -> String {
    let mut values = values.iter();
    let part = |part: &str| match part.starts_with('{') {
        true => values.next().cloned().unwrap_or_default(),
        false => part.to_owned(),
    };
    path.split('/').map(part).collect::<Vec<_>>().join("/")
}

/// Does something with each function of a list, of which it knows the type.
pub trait Visitor {
    /// The next function.
    fn visit<F: Function>(&mut self);
}

macro_rules! functions {
    ($(
        $(#[doc = $room_doc:literal])+
        mod $room:ident {
            $(
                $(#[doc = $doc:literal])+
                $name:ident = $word:literal $kind:ident $method:ident $path:literal
                    ($target:ty) $request:ty => $answer:ty;
            )+
        }
    )+) => {
        $(
            $(#[doc = $room_doc])+
            pub mod $room {
                #[allow(clippy::wildcard_imports, unused_imports, reason = "the table's own words")]
                use super::*;
                $(
                    $(#[doc = $doc])+
                    #[derive(Debug, Clone, Copy)]
                    pub enum $name {}
                    impl Function for $name {
                        const NAME: &'static str = concat!(stringify!($room), ".", $word);
                        const DOC: &'static [&'static str] = &[$($doc),+];
                        const KIND: Kind = Kind::$kind;
                        const METHOD: Method = Method::$method;
                        const PATH: &'static str = $path;
                        type Target = $target;
                        type Request = $request;
                        type Answer = $answer;
                    }
                )+
            }
        )+

        /// Visits all functions, in the order of the list.
        pub fn visit_all(visitor: &mut impl Visitor) {
            $($(visitor.visit::<$room::$name>();)+)+
        }
    };
}

functions! {
    /// The node itself.
    mod node {
        /// Show what the node is and whether it can work.
        ///
        /// Answered from what was seen last, so it answers also while the hypervisor hangs.
        Get = "get" Read Get "/v1/node" (()) Nothing => Node;
    }

    /// Virtual machines.
    mod vm {
        /// List all VMs, also half-made ones.
        List = "list" Read Get "/v1/vms" (()) Nothing => VmList;
        /// Show one VM.
        ///
        /// `not_found` when nothing of it is there.
        Get = "get" Read Get "/v1/vms/{vm}" (VmId) Nothing => Vm;
        /// Bring a VM to what a specification says, made anew if need be.
        ///
        /// What a running guest allows is changed at once; the rest waits for its next start, and the answer
        /// names it in `pending`. Told twice, it ends the same.
        Put = "put" Change Put "/v1/vms/{vm}" (VmId) VmSpec => Vm;
        /// Delete a VM: its domain, disks, seed, console log and addresses.
        ///
        /// Fine when there is none.
        Delete = "delete" Change Delete "/v1/vms/{vm}" (VmId) Nothing => Nothing;
        /// Start a VM; fine when it runs.
        Start = "start" Change Post "/v1/vms/{vm}/start" (VmId) Nothing => Vm;
        /// Ask a VM's system to stop, by the guest agent or else by the power button.
        ///
        /// Answered once it is asked. Fine when it is off.
        Shutdown = "shutdown" Change Post "/v1/vms/{vm}/shutdown" (VmId) Nothing => Vm;
        /// Ask a VM's system to reboot.
        ///
        /// Answered once it is asked; told twice, it reboots twice. `conflict` when it is off.
        Reboot = "reboot" Change Post "/v1/vms/{vm}/reboot" (VmId) Nothing => Vm;
        /// Press a VM's reset button.
        ///
        /// Told twice, it is pressed twice. `conflict` when it is off.
        Reset = "reset" Change Post "/v1/vms/{vm}/reset" (VmId) Nothing => Vm;
        /// Pull a VM's plug; fine when it is off.
        PowerOff = "power_off" Change Post "/v1/vms/{vm}/power_off" (VmId) Nothing => Vm;
    }

    /// Image files.
    mod image {
        /// List all image files, with the VMs that stand on them.
        List = "list" Read Get "/v1/images" (()) Nothing => ImageFileList;
        /// Delete an image file.
        ///
        /// Fine when there is none; `conflict` while a disk stands on it.
        Delete = "delete" Change Delete "/v1/images/{sha256}" (Sha256) Nothing => Nothing;
    }

    /// The log of functions.
    mod run {
        /// List what is being done and what was done last, newest first.
        List = "list" Read Get "/v1/runs" (()) Nothing => RunList;
        /// Show one run.
        Get = "get" Read Get "/v1/runs/{run}" (RunId) Nothing => Run;
        /// Cancel a long function that is under way.
        ///
        /// It stops at the next point where nothing is left behind. Fine when it has ended.
        Cancel = "cancel" Change Post "/v1/runs/{run}/cancel" (RunId) Nothing => Run;
    }

    /// Moving a VM to another node: prepare there, send here, finish there.
    mod moving {
        /// Make room on this node for a VM that comes from another one.
        ///
        /// Checks image, memory and disk space, makes the VM's folder, an empty disk and its seed, and opens a
        /// port. The answer is handed to `moving.send` on the other node. Told again, it gives the same answer,
        /// or a new one after the agent was restarted. `conflict` when the VM is on this node already,
        /// `resource_unavailable` when there is no room.
        Prepare = "prepare" Change Post "/v1/vms/{vm}/move/prepare" (VmId) MovePrepare => MovePlace;
        /// Send a VM to the node that awaits it; live when it runs.
        ///
        /// Nothing of the VM is left on this node afterwards. When it fails or is cancelled, the VM goes on here
        /// as if nothing had been, and `moving.abort` clears the other node. Told again after it was cut off, it
        /// sends anew, or finds that the VM has arrived and clears up here.
        Send = "send" Long Post "/v1/vms/{vm}/move/send" (VmId) MoveSend => MoveSent;
        /// Make a VM that has arrived one of this node, and close the port.
        ///
        /// `conflict` when it has not arrived. Told again, it shows the VM.
        Finish = "finish" Change Post "/v1/vms/{vm}/move/finish" (VmId) Nothing => MoveArrived;
        /// Give up awaiting a VM: nothing of it is left on this node.
        ///
        /// Fine when none is awaited. `conflict` when it has arrived, since then it may be nowhere else.
        Abort = "abort" Change Post "/v1/vms/{vm}/move/abort" (VmId) Nothing => Nothing;
    }

    /// The agent's certificate.
    mod certificate {
        /// Make a new key on the node, and ask for its certificate.
        Request = "request" Change Post "/v1/certificate/request" (()) Nothing => CertificateRequest;
        /// Take the certificate for the key last requested; used from the next connection on.
        Put = "put" Change Put "/v1/certificate" (()) Certificate => Nothing;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Seen(Vec<(&'static str, &'static str, &'static str, String)>);

    impl Visitor for Seen {
        fn visit<F: Function>(&mut self) {
            self.0.push((F::NAME, F::METHOD.word(), F::PATH, F::summary().to_owned()));
        }
    }

    fn all() -> Seen {
        let mut seen = Seen::default();
        visit_all(&mut seen);
        seen
    }

    #[test]
    fn names_and_routes_are_unique_and_summaries_are_sentences() {
        let seen = all().0;
        for (n, (name, method, path, summary)) in seen.iter().enumerate() {
            assert!(seen[..n].iter().all(|other| other.0 != *name), "{name} twice");
            assert!(seen[..n].iter().all(|other| (other.1, other.2) != (*method, *path)), "{path} twice");
            assert!(summary.ends_with('.') && summary.len() < 90, "{name}: {summary}");
            assert!(path.starts_with("/v1/"), "{path}");
        }
    }

    #[test]
    fn a_path_is_filled_and_read_back() {
        assert_eq!(vm::Start::path(&VmId(7)), "/v1/vms/7/start");
        assert_eq!(<VmId as Target>::parse(&["7".to_owned()]), Ok(VmId(7)));
        for bad in ["0", "-1", "07", "x", ""] {
            assert_eq!(<VmId as Target>::parse(&[bad.to_owned()]), Err((0, VmId::RULE)), "{bad}");
        }
    }

    #[test]
    fn a_name_is_safe_in_a_path() {
        for bad in ["", "-a", "a/b", "..", "a b", "ä", &"a".repeat(49)] {
            assert_eq!(Name::new(bad), None, "{bad}");
        }
        assert!(Name::new("daily-2026_11").is_some());
    }
}
