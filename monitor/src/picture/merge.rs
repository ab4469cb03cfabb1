//! What is drawn as one: which edges' ends share a node, so that the picture stays readable. Knows
//! nothing of how anything looks.

use std::collections::{BTreeMap, BTreeSet};

use monitor_core::edge::Peer;
use monitor_core::engine::{EdgeView, Standing};
use monitor_core::ids::ServiceName;
use monitor_core::pattern::Pattern;

/// More nodes than this are not read but searched.
const NODES: usize = 40;
/// More lines than this hide each other.
const LINKS: usize = 50;
/// So many peers outside keep their names for what is pending or forbidden with them.
const URGENT: usize = 12;
/// With fewer groups, a group drawn as one node would say nothing any more: it keeps its services
/// with the most edges, and the others are one node.
const MANY_GROUPS: usize = 6;

/// Where the end of an edge is drawn. The order is the picture's: callers, services, called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Spot<'a> {
    /// Somebody who is no service, as a client.
    Caller(&'a Peer),
    /// All who call into one group and are no services.
    Callers(&'a str),
    Service(&'a ServiceName),
    /// A group's services that are not drawn one by one.
    Rest(&'a str),
    /// All services of a group.
    Group(&'a str),
    /// The smaller groups of a scheme.
    More(&'a str),
    /// Somebody who is no service, as a server.
    Called(&'a Peer),
    /// All whom one group calls and who are no services.
    AllCalled(&'a str),
}

/// The edges by where they are drawn.
#[derive(Debug, Default)]
pub(crate) struct Merged<'a> {
    /// What each node stands for.
    pub(crate) spots: BTreeMap<Spot<'a>, BTreeSet<&'a Peer>>,
    pub(crate) links: BTreeMap<(Spot<'a>, Spot<'a>, Standing), Vec<&'a EdgeView>>,
    /// Around nodes that stand for many services: who calls them from outside, and whom they call
    /// there. They are no nodes of their own.
    pub(crate) callers: BTreeMap<Spot<'a>, BTreeSet<&'a Peer>>,
    pub(crate) called: BTreeMap<Spot<'a>, BTreeSet<&'a Peer>>,
}

/// The scheme of a group's services.
fn scheme_of(group: &str) -> &str {
    group.split(':').next().unwrap_or(group)
}

/// The group a service belongs to: `compose:shop`, `k8s:prod`, `user:1000`, `systemd`.
pub(crate) fn group_of(service: &ServiceName) -> &str {
    let name = service.as_str();
    let scheme = service.scheme();
    match (scheme, name.find('/')) {
        ("compose" | "k8s" | "nomad" | "user", Some(slash)) => &name[..slash],
        _ => scheme,
    }
}

/// What a group's services match: what to write after `--expand`.
pub(crate) fn pattern_of(group: &str) -> String {
    if group.contains(':') { format!("{group}/**") } else { format!("{group}:**") }
}

/// Whether an edge asks for a person's attention.
pub(crate) const fn is_urgent(standing: Standing) -> bool {
    match standing {
        Standing::Pending | Standing::Forbidden => true,
        Standing::Allowed | Standing::Unjudged => false,
    }
}

/// Merges as little as it takes.
pub(crate) fn merge<'a>(views: &[&'a EdgeView], expand: &[Pattern]) -> Merged<'a> {
    let mut plan = Plan::new(views, expand);
    let mut merged = plan.carry_out(views);
    while excess(&merged) > 0 && plan.merge_more(excess(&merged)) {
        merged = plan.carry_out(views);
    }
    merged
}

/// By how many nodes (or as good as) the picture is too large.
fn excess(merged: &Merged<'_>) -> usize {
    let links = merged.links.keys().filter(|(from, to, _)| from != to).count();
    let nodes = merged.spots.len().saturating_sub(NODES);
    nodes.max(links.saturating_sub(LINKS).div_ceil(8))
}

/// What is to be merged.
struct Plan<'a, 'e> {
    groups: BTreeMap<&'a str, Members<'a>>,
    /// Patterns of what must not be merged.
    expand: &'e [Pattern],
    outside: Outside,
    /// Those who are no services, with edges that ask for attention.
    urgent: BTreeSet<&'a Peer>,
    collapsed: BTreeSet<&'a str>,
    folded: BTreeSet<&'a ServiceName>,
    more: BTreeSet<&'a str>,
}

#[derive(Default)]
struct Members<'a> {
    /// Each with how many of its edges ask for attention, and how many it has.
    services: BTreeMap<&'a ServiceName, (usize, usize)>,
    expanded: bool,
}

/// How those who are no services are drawn.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outside {
    Each,
    Merged,
}

impl<'a, 'e> Plan<'a, 'e> {
    fn new(views: &[&'a EdgeView], expand: &'e [Pattern]) -> Self {
        let mut groups: BTreeMap<&str, Members<'_>> = BTreeMap::new();
        let mut urgent: BTreeSet<&Peer> = BTreeSet::new();
        for view in views {
            let asks = is_urgent(view.standing);
            for end in [&view.edge.client, &view.edge.server] {
                let Some(service) = end.service() else {
                    urgent.extend(asks.then_some(end));
                    continue;
                };
                let members = groups.entry(group_of(service)).or_default();
                let (asking, edges) = members.services.entry(service).or_default();
                *asking += usize::from(asks);
                *edges += 1;
                members.expanded |= expand.iter().any(|it| it.matches(service.as_str()));
            }
        }
        Self {
            groups,
            expand,
            outside: Outside::Each,
            urgent: if urgent.len() > URGENT { BTreeSet::new() } else { urgent },
            collapsed: BTreeSet::new(),
            folded: BTreeSet::new(),
            more: BTreeSet::new(),
        }
    }

    /// Takes the next step towards a smaller picture; false where none is left.
    fn merge_more(&mut self, excess: usize) -> bool {
        if self.outside == Outside::Each {
            self.outside = Outside::Merged;
            return true;
        }
        let few = self.groups.len() < MANY_GROUPS;
        (if few { self.fold(excess) } else { self.collapse() }) || self.join_groups(excess)
    }

    /// Makes one node of the largest group.
    fn collapse(&mut self) -> bool {
        let open = self.groups.iter().filter(|(group, members)| {
            !members.expanded && members.services.len() > 1 && !self.collapsed.contains(*group)
        });
        // The first of equals.
        let largest = open.rev().max_by_key(|(_, members)| members.services.len());
        largest.map(|(group, _)| *group).is_some_and(|group| self.collapsed.insert(group))
    }

    /// Takes the services with the fewest edges out of the largest group, at most `excess`.
    fn fold(&mut self, excess: usize) -> bool {
        let unfolded = |members: &Members<'a>| -> Vec<&'a ServiceName> {
            let mut open: Vec<_> =
                members.services.iter().filter(|(it, _)| !self.folded.contains(*it)).collect();
            open.sort_by_key(|(name, counts)| (**counts, std::cmp::Reverse(**name)));
            open.into_iter().map(|(name, _)| *name).collect()
        };
        let open = self.groups.values().filter(|it| !it.expanded).map(unfolded);
        let Some(largest) = open.max_by_key(Vec::len).filter(|open| open.len() > 1) else {
            return false;
        };
        // A few at a time: links go with them, so that fewer may do. One alone would stay a node.
        let few = excess.div_ceil(2).clamp(2, largest.len());
        self.folded.extend(largest.into_iter().take(few));
        true
    }

    /// Makes one node of the smaller groups of the scheme that has most, a few at a time.
    fn join_groups(&mut self, excess: usize) -> bool {
        let mut schemes: BTreeMap<&str, Vec<(usize, &'a str)>> = BTreeMap::new();
        for (group, members) in &self.groups {
            if !members.expanded && !self.more.contains(group) && group.contains(':') {
                let size = members.services.len();
                schemes.entry(scheme_of(group)).or_default().push((size, group));
            }
        }
        let most = schemes.into_values().max_by_key(Vec::len).filter(|groups| groups.len() > 1);
        let Some(mut groups) = most else {
            return false;
        };
        groups.sort_unstable();
        let few = excess.div_ceil(2).clamp(2, groups.len());
        self.more.extend(groups.into_iter().take(few).map(|(_, group)| group));
        true
    }

    fn carry_out(&self, views: &[&'a EdgeView]) -> Merged<'a> {
        let around = self.around(views);
        let mut merged = Merged::default();
        for view in views {
            let (client, server) = (&view.edge.client, &view.edge.server);
            let from = self.spot(client, server, Spot::Caller, Spot::Callers, &around);
            let to = self.spot(server, client, Spot::Called, Spot::AllCalled, &around);
            let expected = !is_urgent(view.standing);
            match (from, to) {
                // What many services do outside is a line in their node.
                (from @ (Spot::Group(_) | Spot::More(_)), Spot::AllCalled(_)) if expected => {
                    merged.spots.entry(from).or_default().insert(client);
                    merged.called.entry(from).or_default().insert(server);
                }
                (Spot::Callers(_), to @ (Spot::Group(_) | Spot::More(_))) if expected => {
                    merged.spots.entry(to).or_default().insert(server);
                    merged.callers.entry(to).or_default().insert(client);
                }
                (from, to) => {
                    merged.spots.entry(from).or_default().insert(client);
                    merged.spots.entry(to).or_default().insert(server);
                    merged.links.entry((from, to, view.standing)).or_default().push(view);
                }
            }
        }
        merged
    }

    /// Which outsiders are drawn as one; where it would be one alone, it keeps its name.
    fn around(&self, views: &[&'a EdgeView]) -> BTreeMap<Spot<'a>, BTreeSet<&'a Peer>> {
        let mut around: BTreeMap<Spot<'a>, BTreeSet<&'a Peer>> = BTreeMap::new();
        if self.outside == Outside::Merged {
            for view in views {
                let (client, server) = (&view.edge.client, &view.edge.server);
                if let Some(spot) = self.outsiders(client, server, Spot::Callers) {
                    around.entry(spot).or_default().insert(client);
                }
                if let Some(spot) = self.outsiders(server, client, Spot::AllCalled) {
                    around.entry(spot).or_default().insert(server);
                }
            }
        }
        around.retain(|_, peers| peers.len() > 1);
        around
    }

    /// Where `peer` is drawn, the other end of whose edge is `service`, if it is none itself.
    fn spot(
        &self,
        peer: &'a Peer,
        service: &'a Peer,
        alone: fn(&'a Peer) -> Spot<'a>,
        together: fn(&'a str) -> Spot<'a>,
        around: &BTreeMap<Spot<'a>, BTreeSet<&'a Peer>>,
    ) -> Spot<'a> {
        if let Some(service) = peer.service() {
            return self.place(service);
        }
        let spot = self.outsiders(peer, service, together);
        spot.filter(|spot| around.contains_key(spot)).unwrap_or_else(|| alone(peer))
    }

    fn place(&self, service: &'a ServiceName) -> Spot<'a> {
        let group = group_of(service);
        if self.more.contains(group) {
            Spot::More(scheme_of(group))
        } else if self.collapsed.contains(group) {
            Spot::Group(group)
        } else if self.folded.contains(service) {
            Spot::Rest(group)
        } else {
            Spot::Service(service)
        }
    }

    /// The node of all outsiders around a service, where `peer` may be merged into it.
    fn outsiders(
        &self,
        peer: &'a Peer,
        service: &'a Peer,
        together: fn(&'a str) -> Spot<'a>,
    ) -> Option<Spot<'a>> {
        let group = group_of(service.service()?);
        let mergeable = match peer {
            Peer::Service(_) | Peer::World | Peer::Socket(_) | Peer::Nobody => false,
            Peer::Name(_) | Peer::Network(_) | Peer::Address(_) => !self.urgent.contains(peer),
        };
        let shown = || self.expand.iter().any(|it| it.matches(&peer.to_string()));
        let place = if self.more.contains(group) { scheme_of(group) } else { group };
        (mergeable && !shown()).then(|| together(place))
    }
}
