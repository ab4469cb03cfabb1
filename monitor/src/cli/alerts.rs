//! `edgewatch alerts`: what was alerted, what is muted.

use std::time::Duration;

use monitor_core::engine::{Command, MuteView, Reply};
use monitor_core::incident::Alert;
use serde_json::Value;

use crate::cli::args::{Alerts, AlertsVerb, Format};
use crate::cli::asking::{ask, tell};
use crate::cli::baseline::{COMMANDS, approver};
use crate::cli::{Ending, Failure, Out, output};
use crate::client::{Client, Lines};
use crate::render;
use crate::wording::counted;

const ALERTS: &str = "/api/v1/alerts";
const FOLLOW: &str = "/api/v1/alerts/follow";
/// An agent that ended is looked for this often.
const AGAIN: Duration = Duration::from_secs(1);

pub(crate) async fn carry_out(
    alerts: Alerts,
    client: &Client,
    out: &mut Out,
) -> Result<Ending, Failure> {
    match alerts.verb {
        None | Some(AlertsVerb::List) => {
            let table = |screen, alerts: &Vec<Alert>| render::alerts(screen, alerts);
            ask(client, ALERTS, out, table).await?;
        }
        Some(AlertsVerb::Show { id }) => show(&id, client, out).await?,
        Some(AlertsVerb::Follow) => {
            tokio::select! {
                followed = follow(client, *out) => followed?,
                asked = tokio::signal::ctrl_c() => asked?,
            }
        }
        Some(AlertsVerb::Mute { services, duration, reason, approver: named }) => {
            let for_s = duration.get().as_secs();
            let said = format!("muted {services}");
            let command = Command::Mute { services, for_s, approver: approver(named), reason };
            decided(&said, &command, client, out).await?;
        }
        Some(AlertsVerb::Unmute { services }) => {
            let said = format!("no longer muted: {services}");
            decided(&said, &Command::Unmute { services }, client, out).await?;
        }
        Some(AlertsVerb::Mutes) => {
            let table = |screen, mutes: &Vec<MuteView>| render::mutes(screen, mutes);
            ask(client, "/api/v1/mutes", out, table).await?;
        }
    }
    Ok(Ending::Done)
}

async fn decided(
    said: &str,
    command: &Command,
    client: &Client,
    out: &mut Out,
) -> Result<(), Failure> {
    let table = |screen, reply: &Reply| {
        if reply.services.is_empty() {
            return format!("{said}\n{}", render::reply(screen, "", reply));
        }
        render::reply(screen, &format!("{said}:"), reply)
    };
    tell(client, COMMANDS, command, out, table).await?;
    Ok(())
}

async fn show(id: &str, client: &Client, out: &mut Out) -> Result<(), Failure> {
    let alert: Alert = client.read(client.get(&format!("{ALERTS}/{id}")).await?)?;
    match out.format {
        Format::Json => out.json(&alert),
        Format::Table => out.text(&render::whole_alert(out.screen, &alert)),
    }
}

/// Prints messages as they come. An agent that ends is waited for: whoever follows wants to know when
/// it is back.
async fn follow(client: &Client, out: Out) -> Result<(), Failure> {
    let mut lines = client.follow(FOLLOW).await?;
    if out.format == Format::Table {
        out.text(&format!("{}\n", render::alert_head(out.screen)))?;
    }
    loop {
        match lines.next().await? {
            Some(line) => heard(client, out, line)?,
            None => {
                output::say("edgewatch: the agent has ended; waiting for it, Ctrl-C ends");
                lines = again(client).await;
                output::say(
                    "edgewatch: the agent is back; `edgewatch alerts` lists what came meanwhile",
                );
            }
        }
    }
}

async fn again(client: &Client) -> Lines {
    loop {
        tokio::time::sleep(AGAIN).await;
        if let Ok(lines) = client.follow(FOLLOW).await {
            return lines;
        }
    }
}

fn heard(client: &Client, out: Out, line: Value) -> Result<(), Failure> {
    if let Some(missed) = line.get("missed").and_then(Value::as_u64) {
        let were = if missed == 1 { "was" } else { "were" };
        output::say(&format!(
            "edgewatch: {} {were} not shown, the reader is slow: `edgewatch alerts` lists them",
            counted(missed, "alert")
        ));
        return Ok(());
    }
    if out.format == Format::Json {
        return out.json_line(&line);
    }
    let alert: Alert = client.read(line)?;
    out.text(&format!("{}\n", render::alert_line(out.screen, &alert)))
}
