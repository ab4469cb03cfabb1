//! `edgewatch policy`: the baseline for those who enforce.

use std::collections::BTreeMap;

use anyhow::anyhow;
use monitor_core::baseline::Phase;
use monitor_core::baseline::document::Document;
use monitor_core::engine::BaselineRow;
use monitor_core::ids::ServiceName;

use crate::baseline_file;
use crate::cli::args::{Policy, Wanted};
use crate::cli::baseline::now;
use crate::cli::{Ending, Failure, Out, output};
use crate::client::Client;
use crate::policy;
use crate::wording::counted;

/// A policy has to be asked for by the name of who reads it.
pub(crate) fn check_format(format: Wanted) -> Result<(), Failure> {
    let what = match format {
        Wanted::Kubernetes => return Ok(()),
        Wanted::Cilium => "--format cilium is not there yet: --format kubernetes is",
        Wanted::Table | Wanted::Json | Wanted::Dot | Wanted::Mermaid | Wanted::Svg => {
            "say for whom the policy is: --format kubernetes"
        }
    };
    Err(Failure::Usage(anyhow!(what)))
}

pub(crate) async fn carry_out(verb: Policy, client: &Client, out: &Out) -> Result<Ending, Failure> {
    let Policy::Export { services, baseline, selector_label } = verb;
    let (document, phases) = match baseline {
        Some(file) => (baseline_file::read(&file)?, BTreeMap::new()),
        None => held(client).await?,
    };
    let wanted =
        policy::Wanted { services: &services, label: &selector_label, now: now(), phases: &phases };
    let export = policy::kubernetes(&document, &wanted)?;
    if export.policies == 0 {
        let which = if services.is_empty() { "" } else { " that matches" };
        let error = anyhow!("the baseline has no Kubernetes workload{which}: no policy to write");
        return Err(Failure::Failed(error));
    }
    out.text(&export.text)?;
    if export.unsaid > 0 {
        let edges = counted(export.unsaid, "edge");
        output::say(&format!("note: {edges} could not be said: look for `not said` in it"));
    }
    Ok(Ending::Done)
}

/// The agent's baseline, and how far each service's learning is.
async fn held(client: &Client) -> Result<(Document, BTreeMap<ServiceName, Phase>), Failure> {
    let document = client.read(client.get("/api/v1/baseline/document").await?)?;
    let rows: Vec<BaselineRow> = client.read(client.get("/api/v1/baseline").await?)?;
    Ok((document, rows.into_iter().map(|row| (row.service, row.phase)).collect()))
}
