//! What owns the ReplicaSets and Jobs that own pods. Listed once with every whole list of pods, by their
//! metadata alone, and asked for one by one as new ones turn up: watching them would tell every node of
//! every step of every rollout.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use kube::api::{GetParams, ListParams};
use kube::core::Request;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::sources::Unheard;
use crate::sources::kubernetes::connection::Connection;
use crate::sources::kubernetes::follow::{Page, innermost};
use crate::sources::kubernetes::health::{Health, Owned};
use crate::sources::kubernetes::object::{Meta, Metadata, OwnerReference};
use crate::sources::kubernetes::resource::{JOBS, REPLICA_SETS, Resource};

/// An owner that is not told by then is called by what its own name says.
const ANSWER: Duration = Duration::from_secs(5);
const LIST_ANSWER: Duration = Duration::from_secs(30);
/// ReplicaSets and Jobs remembered.
const KNOWN: usize = 32_768;
const PAGE: u32 = 500;

/// A workload within its namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) kind: Arc<str>,
    pub(super) name: Arc<str>,
}

impl Owner {
    pub(super) fn new(kind: &str, name: &str) -> Self {
        Self { kind: kind.into(), name: name.into() }
    }

    /// What a pod belongs to by what it says itself.
    pub(super) fn by_name(pod: &Meta) -> Self {
        let hash = pod.labels.as_ref().and_then(|it| it.hash.as_deref());
        pod.controller().map_or_else(|| Self::new("Pod", &pod.name), |direct| by_name(direct, hash))
    }
}

#[derive(Debug)]
struct Known {
    owner: Owner,
    /// A pod of it was seen.
    used: bool,
}

pub(super) struct Owners<'a> {
    connection: &'a Connection,
    health: &'a Health,
    /// By the uid of the ReplicaSet or Job.
    known: BTreeMap<Arc<str>, Known>,
}

impl<'a> Owners<'a> {
    pub(super) const fn new(connection: &'a Connection, health: &'a Health) -> Self {
        Self { connection, health, known: BTreeMap::new() }
    }

    /// Takes up what is there now. What cannot be listed is asked for one by one.
    pub(super) async fn list(&mut self) -> Result<(), Unheard> {
        self.known.clear();
        let Ok(client) = self.connection.client().await else { return Ok(()) };
        for (resource, what) in [(&REPLICA_SETS, "list replicasets"), (&JOBS, "list jobs")] {
            let listed = self.list_of(&client, resource).await;
            self.note(what, &listed).await?;
        }
        // Nothing may be to be asked for by itself for long: it is told again where it is refused again.
        for what in ["get replicasets", "get jobs"] {
            self.health.owners(what, Owned::Told).await?;
        }
        Ok(())
    }

    async fn list_of(
        &mut self,
        client: &Client,
        resource: &'static Resource,
    ) -> Result<(), Untold> {
        let mut parameters = ListParams::default().limit(PAGE);
        while self.known.len() < KNOWN {
            let request = Request::new(resource.path(None)).list_metadata(&parameters);
            let page: Page<Metadata> = fetched(client, request, LIST_ANSWER).await?;
            for found in page.items.unwrap_or_default() {
                let owner = owner_of(resource, &found.metadata);
                self.known.insert(found.metadata.uid.into(), Known { owner, used: false });
            }
            match page.metadata.r#continue.filter(|it| !it.is_empty()) {
                Some(next) => parameters.continue_token = Some(next),
                None => break,
            }
        }
        Ok(())
    }

    /// Notes whether the role lacks something: what else goes wrong says nothing of that.
    async fn note<T>(&self, what: &'static str, asked: &Result<T, Untold>) -> Result<(), Unheard> {
        match asked {
            Ok(_) | Err(Untold::NotFound) => self.health.owners(what, Owned::Told).await,
            Err(Untold::Refused) => self.health.owners(what, Owned::Refused).await,
            Err(Untold::Why(why)) => {
                tracing::debug!(why, "the API server was asked to {what}");
                Ok(())
            }
        }
    }

    /// Forgets those of which no pod was seen.
    pub(super) fn forget_unused(&mut self) {
        self.known.retain(|_, it| it.used);
    }

    /// What a pod belongs to in the end.
    pub(super) async fn of(&mut self, pod: &Meta) -> Result<Owner, Unheard> {
        let Some(direct) = pod.controller() else { return Ok(Owner::new("Pod", &pod.name)) };
        let (resource, what) = match (direct.group(), &*direct.kind) {
            ("apps", "ReplicaSet") => (&REPLICA_SETS, "get replicasets"),
            ("batch", "Job") => (&JOBS, "get jobs"),
            // Of a static pod, which is called by its node: the same on every node.
            ("", "Node") => {
                let stem = pod.name.strip_suffix(&*direct.name);
                let stem = stem.and_then(|it| it.strip_suffix('-')).filter(|it| !it.is_empty());
                return Ok(Owner::new("Pod", stem.unwrap_or(&pod.name)));
            }
            _ => return Ok(Owner::new(&direct.kind, &direct.name)),
        };
        if let Some(known) = self.known.get_mut(&*direct.uid) {
            known.used = true;
            return Ok(known.owner.clone());
        }
        let asked = self.asked(resource, &pod.namespace, direct).await;
        self.note(what, &asked).await?;
        let Ok(owner) = asked else { return Ok(Owner::by_name(pod)) };
        if self.known.len() >= KNOWN {
            self.known.pop_first();
        }
        let known = Known { owner: owner.clone(), used: true };
        self.known.insert(direct.uid.as_str().into(), known);
        Ok(owner)
    }

    async fn asked(
        &self,
        resource: &'static Resource,
        namespace: &str,
        direct: &OwnerReference,
    ) -> Result<Owner, Untold> {
        if !is_plain(namespace) || !is_plain(&direct.name) {
            return Err(Untold::NotFound);
        }
        let client = self.connection.client().await.map_err(Untold::Why)?;
        let request = Request::new(resource.path(Some(namespace)));
        let request = request.get_metadata(&direct.name, &GetParams::default());
        let found: Metadata = fetched(&client, request, ANSWER).await?;
        // One that was made anew under the same name is another.
        let is_it = found.metadata.uid == direct.uid;
        is_it.then(|| owner_of(resource, &found.metadata)).ok_or(Untold::NotFound)
    }
}

/// Why an owner is not told.
#[derive(Debug)]
enum Untold {
    Refused,
    NotFound,
    Why(String),
}

async fn fetched<T: DeserializeOwned>(
    client: &Client,
    request: Result<hyper::Request<Vec<u8>>, kube::core::request::Error>,
    limit: Duration,
) -> Result<T, Untold> {
    let request = request.map_err(|error| Untold::Why(innermost(&error)))?;
    let answer = timeout(limit, client.request_text(request)).await;
    let text = match answer.map_err(|error| Untold::Why(error.to_string()))? {
        Ok(text) => text,
        Err(kube::Error::Api(status)) if status.code == 403 => return Err(Untold::Refused),
        Err(kube::Error::Api(status)) if status.code == 404 => return Err(Untold::NotFound),
        Err(error) => return Err(Untold::Why(innermost(&error))),
    };
    serde_json::from_str(&text).map_err(|error| Untold::Why(error.to_string()))
}

/// What a ReplicaSet or Job belongs to: itself where nothing owns it. A ReplicaSet that its Deployment
/// left behind (`kubectl delete --cascade=orphan`) is still that one's: its pods go on under their name,
/// no matter when it is asked for, until another one takes it up.
fn owner_of(resource: &Resource, found: &Meta) -> Owner {
    let hash = found.labels.as_ref().and_then(|it| it.hash.as_deref());
    match found.controller() {
        Some(owner) => Owner::new(&owner.kind, &owner.name),
        None => made_by(resource.kind, &found.name, hash)
            .unwrap_or_else(|| Owner::new(resource.kind, &found.name)),
    }
}

/// The Deployment that a ReplicaSet's name and label say made it.
fn made_by(kind: &str, name: &str, hash: Option<&str>) -> Option<Owner> {
    let hash = hash.filter(|it| kind == "ReplicaSet" && !it.is_empty())?;
    let stem = name.strip_suffix(hash)?.strip_suffix('-')?;
    (!stem.is_empty()).then(|| Owner::new("Deployment", stem))
}

/// What the name of a ReplicaSet or Job says of its owner.
fn by_name(direct: &OwnerReference, hash: Option<&str>) -> Owner {
    if let Some(deployment) = made_by(&direct.kind, &direct.name, hash) {
        return deployment;
    }
    if &*direct.kind == "Job"
        && let Some((stem, due)) = direct.name.rsplit_once('-')
        // The minute or second at which a CronJob's run was due.
        && due.len() >= 8
        && due.bytes().all(|it| it.is_ascii_digit())
        && !stem.is_empty()
    {
        return Owner::new("CronJob", stem);
    }
    Owner::new(&direct.kind, &direct.name)
}

/// Whether it may stand in a path: what the API server takes for a name.
fn is_plain(name: &str) -> bool {
    let plain = |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit() || b"-.".contains(&it);
    !name.is_empty() && name.len() <= 253 && !name.starts_with('.') && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(kind: &str, name: &str, hash: Option<&str>) -> String {
        let direct = OwnerReference { kind: kind.into(), name: name.into(), ..Default::default() };
        let Owner { kind, name } = by_name(&direct, hash);
        format!("{kind}/{name}")
    }

    #[test]
    fn an_owner_that_nobody_tells_is_read_from_the_name() {
        assert_eq!(by("ReplicaSet", "web-5d4f", Some("5d4f")), "Deployment/web");
        assert_eq!(by("ReplicaSet", "web-5d4f", Some("other")), "ReplicaSet/web-5d4f");
        assert_eq!(by("ReplicaSet", "web-5d4f", None), "ReplicaSet/web-5d4f");
        assert_eq!(by("ReplicaSet", "-5d4f", Some("5d4f")), "ReplicaSet/-5d4f");
        assert_eq!(by("ReplicaSet", "web", Some("")), "ReplicaSet/web");
        assert_eq!(by("Job", "night-28871040", None), "CronJob/night");
        assert_eq!(by("Job", "night-2", None), "Job/night-2");
    }

    #[test]
    fn a_replica_set_that_its_deployment_left_is_still_its() {
        let owner = |labels: serde_json::Value| {
            let found = serde_json::json!({"name": "web-5d4f", "labels": labels});
            let Owner { kind, name } =
                owner_of(&REPLICA_SETS, &serde_json::from_value(found).unwrap());
            format!("{kind}/{name}")
        };
        assert_eq!(owner(serde_json::json!({"pod-template-hash": "5d4f"})), "Deployment/web");
        assert_eq!(owner(serde_json::json!({"app": "web"})), "ReplicaSet/web-5d4f");
    }

    #[test]
    fn only_names_go_into_paths() {
        assert!(is_plain("web-5d4f") && is_plain("a.b"));
        for name in ["", "..", "../x", "a/b", "a?b", "a%2fb", "A"] {
            assert!(!is_plain(name), "{name}");
        }
    }
}
