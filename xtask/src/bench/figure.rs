//! One measured figure: its median, the interval that holds the median, and what it should be at
//! most. Says whether it is; judges nothing else.

use anyhow::Context as _;
use serde_json::Value;

/// A figure with its spread.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) unit: String,
    pub(crate) spread: Spread,
    /// The most that it should be.
    pub(crate) aim: Option<f64>,
}

/// A median and the interval that holds it in 19 of 20 runs, by order statistics: nothing is assumed
/// of how the values are spread. Of fewer than six values, all that there are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) low: f64,
    pub(crate) median: f64,
    pub(crate) high: f64,
}

impl Spread {
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let outside = outside(values.len());
        let low = values.get(outside).copied().unwrap_or(f64::NAN);
        let high = values.iter().rev().nth(outside).copied().unwrap_or(f64::NAN);
        Self { low, median: quantile(&values, 0.5), high }
    }

    /// Such as `1.03 (1.01 to 1.05)`.
    pub(crate) fn written(&self) -> String {
        let Self { low, median, high } = self;
        let [low, median, high] = [low, median, high].map(|it| written(*it));
        if low == high { median } else { format!("{median} ({low} to {high})") }
    }
}

/// How many values lie outside of the interval on each side: the most that leave no more than one
/// chance in forty there.
fn outside(count: usize) -> usize {
    let mut ways = 0.5_f64.powf(count as f64);
    let mut chance = ways;
    let mut outside = 0;
    while chance <= 0.025 {
        outside += 1;
        ways *= (count + 1 - outside) as f64 / outside as f64;
        chance += ways;
    }
    outside.saturating_sub(1)
}

impl Figure {
    pub(crate) fn of(name: &str, unit: &str, values: Vec<f64>) -> Self {
        let (name, unit) = (name.to_owned(), unit.to_owned());
        Self { name, unit, spread: Spread::of(values), aim: None }
    }

    /// A figure that was taken once.
    pub(crate) fn once(name: &str, unit: &str, value: f64) -> Self {
        Self::of(name, unit, vec![value])
    }

    /// What it should be at most.
    pub(crate) fn aim(mut self, most: f64) -> Self {
        self.aim = Some(most);
        self
    }

    /// Whether it is above its aim.
    pub(crate) fn misses(&self) -> bool {
        self.aim.is_some_and(|most| self.spread.median > most)
    }

    /// A figure as the crates' own benches print it, with the value of each of its rounds.
    pub(crate) fn read(line: &str) -> anyhow::Result<Self> {
        let value: Value =
            serde_json::from_str(line).with_context(|| format!("no figure: {line:?}"))?;
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let values = value["values"].as_array().map(Vec::as_slice).unwrap_or_default();
        let values: Option<Vec<f64>> = values.iter().map(Value::as_f64).collect();
        let values = values.filter(|it| !it.is_empty());
        let values = values.with_context(|| format!("no values: {line:?}"))?;
        Ok(Self::of(&text("name"), &text("unit"), values))
    }

    /// The cells of its row.
    pub(crate) fn cells(&self) -> Vec<String> {
        let Spread { low, median, high } = self.spread;
        let [low, shown, high] = [low, median, high].map(written);
        let spread = if low == high { String::new() } else { format!("{low} to {high}") };
        let aim = self.aim.map_or(String::new(), |most| {
            let verdict = if self.misses() { "**missed**" } else { "met" };
            format!("≤ {}: {verdict}", written(most))
        });
        vec![self.name.clone(), shown, self.unit.clone(), spread, aim]
    }
}

/// Three figures that count, thousands apart.
pub(crate) fn written(value: f64) -> String {
    match value.abs() {
        unknown if unknown.is_nan() => "–".to_owned(),
        large if large >= 10_000.0 => {
            let digits = format!("{value:.0}");
            let mut grouped = String::new();
            for (index, digit) in digits.chars().enumerate() {
                if index > 0 && (digits.len() - index).is_multiple_of(3) {
                    grouped.push(' ');
                }
                grouped.push(digit);
            }
            grouped
        }
        middle if middle >= 100.0 => format!("{value:.0}"),
        small if small >= 10.0 => format!("{value:.1}"),
        small if small >= 1.0 => format!("{value:.2}"),
        // What rounds to nothing has no sign.
        _ => format!("{value:.3}").replace("-0.000", "0.000"),
    }
}

/// The value below which `share` (0 to 1) of `sorted` lies.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1) as f64;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index below the length"
    )]
    let index = (last * share).round() as usize;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_read_as_the_benches_print_it() {
        let line = r#"{"name":"decode","unit":"a second","values":[40.0,10.0,20.0,30.0,50.0]}"#;
        let figure = Figure::read(line).unwrap();
        assert_eq!(figure.cells(), ["decode", "30.0", "a second", "10.0 to 50.0", ""]);
        Figure::read(r#"{"name":"decode","unit":"a second","values":[]}"#).unwrap_err();
        Figure::read(r#"{"name":"decode","unit":"a second","values":["fast"]}"#).unwrap_err();
    }

    #[test]
    fn three_digits_are_written_and_nothing_has_no_sign() {
        let written = [-0.0001, 0.0, -0.25, 1.234, 56.78, -123.4, 1_234_567.0].map(written);
        assert_eq!(written, ["0.000", "0.000", "-0.250", "1.23", "56.8", "-123", "1 234 567"]);
    }

    #[test]
    fn the_interval_is_that_of_the_tables_of_order_statistics() {
        let outside = [1, 5, 6, 8, 9, 12, 15, 20, 25].map(outside);
        assert_eq!(outside, [0, 0, 0, 0, 1, 2, 3, 5, 7]);
        let spread = Spread::of((1..=9).map(f64::from).collect());
        assert_eq!(spread, Spread { low: 2.0, median: 5.0, high: 8.0 });
    }

    #[test]
    fn what_is_above_its_aim_is_missed() {
        let figure = Figure::once("resident", "MiB", 21.0);
        assert_eq!(figure.clone().aim(20.0).cells()[4], "≤ 20.0: **missed**");
        assert_eq!(figure.aim(21.0).cells()[4], "≤ 21.0: met");
    }
}
