//! One measured figure, and the table of them: quartiles beside the median, and the machine said.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;
use serde_json::Value;

/// A figure with its spread.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) unit: String,
    pub(crate) p25: f64,
    pub(crate) p50: f64,
    pub(crate) p75: f64,
}

impl Figure {
    /// The quartiles of `values`.
    pub(crate) fn of(name: &str, unit: &str, mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |share| quantile(&values, share);
        let (p25, p50, p75) = (at(0.25), at(0.5), at(0.75));
        Self { name: name.to_owned(), unit: unit.to_owned(), p25, p50, p75 }
    }

    /// A figure that was taken once.
    pub(crate) fn once(name: &str, unit: &str, value: f64) -> Self {
        Self::of(name, unit, vec![value])
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

    fn row(&self) -> String {
        let Self { name, unit, p25, p50, p75 } = self;
        let [p25, p50, p75] = [p25, p50, p75].map(|it| written(*it));
        let spread = if p25 == p75 { String::new() } else { format!("{p25} to {p75}") };
        format!("| {name} | {p50} | {unit} | {spread} |")
    }
}

/// Three figures that count, thousands apart.
fn written(value: f64) -> String {
    match value.abs() {
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

/// The table, as it stands in the documents.
pub(crate) fn table(figures: &[Figure]) -> anyhow::Result<String> {
    let mut table = String::from("| what | median | unit | quartiles |\n|---|---:|---|---|\n");
    for figure in figures {
        writeln!(table, "{}", figure.row())?;
    }
    Ok(table)
}

/// Writes the document that holds the table.
pub(crate) fn save(at: &Path, figures: &[Figure]) -> anyhow::Result<()> {
    let text = format!(
        "# What it costs\n\nWritten by `cargo xtask bench --save`, in one run, on: {}. Machines like this \
         one are noisy: compare ratios within a run, and look at the spread and at like against like \
         before believing a difference.\n\n{}",
        machine()?,
        table(figures)?
    );
    std::fs::write(at, text).with_context(|| format!("write {}", at.display()))
}

/// Processor, cores, memory, kernel.
fn machine() -> anyhow::Result<String> {
    let read = |path: &str| std::fs::read_to_string(path).with_context(|| format!("read {path}"));
    let value = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
    };
    let processor = read("/proc/cpuinfo")?;
    let cores = processor.lines().filter(|line| line.starts_with("processor")).count();
    let name = value(&processor, "model name").unwrap_or_else(|| "an unnamed processor".to_owned());
    let memory = value(&read("/proc/meminfo")?, "MemTotal").unwrap_or_default();
    let kib: u64 = memory.split(' ').next().unwrap_or_default().parse().unwrap_or(0);
    let kernel = read("/proc/sys/kernel/osrelease")?;
    let kind =
        if processor.contains(" hypervisor") { "a virtual machine" } else { "a real machine" };
    Ok(format!("{kind}, {cores} cores of {name}, {} GiB, Linux {}", kib >> 20, kernel.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_read_as_the_benches_print_it() {
        let line = r#"{"name":"decode","unit":"a second","values":[40.0,10.0,20.0,30.0,50.0]}"#;
        let row = Figure::read(line).unwrap().row();
        assert_eq!(row, "| decode | 30.0 | a second | 20.0 to 40.0 |");
        Figure::read(r#"{"name":"decode","unit":"a second","values":[]}"#).unwrap_err();
        Figure::read(r#"{"name":"decode","unit":"a second","values":["fast"]}"#).unwrap_err();
    }

    #[test]
    fn three_digits_are_written_and_nothing_has_no_sign() {
        let written = [-0.0001, 0.0, -0.25, 1.234, 56.78, -123.4, 1_234_567.0].map(written);
        assert_eq!(written, ["0.000", "0.000", "-0.250", "1.23", "56.8", "-123", "1 234 567"]);
    }
}
