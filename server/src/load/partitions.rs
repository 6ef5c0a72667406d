//! Which partitions of the two tables must be there, and which may go. Pure; time comes in.

use berth_model::Timestamp;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

/// One of the two tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// How long a partition is. Divides a day.
    pub length_s: i64,
    /// How long a partition is kept after its end.
    pub kept_s: i64,
    /// How far ahead partitions are made.
    pub ahead_s: i64,
    /// How far back they are made: samples that are a little late, and minutes that were not
    /// computed while no control plane ran.
    pub behind_s: i64,
}

/// Samples as they came, for an hour and some.
pub const FINE: Table =
    Table { name: "load_fine", length_s: 600, kept_s: 70 * 60, ahead_s: 20 * 60, behind_s: 10 * 60 };

/// Means by the minute, for a month.
pub const MINUTE: Table =
    Table { name: "load_minute", length_s: 86_400, kept_s: 31 * 86_400, ahead_s: 86_400, behind_s: 2 * 3600 };

/// A partition: the time from `from` up to, not including, `to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// `load_fine_20261120t0210`.
    pub name: String,
    /// Its first moment.
    pub from: Timestamp,
    /// The first moment after it.
    pub to: Timestamp,
}

const START: &[BorrowedFormatItem<'_>] = format_description!("[year][month][day]t[hour][minute]");

impl Table {
    /// The partitions that must be there at `now`, in order.
    pub fn needed(&self, now: Timestamp) -> Vec<Partition> {
        let second = now.0.unix_timestamp();
        let first = (second - self.behind_s).div_euclid(self.length_s);
        let last = (second + self.ahead_s).div_euclid(self.length_s);
        (first..=last).filter_map(|n| self.partition(n * self.length_s)).collect()
    }

    /// Of the partitions that are there, those that may go at `now`.
    pub fn outdated<'a>(&self, names: &'a [String], now: Timestamp) -> Vec<&'a str> {
        let gone = |name: &str| self.end(name).is_some_and(|end| end.plus_seconds(self.kept_s) <= now);
        names.iter().map(String::as_str).filter(|name| gone(name)).collect()
    }

    fn partition(&self, from_second: i64) -> Option<Partition> {
        let from = OffsetDateTime::from_unix_timestamp(from_second).ok()?;
        let name = format!("{}_{}", self.name, from.format(START).ok()?);
        let from = Timestamp(from);
        Some(Partition { name, from, to: from.plus_seconds(self.length_s) })
    }

    /// The end of the partition of this name; `None` for a name that was not given here.
    fn end(&self, name: &str) -> Option<Timestamp> {
        let start = name.strip_prefix(self.name)?.strip_prefix('_')?;
        let start = time::PrimitiveDateTime::parse(start, START).ok()?;
        Some(Timestamp(start.assume_utc()).plus_seconds(self.length_s))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn partitions_are_named_by_their_start() {
        let now = Timestamp(time::macros::datetime!(2026-11-20 02:14:00 UTC));
        let names: Vec<_> = FINE.needed(now).into_iter().map(|p| p.name).collect();
        let fine = ["0200", "0210", "0220", "0230"].map(|start| format!("load_fine_20261120t{start}"));
        assert_eq!(names, fine);
        let names: Vec<_> = MINUTE.needed(now).into_iter().map(|p| p.name).collect();
        assert_eq!(names, ["load_minute_20261120t0000", "load_minute_20261121t0000"]);
    }

    #[test]
    fn a_partition_goes_when_nothing_in_it_is_wanted() {
        let now = Timestamp(time::macros::datetime!(2026-11-20 02:14:00 UTC));
        let names = ["load_fine_20261120t0050", "load_fine_20261120t0100", "load_fine_of_somebody_else"]
            .map(str::to_owned);
        assert_eq!(FINE.outdated(&names, now), ["load_fine_20261120t0050"]);
    }

    proptest! {
        #[test]
        fn every_moment_has_a_place(second in 0..4_000_000_000_i64) {
            let now = Timestamp::from_unix_ms(second * 1000).unwrap();
            for table in [FINE, MINUTE] {
                let needed = table.needed(now);
                prop_assert!(needed.first().unwrap().from <= now.plus_seconds(-table.behind_s));
                prop_assert!(needed.last().unwrap().to > now.plus_seconds(table.ahead_s));
                for pair in needed.windows(2) {
                    prop_assert_eq!(pair[0].to, pair[1].from);
                }
                let names: Vec<_> = needed.into_iter().map(|p| p.name).collect();
                prop_assert!(table.outdated(&names, now).is_empty());
                prop_assert!(names.iter().all(|name| table.end(name).is_some()));
            }
        }
    }
}
