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

use self::connection::Connection;
use self::follow::follow;
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
    if telling.begins().await.is_err() {
        return;
    }
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

#[cfg(test)]
mod tests;
