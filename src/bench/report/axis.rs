//! From values to places along an axis, and which of them get a label.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;

/// How many labels an axis has at most, about.
const LABELS: f64 = 5.0;
/// Values from here on are no figures, and would overflow what is reckoned with them.
const BOUNDLESS: f64 = 1e100;

/// An axis: a scale, a section of it, and labels.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    pub(super) name: &'static str,
    scale: Scale,
    /// The ends, as places.
    pub(super) from: f64,
    pub(super) to: f64,
    /// Places with what is written there, ascending.
    pub(super) labels: Vec<(f64, String)>,
}

#[derive(Clone, Copy, Debug)]
enum Scale {
    Linear,
    Logarithmic,
    /// The share of the slower ones, logarithmic: opens up the tail.
    Percentile,
}

impl Axis {
    /// From 0 to a little over the largest value.
    pub(super) fn from_zero(
        name: &'static str,
        values: impl Iterator<Item = f64>,
        format: impl Fn(f64) -> String,
    ) -> Self {
        let largest = ends(values).map_or(0.0, |(_, largest)| largest);
        let to = if largest > 0.0 { largest * 1.05 } else { 1.0 };
        Self::linear(name, 0.0, to, format)
    }

    /// Around the values: at least a tenth of them wide either way, so that noise looks like noise; never under 0.
    pub(super) fn around(
        name: &'static str,
        values: impl Iterator<Item = f64>,
        format: impl Fn(f64) -> String,
    ) -> Self {
        let (least, largest) = ends(values).unwrap_or((0.0, 1.0));
        let room = (0.15 * (largest - least)).max(0.1 * largest.abs());
        let room = if room > 0.0 { room } else { 1.0 };
        Self::linear(name, if least >= 0.0 { (least - room).max(0.0) } else { least - room }, largest + room, format)
    }

    fn linear(name: &'static str, from: f64, to: f64, format: impl Fn(f64) -> String) -> Self {
        let rough = (to - from) / LABELS;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|step| step * power).find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        let first = (from / step).ceil();
        let values = (0..20).map(|at| (first + f64::from(at)) * step).take_while(|value| *value <= to * (1.0 + 1e-9));
        Self { name, scale: Scale::Linear, from, to, labels: values.map(|value| (value, format(value))).collect() }
    }

    /// Places 0, 1, 2, …, with a label at each that is given.
    pub(super) fn ordinal(name: &'static str, count: u32, labels: Vec<(f64, String)>) -> Self {
        Self { name, scale: Scale::Linear, from: -0.5, to: f64::from(count.max(1)) - 0.5, labels }
    }

    /// Logarithmic, around the values that are over 0.
    pub(super) fn logarithmic(
        name: &'static str,
        values: impl Iterator<Item = f64>,
        format: impl Fn(f64) -> String,
    ) -> Self {
        let (least, largest) = ends(values.filter(|value| *value > 0.0)).unwrap_or((1.0, 10.0));
        let (from, to) = (least.log10() - 0.05, largest.log10() + 0.05);
        let narrow = (0.5 - (to - from)).max(0.0) / 2.0;
        let (from, to) = (from - narrow, to + narrow);
        let steps: &[f64] = match to - from {
            decades if decades < 1.3 => &[1.0, 2.0, 3.0, 5.0, 7.0],
            decades if decades < 2.6 => &[1.0, 3.0],
            _ => &[1.0],
        };
        let stride = ((to - from) / (LABELS + 1.0)).ceil().max(1.0);
        let mut labels = Vec::new();
        let mut decade = from.floor();
        while decade <= to {
            let places = steps.iter().map(|step| (decade + step.log10(), step * 10_f64.powf(decade)));
            labels.extend(
                places.filter(|(place, _)| (from..=to).contains(place)).map(|(place, value)| (place, format(value))),
            );
            decade += stride;
        }
        Self { name, scale: Scale::Logarithmic, from, to, labels }
    }

    /// Shares up to the largest of `shares`, which are under 1: 50 %, 90 %, 99 %, 99.9 % and so on at equal distances.
    pub(super) fn percentiles(name: &'static str, shares: impl Iterator<Item = f64>) -> Self {
        let largest = shares.filter(|share| *share < 1.0).fold(0.99, f64::max);
        let to = Scale::Percentile.place(largest) + 0.05;
        let shares = [0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999];
        let labels = ["50 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %"].map(str::to_owned);
        let labels = shares.map(|share| Scale::Percentile.place(share)).into_iter().zip(labels);
        Self {
            name,
            scale: Scale::Percentile,
            from: 0.0,
            to,
            labels: labels.filter(|(place, _)| *place <= to).collect(),
        }
    }

    /// Where a value lies, if it can be shown.
    pub(super) fn place(&self, value: f64) -> Option<f64> {
        let place = self.scale.place(value);
        place.is_finite().then(|| place.clamp(self.from, self.to))
    }
}

/// Of places, which are what is drawn at.
impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, place: &f64, limit: (i32, i32)) -> i32 {
        RangedCoordf64::from(self.range()).map(place, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.labels.iter().map(|(place, _)| *place).collect()
    }

    fn range(&self) -> Range<f64> {
        self.from..self.to
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, place: &f64) -> String {
        // Only places that `key_points` gave are asked for.
        let labelled = self.labels.iter().find(|(other, _)| other.total_cmp(place).is_eq());
        labelled.map(|(_, label)| label.clone()).unwrap_or_default()
    }
}

impl Scale {
    fn place(self, value: f64) -> f64 {
        match self {
            Scale::Linear => value,
            Scale::Logarithmic => value.log10(),
            Scale::Percentile => -(1.0 - value).log10(),
        }
    }
}

/// The least and the largest one, as far as a chart can tell them apart.
fn ends(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.filter(|value| value.abs() < BOUNDLESS).fold(None, |ends, value| match ends {
        None => Some((value, value)),
        Some((least, largest)) => Some((value.min(least), value.max(largest))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.labels.iter().map(|(_, label)| label.as_str()).collect()
    }

    #[test]
    fn each_nine_has_the_same_room() {
        let axis = Axis::percentiles("", [0.5, 0.9999].into_iter());
        assert_eq!(labels(&axis), ["50 %", "90 %", "99 %", "99.9 %", "99.99 %"]);
        let place = |share| axis.place(share).expect("a place");
        assert!((place(0.99) - place(0.9) - (place(0.999) - place(0.99))).abs() < 1e-9);
        assert_eq!(axis.place(f64::NAN), None);
        assert_eq!(axis.place(1.0), None);
    }

    #[test]
    fn labels_are_round_and_few() {
        let text = |value: f64| format!("{value}");
        assert_eq!(labels(&Axis::from_zero("", [3.0, 93.0].into_iter(), text)), ["0", "20", "40", "60", "80"]);
        assert_eq!(
            labels(&Axis::logarithmic("", [0.0, 9.0, 90_000.0].into_iter(), text)),
            ["10", "100", "1000", "10000", "100000"]
        );
        for values in
            [vec![], vec![0.0], vec![5.0, 5.0], vec![f64::NAN], vec![-3.0], vec![1e-300, 1e99], vec![f64::MAX]]
        {
            for axis in [
                Axis::from_zero("", values.iter().copied(), text),
                Axis::around("", values.iter().copied(), text),
                Axis::logarithmic("", values.iter().copied(), text),
            ] {
                assert!(axis.labels.len() <= 10, "{values:?}: {axis:?}");
                assert!(axis.from < axis.to && axis.from.is_finite() && axis.to.is_finite(), "{values:?}: {axis:?}");
            }
        }
    }
}
