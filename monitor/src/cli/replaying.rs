//! `replay`: what would have been alerted of a recording. Judges nothing: the rehearsal does.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use monitor_core::incident::Alert;
use serde::Serialize;

use crate::baseline_file;
use crate::cli::args::{Format, Guarded, Replay};
use crate::cli::{Ending, Failure, Out, output};
use crate::config::Config;
use crate::recording::{self, LineError, RecordedFlow};
use crate::rehearsal::{Learn, LearnEnd, Plan, Rehearsal, Rehearsed, Span, Summary};
use crate::render;
use crate::wording::{counted, grouped};

/// Bad lines that are told one by one.
const TOLD: usize = 20;

pub(crate) fn replay(replay: &Replay, out: Out) -> Result<Ending, Failure> {
    let mut config = match &replay.config {
        Some(file) => Config::load(Some(file))?,
        None => Config::default(),
    };
    let internal = std::mem::take(&mut config.detect.internal);
    let documents = replay.guarded.baseline.iter().map(|file| baseline_file::read(file));
    let plan = Plan {
        mode: config.mode,
        rule: config.learn.rule(),
        only: config.detect.only,
        internal: Box::new(move |address| internal.iter().any(|it| it.contains(address))),
        baseline: documents.collect::<Result<_, _>>()?,
        learn: replay.guarded.learn.map(|learn| end_of(learn, &replay.file)).transpose()?,
    };
    let mut rehearsal = Rehearsal::new(plan).context("take the baseline apart")?;
    let mut bad = BadLines::default();
    read(&replay.file, |number, flow| match flow {
        Ok(flow) => rehearsal.take(&flow),
        Err(error) => bad.note(number, error),
    })?;
    let Rehearsed { alerts, mut summary } = rehearsal.finish();
    summary.skipped = bad.count;
    print(&alerts, &summary, replay, out)?;
    bad.tell(&replay.file, summary.flows)?;
    if summary.flows == 0 {
        let file = replay.file.display();
        let what = format!("{file}: no flow is in it, so nothing was replayed");
        return Err(Failure::Failed(anyhow::anyhow!(what)));
    }
    check_learned(&summary, &replay.guarded)?;
    Ok(if summary.total.messages > 0 { Ending::Found } else { Ending::Done })
}

/// Where all was learned, or nothing, that there is no alert says nothing.
fn check_learned(summary: &Summary, guarded: &Guarded) -> Result<(), Failure> {
    let (Some(_), Some(span)) = (guarded.learn, summary.span) else { return Ok(()) };
    if summary.learned.as_ref().is_some_and(|it| it.flows == 0) {
        return Err(Failure::Failed(anyhow::anyhow!(
            "nothing was learned: --learn ends before the recording begins, at {}",
            span.first_seen
        )));
    }
    if summary.judged == 0 && guarded.baseline.is_empty() {
        return Err(Failure::Failed(anyhow::anyhow!(
            "nothing was judged: --learn goes beyond the end of the recording, which spans {}",
            humantime::format_duration(Duration::from_secs(span.seconds()))
        )));
    }
    Ok(())
}

/// Reads all lines of a recording.
fn read(
    file: &Path,
    mut take: impl FnMut(u64, Result<RecordedFlow, LineError>),
) -> Result<(), Failure> {
    let mut reader = recording::open(file)?;
    while let Some(line) =
        reader.read().with_context(|| format!("read the recording {}", file.display()))?
    {
        take(line.number, line.flow);
    }
    Ok(())
}

/// Whether a second reading finds the same. What is not there at all is told by the first.
fn is_read_again(file: &Path) -> bool {
    !recording::is_dash(file) && file.metadata().map_or(true, |it| it.is_file())
}

/// Where learning ends; a part of the span is known once all of it was read.
fn end_of(learn: Learn, file: &Path) -> Result<LearnEnd, Failure> {
    let part = match learn {
        Learn::Until(end) => return Ok(end),
        Learn::Part(part) => part,
    };
    if !is_read_again(file) {
        let dash = recording::is_dash(file);
        let name = if dash { "standard input".to_owned() } else { file.display().to_string() };
        return Err(Failure::Usage(anyhow::anyhow!(
            "a part of {name} is not known before its end: \
             give --learn a duration or a time, or replay a regular file"
        )));
    }
    let mut span = None;
    read(file, |_, flow| {
        if let Ok(flow) = flow {
            span = Some(Span::with(span, flow.at));
        }
    })?;
    let Span { first_seen, last_seen } = span.unwrap_or_default();
    Ok(LearnEnd::of_part(part, first_seen, last_seen))
}

#[derive(Serialize)]
struct Document<'a> {
    alerts: &'a [Alert],
    summary: &'a Summary,
}

fn print(alerts: &[Alert], summary: &Summary, replay: &Replay, out: Out) -> Result<(), Failure> {
    if out.format == Format::Json {
        return out.json(&Document { alerts, summary });
    }
    let mut text = String::new();
    if replay.full {
        for alert in alerts {
            text.push_str(&render::alert(out.screen, alert));
            text.push('\n');
        }
    } else if !alerts.is_empty() {
        text.push_str(&render::alerts(out.screen, alerts));
        text.push('\n');
    }
    text.push_str(&render::rehearsal(out.screen, summary));
    out.text(&text)
}

/// The lines that could not be read.
#[derive(Default)]
struct BadLines {
    count: u64,
    first: Vec<(u64, LineError)>,
}

impl BadLines {
    fn note(&mut self, number: u64, error: LineError) {
        self.count += 1;
        if self.first.len() < TOLD {
            self.first.push((number, error));
        }
    }

    /// Tells them, and fails if there is any.
    fn tell(self, file: &Path, flows: u64) -> Result<(), Failure> {
        let Self { count, first } = self;
        if count == 0 {
            return Ok(());
        }
        let file = file.display();
        let all = grouped(flows + count);
        for (index, (line, error)) in (1_u64..).zip(&first) {
            let index = grouped(index);
            output::say(&format!("{file}:{line}: {error}; line skipped ({index} of {all})"));
        }
        let told = first.len() as u64;
        let more =
            if count > told { format!(", the first {told} are told above") } else { String::new() };
        Err(Failure::Failed(anyhow::anyhow!(
            "{file}: {} of {} skipped{more}",
            grouped(count),
            counted(flows + count, "line")
        )))
    }
}
