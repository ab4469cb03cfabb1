//! What owns the ReplicaSets and Jobs that own pods. Listed once with every whole list of pods, by their
//! metadata alone, and asked for one by one as new ones turn up: watching them would tell every node of
//! every step of every rollout.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use kube::api::{GetParams, ListParams};
use kube::core::Request;
use tokio::time::timeout;

use crate::sources::kubernetes::follow::Page;
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

pub(super) struct Owners {
    client: Client,
    /// By the uid of the ReplicaSet or Job.
    known: BTreeMap<Arc<str>, Known>,
}

impl Owners {
    pub(super) const fn new(client: Client) -> Self {
        Self { client, known: BTreeMap::new() }
    }

    /// Takes up what is there now. What cannot be listed is asked for one by one.
    pub(super) async fn list(&mut self) {
        self.known.clear();
        for resource in [&REPLICA_SETS, &JOBS] {
            if let Err(error) = self.list_of(resource).await {
                tracing::debug!(resource = resource.plural, error, "owners are not listed");
            }
        }
    }

    async fn list_of(&mut self, resource: &'static Resource) -> Result<(), String> {
        let mut parameters = ListParams::default().limit(PAGE);
        while self.known.len() < KNOWN {
            let request = Request::new(resource.path(None)).list_metadata(&parameters);
            let request = request.map_err(|error| error.to_string())?;
            let answer = timeout(LIST_ANSWER, self.client.request_text(request)).await;
            let text = answer.map_err(|error| error.to_string())?;
            let text = text.map_err(|error| error.to_string())?;
            let page: Page<Metadata> =
                serde_json::from_str(&text).map_err(|error| error.to_string())?;
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

    /// Forgets those of which no pod was seen.
    pub(super) fn forget_unused(&mut self) {
        self.known.retain(|_, it| it.used);
    }

    /// What a pod belongs to in the end.
    pub(super) async fn of(&mut self, pod: &Meta) -> Owner {
        let Some(direct) = pod.controller() else { return Owner::new("Pod", &pod.name) };
        let resource = match (direct.group(), &*direct.kind) {
            ("apps", "ReplicaSet") => &REPLICA_SETS,
            ("batch", "Job") => &JOBS,
            // Of a static pod, which is called by its node: the same on every node.
            ("", "Node") => {
                let stem = pod.name.strip_suffix(&*direct.name);
                let stem = stem.and_then(|it| it.strip_suffix('-')).filter(|it| !it.is_empty());
                return Owner::new("Pod", stem.unwrap_or(&pod.name));
            }
            _ => return Owner::new(&direct.kind, &direct.name),
        };
        if let Some(known) = self.known.get_mut(&*direct.uid) {
            known.used = true;
            return known.owner.clone();
        }
        match self.asked(resource, &pod.namespace, direct).await {
            Some(owner) => {
                if self.known.len() >= KNOWN {
                    self.known.pop_first();
                }
                let known = Known { owner: owner.clone(), used: true };
                self.known.insert(direct.uid.as_str().into(), known);
                owner
            }
            None => Owner::by_name(pod),
        }
    }

    async fn asked(
        &self,
        resource: &'static Resource,
        namespace: &str,
        direct: &OwnerReference,
    ) -> Option<Owner> {
        if !is_plain(namespace) || !is_plain(&direct.name) {
            return None;
        }
        let request = Request::new(resource.path(Some(namespace)));
        let request = request.get_metadata(&direct.name, &GetParams::default()).ok()?;
        let text = timeout(ANSWER, self.client.request_text(request)).await.ok()?.ok()?;
        let found: Metadata = serde_json::from_str(&text).ok()?;
        // One that was made anew under the same name is another.
        (found.metadata.uid == direct.uid).then(|| owner_of(resource, &found.metadata))
    }
}

/// What a ReplicaSet or Job belongs to: itself where nothing owns it.
fn owner_of(resource: &Resource, found: &Meta) -> Owner {
    match found.controller() {
        Some(owner) => Owner::new(&owner.kind, &owner.name),
        None => Owner::new(resource.kind, &found.name),
    }
}

/// What the name of a ReplicaSet or Job says of its owner.
fn by_name(direct: &OwnerReference, hash: Option<&str>) -> Owner {
    let stem = |end: &str| {
        let stem = direct.name.strip_suffix(end)?.strip_suffix('-')?;
        (!stem.is_empty()).then_some(stem)
    };
    if &*direct.kind == "ReplicaSet" {
        if let Some(stem) = hash.filter(|it| !it.is_empty()).and_then(stem) {
            return Owner::new("Deployment", stem);
        }
    } else if let Some((stem, due)) = direct.name.rsplit_once('-')
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
    fn only_names_go_into_paths() {
        assert!(is_plain("web-5d4f") && is_plain("a.b"));
        for name in ["", "..", "../x", "a/b", "a?b", "a%2fb", "A"] {
            assert!(!is_plain(name), "{name}");
        }
    }
}
