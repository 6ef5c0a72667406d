//! Files go from node to node as they are: all of a VM that is off, and of one that runs those that nobody
//! writes.
//!
//! ```text
//! source ── what comes ─────────────────► target
//!        ◄─ have it, or send ────────────
//!        ── the files, one after another ►  written, synced, noted
//!        ◄─ done, or what is wrong ──────
//! ```

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use berth_model::VolumeId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::hypervisor::HypervisorError;
use crate::moving::Way;
use crate::runs::Cx;

/// Bytes between looks at whether to go on.
const CHUNK_BYTES: usize = 1024 * 1024;
/// Longest line.
const LINE_MAX_BYTES: u64 = 64 * 1024;
/// Longest silence of a source.
const SILENCE: Duration = Duration::from_secs(120);

/// What files come together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parcel {
    /// Is it all there is of the VM? Else it runs, and the rest comes otherwise.
    pub whole: bool,
    /// The files.
    pub files: Vec<Stamped>,
}

/// A file, told from the same one after it was written to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamped {
    /// Which.
    pub part: Part,
    /// Its length.
    pub bytes: u64,
    /// When it was written last, in nanoseconds of Unix time.
    pub modified_ns: i128,
}

/// A file of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Its disk.
    Disk,
    /// What its UEFI remembers.
    Nvram,
    /// A volume.
    Volume(VolumeId),
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    HaveIt,
    Send,
    Done,
    /// There is no room for it.
    Lacking(String),
    Wrong(String),
}

/// Sends files; how many bytes that took.
pub fn send(whole: bool, files: &[(Part, PathBuf)], way: &Way, cx: &Cx) -> Result<u64, HypervisorError> {
    let mut open = Vec::new();
    let mut parcel = Parcel { whole, files: Vec::new() };
    for (part, path) in files {
        let file = File::open(path)?;
        parcel.files.push(stamp(*part, &file)?);
        open.push(file);
    }
    let stream = way.disk()?;
    let broken = |e: io::Error| HypervisorError::Unavailable(format!("The other node broke off: {e}."));
    let mut answers = BufReader::new(&stream);
    say(&stream, &parcel).map_err(broken)?;
    match hear::<Answer>(&mut answers).map_err(broken)? {
        Answer::HaveIt => return Ok(0),
        Answer::Send => {}
        other => return Err(wrong(other)),
    }
    cx.phase("Copy the disks", parcel.files.iter().map(|file| file.bytes).sum());
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut sent = 0;
    for (mut file, Stamped { bytes, .. }) in open.into_iter().zip(parcel.files) {
        let end = sent + bytes;
        while sent < end {
            cx.check()?;
            let most = usize::try_from(end - sent).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
            let length = file.read(&mut chunk[..most])?;
            if length == 0 {
                return Err(HypervisorError::Failed("A disk became shorter while it was sent.".to_owned()));
            }
            (&stream).write_all(&chunk[..length]).map_err(broken)?;
            sent += length as u64;
            cx.done(sent);
        }
    }
    match hear(&mut answers).map_err(broken)? {
        Answer::Done => Ok(sent),
        other => Err(wrong(other)),
    }
}

/// Takes files, unless it `has` them already. `put` says how each is put in its place, and `note` keeps in mind
/// that all are there.
pub fn take(
    stream: &UnixStream,
    has: impl FnOnce(&Parcel) -> bool,
    check: impl FnOnce(&Parcel) -> Result<(), HypervisorError>,
    put: impl Fn(Part, &mut dyn FnMut(&Path) -> Result<(), HypervisorError>) -> Result<(), HypervisorError>,
    note: impl FnOnce(Parcel) -> Result<(), HypervisorError>,
) -> Result<(), HypervisorError> {
    stream.set_read_timeout(Some(SILENCE))?;
    let mut input = BufReader::new(stream);
    let parcel: Parcel = hear(&mut input)?;
    if has(&parcel) {
        return Ok(say(stream, &Answer::HaveIt)?);
    }
    let taken = check(&parcel).and_then(|()| {
        say(stream, &Answer::Send)?;
        for Stamped { part, bytes, .. } in &parcel.files {
            put(*part, &mut |new| copy(&mut input, new, *bytes))?;
        }
        note(parcel)
    });
    let answer = match &taken {
        Ok(()) => Answer::Done,
        Err(e @ HypervisorError::Lacking(_)) => Answer::Lacking(e.to_string()),
        Err(e) => Answer::Wrong(e.to_string()),
    };
    say(stream, &answer)?;
    taken
}

fn copy(input: &mut impl Read, new: &Path, bytes: u64) -> Result<(), HypervisorError> {
    let copied = io::copy(&mut input.take(bytes), &mut File::create(new)?)?;
    if copied == bytes {
        return Ok(());
    }
    Err(HypervisorError::Failed(format!("A disk broke off after {copied} of {bytes} bytes.")))
}

fn wrong(answer: Answer) -> HypervisorError {
    let not_taken = |why: &str| format!("The other node did not take the disks: {why}");
    match answer {
        Answer::Lacking(why) => HypervisorError::Lacking(not_taken(&why)),
        Answer::Wrong(why) => HypervisorError::Failed(not_taken(&why)),
        other => HypervisorError::Failed(format!("The other node answered {other:?}.")),
    }
}

fn stamp(part: Part, file: &File) -> io::Result<Stamped> {
    let metadata = file.metadata()?;
    let modified = metadata.modified()?.duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
    Ok(Stamped { part, bytes: metadata.len(), modified_ns: modified.as_nanos().try_into().unwrap_or(0) })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_taken_whole_or_it_is_said_what_is_wrong() {
        let _proof = crate::proof::pure(&["moving.send"]);
        let folder = tempfile::tempdir().unwrap();
        let files = [(Part::Disk, 3), (Part::Nvram, 0), (Part::Volume(VolumeId(5)), 2)];
        let files = files.map(|(part, bytes)| Stamped { part, bytes, modified_ns: 1 }).to_vec();
        let parcel = Parcel { whole: true, files };
        let put = |part: Part, fill: &mut dyn FnMut(&Path) -> Result<(), HypervisorError>| {
            fill(&folder.path().join(format!("{part:?}")))
        };
        let try_with = |bytes: &[u8], have: Option<&Parcel>| {
            let (mut source, target) = UnixStream::pair().unwrap();
            say(&source, &parcel).unwrap();
            source.write_all(bytes).unwrap();
            source.shutdown(std::net::Shutdown::Write).unwrap();
            let mut noted = None;
            let taken = take(
                &target,
                |parcel| have == Some(parcel),
                |_| Ok(()),
                put,
                |parcel| {
                    noted = Some(parcel);
                    Ok(())
                },
            );
            drop(target);
            let mut said = String::new();
            source.read_to_string(&mut said).unwrap();
            (taken.is_ok(), noted.is_some(), said)
        };
        let (taken, noted, said) = try_with(b"abcde", None);
        assert!(taken && noted && said == "\"send\"\n\"done\"\n", "{said}");
        assert_eq!(std::fs::read(folder.path().join("Volume(VolumeId(5))")).unwrap(), b"de");
        let (taken, noted, said) = try_with(b"abcd", None);
        assert!(!taken && !noted && said.contains("broke off after 1 of 2 bytes"), "{said}");
        let (taken, noted, said) = try_with(b"", Some(&parcel));
        assert!(taken && !noted && said == "\"have_it\"\n", "{said}");
    }
}
