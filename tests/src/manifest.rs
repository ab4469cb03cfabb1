//! The manifests of `deploy/kubernetes`, as the API server would take them: by the types of the
//! published API, and with nothing in them that those do not know.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, Namespace, PodSpec, ServiceAccount, Volume,
};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

const TEXT: &str = include_str!("../../deploy/kubernetes/edgewatch.yaml");

/// What `edgewatch.yaml` says.
#[derive(Debug)]
pub struct Manifest {
    pub namespace: Namespace,
    pub account: ServiceAccount,
    pub role: ClusterRole,
    pub binding: ClusterRoleBinding,
    pub config: ConfigMap,
    /// Baseline files.
    pub baseline: ConfigMap,
    pub agents: DaemonSet,
}

impl Manifest {
    /// Reads it whole.
    #[track_caller]
    #[must_use]
    pub fn read() -> Self {
        let documents = TEXT.split("\n---\n").map(|text| {
            serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error} in:\n{text}"))
        });
        let documents: Vec<Value> = documents.collect();
        let [namespace, account, role, binding, config, baseline, agents] = &documents[..] else {
            panic!("seven documents are expected: {documents:#?}");
        };
        Self {
            namespace: read(namespace),
            account: read(account),
            role: read(role),
            binding: read(binding),
            config: read(config),
            baseline: read(baseline),
            agents: read(agents),
        }
    }

    /// The pod that runs on each node.
    #[track_caller]
    #[must_use]
    pub fn pod(&self) -> &PodSpec {
        let spec = self.agents.spec.as_ref().and_then(|it| it.template.spec.as_ref());
        spec.expect("a DaemonSet has a pod")
    }

    /// Its only container.
    #[track_caller]
    #[must_use]
    pub fn container(&self) -> &Container {
        let [container] = &self.pod().containers[..] else {
            panic!("one container is expected: {:#?}", self.pod().containers);
        };
        container
    }

    /// The files of a ConfigMap, by its name.
    #[track_caller]
    pub fn files(&self, name: &str) -> impl Iterator<Item = (&str, &str)> {
        let maps = [&self.config, &self.baseline];
        let map = maps.into_iter().find(|it| it.metadata.name.as_deref() == Some(name));
        let map = map.unwrap_or_else(|| panic!("there is no ConfigMap {name}"));
        map.data.iter().flatten().map(|(name, text)| (&**name, &**text))
    }

    /// One of its volumes.
    #[track_caller]
    #[must_use]
    pub fn volume(&self, name: &str) -> &Volume {
        let mut volumes = self.pod().volumes.iter().flatten();
        volumes.find(|it| it.name == name).unwrap_or_else(|| panic!("there is no volume {name}"))
    }
}

#[track_caller]
fn read<T: DeserializeOwned + Serialize>(value: &Value) -> T {
    strict(value).unwrap_or_else(|error| panic!("{error}"))
}

/// Reads a value by its type and holds what was understood against what was said: the types leave
/// out what they do not know.
///
/// # Errors
/// It is no such value, or has something in it that such a value has not.
pub fn strict<T: DeserializeOwned + Serialize>(value: &Value) -> Result<T, String> {
    let typed = serde_json::from_value::<T>(value.clone()).map_err(|error| error.to_string())?;
    let understood = serde_json::to_value(&typed).map_err(|error| error.to_string())?;
    match first_difference(value, &understood, "") {
        None => Ok(typed),
        Some(place) => Err(format!("the API knows no {place}")),
    }
}

/// Where `said` has what `understood` has not.
fn first_difference(said: &Value, understood: &Value, place: &str) -> Option<String> {
    match (said, understood) {
        (Value::Object(said), Value::Object(understood)) => said.iter().find_map(|(key, value)| {
            let place = format!("{place}.{key}");
            match understood.get(key) {
                Some(understood) => first_difference(value, understood, &place),
                None => Some(place),
            }
        }),
        (Value::Array(said), Value::Array(understood)) if said.len() == understood.len() => {
            let pairs = said.iter().zip(understood).enumerate();
            pairs
                .map(|(index, (said, understood))| (format!("{place}[{index}]"), said, understood))
                .find_map(|(place, said, understood)| first_difference(said, understood, &place))
        }
        (said, understood) => (said != understood).then(|| place.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_api_does_not_know_is_found() {
        let sound = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}});
        assert!(strict::<Namespace>(&sound).is_ok());
        let mut misspelt = sound.clone();
        misspelt["metadata"]["lables"] = json!({});
        let error = strict::<Namespace>(&misspelt).unwrap_err();
        assert_eq!(error, "the API knows no .metadata.lables");
        let mut wrong = sound;
        wrong["kind"] = json!("ConfigMap");
        assert!(strict::<Namespace>(&wrong).is_err());
    }

    #[test]
    fn the_manifest_asks_for_no_more_than_it_says() {
        let manifest = Manifest::read();
        let pod = manifest.pod();
        assert_eq!(pod.automount_service_account_token, Some(true));
        let account = manifest.account.metadata.name.as_deref();
        assert_eq!(pod.service_account_name.as_deref(), account);
        let [subject] = manifest.binding.subjects.as_deref().unwrap_or_default() else {
            panic!("one subject is expected: {:#?}", manifest.binding);
        };
        assert_eq!((&*subject.kind, Some(&*subject.name)), ("ServiceAccount", account));
        let role = manifest.role.metadata.name.as_deref();
        assert_eq!(Some(&*manifest.binding.role_ref.name), role);
        // What is granted is held to what is read where that is; here, that nothing is written.
        for rule in manifest.role.rules.iter().flatten() {
            let reads = |verb: &String| ["get", "list", "watch"].contains(&&**verb);
            assert!(rule.verbs.iter().all(reads), "{rule:#?}");
        }
        assert_eq!((pod.host_network, pod.host_ipc), (None, None));
        let container = manifest.container();
        let security = container.security_context.as_ref().expect("it has one");
        let refused = [security.privileged, security.allow_privilege_escalation];
        assert_eq!(refused, [Some(false); 2]);
        assert_eq!(security.read_only_root_filesystem, Some(true));
        let profile = security.seccomp_profile.as_ref().map(|it| it.type_.as_str());
        assert_eq!(profile, Some("RuntimeDefault"));
        let capabilities = security.capabilities.clone().unwrap_or_default();
        assert_eq!(capabilities.drop.unwrap_or_default(), ["ALL"]);
        assert_eq!(capabilities.add.unwrap_or_default(), ["BPF", "NET_ADMIN"]);
        for mount in container.volume_mounts.iter().flatten() {
            let _exists = manifest.volume(&mount.name);
        }
        // Pods are chosen by a label that they have, in a namespace that exists.
        let spec = manifest.agents.spec.as_ref().expect("it has one");
        let labels = spec.template.metadata.as_ref().and_then(|it| it.labels.as_ref());
        assert_eq!(spec.selector.match_labels.as_ref(), labels);
        let home = manifest.namespace.metadata.name.as_deref();
        assert_eq!(manifest.agents.metadata.namespace.as_deref(), home);
        assert_eq!(subject.namespace.as_deref(), home);
        for metadata in
            [&manifest.account.metadata, &manifest.config.metadata, &manifest.baseline.metadata]
        {
            assert_eq!(metadata.namespace.as_deref(), home);
        }
    }
}
