//! Charts: one or two series over time. The second is dashed, so that colour is not needed.

use berth_model::Timestamp;
use leptos::prelude::*;

use crate::browser;
use crate::plot::{self, Frame, HEIGHT, WIDTH, round_up};

stylance::import_style!(css, "chart.module.css");

/// About how many points a line has: more would be noise at its width.
const POINTS: i64 = 75;
/// The same of a tall chart, which is wider.
const TALL_POINTS: i64 = 120;

/// One series: its points, oldest first, and how it is called.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Series {
    /// `in`, `write`; empty when there is only one.
    pub name: &'static str,
    /// Milliseconds since 1970, value.
    pub points: Vec<(i64, f64)>,
}

/// Everything a chart shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Plotted {
    /// Left edge.
    pub from: Timestamp,
    /// Right edge.
    pub to: Timestamp,
    /// Milliseconds without a value that break a line.
    pub gap_ms: i64,
    /// One or two.
    pub series: Vec<Series>,
    /// The lowest upper edge, so that an idle line stays low; fixed when `exact`.
    pub least: f64,
    /// The axis ends at `least`.
    pub exact: bool,
}

impl Plotted {
    fn highest(&self) -> f64 {
        self.series.iter().flat_map(|s| s.points.iter().map(|p| p.1)).fold(0.0, f64::max)
    }

    fn high(&self) -> f64 {
        if self.exact { self.least } else { round_up(self.highest(), self.least) }
    }

    /// A sentence with the range and the extremes, for who cannot see the lines.
    fn sentence(&self, title: &str, unit: &str, span: &str) -> String {
        let mut parts = Vec::new();
        for series in &self.series {
            let values = series.points.iter().map(|p| p.1);
            let (low, high) = values.fold((f64::MAX, 0.0f64), |(low, high), v| (low.min(v), high.max(v)));
            if low <= high {
                let name = if series.name.is_empty() { String::new() } else { format!("{} ", series.name) };
                let number = crate::format::number;
                parts.push(format!("{name}between {} and {} {unit}", number(low), number(high)));
            }
        }
        if parts.is_empty() {
            format!("{title}: no data {span}")
        } else {
            format!("{title} {span}, {}", parts.join(", "))
        }
    }
}

/// A chart with its title, its newest values, and its axes.
#[component]
pub fn Chart(
    /// What it shows.
    title: &'static str,
    /// What is plotted.
    #[prop(into)]
    plotted: Signal<Plotted>,
    /// `in the last 10 minutes`.
    #[prop(into)]
    span: Signal<&'static str>,
    /// The unit behind the newest values, and the factor from a value to it.
    #[prop(into)]
    unit: Signal<(f64, &'static str)>,
    /// Writes a value, already in the unit.
    write: fn(f64) -> String,
    /// What follows the newest value: `% of 4 vCPU`.
    #[prop(optional, into)]
    of: Signal<String>,
    /// A tall one.
    #[prop(optional)]
    tall: bool,
) -> impl IntoView {
    let frame = Memo::new(move |_| {
        plotted.with(|p| Frame {
            from_ms: p.from.unix_ms(),
            to_ms: p.to.unix_ms(),
            high: p.high(),
            gap_ms: p.gap_ms.max((p.to.unix_ms() - p.from.unix_ms()) / POINTS * 2),
        })
    });
    let paths = Memo::new(move |_| {
        let frame = frame.get();
        let points = if tall { TALL_POINTS } else { POINTS };
        let bucket_ms = (frame.to_ms - frame.from_ms) / points;
        plotted.with(|p| {
            p.series
                .iter()
                .map(|s| frame.draw(plot::calm(&s.points, bucket_ms).into_iter()))
                .collect::<Vec<_>>()
        })
    });
    let path = move |n: usize| move || paths.with(|paths| paths.get(n).map(|p| p.line.clone()));
    let fill = move || paths.with(|paths| paths.first().map(|p| p.fill.clone()));
    let has_none = move || plotted.with(|p| p.series.iter().all(|s| s.points.is_empty()));
    let edge = move |share: f64| {
        move || {
            let (factor, word) = unit.get();
            let value = frame.with(|f| f.high) * share / factor;
            let word = if word == "%" { " %" } else { "" };
            if share > 0.0 { format!("{}{word}", write(value)) } else { "0".to_owned() }
        }
    };
    let newest = move |n: usize| {
        move || {
            let value = plotted.with(|p| p.series.get(n).and_then(|s| s.points.last().map(|p| p.1)));
            value.map_or_else(|| crate::format::NONE.to_owned(), |v| write(v / unit.get().0))
        }
    };
    let key = move |n: usize| {
        let name = plotted.with_untracked(|p| p.series.get(n).map(|s| s.name).unwrap_or_default());
        let is_last = plotted.with_untracked(|p| n + 1 == p.series.len());
        view! {
            <span class=css::key class=(css::s2, n == 1)>
                {name}
                <output data-testid=format!("{}-{}", title.to_lowercase(), if name.is_empty() { "now" } else { name })>
                    {newest(n)}
                </output>
                {is_last.then(|| view! { <span>{move || unit.get().1} " " {of}</span> })}
            </span>
        }
    };
    let count = plotted.with_untracked(|p| p.series.len());
    let tick = move |share: f64| {
        move || {
            plotted.with(|p| {
                let (from, to) = (p.from.unix_ms(), p.to.unix_ms());
                let at = from + ((to - from) as f64 * share) as i64;
                Timestamp::from_unix_ms(at).map(|at| browser::here().tick(at, (to - from) / 1000))
            })
        }
    };
    let sentence = move || {
        plotted.with(|p| {
            let (factor, word) = unit.get();
            let scaled = Plotted {
                series: p
                    .series
                    .iter()
                    .map(|s| Series {
                        name: s.name,
                        points: s.points.iter().map(|(at, v)| (*at, v / factor)).collect(),
                    })
                    .collect(),
                ..p.clone()
            };
            scaled.sentence(title, word, span.get())
        })
    };
    view! {
        <div class=css::chart>
            <div class=css::chart_h>
                <h3>{title}</h3>
                {(0..count).map(key).collect_view()}
            </div>
            <div class=css::plot class=(css::tall, tall)>
                <svg
                    viewBox=format!("0 0 {WIDTH} {HEIGHT}")
                    preserveAspectRatio="none"
                    role="img"
                    aria-label=sentence
                >
                    <line x1="0" x2=WIDTH.to_string() y1="0" y2="0" />
                    <line x1="0" x2=WIDTH.to_string() y1="50" y2="50" />
                    <path class=css::fill d=fill />
                    <path d=path(0) />
                    {(count > 1).then(|| view! { <path class=css::s2 d=path(1) /> })}
                </svg>
                <Show when=has_none>
                    <span class=css::none>"No data for this time"</span>
                </Show>
                <span class=format!("{} {}", css::y, css::top)>{edge(1.0)}</span>
                <span class=format!("{} {}", css::y, css::mid)>{edge(0.5)}</span>
                <span class=format!("{} {}", css::y, css::low)>{edge(0.0)}</span>
            </div>
            <div class=css::plot_x>
                <span>{tick(0.0)}</span>
                {tall.then(|| view! { <span>{tick(0.5)}</span> })}
                <span>{tick(1.0)}</span>
            </div>
        </div>
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::at;

    fn plotted(points: &[(i64, f64)]) -> Plotted {
        let series = vec![Series { name: "in", points: points.to_vec() }];
        Plotted { from: at(0), to: at(600), gap_ms: 5_000, series, least: 1.0, exact: false }
    }

    #[test]
    fn a_chart_says_its_range_in_words() {
        let some = plotted(&[(1, 14.2), (2, 61.0)]);
        assert_eq!(
            some.sentence("Network", "Mbit/s", "in the last 10 minutes"),
            "Network in the last 10 minutes, in between 14 and 61 Mbit/s"
        );
        assert_eq!(plotted(&[]).sentence("CPU", "%", "today"), "CPU: no data today");
    }

    #[test]
    fn an_axis_is_fixed_or_fits() {
        assert!((plotted(&[(1, 18.6)]).high() - 20.0).abs() < 1e-9);
        let fixed = Plotted { least: 100.0, exact: true, ..plotted(&[(1, 250.0)]) };
        assert!((fixed.high() - 100.0).abs() < 1e-9);
    }
}
