//! From libvirt's statistics to [`CounterSample`]s.

use std::collections::BTreeMap;

use berth_model::agent::{CounterSample, DiskSample, MemorySample, NicSample};
use berth_model::{Timestamp, VmId};

use super::ffi::DomainStats;

/// One VM's counters; `None` while libvirt could not read them all, for half of them would look like
/// a VM that was started anew.
pub fn sample(vm: VmId, at: Timestamp, stats: &DomainStats) -> Option<CounterSample> {
    let number = |name: &str| stats.numbers.iter().find(|(n, _)| n == name).map(|(_, value)| *value);
    // Of a VM that is busy libvirt counts the disks and reads none.
    let count = number("block.count")?;
    (0..count).try_for_each(|n| number(&format!("block.{n}.rd.bytes")).map(drop))?;
    let disks: Vec<DiskSample> = disks(stats).into_values().collect();
    let nics: Vec<NicSample> = nics(stats).into_values().collect();
    Some(CounterSample {
        vm,
        at,
        cpu_ns: number("cpu.time")?,
        memory_used_bytes: memory_used_kib(number) * 1024,
        disk_read_bytes: disks.iter().map(|disk| disk.read_bytes).sum(),
        disk_write_bytes: disks.iter().map(|disk| disk.write_bytes).sum(),
        disk_read_ops: disks.iter().map(|disk| disk.read_ops).sum(),
        disk_write_ops: disks.iter().map(|disk| disk.write_ops).sum(),
        net_in_bytes: nics.iter().map(|nic| nic.in_bytes).sum(),
        net_out_bytes: nics.iter().map(|nic| nic.out_bytes).sum(),
        steal_ns: steal(stats),
        memory: memory(number),
        disks,
        nics,
    })
}

/// The device and the field of `block.0.rd.bytes`.
fn device<'a>(group: &str, name: &'a str) -> Option<(u32, &'a str)> {
    let (device, field) = name.strip_prefix(group)?.strip_prefix('.')?.split_once('.')?;
    Some((device.parse().ok()?, field))
}

fn disks(stats: &DomainStats) -> BTreeMap<u32, DiskSample> {
    let mut disks = BTreeMap::<u32, DiskSample>::new();
    for (name, value) in &stats.numbers {
        let Some((place, field)) = device("block", name) else { continue };
        let disk = disks.entry(place).or_default();
        let counter = match field {
            "rd.bytes" => &mut disk.read_bytes,
            "wr.bytes" => &mut disk.write_bytes,
            "rd.reqs" => &mut disk.read_ops,
            "wr.reqs" => &mut disk.write_ops,
            "fl.reqs" => &mut disk.flush_ops,
            "rd.times" => &mut disk.read_ns,
            "wr.times" => &mut disk.write_ns,
            "fl.times" => &mut disk.flush_ns,
            _ => continue,
        };
        *counter = *value;
    }
    for (name, text) in &stats.texts {
        if let Some((place, "name")) = device("block", name) {
            disks.entry(place).or_default().name.clone_from(text);
        }
    }
    disks
}

fn nics(stats: &DomainStats) -> BTreeMap<u32, NicSample> {
    let mut nics = BTreeMap::<u32, NicSample>::new();
    for (name, value) in &stats.numbers {
        let Some((place, field)) = device("net", name) else { continue };
        let nic = nics.entry(place).or_insert_with(|| NicSample { nic: place, ..NicSample::default() });
        let counter = match field {
            "rx.bytes" => &mut nic.in_bytes,
            "rx.pkts" => &mut nic.in_packets,
            "rx.drop" => &mut nic.in_drops,
            "rx.errs" => &mut nic.in_errors,
            "tx.bytes" => &mut nic.out_bytes,
            "tx.pkts" => &mut nic.out_packets,
            "tx.drop" => &mut nic.out_drops,
            "tx.errs" => &mut nic.out_errors,
            _ => continue,
        };
        *counter = *value;
    }
    nics
}

/// Time that CPUs were ready to run and had to wait, as the kernel's scheduler counts it.
fn steal(stats: &DomainStats) -> Option<u64> {
    let delays = stats.numbers.iter().filter_map(|(name, value)| match device("vcpu", name) {
        Some((_, "delay")) => Some(*value),
        _ => None,
    });
    delays.reduce(u64::saturating_add)
}

fn memory(number: impl Fn(&str) -> Option<u64>) -> MemorySample {
    let bytes = |name: &str| number(name).map(|kib| kib.saturating_mul(1024));
    MemorySample {
        balloon_bytes: bytes("balloon.current").unwrap_or(0),
        resident_bytes: bytes("balloon.rss").unwrap_or(0),
        guest_total_bytes: bytes("balloon.available"),
        guest_unused_bytes: bytes("balloon.unused"),
        guest_available_bytes: bytes("balloon.usable"),
    }
}

/// What a domain of libvirt's test driver would say: nothing runs in it, so it uses nothing.
pub fn fill_in_for_test_driver(stats: &mut DomainStats) {
    for name in ["cpu.time", "block.count"] {
        if !stats.numbers.iter().any(|(known, _)| known == name) {
            stats.numbers.push((name.to_owned(), 0));
        }
    }
}

/// What the guest says it uses, caches not counted; before its balloon driver speaks, what QEMU uses of
/// the guest's size.
fn memory_used_kib(number: impl Fn(&str) -> Option<u64>) -> u64 {
    let free = number("balloon.usable").or_else(|| number("balloon.unused"));
    if let (Some(available), Some(free)) = (number("balloon.available"), free) {
        return available.saturating_sub(free);
    }
    let whole = number("balloon.maximum").unwrap_or(u64::MAX);
    number("balloon.rss").map_or(0, |resident| resident.min(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(numbers: &[(&str, u64)]) -> Option<CounterSample> {
        let numbers = numbers.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        let at = Timestamp::from_unix_ms(0).unwrap();
        let texts = vec![("block.0.name".to_owned(), "vda".to_owned())];
        sample(VmId(1), at, &DomainStats { name: "t-1".to_owned(), numbers, texts })
    }

    #[test]
    fn devices_are_read_and_added_up() {
        let _proof = crate::proof::pure(&["samples.get"]);
        let sample = of(&[
            ("cpu.time", 5),
            ("balloon.available", 1000),
            ("balloon.unused", 100),
            ("balloon.usable", 400),
            ("block.count", 2),
            ("block.0.rd.bytes", 10),
            ("block.1.rd.bytes", 20),
            ("block.0.rd.reqs", 3),
            ("block.1.wr.bytes", 4),
            ("block.1.wr.reqs", 1),
            ("net.count", 2),
            ("net.0.rx.bytes", 7),
            ("net.1.rx.bytes", 8),
            ("net.0.tx.bytes", 9),
            ("net.0.tx.pkts", 1000),
            ("net.1.rx.drop", 2),
            ("block.0.wr.times", 77),
            ("vcpu.current", 2),
            ("vcpu.0.delay", 5),
            ("vcpu.1.delay", 6),
            ("balloon.current", 2000),
        ]);
        let sample = sample.unwrap();
        assert_eq!(sample.cpu_ns, 5);
        assert_eq!(sample.memory_used_bytes, 600 * 1024);
        assert_eq!((sample.disk_read_bytes, sample.disk_write_bytes), (30, 4));
        assert_eq!((sample.disk_read_ops, sample.disk_write_ops), (3, 1));
        assert_eq!((sample.net_in_bytes, sample.net_out_bytes), (15, 9));
        assert_eq!(sample.steal_ns, Some(11));
        let disk = &sample.disks[0];
        assert_eq!((disk.name.as_str(), disk.read_bytes, disk.write_ns), ("vda", 10, 77));
        assert_eq!((sample.disks[1].write_bytes, sample.disks[1].write_ops), (4, 1));
        assert_eq!((sample.nics[0].out_packets, sample.nics[1].in_drops), (1000, 2));
        let memory = sample.memory;
        assert_eq!((memory.balloon_bytes, memory.guest_total_bytes), (2000 * 1024, Some(1000 * 1024)));
        assert_eq!(memory.guest_available_bytes, Some(400 * 1024));
    }

    #[test]
    fn before_the_guest_speaks_memory_is_what_qemu_uses_of_it() {
        let memory = |rss| {
            of(&[("cpu.time", 1), ("block.count", 0), ("balloon.maximum", 100), ("balloon.rss", rss)])
                .map(|sample| sample.memory_used_bytes)
        };
        assert_eq!(memory(40), Some(40 * 1024));
        assert_eq!(memory(240), Some(100 * 1024));
    }

    #[test]
    fn half_read_numbers_make_no_sample() {
        assert_eq!(of(&[("cpu.time", 5)]), None);
        assert_eq!(of(&[("block.count", 1)]), None);
        assert_eq!(of(&[("cpu.time", 5), ("block.count", 1), ("block.0.name", 0)]), None);
    }
}
