//! From libvirt's statistics to [`CounterSample`]s.

use berth_model::agent::CounterSample;
use berth_model::{Timestamp, VmId};

use super::ffi::DomainStats;

/// One VM's counters; `None` while libvirt could not read them all, for half of them would look like
/// a VM that was started anew.
pub fn sample(vm: VmId, at: Timestamp, stats: &DomainStats) -> Option<CounterSample> {
    let number = |name: &str| stats.numbers.iter().find(|(n, _)| n == name).map(|(_, value)| *value);
    // `block.0.rd.bytes`, `net.1.rx.bytes`: of all devices.
    let sum = |group: &str, field: &str| {
        let of_group = |name: &str| {
            let (device, name) = name.strip_prefix(group)?.strip_prefix('.')?.split_once('.')?;
            (device.parse::<u32>().is_ok() && name == field).then_some(())
        };
        stats.numbers.iter().filter(|(name, _)| of_group(name).is_some()).map(|(_, value)| value).sum()
    };
    // Of a VM that is busy libvirt counts the disks and reads none.
    let disks = number("block.count")?;
    (0..disks).try_for_each(|n| number(&format!("block.{n}.rd.bytes")).map(drop))?;
    Some(CounterSample {
        vm,
        at,
        cpu_ns: number("cpu.time")?,
        memory_used_bytes: memory_used_kib(number) * 1024,
        disk_read_bytes: sum("block", "rd.bytes"),
        disk_write_bytes: sum("block", "wr.bytes"),
        disk_read_ops: sum("block", "rd.reqs"),
        disk_write_ops: sum("block", "wr.reqs"),
        net_in_bytes: sum("net", "rx.bytes"),
        net_out_bytes: sum("net", "tx.bytes"),
    })
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
        sample(VmId(1), at, &DomainStats { name: "t-1".to_owned(), numbers })
    }

    #[test]
    fn devices_are_added_up() {
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
        ]);
        let sample = sample.unwrap();
        assert_eq!(sample.cpu_ns, 5);
        assert_eq!(sample.memory_used_bytes, 600 * 1024);
        assert_eq!((sample.disk_read_bytes, sample.disk_write_bytes), (30, 4));
        assert_eq!((sample.disk_read_ops, sample.disk_write_ops), (3, 1));
        assert_eq!((sample.net_in_bytes, sample.net_out_bytes), (15, 9));
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
