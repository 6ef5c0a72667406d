//! A thin pool of LVM: each volume is a thin logical volume `berth-volume-5` of its group, raw; a VM's own disk
//! is `berth-vm-7`.
//!
//! LVM's own tools do the work; here is what they are asked, and how their answers are read.

use std::path::{Path, PathBuf};

use berth_model::ByteSize;
use berth_model::agent::{Name, PoolKind, VolumeFormat};
use serde::Deserialize;

use super::pool::{Data, From, Pool, Source, Space, word};
use crate::hypervisor::HypervisorError;
use crate::program::Program;
use crate::runs::Cx;

/// LVM counts in extents; 4 MiB is its usual one, and sizes of thin volumes are rounded up to it.
const PACKAGE: &str = "lvm2";

/// A thin pool of a volume group.
#[derive(Debug)]
pub struct LvmThin {
    name: Name,
    group: String,
    thin_pool: String,
}

/// A row of `lvs`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Row {
    lv_name: String,
    lv_size: String,
    #[serde(default)]
    data_percent: String,
}

impl LvmThin {
    /// The thin pool `thin_pool` of the volume group `group`.
    pub fn new(name: Name, group: &str, thin_pool: &str) -> Self {
        Self { name, group: group.to_owned(), thin_pool: thin_pool.to_owned() }
    }

    fn volume(data: &Data) -> String {
        format!("berth-{}", data.item)
    }

    fn path(&self, volume: &str) -> PathBuf {
        Path::new("/dev").join(&self.group).join(volume)
    }

    fn create_args(&self, data: &Data) -> Vec<String> {
        let size = format!("{}b", data.size.bytes());
        // What an earlier volume left on these blocks is zeroed by the thin pool, not looked at.
        words(
            &["--yes", "--wipesignatures", "n", "--type", "thin"],
            &[
                "--name",
                &Self::volume(data),
                "--virtualsize",
                &size,
                "--thinpool",
                &self.thin_pool,
                &self.group,
            ],
        )
    }

    fn grow_args(&self, data: &Data) -> Vec<String> {
        let size = format!("{}b", data.size.bytes());
        words(&["--size", &size], &[&format!("{}/{}", self.group, Self::volume(data))])
    }

    fn remove_args(&self, data: &Data) -> Vec<String> {
        words(&["--yes", "--force"], &[&format!("{}/{}", self.group, Self::volume(data))])
    }

    fn activate_args(&self, data: &Data) -> Vec<String> {
        words(&["--activate", "y"], &[&format!("{}/{}", self.group, Self::volume(data))])
    }

    fn list_args(&self) -> Vec<String> {
        words(
            &["--reportformat", "json", "--units", "b", "--nosuffix"],
            &["--options", "lv_name,lv_size,data_percent", &self.group],
        )
    }

    fn copy_args(&self, data: &Data, from: &From) -> Vec<String> {
        // -n: the volume is there. A new thin volume reads as zeroes, so that holes need not be written.
        words(
            &["convert", "-p", "-n", "--target-is-zero", "-f", word(from.format), "-O", "raw"],
            &[&from.file.to_string_lossy(), &self.path(&Self::volume(data)).to_string_lossy()],
        )
    }

    fn rows(&self) -> Result<Vec<Row>, HypervisorError> {
        parse(&lvm("lvs", self.list_args())?)
    }

    fn row(&self, data: &Data) -> Result<Option<Row>, HypervisorError> {
        Ok(self.rows()?.into_iter().find(|row| row.lv_name == Self::volume(data)))
    }
}

impl Pool for LvmThin {
    fn name(&self) -> &Name {
        &self.name
    }

    fn kind(&self) -> PoolKind {
        PoolKind::LvmThin
    }

    fn formats(&self) -> &'static [VolumeFormat] {
        &[VolumeFormat::Raw]
    }

    fn can_stand_on_image(&self, _: VolumeFormat) -> bool {
        false
    }

    fn space(&self) -> Result<Space, HypervisorError> {
        let rows = self.rows()?;
        let pool = rows.iter().find(|row| row.lv_name == self.thin_pool).and_then(Row::space);
        let (group, thin_pool) = (&self.group, &self.thin_pool);
        pool.ok_or_else(|| HypervisorError::Failed(format!("LVM knows no thin pool {group}/{thin_pool}.")))
    }

    fn create(&self, cx: &Cx, data: &Data, from: Option<&From>) -> Result<(), HypervisorError> {
        // Made or half filled: a copy that was cut off is begun anew, on blocks that read as zeroes again.
        match (self.row(data)?, from) {
            (Some(_), None) => return lvm("lvchange", self.activate_args(data)).map(drop),
            (Some(_), Some(_)) => self.remove(data)?,
            (None, _) => {}
        }
        lvm("lvcreate", self.create_args(data))?;
        let made = lvm("lvchange", self.activate_args(data)).and_then(|_| match from {
            None => Ok(()),
            Some(from) => {
                cx.phase("Copy the image", data.size.bytes());
                Program::qemu_img(self.copy_args(data, from)).run_in(cx).map(drop)
            }
        });
        if made.is_err() {
            self.remove(data)?;
        }
        made
    }

    fn grow(&self, data: &Data) -> Result<(), HypervisorError> {
        let has = self.row(data)?.and_then(|row| row.lv_size.parse::<u64>().ok());
        match has {
            Some(has) if has >= data.size.bytes() => Ok(()),
            _ => lvm("lvextend", self.grow_args(data)).map(drop),
        }
    }

    fn remove(&self, data: &Data) -> Result<(), HypervisorError> {
        match self.row(data)? {
            Some(_) => lvm("lvremove", self.remove_args(data)).map(drop),
            None => Ok(()),
        }
    }

    fn allocated(&self, data: &Data) -> Result<Option<ByteSize>, HypervisorError> {
        Ok(self.row(data)?.map(|row| row.used()))
    }

    fn source(&self, data: &Data) -> Source {
        Source::Block(self.path(&Self::volume(data)))
    }
}

impl Row {
    fn size(&self) -> Option<ByteSize> {
        self.lv_size.parse().ok().map(ByteSize)
    }

    fn used(&self) -> ByteSize {
        let percent = self.data_percent.parse::<f64>().unwrap_or(0.0).clamp(0.0, 100.0);
        let size = self.size().unwrap_or_default().bytes();
        ByteSize((size as f64 * percent / 100.0) as u64)
    }

    fn space(&self) -> Option<Space> {
        let size = self.size()?;
        Some(Space { size, free: ByteSize(size.bytes().saturating_sub(self.used().bytes())) })
    }
}

fn parse(text: &str) -> Result<Vec<Row>, HypervisorError> {
    #[derive(Deserialize)]
    struct Report {
        report: Vec<Rows>,
    }
    #[derive(Deserialize)]
    struct Rows {
        lv: Vec<Row>,
    }
    let report: Report = serde_json::from_str(text)
        .map_err(|e| HypervisorError::Failed(format!("The answer of lvs makes no sense: {e}.")))?;
    Ok(report.report.into_iter().flat_map(|rows| rows.lv).collect())
}

fn lvm(program: &str, args: Vec<String>) -> Result<String, HypervisorError> {
    Program::new(program, PACKAGE).args(args).patience(std::time::Duration::from_secs(60)).run()
}

fn words(first: &[&str], then: &[&str]) -> Vec<String> {
    first.iter().chain(then).map(|&word| word.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use berth_model::VolumeId;
    use berth_model::agent::CloneMode;
    use proptest::prelude::*;

    use super::super::pool::Item;
    use super::*;

    fn pool() -> LvmThin {
        LvmThin::new(Name::new("fast").unwrap(), "vg0", "thin")
    }

    fn data() -> Data {
        Data { item: Item::Volume(VolumeId(5)), format: VolumeFormat::Raw, size: ByteSize::gib(1) }
    }

    #[test]
    fn lvm_is_asked_in_its_own_words() {
        let _proof = crate::proof::pure(&["volume.create", "volume.resize", "volume.delete"]);
        let (pool, data) = (pool(), data());
        assert_eq!(
            pool.create_args(&data).join(" "),
            "--yes --wipesignatures n --type thin --name berth-volume-5 \
             --virtualsize 1073741824b --thinpool thin vg0"
        );
        assert_eq!(pool.grow_args(&data).join(" "), "--size 1073741824b vg0/berth-volume-5");
        assert_eq!(pool.remove_args(&data).join(" "), "--yes --force vg0/berth-volume-5");
        assert_eq!(pool.source(&data), Source::Block("/dev/vg0/berth-volume-5".into()));
        let from =
            From { file: "/images/a.qcow2".into(), format: VolumeFormat::Qcow2, mode: CloneMode::Copy };
        assert_eq!(
            pool.copy_args(&data, &from).join(" "),
            "convert -p -n --target-is-zero -f qcow2 -O raw /images/a.qcow2 /dev/vg0/berth-volume-5"
        );
    }

    #[test]
    fn the_answer_of_lvs_tells_what_is_used() {
        let _proof = crate::proof::pure(&["pool.list", "pool.get"]);
        let text = r#"{"report": [{"lv": [
            {"lv_name":"thin", "lv_size":"1000000", "data_percent":"25.00"},
            {"lv_name":"root", "lv_size":"4194304", "data_percent":""}]}]}"#;
        let rows = parse(text).unwrap();
        assert_eq!(rows[0].space(), Some(Space { size: ByteSize(1_000_000), free: ByteSize(750_000) }));
        assert_eq!(rows[1].used(), ByteSize(0));
    }

    proptest! {
        #[test]
        fn no_answer_of_lvs_breaks_the_agent(text in "\\PC{0,200}", size in "[0-9.]{0,30}", percent in "\\PC{0,8}") {
            let _read = parse(&text);
            let row = Row { lv_name: String::new(), lv_size: size, data_percent: percent };
            let _read = row.space();
        }
    }
}
