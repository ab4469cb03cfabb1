//! What the bench asks of the kernel about its programs: which are loaded and how large they are,
//! that it takes the time of each run, and that there are programs which do nothing. Knows nothing
//! of Edgewatch. What it asked for ends with its standard input.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use aya::sys::Stats;
use serde_json::json;
use tests::kernel::Empty;

const USAGE: &str = "\
programs list                       one JSON object a line, of every program that is loaded
programs timed                      has the kernel take the time of every run
programs empty CGROUP TYPE:HOOK…    attaches empty programs, by `enum bpf_prog_type` and
                                    `enum bpf_attach_type`";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(io::stderr(), "programs: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String]) -> anyhow::Result<()> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["list"] => list(),
        ["timed"] => {
            let timed = aya::sys::enable_stats(Stats::RunTime).context("time the programs")?;
            until_end("timed")?;
            drop(timed);
            Ok(())
        }
        ["empty", cgroup, hooks @ ..] => {
            let cgroup = File::open(cgroup).with_context(|| format!("open {cgroup}"))?;
            let empty = hooks.iter().map(|hook| {
                let (kind, at) = hook.split_once(':').context("no TYPE:HOOK")?;
                Empty::attach(cgroup.as_fd(), kind.parse()?, at.parse()?)
                    .with_context(|| format!("attach an empty program at {hook}"))
            });
            let empty: Vec<Empty> = empty.collect::<anyhow::Result<_>>()?;
            until_end("attached")?;
            drop(empty);
            Ok(())
        }
        _ => bail!("usage:\n{USAGE}"),
    }
}

fn list() -> anyhow::Result<()> {
    for program in aya::programs::loaded_programs() {
        // Unloaded meanwhile.
        let Ok(program) = program else { continue };
        let line = json!({
            "id": program.id(),
            "name": program.name_as_str(),
            "instructions": program.size_translated().map(|bytes| bytes / 8),
        });
        writeln!(io::stdout(), "{line}")?;
    }
    Ok(())
}

/// Says that it stands, and waits for the end of the standard input.
fn until_end(word: &str) -> anyhow::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "{word}").and_then(|()| out.flush())?;
    io::stdin().read_to_end(&mut Vec::new()).map(drop).context("wait for the end")
}
