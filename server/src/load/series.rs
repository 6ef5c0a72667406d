//! The load of a server as series of points. Pure.

use std::collections::BTreeMap;

use berth_model::load::LoadSample;
use berth_model::metrics::{Metrics, MetricsKind, TimeSeries};
use berth_model::{FieldError, Timestamp};

use super::queries::{Grain, Steps};
use crate::servers::rules::fault;

/// Points of a series when no step is asked for.
const POINTS_USUAL: f64 = 200.0;
/// Most points of a series; a smaller step is widened.
const POINTS_MAX: f64 = 500.0;
/// What began longer ago than this is told by the minute.
const FINE_S: i64 = 3600;

/// What is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// Each once.
    pub kinds: Vec<MetricsKind>,
    /// The span and its steps.
    pub steps: Steps,
}

/// Reads what is asked for, or says everything that is wrong with it.
///
/// # Errors
/// Sentences about fields.
pub fn read(
    kinds: &[String],
    (start, end): (&str, &str),
    step_s: Option<f64>,
    now: Timestamp,
) -> Result<Asked, Vec<FieldError>> {
    let mut faults = Vec::new();
    let kinds = read_kinds(kinds).unwrap_or_else(|message| {
        faults.push(fault("type", message));
        Vec::new()
    });
    let mut time = |name: &str, text: &str| {
        text.parse::<Timestamp>().map_err(|message| faults.push(fault(name, message))).ok()
    };
    let (start, end) = (time("start", start), time("end", end));
    if step_s.is_some_and(|step_s| !step_s.is_finite() || step_s <= 0.0) {
        faults.push(fault("step", "A step is a number of seconds, more than none."));
    }
    match (start, end) {
        (Some(start), Some(end)) if start >= end => {
            faults.push(fault("end", "The end comes after the start."));
        }
        (Some(from), Some(to)) if faults.is_empty() => {
            return Ok(Asked { kinds, steps: steps((from, to), step_s, now) });
        }
        _ => {}
    }
    Err(faults)
}

fn read_kinds(texts: &[String]) -> Result<Vec<MetricsKind>, String> {
    let mut kinds = Vec::new();
    for word in texts.iter().flat_map(|text| text.split(',')).map(str::trim).filter(|word| !word.is_empty()) {
        let kind = MetricsKind::ALL.into_iter().find(|kind| kind.word() == word);
        kinds
            .push(kind.ok_or_else(|| format!("“{word}” is not measured; “cpu”, “disk” and “network” are."))?);
    }
    kinds.sort_unstable();
    kinds.dedup();
    if kinds.is_empty() {
        Err("Say what: “cpu”, “disk”, “network”.".to_owned())
    } else {
        Ok(kinds)
    }
}

fn steps((from, to): (Timestamp, Timestamp), step_s: Option<f64>, now: Timestamp) -> Steps {
    let span_s = (to.0 - from.0).as_seconds_f64();
    let (grain, grain_s): (_, f64) =
        if from >= now.plus_seconds(-FINE_S) { (Grain::Fine, 2.0) } else { (Grain::Minute, 60.0) };
    let usual = || (span_s / POINTS_USUAL).ceil();
    let least = grain_s.max((span_s / POINTS_MAX).ceil());
    // One step longer than the span says no more than one as long.
    let step_s = step_s.unwrap_or_else(usual).min(span_s.ceil()).max(least);
    Steps { from, to, step_s, origin: from, grain }
}

/// The series of what was asked for, of samples as long as its steps.
pub fn of(asked: &Asked, samples: &[LoadSample]) -> Metrics {
    let mut time_series = BTreeMap::new();
    let mut put = |name: &str, value: &dyn Fn(&LoadSample) -> String| {
        let point = |sample: &LoadSample| (sample.at.unix_ms() as f64 / 1000.0, value(sample));
        time_series.insert(name.to_owned(), TimeSeries { values: samples.iter().map(point).collect() });
    };
    for kind in &asked.kinds {
        match kind {
            MetricsKind::Cpu => {
                put("cpu", &|s| format!("{}.{}", s.cpu_millicores / 10, s.cpu_millicores % 10));
            }
            MetricsKind::Disk => {
                put("disk.0.iops.read", &|s| s.disk_read_ops_per_s.to_string());
                put("disk.0.iops.write", &|s| s.disk_write_ops_per_s.to_string());
                put("disk.0.bandwidth.read", &|s| s.disk_read_bytes_per_s.to_string());
                put("disk.0.bandwidth.write", &|s| s.disk_write_bytes_per_s.to_string());
            }
            MetricsKind::Network => {
                put("network.0.pps.in", &|s| s.net_in_packets_per_s.to_string());
                put("network.0.pps.out", &|s| s.net_out_packets_per_s.to_string());
                put("network.0.bandwidth.in", &|s| s.net_in_bytes_per_s.to_string());
                put("network.0.bandwidth.out", &|s| s.net_out_bytes_per_s.to_string());
            }
        }
    }
    let Steps { from, to, step_s, .. } = asked.steps;
    Metrics { start: from, end: to, step: step_s, time_series }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: &str = "2026-11-20T02:00:00Z";

    fn ask(kinds: &[&str], end: &str, step_s: Option<f64>) -> Result<Asked, Vec<FieldError>> {
        let kinds: Vec<_> = kinds.iter().map(|&kind| kind.to_owned()).collect();
        read(&kinds, (START, end), step_s, START.parse().expect("a time"))
    }

    #[test]
    fn kinds_are_named_together_or_one_by_one() {
        let asked = ask(&["network,cpu", "cpu"], "2026-11-20T03:00:00+00:30", None).expect("a good question");
        assert_eq!(asked.kinds, [MetricsKind::Cpu, MetricsKind::Network]);
        assert_eq!(asked.steps.step_s, 9.0, "half an hour in 200 steps");
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let faults = ask(&["cpu,cake"], "tomorrow", Some(0.0)).expect_err("all of it is wrong");
        assert_eq!(faults.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(), ["type", "end", "step"]);
        for step in [f64::NAN, f64::INFINITY, -1.0] {
            assert_eq!(
                ask(&["cpu"], "2026-11-20T03:00:00Z", Some(step)).expect_err("no step")[0].name,
                "step"
            );
        }
        assert_eq!(ask(&[","], START, None).expect_err("nothing is asked").len(), 2);
    }

    #[test]
    fn each_kind_has_its_series() {
        let asked = ask(&["cpu,disk,network"], "2026-11-20T03:00:00Z", None).expect("a good question");
        let of_nothing = of(&asked, &[]);
        assert_eq!(of_nothing.time_series.len(), 9);
        assert!(of_nothing.time_series.values().all(|series| series.values.is_empty()));
    }

    proptest! {
        #[test]
        fn no_question_gets_too_many_points(
            minutes in 1i64..1_000_000_000, step_s in proptest::option::of(1e-300..1e300f64), before in 0i64..10_000,
        ) {
            let from: Timestamp = START.parse().expect("a time");
            let to = Timestamp::from_unix_ms(from.unix_ms() + minutes * 60_000).expect("a time");
            let steps = steps((from, to), step_s, from.plus_seconds(before));
            prop_assert!(minutes as f64 * 60.0 / steps.step_s <= POINTS_MAX);
            prop_assert!(steps.step_s <= minutes as f64 * 60.0);
        }
    }
}
