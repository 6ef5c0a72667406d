//! Ceph's own snapshots of an image.

use berth_model::Timestamp;
use serde::{Deserialize, Deserializer, de};
use time::PrimitiveDateTime;
use time::macros::format_description;

use super::{Rbd, UNFINISHED};
use crate::faults;
use crate::hypervisor::HypervisorError;
use crate::runs::Cx;
use crate::storage::pool::{Data, From, Shot, Shots};

/// A row of `rbd snap ls`.
#[derive(Debug, PartialEq, Deserialize)]
struct Row {
    name: String,
    #[serde(deserialize_with = "moment")]
    timestamp: Timestamp,
}

/// As C's `asctime` writes it; programs are run in UTC.
fn moment<'de, D: Deserializer<'de>>(text: D) -> Result<Timestamp, D::Error> {
    let form = format_description!(
        "[weekday repr:short] [month repr:short] [day padding:space] [hour]:[minute]:[second] [year]"
    );
    let text = String::deserialize(text)?;
    let read = PrimitiveDateTime::parse(text.trim(), form).map_err(de::Error::custom)?;
    let ms = read.assume_utc().unix_timestamp().saturating_mul(1000);
    Timestamp::from_unix_ms(ms).ok_or_else(|| de::Error::custom("a year that no clock shows"))
}

impl Rbd {
    fn shot(&self, data: &Data, name: &str) -> String {
        format!("{}@{name}", self.spec(&Self::image(data)))
    }

    /// The image that will take the place of a disk's.
    fn restored(data: &Data) -> String {
        format!("{}.restored{UNFINISHED}", Self::image(data))
    }
}

impl Shots for Rbd {
    fn all(&self, data: &Data) -> Result<Vec<Shot>, HypervisorError> {
        let rows: Vec<Row> = self.look(&["snap", "ls", &self.spec(&Self::image(data))])?;
        Ok(rows.into_iter().map(|row| Shot { name: row.name, created: row.timestamp }).collect())
    }

    fn take(&self, data: &Data, name: &str) -> Result<(), HypervisorError> {
        self.change(&["snap", "create", "--no-progress", &self.shot(data, name)])
    }

    fn drop_one(&self, data: &Data, name: &str) -> Result<(), HypervisorError> {
        self.change(&["snap", "rm", "--no-progress", &self.shot(data, name)])
    }

    fn rewind(&self, data: &Data, name: &str) -> Result<(), HypervisorError> {
        let words = ["snap", "rollback", "--no-progress", &self.shot(data, name)];
        self.ceph("rbd", Self::COPY, &words).map(drop)
    }

    fn readable(&self, data: &Data, name: Option<&str>) -> Result<String, HypervisorError> {
        self.check_keyring()?;
        let image = Self::image(data);
        Ok(self.for_qemu_img(&name.map_or(image.clone(), |name| format!("{image}@{name}"))))
    }

    fn birth(&self, data: &Data) -> Result<Option<String>, HypervisorError> {
        #[derive(Deserialize)]
        struct Info {
            id: String,
        }
        match self.look::<Info>(&["info", &self.spec(&Self::image(data))]) {
            Ok(info) => Ok(Some(info.id)),
            Err(e) if super::is_absent(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn begin_new(&self, cx: &Cx, data: &Data, from: Option<&From>) -> Result<String, HypervisorError> {
        self.drop_new(data)?;
        let new = Self::restored(data);
        if let Err(e) = self.make(cx, &new, data.size, from) {
            self.drop_new(data)?;
            return Err(e);
        }
        self.check_keyring()?;
        Ok(self.for_qemu_img(&new))
    }

    fn put_new(&self, data: &Data) -> Result<(), HypervisorError> {
        let image = Self::image(data);
        self.discard(&image)?;
        faults::point("restore.after_discard")?;
        self.change(&["rename", &self.spec(&Self::restored(data)), &self.spec(&image)])
    }

    fn drop_new(&self, data: &Data) -> Result<(), HypervisorError> {
        let new = Self::restored(data);
        self.discard(&format!("{new}{UNFINISHED}"))?;
        self.discard(&new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_moments_of_snapshots_are_read() {
        let _proof = crate::proof::pure(&["snapshot.list", "snapshot.create"]);
        let text = r#"[{"id":4,"name":"f.a","size":1,"protected":"false","timestamp":"Sat Nov 21 19:53:45 2026"},
            {"id":5,"name":"c.b","size":1,"protected":"false","timestamp":"Tue Dec  1 00:00:00 2026"}]"#;
        let rows: Vec<Row> = super::super::parse(text).unwrap();
        assert_eq!(rows[0].timestamp.to_string(), "2026-11-21T19:53:45Z");
        assert_eq!((rows[1].name.as_str(), rows[1].timestamp.unix_ms()), ("c.b", 1_796_083_200_000));
        assert!(super::super::parse::<Vec<Row>>(r#"[{"name":"a","timestamp":"never"}]"#).is_err());
    }
}
