//! `edgewatch notify`: do messages arrive?

use std::path::Path;

use monitor_core::delivery::Tested;
use serde_json::json;

use crate::agent;
use crate::cli::args::{Format, Notify};
use crate::cli::running::in_file;
use crate::cli::{Ending, Failure, Out, output};
use crate::client::{Client, ClientError};
use crate::config::Config;
use crate::render;

pub(crate) async fn carry_out(
    verb: Notify,
    client: &Client,
    out: &mut Out,
) -> Result<Ending, Failure> {
    let Notify::Test { name, config } = verb;
    let tested = match config {
        Some(file) => here(&file, name.as_deref()).await?,
        None => through(client, name.as_deref()).await?,
    };
    match out.format {
        Format::Json => out.json(&tested)?,
        Format::Table => out.text(&render::tested(out.screen, &tested))?,
    }
    let all = tested.iter().all(|it| it.failure.is_none());
    Ok(if all { Ending::Done } else { Ending::Failed })
}

async fn through(client: &Client, name: Option<&str>) -> Result<Vec<Tested>, Failure> {
    match client.post("/api/v1/notify/test", &json!({"receiver": name})).await {
        Ok(answer) => Ok(client.read(answer)?),
        Err(error) => {
            if matches!(error, ClientError::Nobody(_)) {
                output::say("note: without an agent, name the configuration with --config FILE");
            }
            Err(error.into())
        }
    }
}

async fn here(file: &Path, name: Option<&str>) -> Result<Vec<Tested>, Failure> {
    let config = Config::load(Some(file))?;
    let tested = agent::test_receivers(&config, name).await;
    tested.map_err(|error| in_file(Some(file), error))
}
