//! One decision, carried out in a document instead of the agent. Only in sections that are there: a
//! section with a single edge would guard its service with just that.

use monitor_core::baseline::Grounds;
use monitor_core::baseline::document::{Document, Entry, Line};
use monitor_core::edge::{Edge, EdgeWith, Port};
use monitor_core::ids::ServiceName;

/// What is decided about an edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Approve,
    Forbid,
}

/// A decision with its grounds.
#[derive(Debug, Clone)]
pub struct Edit {
    pub decision: Decision,
    pub edge: EdgeWith,
    pub grounds: Grounds,
}

/// Why a decision cannot be written into the document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    #[error(
        "it has no section for {0}: add it first, for example from `edgewatch baseline export {0}`"
    )]
    NoSection(ServiceName),
    #[error("an edge is forbidden with every executable: leave out `with`")]
    ForbidWith,
}

impl Edit {
    /// Changes the document; tells the edge if an approval took its prohibition away.
    pub(crate) fn apply(&self, document: &mut Document) -> Result<Option<Edge>, EditError> {
        let edge = &self.edge.edge;
        let Some(owner) = edge.services().find(|it| document.services.contains_key(it)) else {
            let owner = edge.owner().or_else(|| edge.server.service());
            return owner.map_or(Ok(None), |owner| Err(EditError::NoSection(owner.clone())));
        };
        let owner = owner.clone();
        let outbound = edge.client.service() == Some(&owner);
        let line = Line {
            to: outbound.then(|| edge.server.clone()),
            from: (!outbound).then(|| edge.client.clone()),
            ports: vec![edge.port],
            by: self.edge.executable.iter().cloned().collect(),
            attempted_only: false,
            until: self.grounds.until,
            approver: self.grounds.approver.clone(),
            reason: self.grounds.reason.clone(),
            evidence: None,
        };
        let Some(entry) = document.services.get_mut(&owner) else {
            return Err(EditError::NoSection(owner));
        };
        match self.decision {
            Decision::Approve => {
                let before = entry.forbidden.clone();
                take_out(&mut entry.forbidden, &line, edge.port);
                let lifted = (entry.forbidden != before).then(|| edge.clone());
                let list = if outbound { &mut entry.outbound } else { &mut entry.inbound };
                put_in(list, line);
                Ok(lifted)
            }
            Decision::Forbid if self.edge.executable.is_some() => Err(EditError::ForbidWith),
            Decision::Forbid => {
                take_out(&mut entry.forbidden, &line, edge.port);
                if line.until.is_none() {
                    let Entry { outbound: to, inbound: from, .. } = entry;
                    take_out(if outbound { to } else { from }, &line, edge.port);
                }
                put_in(&mut entry.forbidden, line);
                Ok(None)
            }
        }
    }
}

/// Takes the port out of every line about the same peer, and the lines that have none left.
fn take_out(lines: &mut Vec<Line>, like: &Line, port: Port) {
    for line in lines.iter_mut().filter(|it| it.to == like.to && it.from == like.from) {
        line.ports.retain(|it| *it != port);
    }
    lines.retain(|it| !it.ports.is_empty());
}

/// Adds a line, or its port to a line that differs in nothing else.
fn put_in(lines: &mut Vec<Line>, line: Line) {
    let same = |it: &&mut Line| {
        let alike = Line { ports: line.ports.clone(), evidence: None, ..(**it).clone() };
        alike == line
    };
    match lines.iter_mut().find(same) {
        Some(known) => {
            known.ports.extend(line.ports);
            known.ports.sort_unstable();
            known.ports.dedup();
        }
        None => lines.push(line),
    }
    lines.sort();
}
