//! What an address or a port is by itself, whoever dials it: inside, the cloud's metadata service, a
//! port that hands out the machine or the cluster.

use std::net::IpAddr;

use crate::attribute::Sighting;
use crate::detect::Kind;
use crate::edge::{Peer, Port};
use crate::flow::Protocol;
use crate::network;

/// What is told of a sighting although nobody's baseline is asked.
pub(crate) fn hard_rule(sighting: &Sighting) -> Option<Kind> {
    let edge = &sighting.edge;
    if edge.opens().is_some() {
        return Some(Kind::RawSocket);
    }
    if edge.is_listener() || edge.port.protocol != Protocol::Tcp {
        return None;
    }
    // Some clouds answer for names (53) at the same address.
    if asks_metadata(sighting) && edge.port.number != 53 {
        return Some(Kind::MetadataAccess);
    }
    sensitive(edge.port).map(|_| Kind::SensitivePort)
}

/// Whether the metadata service is asked, also where a stand-in on this machine answers for it.
pub(crate) fn asks_metadata(sighting: &Sighting) -> bool {
    let dialled = sighting.dialled.map(|to| Peer::Address(to.ip()));
    is_metadata(&sighting.edge.server) || dialled.as_ref().is_some_and(is_metadata)
}

fn is_metadata(server: &Peer) -> bool {
    match server {
        Peer::Address(address) => network::is_metadata(*address),
        Peer::Name(name) => matches!(&**name, "metadata.google.internal" | "instance-data"),
        Peer::Service(_) | Peer::Network(_) | Peer::World | Peer::Socket(_) | Peer::Nobody => false,
    }
}

/// What stands behind a port that hands out more than its own service.
pub(crate) const fn sensitive(port: Port) -> Option<&'static str> {
    match (port.protocol, port.number) {
        (Protocol::Tcp, 2375 | 2376) => Some("the Docker API: whoever reaches it is root"),
        (Protocol::Tcp, 10250 | 10255) => {
            Some("the kubelet's API: it runs commands in every pod of its node")
        }
        (Protocol::Tcp, 2379 | 2380) => Some("etcd: it holds every secret of the cluster"),
        _ => None,
    }
}

pub(crate) fn is_inside(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast()
                || (a == 100 && (64..128).contains(&b))
        }
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || v6.is_unique_local()
                || v6.is_unicast_link_local()
                || v6.is_multicast()
        }
    }
}
