//! What was measured, as it is printed and as it stands in the documents: tables, each under its
//! title, and first of all the figures that have an aim.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;

use crate::bench::figure::Figure;
use crate::bench::growth::PLOT;

/// All of it, in the order in which it was measured.
#[derive(Default)]
pub(crate) struct Report {
    sections: Vec<Section>,
    aims: Vec<Figure>,
}

struct Section {
    title: String,
    about: String,
    table: String,
}

impl Report {
    /// Figures, each with its spread and its aim.
    pub(crate) fn figures(&mut self, title: &str, about: &str, figures: &[Figure]) {
        let rows = figures.iter().map(Figure::cells).collect();
        self.table(title, about, &HEAD, rows);
        self.aims(figures);
    }

    /// Figures that stand among the aims alone: a table says them already.
    pub(crate) fn aims(&mut self, figures: &[Figure]) {
        self.aims.extend(figures.iter().filter(|it| it.aim.is_some()).cloned());
    }

    /// A table of another shape; its first column is words, the others are figures.
    pub(crate) fn table(
        &mut self,
        title: &str,
        about: &str,
        head: &[&str],
        rows: Vec<Vec<String>>,
    ) {
        let (title, about) = (title.to_owned(), about.to_owned());
        self.sections.push(Section { title, about, table: table(head, &rows) });
    }

    /// All of it as one text.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        if !self.aims.is_empty() {
            let rows: Vec<_> = self.aims.iter().map(Figure::cells).collect();
            let missed = self.aims.iter().filter(|it| it.misses()).count();
            let about = format!("{} of {} are met.", rows.len() - missed, rows.len());
            push(&mut text, "Aims", &about, &table(&HEAD, &rows));
        }
        for Section { title, about, table } in &self.sections {
            push(&mut text, title, about, table);
        }
        text
    }

    /// Writes the document.
    pub(crate) fn save(&self, at: &Path) -> anyhow::Result<()> {
        let plot = Path::new(PLOT).file_name().unwrap_or_default().display();
        let text = format!(
            "# What it costs\n\nWritten by `cargo xtask bench --save`, in one run, on: {}. Compared within a \
             run: before and after each measurement with something attached, in turns, stands one \
             with nothing attached. Behind each median, in brackets or in a column of its own, is \
             the interval that holds it in 19 of 20 runs (order statistics; of fewer than six \
             values, all that there are). Nothing beside nothing shows what is noise.\n\n\
             ![What a connection costs against edges, cgroups and processors]({plot})\n{}",
            machine()?,
            self.text()
        );
        std::fs::write(at, text).with_context(|| format!("write {}", at.display()))
    }
}

const HEAD: [&str; 5] = ["what", "median", "unit", "interval", "aim"];

fn push(text: &mut String, title: &str, about: &str, table: &str) {
    let about = if about.is_empty() { String::new() } else { format!("{about}\n\n") };
    write!(text, "\n## {title}\n\n{about}{table}").expect("a string takes all");
}

fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = format!("| {} |\n|---|{}\n", head.join(" | "), "---:|".repeat(head.len() - 1));
    for row in rows {
        writeln!(table, "| {} |", row.join(" | ")).expect("a string takes all");
    }
    table
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
