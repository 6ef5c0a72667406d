//! What each address has carried, over restarts of the agent and of the node.
//!
//! The kernel counts; we keep what a counter showed last, and add what it grew by. A counter that is not
//! the same as last time (the node booted, somebody removed our table) began at zero. What was added is
//! on disk before it is told and before a counter is removed, so nothing counts twice, whenever we are
//! cut off; what a sudden end of the node loses is what passed since the last look.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use berth_model::Timestamp;
use berth_model::agent::{Traffic, TrafficList};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::nft;

/// How long an address is told of after it is gone: 35 days.
const KEPT_MS: i64 = 35 * 24 * 3600 * 1000;

/// The book of all counters, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Book {
    entries: BTreeMap<String, Entry>,
}

/// One counter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    /// Which counter it was: boot, table, object.
    of: String,
    /// What it showed last.
    shown: Amount,
    /// Since the beginning.
    total: Amount,
    /// Since when nothing counts it.
    gone: Option<Timestamp>,
}

/// Packets and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// Packets.
    pub packets: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// What a counter of the kernel shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Its name.
    pub name: String,
    /// Which it is, see [`Entry::of`].
    pub of: String,
    /// What it shows.
    pub amount: Amount,
}

/// Reads the answer of `nft -j list counters`; `epoch` is of the boot and the table.
pub fn read(listed: &Value, epoch: &str) -> Vec<Shown> {
    let counters = listed["nftables"].as_array().into_iter().flatten().map(|object| &object["counter"]);
    let read = |counter: &Value| {
        Some(Shown {
            name: counter["name"].as_str()?.to_owned(),
            of: format!("{epoch}/{}", counter["handle"].as_u64()?),
            amount: Amount { packets: counter["packets"].as_u64()?, bytes: counter["bytes"].as_u64()? },
        })
    };
    counters.filter_map(read).collect()
}

impl Book {
    /// Opens the book; a new one if there is none. One that is damaged is set aside.
    pub fn open(path: &Path) -> io::Result<Self> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(e),
        };
        serde_json::from_slice(&text).or_else(|e| {
            tracing::error!(path = %path.display(), error = %e, "the traffic's book is damaged and set aside");
            fs::rename(path, path.with_extension("damaged"))?;
            Ok(Self::default())
        })
    }

    /// Writes it down, as a whole or not at all.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("/"));
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    }

    /// Adds what the counters grew by.
    pub fn add(&mut self, shown: &[Shown]) {
        for Shown { name, of, amount } in shown {
            let entry = self.entries.entry(name.clone()).or_default();
            let same =
                entry.of == *of && entry.shown.bytes <= amount.bytes && entry.shown.packets <= amount.packets;
            let before = if same { entry.shown } else { Amount::default() };
            entry.total.bytes = entry.total.bytes.saturating_add(amount.bytes - before.bytes);
            entry.total.packets = entry.total.packets.saturating_add(amount.packets - before.packets);
            entry.of.clone_from(of);
            entry.shown = *amount;
        }
    }

    /// Notes which are in use, and forgets what is gone for long.
    pub fn note(&mut self, used: &BTreeSet<String>, now: Timestamp) {
        for (name, entry) in &mut self.entries {
            entry.gone = if used.contains(name) { None } else { entry.gone.or(Some(now)) };
        }
        self.entries
            .retain(|_, entry| entry.gone.is_none_or(|gone| now.unix_ms() - gone.unix_ms() < KEPT_MS));
    }

    /// All of it.
    pub fn list(&self) -> TrafficList {
        let mut by_address = BTreeMap::new();
        for (name, entry) in &self.entries {
            let Some((vm, network, inbound)) = nft::counter_of(name) else { continue };
            let empty = Traffic {
                vm,
                network,
                in_bytes: 0,
                out_bytes: 0,
                in_packets: 0,
                out_packets: 0,
                gone: entry.gone,
            };
            let traffic = by_address.entry((vm, network)).or_insert(empty);
            let Amount { packets, bytes } = entry.total;
            match inbound {
                true => (traffic.in_packets, traffic.in_bytes) = (packets, bytes),
                false => (traffic.out_packets, traffic.out_bytes) = (packets, bytes),
            }
        }
        TrafficList { traffic: by_address.into_values().collect() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(of: &str, bytes: u64) -> Shown {
        Shown {
            name: "c_7_0a4d0007_32_in".to_owned(),
            of: of.to_owned(),
            amount: Amount { packets: bytes, bytes },
        }
    }

    fn total(book: &Book) -> u64 {
        book.list().traffic.first().map_or(0, |traffic| traffic.in_bytes)
    }

    proptest! {
        /// Looks at any time, counters made anew at any time, and agents that forget what was not written.
        #[test]
        fn nothing_counts_twice_and_nothing_is_lost_while_the_node_runs(
            steps in proptest::collection::vec((0_u64..1000, 0_u8..4), 1..40)
        ) {
            let _proof = crate::proof::pure(&["traffic.get"]);
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("book.json");
            let (mut book, mut raw, mut epoch, mut all) = (Book::default(), 0, 0, 0);
            for (bytes, what) in steps {
                raw += bytes;
                all += bytes;
                book.add(&[shown(&epoch.to_string(), raw)]);
                book.write(&path).unwrap();
                prop_assert_eq!(total(&book), all);
                match what {
                    // The counters begin anew, with another identity; the agent may have gone on, too.
                    0 => (raw, epoch) = (0, epoch + 1),
                    // An agent that comes anew reads the same counters again.
                    1 => book = Book::open(&path).unwrap(),
                    // One that added and was killed before it wrote.
                    2 => {
                        book.add(&[shown(&epoch.to_string(), raw + 5)]);
                        (raw, all) = (raw + 5, all + 5);
                        book = Book::open(&path).unwrap();
                    }
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn what_is_gone_is_told_for_35_days() {
        let _proof = crate::proof::pure(&["traffic.get"]);
        let at = |days: i64| Timestamp::from_unix_ms(days * 24 * 3600 * 1000).unwrap();
        let mut book = Book::default();
        book.add(&[shown("a", 5)]);
        let used = BTreeSet::from([shown("a", 0).name]);
        book.note(&used, at(0));
        assert_eq!(book.list().traffic[0].gone, None);
        book.note(&BTreeSet::new(), at(1));
        book.note(&BTreeSet::new(), at(35));
        assert_eq!(book.list().traffic[0].gone, Some(at(1)));
        book.note(&BTreeSet::new(), at(36));
        assert_eq!(book.list().traffic, []);
    }

    #[test]
    fn a_damaged_book_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("book.json");
        fs::write(&path, "{").unwrap();
        assert_eq!(Book::open(&path).unwrap(), Book::default());
        assert!(folder.path().join("book.damaged").exists());
    }
}
