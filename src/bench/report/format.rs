//! Figures as people read them. What is not finite is a dash.

/// A number with three significant digits, or all of them before the point.
pub(super) fn number(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let decimals = match value.abs() {
        0.0 => 0,
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        size if size >= 0.001 => 3,
        _ => return format!("{value:.1e}"),
    };
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// A count, in groups of three.
pub(super) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut grouped = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    grouped
}

/// A time given in microseconds.
pub(super) fn microseconds(value: f64) -> String {
    scaled(value * 1e3, &[(1e9, " s"), (1e6, " ms"), (1e3, " µs"), (1.0, " ns")])
}

/// A rate.
pub(super) fn per_second(value: f64) -> String {
    scaled(value, &[(1e9, " G/s"), (1e6, " M/s"), (1e3, " k/s"), (1.0, "/s")])
}

/// A size.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(super) fn bytes(value: u64) -> String {
    sized(value as f64)
}

/// A share, 0 to 1.
pub(super) fn share(value: f64) -> String {
    if value.is_finite() { format!("{} %", number(value * 100.0)) } else { number(value) }
}

/// A value of a metric. A unit that is not known is written behind it as it is.
pub(super) fn with_unit(value: f64, unit: &str) -> String {
    match unit {
        "µs" => microseconds(value),
        "ns" => microseconds(value / 1e3),
        "operations/s" | "elements/s" => per_second(value),
        "bytes" => sized(value),
        "share" => share(value),
        _ => format!("{} {unit}", number(value)),
    }
}

fn sized(value: f64) -> String {
    scaled(value, &[(f64::from(1 << 30), " GiB"), (f64::from(1 << 20), " MiB"), (1024.0, " KiB"), (1.0, " B")])
}

/// In the largest unit that `value` has one of, or the last one. Units bring their space along.
fn scaled(value: f64, units: &[(f64, &str)]) -> String {
    let fits = |(factor, _): &&(f64, &str)| value.abs() >= *factor;
    match units.iter().find(fits).or(units.last()) {
        Some((factor, unit)) if value.is_finite() && value != 0.0 => format!("{}{unit}", number(value / factor)),
        Some((_, unit)) if value == 0.0 => format!("0{unit}"),
        _ => number(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_the_unit_that_fits() {
        assert_eq!(microseconds(0.85), "850 ns");
        assert_eq!(microseconds(1234.0), "1.23 ms");
        assert_eq!(microseconds(0.0), "0 ns");
        assert_eq!(per_second(1_234_567.0), "1.23 M/s");
        assert_eq!(per_second(500.0), "500/s");
        assert_eq!(bytes(3 << 30), "3 GiB");
        assert_eq!(share(0.0312), "3.12 %");
        assert_eq!(count(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(with_unit(12.0, "calls"), "12 calls");
        assert_eq!(number(0.000_012), "1.2e-5");
        assert_eq!(number(1000.0), "1000");
    }

    #[test]
    fn what_is_no_number_is_a_dash() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            for text in [number(value), microseconds(value), per_second(value), share(value)] {
                assert_eq!(text, "–");
            }
        }
    }
}
