//! `NetworkPolicy` as YAML. Every value that comes from a name was checked to be one that Kubernetes
//! takes, and stands in quotes all the same; every other name stands in comments alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use monitor_core::baseline::document::{Document, DocumentError};
use monitor_core::baseline::{Allowance, Phase, Provenance};
use monitor_core::edge::{Edge, EdgeWith, Peer, Port};
use monitor_core::flow::Protocol;
use monitor_core::ids::ServiceName;

use crate::policy::workload::Workload;
use crate::policy::{Export, LabelKey, Wanted};
use crate::wording::{counted, safe};

/// Where the cluster's own DNS runs.
const DNS_NAMESPACE: &str = "kube-system";
const DNS_PORT: u16 = 53;

/// What a rule can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Target<'a> {
    /// The cluster's DNS: its pods seldom carry the label of the others.
    Dns,
    Pods(Workload<'a>),
    Address(IpAddr),
    World,
}

/// One direction of one policy.
#[derive(Default)]
struct Rules<'a> {
    said: BTreeMap<Target<'a>, BTreeMap<&'a Edge, Vec<EdgeWith>>>,
    unsaid: BTreeMap<&'a Edge, &'static str>,
}

/// All that is said of one workload.
struct Policy<'a> {
    service: &'a ServiceName,
    workload: Workload<'a>,
    phase: Option<Phase>,
    ingress: Rules<'a>,
    egress: Rules<'a>,
    forbidden: BTreeSet<&'a Edge>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Ingress,
    Egress,
}

type Policies<'a> = BTreeMap<&'a ServiceName, Policy<'a>>;

pub(crate) fn export(document: &Document, wanted: &Wanted<'_>) -> Result<Export, DocumentError> {
    let parsed = document.parse(Provenance::File, wanted.now)?;
    let (mut policies, left_out) = chosen(document, wanted);
    for (edge, allowances) in &parsed.allowed {
        let in_force: Vec<&Allowance> = allowances
            .iter()
            .filter(|it| it.grounds.until.is_none_or(|until| until > wanted.now))
            .collect();
        if !edge.is_exchange() || in_force.is_empty() || parsed.forbidden.contains_key(edge) {
            continue;
        }
        if let Some(policy) = edge.client.service().and_then(|it| policies.get_mut(it)) {
            policy.egress.add(edge, &in_force, egress(edge));
        }
        if let Some(policy) = edge.server.service().and_then(|it| policies.get_mut(it)) {
            policy.ingress.add(edge, &in_force, ingress(edge));
        }
    }
    for edge in parsed.forbidden.keys() {
        for end in edge.services() {
            if let Some(policy) = policies.get_mut(end) {
                policy.forbidden.insert(edge);
            }
        }
    }
    let unsaid =
        policies.values().flat_map(|it| it.ingress.unsaid.keys().chain(it.egress.unsaid.keys()));
    let unsaid = unsaid.collect::<BTreeSet<_>>().len();
    let mut text = head(wanted.label, policies.len(), unsaid);
    let mut names = BTreeSet::new();
    for policy in policies.values() {
        let Workload { namespace, kind, name } = policy.workload;
        let mut name = format!("edgewatch-{}-{name}", kind.to_ascii_lowercase());
        // Kinds that differ in their capitals alone.
        while !names.insert((namespace, name.clone())) {
            name.push('x');
        }
        write_policy(&mut text, &name, policy, wanted.label);
    }
    write_left_out(&mut text, &left_out);
    Ok(Export { text, policies: policies.len(), unsaid })
}

/// The services to write, and those that cannot be written with the reason.
fn chosen<'a>(
    document: &'a Document,
    wanted: &Wanted<'_>,
) -> (Policies<'a>, BTreeMap<&'a ServiceName, &'static str>) {
    let (mut policies, mut left_out) = (Policies::new(), BTreeMap::new());
    for (service, entry) in &document.services {
        let mut patterns = wanted.services.iter();
        if !wanted.services.is_empty() && !patterns.any(|it| it.matches(service.as_str())) {
            continue;
        }
        match Workload::new(service) {
            Ok(workload) => {
                let policy = Policy {
                    service,
                    workload,
                    phase: wanted.phases.get(service).copied().or(entry.phase),
                    ingress: Rules::default(),
                    egress: Rules::default(),
                    forbidden: BTreeSet::new(),
                };
                policies.insert(service, policy);
            }
            Err(reason) => {
                left_out.insert(service, reason);
            }
        }
    }
    (policies, left_out)
}

impl<'a> Rules<'a> {
    fn add(
        &mut self,
        edge: &'a Edge,
        allowances: &[&Allowance],
        target: Result<Target<'a>, &'static str>,
    ) {
        if allowances.iter().all(|it| it.attempted_only) {
            self.unsaid.insert(edge, "only ever attempted, never answered");
            return;
        }
        match target {
            Err(reason) => {
                self.unsaid.insert(edge, reason);
            }
            Ok(target) => {
                let with = written(edge, allowances);
                self.said.entry(target).or_default().insert(edge, with);
            }
        }
    }
}

/// The edge once for each executable it is allowed with; once where that is any.
fn written(edge: &Edge, allowances: &[&Allowance]) -> Vec<EdgeWith> {
    let with = |executable| EdgeWith { edge: edge.clone(), executable };
    if allowances.iter().any(|it| it.executables.is_empty()) {
        return vec![with(None)];
    }
    let executables: BTreeSet<&String> = allowances.iter().flat_map(|it| &it.executables).collect();
    executables.into_iter().map(|it| with(Some(it.clone()))).collect()
}

/// How an edge's server is named, or why it cannot be.
fn egress(edge: &Edge) -> Result<Target<'_>, &'static str> {
    named(edge.port.protocol)?;
    let dns = edge.port.number == DNS_PORT;
    match &edge.server {
        Peer::Service(service) => match Workload::new(service)? {
            workload if dns && workload.namespace == DNS_NAMESPACE => Ok(Target::Dns),
            workload => Ok(Target::Pods(workload)),
        },
        peer => outside(peer),
    }
}

/// How an edge's client is named, or why it cannot be.
fn ingress(edge: &Edge) -> Result<Target<'_>, &'static str> {
    named(edge.port.protocol)?;
    match &edge.client {
        Peer::Service(service) => Workload::new(service).map(Target::Pods),
        peer => outside(peer),
    }
}

/// As Kubernetes calls a protocol.
const fn named(protocol: Protocol) -> Result<&'static str, &'static str> {
    match protocol {
        Protocol::Tcp => Ok("TCP"),
        Protocol::Udp => Ok("UDP"),
        Protocol::UdpLite | Protocol::Icmp | Protocol::Ip => {
            Err("NetworkPolicy knows TCP, UDP and SCTP alone")
        }
    }
}

const fn outside(peer: &Peer) -> Result<Target<'_>, &'static str> {
    match peer {
        Peer::Address(address) => Ok(Target::Address(*address)),
        Peer::World => Ok(Target::World),
        Peer::Name(_) => Err("NetworkPolicy knows no names: allow its addresses as an ipBlock"),
        Peer::Network(_) => {
            Err("the network's addresses are in the agent's configuration: add its ipBlock")
        }
        Peer::Service(_) | Peer::Socket(_) | Peer::Nobody => Err("it cannot be said"),
    }
}

fn head(label: &LabelKey, policies: usize, unsaid: usize) -> String {
    let policies = match policies {
        1 => "1 NetworkPolicy".to_owned(),
        count => format!("{count} NetworkPolicies"),
    };
    let unsaid = counted(unsaid, "edge");
    format!(
        "# {policies} from an Edgewatch baseline. {unsaid} could not be said, and would be denied: see `not said` below.\n\
         #\n\
         # Assumed: the pods of k8s:NAMESPACE/KIND/NAME, and no others there, carry the label\n\
         #   {label}: NAME\n\
         # (another key: --selector-label KEY). A baseline does not know labels, so look before applying:\n\
         #   kubectl get pods --all-namespaces --label-columns {label}\n\
         #\n\
         # A policy allows nothing but what it lists. It cannot tell executables apart (`with` below), does\n\
         # not bind pods on the host's network, and needs a network plugin that enforces it. An address of a\n\
         # Service is seldom matched by ipBlock: plugins see the pods behind it.\n"
    )
}

fn write_policy(text: &mut String, name: &str, policy: &Policy<'_>, label: &LabelKey) {
    let _infallible = writeln!(text, "---\n# {}", comment(policy.service));
    match policy.phase {
        Some(Phase::Learning) => text.push_str("# It is still learning: more edges may come.\n"),
        Some(Phase::Proposed | Phase::Guarded) | None => {}
    }
    let _infallible = write!(
        text,
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: {name:?}\n  \
         namespace: {:?}\n  labels:\n    app.kubernetes.io/managed-by: edgewatch\nspec:\n  \
         podSelector:\n    matchLabels:\n      {:?}: {:?}\n  policyTypes: [Ingress, Egress]\n",
        policy.workload.namespace,
        label.to_string(),
        policy.workload.name,
    );
    write_rules(text, Direction::Ingress, &policy.ingress, label);
    write_rules(text, Direction::Egress, &policy.egress, label);
    if !policy.egress.said.contains_key(&Target::Dns) {
        let _infallible = write!(
            text,
            "    # no DNS of the cluster in the baseline: if it resolves names there, allow it:\n    \
             # - to:\n    #     - namespaceSelector: {{matchLabels: {{\"kubernetes.io/metadata.name\": {DNS_NAMESPACE:?}}}}}\n    \
             #   ports: [{{protocol: UDP, port: 53}}, {{protocol: TCP, port: 53}}]\n"
        );
    }
    for edge in &policy.forbidden {
        let _infallible = writeln!(text, "  # forbidden, so in no rule: {}", comment(edge));
    }
}

fn write_rules(text: &mut String, direction: Direction, rules: &Rules<'_>, label: &LabelKey) {
    let (direction, peers) = match direction {
        Direction::Ingress => ("ingress", "from"),
        Direction::Egress => ("egress", "to"),
    };
    let none = if rules.said.is_empty() { " []" } else { "" };
    let _infallible = writeln!(text, "  {direction}:{none}");
    for (target, edges) in &rules.said {
        for with in edges.values().flatten() {
            let _infallible = writeln!(text, "    # {}", comment(with));
        }
        let _infallible = writeln!(text, "    - {peers}:");
        for peer in blocks(*target, label) {
            let _infallible = writeln!(text, "        - {peer}");
        }
        let ports: BTreeSet<Port> = match target {
            // A resolver falls back to TCP where an answer is long.
            Target::Dns => [Protocol::Udp, Protocol::Tcp]
                .map(|protocol| Port { number: DNS_PORT, protocol })
                .into(),
            Target::Pods(_) | Target::Address(_) | Target::World => {
                edges.keys().map(|edge| edge.port).collect()
            }
        };
        text.push_str("      ports:\n");
        for Port { number, protocol } in ports {
            // What has no name here was not let in.
            let Ok(protocol) = named(protocol) else { continue };
            let _infallible = writeln!(text, "        - {{protocol: {protocol}, port: {number}}}");
        }
    }
    for (edge, reason) in &rules.unsaid {
        let _infallible = writeln!(text, "    # not said: {}: {reason}", comment(edge));
    }
}

/// The peers of a rule, each on one line.
fn blocks(target: Target<'_>, label: &LabelKey) -> Vec<String> {
    let namespace = |name: &str| {
        format!("namespaceSelector: {{matchLabels: {{\"kubernetes.io/metadata.name\": {name:?}}}}}")
    };
    match target {
        Target::Dns => vec![namespace(DNS_NAMESPACE)],
        Target::Pods(workload) => {
            let (key, name) = (label.to_string(), workload.name);
            let namespace = namespace(workload.namespace);
            vec![format!(
                "{namespace}\n          podSelector: {{matchLabels: {{{key:?}: {name:?}}}}}"
            )]
        }
        Target::Address(address) => {
            let bits = if address.is_ipv4() { 32 } else { 128 };
            vec![format!("ipBlock: {{cidr: \"{address}/{bits}\"}}")]
        }
        Target::World => {
            vec![
                "ipBlock: {cidr: \"0.0.0.0/0\"}".to_owned(),
                "ipBlock: {cidr: \"::/0\"}".to_owned(),
            ]
        }
    }
}

fn write_left_out(text: &mut String, left_out: &BTreeMap<&ServiceName, &'static str>) {
    if left_out.is_empty() {
        return;
    }
    let mut schemes: BTreeMap<&str, u64> = BTreeMap::new();
    for service in left_out.keys() {
        *schemes.entry(service.scheme()).or_default() += 1;
    }
    let schemes: Vec<String> =
        schemes.into_iter().map(|(scheme, count)| format!("{scheme} {count}")).collect();
    let count = counted(left_out.len(), "service");
    let _infallible = writeln!(text, "# Left out: {count} ({})", schemes.join(", "));
    for (service, reason) in left_out.iter().filter(|(it, _)| it.as_str().starts_with("k8s:")) {
        let _infallible = writeln!(text, "# {}: {reason}", comment(service));
    }
}

/// A name as part of a comment: one line, whatever it holds.
fn comment(name: &impl ToString) -> String {
    safe(&name.to_string())
}
