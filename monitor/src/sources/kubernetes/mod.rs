//! The cluster's API server: whose pods run where, what owns them, who answers for which Service. Each
//! kind of thing is listed in pages once and then watched by a task of its own, from where it was when
//! the connection broke; nothing is asked that [`resource`] does not name, and nothing is written.

mod connection;
mod follow;
mod health;
mod object;
mod owners;
mod pods;
mod resource;
mod rights;
mod services;

use std::sync::Arc;

use monitor_core::directory::{Kind, Subject};

use self::connection::Connection;
use self::follow::{Page, Reader, follow};
use self::health::Health;
use self::owners::Owners;
use self::pods::PodReader;
use self::services::{NodeReader, ServiceReader, SliceReader};
use crate::sources::Telling;

pub(super) use self::connection::Cluster;
pub use self::rights::Reached;
pub(super) use self::rights::reach;

/// Asks until nobody listens any more. `node` is this one's name.
pub(super) async fn ask(telling: Telling, cluster: Cluster, node: Arc<str>) {
    let connection = Connection::new(cluster);
    let health = Health::new(telling);
    let pods = PodReader { owners: Owners::new(&connection, &health), node };
    // The first to find that nobody listens ends the others.
    tokio::select! {
        _unheard = follow(&connection, &health, pods) => {}
        _unheard = follow(&connection, &health, ServiceReader) => {}
        _unheard = follow(&connection, &health, SliceReader) => {}
        _unheard = follow(&connection, &health, NodeReader) => {}
    }
}

/// What an object is told as, or each of a list of them, and the id by which it would be told gone. Of a
/// pod that nobody else tells the owner of.
pub(super) fn subjects(kind: Kind, text: &[u8]) -> Vec<(Arc<str>, Option<Subject>)> {
    fn told<R: Reader>(
        text: &[u8],
        subject: impl Fn(R::Object) -> Option<Subject>,
    ) -> Vec<(Arc<str>, Option<Subject>)> {
        let page = || serde_json::from_slice::<Page<R::Object>>(text).ok()?.items;
        let one = serde_json::from_slice::<R::Object>(text).ok();
        let all = page().unwrap_or_default().into_iter().chain(one);
        all.map(|object| (R::id(&object), subject(object))).collect()
    }
    match kind {
        Kind::Pod => told::<PodReader>(text, |pod| {
            let owner = pod.owner_by_name();
            Some(Subject::Pod(pod.told(&owner, HERE)))
        }),
        Kind::Service => {
            told::<ServiceReader>(text, |service| Some(Subject::Service(service.told())))
        }
        Kind::Endpoints => told::<SliceReader>(text, |slice| slice.told().map(Subject::Endpoints)),
        Kind::Node => told::<NodeReader>(text, |node| Some(Subject::Node(node.told()))),
        Kind::Container => Vec::new(),
    }
}

/// The node of those that are tried out.
const HERE: &str = "n1";

#[cfg(test)]
mod tests;
