//! How verbs ask a running agent, and those of them that change nothing.

use monitor_core::engine::{AuditEntry, EdgeView, ServiceView, Status};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::cli::args::{Audit, Format, Map};
use crate::cli::{Ending, Failure, Out};
use crate::client::Client;
use crate::picture::{self, Language};
use crate::render::{self, Screen};

/// Asks for `path` and prints the answer: as it came for programs, as `table` for people.
pub(crate) async fn ask<T: DeserializeOwned>(
    client: &Client,
    path: &str,
    out: &mut Out,
    table: impl FnOnce(Screen, &T) -> String,
) -> Result<T, Failure> {
    let answer = client.get(path).await?;
    print(client, answer, out, table)
}

/// Tells `path` of `body`, and prints the answer in the same way.
pub(crate) async fn tell<T: DeserializeOwned>(
    client: &Client,
    path: &str,
    body: &impl Serialize,
    out: &mut Out,
    table: impl FnOnce(Screen, &T) -> String,
) -> Result<T, Failure> {
    let answer = client.post(path, body).await?;
    print(client, answer, out, table)
}

fn print<T: DeserializeOwned>(
    client: &Client,
    answer: Value,
    out: &mut Out,
    table: impl FnOnce(Screen, &T) -> String,
) -> Result<T, Failure> {
    if out.format == Format::Json {
        out.json(&answer)?;
        return Ok(client.read(answer)?);
    }
    let value = client.read(answer)?;
    out.text(&table(out.screen, &value))?;
    Ok(value)
}

/// The map, or the part of it that `--focus` names, as it is asked for.
pub(crate) async fn map(
    map: &Map,
    drawn: Option<Language>,
    client: &Client,
    out: &mut Out,
) -> Result<Ending, Failure> {
    if drawn.is_none() && !map.expand.is_empty() {
        let what = "--expand is for pictures: --format svg, mermaid or dot";
        return Err(Failure::Usage(anyhow::anyhow!(what)));
    }
    let mut views: Vec<EdgeView> = client.read(client.get("/api/v1/map").await?)?;
    if !map.focus.is_empty() {
        views.retain(|view| {
            let ends = [view.edge.client.to_string(), view.edge.server.to_string()];
            ends.iter().any(|end| map.focus.iter().any(|pattern| pattern.matches(end)))
        });
    }
    match (drawn, out.format) {
        (Some(language), _) => out.text(&picture::draw(&views, language, &map.expand)?)?,
        (None, Format::Json) => out.json(&views)?,
        (None, Format::Table) => out.text(&render::map(out.screen, &views))?,
    }
    Ok(Ending::Done)
}

pub(crate) async fn services(client: &Client, out: &mut Out) -> Result<Ending, Failure> {
    let table = |screen, views: &Vec<ServiceView>| render::services(screen, views);
    ask(client, "/api/v1/services", out, table).await?;
    Ok(Ending::Done)
}

pub(crate) async fn status(client: &Client, out: &mut Out) -> Result<Ending, Failure> {
    ask(client, "/api/v1/status", out, |screen, it: &Status| render::status(screen, it)).await?;
    Ok(Ending::Done)
}

pub(crate) async fn audit(
    audit: &Audit,
    client: &Client,
    out: &mut Out,
) -> Result<Ending, Failure> {
    let path = format!("/api/v1/audit?limit={}", audit.limit);
    let table = |screen, entries: &Vec<AuditEntry>| render::audit(screen, entries);
    ask(client, &path, out, table).await?;
    Ok(Ending::Done)
}
