//! The cluster's API server: whose pods run where, what owns them, who answers for which Service. Each
//! kind of thing is listed in pages once and then watched by a task of its own, from where it was when
//! the connection broke; nothing is asked that [`resource`] does not name, and nothing is written.

mod follow;
mod health;
mod object;
mod owners;
mod pods;
mod resource;
mod services;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use monitor_core::directory::{Fact, Kind, Subject};

use self::follow::{Page, Reader, follow};
use self::health::Health;
use self::owners::Owners;
use self::pods::PodReader;
use self::services::{NodeReader, ServiceReader, SliceReader};
use crate::sources::{Patience, Setting, Telling, random};

/// How the API server is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cluster {
    /// As every pod may: by its service account.
    Within,
    Kubeconfig(PathBuf),
}

/// Where a pod finds its rights.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

impl Cluster {
    /// None where it is not to be asked.
    pub(super) fn of(setting: &Setting) -> Option<Self> {
        let is_pod =
            || std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() && Path::new(TOKEN).exists();
        match setting {
            Setting::Off => None,
            Setting::Auto => is_pod().then_some(Self::Within),
            Setting::Required => Some(Self::Within),
            Setting::At(path) => Some(Self::Kubeconfig(path.clone())),
        }
    }

    async fn client(&self) -> Result<Client, String> {
        let mut config = match self {
            Self::Within => kube::Config::incluster().map_err(|error| {
                format!("the pod's service account cannot be read: {}", follow::innermost(&error))
            })?,
            Self::Kubeconfig(path) => {
                let read = Kubeconfig::read_from(path).map_err(|error| {
                    format!("{} cannot be read: {}", path.display(), follow::innermost(&error))
                })?;
                let options = KubeConfigOptions::default();
                kube::Config::from_custom_kubeconfig(read, &options).await.map_err(|error| {
                    format!("{} cannot be used: {}", path.display(), follow::innermost(&error))
                })?
            }
        };
        // Every follower has its own patience.
        config.default_retry = false;
        Client::try_from(config).map_err(|error| follow::innermost(&error))
    }
}

/// Asks until nobody listens any more. `node` is this one's name.
pub(super) async fn ask(telling: Telling, cluster: Cluster, node: Arc<str>) {
    let mut patience = Patience::new();
    let client = loop {
        match cluster.client().await {
            Ok(client) => break client,
            Err(why) => {
                if telling.tell(Fact::Away(telling.source, why)).await.is_err() {
                    return;
                }
                tokio::time::sleep(patience.take(random())).await;
            }
        }
    };
    let health = Health::new(telling);
    let pods = PodReader { owners: Owners::new(client.clone()), node };
    // The first to find that nobody listens ends the others.
    tokio::select! {
        _unheard = follow(&client, &health, pods) => {}
        _unheard = follow(&client, &health, ServiceReader) => {}
        _unheard = follow(&client, &health, SliceReader) => {}
        _unheard = follow(&client, &health, NodeReader) => {}
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
