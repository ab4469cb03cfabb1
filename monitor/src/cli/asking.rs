//! The verbs that ask a running agent and change nothing.

use monitor_core::engine::{AuditEntry, EdgeView, ServiceView, Status};
use serde::de::DeserializeOwned;

use crate::cli::args::{Audit, Format};
use crate::cli::{Ending, Failure, Out};
use crate::client::Client;
use crate::render::{self, Screen};

/// Asks for `path` and prints the answer: as it came for programs, as `table` for people.
pub(crate) async fn ask<T: DeserializeOwned>(
    client: &Client,
    path: &str,
    out: &mut Out,
    table: impl FnOnce(Screen, &T) -> String,
) -> Result<T, Failure> {
    let answer = client.get(path).await?;
    if out.format == Format::Json {
        out.json(&answer)?;
        return Ok(client.read(answer)?);
    }
    let value = client.read(answer)?;
    out.text(&table(out.screen, &value))?;
    Ok(value)
}

pub(crate) async fn map(client: &Client, out: &mut Out) -> Result<Ending, Failure> {
    let table = |screen, views: &Vec<EdgeView>| render::map(screen, views);
    ask(client, "/api/v1/map", out, table).await?;
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
