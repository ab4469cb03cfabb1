//! One decision, carried out in a document instead of the agent. Only in sections that are there: a
//! section with a single edge would guard its service with just that.

use monitor_core::baseline::Grounds;
use monitor_core::baseline::document::{Document, Line, List};
use monitor_core::edge::{Edge, EdgeWith};
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
    #[error("it stays as it is: nobody could read what it would become: {0}")]
    Unreadable(String),
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
        let list = List::of(edge, &owner);
        let line = Line {
            by: self.edge.executable.iter().cloned().collect(),
            ..Line::about(edge, &owner, &self.grounds)
        };
        let Some(entry) = document.services.get_mut(&owner) else {
            return Err(EditError::NoSection(owner));
        };
        match self.decision {
            Decision::Approve => {
                let before = entry.forbidden.clone();
                take_out(&mut entry.forbidden, &line);
                let lifted = (entry.forbidden != before).then(|| edge.clone());
                put_in(entry.list_mut(list), line);
                Ok(lifted)
            }
            Decision::Forbid if self.edge.executable.is_some() => Err(EditError::ForbidWith),
            Decision::Forbid => {
                take_out(&mut entry.forbidden, &line);
                if line.until.is_none() {
                    take_out(entry.list_mut(list), &line);
                }
                put_in(&mut entry.forbidden, line);
                Ok(None)
            }
        }
    }
}

/// Takes the port, or the socket, out of every line about the same peer, and the lines that have none
/// left.
fn take_out(lines: &mut Vec<Line>, like: &Line) {
    for line in lines.iter_mut().filter(|it| it.to == like.to && it.from == like.from) {
        line.ports.retain(|it| !like.ports.contains(it));
        line.sockets.retain(|it| !like.sockets.contains(it));
    }
    lines.retain(|it| !it.ports.is_empty() || !it.sockets.is_empty());
}

/// Adds a line, or its port or socket to a line that differs in nothing else.
fn put_in(lines: &mut Vec<Line>, line: Line) {
    let same = |it: &&mut Line| {
        let (ports, sockets) = (line.ports.clone(), line.sockets.clone());
        let alike = Line { ports, sockets, evidence: None, ..(**it).clone() };
        alike == line && it.sockets.is_empty() == line.sockets.is_empty()
    };
    match lines.iter_mut().find(same) {
        Some(known) => {
            known.ports.extend(line.ports);
            known.ports.sort_unstable();
            known.ports.dedup();
            known.sockets.extend(line.sockets);
            known.sockets.sort_unstable();
            known.sockets.dedup();
        }
        None => lines.push(line),
    }
    lines.sort();
}
