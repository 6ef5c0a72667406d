//! A VM that is off moves as its disk's file, with everything that is in it.
//!
//! ```text
//! source ── stamp ──────────────────────► target
//!        ◄─ have it, or send ────────────
//!        ── the file ───────────────────►  written, synced, noted
//!        ◄─ done, or what is wrong ──────
//! ```

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::super::disk;
use super::super::folder::Folder;
use super::notes::Stamp;
use crate::hypervisor::HypervisorError;
use crate::moving::Way;
use crate::runs::Cx;

/// Bytes between looks at whether to go on.
const CHUNK_BYTES: usize = 1024 * 1024;
/// Longest line.
const LINE_MAX_BYTES: u64 = 4096;
/// Longest silence of a source.
const SILENCE: Duration = Duration::from_secs(120);

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    HaveIt,
    Send,
    Done,
    Wrong(String),
}

/// Sends a disk's file; how many bytes that took.
pub fn send(disk: &Path, way: &Way, cx: &Cx) -> Result<u64, HypervisorError> {
    let mut file = File::open(disk)?;
    let stamp = stamp(&file)?;
    let stream = way.disk()?;
    let broken = |e: io::Error| HypervisorError::Unavailable(format!("The other node broke off: {e}."));
    let mut answers = BufReader::new(&stream);
    say(&stream, &stamp).map_err(broken)?;
    match hear::<Answer>(&mut answers).map_err(broken)? {
        Answer::HaveIt => return Ok(0),
        Answer::Send => {}
        other => return Err(wrong(other)),
    }
    cx.phase("Copy the disk", stamp.bytes);
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut sent = 0;
    while sent < stamp.bytes {
        cx.check()?;
        let length = file.read(&mut chunk)?;
        if length == 0 {
            return Err(HypervisorError::Failed("The disk became shorter while it was sent.".to_owned()));
        }
        (&stream).write_all(&chunk[..length]).map_err(broken)?;
        sent += length as u64;
        cx.done(sent);
    }
    match hear(&mut answers).map_err(broken)? {
        Answer::Done => Ok(sent),
        other => Err(wrong(other)),
    }
}

/// Takes a disk's file into `folder`, unless `have` is the same; `note` keeps in mind that it is whole.
pub fn take(
    stream: &UnixStream,
    folder: &Folder,
    room: &Path,
    have: Option<Stamp>,
    note: impl FnOnce(Stamp) -> Result<(), HypervisorError>,
) -> Result<(), HypervisorError> {
    stream.set_read_timeout(Some(SILENCE))?;
    let mut input = BufReader::new(stream);
    let stamp: Stamp = hear(&mut input)?;
    if have == Some(stamp) {
        return Ok(say(stream, &Answer::HaveIt)?);
    }
    let taken = disk::check_room(room, berth_model::ByteSize(stamp.bytes)).and_then(|()| {
        say(stream, &Answer::Send)?;
        folder.put(&folder.disk(), |new| copy(&mut input, new, stamp.bytes))?;
        note(stamp)
    });
    let answer = taken.as_ref().map_or_else(|e| Answer::Wrong(e.to_string()), |()| Answer::Done);
    say(stream, &answer)?;
    taken
}

fn copy(input: &mut impl Read, new: &Path, bytes: u64) -> Result<(), HypervisorError> {
    let copied = io::copy(&mut input.take(bytes), &mut File::create(new)?)?;
    if copied == bytes {
        return Ok(());
    }
    Err(HypervisorError::Failed(format!("The disk broke off after {copied} of {bytes} bytes.")))
}

fn wrong(answer: Answer) -> HypervisorError {
    HypervisorError::Failed(match answer {
        Answer::Wrong(why) => format!("The other node did not take the disk: {why}"),
        other => format!("The other node answered {other:?}."),
    })
}

fn stamp(file: &File) -> io::Result<Stamp> {
    let metadata = file.metadata()?;
    let modified = metadata.modified()?.duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
    Ok(Stamp { bytes: metadata.len(), modified_ns: modified.as_nanos().try_into().unwrap_or(0) })
}

fn say(mut stream: &UnixStream, what: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    stream.write_all(&line)
}

fn hear<T: DeserializeOwned>(input: &mut impl BufRead) -> io::Result<T> {
    let mut line = String::new();
    input.take(LINE_MAX_BYTES).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}
