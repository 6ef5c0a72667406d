//! What functions work on, as it stands in their paths.

use serde::{Deserialize, Serialize};

use super::super::run::RunId;
use crate::{PrivateNetworkId, VmId, VolumeId};

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

impl TargetValue for VolumeId {
    const RULE: &'static str = "A volume's number is a whole one from 1 to 999999999999.";
    fn read(text: &str) -> Option<Self> {
        // Twelve digits: a serial number of a disk in a guest has at most 20 characters.
        text.parse().ok().filter(|id: &Self| id.0 > 0 && text.len() <= 12 && id.to_string() == text)
    }
}

impl TargetValue for RunId {
    const RULE: &'static str = "A run's number is a whole one from 1.";
    fn read(text: &str) -> Option<Self> {
        text.parse().ok().filter(|id: &Self| id.0 > 0 && id.to_string() == text)
    }
}

impl TargetValue for PrivateNetworkId {
    const RULE: &'static str = "A private network's number is a whole one from 1 to 16777215.";
    fn read(text: &str) -> Option<Self> {
        text.parse().ok().filter(|id: &Self| (1..1 << 24).contains(&id.0) && id.to_string() == text)
    }
}

/// A MAC address of a network card, `52:54:00:aa:bb:cc`, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(String);

impl Mac {
    /// Takes an address that keeps the rule.
    pub fn new(text: &str) -> Option<Self> {
        let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let pairs: Vec<&[u8]> = text.split(':').map(str::as_bytes).collect();
        let fine = pairs.len() == 6
            && pairs.iter().all(|pair| matches!(pair, [a, b] if lower_hex(*a) && lower_hex(*b)))
            && u8::from_str_radix(&text[..2], 16).is_ok_and(|first| first & 1 == 0);
        fine.then(|| Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl core::fmt::Display for Mac {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.0)
    }
}

impl TargetValue for Mac {
    const RULE: &'static str =
        "A MAC address looks like 52:54:00:aa:bb:cc, in lower case, and is not a multicast one.";
    fn read(text: &str) -> Option<Self> {
        Self::new(text)
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

/// A checksum of a file: SHA-256 with 64 digits of `0-9a-f`, or SHA-512 with 128.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Checksum(pub String);

impl core::fmt::Display for Checksum {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.0)
    }
}

impl TargetValue for Checksum {
    const RULE: &'static str =
        "A checksum is a SHA-256 (64 digits of 0-9 and a-f, lower case) or a SHA-512 (128 of them).";
    fn read(text: &str) -> Option<Self> {
        let hex = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        (hex && matches!(text.len(), 64 | 128)).then(|| Self(text.to_owned()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_safe_in_a_path() {
        for bad in ["", "-a", "a/b", "..", "a b", "ä", &"a".repeat(49)] {
            assert_eq!(Name::new(bad), None, "{bad}");
        }
        assert!(Name::new("daily-2026_11").is_some());
    }
}
