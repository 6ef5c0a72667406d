//! From counters to rates. Pure.

use std::collections::HashMap;

use berth_model::agent::{CounterSample, NicSample};
use berth_model::load::LoadSample;
use berth_model::{ServerId, Timestamp, VmId};

/// Two readings closer than this give no rate: the clock's grain would show.
const SPAN_MIN_MS: i64 = 200;
/// Two readings farther apart than this give no rate: nobody knows how it was spread. Readings
/// come every 30 s at least.
const SPAN_MAX_MS: i64 = 100_000;
/// How far an agent's clock may be from ours, before and after, for its samples to be kept.
const CLOCK_BEHIND_MAX_S: i64 = 300;
const CLOCK_AHEAD_MAX_S: i64 = 60;

/// The last reading of each VM of one node's stream.
#[derive(Debug, Default)]
pub struct Rates {
    last: HashMap<VmId, CounterSample>,
}

impl Rates {
    /// Takes a reading in. The rate since the reading before, if there is one to be had.
    pub fn take(&mut self, sample: &CounterSample) -> Option<LoadSample> {
        match self.last.get(&sample.vm) {
            Some(before) if too_soon(before, sample) => None,
            Some(before) => {
                let load = rate(before, sample);
                self.last.insert(sample.vm, sample.clone());
                load
            }
            None => {
                self.last.insert(sample.vm, sample.clone());
                None
            }
        }
    }

    /// Forgets a VM that is gone.
    pub fn forget(&mut self, vm: VmId) {
        self.last.remove(&vm);
    }

    /// How many VMs are remembered.
    pub fn len(&self) -> usize {
        self.last.len()
    }

    /// Is none remembered?
    pub fn is_empty(&self) -> bool {
        self.last.is_empty()
    }
}

/// After, but by less than a rate can be told from.
fn too_soon(before: &CounterSample, after: &CounterSample) -> bool {
    (0..SPAN_MIN_MS).contains(&(after.at.unix_ms() - before.at.unix_ms()))
}

/// The load between two readings of one VM. There is none when the clock went backwards, when
/// there was a gap, or when a counter went down, because the VM was started anew in between.
pub fn rate(before: &CounterSample, after: &CounterSample) -> Option<LoadSample> {
    let span_ms = after.at.unix_ms().checked_sub(before.at.unix_ms())?;
    if !(SPAN_MIN_MS..=SPAN_MAX_MS).contains(&span_ms) {
        return None;
    }
    let span_ms = span_ms.unsigned_abs();
    let per_s = |counter: fn(&CounterSample) -> u64| {
        let grown = counter(after).checked_sub(counter(before))?;
        Some(divide(u128::from(grown) * 1000, span_ms))
    };
    // A nanosecond of CPU time per millisecond is a millionth of a core.
    let cpu = after.cpu_ns.checked_sub(before.cpu_ns)?;
    Some(LoadSample {
        at: after.at,
        cpu_millicores: small(divide(u128::from(cpu), span_ms.saturating_mul(1000))),
        memory_used_bytes: after.memory_used_bytes,
        disk_read_bytes_per_s: per_s(|c| c.disk_read_bytes)?,
        disk_write_bytes_per_s: per_s(|c| c.disk_write_bytes)?,
        disk_read_ops_per_s: small(per_s(|c| c.disk_read_ops)?),
        disk_write_ops_per_s: small(per_s(|c| c.disk_write_ops)?),
        net_in_bytes_per_s: per_s(|c| c.net_in_bytes)?,
        net_out_bytes_per_s: per_s(|c| c.net_out_bytes)?,
        // Without a card that was unplugged the sum is less than before.
        net_in_packets_per_s: small(per_s(|c| packets(c, |nic| nic.in_packets)).unwrap_or(0)),
        net_out_packets_per_s: small(per_s(|c| packets(c, |nic| nic.out_packets)).unwrap_or(0)),
    })
}

fn packets(counters: &CounterSample, of: fn(&NicSample) -> u64) -> u64 {
    counters.nics.iter().map(of).fold(0, u64::saturating_add)
}

/// Rounded to the nearest.
fn divide(amount: u128, by: u64) -> u64 {
    let by = u128::from(by.max(1));
    u64::try_from((amount + by / 2) / by).unwrap_or(u64::MAX)
}

fn small(rate: u64) -> u32 {
    u32::try_from(rate).unwrap_or(u32::MAX)
}

/// Is a sample of a time that the database has room for? If not, the agent's clock is wrong.
pub fn is_timely(sample: &LoadSample, now: Timestamp) -> bool {
    (now.plus_seconds(-CLOCK_BEHIND_MAX_S)..=now.plus_seconds(CLOCK_AHEAD_MAX_S)).contains(&sample.at)
}

/// Longest payload of one NOTIFY; PostgreSQL refuses 8000 bytes and more.
const PAYLOAD_MAX_BYTES: usize = 7900;

/// Samples on their way to the other control planes: `origin` and then a line for each sample, its
/// numbers parted by spaces.
pub fn payloads(origin: &str, samples: &[(ServerId, LoadSample)]) -> Vec<String> {
    let mut payloads = Vec::new();
    let mut payload = origin.to_owned();
    for (server, s) in samples {
        let line = format!(
            "\n{server} {} {} {} {} {} {} {} {} {} {} {}",
            s.at.unix_ms(),
            s.cpu_millicores,
            s.memory_used_bytes,
            s.disk_read_bytes_per_s,
            s.disk_write_bytes_per_s,
            s.disk_read_ops_per_s,
            s.disk_write_ops_per_s,
            s.net_in_bytes_per_s,
            s.net_out_bytes_per_s,
            s.net_in_packets_per_s,
            s.net_out_packets_per_s,
        );
        if payload.len() + line.len() > PAYLOAD_MAX_BYTES {
            payloads.push(std::mem::replace(&mut payload, origin.to_owned()));
        }
        payload.push_str(&line);
    }
    if payload.len() > origin.len() {
        payloads.push(payload);
    }
    payloads
}

/// What stands in a payload: who sent it, and the samples. Lines that make no sense are left out.
pub fn read_payload(payload: &str) -> (&str, Vec<(ServerId, LoadSample)>) {
    let mut lines = payload.split('\n');
    (lines.next().unwrap_or_default(), lines.filter_map(read_line).collect())
}

fn read_line(line: &str) -> Option<(ServerId, LoadSample)> {
    let mut words = line.split(' ');
    let mut word = || words.next();
    let server = ServerId(word()?.parse().ok()?);
    let sample = LoadSample {
        at: Timestamp::from_unix_ms(word()?.parse().ok()?)?,
        cpu_millicores: word()?.parse().ok()?,
        memory_used_bytes: word()?.parse().ok()?,
        disk_read_bytes_per_s: word()?.parse().ok()?,
        disk_write_bytes_per_s: word()?.parse().ok()?,
        disk_read_ops_per_s: word()?.parse().ok()?,
        disk_write_ops_per_s: word()?.parse().ok()?,
        net_in_bytes_per_s: word()?.parse().ok()?,
        net_out_bytes_per_s: word()?.parse().ok()?,
        net_in_packets_per_s: word()?.parse().ok()?,
        net_out_packets_per_s: word()?.parse().ok()?,
    };
    Some((server, sample))
}

#[cfg(test)]
mod tests {
    use berth_model::agent::MemorySample;
    use proptest::prelude::*;

    use super::*;

    fn reading(at_ms: i64, counters: [u64; 7]) -> CounterSample {
        let [
            cpu_ns,
            disk_read_bytes,
            disk_write_bytes,
            disk_read_ops,
            disk_write_ops,
            net_in_bytes,
            net_out_bytes,
        ] = counters;
        CounterSample {
            vm: VmId(1),
            at: Timestamp::from_unix_ms(at_ms).unwrap(),
            cpu_ns,
            memory_used_bytes: 5,
            disk_read_bytes,
            disk_write_bytes,
            disk_read_ops,
            disk_write_ops,
            net_in_bytes,
            net_out_bytes,
            steal_ns: None,
            memory: MemorySample::default(),
            disks: Vec::new(),
            nics: Vec::new(),
        }
    }

    #[test]
    fn two_busy_cores_are_two_thousand() {
        let before = reading(0, [1_000_000_000, 0, 0, 0, 0, 0, 0]);
        let after = reading(2000, [5_000_000_000, 4096, 2, 3, 1, 1_000_000, 0]);
        let load = rate(&before, &after).unwrap();
        assert_eq!(load.cpu_millicores, 2000);
        assert_eq!((load.disk_read_bytes_per_s, load.disk_write_bytes_per_s), (2048, 1));
        assert_eq!((load.disk_read_ops_per_s, load.disk_write_ops_per_s), (2, 1), "rounded to the nearest");
        assert_eq!((load.net_in_bytes_per_s, load.memory_used_bytes), (500_000, 5));
        assert_eq!(load.at, after.at);
    }

    #[test]
    fn packets_of_all_cards_count_and_a_card_that_was_unplugged_costs_one_rate_of_them() {
        let card = |nic, packets| NicSample {
            nic,
            in_packets: packets,
            out_packets: 2 * packets,
            ..NicSample::default()
        };
        let at = |ms, nics| CounterSample { nics, ..reading(ms, [0; 7]) };
        let before = at(0, vec![card(0, 10), card(1, 500)]);
        let load = rate(&before, &at(2000, vec![card(0, 110), card(1, 600)])).unwrap();
        assert_eq!((load.net_in_packets_per_s, load.net_out_packets_per_s), (100, 200));
        let load = rate(&before, &at(2000, vec![card(0, 110)])).unwrap();
        assert_eq!((load.net_in_packets_per_s, load.net_out_packets_per_s), (0, 0));
    }

    #[test]
    fn a_first_reading_and_one_after_a_gap_give_no_rate() {
        let mut rates = Rates::default();
        assert_eq!(rates.take(&reading(0, [0; 7])), None);
        assert!(rates.take(&reading(30_000, [9; 7])).is_some());
        assert_eq!(rates.take(&reading(30_000 + SPAN_MAX_MS + 1, [10; 7])), None);
        assert!(rates.take(&reading(32_000 + SPAN_MAX_MS, [11; 7])).is_some(), "and then they go on");
        rates.forget(VmId(1));
        assert!(rates.is_empty());
    }

    #[test]
    fn a_clock_set_back_costs_one_rate() {
        let mut rates = Rates::default();
        rates.take(&reading(100_000, [10; 7]));
        assert_eq!(rates.take(&reading(50_000, [20; 7])), None);
        assert!(rates.take(&reading(52_000, [30; 7])).is_some());
    }

    #[test]
    fn a_reading_told_twice_changes_nothing() {
        let mut rates = Rates::default();
        rates.take(&reading(0, [0; 7]));
        assert!(rates.take(&reading(2000, [20; 7])).is_some());
        assert_eq!(rates.take(&reading(2000, [20; 7])), None);
        assert_eq!(rates.take(&reading(2100, [21; 7])), None);
        let next = rates.take(&reading(4000, [4020; 7])).unwrap();
        assert_eq!(next.net_in_bytes_per_s, 2000, "over the whole span");
    }

    #[test]
    fn samples_of_another_time_are_not_kept() {
        let now = Timestamp::from_unix_ms(1_800_000_000_000).unwrap();
        let sample = |offset_s: i64| {
            let (before, after) = (reading(0, [0; 7]), reading(2000, [0; 7]));
            LoadSample { at: now.plus_seconds(offset_s), ..rate(&before, &after).unwrap() }
        };
        assert!(is_timely(&sample(0), now) && is_timely(&sample(-200), now) && is_timely(&sample(30), now));
        assert!(!is_timely(&sample(-400), now) && !is_timely(&sample(100), now));
    }

    fn any_reading() -> impl Strategy<Value = CounterSample> {
        (0..10_000_000_i64, any::<[u64; 7]>()).prop_map(|(at, counters)| reading(at, counters))
    }

    proptest! {
        #[test]
        fn no_two_readings_break_it(readings in proptest::collection::vec(any_reading(), 0..20)) {
            let mut rates = Rates::default();
            for reading in &readings {
                let before = rates.last.get(&reading.vm).cloned();
                if let Some(load) = rates.take(reading) {
                    let before = before.expect("a rate needs two readings");
                    prop_assert!(reading.at > before.at);
                    prop_assert!(reading.cpu_ns >= before.cpu_ns && reading.net_in_bytes >= before.net_in_bytes);
                    prop_assert_eq!(load.at, reading.at);
                }
            }
        }

        #[test]
        fn nothing_is_lost_or_made_up(
            steps in proptest::collection::vec((SPAN_MIN_MS..=SPAN_MAX_MS, 0..1_000_000_000_u64), 1..30)
        ) {
            let (mut rates, mut at, mut total, mut summed) = (Rates::default(), 0, 0_u64, 0_u128);
            rates.take(&reading(at, [0; 7]));
            for (span_ms, grown) in &steps {
                at += span_ms;
                total += grown;
                let load = rates.take(&reading(at, [total; 7])).expect("good readings give a rate");
                summed += u128::from(load.net_out_bytes_per_s) * u128::from(span_ms.unsigned_abs());
            }
            // Each rate is rounded by half a byte per second at most.
            let off = summed.abs_diff(u128::from(total) * 1000);
            prop_assert!(off <= u128::from(at.unsigned_abs()) / 2 + 1, "off by {off}");
        }

        #[test]
        fn a_counter_that_went_down_gives_no_rate(high in 1..u64::MAX, drop in 1..u64::MAX, which in 0..7_usize) {
            let mut after = [high; 7];
            after[which] = high.saturating_sub(drop);
            prop_assert_eq!(rate(&reading(0, [high; 7]), &reading(2000, after)), None);
        }

        #[test]
        fn what_is_sent_is_what_is_read(counters in proptest::collection::vec(any::<[u64; 7]>(), 0..200)) {
            let samples: Vec<_> = counters
                .iter()
                .enumerate()
                .filter_map(|(n, c)| Some((ServerId(n as i64), rate(&reading(0, [0; 7]), &reading(2000, *c))?)))
                .collect();
            let payloads = payloads("me", &samples);
            let mut read = Vec::new();
            for payload in &payloads {
                prop_assert!(payload.len() < 8000);
                let (origin, some) = read_payload(payload);
                prop_assert_eq!(origin, "me");
                read.extend(some);
            }
            prop_assert_eq!(read, samples);
        }
    }
}
