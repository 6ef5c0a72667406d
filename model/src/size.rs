//! Sizes in bytes.

use serde::{Deserialize, Serialize};

/// A number of bytes; a JSON number on the wire. Disks and memory are counted in GiB
/// (1024³), as QEMU and the Hetzner Cloud API do under the name "GB".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(transparent)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// `n` MiB (1024²).
    pub const fn mib(n: u64) -> Self {
        Self(n * 1024 * 1024)
    }

    /// `n` GiB (1024³).
    pub const fn gib(n: u64) -> Self {
        Self(n * 1024 * 1024 * 1024)
    }

    /// Bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Whole MiB, rounded down.
    pub const fn as_mib(self) -> u64 {
        self.0 / (1024 * 1024)
    }

    /// Whole GiB, rounded down.
    pub const fn as_gib(self) -> u64 {
        self.0 / (1024 * 1024 * 1024)
    }
}

impl core::fmt::Display for ByteSize {
    /// The largest unit that leaves a whole number: `96 MiB`, `40 GiB`, `1000 B`.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (mut n, mut unit) = (self.0, "B");
        for next in ["KiB", "MiB", "GiB", "TiB"] {
            if n == 0 || n % 1024 != 0 {
                break;
            }
            (n, unit) = (n / 1024, next);
        }
        write!(f, "{n} {unit}")
    }
}
