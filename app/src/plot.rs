//! From values over time to SVG paths, in a box of [`WIDTH`] by [`HEIGHT`]. Pure.

use std::fmt::Write;

/// Width of the box a path is drawn in.
pub const WIDTH: f64 = 600.0;
/// Height of the box a path is drawn in.
pub const HEIGHT: f64 = 100.0;

/// What an axis shows: times in milliseconds, values from zero to `high`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Frame {
    /// Left edge.
    pub from_ms: i64,
    /// Right edge.
    pub to_ms: i64,
    /// Upper edge.
    pub high: f64,
    /// A line is not drawn over more than this many milliseconds without a value.
    pub gap_ms: i64,
}

/// The line, and the area below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Paths {
    /// The line.
    pub line: String,
    /// The area.
    pub fill: String,
}

impl Frame {
    fn x(self, at_ms: i64) -> f64 {
        let span = (self.to_ms - self.from_ms).max(1);
        (at_ms - self.from_ms) as f64 / span as f64 * WIDTH
    }

    fn y(self, value: f64) -> f64 {
        let share = if self.high > 0.0 { (value / self.high).clamp(0.0, 1.0) } else { 0.0 };
        HEIGHT - share * HEIGHT
    }

    /// Draws points given oldest first. Those left of the box are cut; a gap breaks the line.
    pub fn draw(self, points: impl Iterator<Item = (i64, f64)>) -> Paths {
        let mut paths = Paths::default();
        let mut run: Option<(f64, i64, f64)> = None; // where it began, and its last point
        for (at_ms, value) in points.filter(|(at, _)| (self.from_ms..=self.to_ms).contains(at)) {
            let (x, y) = (self.x(at_ms), self.y(value));
            let open = run.filter(|(_, last, _)| at_ms - last <= self.gap_ms);
            if open.is_none() {
                Self::close(&mut paths, run);
                let _ = write!(paths.line, "M{x:.1} {y:.1}");
                let _ = write!(paths.fill, "M{x:.1} {HEIGHT}L{x:.1} {y:.1}");
            } else {
                let _ = write!(paths.line, "L{x:.1} {y:.1}");
                let _ = write!(paths.fill, "L{x:.1} {y:.1}");
            }
            run = Some((open.map_or(x, |(begin, ..)| begin), at_ms, x));
        }
        Self::close(&mut paths, run);
        paths
    }

    fn close(paths: &mut Paths, run: Option<(f64, i64, f64)>) {
        if let Some((begin, _, x)) = run {
            let _ = write!(paths.fill, "L{x:.1} {HEIGHT}z");
            // A lone point is a line too short to see.
            if (x - begin).abs() < f64::EPSILON {
                let _ = write!(paths.line, "h1");
            }
        }
    }
}

/// The next round number at or above `value`: 1, 2, 4, 5 or 8 times a power of ten, at least
/// `least`, so that its half is round too and an idle line does not dance.
pub fn round_up(value: f64, least: f64) -> f64 {
    let value = value.max(least);
    if !value.is_finite() || value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    let step = [1.0, 2.0, 4.0, 5.0, 8.0, 10.0].into_iter().find(|step| step * power >= value * (1.0 - 1e-9));
    step.unwrap_or(10.0) * power
}

/// Means of points within equal times of `bucket_ms`, so that a line stays calm. Times begin at
/// whole multiples, so that a finished one never changes while the frame moves.
pub fn calm(points: &[(i64, f64)], bucket_ms: i64) -> Vec<(i64, f64)> {
    let bucket_ms = bucket_ms.max(1);
    points
        .chunk_by(|a, b| a.0.div_euclid(bucket_ms) == b.0.div_euclid(bucket_ms))
        .filter_map(|group| {
            let last = group.last()?;
            Some((last.0, group.iter().map(|p| p.1).sum::<f64>() / group.len() as f64))
        })
        .collect()
}

/// A sparkline in a box of 96 by 24: evenly spaced shares of one, newest last.
pub fn spark(shares: &[f64]) -> String {
    let mut path = String::new();
    let steps = shares.len().saturating_sub(1).max(1) as f64;
    for (n, share) in shares.iter().enumerate() {
        let (x, y) = (n as f64 / steps * 96.0, 23.0 - share.clamp(0.0, 1.0) * 22.0);
        let _ = write!(path, "{}{x:.1} {y:.1}", if n == 0 { 'M' } else { 'L' });
    }
    path
}

/// Means of `values` in at most `buckets` equal groups, so that a line stays calm.
pub fn thinned(values: &[f64], buckets: usize) -> Vec<f64> {
    let size = values.len().div_ceil(buckets.max(1)).max(1);
    // Groups end at the newest value, so that a finished group never changes.
    values.rchunks(size).rev().map(|group| group.iter().sum::<f64>() / group.len() as f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Frame = Frame { from_ms: 0, to_ms: 600, high: 100.0, gap_ms: 100 };

    #[test]
    fn a_line_goes_through_its_points() {
        let paths = FRAME.draw([(0, 0.0), (60, 50.0), (120, 100.0)].into_iter());
        assert_eq!(paths.line, "M0.0 100.0L60.0 50.0L120.0 0.0");
        assert_eq!(paths.fill, "M0.0 100L0.0 100.0L60.0 50.0L120.0 0.0L120.0 100z");
    }

    #[test]
    fn a_gap_breaks_the_line_and_its_area() {
        let paths = FRAME.draw([(0, 50.0), (60, 50.0), (400, 50.0), (460, 50.0)].into_iter());
        assert_eq!(paths.line.matches('M').count(), 2);
        assert_eq!(paths.fill.matches('z').count(), 2);
    }

    #[test]
    fn a_lone_point_can_be_seen_and_strangers_are_cut() {
        let paths = FRAME.draw([(-9, 1.0), (300, 50.0), (900, 1.0)].into_iter());
        assert_eq!(paths.line, "M300.0 50.0h1");
        assert_eq!(FRAME.draw(std::iter::empty()), Paths::default());
    }

    #[test]
    fn values_past_the_frame_stay_in_it() {
        let paths = FRAME.draw([(0, -5.0), (60, 500.0)].into_iter());
        assert_eq!(paths.line, "M0.0 100.0L60.0 0.0");
    }

    #[test]
    fn calm_lines_are_means_of_fixed_times() {
        let points = [(0, 1.0), (2, 3.0), (4, 5.0), (6, 9.0)];
        assert_eq!(calm(&points, 4), [(2, 2.0), (6, 7.0)]);
        assert_eq!(calm(&points[..3], 4)[0], (2, 2.0), "a finished time stays");
    }

    #[test]
    fn axes_end_at_round_numbers() {
        for (value, high) in [(0.0, 1.0), (3.2, 4.0), (18.6, 20.0), (40.0, 40.0), (212.0, 400.0), (0.7, 1.0)]
        {
            assert!((round_up(value, 1.0) - high).abs() < 1e-9, "{value}: {}", round_up(value, 1.0));
        }
        assert!((round_up(f64::NAN, 0.0) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_sparkline_spans_its_box() {
        assert_eq!(spark(&[0.0, 1.0]), "M0.0 23.0L96.0 1.0");
        assert_eq!(spark(&[]), "");
        let thin = thinned(&[9.0, 1.0, 3.0, 5.0, 7.0], 3);
        assert_eq!(thin, [9.0, 2.0, 6.0]);
    }
}
