//! The page that Prometheus reads, `GET /metrics`: the node and its VMs, in the text format 0.0.4.
//!
//! Names end in their unit; what ends in `_total` only grows while a VM runs. Every line of a VM has
//! the label `vm`, its number.

use std::fmt::{Display, Write as _};

use berth_model::agent::{CounterSample, Node, VmState};

/// The page's type.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The page.
pub fn page(node: &Node, states: &[VmState], samples: &[CounterSample]) -> String {
    let mut page = Page::default();
    node_page(&mut page, node, states);
    vms_page(&mut page, samples);
    disks_page(&mut page, samples);
    nics_page(&mut page, samples);
    page.0
}

fn node_page(page: &mut Page, node: &Node, states: &[VmState]) {
    let facts = &node.facts;
    let versions = &facts.versions;
    page.gauge("berth_node_info", "The node; always 1.");
    let labels = [
        ("name", facts.name.as_str()),
        ("agent", &versions.agent),
        ("libvirt", &versions.libvirt),
        ("qemu", &versions.qemu),
        ("kernel", &versions.kernel),
    ];
    page.line("berth_node_info", &labels, 1);
    let gauges: [(&str, &str, u64); 6] = [
        ("berth_node_healthy", "1 when the node can work.", node.health.healthy.into()),
        ("berth_node_cores", "Logical processors.", facts.cores.into()),
        ("berth_node_memory_bytes", "Memory installed.", facts.memory.bytes()),
        ("berth_node_storage_bytes", "Room for disks in all.", facts.storage.bytes()),
        ("berth_node_storage_free_bytes", "Room for disks that is free.", facts.storage_free.bytes()),
        ("berth_node_faults", "Things that are wrong with the node.", node.health.faults.len() as u64),
    ];
    for (name, help, value) in gauges {
        page.gauge(name, help);
        page.line(name, &[], value);
    }
    if let Some(expires) = node.certificate_expires {
        let name = "berth_node_certificate_expires_seconds";
        page.gauge(name, "When the agent's certificate ends, in Unix time.");
        page.line(name, &[], expires.unix_ms() / 1000);
    }
    page.gauge("berth_node_vms", "VMs by state.");
    let all = [
        (VmState::Running, "running"),
        (VmState::Paused, "paused"),
        (VmState::Off, "off"),
        (VmState::Crashed, "crashed"),
    ];
    for (state, word) in all {
        let count = states.iter().filter(|known| **known == state).count();
        page.line("berth_node_vms", &[("state", word)], count);
    }
}

/// How a number is read from a sample.
type Read<T> = fn(&T) -> Option<u64>;

fn vms_page(page: &mut Page, samples: &[CounterSample]) {
    page.counter("berth_vm_cpu_seconds_total", "CPU time, over all CPUs.");
    for sample in samples {
        page.line("berth_vm_cpu_seconds_total", &[("vm", &sample.vm.to_string())], seconds(sample.cpu_ns));
    }
    page.counter("berth_vm_steal_seconds_total", "Time that CPUs waited for the node's, over all CPUs.");
    for sample in samples {
        if let Some(steal_ns) = sample.steal_ns {
            page.line("berth_vm_steal_seconds_total", &[("vm", &sample.vm.to_string())], seconds(steal_ns));
        }
    }
    let gauges: [(&str, &str, Read<CounterSample>); 6] = [
        ("berth_vm_memory_used_bytes", "Memory in use, caches not counted.", |s| Some(s.memory_used_bytes)),
        ("berth_vm_memory_balloon_bytes", "What the balloon leaves to the guest.", |s| {
            Some(s.memory.balloon_bytes)
        }),
        ("berth_vm_memory_resident_bytes", "What the VM's process holds of the node's memory.", |s| {
            Some(s.memory.resident_bytes)
        }),
        ("berth_vm_memory_guest_bytes", "Memory that the guest's kernel manages.", |s| {
            s.memory.guest_total_bytes
        }),
        ("berth_vm_memory_guest_unused_bytes", "Memory that the guest uses for nothing.", |s| {
            s.memory.guest_unused_bytes
        }),
        ("berth_vm_memory_guest_available_bytes", "Memory that the guest could use at once.", |s| {
            s.memory.guest_available_bytes
        }),
    ];
    for (name, help, read) in gauges {
        page.gauge(name, help);
        for sample in samples {
            if let Some(value) = read(sample) {
                page.line(name, &[("vm", &sample.vm.to_string())], value);
            }
        }
    }
}

fn disks_page(page: &mut Page, samples: &[CounterSample]) {
    let disks = || samples.iter().flat_map(|s| s.disks.iter().map(move |disk| (s.vm.to_string(), disk)));
    let counters: [(&str, &str, Read<berth_model::agent::DiskSample>); 5] = [
        ("berth_vm_disk_read_bytes_total", "Bytes read.", |d| Some(d.read_bytes)),
        ("berth_vm_disk_written_bytes_total", "Bytes written.", |d| Some(d.write_bytes)),
        ("berth_vm_disk_reads_total", "Read operations.", |d| Some(d.read_ops)),
        ("berth_vm_disk_writes_total", "Write operations.", |d| Some(d.write_ops)),
        ("berth_vm_disk_flushes_total", "Flushes.", |d| Some(d.flush_ops)),
    ];
    for (name, help, read) in counters {
        page.counter(name, help);
        for (vm, disk) in disks() {
            page.line(name, &[("vm", &vm), ("disk", &disk.name)], read(disk).unwrap_or_default());
        }
    }
    let times: [(&str, &str, Read<berth_model::agent::DiskSample>); 3] = [
        ("berth_vm_disk_read_seconds_total", "Time that reads took.", |d| Some(d.read_ns)),
        ("berth_vm_disk_write_seconds_total", "Time that writes took.", |d| Some(d.write_ns)),
        ("berth_vm_disk_flush_seconds_total", "Time that flushes took.", |d| Some(d.flush_ns)),
    ];
    for (name, help, read) in times {
        page.counter(name, help);
        for (vm, disk) in disks() {
            page.line(name, &[("vm", &vm), ("disk", &disk.name)], seconds(read(disk).unwrap_or_default()));
        }
    }
}

fn nics_page(page: &mut Page, samples: &[CounterSample]) {
    let counters: [(&str, &str, Read<berth_model::agent::NicSample>); 8] = [
        ("berth_vm_nic_in_bytes_total", "Bytes received.", |n| Some(n.in_bytes)),
        ("berth_vm_nic_in_packets_total", "Packets received.", |n| Some(n.in_packets)),
        ("berth_vm_nic_in_drops_total", "Packets dropped on their way in.", |n| Some(n.in_drops)),
        ("berth_vm_nic_in_errors_total", "Packets that arrived broken.", |n| Some(n.in_errors)),
        ("berth_vm_nic_out_bytes_total", "Bytes sent.", |n| Some(n.out_bytes)),
        ("berth_vm_nic_out_packets_total", "Packets sent.", |n| Some(n.out_packets)),
        ("berth_vm_nic_out_drops_total", "Packets dropped on their way out.", |n| Some(n.out_drops)),
        ("berth_vm_nic_out_errors_total", "Packets that could not be sent.", |n| Some(n.out_errors)),
    ];
    for (name, help, read) in counters {
        page.counter(name, help);
        for sample in samples {
            for nic in &sample.nics {
                let labels = [("vm", &*sample.vm.to_string()), ("nic", &nic.nic.to_string())];
                page.line(name, &labels, read(nic).unwrap_or_default());
            }
        }
    }
}

/// To the nanosecond, without the detour over floating point.
fn seconds(ns: u64) -> String {
    format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000)
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn gauge(&mut self, name: &str, help: &str) {
        self.head(name, help, "gauge");
    }

    fn counter(&mut self, name: &str, help: &str) {
        self.head(name, help, "counter");
    }

    fn head(&mut self, name: &str, help: &str, kind: &str) {
        let _infallible = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (n, (label, text)) in labels.iter().enumerate() {
            let begin = if n == 0 { '{' } else { ',' };
            let _infallible = write!(self.0, "{begin}{label}=\"");
            for c in text.chars() {
                match c {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    c => self.0.push(c),
                }
            }
            self.0.push('"');
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _infallible = writeln!(self.0, "{end} {value}");
    }
}

#[cfg(test)]
mod tests {
    use berth_model::agent::{DiskSample, DomainType, Health, MemorySample, NicSample, NodeFacts, Versions};
    use berth_model::{ByteSize, Timestamp, VmId};

    use super::*;

    fn node(name: &str) -> Node {
        Node {
            facts: NodeFacts {
                name: name.to_owned(),
                cores: 4,
                memory: ByteSize::gib(8),
                storage: ByteSize::gib(100),
                storage_free: ByteSize::gib(40),
                domain_type: DomainType::Kvm,
                versions: Versions::default(),
                storage_leases: false,
            },
            health: Health { healthy: true, faults: vec![] },
            certificate_expires: None,
            maintenance: None,
        }
    }

    fn sample() -> CounterSample {
        CounterSample {
            vm: VmId(7),
            at: Timestamp::from_unix_ms(0).unwrap(),
            cpu_ns: 1_500_000_000,
            memory_used_bytes: 5,
            disk_read_bytes: 0,
            disk_write_bytes: 0,
            disk_read_ops: 0,
            disk_write_ops: 0,
            net_in_bytes: 0,
            net_out_bytes: 0,
            steal_ns: Some(20),
            memory: MemorySample::default(),
            disks: vec![DiskSample { name: "vda".to_owned(), read_bytes: 9, ..DiskSample::default() }],
            nics: vec![NicSample { nic: 1, out_drops: 3, ..NicSample::default() }],
        }
    }

    #[test]
    fn every_figure_stands_under_its_name_with_its_labels() {
        let _proof = crate::proof::pure(&["samples.get"]);
        let page = page(&node("n1"), &[VmState::Running, VmState::Off, VmState::Off], &[sample()]);
        for line in [
            "berth_node_vms{state=\"off\"} 2",
            "berth_node_cores 4",
            "# TYPE berth_vm_cpu_seconds_total counter",
            "berth_vm_cpu_seconds_total{vm=\"7\"} 1.500000000",
            "berth_vm_steal_seconds_total{vm=\"7\"} 0.000000020",
            "berth_vm_disk_read_bytes_total{vm=\"7\",disk=\"vda\"} 9",
            "berth_vm_nic_out_drops_total{vm=\"7\",nic=\"1\"} 3",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is missing:\n{page}");
        }
        assert!(!page.contains("guest_unused_bytes{"), "what is not known has no line");
    }

    #[test]
    fn a_name_cannot_break_out_of_its_label() {
        let text = page(&node("a\"b\\c\nd"), &[], &[]);
        assert!(text.contains("name=\"a\\\"b\\\\c\\nd\""), "{text}");
    }

    #[test]
    fn every_line_is_one_that_prometheus_reads() {
        let text = page(&node("n1"), &[], &[sample()]);
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let bare = name.split('{').next().unwrap();
            assert!(bare.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{line}");
            assert!(text.contains(&format!("# TYPE {bare} ")), "{line}");
        }
    }
}
