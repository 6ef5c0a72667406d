//! What is inside a file from elsewhere.
//!
//! A disk format can name other files: a backing file, a data file, the extents of a VMDK. Opened by a tool that
//! follows them, such a file reads any file of the node. So two look at it, and both must be content:
//!
//! 1. [`Head`]: our own reading of the first bytes, which follows nothing and refuses every format and
//!    feature that could.
//! 2. [`look`]: `qemu-img info`, told the format instead of guessing it, as a process with little memory, time
//!    and rights. What it says of the size and of other files is compared with the head, not believed.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use berth_model::ByteSize;
use berth_model::agent::ImageFormat;
use serde::Deserialize;

use crate::hypervisor::HypervisorError;
use crate::program::{Confinement, Program};
use crate::runs::Cx;
use crate::{qcow2, spec};

/// Bytes of a file that are read: past the beginning of an ISO's first descriptor, and past the head and the
/// description of a VMDK that a tool wrote.
const HEAD_BYTES: u64 = 64 * 1024;
/// Where an ISO says what it is (ECMA-119, 8.1.2).
const ISO_MARK: usize = 0x8001;
/// A sector of a VMDK.
const SECTOR: u64 = 512;
/// What `qemu-img info` and `check` may use.
pub const LIMITS: Confinement = Confinement { cpu_s: 120, memory_bytes: 2 << 30, file_bytes: 0 };
/// How long they may take.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// The first bytes of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head(Vec<u8>);

impl Head {
    /// Reads them.
    pub fn read(path: &Path) -> std::io::Result<Self> {
        Self::of(File::open(path)?)
    }

    /// The same of an open file.
    pub fn of(file: impl Read) -> std::io::Result<Self> {
        let mut head = Vec::new();
        file.take(HEAD_BYTES).read_to_end(&mut head)?;
        Ok(Self(head))
    }

    /// Does it hold a CD or DVD?
    pub fn is_iso(&self) -> bool {
        self.0.get(ISO_MARK..ISO_MARK + 5) == Some(b"CD001")
    }

    /// Refuses what is not `format`, or would open another file; a sentence.
    pub fn check(&self, format: ImageFormat) -> Result<(), String> {
        if format == ImageFormat::Iso {
            return if self.is_iso() { Ok(()) } else { Err("The file is not an ISO 9660 image.".to_owned()) };
        }
        match self.disk_size(format)? {
            ByteSize(0) => Err("The image holds no disk.".to_owned()),
            size if size > spec::DISK_MAX => {
                Err(format!("The image claims a disk of {size}; at most 64 TiB are possible."))
            }
            _ => Ok(()),
        }
    }

    /// Size of the disk that the head tells of; that of a raw disk is its file's, and at least one byte.
    pub fn disk_size(&self, format: ImageFormat) -> Result<ByteSize, String> {
        match format {
            ImageFormat::Qcow2 => qcow2::disk_size(&self.0).map_err(|e| e.to_string()),
            ImageFormat::Vmdk => self.vmdk(),
            ImageFormat::Vdi => self.vdi(),
            ImageFormat::Raw | ImageFormat::Iso => Ok(ByteSize(self.0.len() as u64)),
        }
    }

    /// A VMDK in one file, as export tools write it ("Virtual Disk Format 5.0", hosted sparse extents).
    fn vmdk(&self) -> Result<ByteSize, String> {
        let not = "The file is not a VMDK in one file (monolithicSparse or streamOptimized).";
        let version = self.u32(4).filter(|version| self.0.starts_with(b"KDMV") && (1..=3).contains(version));
        let (Some(_), Some(sectors)) = (version, self.u64(12)) else { return Err(not.to_owned()) };
        let (Some(at), Some(len)) = (self.u64(28), self.u64(36)) else { return Err(not.to_owned()) };
        // Without a capacity the description alone counts, which names other files.
        let range = usize::try_from(at.saturating_mul(SECTOR))
            .ok()
            .zip(usize::try_from(len.saturating_mul(SECTOR)).ok());
        let text = range.and_then(|(at, len)| self.0.get(at..at.checked_add(len)?));
        let (1.., 1.., Some(text)) = (sectors, at, text) else { return Err(not.to_owned()) };
        let text = String::from_utf8_lossy(text).to_ascii_lowercase();
        let text = text.split('\0').next().unwrap_or_default();
        if !["createtype=\"monolithicsparse\"", "createtype=\"streamoptimized\""]
            .iter()
            .any(|t| text.contains(t))
        {
            return Err(not.to_owned());
        }
        if !text.contains("parentcid=ffffffff") || text.contains("parentfilenamehint") {
            return Err("The image stands on another file; convert it to one that stands alone.".to_owned());
        }
        sectors.checked_mul(SECTOR).map(ByteSize).ok_or_else(|| not.to_owned())
    }

    /// VirtualBox's format knows no other files but by number, and QEMU refuses those.
    fn vdi(&self) -> Result<ByteSize, String> {
        let size = self.u64(0x170).filter(|_| self.0.get(0x40..0x44) == Some(&[0x7f, 0x10, 0xda, 0xbe]));
        size.map(ByteSize).ok_or_else(|| "The file is not a VDI image.".to_owned())
    }

    fn u32(&self, at: usize) -> Option<u32> {
        Some(u32::from_le_bytes(self.0.get(at..at + 4)?.try_into().ok()?))
    }

    fn u64(&self, at: usize) -> Option<u64> {
        Some(u64::from_le_bytes(self.0.get(at..at + 8)?.try_into().ok()?))
    }
}

/// What `qemu-img info` says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Said {
    format: String,
    #[serde(rename = "virtual-size")]
    virtual_size: u64,
    #[serde(default)]
    encrypted: bool,
    #[serde(rename = "backing-filename")]
    backing: Option<String>,
    #[serde(rename = "full-backing-filename")]
    full_backing: Option<String>,
    #[serde(rename = "format-specific")]
    specific: Option<Specific>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Specific {
    #[serde(default)]
    data: SpecificData,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
struct SpecificData {
    #[serde(rename = "data-file")]
    data_file: Option<String>,
    #[serde(default)]
    corrupt: bool,
    #[serde(default)]
    extents: Vec<Extent>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Extent {
    #[serde(default)]
    filename: String,
}

/// Lets `qemu-img` look at the disk image `path`; `Ok(Err)` is what is wrong with it, a sentence.
pub fn look(path: &Path, format: ImageFormat) -> Result<Result<(), String>, HypervisorError> {
    let head = Head::read(path)?;
    if let Err(why) = head.check(format) {
        return Ok(Err(why));
    }
    if format == ImageFormat::Iso {
        return Ok(Ok(()));
    }
    let said = Program::qemu_img(["info", "--output=json", "-f", format.word()])
        .args([path])
        .confined(LIMITS, path)
        .patience(PATIENCE)
        .run();
    match said {
        Ok(said) => Ok(judge(&said, format, &head, path)),
        Err(HypervisorError::Failed(why)) if !why.contains(" is missing") => {
            Ok(Err(format!("The image cannot be read: {why}")))
        }
        Err(e) => Err(e),
    }
}

/// Lets `qemu-img` read all of an image's inner tables; what is wrong with them, a sentence. Clusters that nobody
/// uses are no fault.
pub fn check_tables(cx: &Cx, path: &Path, format: ImageFormat) -> Result<Option<String>, HypervisorError> {
    cx.phase("Check the inner tables", 0);
    let check = Program::qemu_img(["check", "-q", "-f", format.word()])
        .args([path])
        .confined(LIMITS, path)
        .patience(PATIENCE);
    match check.run_in(cx) {
        Ok(_) => Ok(None),
        Err(HypervisorError::Failed(why)) if why.contains("(exit status: 3)") => Ok(None),
        Err(HypervisorError::Failed(why)) if !why.contains(" is missing") => {
            Ok(Some(format!("The image's inner tables are damaged: {why}")))
        }
        Err(e) => Err(e),
    }
}

fn judge(said: &str, format: ImageFormat, head: &Head, path: &Path) -> Result<(), String> {
    let said: Said =
        serde_json::from_str(said).map_err(|e| format!("qemu-img says something odd of it: {e}."))?;
    let data = said.specific.map(|specific| specific.data).unwrap_or_default();
    let elsewhere = |extent: &Extent| !extent.filename.is_empty() && Path::new(&extent.filename) != path;
    let claimed = head.disk_size(format)?;
    match () {
        () if said.format != format.word() => {
            Err(format!("The file holds {}, not {}.", said.format, format.word()))
        }
        () if said.backing.is_some() || said.full_backing.is_some() => {
            Err("The image stands on another file; convert it to one that stands alone.".to_owned())
        }
        () if data.data_file.is_some() || data.extents.iter().any(elsewhere) => {
            Err("The image keeps its data in another file; convert it to one that stands alone.".to_owned())
        }
        () if said.encrypted => Err("The image is encrypted, and the node has no key for it.".to_owned()),
        () if data.corrupt => Err("The image is marked as corrupt.".to_owned()),
        () if format != ImageFormat::Raw && said.virtual_size != claimed.bytes() => {
            Err("The image says two different sizes of its disk.".to_owned())
        }
        () if said.virtual_size == 0 || said.virtual_size > spec::DISK_MAX.bytes() => {
            Err("The image's disk has no size that is possible.".to_owned())
        }
        () => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const IMAGES: &[&str] = &["image.fetch", "image.convert", "image.verify"];

    fn made(folder: &Path, format: &str, options: &[&str]) -> std::path::PathBuf {
        let path = folder.join(format!("disk.{format}"));
        let args = [&["create", "-q", "-f", format][..], options].concat();
        Program::qemu_img(args).args([&path]).args(["8M"]).run().unwrap();
        path
    }

    #[test]
    fn what_qemu_makes_is_taken_and_its_size_is_known() {
        let _proof = crate::proof::pure(IMAGES);
        let folder = tempfile::tempdir().unwrap();
        for format in [ImageFormat::Qcow2, ImageFormat::Vmdk, ImageFormat::Vdi, ImageFormat::Raw] {
            let path = made(folder.path(), format.word(), &[]);
            assert_eq!(look(&path, format).unwrap(), Ok(()), "{format:?}");
            if format != ImageFormat::Raw {
                assert_eq!(Head::read(&path).unwrap().disk_size(format), Ok(ByteSize::mib(8)), "{format:?}");
                assert!(look(&path, ImageFormat::Iso).unwrap().is_err());
            }
        }
        let stream = made(folder.path(), "vmdk", &["-o", "subformat=streamOptimized"]);
        assert_eq!(look(&stream, ImageFormat::Vmdk).unwrap(), Ok(()));
    }

    #[test]
    fn what_opens_another_file_is_refused_by_each_of_the_two() {
        let _proof = crate::proof::pure(IMAGES);
        let folder = tempfile::tempdir().unwrap();
        let flat = made(folder.path(), "vmdk", &["-o", "subformat=monolithicFlat"]);
        assert!(look(&flat, ImageFormat::Vmdk).unwrap().is_err());
        let secret = folder.path().join("secret");
        std::fs::write(&secret, vec![7; 4096]).unwrap();
        let evil = folder.path().join("evil.qcow2");
        Program::qemu_img(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
            .args([&secret, &evil])
            .run()
            .unwrap();
        assert!(look(&evil, ImageFormat::Qcow2).unwrap().unwrap_err().contains("stands on another file"));
        let said = Program::qemu_img(["info", "--output=json"]).args([&evil]).run().unwrap();
        let head = Head(qcow2_head(4096));
        assert!(
            judge(&said, ImageFormat::Qcow2, &head, &evil).unwrap_err().contains("stands on another file")
        );
    }

    fn qcow2_head(size: u64) -> Vec<u8> {
        let mut head = vec![0; 104];
        head[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        head[24..32].copy_from_slice(&size.to_be_bytes());
        head
    }

    #[test]
    fn claims_are_compared_not_believed() {
        let _proof = crate::proof::pure(IMAGES);
        let judged = |more: &str| {
            let said = format!(r#"{{"format": "qcow2", "virtual-size": 4096{more}}}"#);
            judge(&said, ImageFormat::Qcow2, &Head(qcow2_head(4096)), Path::new("/q/a.part"))
        };
        assert_eq!(judged(""), Ok(()));
        for more in [
            r#", "backing-filename": "/etc/shadow""#,
            r#", "full-backing-filename": "/etc/shadow""#,
            r#", "encrypted": true"#,
            r#", "format-specific": {"data": {"data-file": "/etc/shadow"}}"#,
            r#", "format-specific": {"data": {"corrupt": true}}"#,
            r#", "format-specific": {"data": {"extents": [{"filename": "/etc/shadow"}]}}"#,
        ] {
            assert!(judged(more).is_err(), "{more}");
        }
        let huge = Head(qcow2_head(u64::MAX));
        assert!(huge.check(ImageFormat::Qcow2).unwrap_err().contains("at most 64 TiB"));
        let other = judge(
            r#"{"format": "qcow2", "virtual-size": 8192}"#,
            ImageFormat::Qcow2,
            &Head(qcow2_head(4096)),
            Path::new("a"),
        );
        assert!(other.unwrap_err().contains("two different sizes"));
    }

    proptest! {
        #[test]
        fn no_file_breaks_the_agent(
            mut head in proptest::collection::vec(any::<u8>(), 0..1200), at in any::<u64>(), len in any::<u64>(), kind in 0..4,
        ) {
            let mark: &[u8] = match kind { 0 => b"KDMV\x01\0\0\0", 1 => b"QFI\xfb\0\0\0\x03", _ => b"" };
            if head.len() >= 0x200 {
                head[..mark.len()].copy_from_slice(mark);
                head[0x40..0x44].copy_from_slice(&[0x7f, 0x10, 0xda, 0xbe]);
                head[28..36].copy_from_slice(&at.to_le_bytes());
                head[36..44].copy_from_slice(&len.to_le_bytes());
            }
            let head = Head(head);
            for format in ImageFormat::ALL {
                let checked = head.check(format);
                if checked.is_ok() && format != ImageFormat::Iso {
                    let size = head.disk_size(format).unwrap();
                    prop_assert!(size > ByteSize(0) && size <= spec::DISK_MAX);
                }
            }
        }

        #[test]
        fn no_answer_of_qemu_img_is_believed(text in "\\PC{0,200}", size in any::<u64>(), format in "(qcow2|raw|\\PC{0,5})") {
            let head = Head(qcow2_head(4096));
            prop_assert!(judge(&text, ImageFormat::Qcow2, &head, Path::new("a")).is_err());
            let said = serde_json::json!({"format": format, "virtual-size": size}).to_string();
            let judged = judge(&said, ImageFormat::Qcow2, &head, Path::new("a"));
            prop_assert_eq!(judged.is_ok(), format == "qcow2" && size == 4096);
        }
    }
}
