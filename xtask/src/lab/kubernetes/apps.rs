//! What runs in the cluster: its apps, its Services, and the edges that there are between them. All else
//! is wrong.

/// Where a pod has its address from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Net {
    Own,
    Host,
    /// The node's as well: a static pod, of which the API has a mirror.
    Static,
}

#[derive(Debug)]
pub(crate) struct App {
    pub(crate) namespace: &'static str,
    pub(crate) name: &'static str,
    /// None where it serves nobody.
    pub(crate) port: u16,
    pub(crate) net: Net,
}

const fn app(namespace: &'static str, name: &'static str, port: u16, net: Net) -> App {
    App { namespace, name, port, net }
}

pub(crate) static WEB: App = app("shop", "web", 8080, Net::Own);
pub(crate) static API: App = app("shop", "api", 8080, Net::Own);
pub(crate) static DB: App = app("shop", "db", 5432, Net::Own);
pub(crate) static TICK: App = app("shop", "tick", 0, Net::Own);
/// What takes up another's address.
pub(crate) static OTHERS: [App; 2] =
    [app("shop", "other-1", 5432, Net::Own), app("shop", "other-2", 5432, Net::Own)];
pub(crate) static SCRAPER: App = app("mon", "scraper", 0, Net::Own);
pub(crate) static EXPORTER: App = app("mon", "exporter", 9100, Net::Host);
pub(crate) static ETCD: App = app("kube-system", "etcd", 2381, Net::Static);
/// Of a node itself, and of something that is no part of the cluster.
pub(crate) static SSHD: App = app("", "sshd", 22, Net::Host);
pub(crate) static OLD: App = app("", "old", 9000, Net::Host);

#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) namespace: &'static str,
    pub(crate) name: &'static str,
    /// `None` where it is headless.
    pub(crate) address: &'static str,
    pub(crate) port: u16,
    pub(crate) target: u16,
    pub(crate) node_port: Option<u16>,
    /// None where nothing is selected.
    pub(crate) app: Option<&'static App>,
}

impl Service {
    pub(crate) const fn kind(&self) -> &'static str {
        if self.node_port.is_some() { "NodePort" } else { "ClusterIP" }
    }
}

pub(crate) const KUBERNETES: &str = "kubernetes";
pub(crate) const NODE_PORT: u16 = 30_080;

const fn service(
    (namespace, name, address): (&'static str, &'static str, &'static str),
    (port, target): (u16, u16),
    app: Option<&'static App>,
) -> Service {
    Service { namespace, name, address, port, target, node_port: None, app }
}

pub(crate) static SERVICES: &[Service] = &[
    Service {
        node_port: Some(NODE_PORT),
        ..service(("shop", "web", "10.96.0.10"), (80, 8080), Some(&WEB))
    },
    service(("shop", "api", "10.96.0.20"), (80, 8080), Some(&API)),
    service(("shop", "db", "None"), (5432, 5432), Some(&DB)),
    service(("shop", "legacy", "10.96.0.30"), (80, 9000), None),
    service(("mon", "exporter", "None"), (9100, 9100), Some(&EXPORTER)),
    service(("kube-system", "etcd", "None"), (2381, 2381), Some(&ETCD)),
    service(("default", KUBERNETES, "10.96.0.1"), (443, 6443), None),
];

/// All that is to be seen from the first node.
pub(crate) const EDGES: &[&str] = &[
    // What comes through a port of a node comes from that node.
    "host:node-1 -> k8s:shop/Deployment/web 8080/tcp",
    "host:node-2 -> k8s:shop/Deployment/web 8080/tcp",
    "k8s:mon/DaemonSet/exporter -> k8s:default/Service/kubernetes 443/tcp",
    "k8s:mon/Pod/scraper -> host:node-2 22/tcp",
    "k8s:mon/Pod/scraper -> k8s:kube-system/Pod/etcd 2381/tcp",
    "k8s:mon/Pod/scraper -> k8s:mon/DaemonSet/exporter 9100/tcp",
    "k8s:mon/Pod/scraper -> k8s:shop/Deployment/web 8080/tcp",
    "k8s:shop/CronJob/tick -> k8s:shop/Deployment/web 8080/tcp",
    "k8s:shop/Deployment/api -> k8s:shop/Service/legacy 80/tcp",
    "k8s:shop/Deployment/api -> k8s:shop/StatefulSet/db 5432/tcp",
    "k8s:shop/Deployment/web -> k8s:shop/Deployment/api 8080/tcp",
];
