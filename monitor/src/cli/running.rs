//! The verbs that look at the machine until they are asked to end: `run`, the agent, and those that
//! keep no state, `watch` and `record`.

use std::io::{self, IsTerminal as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use monitor_core::edge::Peer;
use monitor_core::engine::EdgeView;
use serde_json::{Value, json};
use tracing_subscriber::EnvFilter;

use crate::agent::{
    self, NotifyError, RecordOptions, Recorded, RunOptions, Tell, Told, WatchOptions,
};
use crate::cli::args::{Format, Record, Run, Watch};
use crate::cli::{Ending, Failure, Out, output};
use crate::config::Config;
use crate::recording::{self, Existing};
use crate::render::{self, Colour};
use crate::wording::{counted, grouped};

pub(crate) fn run(run: Run, socket: Option<PathBuf>, out: Out) -> Result<Ending, Failure> {
    agent::prepare();
    let mut config = Config::load(run.config.as_deref())?;
    config.mode = run.mode.unwrap_or(config.mode);
    config.state_dir = run.state_dir.unwrap_or(config.state_dir);
    config.node = run.node.or(config.node);
    config.serve.socket = socket.unwrap_or(config.serve.socket);
    // Who watches it ends it by hand, and wants nothing left.
    config.capture.pin &= !run.show;
    log(if run.show { "warn" } else { "info" }, out);
    let options = RunOptions { tell: run.show.then(|| tell(out)) };
    let ended = runtime()?.block_on(agent::run(config, options));
    ended.map_err(|error| in_file(run.config.as_deref(), error))?;
    Ok(Ending::Done)
}

pub(crate) fn watch(watch: Watch, out: Out) -> Result<Ending, Failure> {
    agent::prepare();
    let config = Config::load(watch.config.as_deref())?;
    log("warn", out);
    let duration = watch.duration.map(crate::config::Period::get);
    runtime()?.block_on(agent::watch(config, WatchOptions { duration, tell: tell(out) }))?;
    Ok(Ending::Done)
}

pub(crate) fn record(record: Record, out: Out) -> Result<Ending, Failure> {
    agent::prepare();
    let config = Config::load(record.config.as_deref())?;
    log("warn", out);
    let name = if recording::is_dash(&record.file) {
        "standard output".to_owned()
    } else {
        record.file.display().to_string()
    };
    let options = RecordOptions {
        file: record.file,
        existing: if record.append { Existing::Continued } else { Existing::Refused },
        duration: record.duration.map(crate::config::Period::get),
        say: Box::new(|line| output::say(&format!("edgewatch: {line}"))),
    };
    let Recorded { lines, connections, lost, detached } =
        runtime()?.block_on(agent::record(config, options))?;
    let lost: Vec<String> =
        lost.iter().map(|(loss, count)| format!("{loss} {}", grouped(*count))).collect();
    let lost = if lost.is_empty() { "nothing".to_owned() } else { lost.join(", ") };
    output::say(&format!(
        "edgewatch: {} of {} to {name}; lost: {lost}",
        counted(lines, "line"),
        counted(connections, "connection")
    ));
    for program in detached {
        output::say(&format!(
            "edgewatch: {program} was detached by somebody: what it sees is missing since"
        ));
    }
    Ok(Ending::Done)
}

/// A receiver that cannot work is a mistake in the file that names it.
pub(crate) fn in_file(named: Option<&Path>, error: anyhow::Error) -> Failure {
    if error.is::<NotifyError>() {
        let file = named.unwrap_or(Path::new(Config::PATH)).display().to_string();
        return Failure::Usage(error.context(file));
    }
    error.into()
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build()
}

/// Logs go to stderr, as events for an operator.
fn log(level: &str, out: Out) {
    let filter = EnvFilter::try_from_env("EDGEWATCH_LOG").unwrap_or_else(|_| level.into());
    let colours = io::stderr().is_terminal() && out.screen.colour == Colour::On;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(colours);
    // Fails only where a test has set one already.
    drop(subscriber.try_init());
}

/// Prints what the agent tells, as it tells it. When nobody reads any more, asks it to end.
fn tell(out: Out) -> Tell {
    let mut headed = false;
    Box::new(move |told| {
        let printed = match out.format {
            Format::Json => tell_program(out, told),
            Format::Table => tell_person(out, told, &mut headed),
        };
        if printed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })
}

fn tell_program(out: Out, told: Told) -> Result<(), Failure> {
    match told {
        Told::Ready(_) => Ok(()),
        Told::Edge(view) => out.json_line(&seen(&view)?),
        Told::Alert(alert) => out.json_line(&alert),
        Told::Warning(text) => warn(&text),
    }
}

fn warn(text: &str) -> Result<(), Failure> {
    output::say(&format!("edgewatch: {text}"));
    Ok(())
}

/// What was seen, as a line of JSON: an edge, or what is none.
fn seen(view: &EdgeView) -> serde_json::Result<Value> {
    let mut line = serde_json::to_value(view)?;
    if let Value::Object(fields) = &mut line {
        // Whether it is allowed is a question to a baseline; here it is only seen.
        fields.remove("standing");
        let edge = &view.edge;
        if edge.client.is_nobody() {
            for of_edges in ["edge", "outcome", "seen_from"] {
                fields.remove(of_edges);
            }
            let socket = json!({"service": edge.server, "listens": edge.port()});
            fields.insert("socket".to_owned(), socket);
        } else if let Peer::Socket(socket) = edge.server {
            for of_edges in ["edge", "outcome", "seen_from"] {
                fields.remove(of_edges);
            }
            let socket = json!({"service": edge.client, "opens": socket});
            fields.insert("socket".to_owned(), socket);
        }
    }
    Ok(line)
}

fn tell_person(out: Out, told: Told, headed: &mut bool) -> Result<(), Failure> {
    match told {
        Told::Ready(text) => out.text(&format!("edgewatch: {}\n\n", text.trim_end())),
        // People asked for edges: the listeners of a whole machine would push them off the screen.
        Told::Edge(view) if view.edge.client.is_nobody() => Ok(()),
        Told::Edge(view) => {
            if !std::mem::replace(headed, true) {
                out.text(&format!("{}\n", render::edge_head(out.screen)))?;
            }
            out.text(&format!("{}\n", render::edge_line(out.screen, &view)))
        }
        Told::Alert(alert) => out.text(&format!("\n{}\n", render::alert(out.screen, &alert))),
        Told::Warning(text) => warn(&text),
    }
}
