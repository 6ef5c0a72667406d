//! A volume that no VM has goes to another node: it is read here, and made there of what comes.
//!
//! ```text
//! here   what comes ─► the file ─► that nobody wrote to it meanwhile
//! there  record ─► file, filled ─► record says whole
//! ```
//!
//! Here nothing changes: who brought it there deletes it here, once it is whole there.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::path::Path;

use berth_model::VolumeId;
use berth_model::agent::{Name, Volume};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::pool::{Item, Source};
use super::{Record, Storage, default_pool, pool_format};
use crate::faults;
use crate::hypervisor::HypervisorError;
use crate::runs::Cx;

/// Bytes between looks at whether to go on; so much that is zero takes no room in a file.
const CHUNK_BYTES: usize = 64 * 1024;
/// Longest line.
const LINE_MAX_BYTES: u64 = 4096;

/// What comes, before it; and after it, whether that was it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Coming {
    bytes: u64,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum End {
    Whole,
    /// What came is not to be kept: why.
    Void(String),
}

/// A file, told from the same one after it was written to.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    modified: std::time::SystemTime,
}

impl Storage {
    /// What can be fetched from this node.
    ///
    /// # Errors
    /// [`HypervisorError::Conflict`] when a VM has it, or it cannot be read by itself.
    pub fn offer(&self, id: VolumeId) -> Result<Volume, HypervisorError> {
        self.readable(id)?;
        self.volume(id)
    }

    /// The file of a volume that no VM has, and all there is to know of it.
    fn readable(&self, id: VolumeId) -> Result<(Record, Source), HypervisorError> {
        let record = self.whole(id)?;
        let refused =
            |why: String| Err(HypervisorError::Conflict(format!("Volume {id} cannot be fetched: {why}.")));
        if let Some(vm) = record.attached_to {
            return refused(format!("VM {vm} has it; detach it first"));
        }
        if self.image_below(id)?.is_some() {
            return refused("it stands on an image".to_owned());
        }
        let source = self.pool(&record.pool)?.source(&record.data(Item::Volume(id)));
        if !matches!(source, Source::File(_)) {
            return refused(format!("it is no file, but lies in the pool {}", record.pool));
        }
        Ok((record, source))
    }

    /// Writes all of a volume to `to`, and at its end whether that was it: nobody wrote to it meanwhile.
    ///
    /// # Errors
    /// When it cannot be read, or the other side is gone.
    pub fn send(&self, id: VolumeId, to: &mut impl Write) -> Result<(), HypervisorError> {
        let (record, source) = self.readable(id)?;
        let Some((mut file, stamp)) = self.open_as_sent(&source)? else {
            say(to, &Coming { bytes: 0 })?;
            return Ok(say(to, &End::Whole)?);
        };
        say(to, &Coming { bytes: stamp.bytes })?;
        let sent = io::copy(&mut (&mut file).take(stamp.bytes), to)?;
        let stayed = self.records.get(id)?.as_ref() == Some(&record) && stamp_of(&file)? == stamp;
        let end = match sent == stamp.bytes && stayed {
            true => End::Whole,
            false => End::Void("it was changed while it was read".to_owned()),
        };
        Ok(say(to, &end)?)
    }

    /// The simulator stores nothing.
    fn open_as_sent(&self, source: &Source) -> Result<Option<(File, Stamp)>, HypervisorError> {
        if self.scratch.is_none() {
            return Ok(None);
        }
        let file = File::open(source.place())?;
        let stamp = stamp_of(&file)?;
        Ok(Some((file, stamp)))
    }

    /// Makes a volume of what comes from the node that offers it. `connect` opens the way there.
    ///
    /// # Errors
    /// When there is no room, the other node is silent, or what came is not to be kept: then nothing is kept.
    pub fn fetch<R: Read>(
        &self,
        cx: &Cx,
        offered: &Volume,
        pool: Option<&Name>,
        connect: impl Fn() -> Result<R, HypervisorError>,
    ) -> Result<Volume, HypervisorError> {
        let id = offered.id;
        let name = pool.cloned().unwrap_or_else(default_pool);
        let pool = self.pool(&name)?;
        let record = Record {
            pool: name,
            format: pool_format(pool, Some(offered.format), None)?,
            size: offered.size,
            from: None,
            file_system: offered.file_system,
            attached_to: None,
            whole: false,
            coming: None,
        };
        let record = self.make_by(Item::Volume(id), pool, record, offered.allocated, |data| {
            // What an earlier try brought may be old by now.
            pool.remove(data)?;
            pool.take(data, &mut |new| receive(cx, BufReader::new(connect()?), new))
        })?;
        self.show(id, &record)
    }
}

fn receive(cx: &Cx, mut input: impl BufRead, new: &Path) -> Result<(), HypervisorError> {
    let broken = |e: io::Error| HypervisorError::Unavailable(format!("The other node broke off: {e}."));
    let Coming { bytes } = hear(&mut input).map_err(broken)?;
    cx.phase("Copy the volume", bytes);
    let mut file = File::create(new)?;
    let (mut chunk, mut came) = (vec![0; CHUNK_BYTES], 0);
    while came < bytes {
        cx.check()?;
        faults::point("volume.during_fetch")?;
        let length = usize::try_from(bytes - came).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        let part = &mut chunk[..length];
        input.read_exact(part).map_err(broken)?;
        match part.iter().all(|byte| *byte == 0) {
            true => file.seek_relative(length as i64)?,
            false => file.write_all(part)?,
        }
        came += length as u64;
        cx.done(came);
    }
    match hear(&mut input).map_err(broken)? {
        // What was left out at the end belongs to it, too.
        End::Whole if file.metadata()?.is_file() => Ok(file.set_len(bytes)?),
        End::Whole => Ok(()),
        End::Void(why) => Err(HypervisorError::Conflict(format!("The volume was not taken: {why}."))),
    }
}

fn stamp_of(file: &File) -> io::Result<Stamp> {
    let metadata = file.metadata()?;
    Ok(Stamp { bytes: metadata.len(), modified: metadata.modified()? })
}

fn say(to: &mut impl Write, what: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    to.write_all(&line)
}

fn hear<T: DeserializeOwned>(input: &mut impl BufRead) -> io::Result<T> {
    let mut line = String::new();
    input.take(LINE_MAX_BYTES).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}
