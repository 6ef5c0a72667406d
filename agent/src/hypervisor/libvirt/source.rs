//! Where a disk lies, in libvirt's words.

use std::path::Path;

use serde::Serialize;

use super::disk::Cache;
use super::xml;
use crate::storage::pool::{RbdSource, Source};

/// `<source …/>` of a disk.
#[derive(Debug, Default, Serialize)]
pub struct DiskSource {
    #[serde(rename = "@file", skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(rename = "@dev", skip_serializing_if = "Option::is_none")]
    dev: Option<String>,
    #[serde(rename = "@protocol", skip_serializing_if = "Option::is_none")]
    protocol: Option<&'static str>,
    #[serde(rename = "@name", skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    host: Vec<Host>,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth: Option<Auth>,
}

#[derive(Debug, Serialize)]
struct Host {
    #[serde(rename = "@name")]
    name: String,
    #[serde(rename = "@port", skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
}

/// Who asks; the key is in libvirt's keeping, and here is only its name.
#[derive(Debug, Serialize)]
struct Auth {
    #[serde(rename = "@username")]
    user: String,
    secret: Secret,
}

#[derive(Debug, Serialize)]
struct Secret {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "@uuid")]
    uuid: String,
}

impl DiskSource {
    /// A file.
    pub fn file(path: &Path) -> Self {
        Self { file: Some(xml::path(path)), ..Self::default() }
    }

    /// What lies in a pool, and the type that its disk has.
    pub fn of(source: &Source) -> (&'static str, Self) {
        match source {
            Source::File(path) => ("file", Self::file(path)),
            Source::Block(path) => ("block", Self { dev: Some(xml::path(path)), ..Self::default() }),
            Source::Rbd(rbd) => ("network", Self::rbd(rbd)),
        }
    }

    fn rbd(rbd: &RbdSource) -> Self {
        let host = |(name, port): &(String, Option<u16>)| Host { name: name.clone(), port: *port };
        let secret = Secret { kind: "ceph", uuid: rbd.key.clone() };
        Self {
            protocol: Some("rbd"),
            name: Some(rbd.image.clone()),
            host: rbd.monitors.iter().map(host).collect(),
            auth: Some(Auth { user: rbd.user.clone(), secret }),
            ..Self::default()
        }
    }
}

/// How QEMU caches what lies there.
pub fn cache(source: &Source) -> std::io::Result<Cache> {
    match source {
        Source::File(file) => Cache::of(existing(file)),
        Source::Block(_) => Ok(Cache::None),
        // librbd's own cache, in QEMU's memory; it obeys the guest's flushes, and takes no other way for I/O.
        Source::Rbd(_) => Ok(Cache::Writeback),
    }
}

fn existing(file: &Path) -> &Path {
    file.parent().unwrap_or(Path::new("/"))
}
