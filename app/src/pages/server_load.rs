//! The load of a server over time: live, or means of a longer span.

use berth_model::load::{LoadReply, LoadSample, LoadSpan};
use berth_model::server::{Server, ServerStatus};
use berth_model::{ServerId, Timestamp};
use leptos::prelude::*;

use crate::api::{Api, Fault};
use crate::components::chart::{Chart, Plotted, Series};
use crate::components::panel::Panel;
use crate::components::seg::Segments;
use crate::live::Live;
use crate::{browser, format, task};

/// An idle network still has an axis: 100 kbit/s.
const NETWORK_LEAST: f64 = 100_000.0;
/// An idle disk still has an axis: ten operations a second.
const DISK_LEAST: f64 = 10.0;
/// A line is broken where this many samples are missing.
const GAP_SAMPLES: i64 = 4;

fn words(span: LoadSpan) -> &'static str {
    match span {
        LoadSpan::Live => "in the last 10 minutes",
        LoadSpan::Hour => "in the last hour",
        LoadSpan::Day => "in the last 24 hours",
        LoadSpan::Week => "in the last 7 days",
        LoadSpan::Month => "in the last 30 days",
    }
}

/// A series of a chart: its name, and what it reads from a sample.
type Line = (&'static str, fn(&LoadSample) -> f64);

/// What the charts draw from.
#[derive(Debug, Clone, PartialEq, Default)]
struct Drawn {
    from_to: Option<(Timestamp, Timestamp)>,
    step_s: i64,
    samples: Vec<LoadSample>,
}

impl Drawn {
    fn plotted(&self, now: Timestamp, series: &[Line]) -> Plotted {
        let (from, to) = self.from_to.unwrap_or((now.plus_seconds(-600), now));
        let one = |(name, read): &Line| Series {
            name,
            points: self.samples.iter().map(|s| (s.at.unix_ms(), read(s))).collect(),
        };
        Plotted {
            from,
            to,
            gap_ms: self.step_s.max(2) * 1000 * GAP_SAMPLES,
            series: series.iter().map(one).collect(),
            least: 1.0,
            exact: false,
        }
    }
}

/// The panel with the three charts.
#[component]
pub fn LoadPanel(server: Memo<Server>) -> impl IntoView {
    let api = expect_context::<Api>();
    let live = expect_context::<Live>();
    let id = server.with_untracked(|s| s.id);
    let cores = Memo::new(move |_| server.with(|s| s.server_type.cores.max(1)));
    let off = Memo::new(move |_| server.with(|s| s.status == ServerStatus::Off));
    let span = RwSignal::new(LoadSpan::Live);
    let answer = RwSignal::new(None::<LoadReply>);
    let fault = RwSignal::new(None::<Fault>);

    // Longer spans are asked for again when another sample of theirs is due.
    let due = RwSignal::new(0u32);
    Effect::new(move |_| {
        let span = span.get();
        due.track();
        live.epoch().track();
        task::scoped(async move {
            fault.set(None);
            if span == LoadSpan::Live {
                live.fill_trail(id).await;
                return;
            }
            match api.load(id, span).await {
                Ok(reply) => answer.set(Some(reply)),
                Err(error) => fault.set(Some(error)),
            }
            gloo_timers::future::TimeoutFuture::new(span.step_s() * 1000).await;
            due.update(|due| *due = due.wrapping_add(1));
        });
    });
    let trail = live.trail(id);
    let drawn = Memo::new(move |_| drawn(span.get(), id, &trail.read(), answer.get()));
    let options = Signal::stored(vec![
        (LoadSpan::Live, "Live", None),
        (LoadSpan::Hour, "1 h", None),
        (LoadSpan::Day, "24 h", None),
        (LoadSpan::Week, "7 d", None),
        (LoadSpan::Month, "30 d", None),
    ]);

    let cpu = Signal::derive(move || {
        let cores = f64::from(cores.get());
        let mut plotted =
            drawn.with(|d| d.plotted(browser::now(), &[("", |s| f64::from(s.cpu_millicores) / 10.0)]));
        for point in plotted.series.iter_mut().flat_map(|s| &mut s.points) {
            point.1 /= cores;
        }
        Plotted { least: 100.0, exact: true, ..plotted }
    });
    let network = Signal::derive(move || {
        let series: [Line; 2] =
            [("in", |s| s.net_in_bytes_per_s as f64 * 8.0), ("out", |s| s.net_out_bytes_per_s as f64 * 8.0)];
        Plotted { least: NETWORK_LEAST, ..drawn.with(|d| d.plotted(browser::now(), &series)) }
    });
    let disk = Signal::derive(move || {
        let series: [Line; 2] = [
            ("read", |s| f64::from(s.disk_read_ops_per_s)),
            ("write", |s| f64::from(s.disk_write_ops_per_s)),
        ];
        Plotted { least: DISK_LEAST, ..drawn.with(|d| d.plotted(browser::now(), &series)) }
    });
    let bit_unit = Signal::derive(move || {
        let highest = network.with(|p| {
            p.series.iter().flat_map(|s| s.points.iter().map(|p| p.1)).fold(NETWORK_LEAST, f64::max)
        });
        format::bit_rate_unit(highest)
    });
    let said = Signal::derive(move || words(span.get()));
    let note = move || {
        if let Some(fault) = fault.get() {
            return Some(fault.message());
        }
        off.get().then(|| "It is off. The lines end where it stopped.".to_owned())
    };
    view! {
        <Panel title="Load" aside=move || view! { <Segments label="Time range" options=options chosen=span /> }>
            <div class="stack" style=("--gap", "var(--s-5)")>
                <Chart
                    title="CPU"
                    plotted=cpu
                    span=said
                    unit=Signal::stored((1.0, "%"))
                    write=|value| format!("{value:.0}")
                    of=Signal::derive(move || format!("of {} vCPU", cores.get()))
                    tall=true
                />
                <div class="cols" style=("--col", "17rem")>
                    <Chart title="Network" plotted=network span=said unit=bit_unit write=format::number />
                    <Chart
                        title="Disk"
                        plotted=disk
                        span=said
                        unit=Signal::stored((1.0, "op/s"))
                        write=|value| format!("{value:.0}")
                    />
                </div>
                <p class="t-sm t-3" hidden=move || note().is_none()>
                    {note}
                </p>
            </div>
        </Panel>
    }
}

/// What to draw: for `live` the trail, which moves; for longer spans the last answer that fits.
fn drawn(span: LoadSpan, id: ServerId, trail: &crate::store::Trail, answer: Option<LoadReply>) -> Drawn {
    if span == LoadSpan::Live {
        let samples: Vec<LoadSample> = trail.iter().copied().collect();
        let to = samples.last().map(|last| last.at);
        let from_to = to.map(|to| (to.plus_seconds(-span.seconds()), to));
        return Drawn { from_to, step_s: i64::from(span.step_s()), samples };
    }
    match answer.filter(|a| a.server == id && a.to.unix_ms() - a.from.unix_ms() >= span.seconds() * 900) {
        Some(a) if a.to.unix_ms() - a.from.unix_ms() <= span.seconds() * 1_100 => {
            Drawn { from_to: Some((a.from, a.to)), step_s: i64::from(a.step_s), samples: a.samples }
        }
        _ => Drawn { step_s: i64::from(span.step_s()), ..Drawn::default() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{at, sample};
    use crate::store::Trail;

    fn answer(seconds: i64) -> LoadReply {
        LoadReply {
            server: ServerId(7),
            from: at(0),
            to: at(seconds),
            step_s: 30,
            samples: vec![sample(9, 1)],
        }
    }

    #[test]
    fn an_answer_for_another_span_is_not_drawn() {
        let trail = Trail::default();
        let hour = |reply| drawn(LoadSpan::Hour, ServerId(7), &trail, reply).samples.len();
        assert_eq!(hour(Some(answer(3_600))), 1);
        assert_eq!(hour(Some(answer(86_400))), 0);
        assert_eq!(hour(None), 0);
    }

    #[test]
    fn live_ends_at_the_newest_sample() {
        let mut trail = Trail::default();
        trail.push(sample(1_000, 5));
        let live = drawn(LoadSpan::Live, ServerId(7), &trail, Some(answer(3_600)));
        assert_eq!(live.from_to, Some((at(400), at(1_000))));
    }
}
