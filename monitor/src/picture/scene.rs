//! What a picture shows, before anybody asks how: nodes in groups, links between them, and what must
//! be said below. The words in it are the same in every language.

use std::collections::{BTreeMap, BTreeSet};

use monitor_core::edge::{Peer, Port};
use monitor_core::engine::{EdgeView, Standing};
use monitor_core::flow::Outcome;
use monitor_core::ids::ServiceName;
use monitor_core::pattern::Pattern;

use crate::picture::merge::{self, Merged, Spot, group_of, is_urgent, pattern_of};
use crate::wording::{counted, safe, shortened};

/// Longer names are shortened in the middle.
const NAME: usize = 34;
/// More ports than these are counted.
const FEW_PORTS: usize = 2;
/// So many of the names that a node stands for are told.
const TOLD: usize = 12;

/// All that is drawn.
#[derive(Debug, Default)]
pub(crate) struct Scene {
    pub(crate) title: String,
    pub(crate) groups: Vec<Group>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) links: Vec<Link>,
    /// What stands below the picture.
    pub(crate) notes: Vec<String>,
}

/// Nodes within one frame.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) title: String,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    /// Into [`Scene::groups`].
    pub(crate) group: Option<usize>,
    /// The whole name, or all names.
    pub(crate) full: String,
    /// A small line above the label: what kind of thing it is.
    pub(crate) above: Option<String>,
    pub(crate) label: String,
    /// Small lines below it.
    pub(crate) below: Vec<(Standing, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Service,
    /// More than one service.
    Services,
    /// No service: a name, an address, a network, the world.
    Outside,
}

/// All edges of one standing between two nodes.
#[derive(Debug)]
pub(crate) struct Link {
    /// Both into [`Scene::nodes`].
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) standing: Standing,
    pub(crate) label: String,
}

/// What is said of a standing where colour is not enough.
pub(crate) const fn word(standing: Standing) -> &'static str {
    match standing {
        Standing::Allowed => "allowed",
        Standing::Pending => "pending",
        Standing::Forbidden => "forbidden",
        Standing::Unjudged => "not judged",
    }
}

impl Scene {
    pub(crate) fn new(views: &[EdgeView], expand: &[Pattern]) -> Self {
        let drawn: Vec<&EdgeView> = views.iter().collect();
        let merged = merge::merge(&drawn, expand);
        let mut scene = Self { title: title(&drawn), ..Self::default() };
        scene.notes = notes(&merged);
        let frames = frames(&merged);
        for (spot, peers) in &merged.spots {
            let frame = group(spot).filter(|group| frames.contains(group));
            let index = frame.map(|frame| scene.frame(frame));
            scene.nodes.push(node(spot, peers, index));
        }
        let index: BTreeMap<&Spot<'_>, usize> =
            merged.spots.keys().enumerate().map(|(index, spot)| (spot, index)).collect();
        let common = common_ports(&merged);
        for (spot, ports) in &common {
            scene.nodes[index[spot]].below.push((Standing::Allowed, list(ports)));
        }
        for (what, around) in [("called by", &merged.callers), ("calls", &merged.called)] {
            for (spot, peers) in around {
                let line = format!("{what} {}", outsiders(peers));
                scene.nodes[index[spot]].below.push((Standing::Allowed, line));
            }
        }
        for ((from, to, standing), views) in &merged.links {
            if from == to {
                let within = match from {
                    Spot::Service(_) => format!("↻ {}", label(views, *standing, None)),
                    _ => format!("{} within", edges(views, *standing)),
                };
                scene.nodes[index[from]].below.push((*standing, within));
            } else {
                let said = common.get(to).filter(|_| !is_urgent(*standing));
                let label = label(views, *standing, said);
                let (from, to) = (index[from], index[to]);
                scene.links.push(Link { from, to, standing: *standing, label });
            }
        }
        scene
    }

    fn frame(&mut self, title: &str) -> usize {
        let known = self.groups.iter().position(|group| group.title == title);
        known.unwrap_or_else(|| {
            self.groups.push(Group { title: title.to_owned() });
            self.groups.len() - 1
        })
    }
}

fn title(views: &[&EdgeView]) -> String {
    let ends = views.iter().flat_map(|view| [&view.edge.client, &view.edge.server]);
    let services: BTreeSet<&ServiceName> = ends.filter_map(Peer::service).collect();
    let services = counted(services.len(), "service");
    format!("{services} · {}", counted(views.len(), "edge"))
}

/// The group in whose frame a node may stand.
fn group<'a>(spot: &Spot<'a>) -> Option<&'a str> {
    match spot {
        Spot::Service(service) => Some(group_of(service)),
        Spot::Rest(group) => Some(group),
        Spot::Group(_) | Spot::More(_) => None,
        Spot::Caller(_) | Spot::Callers(_) | Spot::Called(_) | Spot::AllCalled(_) => None,
    }
}

/// A frame around one node would say no more than a line above its name.
fn frames<'a>(merged: &Merged<'a>) -> BTreeSet<&'a str> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for group in merged.spots.keys().filter_map(group) {
        *counts.entry(group).or_default() += 1;
    }
    counts.into_iter().filter(|&(_, count)| count > 1).map(|(group, _)| group).collect()
}

fn node(spot: &Spot<'_>, peers: &BTreeSet<&Peer>, frame: Option<usize>) -> Node {
    let size = peers.len();
    let of = |kind, above: Option<String>, label: String, below: Option<String>| {
        let below = below.into_iter().map(|text| (Standing::Allowed, text)).collect();
        let short = |text: String| shortened(&safe(&text), NAME);
        let (above, label) = (above.map(short), short(label));
        Node { kind, group: frame, full: full(peers), above, label, below }
    };
    match spot {
        Spot::Service(service) => {
            let (above, label) = service_lines(service, frame);
            of(Kind::Service, above, label, None)
        }
        Spot::Rest(group) => {
            let above = frame.is_none().then(|| (*group).to_owned());
            of(Kind::Services, above, counted(size, "more service"), None)
        }
        Spot::Group(group) => {
            of(Kind::Services, None, (*group).to_owned(), Some(counted(size, "service")))
        }
        Spot::More(scheme) => {
            let groups: BTreeSet<&str> =
                peers.iter().filter_map(|peer| peer.service()).map(group_of).collect();
            let more = counted(groups.len(), &format!("more {}", kind_of_group(scheme)));
            of(Kind::Services, Some((*scheme).to_owned()), more, Some(counted(size, "service")))
        }
        Spot::Caller(peer) | Spot::Called(peer) => {
            let name = peer.to_string();
            match name.split_once(':') {
                Some((scheme, rest)) => {
                    of(Kind::Outside, Some(scheme.to_owned()), rest.to_owned(), None)
                }
                None => of(Kind::Outside, None, name, None),
            }
        }
        Spot::Callers(group) | Spot::AllCalled(group) => {
            of(Kind::Outside, Some(format!("outside {group}")), outsiders(peers), None)
        }
    }
}

/// The line above a service's name, and the name without what the frame or that line says.
fn service_lines(service: &ServiceName, frame: Option<usize>) -> (Option<String>, String) {
    let (name, group) = (service.as_str(), group_of(service));
    let rest = name.get(group.len() + 1..).unwrap_or_default();
    let mut above: Vec<&str> = if frame.is_none() { vec![group] } else { Vec::new() };
    let label = match rest.split_once('/') {
        Some((kind, label)) if service.scheme() == "k8s" => {
            above.push(kind);
            label
        }
        _ => rest,
    };
    let above = (!above.is_empty()).then(|| above.join(" "));
    (above, label.to_owned())
}

fn kind_of_group(scheme: &str) -> &'static str {
    match scheme {
        "compose" => "project",
        "k8s" => "namespace",
        "nomad" => "job",
        "user" => "user",
        _ => "group",
    }
}

/// `3 names · 12 addresses`
fn outsiders(peers: &BTreeSet<&Peer>) -> String {
    let count = |of: fn(&Peer) -> bool| peers.iter().filter(|peer| of(peer)).count();
    let parts = [
        (count(|peer| matches!(peer, Peer::Name(_))), "name"),
        (count(|peer| matches!(peer, Peer::Network(_))), "network"),
        (count(|peer| matches!(peer, Peer::Address(_))), "address"),
    ];
    let parts = parts.iter().filter(|(count, _)| *count > 0);
    parts.map(|(count, what)| counted(*count, what)).collect::<Vec<_>>().join(" · ")
}

fn full(peers: &BTreeSet<&Peer>) -> String {
    let mut names: Vec<String> = peers.iter().take(TOLD).map(ToString::to_string).collect();
    if peers.len() > TOLD {
        names.push(format!("{} more", peers.len() - TOLD));
    }
    safe(&names.join(", "))
}

/// `14 edges`, `1 pending edge`
fn edges(views: &[&EdgeView], standing: Standing) -> String {
    let what =
        if is_urgent(standing) { format!("{} edge", word(standing)) } else { "edge".to_owned() };
    counted(views.len(), &what)
}

/// The ports of servers that are called on the same ones by all: said once, at the server, they need
/// not be said at each line.
fn common_ports<'a>(merged: &Merged<'a>) -> BTreeMap<Spot<'a>, BTreeSet<Port>> {
    let mut common: BTreeMap<Spot<'a>, Option<BTreeSet<Port>>> = BTreeMap::new();
    for ((from, to, standing), views) in &merged.links {
        if from == to || is_urgent(*standing) {
            continue;
        }
        let ports = ports(views);
        let known = common.entry(*to).or_insert_with(|| Some(ports.clone()));
        if ports.len() > FEW_PORTS || known.as_ref() != Some(&ports) {
            *known = None;
        }
    }
    common.into_iter().filter_map(|(spot, ports)| Some((spot, ports?))).collect()
}

fn ports(views: &[&EdgeView]) -> BTreeSet<Port> {
    views.iter().map(|view| view.edge.port()).collect()
}

fn list(ports: &BTreeSet<Port>) -> String {
    ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// `8080/tcp`, `pending 443/tcp refused`, `5432/tcp · 14 edges`; nothing where `said` holds the ports
/// and there is no more to say.
fn label(views: &[&EdgeView], standing: Standing, said: Option<&BTreeSet<Port>>) -> String {
    let ports = ports(views);
    let mut parts = Vec::new();
    if ports.len() <= FEW_PORTS && said != Some(&ports) {
        parts.push(list(&ports));
    }
    if ports.len() > FEW_PORTS || ports.len() < views.len() {
        parts.push(counted(views.len(), "edge"));
    }
    let mut words = vec![parts.join(" · ")];
    if is_urgent(standing) {
        words.insert(0, word(standing).to_owned());
    }
    let outcomes: BTreeSet<Outcome> = views.iter().map(|view| view.outcome).collect();
    match outcomes.first() {
        Some(Outcome::Established | Outcome::Sent) | None => {}
        Some(outcome) if outcomes.len() == 1 => words.push(outcome.to_string()),
        Some(_) => {}
    }
    words.retain(|word| !word.is_empty());
    words.join(" ")
}

/// Says what was merged, and how to see it.
fn notes(merged: &Merged<'_>) -> Vec<String> {
    let mut services: Vec<&str> = Vec::new();
    let mut outside = !merged.callers.is_empty() || !merged.called.is_empty();
    for spot in merged.spots.keys() {
        match spot {
            Spot::Rest(group) | Spot::Group(group) | Spot::More(group) => services.push(group),
            Spot::Callers(_) | Spot::AllCalled(_) => outside = true,
            Spot::Caller(_) | Spot::Called(_) | Spot::Service(_) => {}
        }
    }
    let mut notes = Vec::new();
    if let Some(first) = services.first() {
        let pattern = pattern_of(first);
        notes.push(format!("Merged to stay readable: --expand '{pattern}' shows its services"));
    }
    if outside {
        notes.push("Outside peers are counted: --expand 'dns:**' and 'ip:**' show them".to_owned());
    }
    notes
}
