//! Change points of a noisy series: E-divisive means with a t-test, by Fleming et al., "Hunter: Using
//! Change Point Detection to Hunt for Performance Regressions" (doi 10.1145/3578244.3583719), after
//! Matteson and James (arXiv 1306.4933). The same steps as Apache Otava, which the full suite compares
//! it with.

use statrs::function::beta::checked_beta_reg;

/// Values that are looked at together.
const WINDOW: usize = 50;
/// Chance that a change is none.
const MAX_P: f64 = 0.001;

/// A change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// The first value after it.
    pub index: usize,
    /// The mean since the change before.
    pub before: f64,
    /// The mean until the next one.
    pub after: f64,
    /// Chance of such a difference without a change.
    pub p: f64,
}

/// All changes in a series, in its order: of the weak points the weakest are taken out until all hold.
pub fn changes(series: &[f64]) -> Vec<Change> {
    merge(series, weak(series), MAX_P)
}

/// The points that are likely by a weaker test in any window.
pub fn weak(series: &[f64]) -> Vec<usize> {
    let mut points: Vec<usize> = Vec::new();
    let mut start = 0;
    while start < series.len() {
        let end = (start + WINDOW).min(series.len());
        let found = split(&series[start..end], MAX_P * 10.0);
        for point in &found {
            if !points.contains(&(start + point)) {
                points.push(start + point);
            }
        }
        let last = found.last().map_or(0, |point| start + point);
        start = last.max(start + WINDOW / 2);
    }
    points.sort_unstable();
    points
}

/// Splits a window where it differs most, again and again.
fn split(series: &[f64], max_p: f64) -> Vec<usize> {
    let mut points: Vec<usize> = Vec::new();
    loop {
        let best = intervals(&points, series.len())
            .filter(|(from, to)| to - from > 1)
            .filter_map(|(from, to)| candidate(series, from, to).map(|(at, q)| (from, at, to, q)))
            .reduce(|best, next| if next.3 > best.3 { next } else { best });
        let Some((from, at, to, _)) = best else { return points };
        // Not a number where nothing varies: no change.
        let p = t_test(&series[from..at], &series[at..to]);
        if p.is_nan() || p > max_p {
            return points;
        }
        points.push(at);
        points.sort_unstable();
    }
}

/// Takes the weakest points out.
fn merge(series: &[f64], mut points: Vec<usize>, max_p: f64) -> Vec<Change> {
    loop {
        let changes: Vec<Change> = (0..points.len()).map(|i| change(series, &points, i)).collect();
        let weakest = changes.iter().enumerate().reduce(|a, b| if b.1.p > a.1.p { b } else { a });
        match weakest {
            Some((index, change)) if change.p >= max_p => drop(points.remove(index)),
            _ => return changes,
        }
    }
}

fn change(series: &[f64], points: &[usize], which: usize) -> Change {
    let index = points[which];
    let from = which.checked_sub(1).map_or(0, |before| points[before]);
    let to = points.get(which + 1).copied().unwrap_or(series.len());
    let (left, right) = (&series[from..index], &series[index..to]);
    Change { index, before: mean(left), after: mean(right), p: t_test(left, right) }
}

/// The pieces between points.
fn intervals(points: &[usize], len: usize) -> impl Iterator<Item = (usize, usize)> {
    let starts = [0].into_iter().chain(points.iter().copied());
    starts.zip(points.iter().copied().chain([len]))
}

/// Where `series[from..to]` is split best: the greatest divergence of `from..at` and `at..end`, for any
/// end.
fn candidate(series: &[f64], from: usize, to: usize) -> Option<(usize, f64)> {
    let mut best: Option<(usize, f64)> = None;
    for at in from + 1..to {
        let (mut across, mut right) = (0.0, 0.0);
        let left: f64 = pairs(&series[from..at]);
        for end in at + 1..=to {
            let new = series[end - 1];
            across += distances(&series[from..at], new);
            right += distances(&series[at..end - 1], new);
            let (n, m) = ((at - from) as f64, (end - at) as f64);
            let within = |sum: f64, own: f64, other: f64| {
                if own > 1.0 { 2.0 * other / (n + m) / (own - 1.0) * sum } else { 0.0 }
            };
            let q = 2.0 / (n + m) * across - within(left, n, m) - within(right, m, n);
            if best.is_none_or(|(_, greatest)| q > greatest) {
                best = Some((at, q));
            }
        }
    }
    best
}

fn distances(values: &[f64], from: f64) -> f64 {
    values.iter().map(|value| (value - from).abs()).sum()
}

fn pairs(values: &[f64]) -> f64 {
    values.iter().enumerate().map(|(index, &value)| distances(&values[..index], value)).sum()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Student's t-test of two samples with equal variance, two-sided: the chance that they are of one
/// distribution. Variances are those of the samples themselves, as Otava has them.
pub fn t_test(left: &[f64], right: &[f64]) -> f64 {
    let (n, m) = (left.len() as f64, right.len() as f64);
    if left.len() + right.len() <= 2 {
        return 1.0;
    }
    let variance = |values: &[f64]| {
        let middle = mean(values);
        values.iter().map(|value| (value - middle).powi(2)).sum::<f64>() / values.len() as f64
    };
    let freedom = n + m - 2.0;
    let pooled = ((n - 1.0) * variance(left) + (m - 1.0) * variance(right)) / freedom;
    let t = (mean(left) - mean(right)) / (pooled * (1.0 / n + 1.0 / m)).sqrt();
    if t.is_infinite() {
        return 0.0;
    }
    checked_beta_reg(freedom / 2.0, 0.5, freedom / (freedom + t * t)).unwrap_or(f64::NAN)
}

/// Numbers that look random, the same in each run, for tests: of a linear congruential generator, twelve
/// added up for a bell.
pub fn bell(seed: u64, len: usize) -> Vec<f64> {
    let mut state = seed;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / f64::from(1u32 << 31)
    };
    (0..len).map(|_| (0..12).map(|_| next()).sum::<f64>() - 6.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t_tests_as_tables_have_them() {
        // t = 2.228 at 10 degrees of freedom is the two-sided 5 % of any table.
        let freedom: f64 = 10.0;
        let p = checked_beta_reg(freedom / 2.0, 0.5, freedom / (freedom + 2.228 * 2.228)).unwrap();
        assert!((p - 0.05).abs() < 1e-4, "{p}");
        assert!(t_test(&[1.0, 1.0], &[2.0, 2.0]) == 0.0);
        assert!(t_test(&[1.0, 1.0], &[1.0, 1.0]).is_nan());
        assert!(t_test(&[1.0], &[2.0]) == 1.0);
    }

    #[test]
    fn steps_are_found_and_noise_is_not() {
        let mut series = bell(1, 40);
        assert!(changes(&series).is_empty(), "{:?}", changes(&series));
        series[25..].iter_mut().for_each(|value| *value += 6.0);
        let found = changes(&series);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].index, 25);
        assert!(found[0].after - found[0].before > 5.0);
        assert!(
            changes(&[]).is_empty() && changes(&[1.0]).is_empty() && changes(&[1.0; 9]).is_empty()
        );
    }

    #[test]
    fn long_series_have_several() {
        let mut series = bell(2, 160);
        series[30..].iter_mut().for_each(|value| *value += 8.0);
        series[110..].iter_mut().for_each(|value| *value -= 5.0);
        let found: Vec<usize> = changes(&series).iter().map(|change| change.index).collect();
        assert_eq!(found, [30, 110]);
    }
}
