//! `edgewatch baseline`: the decisions, and the files they are reviewed in.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use monitor_core::baseline::Grounds;
use monitor_core::baseline::document::Document;
use monitor_core::engine::{BaselineRow, Command, Difference, Guarding, Reply};
use monitor_core::ids::WallTime;
use monitor_core::pattern::Pattern;

use crate::baseline_file::{self, Decision, Edit};
use crate::cli::args::{Baseline, Decide, Format};
use crate::cli::asking::{ask, tell};
use crate::cli::{Ending, Failure, Out, output};
use crate::client::Client;
use crate::render;
use crate::wording::counted;

pub(crate) const COMMANDS: &str = "/api/v1/commands";

pub(crate) async fn carry_out(
    verb: Baseline,
    client: &Client,
    out: &mut Out,
) -> Result<Ending, Failure> {
    match verb {
        Baseline::Status => {
            let table = |screen, rows: &Vec<BaselineRow>| render::baseline_rows(screen, rows);
            ask(client, "/api/v1/baseline", out, table).await?;
        }
        Baseline::Show { services } => {
            let text = |_, document: &Document| baseline_file::to_text(document);
            ask(client, &document_path(&services), out, text).await?;
        }
        Baseline::Diff { file: None } => return undecided(client, out).await,
        Baseline::Diff { file: Some(file) } => return difference(&file, client, out).await,
        Baseline::Approve(decide) => approve(decide, client, out).await?,
        Baseline::Forbid(decide) => forbid(decide, client, out).await?,
        Baseline::Guard(which) => {
            let command = Command::Guard { services: which.selection() };
            decided("guarded", &command, client, out).await?;
        }
        Baseline::Learn { which, duration } => {
            let for_s = duration.map(|it| it.get().as_secs());
            let verb = if for_s.is_some() { "opened" } else { "back to learning:" };
            let command = Command::Learn { services: which.selection(), for_s };
            decided(verb, &command, client, out).await?;
        }
        Baseline::Export { services, with_evidence, output } => {
            let evidence = if with_evidence { "evidence=true" } else { "" };
            let path = format!("{}{evidence}", document_path(&services));
            export(&path, output.as_deref(), client, out).await?;
        }
        Baseline::Import { file, guard } => {
            let document = baseline_file::read(&file)?;
            let guard = if guard { Guarding::Guarded } else { Guarding::Proposed };
            let verb = match guard {
                Guarding::Guarded => "imported and guarded",
                Guarding::Proposed => "imported",
            };
            decided(verb, &Command::Import { document, guard }, client, out).await?;
        }
    }
    Ok(Ending::Done)
}

/// `/api/v1/baseline/document?service=A&service=B&`: names are safe text but for `%` and `+`.
fn document_path(services: &[Pattern]) -> String {
    let mut path = String::from("/api/v1/baseline/document?");
    for service in services {
        let encoded = service.to_string().replace('%', "%25").replace('+', "%2B");
        path.push_str(&format!("service={encoded}&"));
    }
    path
}

async fn undecided(client: &Client, out: &mut Out) -> Result<Ending, Failure> {
    let table = |screen, it: &Vec<Difference>| render::undecided(screen, it);
    let found = ask(client, "/api/v1/baseline/undecided", out, table).await?;
    Ok(if found.is_empty() { Ending::Done } else { Ending::Found })
}

async fn difference(file: &Path, client: &Client, out: &mut Out) -> Result<Ending, Failure> {
    let document = baseline_file::read(file)?;
    let table = |screen, reply: &Reply| render::reply(screen, "", reply);
    let reply = tell(client, "/api/v1/baseline/difference", &document, out, table).await?;
    let same = reply.added.is_empty()
        && reply.removed.is_empty()
        && reply.forbidden.is_empty()
        && reply.no_longer_forbidden.is_empty();
    Ok(if same { Ending::Done } else { Ending::Found })
}

async fn export(
    path: &str,
    output: Option<&Path>,
    client: &Client,
    out: &mut Out,
) -> Result<(), Failure> {
    let Some(file) = output else {
        let text = |_, document: &Document| baseline_file::to_text(document);
        ask(client, path, out, text).await?;
        return Ok(());
    };
    let document: Document = client.read(client.get(path).await?)?;
    // Here the file is the product: if it cannot be written, the verb failed.
    baseline_file::write(file, &document).map_err(|error| Failure::Failed(error.into()))?;
    Ok(())
}

async fn approve(decide: Decide, client: &Client, out: &mut Out) -> Result<(), Failure> {
    if let Some(file) = &decide.file {
        return edit(file, Decision::Approve, &decide, out);
    }
    let (ttl_s, grounds) = (decide.ttl.map(|it| it.get().as_secs()), grounds(&decide));
    let command = Command::Approve { edge: decide.edge, ttl_s, grounds };
    decided("", &command, client, out).await
}

async fn forbid(decide: Decide, client: &Client, out: &mut Out) -> Result<(), Failure> {
    if let Some(file) = &decide.file {
        return edit(file, Decision::Forbid, &decide, out);
    }
    if decide.edge.executable.is_some() {
        let what = "an edge is forbidden with every executable: leave out `with`";
        return Err(Failure::Usage(anyhow::anyhow!(what)));
    }
    let (ttl_s, grounds) = (decide.ttl.map(|it| it.get().as_secs()), grounds(&decide));
    let command = Command::Forbid { edge: decide.edge.edge, ttl_s, grounds };
    decided("", &command, client, out).await
}

/// Who and why, as far as the command line or the environment says.
fn grounds(decide: &Decide) -> Grounds {
    let approver = approver(decide.approver.clone());
    Grounds { until: None, approver, reason: decide.reason.clone() }
}

/// Whoever is named, else whoever is at the keyboard.
pub(crate) fn approver(named: Option<String>) -> Option<String> {
    let user = |name| std::env::var(name).ok().filter(|user| !user.is_empty());
    named.or_else(|| user("SUDO_USER")).or_else(|| user("USER"))
}

fn edit(file: &Path, decision: Decision, decide: &Decide, out: &mut Out) -> Result<(), Failure> {
    let ttl = decide.ttl.map(|it| i64::try_from(it.get().as_secs()).unwrap_or(i64::MAX));
    let grounds = Grounds { until: ttl.map(|ttl| now().plus_seconds(ttl)), ..grounds(decide) };
    let edit = Edit { decision, edge: decide.edge.clone(), grounds };
    let edited = baseline_file::edit(file, &edit)?;
    let mut reply = Reply::default();
    match decision {
        Decision::Approve => {
            reply.added.push(decide.edge.clone());
            reply.no_longer_forbidden.extend(edited.lifted.clone());
        }
        Decision::Forbid => reply.forbidden.push(decide.edge.edge.clone()),
    }
    match out.format {
        Format::Json => out.json(&reply)?,
        Format::Table => out.text(&render::reply(out.screen, "", &reply))?,
    }
    if edited.comments_lost > 0 {
        let lost = counted(edited.comments_lost, "line");
        let file = file.display();
        output::say(&format!("note: {lost} of {file} had comments, which are lost"));
    }
    Ok(())
}

/// Sends a decision and prints what it changed.
async fn decided(
    verb: &str,
    command: &Command,
    client: &Client,
    out: &mut Out,
) -> Result<(), Failure> {
    let table = |screen, reply: &Reply| render::reply(screen, verb, reply);
    tell(client, COMMANDS, command, out, table).await?;
    Ok(())
}

/// The time, to the second: what is written into files is read by people.
pub(crate) fn now() -> WallTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallTime(0).plus_seconds(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
