//! Where each service's dials have ended: says whom a dial means that nobody answers, while a server
//! of this machine restarts or is down. Trusts no address for more than that: what was established
//! is named by its two ends alone.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::edge::Edge;
use crate::flow::Protocol;
use crate::ids::ServiceName;

/// The edges that were reached, by the client and what it dialled. Bounded by [`History::BOUND`]; a
/// full one starts anew, which costs names and never invents one.
#[derive(Debug, Default)]
pub(crate) struct History {
    reached: BTreeMap<(ServiceName, Protocol, SocketAddr), Edge>,
}

impl History {
    const BOUND: usize = 65_536;

    /// Remembers that dialling `dialled` was `edge`.
    pub(crate) fn remember(&mut self, edge: &Edge, dialled: SocketAddr) {
        let (Some(client), Some(_)) = (edge.client.service(), edge.server.service()) else {
            return;
        };
        if edge.is_provisional() {
            return;
        }
        if self.reached.len() >= Self::BOUND {
            self.reached.clear();
        }
        self.reached.insert((client.clone(), edge.port.protocol, dialled), edge.clone());
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
}
