//! Where each service's dials have ended: says whom a dial means that nobody answers, while a server
//! of this machine restarts or is down. Trusts no address for more than that: what was established
//! is named by its two ends alone.

use std::net::SocketAddr;

use crate::attribute::shares::Shares;
use crate::edge::Edge;
use crate::flow::Protocol;
use crate::ids::ServiceName;

/// The edges that were reached, by the client and what it dialled. What is forgotten costs names and
/// never invents one.
#[derive(Debug, Default)]
pub(crate) struct History {
    reached: Shares<ServiceName, (ServiceName, Protocol, SocketAddr), Edge>,
}

impl History {
    /// Remembers that dialling `dialled` was `edge`.
    pub(crate) fn remember(&mut self, edge: &Edge, dialled: SocketAddr) {
        let (Some(client), Some(_)) = (edge.client.service(), edge.server.service()) else {
            return;
        };
        self.reached.insert(
            client.clone(),
            (client.clone(), edge.port.protocol, dialled),
            edge.clone(),
        );
    }

    /// The edge that `client` last meant by dialling this.
    pub(crate) fn edge_of(
        &self,
        client: &ServiceName,
        protocol: Protocol,
        dialled: SocketAddr,
    ) -> Option<&Edge> {
        self.reached.get(&(client.clone(), protocol, dialled))
    }

    /// Calls a service by its new name.
    pub(crate) fn rename(&mut self, from: &ServiceName, to: &ServiceName) {
        let concerns = |edge: &Edge| edge.services().any(|it| it == from);
        let old = self.reached.range(..).filter(|(_, edge)| concerns(edge));
        let old: Vec<_> = old.map(|(key, edge)| (key.2, edge.clone())).collect();
        if old.is_empty() {
            return;
        }
        self.reached.retain(|edge| !concerns(edge));
        for (dialled, mut edge) in old {
            edge.rename(from, to);
            self.remember(&edge, dialled);
        }
    }
}
