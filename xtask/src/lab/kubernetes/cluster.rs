//! The cluster's objects and its pods, one as the other: what controllers, kubelets and kube-proxy would
//! do, each with what the API tells of it. What is done when is the trials'.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::lab::kubernetes::apps::{App, KUBERNETES, Net, SERVICES, Service};
use crate::lab::kubernetes::ground::{CONTROL, Ground, LEGACY, NODES, Node, Place, THIS_NODE};
use crate::lab::kubernetes::server::{FRONT, Server};

/// What owns a pod, or what owns that.
#[derive(Debug, Clone)]
pub(crate) struct Owner {
    version: &'static str,
    kind: &'static str,
    pub(crate) name: String,
    uid: String,
    /// Of a ReplicaSet.
    hash: Option<String>,
}

/// A pod at work.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    app: &'static App,
    node: &'static Node,
    /// The API's.
    uid: String,
    pub(crate) address: String,
    cgroup: String,
}

pub(crate) struct Cluster {
    pub(crate) ground: Ground,
    pub(crate) server: Server,
    pub(crate) pods: BTreeMap<String, Pod>,
    published: BTreeSet<&'static str>,
    /// The last number of an address, and of a container.
    last: u8,
    containers: u32,
}

/// Where a new pod is.
pub(crate) struct Seat {
    pub(crate) node: &'static Node,
    /// The next one where none is given.
    pub(crate) address: Option<String>,
}

impl Seat {
    pub(crate) const fn on(node: &'static Node) -> Self {
        Self { node, address: None }
    }
}

impl Owner {
    /// As what it owns refers to it.
    pub(crate) fn as_controller(&self) -> Value {
        references(Some(self))
    }
}

impl Cluster {
    pub(crate) fn new(ground: Ground, server: Server) -> anyhow::Result<Self> {
        let (pods, published) = (BTreeMap::new(), BTreeSet::new());
        let cluster = Self { ground, server, pods, published, last: 10, containers: 0 };
        for namespace in ["shop", "mon", "edgewatch"] {
            cluster.create("/api/v1/namespaces", json!({"metadata": {"name": namespace}}))?;
        }
        let control = Node { name: "control", address: CONTROL, third: 0 };
        for node in NODES.iter().chain([&control]) {
            let pods = format!("10.244.{}.0/24", node.third);
            let spec = json!({"podCIDR": pods, "podCIDRs": [pods]});
            let body = json!({"metadata": {"name": node.name}, "spec": spec});
            cluster.create("/api/v1/nodes", body)?;
            let status = json!({"status": {"addresses": [
                {"type": "InternalIP", "address": node.address},
                {"type": "Hostname", "address": node.name}]}});
            cluster.patch(&format!("/api/v1/nodes/{}/status", node.name), &status)?;
        }
        Ok(cluster)
    }

    /// Makes the account of the manifest, with its role.
    pub(crate) fn admit(&self, manifest: &str) -> anyhow::Result<PathBuf> {
        let rbac = "/apis/rbac.authorization.k8s.io/v1";
        let made = [
            ("ServiceAccount", "/api/v1/namespaces/edgewatch/serviceaccounts".to_owned()),
            ("ClusterRole", format!("{rbac}/clusterroles")),
            ("ClusterRoleBinding", format!("{rbac}/clusterrolebindings")),
        ];
        for (kind, path) in made {
            let is_it = |text: &&str| text.contains(&format!("\nkind: {kind}\n"));
            let text = manifest.split("\n---\n").find(is_it);
            let text = text.with_context(|| format!("the manifest has no {kind}"))?;
            self.server.apply(&self.ground, &path, text)?;
        }
        self.server.kubeconfig(&self.ground)
    }

    pub(crate) fn create(&self, path: &str, body: Value) -> anyhow::Result<Value> {
        self.server.ask(&self.ground, "POST", path, Some(&body))
    }

    pub(crate) fn patch(&self, path: &str, body: &Value) -> anyhow::Result<()> {
        self.server.ask(&self.ground, "PATCH", path, Some(body)).map(drop)
    }

    pub(crate) fn delete(&self, path: &str) -> anyhow::Result<()> {
        self.server.ask(&self.ground, "DELETE", path, None).map(drop)
    }

    /// Makes a controller of an app's pods.
    pub(crate) fn controller(
        &self,
        app: &App,
        (version, kind, plural): (&'static str, &'static str, &str),
        name: &str,
        owner: Option<&Owner>,
        hash: Option<&str>,
    ) -> anyhow::Result<Owner> {
        let mut labels = json!({"app": app.name});
        if let Some(hash) = hash {
            labels["pod-template-hash"] = json!(hash);
        }
        let pods = json!({"metadata": {"labels": labels}, "spec": {
            "restartPolicy": if matches!(kind, "Job" | "CronJob") { "Never" } else { "Always" },
            "containers": [{"name": app.name, "image": "lab:1"}]}});
        let selector = json!({"matchLabels": labels});
        let spec = match kind {
            "CronJob" => json!({"schedule": "* * * * *",
                "jobTemplate": {"spec": {"template": pods}}}),
            "Job" => json!({"template": pods}),
            "StatefulSet" => {
                json!({"serviceName": app.name, "selector": selector, "template": pods})
            }
            _ => json!({"selector": selector, "template": pods}),
        };
        let metadata =
            json!({"name": name, "labels": labels, "ownerReferences": references(owner)});
        let path = format!("/apis/{version}/namespaces/{}/{plural}", app.namespace);
        let made = self.create(&path, json!({"metadata": metadata, "spec": spec}))?;
        let uid = made["metadata"]["uid"].as_str().context("it has no uid")?.to_owned();
        let hash = hash.map(ToOwned::to_owned);
        Ok(Owner { version, kind, name: name.to_owned(), uid, hash })
    }

    /// Makes a Deployment, or a further ReplicaSet of it.
    pub(crate) fn deployment(&self, app: &App) -> anyhow::Result<Owner> {
        self.controller(app, ("apps/v1", "Deployment", "deployments"), app.name, None, None)
    }

    pub(crate) fn replica_set(&self, app: &App, of: &Owner, hash: &str) -> anyhow::Result<Owner> {
        let name = format!("{}-{hash}", of.name);
        let kind = ("apps/v1", "ReplicaSet", "replicasets");
        self.controller(app, kind, &name, Some(of), Some(hash))
    }

    /// Starts a pod as a kubelet does: what runs comes before what is told of it.
    pub(crate) fn start(
        &mut self,
        app: &'static App,
        name: &str,
        owner: Option<&Owner>,
        seat: Seat,
    ) -> anyhow::Result<()> {
        let mut labels = json!({"app": app.name});
        if let Some(hash) = owner.and_then(|it| it.hash.as_ref()) {
            labels["pod-template-hash"] = json!(hash);
        }
        let mut metadata = json!({"name": name, "labels": labels,
            "ownerReferences": references(owner)});
        if app.net == Net::Static {
            metadata["annotations"] = json!({"kubernetes.io/config.mirror": hash_of(seat.node)});
            metadata["ownerReferences"] = self.node_reference(seat.node)?;
        }
        let spec = json!({"nodeName": seat.node.name, "hostNetwork": app.net != Net::Own,
            "containers": [{"name": app.name, "image": "lab:1"}]});
        let path = format!("/api/v1/namespaces/{}/pods", app.namespace);
        let made = self.create(&path, json!({"metadata": metadata, "spec": spec}))?;
        let uid = made["metadata"]["uid"].as_str().context("it has no uid")?.to_owned();
        let local = if app.net == Net::Static { hash_of(seat.node) } else { uid.clone() };
        let address = match app.net {
            Net::Own => seat.address.unwrap_or_else(|| {
                self.last += 1;
                format!("10.244.{}.{}", seat.node.third, self.last)
            }),
            Net::Host | Net::Static => seat.node.address.to_owned(),
        };
        if app.net == Net::Own {
            self.ground.add_pod(name, seat.node, &address)?;
        }
        let cgroup = format!("kubepods/besteffort/pod{local}");
        let pod = Pod { app, node: seat.node, uid, address, cgroup };
        self.pods.insert(name.to_owned(), pod);
        self.run(name)
    }

    /// Starts a pod's container, and tells of it where anybody listens.
    pub(crate) fn run(&mut self, name: &str) -> anyhow::Result<()> {
        let pod = self.pods.get(name).with_context(|| format!("no pod {name}"))?.clone();
        self.containers += 1;
        let id = format!("{:064x}", self.containers);
        let own = pod.app.net == Net::Own;
        self.serve(
            pod.app,
            if own { name } else { pod.node.name },
            &format!("{}/{id}", pod.cgroup),
            pod.node,
        )?;
        let status = json!({"status": {
            "phase": "Running", "hostIP": pod.node.address,
            "podIP": pod.address, "podIPs": [{"ip": pod.address}],
            "startTime": now()?, "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{
                "name": pod.app.name, "containerID": format!("containerd://{id}"), "ready": true,
                "restartCount": 0, "image": "lab:1", "imageID": "lab@sha256:1"}]}});
        if self.server.is_running() {
            let path = format!("/api/v1/namespaces/{}/pods/{name}/status", pod.app.namespace);
            self.patch(&path, &status)?;
        }
        Ok(())
    }

    /// Runs what an app is, at a place.
    pub(crate) fn serve(
        &mut self,
        app: &App,
        net: &str,
        cgroup: &str,
        node: &Node,
    ) -> anyhow::Result<()> {
        let (at, busybox) = (&self.ground.at, self.ground.parts.busybox.display().to_string());
        let script = at.join("serve").display().to_string();
        let targets = self.targets_of(app).display().to_string();
        let port = app.port.to_string();
        let place = Place { net, cgroup, node };
        self.ground.start(&place, &["sh", &script, &busybox, &port, &targets])
    }

    fn targets_of(&self, app: &App) -> PathBuf {
        self.ground.at.join("apps").join(app.name).join("targets")
    }

    /// Whom the pods of an app call from now on.
    pub(crate) fn calls(&self, app: &App, targets: &[String]) -> anyhow::Result<()> {
        let file = self.targets_of(app);
        let next = file.with_extension("next");
        std::fs::create_dir_all(file.with_file_name("")).context("make a place for an app")?;
        std::fs::write(file.with_file_name("index.html"), app.name).context("write a page")?;
        let lines: String = targets.iter().map(|it| format!("{it}\n")).collect();
        std::fs::write(&next, lines).context("write whom it calls")?;
        std::fs::rename(&next, &file).context("write whom it calls")
    }

    /// Ends what runs in a pod, and leaves the pod.
    pub(crate) fn stop(&mut self, name: &str) -> anyhow::Result<()> {
        let pod = self.pods.get(name).with_context(|| format!("no pod {name}"))?;
        self.ground.end(pod.node, &pod.cgroup)?;
        self.ground.reap();
        Ok(())
    }

    /// Ends a pod.
    pub(crate) fn end(&mut self, name: &str) -> anyhow::Result<()> {
        self.stop(name)?;
        let Some(pod) = self.pods.remove(name) else { return Ok(()) };
        if pod.app.net == Net::Own {
            self.ground.remove_pod(name)?;
        }
        let path = format!("/api/v1/namespaces/{}/pods/{name}", pod.app.namespace);
        self.delete(&format!("{path}?gracePeriodSeconds=0"))
    }

    pub(crate) fn pods_on(&self, node: &'static Node) -> impl Iterator<Item = &str> {
        self.pods.iter().filter(move |(_, it)| it.node == node).map(|(name, _)| name.as_str())
    }

    pub(crate) fn node(&self, name: &str) -> anyhow::Result<&'static Node> {
        Ok(self.pods.get(name).with_context(|| format!("no pod {name}"))?.node)
    }

    pub(crate) fn address(&self, name: &str) -> anyhow::Result<String> {
        Ok(self.pods.get(name).with_context(|| format!("no pod {name}"))?.address.clone())
    }

    /// Tells who answers for each Service, and has the nodes send there what is for it.
    pub(crate) fn publish(&mut self) -> anyhow::Result<()> {
        let mut rules = String::new();
        for service in SERVICES {
            let behind = self.behind(service);
            self.tell(service, &behind)?;
            rules += &translation(service, &behind);
        }
        self.ground.translate(&rules)
    }

    /// Addresses, each with its pod and its uid where it is one's.
    fn behind(&self, service: &Service) -> Vec<(String, Option<(String, String)>)> {
        match service.app {
            None if service.name == KUBERNETES => vec![(CONTROL.to_owned(), None)],
            None => vec![(LEGACY.to_owned(), None)],
            Some(app) => {
                let pods = self.pods.iter().filter(|(_, it)| it.app.name == app.name);
                let named = |(name, pod): (&String, &Pod)| {
                    (pod.address.clone(), Some((name.clone(), pod.uid.clone())))
                };
                pods.map(named).collect()
            }
        }
    }

    fn tell(
        &mut self,
        service: &'static Service,
        behind: &[(String, Option<(String, String)>)],
    ) -> anyhow::Result<()> {
        let (namespace, name) = (service.namespace, service.name);
        let target = |pod: &Option<(String, String)>| match pod {
            None => Value::Null,
            Some((name, uid)) => {
                json!({"kind": "Pod", "namespace": namespace, "name": name, "uid": uid})
            }
        };
        let port = json!([{"name": "main", "port": service.target, "protocol": "TCP"}]);
        let addresses: Vec<Value> =
            behind.iter().map(|(ip, pod)| json!({"ip": ip, "targetRef": target(pod)})).collect();
        let subsets = match addresses.as_slice() {
            [] => json!([]),
            some => json!([{"addresses": some, "ports": port}]),
        };
        let slice: Vec<Value> = behind
            .iter()
            .map(|(ip, pod)| json!({"addresses": [ip], "conditions": {"ready": true}, "targetRef": target(pod)}))
            .collect();
        let core = format!("/api/v1/namespaces/{namespace}");
        let slices =
            format!("/apis/discovery.k8s.io/v1beta1/namespaces/{namespace}/endpointslices");
        if self.published.insert(name) {
            if name != KUBERNETES {
                let mut spec = json!({"clusterIP": service.address, "type": service.kind(),
                    "ports": [{"name": "main", "port": service.port, "targetPort": service.target}]});
                if let Some(app) = service.app {
                    spec["selector"] = json!({"app": app.name});
                }
                if let Some(port) = service.node_port {
                    spec["ports"][0]["nodePort"] = json!(port);
                }
                self.create(
                    &format!("{core}/services"),
                    json!({"metadata": {"name": name}, "spec": spec}),
                )?;
            }
            let metadata = json!({"name": name});
            self.create(
                &format!("{core}/endpoints"),
                json!({"metadata": metadata, "subsets": subsets}),
            )?;
            let metadata = json!({"name": format!("{name}-x"),
                "labels": {"kubernetes.io/service-name": name}});
            let ports = json!([{"name": "main", "port": service.target, "protocol": "TCP"}]);
            let body = json!({"metadata": metadata, "addressType": "IPv4", "endpoints": slice, "ports": ports});
            return self.create(&slices, body).map(drop);
        }
        self.patch(&format!("{core}/endpoints/{name}"), &json!({"subsets": subsets}))?;
        self.patch(&format!("{slices}/{name}-x"), &json!({"endpoints": slice}))
    }

    fn node_reference(&self, node: &Node) -> anyhow::Result<Value> {
        let path = format!("/api/v1/nodes/{}", node.name);
        let found = self.server.ask(&self.ground, "GET", &path, None)?;
        Ok(json!([{"apiVersion": "v1", "kind": "Node", "name": node.name, "controller": true,
            "uid": found["metadata"]["uid"]}]))
    }
}

/// As its node knows a static pod: by what it was made of.
fn hash_of(node: &Node) -> String {
    format!("{:032x}", 0xabcd_0000_u32 + u32::from(node.third))
}

fn references(owner: Option<&Owner>) -> Value {
    let reference = |it: &Owner| {
        json!({"apiVersion": it.version, "kind": it.kind, "name": it.name, "uid": it.uid,
            "controller": true})
    };
    json!(owner.map(reference).into_iter().collect::<Vec<_>>())
}

/// What kube-proxy makes of a Service.
fn translation(service: &Service, behind: &[(String, Option<(String, String)>)]) -> String {
    if behind.is_empty() {
        return String::new();
    }
    let target = if service.name == KUBERNETES { FRONT } else { service.target };
    let mapped: Vec<String> =
        behind.iter().enumerate().map(|(index, (ip, _))| format!("{index} : {ip}")).collect();
    let to = format!(
        "dnat to numgen inc mod {} map {{ {} }} : {target}\n",
        mapped.len(),
        mapped.join(", ")
    );
    let mut rules = String::new();
    if service.address != "None" {
        rules += &format!("ip daddr {} tcp dport {} {to}", service.address, service.port);
    }
    if let Some(port) = service.node_port {
        rules += &format!("ip daddr {THIS_NODE} tcp dport {port} meta mark set 0x4000 {to}");
    }
    rules
}

/// The time as the API writes it.
fn now() -> anyhow::Result<String> {
    let date = std::process::Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]).output();
    let date = date.context("ask for the time")?;
    Ok(String::from_utf8_lossy(&date.stdout).trim().to_owned())
}
