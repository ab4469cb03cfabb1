//! The verbs that say whether the agent could run: `check` looks at what people wrote, `doctor` at
//! the whole machine.

use std::path::Path;

use serde_json::json;

use crate::agent;
use crate::cli::args::{Check, Doctor, Format};
use crate::cli::running::in_file;
use crate::cli::{Ending, Failure, Out, block_on};
use crate::config::Config;
use crate::doctor::{self, Cleaned, Receivers, Subject, Verdict};
use crate::render;
use crate::wording::counted;

/// Everything that can be known without starting anything.
pub(crate) fn check(check: &Check, out: &mut Out) -> Result<Ending, Failure> {
    let config = Config::load(check.config.as_deref())?;
    let found = agent::preflight(&config);
    let found = found.map_err(|error| in_file(check.config.as_deref(), error))?;
    match out.format {
        Format::Json => out.json(&json!({
            "mode": config.mode,
            "kernel": found.kernel,
            "cgroup": found.cgroup,
            "receivers": found.receivers,
            "guarded_by_files": found.written,
            "hidden": found.hidden,
        }))?,
        Format::Table => {
            let warnings: String =
                found.hidden.iter().map(|hidden| format!("warn  {hidden}\n")).collect();
            out.text(&format!(
                "ok    configuration: mode {}, {}, {} guarded by baseline files\n\
             ok    kernel {}\nok    cgroup v2 at {}\n{warnings}",
                config.mode,
                counted(found.receivers.len(), "receiver"),
                counted(found.written, "service"),
                found.kernel,
                found.cgroup
            ))?;
        }
    }
    Ok(Ending::Done)
}

pub(crate) fn doctor(
    doctor: Doctor,
    socket: Option<std::path::PathBuf>,
    out: &mut Out,
) -> Result<Ending, Failure> {
    let config = Config::load(doctor.config.as_deref());
    if doctor.clean {
        return clean(&config?, out);
    }
    let tracing = agent::prepare();
    let file = doctor.config.as_deref().unwrap_or(Path::new(Config::PATH)).to_owned();
    let config = match config {
        // There is nothing to examine of a file that somebody named and that is not there.
        Err(error) if !file.exists() => return Err(error.into()),
        config => config,
    };
    let subject = Subject {
        file,
        config,
        socket,
        state_dir: doctor.state_dir,
        receivers: if doctor.receivers { Receivers::Dialled } else { Receivers::Left },
        tracing,
    };
    block_on(async {
        let report = doctor::examine(&subject).await;
        match out.format {
            Format::Json => out.json(&report)?,
            Format::Table => out.text(&render::report(out.screen, &report))?,
        }
        Ok(match report.count(Verdict::Fail) {
            0 => Ending::Done,
            _ if report.is_mistaken() => Ending::Mistaken,
            _ => Ending::Found,
        })
    })
}

/// Removes what an agent that ended has left.
fn clean(config: &Config, out: &mut Out) -> Result<Ending, Failure> {
    let pins = config.capture.pins.display();
    let cleaned = doctor::clean(config)?;
    let (removed, left) = match &cleaned {
        Cleaned::Nothing(_) => (false, &[][..]),
        Cleaned::Removed { left } => (true, left.as_slice()),
    };
    match out.format {
        Format::Json => {
            out.json(&json!({"pins": pins.to_string(), "removed": removed, "left": left}))?
        }
        Format::Table => {
            let mut text = match &cleaned {
                Cleaned::Nothing(None) => format!("ok    {pins}: nothing is there\n"),
                Cleaned::Nothing(Some(why)) => format!("ok    {pins}: nothing is there ({why})\n"),
                Cleaned::Removed { .. } => {
                    format!("ok    {pins}: removed; nothing of edgewatch is attached from there\n")
                }
            };
            for path in left {
                text += &format!("warn  {}: not edgewatch's, and left\n", path.display());
            }
            out.text(&text)?;
        }
    }
    Ok(Ending::Done)
}
